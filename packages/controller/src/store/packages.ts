/** The packages of the registry, as rows; their bytes lie in the data directory. */
import type { PackageInfo, Page, StoredPackage } from '@kwfleet/core';
import type { Sql } from './database.ts';
import { type PageRequest, pageOf, positionOf, rowsFor } from './page.ts';

type Row = { sha256: string; info: PackageInfo; addedAtMs: number };
const SELECT = 'SELECT sha256, info, added_at_ms AS "addedAtMs" FROM packages';
const view = ({ sha256, info, addedAtMs }: Row): StoredPackage => ({ ...info, id: sha256, addedAtMs });

/** Whether it was new. */
export async function insertPackage(sql: Sql, info: PackageInfo, actor: string): Promise<boolean> {
  const written = await sql.execute(
    'INSERT INTO packages (sha256, info, added_at_ms, added_by) VALUES ($1, $2, now_ms(), $3) ON CONFLICT DO NOTHING',
    [info.sha256, JSON.stringify(info), actor],
  );
  return written > 0;
}

export async function findPackage(sql: Sql, sha256: string): Promise<StoredPackage | undefined> {
  const [row] = await sql.query<Row>(`${SELECT} WHERE sha256 = $1`, [sha256]);
  return row && view(row);
}

/** Keeps these packages from being deleted until the transaction ends; false when one is gone already. */
export async function lockPackages(sql: Sql, sha256s: readonly string[]): Promise<boolean> {
  const rows = await sql.query('SELECT 1 FROM packages WHERE sha256 = ANY ($1) FOR SHARE', [sha256s]);
  return rows.length === new Set(sha256s).size;
}

export async function allPackages(sql: Sql): Promise<PackageInfo[]> {
  return (await sql.query<Row>(`${SELECT} ORDER BY sha256`)).map(({ info }) => info);
}

/** Those of these that the registry still has. */
export async function somePackages(sql: Sql, sha256s: readonly string[]): Promise<PackageInfo[]> {
  return (await sql.query<Row>(`${SELECT} WHERE sha256 = ANY ($1)`, [sha256s])).map(({ info }) => info);
}

export async function listPackages(sql: Sql, request: PageRequest): Promise<Page<StoredPackage>> {
  const rows = await sql.query<Row>(
    `${SELECT} WHERE (added_at_ms, sha256) < ($1, $2) ORDER BY added_at_ms DESC, sha256 DESC LIMIT $3`,
    [...positionOf(request.cursor), rowsFor(request)],
  );
  return pageOf(rows, request, (row) => [row.addedAtMs, row.sha256], view);
}

/** A run that is not ended and may still need the package, if there is one. */
export async function runUsingPackage(sql: Sql, sha256: string): Promise<string | undefined> {
  const [row] = await sql.query<{ id: string }>(
    `SELECT id FROM runs WHERE status NOT IN ('succeeded', 'failed', 'aborted')
       AND ($1 IN (plan #>> '{package,sha256}', plan #>> '{previousPackage,sha256}')
         OR plan -> 'otherPreviousPackages' @> jsonb_build_array(jsonb_build_object('sha256', $1::text))) LIMIT 1`,
    [sha256],
  );
  return row?.id;
}

export async function deletePackage(sql: Sql, sha256: string): Promise<boolean> {
  return (await sql.execute('DELETE FROM packages WHERE sha256 = $1', [sha256])) > 0;
}
