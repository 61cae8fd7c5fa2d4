/** Tokens of people, one-time tokens of agents. Only hashes are stored: a secret is shown once, when it is made. */
import { createHash, randomBytes, timingSafeEqual } from 'node:crypto';
import { FleetError, type Page } from '@kwfleet/core';
import type { Sql } from './database.ts';
import { newId } from './ids.ts';
import { knowsNode } from './nodes.ts';
import { type PageRequest, pageOfRows, positionOf, rowsFor } from './page.ts';

export const ROLES = ['viewer', 'operator', 'approver', 'admin'] as const;
export type Role = (typeof ROLES)[number];

export type TokenRow = {
  readonly id: string;
  readonly role: Role;
  readonly name: string;
  readonly createdAtMs: number;
  readonly createdBy: string;
  readonly expiresAtMs: number | null;
  readonly revokedAtMs: number | null;
};

export type EnrollmentRow = {
  readonly id: string;
  readonly node: string | null;
  readonly createdAtMs: number;
  readonly createdBy: string;
  readonly expiresAtMs: number;
  readonly usedAtMs: number | null;
  readonly usedBy: string | null;
};

const TOKEN_COLUMNS = `id, role, name, created_at_ms AS "createdAtMs", created_by AS "createdBy",
  expires_at_ms AS "expiresAtMs", revoked_at_ms AS "revokedAtMs"`;
const ENROLLMENT_COLUMNS = `id, node, created_at_ms AS "createdAtMs", created_by AS "createdBy",
  expires_at_ms AS "expiresAtMs", used_at_ms AS "usedAtMs", used_by AS "usedBy"`;

/** 256 random bits with a prefix that secret scanners can be taught. */
const newSecret = (prefix: 'kwt' | 'kwe') => `${prefix}_${randomBytes(32).toString('base64url')}`;
/** A plain hash is enough: nobody guesses 256 random bits, however fast they hash. */
const hashOf = (secret: string) => createHash('sha256').update(secret).digest();

export async function createToken(
  sql: Sql,
  token: { role: Role; name: string; by: string; ttlMs?: number | undefined },
): Promise<{ secret: string; row: TokenRow }> {
  const secret = newSecret('kwt');
  const [row] = await sql.query<TokenRow>(
    `INSERT INTO tokens (id, hash, role, name, created_at_ms, created_by, expires_at_ms)
     VALUES ($1, $2, $3, $4, now_ms(), $5, now_ms() + $6::bigint) RETURNING ${TOKEN_COLUMNS}`,
    [newId('token'), hashOf(secret), token.role, token.name, token.by, token.ttlMs ?? null],
  );
  return { secret, row: row as TokenRow };
}

/** The token's row, or undefined when it is unknown, expired or revoked. */
export async function verifyToken(sql: Sql, secret: string): Promise<TokenRow | undefined> {
  const hash = hashOf(secret);
  const [row] = await sql.query<TokenRow & { hash: Buffer }>(
    `SELECT ${TOKEN_COLUMNS}, hash FROM tokens
     WHERE hash = $1 AND revoked_at_ms IS NULL AND (expires_at_ms IS NULL OR expires_at_ms > now_ms())`,
    [hash],
  );
  return row !== undefined && timingSafeEqual(row.hash, hash) ? row : undefined;
}

export async function listTokens(sql: Sql, request: PageRequest): Promise<Page<TokenRow>> {
  const rows = await sql.query<TokenRow>(
    `SELECT ${TOKEN_COLUMNS} FROM tokens WHERE (created_at_ms, id) < ($1, $2)
     ORDER BY created_at_ms DESC, id DESC LIMIT $3`,
    [...positionOf(request.cursor), rowsFor(request)],
  );
  return pageOfRows(rows, request);
}

/** Whether there was such a token that still opened something. */
export async function revokeToken(sql: Sql, id: string): Promise<boolean> {
  const changed = 'UPDATE tokens SET revoked_at_ms = now_ms() WHERE id = $1 AND revoked_at_ms IS NULL';
  return (await sql.execute(changed, [id])) > 0;
}

export async function hasToken(sql: Sql, name: string): Promise<boolean> {
  return (await sql.query('SELECT 1 FROM tokens WHERE name = $1 LIMIT 1', [name])).length > 0;
}

