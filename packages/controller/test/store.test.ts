import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Action, ActionResult, BackupReceipt, Plan, RunEvent, RunState, StepState } from '@kwfleet/core';
import { actionFor, initialState, stepOf } from '@kwfleet/core';
import { describe, expect, it } from 'vitest';
import { planFor } from '../../core/test/builders.ts';
import { createEnrollment, spendEnrollment } from '../src/store/access.ts';
import { pendingActions, storeOutput, storeProgress, storeResult } from '../src/store/actions.ts';
import { audit, verifyAudit } from '../src/store/audit.ts';
import { findBackup, listBackups, storeBackup } from '../src/store/backups.ts';
import type { Database } from '../src/store/database.ts';
import { openDatabase } from '../src/store/database.ts';
import { migrate } from '../src/store/migrate.ts';
import { allNodes, attachStream, databaseNow, detachStream, storeBeats } from '../src/store/nodes.ts';
import { runUsingPackage } from '../src/store/packages.ts';
import { pgRunStore } from '../src/store/run-store.ts';
import { eventsAfter, findRun, outputAfter, verifyHistory } from '../src/store/runs.ts';
import { freshReport, log, putRun, reportCluster, until, usePostgres } from './support.ts';

const postgres = usePostgres();
const started = (atMs: number): RunEvent => ({ type: 'run-started', atMs });

/** A run under `owner`'s lease, with one action dispatched to the first node. */
async function dispatched(database: Database, cluster: string) {
  const [node = ''] = await reportCluster(database, cluster);
  const run = await putRun(database, cluster);
  const store = pgRunStore(database);
  const epoch = (await store.lease(run, 'a', 60_000)) ?? 0;
  const { plan, state } = await store.load(run);
  const step = stepOf(plan, plan.steps[0]?.id ?? '');
  const action: Action = { ...actionFor(plan, state, step, { executor: step.node, epoch, nowMs: 0 }), node };
  expect(await store.commit(run, epoch, { state, events: [started(1)], actions: [action], appliedSeq: 0 })).toBe(true);
  return { node, run, store, epoch, action, state };
}

const resultOf = (action: Action, cluster: string): ActionResult => ({
  action: action.id,
  outcome: 'succeeded',
  disposition: 'done',
  newVersionStarted: false,
  phases: [],
  report: freshReport(cluster, 1),
});

