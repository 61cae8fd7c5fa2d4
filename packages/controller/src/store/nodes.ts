/** What agents last reported, and which stream speaks for each node. */
import { FleetError, type NodeFacts, type NodeReport } from '@kwfleet/core';
import type { Sql } from './database.ts';
import { CHANNELS } from './notices.ts';

export type Beat = {
  readonly node: string;
  readonly stream: string;
  /** Since the message came, by this process's monotonic clock. */
  readonly ageMs: number;
  readonly clockMs?: number;
  readonly serving?: boolean;
  readonly ready?: boolean;
};

/**
 * The new stream speaks for the node from now on; older ones, here or at another controller, are told by a notice. What
 * is known of the node stays as old as it is until the first report: a link is no news of the database.
 */
export async function attachStream(sql: Sql, node: string, stream: string, linkMs: number): Promise<void> {
  await sql.execute(
    `INSERT INTO nodes (node, first_seen_ms, last_seen_ms, stream, connected_until_ms)
     VALUES ($1, now_ms(), now_ms(), $2, now_ms() + $3)
     ON CONFLICT (node) DO UPDATE SET stream = excluded.stream, connected_until_ms = excluded.connected_until_ms`,
    [node, stream, linkMs],
  );
  await sql.execute('SELECT pg_notify($1, $2)', [CHANNELS.stream, `${node} ${stream}`]);
  await wakeRunner(sql);
}

/** The stream is gone; nothing happens when a newer one took over. */
export async function detachStream(sql: Sql, node: string, stream: string): Promise<void> {
  const changed = await sql.execute(
    'UPDATE nodes SET stream = NULL, connected_until_ms = 0 WHERE node = $1 AND stream = $2',
    [node, stream],
  );
  if (changed > 0) await wakeRunner(sql);
}

/** The stream that speaks for each of these nodes; a node whose agent is gone has none. */
export async function currentStreams(sql: Sql, nodes: readonly string[]): Promise<Map<string, string>> {
  const rows = await sql.query<{ node: string; stream: string }>(
    'SELECT node, stream FROM nodes WHERE node = ANY ($1) AND stream IS NOT NULL',
    [nodes],
  );
  return new Map(rows.map(({ node, stream }) => [node, stream]));
}

/**
 * Stores a report that came over the node's own stream. One of a stream that another has taken over is late, however new it
 * looks, and is dropped. Hosts' clocks jump: which report is the newer is told by the stream, and by nothing else.
 */
export async function storeReport(sql: Sql, node: string, report: NodeReport, stream?: string): Promise<void> {
  const clusterId = report.identity?.clusterId;
  if (clusterId !== undefined) await sql.execute(NEW_CLUSTER, [clusterId, `kwdb-${clusterId.slice(0, 8)}`]);
  await sql.execute(
    `UPDATE nodes SET report = $2, last_seen_ms = now_ms(),
       clock_skew_ms = ($2::jsonb #>> '{host,clockMs}')::bigint - now_ms()
     WHERE node = $1 AND ($3::text IS NULL OR stream = $3)`,
    [node, JSON.stringify(report), stream ?? null],
  );
  await wakeRunner(sql);
}

const NEW_CLUSTER = `INSERT INTO clusters (id, name, first_seen_ms) VALUES ($1, $2, now_ms()) ON CONFLICT (id) DO NOTHING`;

/** Many heartbeats in one statement. Those of a stream that no longer speaks for its node are left out. */
export async function storeBeats(sql: Sql, beats: readonly Beat[], linkMs: number): Promise<void> {
  if (beats.length === 0) return;
  const changed = await sql.query<{ turned: boolean }>(
    `UPDATE nodes SET last_seen_ms = now_ms() - beat.age, connected_until_ms = now_ms() - beat.age + $2,
       clock_skew_ms = coalesce(beat.clock - (now_ms() - beat.age), clock_skew_ms),
       report = CASE WHEN beat.serving IS NULL OR report IS NULL THEN report
         ELSE report || jsonb_build_object('serving', beat.serving, 'ready', beat.ready) END
     FROM jsonb_to_recordset($1) AS beat (node text, stream text, age bigint, clock bigint, serving boolean, ready boolean),
       LATERAL (SELECT before.report FROM nodes before WHERE before.node = beat.node) AS was (report_before)
     WHERE nodes.node = beat.node AND nodes.stream = beat.stream
     RETURNING (was.report_before ->> 'serving')::boolean IS DISTINCT FROM beat.serving
       OR (was.report_before ->> 'ready')::boolean IS DISTINCT FROM beat.ready AS turned`,
    [JSON.stringify(beats.map(row)), linkMs],
  );
  if (changed.some(({ turned }) => turned)) await wakeRunner(sql);
}

