/** The runner's store in PostgreSQL: leases with epochs, and commits that only the holder of the current epoch can make. */
import {
  type Action,
  chainedRecord,
  ENDED,
  linkHash,
  type NodeFacts,
  notificationOfEvent,
  type Plan,
  type RunEvent,
  readState,
  type StepTimes,
} from '@kwfleet/core';
import type { RunInput, RunSnapshot, RunStore, RunWrite } from '../runner/run-store.ts';
import { standingBackup } from './backups.ts';
import type { Database, Sql } from './database.ts';
import { databaseNow, someNodes } from './nodes.ts';
import { CHANNELS } from './notices.ts';
import { notify } from './notifications.ts';
import { someWindows } from './windows.ts';

/** How many inputs one decision takes in; the rest waits for the next. */
const INPUTS_MAX = 500;

export function pgRunStore(database: Database): RunStore {
  return {
    async activeRuns() {
      const rows = await database.query<{ id: string }>(
        `SELECT id FROM runs WHERE status NOT IN ('succeeded', 'failed', 'aborted') ORDER BY created_at_ms, id`,
      );
      return rows.map(({ id }) => id);
    },
    lease: (run, owner, ttlMs) => database.transaction((sql) => lease(sql, run, owner, ttlMs)),
    load: (run) => database.transaction((sql) => load(sql, run), 'REPEATABLE READ'),
    commit: (run, epoch, write) => database.transaction((sql) => commit(sql, run, epoch, write)),
  };
}

type LeaseRow = { cluster: string; epoch: number; owner: string | null; valid: boolean };

async function lease(sql: Sql, run: string, owner: string, ttlMs: number): Promise<number | null> {
  const [row] = await sql.query<LeaseRow>(
    `SELECT cluster, epoch, lease_owner AS owner, lease_until_ms > now_ms() AS valid FROM runs WHERE id = $1 FOR UPDATE`,
    [run],
  );
  if (row === undefined || (row.valid && row.owner !== owner)) return null;
  const epoch = row.valid ? row.epoch : await nextEpoch(sql, row.cluster);
  await sql.execute('UPDATE runs SET epoch = $2, lease_owner = $3, lease_until_ms = now_ms() + $4 WHERE id = $1', [
    run,
    epoch,
    owner,
    ttlMs,
  ]);
  return epoch;
}

/**
 * Agents refuse what is lower than the highest epoch they saw in their cluster: so it rises over all its runs. It grows with
 * the time too: a database that is new, or was put back from a backup, does not know what its hosts remember.
 */
async function nextEpoch(sql: Sql, cluster: string): Promise<number> {
  const [row] = await sql.query<{ epoch: number }>(
    'UPDATE clusters SET epoch = greatest(epoch + 1, now_ms() / 1000) WHERE id = $1 RETURNING epoch',
    [cluster],
  );
  if (row === undefined) throw new Error(`there is no row for cluster ${cluster}`);
  return row.epoch;
}

type LoadRow = { plan: Plan; state: unknown; stepTimes: StepTimes | null; appliedSeq: number };
type InputRow = { seq: number; atMs: number; type: RunInput['type']; body: Record<string, unknown> };

async function load(sql: Sql, run: string): Promise<RunSnapshot> {
  const [row] = await sql.query<LoadRow>(
    'SELECT plan, state, step_times AS "stepTimes", applied_seq AS "appliedSeq" FROM runs WHERE id = $1',
    [run],
  );
  if (row === undefined) throw new Error(`there is no run ${run}`);
  const inputs = await sql.query<InputRow>(
    'SELECT seq, at_ms AS "atMs", type, body FROM run_inputs WHERE run = $1 AND seq > $2 ORDER BY seq LIMIT $3',
    [run, row.appliedSeq, INPUTS_MAX],
  );
  // Decisions ask for the nodes of the plan only: a large fleet is not read again for every run.
  const nodes = await someNodes(
    sql,
    row.plan.nodes.map(({ node }) => node),
  );
  const state = readState(row.state, row.plan);
  return {
    plan: row.plan,
    state,
    windows: await someWindows(sql, state.timing?.windows ?? []),
    inputs: inputs.map(toInput),
    nodes: new Map<string, NodeFacts>(nodes.map((facts) => [facts.node, facts])),
    ...(row.stepTimes !== null && { stepTimes: row.stepTimes }),
    nowMs: await databaseNow(sql),
  };
}

function toInput({ seq, atMs, type, body }: InputRow): RunInput {
  const input = type === 'request' ? body : { [type]: body };
  return { seq, atMs, type, ...input } as RunInput;
}

