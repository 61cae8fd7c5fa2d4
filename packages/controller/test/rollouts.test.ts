import { rm } from 'node:fs/promises';
import { setTimeout as pause } from 'node:timers/promises';
import {
  FleetError,
  initialRollout,
  type RolloutChecks,
  type RolloutEventView,
  type RolloutFile,
  type RolloutView,
  readRollout,
} from '@kwfleet/core';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { readReport, verifyReport } from '../../cli/src/verify-report.ts';
import { pkg } from '../../core/test/builders.ts';
import { advanceRollout } from '../src/rollouts/turn.ts';
import type { Database } from '../src/store/database.ts';
import { attachStream, storeReport } from '../src/store/nodes.ts';
import { insertPackage } from '../src/store/packages.ts';
import { activeRollouts, insertRollout, needRollout, rolloutEvents, verifyRollout } from '../src/store/rollouts.ts';
import { openOnlineKey } from '../src/trust/online-key.ts';
import { openRepository } from '../src/trust/repository.ts';
import { Crash, Dying } from './dying.ts';
import { RestRig } from './rest-rig.ts';
import { freshReport, log, temporaryDirectory, until, usePostgres } from './support.ts';

const postgres = usePostgres();

const FILE = `name: autumn
to: 3.1.0
select: {versions: ["<3.1.0"]}
waves:
  - {name: canary, count: 1}
  - {name: rest}
failures: {budget: 1}
backup: {policy: none, reason: a test}
options: {soak: 0s}
`;

