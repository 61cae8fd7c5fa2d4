/**
 * Every statement of a transfer is made here, and here alone do names become parts of SQL: always through
 * `identifier` or `literal`, which no name can leave. What runs on the source is told apart by its type, so that
 * nothing but questions and EXPORT can be asked of it.
 */
import { FleetError } from '../errors.ts';
import type {
  Grant,
  Membership,
  NewDatabase,
  Sample,
  TableDigest,
  TableRef,
  TransferSetting,
  TransferUser,
} from './model.ts';

/** A statement that changes nothing in the database it is asked of. */
export type Reading = string & { readonly _reading: true };
/** A statement that does. */
export type Writing = string & { readonly _writing: true };

const reading = (text: string): Reading => text as Reading;
const writing = (text: string): Writing => text as Writing;

/** A name between double quotes. A NUL or a lone surrogate has no spelling in SQL: such a name is refused. */
export function identifier(name: string): string {
  return `"${spellable(name).replaceAll('"', '""')}"`;
}

/** A text between single quotes. In KWDB, as in standard SQL, a backslash in it is only a backslash. */
export function literal(text: string): string {
  return `'${spellable(text).replaceAll("'", "''")}'`;
}

function spellable(text: string): string {
  if (text.includes('\0') || !text.isWellFormed()) {
    throw new FleetError('ACTION_INVALID', `a name cannot be written in SQL: ${JSON.stringify(text.slice(0, 80))}`);
  }
  return text;
}

export const tableName = (database: string, { schema, table }: TableRef): string =>
  [database, schema, table].map(identifier).join('.');

const list = (names: readonly string[]): string => names.map(identifier).join(', ');

// --- questions

/** A row under a column of this name, between the answers of two statements. */
export function separator(name: string): Reading {
  if (!/^kwfleet_[0-9a-f]{16}$/.test(name)) throw new FleetError('ACTION_INVALID', 'a separator has a name of its own');
  return reading(`SELECT 1 AS ${name}`);
}

/** Schemas of the system, whose tables are not user data. */
const SYSTEM_SCHEMAS = "('information_schema', 'pg_catalog', 'kwdb_internal', 'crdb_internal', 'pg_extension')";

export const ASK = {
  databases: reading('SELECT database_name, engine_type FROM [SHOW DATABASES] ORDER BY 1'),
  users: reading('SELECT username, "isRole" FROM system.users ORDER BY 1'),
  userOptions: reading('SELECT username, option, value FROM system.role_options ORDER BY 1, 2'),
  memberships: reading('SELECT role, member, "isAdmin" FROM system.role_members ORDER BY 1, 2'),
  settings: reading('SELECT name, value FROM system.settings ORDER BY 1'),
  knownSettings: reading('SELECT variable FROM [SHOW ALL CLUSTER SETTINGS] ORDER BY 1'),
  schemas: (database: string) =>
    reading(
      `SELECT schema_name FROM ${identifier(database)}.information_schema.schemata WHERE catalog_name = ${literal(database)} AND schema_name NOT IN ${SYSTEM_SCHEMAS} ORDER BY 1`,
    ),
  tables: (database: string) =>
    reading(
      `SELECT table_schema, table_name, table_type FROM ${identifier(database)}.information_schema.tables WHERE table_catalog = ${literal(database)} AND table_schema NOT IN ${SYSTEM_SCHEMAS} ORDER BY 1, 2`,
    ),
  sequences: (database: string) =>
    reading(
      `SELECT sequence_schema, sequence_name FROM ${identifier(database)}.information_schema.sequences WHERE sequence_catalog = ${literal(database)} ORDER BY 1, 2`,
    ),
  foreignKeys: (database: string) =>
    reading(
      `SELECT table_schema, table_name FROM ${identifier(database)}.information_schema.table_constraints WHERE table_catalog = ${literal(database)} AND constraint_type = 'FOREIGN KEY' ORDER BY 1, 2`,
    ),
  schemaGrants: (database: string) =>
    reading(
      `SELECT table_schema, grantee, privilege_type FROM ${identifier(database)}.information_schema.schema_privileges WHERE table_catalog = ${literal(database)} ORDER BY 1, 2, 3`,
    ),
  tableGrants: (database: string) =>
    reading(
      `SELECT table_schema, table_name, grantee, privilege_type FROM ${identifier(database)}.information_schema.table_privileges WHERE table_catalog = ${literal(database)} AND table_schema NOT IN ${SYSTEM_SCHEMAS} ORDER BY 1, 2, 3, 4`,
    ),
  columns: (database: string, { schema, table }: TableRef) =>
    reading(
      `SELECT column_name, data_type, is_tag::BOOL, is_hidden::BOOL FROM ${identifier(database)}.information_schema.columns WHERE table_catalog = ${literal(database)} AND table_schema = ${literal(schema)} AND table_name = ${literal(table)} ORDER BY ordinal_position`,
    ),
  primaryKey: (database: string, { schema, table }: TableRef) =>
    reading(
      `SELECT column_name FROM ${identifier(database)}.information_schema.statistics WHERE table_catalog = ${literal(database)} AND table_schema = ${literal(schema)} AND table_name = ${literal(table)} AND index_name = 'primary' AND NOT storing::BOOL AND NOT implicit::BOOL ORDER BY seq_in_index`,
    ),
  count: (database: string, table: TableRef) => reading(`SELECT count(*) FROM ${tableName(database, table)}`),
  /** IMPORT and EXPORT jobs that name this directory and have not ended. */
  importsOf: (directory: string) =>
    reading(
      `SELECT job_id, status FROM [SHOW JOBS] WHERE job_type = 'IMPORT' AND status IN ('pending', 'running', 'reverting', 'paused') AND strpos(description, ${literal(directory)}) > 0`,
    ),
};

