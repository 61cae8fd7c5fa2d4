import { createHmac } from 'node:crypto';
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { DeliveryView, NodeView, Notification, Page, RunSummary } from '@kwfleet/core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { controllerConfig } from '../src/config.ts';
import { refusedInBody, requestFor, webhookSignature } from '../src/notifications/bodies.ts';
import { ATTEMPTS_MAX, backoffMs, deliverDue, retryInMs, startDeliverer } from '../src/notifications/deliver.ts';
import { send } from '../src/notifications/send.ts';
import { checkTargets, type EmailTarget, type HttpTarget, wants } from '../src/notifications/targets.ts';
import { advance } from '../src/runner/advance.ts';
import { type Database, openDatabase } from '../src/store/database.ts';
import { migrate } from '../src/store/migrate.ts';
import { listen } from '../src/store/notices.ts';
import { leaseDue, listDeliveries, notify, resend } from '../src/store/notifications.ts';
import { pgRunStore } from '../src/store/run-store.ts';
import { type Answer, httpReceiver, smtpReceiver } from './receivers.ts';
import { RestRig } from './rest-rig.ts';
import { log, putRun, reportCluster, temporaryDirectory, until, usePostgres } from './support.ts';

const postgres = usePostgres();
let directory: string;
let secretFile: string;
const SECRET = 'a secret of the receiver';

beforeAll(async () => {
  directory = await temporaryDirectory();
  secretFile = join(directory, 'secret');
  await writeFile(secretFile, `${SECRET}\n`, { mode: 0o600 });
});
afterAll(() => rm(directory, { recursive: true, force: true }));

const HELD: Notification = {
  event: 'held',
  severity: 'critical',
  title: 'Upgrade of prod-east to 3.1.0 is held on db-2: INSTALL_FAILED',
  lines: ['deploy.sh ended with <1> & more', 'now: kwfleet run retry r1'],
  clusters: ['c1'],
  run: 'r1',
  code: 'INSTALL_FAILED',
};
const MESSAGE = { id: 'notification-1.oncall', atMs: 1_800_000_000_000, content: HELD };
const target = (url: string, change: Partial<HttpTarget> = {}): HttpTarget => ({
  name: 'oncall',
  kind: 'webhook',
  url,
  secret_file: secretFile,
  ...change,
});

describe('what a receiver is sent', () => {
  const of = (kind: HttpTarget['kind'], secret?: string) => {
    const request = requestFor(kind, 'https://hooks.example/x?access_token=t', secret, MESSAGE, 1_800_000_000_123);
    return { ...request, json: JSON.parse(request.body) };
  };

  it('a webhook can check its id, time and body with the secret, as Standard Webhooks says', () => {
    const { headers, body, json } = of('webhook', SECRET);
    const expected = createHmac('sha256', SECRET).update(`notification-1.oncall.1800000000.${body}`).digest('base64');
    expect(headers).toMatchObject({
      'webhook-id': MESSAGE.id,
      'webhook-timestamp': '1800000000',
      'webhook-signature': `v1,${expected}`,
    });
    expect(json).toMatchObject({ type: 'held', data: { id: MESSAGE.id, code: 'INSTALL_FAILED', run: 'r1' } });
    // The example of the specification itself.
    const example = webhookSignature(
      'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw',
      'msg_p5jXN8AQM9LWM0D4loKWxJek',
      1614265330,
      '{"test": 2432232314}',
    );
    expect(example).toBe('g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=');
  });

  it('chat tools get plain text in their own wrapping', () => {
    const text = `${HELD.title}\n${HELD.lines.join('\n')}`;
    expect(of('slack').json).toEqual({ text: text.replace('<1> &', '&lt;1&gt; &amp;') });
    expect(of('wecom').json).toEqual({ msgtype: 'text', text: { content: text } });
    expect(of('dingtalk').json).toEqual({ msgtype: 'text', text: { content: text } });
    expect(of('feishu').json).toEqual({ msg_type: 'text', content: { text } });
    const card = of('teams').json.attachments[0];
    expect(card.contentType).toBe('application/vnd.microsoft.card.adaptive');
    expect(card.content.body.map(({ text: line }: { text: string }) => line)).toEqual([
      'Upgrade of prod-east to 3.1.0 is held on db-2: INSTALL\\_FAILED',
      ...HELD.lines,
    ]);
  });

  it('robots that want signatures get them', () => {
    const sign = createHmac('sha256', 's').update('1800000000123\ns').digest('base64');
    const url = new URL(of('dingtalk', 's').url);
    expect([url.searchParams.get('timestamp'), url.searchParams.get('sign')]).toEqual(['1800000000123', sign]);
    expect(url.searchParams.get('access_token')).toBe('t');
    const feishu = createHmac('sha256', '1800000000\ns').digest('base64');
    expect(of('feishu', 's').json).toMatchObject({ timestamp: '1800000000', sign: feishu });
  });

  it.each([
    ['dingtalk', '{"errcode":0,"errmsg":"ok"}', undefined],
    ['dingtalk', '{"errcode":310000,"errmsg":"sign not match"}', 'it answered 310000: sign not match'],
    ['wecom', '{"errcode":93000,"errmsg":"invalid webhook url"}', 'it answered 93000: invalid webhook url'],
    ['feishu', '{"code":19021,"msg":"sign match fail"}', 'it answered 19021: sign match fail'],
    ['feishu', '<html>', 'its answer is not the one of such a robot'],
    ['slack', 'anything', undefined],
  ] as const)('%s that answers 200 with %s', (kind, body, reason) => {
    expect(refusedInBody(kind, body)).toBe(reason);
  });
});