export async function createEnrollment(
  sql: Sql,
  enrollment: { node?: string | undefined; ttlMs: number; by: string },
): Promise<{ secret: string; row: EnrollmentRow }> {
  const secret = newSecret('kwe');
  const [row] = await sql.query<EnrollmentRow>(
    `INSERT INTO enrollments (id, hash, node, created_at_ms, created_by, expires_at_ms)
     VALUES ($1, $2, $3, now_ms(), $4, now_ms() + $5) RETURNING ${ENROLLMENT_COLUMNS}`,
    [newId('enrollment'), hashOf(secret), enrollment.node ?? null, enrollment.by, enrollment.ttlMs],
  );
  return { secret, row: row as EnrollmentRow };
}

export async function listEnrollments(sql: Sql, request: PageRequest): Promise<Page<EnrollmentRow>> {
  const rows = await sql.query<EnrollmentRow>(
    `SELECT ${ENROLLMENT_COLUMNS} FROM enrollments WHERE (created_at_ms, id) < ($1, $2)
     ORDER BY created_at_ms DESC, id DESC LIMIT $3`,
    [...positionOf(request.cursor), rowsFor(request)],
  );
  return pageOfRows(rows, request);
}

/**
 * Spends a one-time token on a node's certificate. A token for no node in particular opens only names that are new:
 * with it nobody can take the place of a node that is there. Throws ENROLLMENT_INVALID, spending nothing when the
 * transaction is rolled back.
 */
export async function spendEnrollment(sql: Sql, secret: string, node: string, serial: string): Promise<EnrollmentRow> {
  const [row] = await sql.query<EnrollmentRow>(
    `UPDATE enrollments SET used_at_ms = now_ms(), used_by = $2
     WHERE hash = $1 AND used_at_ms IS NULL AND expires_at_ms > now_ms() RETURNING ${ENROLLMENT_COLUMNS}`,
    [hashOf(secret), node],
  );
  if (row === undefined) throw new FleetError('ENROLLMENT_INVALID', 'the one-time token is unknown, spent or expired');
  if (row.node !== null && row.node !== node) {
    throw new FleetError('ENROLLMENT_INVALID', `the one-time token is for ${row.node}, not for ${node}`);
  }
  if (row.node === null && (await isTaken(sql, node))) {
    throw new FleetError('ENROLLMENT_INVALID', `${node} is enrolled already: make a one-time token for that very node`);
  }
  await sql.execute('INSERT INTO certificates (serial, node, issued_at_ms, enrollment) VALUES ($1, $2, now_ms(), $3)', [
    serial,
    node,
    row.id,
  ]);
  return row;
}

/**
 * Stores that a node's certificate was followed by another. Throws ENROLLMENT_INVALID when the first is unknown or revoked,
 * or is by the end of this transaction.
 */
export async function succeedCertificate(sql: Sql, node: string, serial: string, next: string): Promise<void> {
  const known = await sql.query(
    'SELECT 1 FROM certificates WHERE serial = $1 AND node = $2 AND revoked_at_ms IS NULL FOR SHARE',
    [serial, node],
  );
  if (known.length === 0) {
    throw new FleetError('ENROLLMENT_INVALID', `the certificate ${serial} was not given to ${node}, or was revoked`);
  }
  await sql.execute(
    `INSERT INTO certificates (serial, node, issued_at_ms, enrollment)
     SELECT $2, node, now_ms(), enrollment FROM certificates WHERE serial = $1`,
    [serial, next],
  );
}

/** Of nodes that were removed. */
export async function revokedSerials(sql: Sql): Promise<string[]> {
  const rows = await sql.query<{ serial: string }>('SELECT serial FROM certificates WHERE revoked_at_ms IS NOT NULL');
  return rows.map(({ serial }) => serial);
}

/** Whether this certificate was revoked; until this transaction ends, it is not. One that we did not issue cannot be. */
export async function isRevoked(sql: Sql, serial: string): Promise<boolean> {
  const [row] = await sql.query<{ revoked: boolean }>(
    'SELECT revoked_at_ms IS NOT NULL AS revoked FROM certificates WHERE serial = $1 FOR SHARE',
    [serial],
  );
  return row?.revoked === true;
}

async function isTaken(sql: Sql, node: string): Promise<boolean> {
  const certified = await sql.query('SELECT 1 FROM certificates WHERE node = $1 LIMIT 1', [node]);
  return certified.length > 0 || (await knowsNode(sql, node));
}