/** The rows of one sample window: the first of the ordering, its last (turned round), or some from `offset` on. */
export function sampleQuery(
  database: string,
  digest: Pick<TableDigest, 'schema' | 'table' | 'columns' | 'order'>,
  window: { readonly from: 'start' | 'end' | number; readonly rows: number },
): Reading {
  const direction = window.from === 'end' ? ' DESC' : '';
  const order = digest.order.map((name) => `${identifier(name)}${direction}`).join(', ');
  const offset = typeof window.from === 'number' ? ` OFFSET ${Math.trunc(window.from)}` : '';
  return reading(
    `SELECT ${list(digest.columns)} FROM ${tableName(database, digest)} ORDER BY ${order} LIMIT ${Math.trunc(window.rows)}${offset}`,
  );
}

/** Where the middle window begins: the same on both sides for the same seed, table and number of rows. */
export function middleOffset(sample: Sample, table: TableRef, rows: number): number | undefined {
  const room = rows - 2 * sample.rows;
  if (room <= sample.rows) return undefined;
  // FNV-1a over the name, so that one seed looks at another place in every table.
  let hash = (0x811c_9dc5 ^ sample.seed) >>> 0;
  for (const unit of `${table.schema}\0${table.table}`) {
    hash = Math.imul(hash ^ (unit.codePointAt(0) ?? 0), 0x0100_0193) >>> 0;
  }
  return sample.rows + (hash % (room - sample.rows));
}

// --- export: the one statement besides questions that the source is asked

/** Rows a file; KWDB's own default and limit. */
const CHUNK_ROWS = 100_000;

/** How many files an EXPORT of so many rows makes at least. */
export const filesOfRows = (rows: number): number => Math.ceil(rows / CHUNK_ROWS);

const nodelocal = (kwdbId: number, directory: string): string => `nodelocal://${Math.trunc(kwdbId)}/${directory}`;

export const exportTable = (kwdbId: number, directory: string, database: string, table: TableRef): Reading =>
  reading(
    `EXPORT INTO CSV ${literal(nodelocal(kwdbId, directory))} FROM TABLE ${tableName(database, table)} WITH chunk_rows = '${CHUNK_ROWS}'`,
  );

export const exportDatabase = (kwdbId: number, directory: string, database: string): Reading =>
  reading(
    `EXPORT INTO CSV ${literal(nodelocal(kwdbId, directory))} FROM DATABASE ${identifier(database)} WITH chunk_rows = '${CHUNK_ROWS}'`,
  );

// --- what only the target is told

