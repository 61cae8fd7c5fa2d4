/** Who did what, in a hash chain, written in the transaction of the deed itself. */
import { firstBroken, linkHash, type Page } from '@kwfleet/core';
import type { Sql } from './database.ts';
import { LOCKS } from './locks.ts';
import { type PageRequest, pageOf, positionOf, rowsFor } from './page.ts';

export type AuditRecord = {
  readonly seq: number;
  readonly atMs: number;
  readonly actor: string;
  /** `run.create`, `token.create`, `node.enroll`, ... */
  readonly what: string;
  readonly detail: Record<string, unknown>;
  readonly prevHash: string;
  readonly hash: string;
};

const COLUMNS = 'seq, at_ms AS "atMs", actor, what, detail, prev_hash AS "prevHash", hash';

const chained = ({ seq, atMs, actor, what, detail }: AuditRecord) => ({ seq, atMs, actor, what, detail });

/** Appends a record. Call it last in a transaction: others wait for its end. Never give it a secret. */
export async function audit(sql: Sql, actor: string, what: string, given: Record<string, unknown> = {}): Promise<void> {
  await sql.execute('SELECT pg_advisory_xact_lock($1)', [LOCKS.audit]);
  const [last] = await sql.query<{ seq: number; hash: string }>(
    'SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1',
  );
  const [now] = await sql.query<{ nowMs: number }>('SELECT now_ms() AS "nowMs"');
  const prevHash = last?.hash ?? '';
  // Through JSON, so that what is hashed is what will be read back.
  const detail = JSON.parse(JSON.stringify(given)) as Record<string, unknown>;
  const record = { seq: (last?.seq ?? 0) + 1, atMs: now?.nowMs ?? 0, actor, what, detail };
  await sql.execute(
    'INSERT INTO audit (seq, at_ms, actor, what, detail, prev_hash, hash) VALUES ($1, $2, $3, $4, $5, $6, $7)',
    [record.seq, record.atMs, actor, what, JSON.stringify(detail), prevHash, linkHash(prevHash, record)],
  );
}

export async function listAudit(sql: Sql, request: PageRequest): Promise<Page<AuditRecord>> {
  const rows = await sql.query<AuditRecord>(`SELECT ${COLUMNS} FROM audit WHERE seq < $1 ORDER BY seq DESC LIMIT $2`, [
    positionOf(request.cursor)[0],
    rowsFor(request),
  ]);
  return pageOf(
    rows,
    request,
    (row) => [row.seq, ''],
    (row) => row,
  );
}

/** The seq of the first record that was altered, left out or put in; undefined when the chain is whole. */
export async function verifyAudit(sql: Sql): Promise<number | undefined> {
  return firstBroken(await sql.query<AuditRecord>(`SELECT ${COLUMNS} FROM audit ORDER BY seq`), chained);
}