const row = ({ node, stream, ageMs, clockMs, serving, ready }: Beat) => ({
  node,
  stream,
  age: Math.round(ageMs),
  clock: clockMs,
  serving,
  ready,
});

const FACTS = `SELECT node, (stream IS NOT NULL AND connected_until_ms > now_ms()) AS connected,
  last_seen_ms AS "lastSeenMs", clock_skew_ms AS "clockSkewMs", report FROM nodes WHERE report IS NOT NULL`;

/** Every node that ever reported, by name. A link counts as long as it was heard of within its time. */
export async function allNodes(sql: Sql): Promise<NodeFacts[]> {
  return sql.query<NodeFacts>(`${FACTS} ORDER BY node`);
}

/** Of these nodes, those that ever reported. */
export async function someNodes(sql: Sql, nodes: readonly string[]): Promise<NodeFacts[]> {
  return sql.query<NodeFacts>(`${FACTS} AND node = ANY ($1) ORDER BY node`, [nodes]);
}

export async function knowsNode(sql: Sql, node: string): Promise<boolean> {
  return (await sql.query('SELECT 1 FROM nodes WHERE node = $1', [node])).length > 0;
}

/**
 * Forgets a node and revokes its certificates; its stream, wherever it is, ends. Its runs, backups and history stay.
 * Returns whether there was anything of it. Throws RUN_ACTIVE while a run that is not ended needs it.
 */
export async function removeNode(sql: Sql, node: string): Promise<boolean> {
  // A renewal that is under way ends first, so that its certificate is seen too; the next one finds its own revoked.
  await sql.query('SELECT 1 FROM certificates WHERE node = $1 FOR UPDATE', [node]);
  const revoked = await sql.execute(
    'UPDATE certificates SET revoked_at_ms = now_ms() WHERE node = $1 AND revoked_at_ms IS NULL',
    [node],
  );
  const [busy] = await sql.query<{ id: string }>(
    `SELECT id FROM runs WHERE status NOT IN ('succeeded', 'failed', 'aborted')
     AND jsonb_path_exists(plan, '$.nodes[*] ? (@.node == $node)', jsonb_build_object('node', $1::text)) LIMIT 1`,
    [node],
  );
  if (busy !== undefined) throw new FleetError('RUN_ACTIVE', `run ${busy.id} needs ${node} and is not ended`);
  const known = await sql.execute('DELETE FROM nodes WHERE node = $1', [node]);
  await sql.execute('DELETE FROM peers WHERE node = $1', [node]);
  await sql.execute('DELETE FROM prefetches WHERE node = $1', [node]);
  await sql.execute('SELECT pg_notify($1, $2)', [CHANNELS.stream, `${node} `]);
  await wakeRunner(sql);
  return revoked + known > 0;
}

/** Asks the agents of these nodes, wherever their streams are, for a report that also tells of these images. */
export async function askForReports(sql: Sql, nodes: readonly string[], images: readonly string[]): Promise<void> {
  for (const node of nodes) {
    await sql.execute('SELECT pg_notify($1, $2)', [CHANNELS.ask, [node, ...images].join(' ')]);
  }
}

/** Facts changed: whoever runs runs looks again. */
async function wakeRunner(sql: Sql): Promise<void> {
  await sql.execute('SELECT pg_notify($1, $2)', [CHANNELS.run, '']);
}

export async function databaseNow(sql: Sql): Promise<number> {
  const [now] = await sql.query<{ nowMs: number }>('SELECT now_ms() AS "nowMs"');
  return now?.nowMs ?? Number.NaN;
}
