/** How nodes and clusters are, and how they were: the records that damping needs, and the history of what was told. */
import type { HealthEventView, HealthRecord, NodeState, Page } from '@kwfleet/core';
import type { Sql } from './database.ts';
import { LOCKS } from './locks.ts';
import { type PageRequest, pageOf, positionOf, rowsFor } from './page.ts';

export type HealthKind = 'node' | 'cluster';
export type HealthRow = {
  readonly kind: HealthKind;
  readonly id: string;
  readonly cluster: string | null;
  readonly record: HealthRecord;
};
export type HealthChange = {
  readonly kind: HealthKind;
  readonly id: string;
  readonly cluster: string | null;
  /** Absent at the first look. */
  readonly was?: string;
  readonly state: string;
  readonly detail: string;
  readonly run?: string | undefined;
};

/** Whether this transaction is the one that looks; another that asks meanwhile is told no. */
export async function lookAlone(sql: Sql): Promise<boolean> {
  const [row] = await sql.query<{ mine: boolean }>('SELECT pg_try_advisory_xact_lock($1) AS mine', [LOCKS.health]);
  return row?.mine === true;
}

export async function allHealth(sql: Sql): Promise<HealthRow[]> {
  return sql.query<HealthRow>('SELECT kind, id, cluster, record FROM health');
}

export async function putHealth(sql: Sql, rows: readonly HealthRow[]): Promise<void> {
  if (rows.length === 0) return;
  await sql.execute(
    `INSERT INTO health (kind, id, cluster, record)
     SELECT kind, id, cluster, record FROM jsonb_to_recordset($1) AS given (kind text, id text, cluster text, record jsonb)
     ON CONFLICT (kind, id) DO UPDATE SET cluster = excluded.cluster, record = excluded.record`,
    [JSON.stringify(rows)],
  );
}

/** Forgets what is not there any more: a missing node that came, a cluster that nobody reports. */
export async function forgetHealth(sql: Sql, rows: readonly Pick<HealthRow, 'kind' | 'id'>[]): Promise<void> {
  if (rows.length === 0) return;
  await sql.execute(
    `DELETE FROM health USING jsonb_to_recordset($1) AS gone (kind text, id text)
     WHERE health.kind = gone.kind AND health.id = gone.id`,
    [JSON.stringify(rows)],
  );
}

/** Appends to the history; answers the numbers given, in order. */
export async function appendHealth(sql: Sql, changes: readonly HealthChange[], atMs: number): Promise<void> {
  if (changes.length === 0) return;
  await sql.execute(
    `INSERT INTO health_events (kind, id, cluster, at_ms, was, state, detail, run)
     SELECT kind, id, cluster, $2, was, state, detail, run FROM jsonb_to_recordset($1)
       AS given (kind text, id text, cluster text, was text, state text, detail text, run text)`,
    [JSON.stringify(changes), atMs],
  );
}

/** What was told of these nodes at a time; nothing of one that was not known then. */
export async function healthAt(sql: Sql, nodes: readonly string[], atMs: number): Promise<Map<string, NodeState>> {
  const rows = await sql.query<{ id: string; state: NodeState }>(
    `SELECT DISTINCT ON (id) id, state FROM health_events WHERE kind = 'node' AND id = ANY ($1) AND at_ms <= $2
     ORDER BY id, seq DESC`,
    [nodes, atMs],
  );
  return new Map(rows.map(({ id, state }) => [id, state]));
}

/** Newest first: of one node, or of a cluster and all its nodes. */
export async function listHealthEvents(
  sql: Sql,
  of: { node: string } | { cluster: string },
  request: PageRequest,
): Promise<Page<HealthEventView>> {
  type Row = Omit<HealthEventView, 'was' | 'run'> & { was: string | null; run: string | null };
  const where = 'node' in of ? `kind = 'node' AND id = $2` : 'cluster = $2';
  const rows = await sql.query<Row>(
    `SELECT seq, at_ms AS "atMs", kind, id, was, state, detail, run FROM health_events
     WHERE seq < $1 AND ${where} ORDER BY seq DESC LIMIT $3`,
    [positionOf(request.cursor)[0], 'node' in of ? of.node : of.cluster, rowsFor(request)],
  );
  return pageOf(
    rows,
    request,
    (row) => [row.seq, ''],
    ({ was, run, ...row }) =>
      ({ ...row, ...(was !== null && { was }), ...(run !== null && { run }) }) as HealthEventView,
  );
}
