/** Rollouts: made, listed, walked. What they mean is said by core/rollout. */
import {
  applyRollout,
  type CheckResult,
  chainedRecord,
  FleetError,
  firstBroken,
  type Hold,
  linkHash,
  type Page,
  ROLLOUT_ENDED,
  type RolloutEvent,
  type RolloutFacts,
  type RolloutFile,
  type RolloutState,
  type RunFact,
  type RunStatus,
} from '@kwfleet/core';
import { standingOf } from './approvals.ts';
import type { Sql } from './database.ts';
import { databaseNow } from './nodes.ts';
import { type PageRequest, pageOfRows, positionOf, rowsFor } from './page.ts';
import { someWindows } from './windows.ts';

export type RolloutRow = {
  readonly id: string;
  readonly name: string;
  readonly file: string;
  readonly spec: RolloutFile;
  readonly state: RolloutState;
  readonly eventSeq: number;
  readonly eventHash: string;
  readonly after: string | null;
  readonly createdAtMs: number;
  readonly createdBy: string;
};

const SELECT = `SELECT id, name, file, spec, state, event_seq AS "eventSeq", event_hash AS "eventHash", after,
  created_at_ms AS "createdAtMs", created_by AS "createdBy" FROM rollouts`;
const ACTIVE = `status NOT IN (${[...ROLLOUT_ENDED].map((status) => `'${status}'`).join(', ')})`;

export type NewRollout = Pick<RolloutRow, 'id' | 'file' | 'spec' | 'state'> & { by: string; after?: string };

export async function insertRollout(sql: Sql, { id, file, spec, state, by, after }: NewRollout): Promise<void> {
  await sql.execute(
    `INSERT INTO rollouts (id, name, file, spec, state, status, after, created_at_ms, created_by)
     VALUES ($1, $2, $3, $4, $5, $6, $7, now_ms(), $8)`,
    [id, spec.name, file, JSON.stringify(spec), JSON.stringify(state), state.status, after ?? null, by],
  );
}

export async function needRollout(sql: Sql, id: string): Promise<RolloutRow> {
  const [row] = await sql.query<RolloutRow>(`${SELECT} WHERE id = $1`, [id]);
  if (row === undefined) throw new FleetError('ROLLOUT_UNKNOWN', `there is no rollout ${id}`);
  return row;
}

export async function listRollouts(sql: Sql, request: PageRequest): Promise<Page<RolloutRow>> {
  const rows = await sql.query<RolloutRow>(
    `${SELECT} WHERE (created_at_ms, id) < ($1, $2) ORDER BY created_at_ms DESC, id DESC LIMIT $3`,
    [...positionOf(request.cursor), rowsFor(request)],
  );
  return pageOfRows(rows, request);
}

export async function activeRollouts(sql: Sql): Promise<string[]> {
  const rows = await sql.query<{ id: string }>(`SELECT id FROM rollouts WHERE ${ACTIVE} ORDER BY created_at_ms, id`);
  return rows.map(({ id }) => id);
}

/** A rollout that is not ended and names this window, where there is one. */
export async function rolloutUsingWindow(sql: Sql, window: string): Promise<string | undefined> {
  const [row] = await sql.query<{ id: string }>(
    `SELECT id FROM rollouts WHERE ${ACTIVE} AND spec -> 'windows' ? $1 LIMIT 1`,
    [window],
  );
  return row?.id;
}

/** Takes or renews the lease; false while another controller has it. It only spares double work: see `commitRollout`. */
export async function leaseRollout(sql: Sql, id: string, owner: string, ttlMs: number): Promise<boolean> {
  const taken = await sql.execute(
    `UPDATE rollouts SET lease_owner = $2, lease_until_ms = now_ms() + $3
     WHERE id = $1 AND (lease_owner = $2 OR lease_owner IS NULL OR lease_until_ms <= now_ms())`,
    [id, owner, ttlMs],
  );
  return taken > 0;
}

/** Everything a decision is made from. Call it in a REPEATABLE READ transaction. */
export async function loadRollout(
  sql: Sql,
  id: string,
): Promise<{ row: RolloutRow; facts: RolloutFacts; nowMs: number }> {
  const row = await needRollout(sql, id);
  const granted = new Set<string>();
  for (const scope of row.state.asked) {
    if (row.state.approved.includes(scope)) continue;
    if ((await standingOf(sql, subjectOf(id, scope)))?.granted === true) granted.add(scope);
  }
  const facts = { runs: await runsOf(sql, id), windows: await someWindows(sql, row.spec.windows ?? []), granted };
  return { row, facts, nowMs: await databaseNow(sql) };
}

type RunRow = { id: string; cluster: string; status: RunStatus; hold: Hold | null; reason: string | null };

async function runsOf(sql: Sql, id: string): Promise<Map<string, RunFact>> {
  const rows = await sql.query<RunRow>(
    `SELECT id, cluster, status, state -> 'hold' AS hold, state ->> 'reason' AS reason FROM runs WHERE rollout = $1`,
    [id],
  );
  return new Map(
    rows.map(({ id: run, cluster, status, hold, reason }) => [
      cluster,
      { run, status, hold: hold ?? undefined, reason: reason ?? undefined },
    ]),
  );
}

