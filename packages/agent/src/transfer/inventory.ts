/** Everything a cluster holds, asked of its own database; looks only. */
import {
  ASK,
  type Engine,
  FleetError,
  type Inventory,
  type InventoryDatabase,
  type InventoryGrant,
  type TableRef,
  type TransferUser,
} from '@kwfleet/core';
import type { ReadingSql, Rows } from './sql-client.ts';

/** Databases that belong to KWDB itself. */
const SYSTEM_DATABASES: ReadonlySet<string> = new Set(['system', 'information_schema', 'pg_catalog']);
/** Those that every cluster has. */
const SYSTEM_USERS: ReadonlySet<string> = new Set(['root', 'admin', 'public', 'node']);
/** Those of them to whom nobody gives a privilege; `public`, who is every user, is given some. */
const MASTERS: ReadonlySet<string> = new Set(['root', 'admin', 'node']);
/** Settings that belong to one cluster. Source: what KWDB's own EXPORT CLUSTER SETTING leaves out. */
const OWN_SETTINGS: ReadonlySet<string> = new Set(['cluster.secret', 'diagnostics.reporting.enabled', 'version']);
const DATABASES_LIMIT = 1_000;

/** Throws KWBASE_FAILED when one question is not answered: half an inventory would make half a transfer. */
export async function takeInventory(sql: ReadingSql, now: () => number): Promise<Inventory> {
  const observedAtMs = now();
  const [found = [], users = [], options = [], members = [], settings = [], known = []] = await sql.all([
    ASK.databases,
    ASK.users,
    ASK.userOptions,
    ASK.memberships,
    ASK.settings,
    ASK.knownSettings,
  ]);
  const own = found.filter(([name]) => !SYSTEM_DATABASES.has(name ?? ''));
  if (own.length > DATABASES_LIMIT) {
    throw new FleetError('TRANSFER_TOO_LARGE', `there are ${own.length} databases; ${DATABASES_LIMIT} are carried`);
  }
  const databases: InventoryDatabase[] = [];
  const grants: InventoryGrant[] = [];
  for (const [name, engine] of own) {
    const told = await databaseOf(sql, name ?? '', /time/i.test(engine ?? '') ? 'timeseries' : 'relational');
    databases.push(told.database);
    grants.push(...told.grants);
  }
  return {
    observedAtMs,
    databases,
    users: usersOf(users, options),
    memberships: members
      .map(([role, member, isAdmin]) => ({ role: role ?? '', member: member ?? '', isAdmin: isAdmin === 'true' }))
      .filter(({ role, member }) => !(role === 'admin' && member === 'root')),
    grants,
    clusterSettings: settings
      .map(([name, value]) => ({ name: name ?? '', value: value ?? '' }))
      .filter(({ name }) => !OWN_SETTINGS.has(name)),
    knownSettings: known.map(([name]) => name ?? ''),
  };
}

async function databaseOf(
  sql: ReadingSql,
  name: string,
  engine: Engine,
): Promise<{ readonly database: InventoryDatabase; readonly grants: InventoryGrant[] }> {
  const questions = [ASK.schemas(name), ASK.tables(name), ASK.schemaGrants(name), ASK.tableGrants(name)];
  const more = engine === 'relational' ? [ASK.sequences(name), ASK.foreignKeys(name)] : [];
  const [schemas = [], found = [], ofSchemas = [], ofTables = [], sequences = [], foreign = []] = await sql.all([
    ...questions,
    ...more,
  ]);
  const tables: TableRef[] = [];
  const notCarried = sequences.map(([schema, sequence]) => `SEQUENCE ${schema}.${sequence}`);
  for (const [schema, table, type] of found) {
    if (isCarried(type ?? '')) tables.push({ schema: schema ?? '', table: table ?? '' });
    else notCarried.push(`${type} ${schema}.${table}`);
  }
  const database: InventoryDatabase = {
    name,
    engine,
    schemas: schemas.map(([schema]) => schema ?? '').filter((schema) => schema !== 'public'),
    tables,
    notCarried,
    foreignKeys: foreign.map(([schema, table]) => ({ schema: schema ?? '', table: table ?? '' })),
  };
  return { database, grants: grantsOf(database, ofSchemas, ofTables) };
}

/** Source: KWDB's own export takes relational and time-series base tables; not templates, instances and views. */
const isCarried = (type: string): boolean => /^(BASE|TIME ?SERIES) TABLE$/i.test(type);

function usersOf(users: Rows, options: Rows): TransferUser[] {
  const ofUser = Map.groupBy(options, ([user]) => user);
  return users
    .filter(([name]) => !SYSTEM_USERS.has(name ?? ''))
    .map(([name, isRole]) => ({
      name: name ?? '',
      isRole: isRole === 'true',
      options: (ofUser.get(name ?? '') ?? []).map(([, option, value]) =>
        value === null || value === '' ? `${option}` : `${option}=${value}`,
      ),
    }));
}

/**
 * Privileges of users on the database, its schemas and its tables. KWDB lists those of the database under its
 * `information_schema`. Source: what its own EXPORT ... WITH privileges reads.
 */
function grantsOf({ name, schemas, tables }: InventoryDatabase, schemaRows: Rows, tableRows: Rows): InventoryGrant[] {
  const carried = new Set(tables.map(({ schema, table }) => JSON.stringify([schema, table])));
  const ofSchemas = schemaRows.flatMap(([schema, grantee, privilege]): InventoryGrant[] => {
    if (schema === 'information_schema') return [grant(name, grantee, privilege)];
    return schemas.includes(schema ?? '') ? [{ ...grant(name, grantee, privilege), schema: schema ?? '' }] : [];
  });
  const ofTables = tableRows.flatMap(([schema, table, grantee, privilege]): InventoryGrant[] =>
    carried.has(JSON.stringify([schema, table]))
      ? [{ ...grant(name, grantee, privilege), schema: schema ?? '', table: table ?? '' }]
      : [],
  );
  return [...ofSchemas, ...ofTables].filter(({ grantee }) => !MASTERS.has(grantee));
}

const grant = (
  database: string,
  grantee: string | null | undefined,
  privilege: string | null | undefined,
): InventoryGrant => ({
  database,
  grantee: grantee ?? '',
  privilege: privilege ?? '',
});