describe('the schema', () => {
  it('is brought up to date once, by however many controllers at once', async () => {
    const settings = await postgres.settings();
    const [one, other] = [openDatabase(settings, log), openDatabase(settings, log)];
    try {
      const applied = await Promise.all([migrate(one), migrate(other)]);
      expect(applied.flat()).toEqual(readdirSync(join(import.meta.dirname, '../src/store/schema')).sort());
      expect(await migrate(one)).toEqual([]);
      await one.execute(`UPDATE migrations SET checksum = 'x'`);
      await expect(migrate(one)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    } finally {
      await Promise.all([one.close(), other.close()]);
    }
  });
});

describe('the lease of a run', () => {
  it('has one holder, and an epoch that rises when the holder changes or comes back late', async () => {
    const database = await postgres.database();
    await reportCluster(database, 'c');
    const run = await putRun(database, 'c');
    const store = pgRunStore(database);
    const first = (await store.lease(run, 'a', 60_000)) ?? 0;
    expect(await store.lease(run, 'a', 60_000)).toBe(first);
    expect(await store.lease(run, 'b', 60_000)).toBeNull();
    expect(await store.lease(run, 'a', 0)).toBe(first);
    const taken = await until('b takes it', () => store.lease(run, 'b', 0).then((epoch) => epoch ?? undefined));
    expect(taken).toBeGreaterThan(first);
    const again = await until('a is back', () => store.lease(run, 'a', 60_000).then((epoch) => epoch ?? undefined));
    expect(again).toBeGreaterThan(taken);
  });

  it('fences: what was decided under an older epoch is not written, not even in part', async () => {
    const database = await postgres.database();
    await reportCluster(database, 'c');
    const run = await putRun(database, 'c');
    const store = pgRunStore(database);
    const old = (await store.lease(run, 'a', 0)) ?? 0;
    const now = await until('b takes it', () => store.lease(run, 'b', 60_000).then((epoch) => epoch ?? undefined));
    const { state } = await store.load(run);
    const write = { state: { ...state, pauseRequested: true }, events: [started(1)], actions: [], appliedSeq: 0 };
    expect(await store.commit(run, old, write)).toBe(false);
    expect((await findRun(database, run))?.state.pauseRequested).toBe(false);
    expect(await eventsAfter(database, run, 0, 10)).toEqual([]);
    expect(await store.commit(run, now, write)).toBe(true);
    expect((await store.load(run)).state.pauseRequested).toBe(true);
  });

  it('counts epochs over all runs of a cluster, since its agents remember the highest', async () => {
    const database = await postgres.database();
    await reportCluster(database, 'c');
    const first = await putRun(database, 'c');
    const store = pgRunStore(database);
    const epoch = (await store.lease(first, 'a', 60_000)) ?? 0;
    const { state } = await store.load(first);
    await store.commit(first, epoch, {
      state: { ...state, status: 'aborted' },
      events: [],
      actions: [],
      appliedSeq: 0,
    });
    const second = await putRun(database, 'c');
    expect(await store.lease(second, 'a', 60_000)).toBeGreaterThan(epoch);
    expect(await store.activeRuns()).toEqual([second]);
  });

  it.each([
    ['a new database, of which hosts remember another', 0, 0],
    ['a database put back from a backup, and a clock set back', 9_000_000_000, 9_000_000_001],
  ])('is higher than hosts have seen: %s', async (_, kept, atLeast) => {
    const database = await postgres.database();
    await reportCluster(database, 'c');
    const run = await putRun(database, 'c');
    const seen = Math.floor(Date.now() / 1000);
    await database.execute('UPDATE clusters SET epoch = $1', [kept]);
    const epoch = (await pgRunStore(database).lease(run, 'a', 60_000)) ?? 0;
    expect(epoch).toBeGreaterThanOrEqual(Math.max(seen, atLeast));
  });
});

describe('a run', () => {
  it('is the only one of its cluster that has not ended', async () => {
    const database = await postgres.database();
    await reportCluster(database, 'c');
    await reportCluster(database, 'other');
    const attempts = await Promise.allSettled([
      putRun(database, 'c'),
      putRun(database, 'c'),
      putRun(database, 'other'),
    ]);
    expect(attempts.filter(({ status }) => status === 'fulfilled')).toHaveLength(2);
    expect(attempts.find(({ status }) => status === 'rejected')).toMatchObject({ reason: { code: 'RUN_ACTIVE' } });
  });

  it('has a history that shows when anything in it was altered, left out or cut off', async () => {
    const database = await postgres.database();
    const { run, store, epoch, state } = await dispatched(database, 'c');
    const events: RunEvent[] = [2, 3].map((atMs) => ({ type: 'pause-requested', by: 'x', atMs }));
    await store.commit(run, epoch, { state, events, actions: [], appliedSeq: 0 });
    expect(await verifyHistory(database, run)).toBeUndefined();
    await database.execute(`UPDATE run_events SET event = event || '{"by":"y"}' WHERE run = $1 AND seq = 2`, [run]);
    expect(await verifyHistory(database, run)).toBe(2);
    await database.execute(`UPDATE run_events SET event = event || '{"by":"x"}' WHERE run = $1 AND seq = 2`, [run]);
    expect(await verifyHistory(database, run)).toBeUndefined();
    await database.execute('DELETE FROM run_events WHERE run = $1 AND seq = 3', [run]);
    expect(await verifyHistory(database, run)).toBe(3);
  });
});

describe('what agents send back', () => {
  it('counts once: the same result again changes nothing, and its action is due no more', async () => {
    const database = await postgres.database();
    const { node, store, run, action } = await dispatched(database, 'c');
    expect((await pendingActions(database, [node])).map(({ id }) => id)).toEqual([action.id]);
    const send = () => database.transaction((sql) => storeResult(sql, node, resultOf(action, 'c')));
    expect(await Promise.all([send(), send(), send()])).toEqual(['stored', 'stored', 'stored']);
    expect((await store.load(run)).inputs).toHaveLength(1);
    expect(await pendingActions(database, [node])).toEqual([]);
    const other = { ...resultOf(action, 'c'), action: 'run-0/fetch:n1/1' };
    expect(await database.transaction((sql) => storeResult(sql, node, other))).toBe('unknown');
    expect(await database.transaction((sql) => storeResult(sql, 'c-n2', resultOf(action, 'c')))).toBe('foreign');
  });

  it('tells of its time: what is known of the node now is what its stream told, however the clocks stand', async () => {
    const database = await postgres.database();
    const { node, action } = await dispatched(database, 'c');
    const before = await allNodes(database);
    const result = resultOf(action, 'c');
    const late = { ...result, report: { ...result.report, serving: false, observedAtMs: Date.now() + 3_600_000 } };
    await database.transaction((sql) => storeResult(sql, node, late));
    expect((await allNodes(database)).map(({ report }) => report)).toEqual(before.map(({ report }) => report));
  });

  it('is applied in the order it was stored, each once', async () => {
    const database = await postgres.database();
    const { node, store, run, action, epoch, state } = await dispatched(database, 'c');
    const progress = { action: action.id, phase: 'fetch', detail: 'half', atMs: 5 } as const;
    await database.transaction((sql) => storeProgress(sql, node, progress));
    await database.transaction((sql) => storeResult(sql, node, resultOf(action, 'c')));
    const { inputs } = await store.load(run);
    expect(inputs.map(({ seq, type }) => [seq, type])).toEqual([
      [1, 'progress'],
      [2, 'result'],
    ]);
    await store.commit(run, epoch, { state, events: [], actions: [], appliedSeq: 1 });
    expect((await store.load(run)).inputs.map(({ seq }) => seq)).toEqual([2]);
  });

  it('keeps output by its offset, bounded, with no piece twice', async () => {
    const database = await postgres.database();
    const { node, run, action } = await dispatched(database, 'c');
    const send = (offset: number, text: string) =>
      database.transaction((sql) => storeOutput(sql, node, { action: action.id, offset, text }));
    await send(0, 'one\0\n');
    await send(0, 'one\0\n');
    await send(5, 'x'.repeat(4 * 1024 * 1024));
    await send(9_999_999, 'too much');
    const pieces = await outputAfter(database, run, 0, 10);
    expect(pieces.map(({ seq, position }) => [seq, position])).toEqual([
      [1, 0],
      [2, 5],
    ]);
    expect(pieces[0]?.text).toBe('one\u2400\n');
  });

  it('a new attempt of a step takes the place of the one before; the end of the run of all', async () => {
    const database = await postgres.database();
    const { node, store, run, action, epoch, state } = await dispatched(database, 'c');
    const second = { ...action, id: `${run}/${action.step}/2`, attempt: 2 };
    await store.commit(run, epoch, { state, events: [], actions: [second], appliedSeq: 0 });
    expect((await pendingActions(database, [node])).map(({ id }) => id)).toEqual([second.id]);
    const ended = { ...state, status: 'aborted' } as const;
    await store.commit(run, epoch, { state: ended, events: [], actions: [], appliedSeq: 0 });
    expect(await pendingActions(database, [node])).toEqual([]);
  });
});

describe('a node', () => {
  it('belongs to its newest stream: neither the end nor the heartbeats of an older one count', async () => {
    const database = await postgres.database();
    const [node = ''] = await reportCluster(database, 'c', 1);
    const look = async () => (await allNodes(database))[0];
    await database.transaction((sql) => attachStream(sql, node, 'new', 60_000));
    await database.transaction((sql) => detachStream(sql, node, `stream-${node}`));
    expect(await look()).toMatchObject({ connected: true });
    const before = await look();
    await storeBeats(database, [{ node, stream: 'old', ageMs: 0, clockMs: 0 }], 60_000);
    expect(await look()).toEqual(before);
    // Told 100 ms ago, by a clock that shows this: written at some time between two moments, it is ahead by so much.
    const clockMs = Date.now() + 5_000;
    const earliestMs = await databaseNow(database);
    await storeBeats(database, [{ node, stream: 'new', ageMs: 100, clockMs, serving: false, ready: false }], 60_000);
    const latestMs = await databaseNow(database);
    const beaten = await look();
    expect(beaten?.report.serving).toBe(false);
    expect(beaten?.clockSkewMs).toBeLessThanOrEqual(clockMs - (earliestMs - 100));
    expect(beaten?.clockSkewMs).toBeGreaterThanOrEqual(clockMs - (latestMs - 100));
    await database.transaction((sql) => detachStream(sql, node, 'new'));
    expect(await look()).toMatchObject({ connected: false });
  });

  it('is not connected any more when its controller died without a word', async () => {
    const database = await postgres.database();
    await database.transaction((sql) => attachStream(sql, 'n', 's', 50));
    await database.execute('UPDATE nodes SET report = $1', [JSON.stringify(freshReport('c', 1, 1))]);
    await until('the link ran out', async () => (await allNodes(database))[0]?.connected === false);
  });
});

describe('access', () => {
  it('takes a one-time token once, and none for a name that is taken, unless it is for that very node', async () => {
    const database = await postgres.database();
    await reportCluster(database, 'c', 1);
    const make = (node?: string) => createEnrollment(database, { node, ttlMs: 60_000, by: 'test' });
    const spend = (secret: string, node: string) =>
      database.transaction((sql) => spendEnrollment(sql, secret, node, `${Math.random()}`));
    const { secret } = await make();
    const both = await Promise.allSettled([spend(secret, 'new-1'), spend(secret, 'new-2')]);
    expect(both.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
    const refusal = { code: 'ENROLLMENT_INVALID' };
    await expect(spend((await make()).secret, 'c-n1')).rejects.toMatchObject(refusal);
    await expect(spend((await make('c-n1')).secret, 'c-n2')).rejects.toMatchObject(refusal);
    await expect(spend((await make('c-n1')).secret, 'c-n1')).resolves.toMatchObject({ usedBy: 'c-n1' });
    await expect(spend('kwe_unknown', 'n')).rejects.toMatchObject(refusal);
  });

  it('is on record in a chain that shows tampering', async () => {
    const database = await postgres.database();
    const write = (n: number) => database.transaction((sql) => audit(sql, 'someone', 'test', { n }));
    await Promise.all([1, 2, 3, 4].map(write));
    expect(await verifyAudit(database)).toBeUndefined();
    await database.execute(`UPDATE audit SET actor = 'nobody' WHERE seq = 3`);
    expect(await verifyAudit(database)).toBe(3);
    await database.execute('DELETE FROM audit WHERE seq = 1');
    expect(await verifyAudit(database)).toBe(2);
  });
});

describe('backups', () => {
  const receipt = (madeAtMs: number, more: Partial<BackupReceipt> = {}): BackupReceipt => ({
    policy: 'copy',
    place: '/backups',
    version: '3.0.0',
    sizeBytes: 5,
    files: 1,
    manifestSha256: String(madeAtMs % 10).repeat(64),
    madeAtMs,
    removed: [],
    ...more,
  });

  it('are stored with the result that tells of them, once, the latest of a node', async () => {
    const database = await postgres.database();
    const { node, run, action } = await dispatched(database, 'c');
    const result = { ...resultOf(action, 'c'), backup: receipt(5) };
    await database.transaction((sql) => storeResult(sql, node, result));
    await database.transaction((sql) => storeResult(sql, node, { ...result, backup: receipt(7) }));
    expect(await findBackup(database, run)).toMatchObject({ id: run, parts: [{ node, madeAtMs: 5 }] });
    // A later attempt's, and then an earlier one's that comes late.
    for (const at of [9, 8]) await database.transaction((sql) => storeBackup(sql, run, node, receipt(at)));
    expect((await findBackup(database, run))?.parts).toMatchObject([
      { node, madeAtMs: 9, manifestSha256: '9'.repeat(64) },
    ]);
    // Copies of a rolling upgrade are of different moments.
    expect(await findBackup(database, run)).toMatchObject({ oneMoment: false, nodes: 3, version: '3.0.0' });
    expect(await findBackup(database, 'run_nobody')).toBeUndefined();
  });

  const COPIED = { status: 'succeeded', attempt: 1, startedAtMs: 6, endedAtMs: 5 } as const;

  /** The run is of this plan, and all its steps came to the same end, but for `steps`. */
  async function ended(database: Database, run: string, plan: Plan, steps: RunState['steps'] = {}): Promise<void> {
    const state = initialState(run, plan);
    const all = Object.fromEntries(Object.keys(state.steps).map((id) => [id, COPIED]));
    const text = JSON.stringify({ ...state, steps: { ...all, ...steps } });
    await database.execute(`UPDATE runs SET plan = $2, state = $3, status = 'succeeded' WHERE id = $1`, [
      run,
      JSON.stringify(plan),
      text,
    ]);
  }

  it('an order for a copy names the newest that can be restored: its host leaves that one alone', async () => {
    const database = await postgres.database();
    await reportCluster(database, 'c');
    const whole = planFor('single-replica', 3, { backup: { policy: 'copy' } });
    const rolling = planFor('multi-replica', 3, { backup: { policy: 'copy' } });
    const put = async (plan: Plan, copied: readonly string[]) => {
      const run = await putRun(database, 'c');
      for (const node of copied) await storeBackup(database, run, node, receipt(1));
      await ended(database, run, plan);
      return run;
    };
    const all = whole.nodes.map(({ node }) => node);
    const ordered = async (plan: Plan, change: Partial<Action> = {}) => {
      const run = await putRun(database, 'c');
      const store = pgRunStore(database);
      const epoch = (await store.lease(run, 'a', 60_000)) ?? 0;
      const state = initialState(run, plan);
      const step = stepOf(plan, plan.steps[0]?.id ?? '');
      const action = { ...actionFor(plan, state, step, { executor: 'n1', epoch, nowMs: 0 }), node: 'c-n1', ...change };
      await database.execute('UPDATE runs SET plan = $2 WHERE id = $1', [run, JSON.stringify(plan)]);
      await store.commit(run, epoch, { state, events: [started(1)], actions: [action], appliedSeq: 0 });
      const [order] = await pendingActions(database, ['c-n1']);
      await ended(database, run, plan);
      await database.execute('UPDATE actions SET ended_at_ms = 1 WHERE run = $1', [run]);
      return { run, stands: order?.standingBackup };
    };
    expect((await ordered(whole)).stands).toBeUndefined();
    const first = await put(whole, all);
    // Newer ones, that cannot be: of different moments, of two nodes, and one whose copy is gone.
    await put(rolling, all);
    await put(whole, all.slice(1));
    expect((await ordered(whole)).stands).toBe(first);
    const last = await put(whole, all);
    const { run, stands } = await ordered(rolling);
    expect(stands).toBe(last);
    await storeBackup(database, run, 'n1', receipt(2, { removed: [last] }));
    expect((await ordered(whole)).stands).toBe(first);
    // Nothing is copied, or nothing is missing once this copy is made.
    expect((await ordered(whole, { backup: 'command' })).stands).toBeUndefined();
    expect((await ordered(planFor('standalone', 1, { backup: { policy: 'copy' } }))).stands).toBeUndefined();
  });

  it('are of one moment only where the run says that each was begun after the last stop', async () => {
    const database = await postgres.database();
    await reportCluster(database, 'c');
    const run = await putRun(database, 'c');
    const plan = planFor('single-replica', 3, { backup: { policy: 'copy' } });
    const nodes = plan.nodes.map(({ node }) => node);
    for (const node of nodes) await storeBackup(database, run, node, receipt(1));
    const moment = async (id: string, change: Partial<StepState>) => {
      await ended(database, run, plan, { [id]: { ...COPIED, ...change } });
      return (await findBackup(database, run))?.oneMoment;
    };
    expect(await moment('back-up:n1', {})).toBe(true);
    expect(await moment('back-up:n1', { startedAtMs: 4 })).toBe(false);
    expect(await moment('stop:n3', { endedAtMs: 7 })).toBe(false);
    // Its copy is that of an attempt before.
    expect(await moment('back-up:n2', { status: 'failed' })).toBe(false);
  });

  it('are known to be gone once their host says so, and come in pages', async () => {
    const database = await postgres.database();
    const [first = '', second = ''] = await Promise.all(
      ['a', 'b'].map(async (cluster) => {
        await reportCluster(database, cluster);
        return putRun(database, cluster);
      }),
    );
    await storeBackup(database, first, 'n1', receipt(1));
    await storeBackup(database, first, 'n2', receipt(1));
    await storeBackup(database, second, 'n1', receipt(2, { removed: [first, second] }));
    const { parts } = (await findBackup(database, first)) ?? { parts: [] };
    expect(parts.map(({ node, removedAtMs }) => [node, removedAtMs !== undefined])).toEqual([
      ['n1', true],
      ['n2', false],
    ]);
    expect((await findBackup(database, second))?.parts[0]?.removedAtMs).toBeUndefined();
    const page = await listBackups(database, { limit: 1 });
    const rest = await listBackups(database, { limit: 1, cursor: page.cursor });
    expect([...page.items, ...rest.items].map(({ id }) => id).sort()).toEqual([first, second].sort());
    expect((await listBackups(database, { cluster: 'a' })).items.map(({ id }) => id)).toEqual([first]);
  });
});

it('a package is in use by a run that is not ended, also as the way back, and by none that is', async () => {
  const database = await postgres.database();
  await reportCluster(database, 'packages');
  const run = await putRun(database, 'packages');
  const [wanted, previous, other] = ['1'.repeat(64), '2'.repeat(64), '4'.repeat(64)];
  const packages = JSON.stringify({
    package: { sha256: wanted },
    previousPackage: { sha256: previous },
    otherPreviousPackages: [{ sha256: '5'.repeat(64) }, { sha256: other, kind: 'bare' }],
  });
  await database.execute('UPDATE runs SET plan = plan || $2 WHERE id = $1', [run, packages]);
  const users = () =>
    Promise.all([wanted, previous, other, '3'.repeat(64)].map((one) => runUsingPackage(database, one)));
  expect(await users()).toEqual([run, run, run, undefined]);
  await database.execute(`UPDATE runs SET status = 'held' WHERE id = $1`, [run]);
  expect(await users()).toEqual([run, run, run, undefined]);
  for (const status of ['succeeded', 'failed', 'aborted']) {
    await database.execute('UPDATE runs SET status = $2 WHERE id = $1', [run, status]);
    expect(await users()).toEqual([undefined, undefined, undefined, undefined]);
  }
});
