import type { Notification } from '@kwfleet/core';
import { describe, expect, it } from 'vitest';
import { keepHouse, RETENTION } from '../src/housekeeping.ts';
import { advance } from '../src/runner/advance.ts';
import { recordApproval, requestApproval } from '../src/store/approvals.ts';
import { putClientView } from '../src/store/client-views.ts';
import { appendHealth } from '../src/store/health.ts';
import { notify } from '../src/store/notifications.ts';
import { pgRunStore } from '../src/store/run-store.ts';
import { verifyHistory } from '../src/store/runs.ts';
import { putRun, reportCluster, usePostgres } from './support.ts';

const postgres = usePostgres();
const DAY_MS = 86_400_000;
const WEEK = { ...RETENTION, runsDays: 7, healthDays: 7, notificationsDays: 7, plansDays: 7, outputDays: 7 };

/** A run with something of everything that hangs on one, ended so long ago; with `keep`, it is still under way. */
async function oldRun(database: Awaited<ReturnType<typeof postgres.database>>, cluster: string, daysAgo?: number) {
  await reportCluster(database, cluster);
  const run = await putRun(database, cluster);
  await advance(pgRunStore(database), 'test', run);
  await database.execute(
    `INSERT INTO actions (id, run, step, node, action, created_at_ms) VALUES ($1 || '/a', $1, 's', 'n', '{}', 0)`,
    [run],
  );
  await database.execute(
    `INSERT INTO action_output (action, run, seq, position, at_ms, text) VALUES ($1 || '/a', $1, 1, 0, 0, 'x')`,
    [run],
  );
  const requirement = { policies: ['p'], approvers: 1, requesterMayApprove: false, validForMs: 60_000 };
  await requestApproval(database, { subject: `run:${run}`, run, title: 't', hash: 'h', requirement, by: 'ann' });
  await database.transaction((sql) => recordApproval(sql, { subject: `run:${run}`, hash: 'h', actor: 'bo' }));
  const counts = { attempted: 1, acknowledged: 1, failedFirstTry: 0, failedAfterRetry: 0, lostAcknowledged: 0 };
  await putClientView(database, run, { source: 'probe', ...counts, maxStallMs: 0 }, 'test');
  if (daysAgo !== undefined) {
    const ended = JSON.stringify({ status: 'succeeded', endedAtMs: Date.now() - daysAgo * DAY_MS });
    await database.execute(`UPDATE runs SET status = 'succeeded', state = state || $2 WHERE id = $1`, [run, ended]);
  }
  return run;
}