describe('the configuration', () => {
  it.each([
    [{ url: 'https://x.example', url_file: '/etc/x' }, /either url or url_file/],
    [{ url: 'http://x.example' }, /unencrypted/],
    [{ url: 'file:///etc/passwd' }, /neither https nor http/],
    [{ url: 'https://u:p@x.example' }, /password/],
    [{ url: 'https://x.example', secret_file: '/nowhere' }, /cannot be read/],
    [{ url: 'https://x.example', kind: 'webhook' }, /secret_file/],
  ])('is refused with %j', (change, reason) => {
    expect(() => checkTargets([{ name: 'x', kind: 'slack', ...change } as HttpTarget])).toThrow(reason);
  });

  it('is refused for a mail whose password would go in clear, two of one name, and a misspelt event', () => {
    const mail: EmailTarget = { name: 'm', kind: 'email', host: 'h', from: 'a@b.c', to: ['d@e.f'] };
    expect(() => checkTargets([{ ...mail, tls: 'none', user: 'u', password_file: secretFile }])).toThrow(/needs tls/);
    expect(() => checkTargets([mail, mail])).toThrow(/two of this name/);
    const targets = [{ ...mail, events: ['hold'] }];
    expect(() => controllerConfig({ notifications: { targets } })).toThrow(/notifications/);
    expect(controllerConfig({ notifications: { targets: [{ ...mail, events: ['held'] }] } }).targets).toHaveLength(1);
  });

  it('selects by event and by the labels of the clusters', () => {
    const some = { ...target('https://x.example'), events: ['held' as const], labels: { environment: 'production' } };
    expect(wants(some, 'held', [{ environment: 'test' }, { environment: 'production', site: 'a' }])).toBe(true);
    expect(wants(some, 'failed', [{ environment: 'production' }])).toBe(false);
    expect(wants(some, 'held', [{ environment: 'test' }])).toBe(false);
    expect(wants(some, 'held', [])).toBe(false);
  });
});

