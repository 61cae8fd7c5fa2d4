/** Which hosts were asked to fetch a package ahead of time, and what came of it. */
import type { PackageInfo, Page, PrefetchView } from '@kwfleet/core';
import type { Sql } from './database.ts';
import { CHANNELS } from './notices.ts';
import { type PageRequest, pageOf, positionOf, rowsFor } from './page.ts';

/** Asks these nodes, also those that were asked before; their agents are told at once, or when they are back. */
export async function insertPrefetches(sql: Sql, nodes: readonly string[], sha256: string, by: string): Promise<void> {
  await sql.execute(
    `INSERT INTO prefetches (node, package, asked_at_ms, asked_by) SELECT node, $2, now_ms(), $3 FROM unnest($1::text[]) AS node
     ON CONFLICT (node, package) DO UPDATE SET asked_at_ms = excluded.asked_at_ms, asked_by = excluded.asked_by,
       ended_at_ms = NULL, code = NULL, message = NULL`,
    [nodes, sha256, by],
  );
  await sql.execute('SELECT pg_notify($1, $2)', [CHANNELS.action, '']);
}

export type PendingPrefetch = { readonly node: string; readonly package: PackageInfo; readonly askedAtMs: number };

export async function pendingPrefetches(sql: Sql, nodes: readonly string[]): Promise<PendingPrefetch[]> {
  return sql.query<PendingPrefetch>(
    `SELECT node, info AS package, asked_at_ms AS "askedAtMs" FROM prefetches JOIN packages ON sha256 = package
     WHERE ended_at_ms IS NULL AND node = ANY ($1) ORDER BY asked_at_ms`,
    [nodes],
  );
}

export async function endPrefetch(
  sql: Sql,
  node: string,
  ended: { sha256: string; code?: string | undefined; message?: string | undefined },
): Promise<void> {
  await sql.execute(
    `UPDATE prefetches SET ended_at_ms = now_ms(), code = $3, message = $4
     WHERE node = $1 AND package = $2 AND ended_at_ms IS NULL`,
    [node, ended.sha256, ended.code ?? null, ended.message?.slice(0, 1000) ?? null],
  );
}

type Row = {
  node: string;
  askedAtMs: number;
  askedBy: string;
  endedAtMs: number | null;
  code: string | null;
  message: string | null;
};

/** Those who were asked last come first. */
export async function listPrefetches(sql: Sql, sha256: string, request: PageRequest): Promise<Page<PrefetchView>> {
  const rows = await sql.query<Row>(
    `SELECT node, asked_at_ms AS "askedAtMs", asked_by AS "askedBy", ended_at_ms AS "endedAtMs", code, message FROM prefetches
     WHERE package = $1 AND (asked_at_ms, node) < ($2, $3) ORDER BY asked_at_ms DESC, node DESC LIMIT $4`,
    [sha256, ...positionOf(request.cursor), rowsFor(request)],
  );
  return pageOf(rows, request, (row) => [row.askedAtMs, row.node], view);
}

function view({ node, askedAtMs, askedBy, endedAtMs, code, message }: Row): PrefetchView {
  return {
    node,
    state: endedAtMs === null ? 'waiting' : code === null ? 'done' : 'failed',
    askedAtMs,
    askedBy,
    ...(endedAtMs !== null && { endedAtMs }),
    ...(code !== null && { code }),
    ...(message !== null && { message }),
  };
}
