import { readFile, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import * as grpc from '@grpc/grpc-js';
import type { Page, PlanView, Problem, RunEventView, RunSummary } from '@kwfleet/core';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { pkg } from '../../core/test/builders.ts';
import { type Controller, controllerConfig, startController } from '../src/index.ts';
import { type Database, openDatabase } from '../src/store/database.ts';
import { insertPackage } from '../src/store/packages.ts';
import { Agent, HEARTBEAT_MS } from './fake-agent.ts';
import { freshReport, log, temporaryDirectory, until, urlOf, usePostgres } from './support.ts';

const postgres = usePostgres();
let controller: Controller;
let database: Database;
let directory: string;
let client: grpc.Client;
const agents: Agent[] = [];

async function start(rest: object = { port: 0 }) {
  const settings = await postgres.settings();
  const data_dir = await temporaryDirectory();
  const config = controllerConfig({
    data_dir,
    rest,
    grpc: { port: 0, insecure: true },
    database: { url: urlOf(settings) },
    heartbeat_ms: HEARTBEAT_MS,
    log_level: 'silent',
  });
  return { settings, directory: data_dir, controller: await startController(config) };
}

beforeAll(async () => {
  const started = await start().catch(() => undefined);
  if (started === undefined) return;
  ({ controller, directory } = started);
  database = openDatabase(started.settings, log);
  await insertPackage(database, pkg(), 'test');
  client = new grpc.Client(controller.grpcAddress, grpc.credentials.createInsecure());
});
afterEach(() => {
  for (const agent of agents.splice(0)) agent.close();
});
afterAll(async () => {
  client?.close();
  await database?.close();
  await controller?.close();
  if (directory) await rm(directory, { recursive: true, force: true });
});

async function ask(path: string, init: RequestInit & { json?: unknown; url?: string } = {}) {
  const { json, url = controller.restUrl, headers, ...rest } = init;
  const withBody = json === undefined ? {} : { 'content-type': 'application/json' };
  return fetch(`${url}${path}`, {
    signal: AbortSignal.timeout(60_000),
    ...(json !== undefined && { method: 'POST', body: JSON.stringify(json) }),
    ...rest,
    headers: { ...withBody, ...(headers as Record<string, string>) },
  });
}
const body = async <T>(answer: Promise<Response>) => (await (await answer).json()) as T;

/** Three agents of one healthy cluster; `size` more nodes than that are missing. */
async function cluster(id: string, size = 3): Promise<void> {
  for (const i of [1, 2, 3]) {
    const agent = new Agent(client).hello(`${id}-n${i}`).beating();
    agents.push(agent);
    await agent.got('welcome');
    agent.reporting(() => freshReport(id, i, size));
  }
  await until('the cluster is known', async () => {
    const { nodes = [] } = await body<{ nodes?: { state: string }[] }>(ask(`/v1/clusters/${id}`));
    return nodes.filter(({ state }) => state === 'healthy').length === 3;
  });
}

const backup = { policy: 'none', reason: 'a test' };
const planOf = (id: string, options: object = { backup }) =>
  body<PlanView>(ask('/v1/plans', { json: { cluster: id, to: '3.1.0', options } }));
const startOf = ({ id, hash }: PlanView) => ask('/v1/runs', { json: { plan: id, hash } });

describe('every refusal is a problem document', () => {
  it.each([
    ['GET', '/v1/nowhere', undefined, 404, 'NOT_FOUND', '/v1/nowhere'],
    ['GET', '/v1/clusters/none', undefined, 404, 'CLUSTER_UNKNOWN', 'none'],
    ['GET', '/v1/runs/none', undefined, 404, 'RUN_UNKNOWN', 'none'],
    ['GET', '/v1/runs?limit=0', undefined, 400, 'BAD_REQUEST', 'limit'],
    ['GET', '/v1/runs?cursor=x', undefined, 400, 'BAD_REQUEST', 'cursor'],
    ['POST', '/v1/plans', '{"cluster":', 400, 'BAD_REQUEST', 'JSON'],
    ['POST', '/v1/plans', '{"to":"3.1.0"}', 400, 'BAD_REQUEST', 'body.cluster'],
    ['POST', '/v1/plans', '{"cluster":"c","to":"3.1.0","x":1}', 400, 'BAD_REQUEST', 'x'],
    ['POST', '/v1/plans', '{"cluster":"c","to":"3.1.0","options":{"soakMs":-1}}', 400, 'BAD_REQUEST', 'soakMs'],
    ['POST', '/v1/plans', '{"cluster":"c","to":"3.1.0","options":{"soak":1}}', 400, 'BAD_REQUEST', 'options.soak'],
    ['POST', '/v1/runs', '{"plan":"p","hash":"h"}', 400, 'BAD_REQUEST', 'body.hash'],
    ['POST', '/v1/packages', '{}', 400, 'BAD_REQUEST', 'body'],
  ])('%s %s %s', async (method, path, text, status, code, named) => {
    const answer = await ask(path, {
      method,
      ...(text && { body: text, headers: { 'content-type': 'application/json' } }),
    });
    expect(answer.headers.get('content-type')).toContain('application/problem+json');
    const problem = (await answer.json()) as Problem;
    expect(problem).toMatchObject({ status, code, remedy: expect.any(String), requestId: expect.any(String) });
    expect(problem.detail).toContain(named);
    expect(answer.status).toBe(status);
  });

  it('of a content type that is none of ours, and of a package that is none', async () => {
    const odd = await ask('/v1/plans', { method: 'POST', body: 'x', headers: { 'content-type': 'text/odd' } });
    expect(await odd.json()).toMatchObject({ status: 415, code: 'BAD_REQUEST' });
    const upload = { method: 'POST', body: 'x', headers: { 'content-type': 'application/gzip' } };
    expect(await body(ask('/v1/packages?filename=x.tar.gz', upload))).toMatchObject({ code: 'PACKAGE_UNREADABLE' });
  });
});

describe('an upgrade', () => {
  it('is planned, started once and paused, on record', async () => {
    await cluster('first');
    const plan = await planOf('first');
    expect(plan).toMatchObject({ blocked: false, hash: expect.stringMatching(/^[0-9a-f]{64}$/) });
    const wrong = await body<Problem>(startOf({ ...plan, hash: '0'.repeat(64) }));
    expect(wrong).toMatchObject({ status: 409, code: 'PLAN_HASH_MISMATCH' });
    const started = await startOf(plan);
    expect(started.status).toBe(201);
    const run = (await started.json()) as RunSummary;
    expect(await body(startOf(plan))).toMatchObject({ status: 409, code: 'RUN_ACTIVE' });
    expect(await body(ask('/v1/clusters/first'))).toMatchObject({ run: run.id });
    expect(await body(ask(`/v1/packages/${'a'.repeat(64)}`, { method: 'DELETE' }))).toMatchObject({
      code: 'PACKAGE_IN_USE',
    });
    await until('it runs', async () => (await body<RunSummary>(ask(`/v1/runs/${run.id}`))).status === 'running');
    expect(await body(ask(`/v1/runs/${run.id}/retry`, { json: {} }))).toMatchObject({ code: 'RUN_CHOICE_ILLEGAL' });
    expect((await ask(`/v1/runs/${run.id}/pause`, { method: 'POST' })).status).toBe(202);
    await until('it is asked', async () => (await body<RunSummary>(ask(`/v1/runs/${run.id}`))).pauseRequested);
    const audit = await body<Page<{ what: string }> & { intact: boolean }>(ask('/v1/audit?verify=true'));
    expect(audit.intact).toBe(true);
    expect(audit.items.map(({ what }) => what)).toEqual(
      expect.arrayContaining(['plan.create', 'run.create', 'run.pause']),
    );
    const markdown = await ask(`/v1/runs/${run.id}/report`, { headers: { accept: 'text/markdown' } });
    expect(markdown.headers.get('content-type')).toContain('text/markdown');
    expect(await markdown.text()).toContain(run.id);
    expect(await body(ask(`/v1/runs/${run.id}/report`))).toMatchObject({ history: { intact: true } });
  });

  it('does not start when a check blocks, nor when the facts are others than when it was planned', async () => {
    await cluster('missing', 4);
    const blocked = await planOf('missing');
    expect(blocked.blocked).toBe(true);
    const problem = await body<Problem>(startOf(blocked));
    expect(problem).toMatchObject({ status: 422, code: 'PLAN_BLOCKED' });
    expect(problem.checks?.map(({ code }) => code)).toContain('NODE_MISSING');

    await cluster('stale');
    const plan = await planOf('stale');
    const [agent] = agents.slice(-3);
    agent?.reporting(() => {
      const { installation, ...rest } = freshReport('stale', 1);
      return { ...rest, ...(installation && { installation: { ...installation, address: '10.9.9.9' } }) };
    });
    expect(await body(startOf(plan))).toMatchObject({ status: 409, code: 'PLAN_STALE' });
  });
});

describe('the events of a run', () => {
  /** Reads the stream until `enough` messages came. */
  async function read(run: string, enough: number, lastEventId?: string) {
    const stop = new AbortController();
    const headers = lastEventId === undefined ? {} : { 'last-event-id': lastEventId };
    const answer = await ask(`/v1/runs/${run}/events`, { headers, signal: stop.signal });
    if (answer.body === null || answer.status === 204) return { status: answer.status, messages: [] };
    const messages: { id: string; view: RunEventView }[] = [];
    let text = '';
    for await (const chunk of answer.body.pipeThrough(new TextDecoderStream())) {
      text += chunk;
      const parts = text.split('\n\n');
      text = parts.pop() ?? '';
      for (const part of parts) {
        const [, id = '', data = '{}'] = /^id: (.*)\nevent: .*\ndata: (.*)$/.exec(part) ?? [];
        if (id !== '') messages.push({ id, view: JSON.parse(data) as RunEventView });
      }
      if (messages.length >= enough) break;
    }
    stop.abort();
    return { status: answer.status, messages };
  }

  it('come in order with the output, resume where they were left, and end with the run', async () => {
    await cluster('events');
    const run = await body<RunSummary>(startOf(await planOf('events')));
    const [agent] = agents.slice(-3);
    const { action } = (await agent?.got('action')) ?? { action: { id: '', node: '' } };
    agent?.send({ output: { action: action.id, offset: 0, text: 'Unpacking\n' } });
    agent?.send({ output: { action: action.id, offset: 10, text: 'Done\n' } });
    agent?.send({ progress: { action: action.id, phase: 'fetch', detail: 'half', atMs: Date.now() } });
    const all = (await until('output and progress came', async () => {
      const { messages } = await read(run.id, 7);
      const types = messages.map(({ view }) => view.type);
      return types.filter((type) => type === 'output').length === 2 && types.includes('step-progressed') && messages;
    })) as { id: string; view: RunEventView }[];
    expect(all[0]?.view).toMatchObject({ type: 'run-started', seq: 1 });
    expect(all.find(({ view }) => view.type === 'output')?.view).toMatchObject({
      message: 'Unpacking',
      node: action.node,
    });
    for (const [at, { id }] of all.entries()) {
      const rest = all.slice(at + 1);
      if (rest.length === 0) continue;
      const { messages } = await read(run.id, rest.length, id);
      expect(messages.slice(0, rest.length).map((message) => message.id)).toEqual(rest.map((message) => message.id));
    }
    expect(await body(ask(`/v1/runs/${run.id}/events`, { headers: { 'last-event-id': 'x' } }))).toMatchObject({
      code: 'BAD_REQUEST',
    });
    await database.execute(
      `UPDATE runs SET epoch = epoch + 1, state = state || '{"status":"aborted"}', status = 'aborted' WHERE id = $1`,
      [run.id],
    );
    const { messages } = await read(run.id, 1_000);
    expect(await read(run.id, 1, messages.at(-1)?.id)).toEqual({ status: 204, messages: [] });
    // Retention took the output, and the stream ends all the same.
    await database.execute('DELETE FROM action_output WHERE run = $1', [run.id]);
    const { messages: left } = await read(run.id, 1_000);
    expect(left.map(({ view }) => view.type)).not.toContain('output');
    expect(await read(run.id, 1, left.at(-1)?.id)).toEqual({ status: 204, messages: [] });
  });
});

describe('a POST with an Idempotency-Key', () => {
  const post = (key: string, path: string, json: object) => ask(path, { json, headers: { 'idempotency-key': key } });

  it('is carried out once and answered alike', async () => {
    await cluster('twice');
    const wish = { cluster: 'twice', to: '3.1.0', options: { backup } };
    const first = await post('k1', '/v1/plans', wish);
    const again = await post('k1', '/v1/plans', wish);
    expect([first.status, again.status]).toEqual([201, 201]);
    expect(await again.text()).toBe(await first.text());
    expect(again.headers.get('idempotency-replayed')).toBe('true');
    const other = await body<Problem>(post('k1', '/v1/plans', { ...wish, to: '3.2.0' }));
    expect(other).toMatchObject({ status: 422, code: 'IDEMPOTENCY_MISMATCH' });
    const refused = [
      await post('k2', '/v1/plans', { cluster: 'no', to: '1.0.0' }),
      await post('k2', '/v1/plans', { cluster: 'no', to: '1.0.0' }),
    ];
    expect(refused.map(({ status }) => status)).toEqual([404, 404]);
    expect(refused[1]?.headers.get('content-type')).toContain('problem+json');
  });

  it('does not keep a secret', async () => {
    expect((await post('k3', '/v1/tokens', { role: 'viewer' })).status).toBe(201);
    expect(await body(post('k3', '/v1/tokens', { role: 'viewer' }))).toMatchObject({ code: 'IDEMPOTENCY_SPENT' });
    const kept = await database.query<{ response: string | null }>('SELECT response FROM idempotency');
    expect(kept.some(({ response }) => response?.includes('kwt_'))).toBe(false);
  });
});

describe('a node', () => {
  const remove = (node: string) => ask(`/v1/nodes/${node}`, { method: 'DELETE' });

  it('is not removed while a run needs it, and is forgotten once none does', async () => {
    await cluster('leaving');
    const { id: plan, hash } = await planOf('leaving');
    const timing = { notBeforeMs: Date.now() + 3_600_000 };
    const run = await body<RunSummary>(ask('/v1/runs', { json: { plan, hash, timing } }));
    expect(await body(remove('leaving-n2'))).toMatchObject({ status: 409, code: 'RUN_ACTIVE' });
    expect((await ask('/v1/nodes/leaving-n2')).status).toBe(200);
    await ask(`/v1/runs/${run.id}/abort`, { method: 'POST' });
    await until('the run is over', async () => (await remove('leaving-n2')).status === 204);
    const { items } = await body<Page<{ what: string; detail: object }>>(ask('/v1/audit?limit=1'));
    expect(items).toMatchObject([{ what: 'node.remove', detail: { node: 'leaving-n2' } }]);
    expect(await body(remove('nobody'))).toMatchObject({ status: 404, code: 'NODE_UNKNOWN' });
  });
});

describe('lists and names', () => {
  it('come in pages that miss nothing', async () => {
    for (const id of ['p1', 'p2', 'p3']) await cluster(id);
    const seen: string[] = [];
    let cursor: string | undefined;
    do {
      const query: string = cursor === undefined ? '' : `&cursor=${cursor}`;
      const list: Page<{ id: string }> = await body(ask(`/v1/nodes?limit=2${query}`));
      expect(list.items.length).toBeLessThanOrEqual(2);
      seen.push(...list.items.map(({ id }) => id));
      ({ cursor } = list);
    } while (cursor !== undefined);
    expect(seen).toEqual(expect.arrayContaining(['p1-n1', 'p2-n2', 'p3-n3']));
    expect(new Set(seen).size).toBe(seen.length);
  });

  it('give a cluster a name, by which it is found unless another has it too', async () => {
    const patch = (id: string, change: object) => ask(`/v1/clusters/${id}`, { method: 'PATCH', json: change });
    for (const id of ['a1', 'a2']) await cluster(id);
    const named = await patch('a1', { name: 'sales', labels: { site: 'north' } });
    expect(await named.json()).toMatchObject({ id: 'a1', name: 'sales', labels: { site: 'north' } });
    expect(await body(ask('/v1/clusters/sales'))).toMatchObject({ id: 'a1' });
    await patch('a2', { name: 'sales' });
    expect(await body(ask('/v1/clusters/sales'))).toMatchObject({ status: 409, code: 'CLUSTER_AMBIGUOUS' });
    expect(await body(patch('a1', { nam: 'x' }))).toMatchObject({ code: 'BAD_REQUEST' });
  });
});

describe('access', () => {
  it('needs no token on this machine, but no web page may use that', async () => {
    const foreign = await ask('/v1/runs', { headers: { origin: 'http://evil.example' } });
    expect(foreign.status).toBe(403);
    expect((await ask('/v1/runs', { headers: { authorization: 'Bearer wrong' } })).status).toBe(401);
  });

  it.each(['forwarded', 'via', 'x-forwarded-for', 'x-real-ip'])(
    'whoever a proxy speaks for (%s) needs one',
    async (header) => {
      expect((await ask('/v1/runs', { headers: { [header]: '192.0.2.7' } })).status).toBe(403);
    },
  );

  it('goes by the role of a token everywhere else', async () => {
    const open = await start({ host: '0.0.0.0', port: 0, plaintext: true });
    try {
      const url = open.controller.restUrl.replace('0.0.0.0', '127.0.0.1');
      const file = join(open.directory, 'admin-token');
      expect((await stat(file)).mode & 0o777).toBe(0o600);
      const first = (await readFile(file, 'utf8')).trim();
      const as = (token: string | undefined, path: string, json?: unknown) =>
        ask(path, { url, json, ...(token && { headers: { authorization: `Bearer ${token}` } }) });
      const make = async (role: string, expiresInMs?: number) =>
        (await body<{ token: string }>(as(first, '/v1/tokens', { role, expiresInMs }))).token;
      const [viewer, operator, short] = [await make('viewer'), await make('operator'), await make('viewer', 1_000)];

      expect((await as(undefined, '/v1/runs')).status).toBe(401);
      expect((await as(undefined, '/healthz')).status).toBe(200);
      expect((await as(viewer, '/v1/runs')).status).toBe(200);
      expect(await body(as(viewer, '/v1/plans', { cluster: 'c', to: '1.0.0' }))).toMatchObject({ code: 'FORBIDDEN' });
      expect(await body(as(operator, '/v1/plans', { cluster: 'c', to: '1.0.0' }))).toMatchObject({
        code: 'CLUSTER_UNKNOWN',
      });
      expect(await body(as(operator, '/v1/tokens', { role: 'admin' }))).toMatchObject({ code: 'FORBIDDEN' });
      await until('the short one expired', async () => (await as(short, '/v1/runs')).status === 401);
      const { items } = await body<Page<{ id: string; role: string }>>(as(first, '/v1/tokens'));
      const id = items.find(({ role }) => role === 'operator')?.id;
      await ask(`/v1/tokens/${id}`, { url, method: 'DELETE', headers: { authorization: `Bearer ${first}` } });
      expect((await as(operator, '/v1/runs')).status).toBe(401);
    } finally {
      await open.controller.close();
      await rm(open.directory, { recursive: true, force: true });
    }
  });
});

it('documents itself, and tells how it is', async () => {
  const document = await body<{ openapi: string; paths: Record<string, unknown> }>(ask('/openapi.json'));
  expect(document.openapi).toBe('3.1.0');
  expect(Object.keys(document.paths)).toEqual(
    expect.arrayContaining(['/v1/plans', '/v1/runs/{id}/events', '/v1/audit']),
  );
  const page = await (await ask('/docs')).text();
  expect(page).not.toMatch(/(src|href)="https?:/);
  const metrics = await (await ask('/metrics')).text();
  expect(metrics).toContain('kwfleet_database_up 1');
});