/** The table in the session's database and search path; an export without rows has no data files. */
export function importTable(kwdbId: number, directory: string, files: readonly string[]): Writing {
  const place = nodelocal(kwdbId, directory);
  const meta = literal(`${place}/meta.sql`);
  if (files.length === 0) return writing(`IMPORT TABLE CREATE USING ${meta}`);
  const data = files.map((file) => literal(`${place}/${file}`)).join(', ');
  return writing(`IMPORT TABLE CREATE USING ${meta} CSV DATA (${data})`);
}

export const importDatabase = (kwdbId: number, directory: string): Writing =>
  writing(`IMPORT DATABASE CSV DATA (${literal(nodelocal(kwdbId, directory))})`);

export const setSearchPath = (schema: string): Writing => writing(`SET search_path = ${identifier(schema)}`);

/** One that is not there: not every version knows IF NOT EXISTS for time series. */
export const createDatabase = ({ name, engine }: Pick<NewDatabase, 'name' | 'engine'>): Writing =>
  writing(`CREATE ${engine === 'timeseries' ? 'TS ' : ''}DATABASE ${identifier(name)}`);
/** In the session's database. */
export const createSchema = (schema: string): Writing => writing(`CREATE SCHEMA IF NOT EXISTS ${identifier(schema)}`);
export const dropTable = (database: string, table: TableRef): Writing =>
  writing(`DROP TABLE IF EXISTS ${tableName(database, table)}`);
export const dropDatabase = (name: string): Writing => writing(`DROP DATABASE IF EXISTS ${identifier(name)} CASCADE`);

/** `NOLOGIN`, `CREATEROLE`, `VALID UNTIL=...`: the closed set of what SHOW USERS tells; others are left out. */
const OPTION = /^(LOGIN|NOLOGIN|CREATEROLE|NOCREATEROLE|CONTROLJOB|NOCONTROLJOB)$/;

export const isKnownOption = (option: string): boolean => OPTION.test(option) || option.startsWith('VALID UNTIL=');

/** Without a password: those are not carried. */
export function createUser({ name, isRole, options }: TransferUser): Writing {
  const kept = options.filter(isKnownOption).map((option) => {
    if (OPTION.test(option)) return option;
    return `VALID UNTIL ${literal(option.slice('VALID UNTIL='.length))}`;
  });
  const kind = isRole ? 'ROLE' : 'USER';
  return writing(
    `CREATE ${kind} IF NOT EXISTS ${identifier(name)}${kept.length === 0 ? '' : ` WITH ${kept.join(' ')}`}`,
  );
}

export const grantRole = ({ role, member, isAdmin }: Membership): Writing =>
  writing(`GRANT ${identifier(role)} TO ${identifier(member)}${isAdmin ? ' WITH ADMIN OPTION' : ''}`);

const PRIVILEGES: ReadonlySet<string> = new Set([
  'ALL',
  'CREATE',
  'DROP',
  'GRANT',
  'SELECT',
  'INSERT',
  'DELETE',
  'UPDATE',
  'USAGE',
  'EXECUTE',
]);

export const isKnownPrivilege = (privilege: string): boolean => PRIVILEGES.has(privilege);

/** A schema is named in the session's database. */
export function grantPrivilege(grant: Grant): Writing {
  if (!isKnownPrivilege(grant.privilege)) {
    throw new FleetError('ACTION_INVALID', `"${grant.privilege}" is no privilege that is known here`);
  }
  return writing(`GRANT ${grant.privilege} ON ${targetOf(grant)} TO ${identifier(grant.grantee)}`);
}

function targetOf({ database, schema, table }: Grant): string {
  if (schema === undefined) return `DATABASE ${identifier(database)}`;
  if (table === undefined) return `SCHEMA ${identifier(schema)}`;
  return `TABLE ${tableName(database, { schema, table })}`;
}

const SETTING_NAME = /^[a-z][a-z0-9_]*(\.[a-z0-9_]+)*$/;

export function setSetting({ name, value }: TransferSetting): Writing {
  if (!SETTING_NAME.test(name)) throw new FleetError('ACTION_INVALID', `"${name}" is no name of a cluster setting`);
  return writing(`SET CLUSTER SETTING ${name} = ${literal(value)}`);
}