describe('what is older than its time', () => {
  it('goes: runs as a whole, with all that hangs on them; what is under way or younger stays whole', async () => {
    const database = await postgres.database();
    const old = await oldRun(database, 'a', 8);
    const young = await oldRun(database, 'b', 6);
    const active = await oldRun(database, 'c');
    expect(await keepHouse(database, WEEK)).toMatchObject({ runs: 1 });
    const left = await database.query<{ id: string }>('SELECT id FROM runs');
    expect(new Set(left.map(({ id }) => id))).toEqual(new Set([young, active]));
    for (const table of ['actions', 'action_output', 'run_events', 'approval_requests', 'client_views']) {
      expect(await database.query(`SELECT 1 FROM ${table} WHERE run = $1`, [old]), table).toEqual([]);
    }
    expect(await verifyHistory(database, young)).toBeUndefined();
    // Output of a run that is under way is not old, whatever its age.
    expect(await database.query('SELECT 1 FROM action_output WHERE run = $1', [active])).toHaveLength(1);
    expect(await database.query('SELECT 1 FROM action_output WHERE run = $1', [young])).toHaveLength(0);
  });

  it('of runs leaves those whose copies a cluster could be brought back from', async () => {
    const database = await postgres.database();
    const [kept, removed] = [await oldRun(database, 'a', 8), await oldRun(database, 'b', 8)];
    for (const [run, removedAtMs] of [
      [kept, null],
      [removed, 1],
    ]) {
      await database.execute(
        `INSERT INTO backups (run, node, receipt, made_at_ms, stored_at_ms, removed_at_ms) VALUES ($1, 'n', '{}', 0, 0, $2)`,
        [run, removedAtMs],
      );
    }
    expect(await keepHouse(database, WEEK)).toMatchObject({ runs: 1 });
    expect(await database.query('SELECT id FROM runs')).toEqual([{ id: kept }]);
    expect(await database.query('SELECT run FROM backups')).toEqual([{ run: kept }]);
  });

  it('of plans leaves those that were started, and the young', async () => {
    const database = await postgres.database();
    await reportCluster(database, 'a');
    await putRun(database, 'a');
    const [started] = await database.query<{ id: string }>('SELECT id FROM plans');
    for (const id of ['old', 'young']) {
      await database.execute(
        `INSERT INTO plans SELECT (jsonb_populate_record(plans, jsonb_build_object('id', $1::text))).* FROM plans WHERE id = $2`,
        [id, started?.id],
      );
    }
    await database.execute(`UPDATE plans SET created_at_ms = 0 WHERE id <> 'young'`);
    expect(await keepHouse(database, WEEK)).toMatchObject({ plans: 1 });
    const left = await database.query<{ id: string }>('SELECT id FROM plans');
    expect(new Set(left.map(({ id }) => id))).toEqual(new Set([started?.id, 'young']));
  });

  it('of what is younger nothing goes', async () => {
    const database = await postgres.database();
    const change = { kind: 'node', cluster: 'c', detail: '' } as const;
    const nowMs = Date.now();
    await appendHealth(database, [{ ...change, id: 'n1', state: 'down' }], nowMs - 6 * DAY_MS);
    await appendHealth(database, [{ ...change, id: 'n1', state: 'healthy' }], nowMs);
    // The last word of a node stays, whatever was told of another since.
    await appendHealth(database, [{ ...change, id: 'n2', state: 'down' }], 0);
    await appendHealth(database, [{ ...change, id: 'n3', state: 'healthy' }], nowMs);
    await notify(database, { event: 'held', severity: 'info', title: 't', lines: [], clusters: [] });
    await database.execute('UPDATE notifications SET at_ms = $1', [nowMs - 6 * DAY_MS]);
    expect(await keepHouse(database, WEEK)).toMatchObject({ health: 0, notifications: 0 });
  });

  it('is left alone while another controller does it', async () => {
    const database = await postgres.database();
    await oldRun(database, 'a', 8);
    await database.transaction(async (sql) => {
      await sql.query('SELECT pg_advisory_xact_lock(7090004)');
      expect(await keepHouse(database, WEEK)).toEqual({});
    });
    expect(await keepHouse(database, WEEK)).toMatchObject({ runs: 1 });
  });

  it('stays for ever where the configuration says so, as it does for runs by default', async () => {
    const database = await postgres.database();
    await oldRun(database, 'a', 10_000);
    expect(await keepHouse(database, RETENTION)).toMatchObject({ runs: 0 });
  });

  it('of health keeps what was told last of each, of notifications what is on its way', async () => {
    const database = await postgres.database();
    const change = { kind: 'node', id: 'n1', cluster: 'c', detail: '' } as const;
    await appendHealth(
      database,
      [
        { ...change, state: 'down' },
        { ...change, state: 'healthy' },
      ],
      0,
    );
    const content: Notification = { event: 'held', severity: 'info', title: 't', lines: [], clusters: [] };
    for (let i = 0; i < 2; i++) await notify(database, content);
    await database.execute('UPDATE notifications SET at_ms = 0');
    await database.execute(
      `INSERT INTO deliveries (id, notification, target, status, due_at_ms, created_at_ms)
       SELECT 'd1', id, 't', 'pending', 0, 0 FROM notifications LIMIT 1`,
    );
    expect(await keepHouse(database, WEEK)).toMatchObject({ health: 1, notifications: 1 });
    expect(await database.query('SELECT state FROM health_events')).toEqual([{ state: 'healthy' }]);
    expect(await database.query('SELECT id FROM deliveries')).toEqual([{ id: 'd1' }]);
  });
});