describe('one attempt', () => {
  const tryOnce = async (answer: () => Answer, change: Partial<HttpTarget> = {}) => {
    const receiver = await httpReceiver(answer);
    try {
      return await send(target(receiver.url, change), MESSAGE);
    } finally {
      await receiver.close();
    }
  };

  it('is told apart into delivered, to be tried again, and given up', async () => {
    expect(await tryOnce(() => ({ status: 204 }))).toEqual({ ok: true });
    expect(await tryOnce(() => ({ status: 500, body: 'oops' }))).toEqual({
      ok: false,
      final: false,
      reason: 'it answered 500: oops',
    });
    const busy = { status: 429, headers: { 'retry-after': '120' } };
    expect(await tryOnce(() => busy)).toMatchObject({ final: false, retryAfterMs: 120_000 });
    expect(await tryOnce(() => ({ status: 410 }))).toMatchObject({ ok: false, final: true });
    expect(await tryOnce(() => ({ status: 200, body: '{"errcode":1}' }), { kind: 'wecom' })).toMatchObject({
      ok: false,
    });
  });

  it('follows no redirect, and tells neither address nor secret when nobody is there', async () => {
    const inner = await httpReceiver();
    expect(await tryOnce(() => ({ status: 302, headers: { location: inner.url } }))).toMatchObject({
      ok: false,
      final: true,
    });
    expect(inner.received).toEqual([]);
    await inner.close();
    const sent = await send(target(`${inner.url}/hook/verysecret`), MESSAGE);
    expect(sent).toEqual({ ok: false, final: false, reason: 'ECONNREFUSED' });
  });

  it('reads no more of an endless answer than it needs', async () => {
    const sent = await tryOnce(() => ({ status: 500, body: 'x'.repeat(5_000_000) }));
    expect(JSON.stringify(sent).length).toBeLessThan(400);
  });

  it('by mail names the event, has an id, and goes to all', async () => {
    const sink = await smtpReceiver();
    const mail: EmailTarget = {
      name: 'm',
      kind: 'email',
      host: '127.0.0.1',
      port: sink.port,
      tls: 'none',
      from: 'kwfleet@example.net',
      to: ['a@example.net', 'b@example.net'],
    };
    expect(await send(mail, MESSAGE)).toEqual({ ok: true });
    expect(sink.mails).toMatchObject([{ from: 'kwfleet@example.net', to: ['a@example.net', 'b@example.net'] }]);
    const { data = '' } = sink.mails[0] ?? {};
    expect(data).toContain(`Message-ID: <${MESSAGE.id}@kwfleet>`);
    expect(data).toMatch(/^Subject: \[kwfleet\] Upgrade of prod-east/m);
    expect(data).toContain('now: kwfleet run retry r1');
    await sink.close();
  });

  it('by mail sends nothing in clear where TLS was asked for, and gives up what the server refuses', async () => {
    const sink = await smtpReceiver();
    const mail: EmailTarget = {
      name: 'm',
      kind: 'email',
      host: '127.0.0.1',
      port: sink.port,
      from: 'a@b.cd',
      to: ['c@d.ef'],
    };
    expect(await send(mail, MESSAGE)).toMatchObject({ ok: false });
    expect(sink.commands.join()).not.toMatch(/MAIL|RCPT|DATA/);
    await sink.close();
    const strict = await smtpReceiver({ refuse: '550 no such user' });
    const refused = { ...mail, port: strict.port, tls: 'none' as const };
    expect(await send(refused, MESSAGE)).toMatchObject({ ok: false, final: true });
    await strict.close();
  });

  it('comes again ever later, for most of a night, then not at all', () => {
    const delays = Array.from({ length: ATTEMPTS_MAX - 1 }, (_, at) => backoffMs(at + 1));
    expect(delays.slice(0, 4)).toEqual([5_000, 15_000, 45_000, 135_000]);
    expect(delays.reduce((sum, ms) => sum + ms, 0)).toBeGreaterThan(4 * 3_600_000);
    const failed = { ok: false, reason: 'x', final: false } as const;
    expect(retryInMs(ATTEMPTS_MAX - 1, failed)).toBe(3_600_000);
    expect(retryInMs(ATTEMPTS_MAX, failed)).toBeUndefined();
    expect(retryInMs(1, { ...failed, final: true })).toBeUndefined();
    expect(retryInMs(1, { ...failed, retryAfterMs: 60_000 })).toBe(60_000);
  });
});

