import { describe, expect, it } from 'vitest';
import { Client } from '../src/client.ts';
import { CliError, EXIT, errorLines } from '../src/exit.ts';
import { CLUSTER, controllerOf, json, planView, UNKNOWN_RUN } from './fixtures.ts';

const caught = (promise: Promise<unknown>): Promise<CliError> =>
  promise.then(
    () => expect.fail('it must be refused'),
    (error: unknown) => (error instanceof CliError ? error : expect.fail(String(error))),
  );

describe('the client', () => {
  it('sends the token and a key for each write, and the key again when an answer was lost', async () => {
    let lost = 0;
    await using controller = await controllerOf({
      'POST /v1/plans': (response, asked) => {
        lost += 1;
        if (lost === 1) response.destroy();
        else json(planView(), 201)(response, asked);
      },
    });
    const client = new Client({ server: controller.url, token: 'kwt_secret' });
    const view = await client.createPlan({ cluster: 'prod-east', to: '3.1.0' });
    expect(view.id).toBe('plan-1');
    const [first, second] = controller.asked;
    expect(first?.headers.authorization).toBe('Bearer kwt_secret');
    expect(first?.headers['idempotency-key']).toMatch(/^[0-9a-f-]{36}$/);
    expect(second?.headers['idempotency-key']).toBe(first?.headers['idempotency-key']);
    expect(JSON.parse(second?.body ?? '')).toEqual({ cluster: 'prod-east', to: '3.1.0' });
  });

  it('reads lists to their last page', async () => {
    await using controller = await controllerOf({
      'GET /v1/clusters': (response, asked) => {
        const isLast = asked.path.includes('cursor=two');
        json(isLast ? { items: [{ ...CLUSTER, name: 'b' }] } : { items: [CLUSTER], cursor: 'two' })(response, asked);
      },
    });
    const names = (await new Client({ server: controller.url }).clusters()).map(({ name }) => name);
    expect(names).toEqual(['prod-east', 'b']);
  });

  it.each([
    [400, EXIT.refused],
    [401, EXIT.error],
    [404, EXIT.refused],
    [409, EXIT.refused],
    [422, EXIT.refused],
    [500, EXIT.error],
    [503, EXIT.error],
  ])('turns a problem of status %i into the exit code %i', async (status, exitCode) => {
    await using controller = await controllerOf({ 'GET /v1/runs/nope': json({ ...UNKNOWN_RUN, status }, status) });
    expect((await caught(new Client({ server: controller.url }).run('nope'))).exitCode).toBe(exitCode);
  });

  it('prints what happened, where, in whose words, the code and what to do', async () => {
    const problem = {
      ...UNKNOWN_RUN,
      code: 'DISK_FULL',
      status: 422,
      node: 'db-3',
      detail: 'no space',
      words: 'df: 100%',
      remedy: 'Free it.',
    };
    await using controller = await controllerOf({ 'GET /v1/runs/x': json(problem, 422) });
    const error = await caught(new Client({ server: controller.url }).run('x'));
    expect(errorLines(error)).toEqual([
      'kwfleet: no space',
      '  where   db-3',
      '  said    df: 100%',
      '  code    DISK_FULL',
      '  next    Free it.',
    ]);
  });

  it('says so when there is no controller, with the address and what to do', async () => {
    const controller = await controllerOf({});
    await controller[Symbol.asyncDispose]();
    const error = await caught(new Client({ server: controller.url }).runs());
    expect(error.message).toBe(
      `The controller at ${controller.url} does not answer: the connection was refused; nothing listens there.`,
    );
    expect(error.exitCode).toBe(EXIT.error);
    expect(error.where.remedy).toContain('KWFLEET_SERVER');
  });

  it('gives up on a controller that does not answer', async () => {
    await using controller = await controllerOf({ 'GET /v1/runs': () => {} });
    const client = new Client({ server: controller.url, answerTimeoutMs: 20 });
    expect((await caught(client.runs())).message).toContain('no answer in time');
  });

  it('does not take another server for a controller', async () => {
    await using controller = await controllerOf({
      'GET /v1/runs': (response) => void response.writeHead(200, { 'content-type': 'text/html' }).end('<h1>hello</h1>'),
      'GET /v1/packages': (response) => void response.writeHead(502).end('Bad Gateway'),
    });
    const client = new Client({ server: controller.url });
    expect((await caught(client.runs())).message).toContain('answers with text/html');
    expect((await caught(client.packages())).message).toContain('answered 502');
  });

  it.each(['nonsense', 'ftp://x', 'http://me:secret@host'])('refuses the address %s', (server) => {
    expect(() => new Client({ server })).toThrow(CliError);
  });
});