/**
 * Appends events and the state they lead to; undefined, with nothing written, when the rollout was changed since `row` was
 * read, by whomever. That is what makes everything happen once: call it first in the transaction of the deed itself.
 */
export async function commitRollout(
  sql: Sql,
  row: RolloutRow,
  events: readonly RolloutEvent[],
): Promise<RolloutRow | undefined> {
  let { state, eventSeq, eventHash } = row;
  const locked = await sql.query('SELECT 1 FROM rollouts WHERE id = $1 AND event_seq = $2 FOR UPDATE', [
    row.id,
    eventSeq,
  ]);
  if (locked.length === 0) return undefined;
  for (const given of events) {
    const event = JSON.parse(JSON.stringify(given)) as RolloutEvent;
    state = applyRollout(state, event);
    const record = { seq: ++eventSeq, atMs: event.atMs, event };
    const hash = linkHash(eventHash, chained(row.id)(record));
    await sql.execute(
      'INSERT INTO rollout_events (rollout, seq, at_ms, event, prev_hash, hash) VALUES ($1, $2, $3, $4, $5, $6)',
      [row.id, record.seq, record.atMs, JSON.stringify(event), eventHash, hash],
    );
    eventHash = hash;
  }
  await sql.execute('UPDATE rollouts SET state = $2, status = $3, event_seq = $4, event_hash = $5 WHERE id = $1', [
    row.id,
    JSON.stringify(state),
    state.status,
    eventSeq,
    eventHash,
  ]);
  return { ...row, state, eventSeq, eventHash };
}

export type RolloutEventRow = {
  readonly seq: number;
  readonly atMs: number;
  readonly event: RolloutEvent;
  readonly prevHash: string;
  readonly hash: string;
};

const chained = (rollout: string) => chainedRecord(rollout, 'rollout');

export async function rolloutEvents(sql: Sql, id: string, after: number, limit: number): Promise<RolloutEventRow[]> {
  return sql.query<RolloutEventRow>(
    `SELECT seq, at_ms AS "atMs", event, prev_hash AS "prevHash", hash FROM rollout_events
     WHERE rollout = $1 AND seq > $2 ORDER BY seq LIMIT $3`,
    [id, after, limit],
  );
}

/** The seq of the first event that was altered, left out or put in; undefined when the history is whole. */
export async function verifyRollout(sql: Sql, row: RolloutRow): Promise<number | undefined> {
  const events = await rolloutEvents(sql, row.id, 0, Number.MAX_SAFE_INTEGER);
  const broken = firstBroken(events, chained(row.id));
  if (broken === undefined && (events.at(-1)?.hash ?? '') !== row.eventHash) return (events.at(-1)?.seq ?? 0) + 1;
  return broken;
}

/** What a person is asked to approve. */
export const subjectOf = (id: string, scope: string): string =>
  scope === 'start' ? `rollout:${id}` : `rollout:${id}/${scope}`;

export type ChecksRow = {
  readonly cluster: string;
  readonly name: string;
  readonly wave: string;
  readonly blocked: boolean;
  readonly checks: readonly CheckResult[];
};

export async function putChecks(sql: Sql, id: string, rows: readonly ChecksRow[]): Promise<void> {
  await sql.execute('DELETE FROM rollout_checks WHERE rollout = $1', [id]);
  await sql.execute(
    `INSERT INTO rollout_checks (rollout, cluster, name, wave, blocked, checks)
     SELECT $1, cluster, name, wave, blocked, checks FROM jsonb_to_recordset($2)
       AS given (cluster text, name text, wave text, blocked boolean, checks jsonb)`,
    [id, JSON.stringify(rows)],
  );
}

export async function checksOf(sql: Sql, id: string): Promise<ChecksRow[]> {
  return sql.query<ChecksRow>(
    'SELECT cluster, name, wave, blocked, checks FROM rollout_checks WHERE rollout = $1 ORDER BY name, cluster',
    [id],
  );
}

type Counted = readonly { readonly status: string; readonly count: number }[];

/** Rollouts by status; of those that are not ended, their waves and clusters by status. */
export async function countRollouts(sql: Sql): Promise<{ rollouts: Counted; waves: Counted; clusters: Counted }> {
  type Row = { status: string; count: number };
  const rollouts = await sql.query<Row>('SELECT status, count(*) AS count FROM rollouts GROUP BY status');
  const waves = await sql.query<Row>(
    `SELECT wave ->> 'status' AS status, count(*) AS count FROM rollouts, jsonb_array_elements(state -> 'waves') AS wave
     WHERE ${ACTIVE} GROUP BY 1`,
  );
  const clusters = await sql.query<Row>(
    `SELECT cluster.value ->> 'status' AS status, count(*) AS count FROM rollouts, jsonb_each(state -> 'clusters') AS cluster
     WHERE ${ACTIVE} GROUP BY 1`,
  );
  return { rollouts, waves, clusters };
}