describe('the outbox', () => {
  const now = (database: Database) => database.execute('UPDATE deliveries SET due_at_ms = 0');
  const statuses = async (database: Database) =>
    (await listDeliveries(database, {})).items.map(({ target: to, status }) => `${to} ${status}`).sort();

  it('is delivered to those that want it, tried again, and a dead letter can be sent again', async () => {
    const database = await postgres.database();
    await reportCluster(database, 'c1');
    await database.execute(`UPDATE clusters SET labels = '{"environment":"production"}'`);
    let healthy = false;
    const good = await httpReceiver();
    const bad = await httpReceiver(() => ({ status: healthy ? 200 : 500 }));
    const revoked = await httpReceiver(() => ({ status: healthy ? 200 : 404 }));
    const targets = [
      target(good.url, { name: 'good', labels: { environment: 'production' } }),
      target(good.url, { name: 'other', labels: { environment: 'test' } }),
      target(good.url, { name: 'quiet', events: ['succeeded'] }),
      target(bad.url, { name: 'bad' }),
      target(revoked.url, { name: 'revoked' }),
    ];
    await notify(database, HELD);
    await deliverDue(database, targets, log);
    expect(await statuses(database)).toEqual(['bad pending', 'good delivered', 'revoked dead']);
    await deliverDue(database, targets, log);
    expect([good, bad, revoked].map(({ received }) => received.length)).toEqual([1, 1, 1]);

    healthy = true;
    await now(database);
    await deliverDue(database, targets, log);
    expect(await statuses(database)).toEqual(['bad delivered', 'good delivered', 'revoked dead']);
    const [dead] = (await listDeliveries(database, { status: 'dead' })).items;
    expect(dead).toMatchObject({ target: 'revoked', attempts: 1, lastError: 'it answered 404', event: 'held' });
    expect(await resend(database, 'none')).toBe(false);
    expect(await resend(database, dead?.id ?? '')).toBe(true);
    await deliverDue(database, targets, log);
    expect((await listDeliveries(database, { status: 'dead' })).items).toEqual([]);
    // Both attempts carry one id, by which the receiver knows them.
    expect(new Set(revoked.received.map(({ headers }) => headers['webhook-id'])).size).toBe(1);
    for (const receiver of [good, bad, revoked]) await receiver.close();
  });

  it('is delivered once by two controllers, and by the other when one died in the middle', async () => {
    const database = await postgres.database();
    const receiver = await httpReceiver();
    const targets = [target(receiver.url)];
    for (let i = 0; i < 20; i++) await notify(database, HELD);
    await Promise.all([deliverDue(database, targets, log), deliverDue(database, targets, log)]);
    expect(receiver.received).toHaveLength(20);
    await notify(database, HELD);
    await deliverDue(database, [target('http://127.0.0.1:1')], log);
    await now(database);
    expect(await leaseDue(database, 'oncall', 8, 600_000)).toHaveLength(1);
    await deliverDue(database, targets, log);
    expect(receiver.received).toHaveLength(20);
    // The lease of the dead one is over.
    await database.execute('UPDATE deliveries SET leased_until_ms = 0');
    await deliverDue(database, targets, log);
    expect(receiver.received).toHaveLength(21);
    await receiver.close();
  });

  it('of one target does not wait for another that never answers', async () => {
    const settings = await postgres.settings();
    const database = openDatabase(settings, log);
    await migrate(database);
    const notices = listen(settings, log);
    const [dead, good] = [await httpReceiver(() => ({ status: 200, hang: true })), await httpReceiver()];
    const targets = [target(dead.url, { name: 'dead' }), target(good.url, { name: 'good' })];
    const deliverer = startDeliverer(database, notices, targets, log);
    try {
      for (let i = 0; i < 20; i++) await notify(database, HELD);
      const delivered = async () => (await statuses(database)).filter((status) => status === 'good delivered');
      await until('all but the dead one have theirs', async () => (await delivered()).length === 20);
      // Of twenty it holds those that are tried at once: none of them has ended.
      expect(dead.received.length).toBeLessThan(20);
    } finally {
      await dead.close();
      await deliverer.stop();
      await good.close();
      await notices.close();
      await database.close();
    }
  });

  it('is written with the event it tells of, or not at all', async () => {
    const database = await postgres.database();
    await expect(
      database.transaction(async (sql) => {
        await notify(sql, HELD);
        throw new Error('the commit fails');
      }),
    ).rejects.toThrow('the commit fails');
    expect(await database.query('SELECT 1 FROM notifications')).toEqual([]);
  });

  it('tells of a hold that may end by itself only when it lasts', async () => {
    const database = await postgres.database();
    await reportCluster(database, 'c1');
    const run = await putRun(database, 'c1');
    const receiver = await httpReceiver();
    const lost: Notification = { ...HELD, run, code: 'AGENT_LOST', heldSinceMs: 7 };
    await notify(database, lost);
    await deliverDue(database, [target(receiver.url)], log);
    expect(receiver.received).toEqual([]);
    await database.execute('UPDATE notifications SET due_at_ms = 0');
    await deliverDue(database, [target(receiver.url)], log);
    expect(receiver.received).toEqual([]);
    await database.execute(`UPDATE runs SET epoch = epoch + 1, state = state || '{"hold":{"sinceMs":7}}'`);
    await notify(database, lost);
    await database.execute('UPDATE notifications SET due_at_ms = 0');
    await deliverDue(database, [target(receiver.url)], log);
    expect(receiver.received).toHaveLength(1);
    await receiver.close();
  });

  it('has what a run came to, written by the commit that made it so', async () => {
    const database = await postgres.database();
    await reportCluster(database, 'c1');
    const run = await putRun(database, 'c1');
    const store = pgRunStore(database);
    await advance(store, 'test', run);
    await database.execute('UPDATE nodes SET connected_until_ms = 0, last_seen_ms = now_ms() - 120000, stream = NULL');
    await advance(store, 'test', run);
    const [row] = await database.query<{ content: Notification; dueMs: number }>(
      'SELECT content, due_at_ms - at_ms AS "dueMs" FROM notifications',
    );
    expect(row?.content).toMatchObject({ event: 'held', code: 'AGENT_LOST', run, clusters: ['c1'] });
    expect(row?.dueMs).toBeGreaterThanOrEqual(60_000);
  });

  it('tells of a run that waits for a window that never opens, once', async () => {
    const database = await postgres.database();
    await reportCluster(database, 'c1');
    const run = await putRun(database, 'c1');
    const timing = { windows: ['gone'], prefetchMs: 0 };
    await database.execute(`UPDATE runs SET epoch = epoch + 1, state = jsonb_set(state, '{timing}', $1)`, [
      JSON.stringify(timing),
    ]);
    for (let looks = 0; looks < 2; looks++) await advance(pgRunStore(database), 'test', run);
    const rows = await database.query<{ content: Notification }>('SELECT content FROM notifications');
    expect(rows.map(({ content }) => content)).toMatchObject([
      {
        event: 'held',
        severity: 'critical',
        title: expect.stringContaining('waits for a window that does not come'),
        lines: [expect.stringContaining('"gone"'), expect.any(String), `now: kwfleet run abort ${run}`],
        code: 'WINDOW_NEVER',
        run,
      },
    ]);
  });
});

