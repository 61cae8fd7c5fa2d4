/** The signed metadata of the package repository, by role and version. */
import type { Sql } from './database.ts';
import { LOCKS } from './locks.ts';

export type TrustRole = 'root' | 'targets' | 'snapshot' | 'timestamp';
export type StagedRole = 'root' | 'targets';

/** An agent may be reading the versions before; roots are kept for ever, for agents that slept. */
const KEPT_VERSIONS = 10;

export async function lockTrust(sql: Sql): Promise<void> {
  await sql.execute('SELECT pg_advisory_xact_lock($1)', [LOCKS.trust]);
}

/** The text of a version, or of the newest; undefined when there is none. */
export async function findMetadata(sql: Sql, role: TrustRole, version?: number): Promise<string | undefined> {
  const [row] = await sql.query<{ body: string }>(
    'SELECT body FROM trust_metadata WHERE role = $1 AND ($2::bigint IS NULL OR version = $2) ORDER BY version DESC LIMIT 1',
    [role, version ?? null],
  );
  return row?.body;
}

export async function insertMetadata(sql: Sql, role: TrustRole, version: number, body: string): Promise<void> {
  await sql.execute('INSERT INTO trust_metadata (role, version, body, stored_at_ms) VALUES ($1, $2, $3, now_ms())', [
    role,
    version,
    body,
  ]);
  if (role === 'root') return;
  await sql.execute(
    `DELETE FROM trust_metadata WHERE role = $1 AND version NOT IN
       (SELECT version FROM trust_metadata WHERE role = $1 ORDER BY version DESC LIMIT $2)`,
    [role, KEPT_VERSIONS],
  );
}

export async function findStaged(sql: Sql, role: StagedRole): Promise<string | undefined> {
  const [row] = await sql.query<{ body: string }>('SELECT body FROM trust_staged WHERE role = $1', [role]);
  return row?.body;
}

/** Takes the place of what was staged before. */
export async function stage(sql: Sql, role: StagedRole, body: string): Promise<void> {
  await sql.execute(
    `INSERT INTO trust_staged (role, body, stored_at_ms) VALUES ($1, $2, now_ms())
     ON CONFLICT (role) DO UPDATE SET body = excluded.body, stored_at_ms = excluded.stored_at_ms`,
    [role, body],
  );
}

export async function unstage(sql: Sql, role: StagedRole): Promise<void> {
  await sql.execute('DELETE FROM trust_staged WHERE role = $1', [role]);
}