describe('a rollout over REST', () => {
  let rig: RestRig;
  beforeAll(async () => {
    const settings = await postgres.settings().catch(() => undefined);
    if (settings !== undefined) rig = await RestRig.open(settings);
  });
  afterAll(() => rig?.close());
  beforeEach(async () => {
    await rig?.database.execute(
      `UPDATE runs SET epoch = epoch + 1, status = 'aborted', state = state || '{"status": "aborted"}'`,
    );
  });

  const create = (file: string, token?: string) => rig.get<RolloutView>('/v1/rollouts', { token, json: { file } });
  const look = (id: string) => rig.get<RolloutView>(`/v1/rollouts/${id}`);
  const ask = (id: string, what: string, json: object = {}, token?: string) =>
    rig.get<Omit<RolloutView, 'status'> & { code?: string }>(`/v1/rollouts/${id}/${what}`, { token, json });
  /** As if the agents had done it. The epoch rises, so that what the runner decided meanwhile is not written over it. */
  const finish = (run: string | undefined, status: 'succeeded' | 'held') =>
    rig.database.execute(
      `UPDATE runs SET status = $2, epoch = epoch + 1, state = state || jsonb_build_object('status', $2::text, 'hold', jsonb_build_object(
         'code', 'INSTALL_FAILED', 'message', 'it broke', 'remedy', '', 'choices', '["abort"]'::jsonb,
         'selfClearing', false, 'sinceMs', 1)) WHERE id = $1`,
      [run, status],
    );

  it('is checked, walks its waves with ordinary runs, and ends with its whole history', async () => {
    for (const id of ['a', 'b', 'c']) await rig.cluster(id);
    const preview = await rig.get<{ items: RolloutChecks[] }>('/v1/rollouts/check', { json: { file: FILE } });
    expect(preview.items.map(({ cluster, wave, blocked }) => [cluster, wave, blocked])).toEqual([
      ['a', 'canary', false],
      ['b', 'rest', false],
      ['c', 'rest', false],
    ]);
    const { id } = await create(FILE);
    const canary = await until('the canary runs', async () => {
      const { clusters } = await look(id);
      return clusters.a?.run;
    });
    expect(await look(id)).toMatchObject({ status: 'running', counts: { running: 1, waiting: 2 }, wave: 'canary' });
    expect((await rig.get<{ items: RolloutChecks[] }>(`/v1/rollouts/${id}/checks`)).items).toHaveLength(3);
    await finish(canary, 'succeeded');
    await until('the rest runs', async () => (await look(id)).counts.running === 2);
    const { clusters } = await look(id);
    await finish(clusters.b?.run, 'succeeded');
    await finish(clusters.c?.run, 'held');
    const ended = await until('it ends', async () => {
      const view = await look(id);
      return view.status === 'incomplete' && view;
    });
    expect(ended.reason).toContain('2 of 3 clusters are at the target; not there: kwdb-c (INSTALL_FAILED)');
    const { items } = await rig.get<{ items: RolloutEventView[] }>(`/v1/rollouts/${id}/events`);
    expect(items.map(({ type }) => type)).toEqual([
      'rollout-begun',
      'rollout-checked',
      'wave-started',
      'cluster-started',
      'cluster-succeeded',
      'wave-settled',
      'wave-ended',
      'wave-started',
      'cluster-started',
      'cluster-started',
      ...items.slice(10, 12).map(({ type }) => type),
      'wave-settled',
      'wave-ended',
      'rollout-ended',
    ]);
    const told = await rig.database.query<{ event: string; title: string }>(
      `SELECT content ->> 'event' AS event, content ->> 'title' AS title FROM notifications
       WHERE content ->> 'rollout' = $1 ORDER BY at_ms, id`,
      [id],
    );
    expect(told.map(({ event }) => event).sort()).toEqual(['rollout-done', 'wave-done', 'wave-done']);
    expect(told.map(({ title }) => title)).toContain('The rollout autumn to 3.1.0 is incomplete');
    expect(await verifyRollout(rig.database, await needRollout(rig.database, id))).toBeUndefined();
    const [json, page, markdown] = await Promise.all(
      ['json', 'html', 'markdown'].map(async (format) =>
        (await rig.ask(`/v1/rollouts/${id}/report?format=${format}`)).text(),
      ),
    );
    const report = readReport(json ?? '', 'json');
    expect(verifyReport(readReport(page ?? '', 'html'), report)).toContain(`The report of ${id} is whole`);
    expect(() => verifyReport({ ...report, kind: 'run' }, report)).toThrow();
    expect(page).not.toMatch(/(?:src|href)=["']|<img|<link/);
    for (const form of [page, markdown]) {
      for (const words of ['kwdb-c', 'INSTALL_FAILED', 'canary', 'Rollout autumn to 3.1.0'])
        expect(form).toContain(words);
    }
    await rig.database.execute(
      `UPDATE rollout_events SET event = event || '{"wave": "x"}' WHERE rollout = $1 AND seq = 3`,
      [id],
    );
    expect(await verifyRollout(rig.database, await needRollout(rig.database, id))).toBe(3);
  });

  it('waits for the people of its policy, bound to the hash that they saw; its runs need no further word', async () => {
    await rig.cluster('approved');
    const put = {
      method: 'PUT',
      body: JSON.stringify({ approvers: 2, labels: { environment: 'production' } }),
      headers: { 'content-type': 'application/json' },
    };
    expect((await rig.ask('/v1/approval-policies/two', put)).status).toBe(200);
    const [ann, bo, cai] = [
      await rig.person('ann', 'approver'),
      await rig.person('bo', 'approver'),
      await rig.person('cai', 'approver'),
    ];
    const { id } = await create(
      `${FILE.replace('select:', 'approval: two\nselect:')}except: {clusters: [a, b, c]}`,
      ann,
    );
    const waiting = await until('it waits', async () => {
      const view = await look(id);
      return view.status === 'awaiting_approval' && view;
    });
    expect(waiting.approvals).toMatchObject([{ scope: 'start', missing: 2, policies: ['two'] }]);
    const { hash = '' } = waiting;
    expect(await ask(id, 'approve', { hash: 'f'.repeat(64) }, bo)).toMatchObject({ code: 'APPROVAL_REFUSED' });
    expect(await ask(id, 'approve', { hash }, ann)).toMatchObject({ code: 'APPROVAL_REFUSED' });
    expect((await ask(id, 'approve', { hash }, bo)).approvals).toMatchObject([{ missing: 1, people: ['bo'] }]);
    expect((await look(id)).status).toBe('awaiting_approval');
    await ask(id, 'approve', { hash }, cai);
    const run = await until('it runs', async () => (await look(id)).clusters.approved?.run);
    await until(
      'its run needs no approval',
      async () => (await rig.get<{ status: string }>(`/v1/runs/${run}`)).status === 'running',
    );
    expect(await ask(id, 'approve', { hash }, bo)).toMatchObject({ code: 'ROLLOUT_CHOICE_ILLEGAL' });
    // Aborted, it ends once its run has.
    await ask(id, 'abort');
    await finish(run, 'succeeded');
    await until('it is aborted', async () => (await look(id)).status === 'aborted');
    expect((await rig.get<{ items: unknown[] }>('/v1/approvals')).items).toEqual([]);
  });

  it('pauses when unreachable clusters and failures exceed its budget, and names what blocks', async () => {
    await rig.cluster('well');
    const agents = await rig.cluster('gone');
    for (const agent of agents) agent.close();
    await until('it is gone', async () => (await rig.get<{ state: string }>('/v1/clusters/gone')).state === 'unknown');
    const { id } = await create(
      FILE.replace('budget: 1', 'budget: 0').replace('select: {', 'select: {clusters: [well, gone], '),
    );
    const paused = await until('it pauses', async () => {
      const view = await look(id);
      return view.status === 'paused' && view;
    });
    const told = await rig.database.query<{ code: string }>(
      `SELECT content ->> 'code' AS code FROM notifications WHERE content ->> 'rollout' = $1 AND content ->> 'event' = 'held'`,
      [id],
    );
    expect(told).toEqual([{ code: 'ROLLOUT_CHECKS_BLOCK' }]);
    expect(paused.pause).toMatchObject({
      code: 'ROLLOUT_CHECKS_BLOCK',
      message: expect.stringContaining('NODE_UNREACHABLE'),
    });
    expect(await ask(id, 'pause')).toMatchObject({ code: 'ROLLOUT_CHOICE_ILLEGAL' });
    await ask(id, 'resume');
    // Its turn comes first, it cannot be planned, and that is one failure too many.
    const again = await until('it pauses again', async () => {
      const view = await look(id);
      return view.status === 'paused' && view.pause?.code === 'ROLLOUT_BUDGET_SPENT' && view;
    });
    expect(again.clusters.gone).toMatchObject({ status: 'failed', code: 'NODE_UNREACHABLE' });
    await ask(id, 'abort');
    await until('it ends', async () => (await look(id)).status === 'aborted');
  });

  describe('after the soak', () => {
    let isClean = true;
    const report = (id: string) => {
      const whole = freshReport(id, 1);
      const { installation } = whole;
      if (installation === undefined || isClean) return whole;
      return { ...whole, installation: { ...installation, condition: 'package-half-installed' as const } };
    };
    const kindsOf = async (id: string) =>
      (await rig.get<{ items: RolloutEventView[] }>(`/v1/rollouts/${id}/events`)).items.map(({ type }) => type);
    /** A rollout over this cluster, the run of which has just ended while its first node is known not to be well. */
    const through = async (cluster: string) => {
      isClean = true;
      const [first] = await rig.cluster(cluster);
      const { id } = await create(FILE.replace('select: {', `select: {clusters: [${cluster}], `));
      const run = await until('it runs', async () => (await look(id)).clusters[cluster]?.run);
      isClean = false;
      first?.reporting(() => report(cluster));
      const state = async () => (await rig.get<{ state: string }>(`/v1/clusters/${cluster}`)).state;
      await until('it is not well', async () => (await state()) === 'degraded');
      return { id, first, end: () => finish(run, 'succeeded') };
    };
    const ends = (id: string, status: string) =>
      until(`it is ${status}`, async () => (await look(id)).status === status);

    it('the agents are asked: what they said before their upgrade ended fails no cluster', async () => {
      const { id, end } = await through('stale');
      isClean = true;
      await end();
      await ends(id, 'succeeded');
      expect(await kindsOf(id)).not.toContain('wave-unwell');
    });

    it('a cluster that is unwell for a moment is no failure, and one that stays so is', async () => {
      const [moment, lasting] = [await through('moment'), await through('lasting')];
      for (const { id, end } of [moment, lasting]) {
        await end();
        await until('it is given a moment', async () => (await kindsOf(id)).includes('wave-unwell'));
      }
      isClean = true;
      moment.first?.send({ report: report('moment') });
      await ends(moment.id, 'succeeded');
      isClean = false;
      expect((await look(lasting.id)).clusters.lasting?.status).toBe('succeeded');
      await rig.database.execute(
        `UPDATE rollouts SET state = jsonb_set(state, '{waves,0,unwellAtMs}', '0') WHERE id = $1`,
        [lasting.id],
      );
      await ends(lasting.id, 'incomplete');
      expect((await look(lasting.id)).clusters.lasting).toMatchObject({
        code: 'CLUSTER_UNHEALTHY',
        message: expect.stringContaining('lasting-n1 is degraded: package-half-installed'),
      });
      for (const { id } of [moment, lasting]) {
        expect((await kindsOf(id)).filter((type) => type === 'wave-unwell')).toHaveLength(1);
      }
    });
  });

  it('is counted by its status in the metrics', async () => {
    const counted = async () =>
      /^kwfleet_rollouts\{status="scheduled"\} (\d+)/m.exec(await (await rig.ask('/metrics')).text())?.[1];
    expect(await counted()).toBeUndefined();
    const { id } = await create(`${FILE}start: {zone: UTC, at: 2099-01-01}`);
    expect(await counted()).toBe('1');
    await ask(id, 'abort');
    await until('it ends', async () => (await counted()) === undefined);
  });

  it('refuses what is written wrongly, with the places, and names that nothing has', async () => {
    const wrong = await create(FILE.replace('count: 1', 'count: -1'));
    expect(wrong).toMatchObject({ code: 'FILE_INVALID', mistakes: [{ line: 5, column: 27 }] });
    expect(await create(`${FILE}windows: [none]`)).toMatchObject({ code: 'WINDOW_UNKNOWN' });
    expect(await create(`${FILE}approval: none`)).toMatchObject({ code: 'APPROVAL_POLICY_UNKNOWN' });
    expect(await create(`${FILE}start: {zone: UTC, at: 2020-01-01}`)).toMatchObject({ code: 'FILE_INVALID' });
    expect(await look('rollout-none')).toMatchObject({ code: 'ROLLOUT_UNKNOWN' });
  });
});

/** As a controller sees it that takes itself for the holder of every lease. */
const believing = (database: Database): Database => ({
  ...database,
  execute: async (text, values) => (text.includes('SET lease_owner') ? 1 : database.execute(text, values)),
});

function specOf(text: string): RolloutFile {
  const written = readRollout(text);
  if ('mistakes' in written) throw new Error(JSON.stringify(written.mistakes));
  return written.value;
}

/** Standalone clusters of one node each, all of one name, whose agents are connected and have reported. */
async function reporting(database: Database, clusters: readonly string[]): Promise<void> {
  for (const cluster of clusters) {
    await database.transaction(async (sql) => {
      await attachStream(sql, cluster, `stream-${cluster}`, 3_600_000);
      await storeReport(sql, cluster, freshReport(cluster, 1, 1, 'standalone'));
    });
  }
}

/** The agents report all the time, as those do that are asked. */
async function whileReporting<T>(database: Database, work: () => Promise<T>): Promise<T> {
  let over = false;
  const report = async () => {
    while (!over) {
      await database.execute(
        `UPDATE nodes SET last_seen_ms = now_ms(), report = report || jsonb_build_object('observedAtMs', now_ms())`,
      );
      // No lease keeps the two apart: what is done once must be done once without.
      const rollouts = await activeRollouts(database);
      for (const id of rollouts) await database.execute('UPDATE rollouts SET lease_until_ms = 0 WHERE id = $1', [id]);
      await pause(20);
    }
  };
  const reporting = report();
  try {
    return await work();
  } finally {
    over = true;
    await reporting;
  }
}

/** Does something once the rollout's checks are written: between them and its first start. */
function cutAfterChecks(database: Database, work: () => Promise<unknown>): Database['transaction'] {
  let isDone = false;
  return async (inner, isolation) => {
    const result = await database.transaction(inner, isolation);
    const [row] = await database.query('SELECT 1 FROM rollout_checks LIMIT 1');
    if (row !== undefined && !isDone) {
      isDone = true;
      await work();
    }
    return result;
  };
}

describe('a turn', () => {
  /** Begun over these clusters, all of one wave, and checked; standalone, as their agents reported them. */
  async function begun(name: string, clusters: readonly string[], budget = 1) {
    const database = await postgres.database();
    const directory = await temporaryDirectory();
    postgres.cleanUp(() => rm(directory, { recursive: true, force: true }));
    await openRepository(database, await openOnlineKey(directory), log);
    await insertPackage(database, pkg(), 'test');
    await reporting(database, clusters);
    const text = FILE.replace(/waves:[\s\S]*?failures: .*/, `waves: [{name: all}]\nfailures: {budget: ${budget}}`);
    const id = `rollout-${name}`;
    const spec = specOf(text);
    await insertRollout(database, { id, file: text, spec, state: initialRollout(id, 1), by: 'ann' });
    return { database, id };
  }
  const cutOff = (database: Database, cluster: string) =>
    database.execute('UPDATE nodes SET stream = NULL, connected_until_ms = 0 WHERE node = $1', [cluster]);
  const stateOf = async (database: Database, id: string) => (await needRollout(database, id)).state;
  const patient = { timeout: 120_000 };

  it(
    'waits for agents that may be on their way back: neither its checks nor its starts take them for lost',
    patient,
    async () => {
      const { database, id } = await begun('outage', ['a', 'b']);
      await whileReporting(database, async () => {
        await cutOff(database, 'a');
        expect(await advanceRollout(database, 'x', id, false)).toBe(true);
        expect((await stateOf(database, id)).status).toBe('checking');
        await reporting(database, ['a']);
        // Away again, once it was checked and before it is started.
        const cut = { ...database, transaction: cutAfterChecks(database, () => cutOff(database, 'a')) };
        await advanceRollout(cut, 'x', id, false);
        const waiting = await stateOf(database, id);
        expect([waiting.status, waiting.clusters.a?.status, waiting.clusters.b?.status]).toEqual([
          'running',
          'waiting',
          'running',
        ]);
        await advanceRollout(database, 'x', id, true);
        expect((await stateOf(database, id)).clusters.a).toMatchObject({ status: 'failed', code: 'NODE_UNREACHABLE' });
      });
    },
  );

  it('fails a cluster that is gone, and goes on with the others', patient, async () => {
    const { database, id } = await begun('gone', ['a', 'b']);
    await whileReporting(database, async () => {
      const removed = {
        ...database,
        transaction: cutAfterChecks(database, () => database.execute(`DELETE FROM nodes WHERE node = 'a'`)),
      };
      await advanceRollout(removed, 'x', id);
      expect((await stateOf(database, id)).clusters).toMatchObject({
        a: { status: 'failed', code: 'CLUSTER_UNKNOWN' },
        b: { status: 'running' },
      });
    });
  });

  it('begins nothing more once its budget is spent', patient, async () => {
    const { database, id } = await begun('spent', ['a', 'b', 'c'], 0);
    await whileReporting(database, async () => {
      const removed = {
        ...database,
        transaction: cutAfterChecks(database, () => database.execute(`DELETE FROM nodes WHERE node = 'a'`)),
      };
      await advanceRollout(removed, 'x', id);
      const { status, pause, clusters } = await stateOf(database, id);
      expect([status, pause?.code]).toEqual(['paused', 'ROLLOUT_BUDGET_SPENT']);
      expect([clusters.b?.status, clusters.c?.status]).toEqual(['waiting', 'waiting']);
    });
  });
});

describe('controllers that die at any statement, or believe that each is the only one', () => {
  /** Walks a recurring rollout of two clusters to its end; answers what was started, and how many come after it. */
  async function walk(database: Database, name: string, dieAt: number, others: readonly string[] = []) {
    const clusters = [`${name}-1`, `${name}-2`];
    await reporting(database, clusters);
    const text = `${FILE.replace('select:', `start: {zone: UTC, every: {weekly: [mon], at: "01:00"}}\nselect:`)
      .replace('versions: ["<3.1.0"]', `clusters: [${clusters.join(', ')}]`)
      .replace('name: autumn', `name: ${name}`)}`;
    const id = `rollout-${name}`;
    await insertRollout(database, { id, file: text, spec: specOf(text), state: initialRollout(id, 1), by: 'ann' });
    const dying = new Dying(database, dieAt);
    let current = dying.database;
    let owner = 'first';
    // It ends; the time is for the case that it does not.
    for (const untilMs = Date.now() + 300_000; Date.now() < untilMs; ) {
      try {
        const turns = others.map((other) => advanceRollout(believing(database), other, id));
        await Promise.all([advanceRollout(others.length > 0 ? believing(current) : current, owner, id), ...turns]);
      } catch (error) {
        // A conflict with the other is tried again, as the loop does.
        if (error instanceof FleetError && error.code === 'UNAVAILABLE') continue;
        if (!(error instanceof Crash)) throw error;
        current = database;
        owner = 'third';
      }
      await database.execute(
        `UPDATE runs SET epoch = epoch + 1, status = 'succeeded', state = state || '{"status": "succeeded"}' WHERE rollout = $1`,
        [id],
      );
      if ((await needRollout(database, id)).state.status === 'succeeded') break;
    }
    return { id, statements: dying.count };
  }

  it('every cluster is started once, the next occurrence is made once, and the history is whole', async () => {
    const database = await postgres.database();
    const directory = await temporaryDirectory();
    postgres.cleanUp(() => rm(directory, { recursive: true, force: true }));
    await openRepository(database, await openOnlineKey(directory), log);
    await insertPackage(database, pkg(), 'test');
    await whileReporting(database, () => dieEverywhere(database));
  }, 1_200_000);

  async function expectOnce(database: Database, name: string, id: string): Promise<void> {
    const row = await needRollout(database, id);
    expect([name, row.state.status, row.state.reason]).toEqual([
      name,
      'succeeded',
      '2 of 2 clusters are at the target',
    ]);
    const runs = await database.query<{ cluster: string }>(
      'SELECT cluster FROM runs WHERE rollout = $1 ORDER BY cluster',
      [id],
    );
    expect(runs.map(({ cluster }) => cluster)).toEqual([`${name}-1`, `${name}-2`]);
    const types = (await rolloutEvents(database, id, 0, 1_000)).map(({ event }) => event.type);
    expect(types.filter((type) => type === 'cluster-started')).toHaveLength(2);
    expect(types.filter((type) => type === 'rollout-ended')).toHaveLength(1);
    const after = await database.query<{ id: string; startAtMs: number }>(
      `SELECT id, (state ->> 'startAtMs')::bigint AS "startAtMs" FROM rollouts WHERE after = $1`,
      [id],
    );
    expect([name, after.length]).toEqual([name, 1]);
    expect(after[0]?.startAtMs).toBeGreaterThan(Date.now());
    expect(await verifyRollout(database, row)).toBeUndefined();
  }

  async function dieEverywhere(database: Database): Promise<void> {
    const whole = await walk(database, 'whole', Number.POSITIVE_INFINITY);
    expect(whole.statements).toBeGreaterThan(20);
    // A few moments: they lie close, and each costs a whole walk.
    for (let dieAt = 1; dieAt <= whole.statements; dieAt += 17) {
      const { id } = await walk(database, `d${dieAt}`, dieAt);
      await expectOnce(database, `d${dieAt}`, id);
    }
    for (let again = 0; again < 4; again++) {
      const { id } = await walk(database, `r${again}`, Number.POSITIVE_INFINITY, ['second', 'third']);
      await expectOnce(database, `r${again}`, id);
    }
    expect(await activeRollouts(database)).not.toContain(whole.id);
  }
});