describe('a controller with targets', () => {
  let rig: RestRig;
  let receiver: Awaited<ReturnType<typeof httpReceiver>>;
  beforeAll(async () => {
    const settings = await postgres.settings().catch(() => undefined);
    if (settings === undefined) return;
    receiver = await httpReceiver((_, { path }) => ({ status: path === '/gone' ? 404 : 200 }));
    const targets = [
      target(`${receiver.url}/hook`),
      target(`${receiver.url}/gone`, { name: 'gone', events: ['failed'] }),
    ];
    rig = await RestRig.open(settings, { notifications: { targets }, health: { worse_after_ms: 0 } });
  });
  afterAll(async () => {
    await rig?.close();
    await receiver?.close();
  });

  it('shows them without what is secret, and sends a test', async () => {
    const shown = await (await rig.ask('/v1/notification-targets')).text();
    expect(shown).toContain('"oncall"');
    expect(shown).not.toMatch(/\/hook|secret_file|a secret of/);
    expect(await rig.get('/v1/notification-targets/oncall/test', { json: {} })).toEqual({ delivered: true });
    expect(JSON.parse(receiver.received.at(-1)?.body ?? '')).toMatchObject({ type: 'test' });
    expect(await rig.get('/v1/notification-targets/gone/test', { json: {} })).toMatchObject({
      code: 'NOTIFICATION_FAILED',
      detail: 'gone did not take it: it answered 404',
    });
    expect(await rig.get('/v1/notification-targets/none/test', { json: {} })).toMatchObject({ code: 'NOT_FOUND' });
  });

  it('tells that an upgrade waits, that it was aborted, and that a node went away', async () => {
    const told = () => receiver.received.map(({ body }) => JSON.parse(body) as { type: string; data: Notification });
    const put = { method: 'PUT', body: '{}', headers: { 'content-type': 'application/json' } };
    await rig.ask('/v1/approval-policies/all', put);
    const [agent] = await rig.cluster('told');
    const plan = await rig.plan('told');
    const run = await rig.get<RunSummary>('/v1/runs', { json: { plan: plan.id, hash: plan.hash } });
    await until('it is told to wait', () => told().find(({ type }) => type === 'needs-approval'));
    await rig.ask(`/v1/runs/${run.id}/abort`, { json: {} });
    const aborted = await until('it is told to be over', () => told().find(({ type }) => type === 'aborted'));
    expect(aborted.data).toMatchObject({ run: run.id, title: 'Upgrade of kwdb-told to 3.1.0 was aborted' });
    await until(
      'it was seen to be well',
      async () => (await rig.get<NodeView>('/v1/nodes/told-n1')).health?.state === 'healthy',
    );
    agent?.close();
    const unwell = await until('the node is told of', () => told().find(({ type }) => type === 'unhealthy'));
    expect(unwell.data).toMatchObject({ title: 'told-n1 of kwdb-told is unknown', node: 'told-n1' });
    const { items } = await rig.get<Page<DeliveryView>>('/v1/notifications');
    expect(items.map(({ target: to }) => to)).not.toContain('gone');
    expect(await rig.get('/v1/notifications/none/resend', { json: {} })).toMatchObject({ code: 'NOT_FOUND' });
  });
});