async function commit(sql: Sql, run: string, epoch: number, write: RunWrite): Promise<boolean> {
  const [row] = await sql.query<{ eventSeq: number; eventHash: string; inputSeq: number }>(
    `SELECT event_seq AS "eventSeq", event_hash AS "eventHash", input_seq AS "inputSeq" FROM runs
     WHERE id = $1 AND epoch = $2 AND lease_owner IS NOT NULL FOR UPDATE`,
    [run, epoch],
  );
  if (row === undefined) return false;
  const last = await appendEvents(sql, run, row, write.events);
  await tellPeople(sql, run, write.events);
  const ended = ENDED.has(write.state.status);
  await sql.execute(
    `UPDATE runs SET state = $2, status = $3, applied_seq = greatest(applied_seq, $4), event_seq = $5, event_hash = $6
     WHERE id = $1`,
    [run, JSON.stringify(write.state), write.state.status, write.appliedSeq, last.eventSeq, last.eventHash],
  );
  // Progress lives on as events; results stay, since they make results that come again change nothing.
  await sql.execute(`DELETE FROM run_inputs WHERE run = $1 AND seq <= $2 AND type = 'progress'`, [
    run,
    write.appliedSeq,
  ]);
  for (const action of write.actions) await insertAction(sql, await withStanding(sql, action));
  if (ended) await sql.execute(END_ACTIONS, [run]);
  if (write.events.length > 0) await sql.execute('SELECT pg_notify($1, $2)', [CHANNELS.history, run]);
  // There were more than one decision takes in.
  if (write.appliedSeq > 0 && row.inputSeq > write.appliedSeq && !ended) {
    await sql.execute('SELECT pg_notify($1, $2)', [CHANNELS.run, run]);
  }
  return true;
}

const TOLD: ReadonlySet<RunEvent['type']> = new Set(['run-held', 'run-ended', 'run-scheduled', 'approval-lapsed']);

/** In the transaction of the events themselves: what is in the history is told, and nothing else. */
async function tellPeople(sql: Sql, run: string, events: readonly RunEvent[]): Promise<void> {
  const telling = events.filter(({ type }) => TOLD.has(type));
  if (telling.length === 0) return;
  const [row] = await sql.query<{ plan: Plan; clusterName: string; by: string }>(
    `SELECT plan, clusters.name AS "clusterName", created_by AS by FROM runs JOIN clusters ON clusters.id = cluster
     WHERE runs.id = $1`,
    [run],
  );
  if (row === undefined) return;
  for (const event of telling) {
    const notification = notificationOfEvent({ id: run, ...row }, event);
    if (notification !== undefined) await notify(sql, notification);
  }
}

const END_ACTIONS = 'UPDATE actions SET ended_at_ms = now_ms() WHERE run = $1 AND ended_at_ms IS NULL';

async function appendEvents(
  sql: Sql,
  run: string,
  last: { eventSeq: number; eventHash: string },
  events: readonly RunEvent[],
): Promise<{ eventSeq: number; eventHash: string }> {
  let { eventSeq, eventHash } = last;
  for (const given of events) {
    // Through JSON, so that what is hashed is what will be read back.
    const event = JSON.parse(JSON.stringify(given)) as RunEvent;
    const record = { seq: eventSeq + 1, atMs: event.atMs, event };
    const hash = linkHash(eventHash, chainedRecord(run)(record));
    await sql.execute(
      'INSERT INTO run_events (run, seq, at_ms, event, prev_hash, hash) VALUES ($1, $2, $3, $4, $5, $6)',
      [run, record.seq, record.atMs, JSON.stringify(event), eventHash, hash],
    );
    eventSeq = record.seq;
    eventHash = hash;
  }
  return { eventSeq, eventHash };
}

/** What the host is to leave alone is looked up when the order is given: a set may have become whole since the plan. */
async function withStanding(sql: Sql, action: Action): Promise<Action> {
  const stands = action.backup === 'copy' ? await standingBackup(sql, action.run) : undefined;
  return stands === undefined ? action : { ...action, standingBackup: stands };
}

async function insertAction(sql: Sql, action: Action): Promise<void> {
  // A new attempt of a step takes the place of the one before: only it is delivered from now on.
  await sql.execute(
    'UPDATE actions SET ended_at_ms = now_ms() WHERE run = $1 AND step = $2 AND ended_at_ms IS NULL AND id <> $3',
    [action.run, action.step, action.id],
  );
  await sql.execute(
    `INSERT INTO actions (id, run, step, node, action, created_at_ms) VALUES ($1, $2, $3, $4, $5, now_ms())
     ON CONFLICT (id) DO NOTHING`,
    [action.id, action.run, action.step, action.node, JSON.stringify(action)],
  );
  await sql.execute('SELECT pg_notify($1, $2)', [CHANNELS.action, action.node]);
}
