import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { writeDuration } from '@kwfleet/core';
import type { Command } from 'commander';
import { describe, expect, it } from 'vitest';
import { parseBackup, parseDuration } from '../src/arguments.ts';
import { Context } from '../src/context.ts';
import { EXIT } from '../src/exit.ts';
import { createProgram, main } from '../src/main.ts';
import {
  CLUSTER,
  controllerOf,
  eventText,
  eventView,
  HOLD,
  json,
  planView,
  runView,
  summaryOf,
  UNKNOWN_RUN,
  Written,
} from './fixtures.ts';

const BIN = fileURLToPath(new URL('../bin/kwfleet.mjs', import.meta.url));

type Ended = { code: number; out: string; err: string };

/** The real program, in a process of its own. */
const kwfleet = (args: readonly string[], env: Record<string, string> = {}): Promise<Ended> =>
  new Promise((resolve) => {
    const given = { env: { PATH: process.env.PATH, LANG: 'C.UTF-8', ...env } };
    const child = execFile(process.execPath, [BIN, ...args], given, (error, out, err) => {
      resolve({ code: error === null ? 0 : Number(error.code), out, err });
    });
    child.stdin?.end();
  });

/** The same program within this process. */
async function inProcess(args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Ended> {
  const [out, err] = [new Written(), new Written()];
  const code = await main(args, { env, out, err });
  return { code, out: out.text, err: err.text };
}

const namesOf = (command: Command, path: readonly string[]): string[][] => [
  path as string[],
  ...command.commands.flatMap((sub) => namesOf(sub, [...path, sub.name()])),
];
const COMMANDS = namesOf(createProgram(new Context({}, new Written(), new Written())), []);

describe('the command line', () => {
  it.each(COMMANDS.map((words) => [words.join(' '), words] as const))(
    'explains "%s" with an example',
    async (_, words) => {
      const { code, out } = await inProcess([...words, '--help']);
      expect(code).toBe(EXIT.done);
      expect(out).toMatch(/Examples?:\n {2}\$ kwfleet/);
    },
  );

  it('has the commands that the contract names', () => {
    const names = COMMANDS.map((words) => words.join(' '));
    const promised = [
      'demo',
      'controller',
      'agent',
      'clusters',
      'nodes',
      'package add',
      'packages',
      'plan',
      'upgrade',
      'runs',
    ];
    const steering = ['show', 'watch', 'approve', 'pause', 'resume', 'retry', 'abort', 'report'].map(
      (word) => `run ${word}`,
    );
    const access = ['tokens', 'token create', 'token revoke', 'enrollment create'];
    expect(names).toEqual(expect.arrayContaining([...promised, ...steering, ...access]));
  });

  it.each([
    [['plan', 'x'], /required option '--to/],
    [['plan', 'x', '--to', '3.1.0', '--soak', '5x'], /Write a duration/],
    [['plan', 'x', '--to', '3.1.0', '--backup', 'yes'], /attested:WHERE/],
    [['upgrad'], /Did you mean upgrade/],
    [['runs', '--token', 'secret'], /unknown option '--token'/],
    [['upgrade', 'x', '--to', '3.1.0'], /give --yes/],
  ])('refuses %j with 2', async (args, words) => {
    const { code, err } = await inProcess(args);
    expect(code).toBe(EXIT.refused);
    expect(err).toMatch(words);
  });

  it('reads and writes durations and backups', () => {
    expect(['500ms', '30s', '5m', '1.5h', '2d'].map(parseDuration)).toEqual([
      500, 30_000, 300_000, 5_400_000, 172_800_000,
    ]);
    expect([500, 90_000, 300_000, 7_200_000].map(writeDuration)).toEqual(['500ms', '90s', '5m', '2h']);
    expect(parseBackup('attested:s3://a:b')).toEqual({ policy: 'attested', where: 's3://a:b' });
    expect(() => parseBackup('none: ')).toThrow(/REASON/);
  });
});

describe('the real program', () => {
  it('prints its version', async () => {
    expect(await kwfleet(['--version'])).toEqual({ code: 0, out: '0.1.0\n', err: '' });
  });

  it('lists the clusters, as a table without control characters or as the API has them', async () => {
    await using controller = await controllerOf({ 'GET /v1/clusters': json({ items: [CLUSTER] }) });
    const env = { KWFLEET_SERVER: controller.url, KWFLEET_TOKEN: 'kwt_secret' };
    const { code, out } = await kwfleet(['clusters'], env);
    expect(code).toBe(0);
    expect(out.split('\n').slice(0, 2)).toEqual([
      'CLUSTER    TOPOLOGY       VERSION  NODES  STATE       RUN',
      'prod-east  multi-replica  3.0.0    1      ▲ degraded',
    ]);
    expect(controller.asked[0]?.headers.authorization).toBe('Bearer kwt_secret');
    const asJson = await kwfleet(['clusters', '--json', '--server', controller.url]);
    expect(JSON.parse(asJson.out)).toEqual({ items: [CLUSTER] });
  });

  it('ends with 2 when a check blocks a plan', async () => {
    await using controller = await controllerOf({ 'POST /v1/plans': json(planView({ blocked: true }), 201) });
    const { code, out } = await kwfleet(['plan', 'prod-east', '--to', '3.1.0'], { KWFLEET_SERVER: controller.url });
    expect(code).toBe(2);
    expect(out).toContain('Nothing was touched');
  });

  it('ends with 2 for what does not exist, and with 1 when nobody answers', async () => {
    const controller = await controllerOf({ 'GET /v1/runs/nope': json(UNKNOWN_RUN, 404) });
    const env = { KWFLEET_SERVER: controller.url };
    const missing = await kwfleet(['run', 'show', 'nope'], env);
    expect(missing).toEqual({
      code: 2,
      out: '',
      err: 'kwfleet: there is no run nope\n  code    RUN_UNKNOWN\n  next    List the runs with `kwfleet runs`.\n',
    });
    await controller[Symbol.asyncDispose]();
    expect((await kwfleet(['runs'], env)).code).toBe(1);
  });

  it('starts the very plan it showed and follows it to its hold: 3', async () => {
    const view = runView(3, {}, { status: 'held', hold: HOLD });
    const held = eventView(2, 'run-held', 'held on db-2', { event: { hold: HOLD } });
    const plan = planView();
    await using controller = await controllerOf({
      'POST /v1/plans': json(plan, 201),
      'POST /v1/runs': json(summaryOf(runView(3, {})), 201),
      'GET /v1/runs/run-1': json(view),
      'GET /v1/runs/run-1/events': (response) => {
        response.writeHead(200, { 'content-type': 'text/event-stream' }).write(eventText(held));
      },
    });
    const args = ['upgrade', 'prod-east', '--to', '3.1.0', '--yes', '--watch'];
    const { code, out } = await kwfleet(args, { KWFLEET_SERVER: controller.url });
    expect(code).toBe(3);
    const started = controller.asked.find(({ method, path }) => method === 'POST' && path === '/v1/runs');
    expect(JSON.parse(started?.body ?? '')).toEqual({ plan: 'plan-1', hash: plan.hash });
    expect(out).toContain(`hash ${plan.hash}`);
    expect(out).toContain('kwfleet run retry run-1');
    expect(out).not.toMatch(/[\u0000-\u0009\u000b-\u001f]/);
  });
});
