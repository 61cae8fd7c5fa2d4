/** Answers kept for a day, so that a request sent twice with one Idempotency-Key is carried out once. */
import type { Sql } from './database.ts';

const KEEP_MS = 24 * 3_600_000;
/** A claim without an answer after this long is of a controller that died in the middle: the request may be made anew. */
const CLAIM_MS = 120_000;

export type Claim =
  | { readonly state: 'mine' }
  | { readonly state: 'in-progress' }
  | { readonly state: 'other-request' }
  | { readonly state: 'answered'; readonly status: number; readonly response: string | null };

/** Claims a key for a request. Both are hashes. */
export async function claimKey(sql: Sql, key: string, request: string): Promise<Claim> {
  await sql.execute('DELETE FROM idempotency WHERE claimed_at_ms < now_ms() - $1', [KEEP_MS]);
  const claimed = await sql.execute(
    `INSERT INTO idempotency (key, request, claimed_at_ms) VALUES ($1, $2, now_ms())
     ON CONFLICT (key) DO UPDATE SET claimed_at_ms = now_ms()
       WHERE idempotency.status IS NULL AND idempotency.request = excluded.request
         AND idempotency.claimed_at_ms < now_ms() - $3`,
    [key, request, CLAIM_MS],
  );
  if (claimed > 0) return { state: 'mine' };
  const [row] = await sql.query<{ request: string; status: number | null; response: string | null }>(
    'SELECT request, status, response FROM idempotency WHERE key = $1',
    [key],
  );
  // Given up between the two statements: the caller's next try finds it free.
  if (row === undefined) return { state: 'in-progress' };
  if (row.request !== request) return { state: 'other-request' };
  if (row.status === null) return { state: 'in-progress' };
  return { state: 'answered', status: row.status, response: row.response };
}

/** `response` is null where it held a secret. */
export async function answerKey(sql: Sql, key: string, status: number, response: string | null): Promise<void> {
  await sql.execute('UPDATE idempotency SET status = $2, response = $3 WHERE key = $1', [key, status, response]);
}

/** The request failed on our side: the same key may try again. */
export async function releaseKey(sql: Sql, key: string): Promise<void> {
  await sql.execute('DELETE FROM idempotency WHERE key = $1 AND status IS NULL', [key]);
}
