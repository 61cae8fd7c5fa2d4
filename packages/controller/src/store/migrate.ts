/** Brings the schema up to date: plain SQL files in `schema/`, each applied once, recorded with its checksum. */
import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { FleetError } from '@kwfleet/core';
import type { Database, Sql } from './database.ts';
import { LOCKS } from './locks.ts';

const FOLDER = join(import.meta.dirname, 'schema');

type Migration = { readonly name: string; readonly sql: string; readonly checksum: string };

/** Answers the names applied now. Throws UNAVAILABLE when the database is of a newer or an altered kwfleet. */
export function migrate(database: Database): Promise<string[]> {
  return database.transaction(async (sql) => {
    await sql.execute('SELECT pg_advisory_xact_lock($1)', [LOCKS.migrate]);
    await sql.execute(
      'CREATE TABLE IF NOT EXISTS migrations (name text PRIMARY KEY, checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())',
    );
    const known = await readMigrations();
    const applied = await sql.query<{ name: string; checksum: string }>('SELECT name, checksum FROM migrations');
    for (const { name, checksum } of applied) refuseForeign(name, checksum, known);
    const missing = known.filter(({ name }) => !applied.some((row) => row.name === name));
    for (const migration of missing) await apply(sql, migration);
    return missing.map(({ name }) => name);
  });
}

async function readMigrations(): Promise<Migration[]> {
  const names = (await readdir(FOLDER)).filter((name) => /^\d{3}-[a-z-]+\.sql$/.test(name)).sort();
  return Promise.all(
    names.map(async (name) => {
      const sql = await readFile(join(FOLDER, name), 'utf8');
      return { name, sql, checksum: createHash('sha256').update(sql).digest('hex') };
    }),
  );
}

function refuseForeign(name: string, checksum: string, known: readonly Migration[]): void {
  const ours = known.find((migration) => migration.name === name);
  if (ours === undefined)
    throw new FleetError('UNAVAILABLE', `the database has migration ${name}: it is of a newer kwfleet`);
  if (ours.checksum !== checksum)
    throw new FleetError('UNAVAILABLE', `migration ${name} is not the one that was applied here`);
}

async function apply(sql: Sql, { name, sql: text, checksum }: Migration): Promise<void> {
  await sql.execute(text);
  await sql.execute('INSERT INTO migrations (name, checksum) VALUES ($1, $2)', [name, checksum]);
}
