/**
 * The stand-in's databases, tables, users and privileges: what a transfer reads and makes, kept in one JSON file of the
 * node's store. It knows the statements that a transfer sends, word for word, and calls everything else a syntax error.
 * On node's builtins alone, packed beside kwbase.ts.
 */
import * as fs from 'node:fs';

export type Column = { readonly name: string; readonly type: string; readonly isTag: boolean };
export type StoredTable = {
  readonly schema: string;
  readonly name: string;
  readonly columns: readonly Column[];
  /** Empty: ordered by a hidden rowid. */
  readonly key: readonly string[];
  /** The statement as it was written, without its table's name. */
  readonly body: string;
  rows: (string | null)[][];
  /** An import is at work on it, or died there. */
  offline?: boolean;
};
export type StoredDatabase = {
  readonly engine: 'RELATIONAL' | 'TIME SERIES';
  readonly schemas: string[];
  readonly tables: StoredTable[];
  readonly views: string[];
};
export type StoredUser = { readonly isRole: boolean; readonly options: Record<string, string | null> };
export type StoredGrant = {
  readonly database: string;
  readonly schema?: string;
  readonly table?: string;
  readonly grantee: string;
  readonly privilege: string;
};
export type Contents = {
  readonly databases: Record<string, StoredDatabase>;
  readonly users: Record<string, StoredUser>;
  readonly memberships: { role: string; member: string; isAdmin: boolean }[];
  readonly grants: StoredGrant[];
};

export type Cell = string | number | boolean | null;
export type Answer = { readonly columns: readonly string[]; readonly rows: readonly Cell[][]; readonly tag?: string };
/** What `--database` and SET change for the statements that follow in one session. */
export type SqlSession = { database: string; searchPath: string };

export class StatementError extends Error {
  readonly code: string;
  constructor(code: string, message: string) {
    super(message);
    this.code = code;
  }
}

const EMPTY: Contents = {
  databases: {
    defaultdb: { engine: 'RELATIONAL', schemas: [], tables: [], views: [] },
    postgres: { engine: 'RELATIONAL', schemas: [], tables: [], views: [] },
    system: { engine: 'RELATIONAL', schemas: [], tables: [], views: [] },
  },
  users: { root: { isRole: false, options: {} }, admin: { isRole: true, options: {} } },
  memberships: [{ role: 'admin', member: 'root', isAdmin: true }],
  grants: [],
};

/** An identifier or a literal as it may stand in a statement, and a table of up to three parts. */
const ID = '(?:"(?:[^"]|"")*"|[a-zA-Z_][a-zA-Z0-9_]*)';
const TEXT = "'(?:[^']|'')*'";
const NAME = `(${ID})(?:\\.(${ID}))?(?:\\.(${ID}))?`;

export const unquoteName = (text: string): string =>
  text.startsWith('"') ? text.slice(1, -1).replaceAll('""', '"') : text.toLowerCase();
export const unquoteText = (text: string): string => text.slice(1, -1).replaceAll("''", "'");
export const quoteName = (name: string): string => `"${name.replaceAll('"', '""')}"`;

export class Tables {
  readonly #file: string;
  contents: Contents;

  constructor(file: string) {
    this.#file = file;
    let kept: Contents | undefined;
    try {
      kept = JSON.parse(fs.readFileSync(file, 'utf8')) as Contents;
    } catch {
      // Nothing was ever made.
    }
    this.contents = kept ?? structuredClone(EMPTY);
  }

  save(): void {
    fs.writeFileSync(`${this.#file}.new`, JSON.stringify(this.contents));
    fs.renameSync(`${this.#file}.new`, this.#file);
  }

  database(name: string): StoredDatabase {
    const found = this.contents.databases[name];
    if (found === undefined) throw new StatementError('3D000', `database "${name}" does not exist`);
    return found;
  }

  /** Undefined when the statement is not one that this store knows. */
  run(text: string, session: SqlSession): Answer | undefined {
    const statement = text.trim().replace(/;\s*$/, '');
    for (const [pattern, work] of STATEMENTS) {
      const match = pattern.exec(statement);
      if (match !== null) return work(this, match.slice(1), session);
    }
    return undefined;
  }

  resolve(
    parts: readonly (string | undefined)[],
    session: SqlSession,
  ): { database: string; schema: string; name: string } {
    const given = parts.filter((part) => part !== undefined).map(unquoteName);
    const name = given.at(-1) ?? '';
    if (given.length === 3) return { database: given[0] ?? '', schema: given[1] ?? '', name };
    // Of two parts the first is a schema of the current database where there is one, else a database.
    if (given.length === 2) {
      const [first = ''] = given;
      const own = this.contents.databases[session.database];
      if (first === 'public' || own?.schemas.includes(first) === true) {
        return { database: session.database, schema: first, name };
      }
      return { database: first, schema: 'public', name };
    }
    return { database: session.database, schema: session.searchPath, name };
  }

  find(parts: readonly (string | undefined)[], session: SqlSession): StoredTable {
    const { database, schema, name } = this.resolve(parts, session);
    const found = this.database(database).tables.find((table) => table.schema === schema && table.name === name);
    if (found === undefined) throw new StatementError('42P01', `relation "${name}" does not exist`);
    if (found.offline === true) throw new StatementError('55000', `relation "${name}" is offline: importing`);
    return found;
  }

  /** From `CREATE TABLE name (...)`; the table is not stored yet. */
  parseTable(create: string, session: SqlSession): { database: string; table: StoredTable } {
    const match = new RegExp(`^CREATE TABLE ${NAME}\\s*(\\(.*)$`, 'is').exec(create.trim().replace(/;\s*$/, ''));
    if (match === null) throw new StatementError('42601', `syntax error in CREATE TABLE: ${create.slice(0, 60)}`);
    const [, a, b, c, body = ''] = match;
    const { database, schema, name } = this.resolve([a, b, c], session);
    return { database, table: { schema, name, body, ...parseBody(body), rows: [] } };
  }

  addTable(database: string, table: StoredTable): void {
    const { tables, schemas } = this.database(database);
    if (table.schema !== 'public' && !schemas.includes(table.schema)) {
      throw new StatementError('3F000', `unknown schema "${table.schema}"`);
    }
    if (tables.some((other) => other.schema === table.schema && other.name === table.name)) {
      throw new StatementError('42P07', `relation "${table.name}" already exists`);
    }
    tables.push(table);
  }
}

/** Columns of `(a INT8, "b c" STRING, PRIMARY KEY (a)) TAGS (t INT4) PRIMARY TAGS (t)`. */
function parseBody(body: string): { columns: Column[]; key: string[] } {
  const [inner = '', rest = ''] = parenthesis(body);
  const columns: Column[] = [];
  const key: string[] = [];
  for (const definition of splitTop(inner)) {
    const named = new RegExp(`^(?:CONSTRAINT ${ID} )?PRIMARY KEY \\((.*)\\)$`, 'is').exec(definition);
    if (named !== null)
      key.push(...splitTop(named[1] ?? '').map((part) => unquoteName(part.split(/ (?:ASC|DESC)$/i)[0] ?? '')));
    else if (!/^(FAMILY|INDEX|UNIQUE|CONSTRAINT)\b/i.test(definition)) columns.push(columnOf(definition, key, false));
  }
  const tags = /^\s*TAGS\s*/i.exec(rest);
  if (tags !== null) {
    const [tagList = ''] = parenthesis(rest.slice(tags[0].length));
    columns.push(...splitTop(tagList).map((definition) => columnOf(definition, [], true)));
  }
  return { columns, key };
}

function columnOf(definition: string, key: string[], isTag: boolean): Column {
  const match = new RegExp(`^(${ID})\\s+([A-Z0-9]+(?:\\([0-9, ]*\\))?(?:\\[\\])?)`, 'is').exec(definition);
  if (match === null) throw new StatementError('42601', `syntax error at "${definition.slice(0, 40)}"`);
  const name = unquoteName(match[1] ?? '');
  if (/PRIMARY KEY/i.test(definition)) key.push(name);
  return { name, type: (match[2] ?? '').toUpperCase(), isTag };
}

/** What stands between the first parenthesis and its partner, and what follows. */
function parenthesis(text: string): [string, string] {
  let depth = 0;
  let quote = '';
  for (let at = 0; at < text.length; at++) {
    const char = text[at] ?? '';
    if (quote !== '') quote = char === quote ? '' : quote;
    else if (char === '"' || char === "'") quote = char;
    else if (char === '(') depth += 1;
    else if (char === ')') {
      depth -= 1;
      if (depth === 0) return [text.slice(text.indexOf('(') + 1, at), text.slice(at + 1)];
    }
  }
  throw new StatementError('42601', 'a parenthesis is not closed');
}

/** The parts between commas that are in no parenthesis and no quotes, trimmed. */
export function splitTop(text: string): string[] {
  const parts: string[] = [];
  let depth = 0;
  let quote = '';
  let part = '';
  for (const char of text) {
    if (quote !== '') quote = char === quote ? '' : quote;
    else if (char === '"' || char === "'") quote = char;
    else if (char === '(') depth += 1;
    else if (char === ')') depth -= 1;
    if (char === ',' && depth === 0 && quote === '') {
      parts.push(part.trim());
      part = '';
    } else part += char;
  }
  return part.trim() === '' ? parts : [...parts, part.trim()];
}

const done = (tag: string): Answer => ({ columns: [], rows: [], tag });
const like = (text: string): RegExp => new RegExp(`^${text}$`, 'is');

type Statement = (store: Tables, given: readonly (string | undefined)[], session: SqlSession) => Answer;

function change(tag: string, work: (...args: Parameters<Statement>) => void): Statement {
  return (store, given, session) => {
    work(store, given, session);
    store.save();
    return done(tag);
  };
}

const IN_SYSTEM = '\\([^)]*\\)';
/** A question about one database: `pattern` goes on after `FROM "db".information_schema.`. */
const ofDatabase = (select: string, view: string, where: string): RegExp =>
  like(`SELECT ${select} FROM (${ID})\\.information_schema\\.${view} WHERE ${where}`);

const inRange = (rows: Cell[][], columns: readonly string[]): Answer => ({ columns, rows });

const STATEMENTS: readonly (readonly [RegExp, Statement])[] = [
  // What is there.
  [
    like('SELECT database_name, engine_type FROM \\[SHOW DATABASES\\] ORDER BY 1'),
    ({ contents }) =>
      inRange(
        Object.entries(contents.databases)
          .map(([name, { engine }]) => [name, engine])
          .sort(),
        ['database_name', 'engine_type'],
      ),
  ],
  [
    like('SELECT username, "isRole" FROM system\\.users ORDER BY 1'),
    ({ contents }) =>
      inRange(
        Object.entries(contents.users)
          .map(([name, { isRole }]): Cell[] => [name, isRole])
          .sort(),
        ['username', 'isRole'],
      ),
  ],
  [
    like('SELECT username, option, value FROM system\\.role_options ORDER BY 1, 2'),
    ({ contents }) =>
      inRange(
        Object.entries(contents.users).flatMap(([name, { options }]) =>
          Object.entries(options).map(([option, value]): Cell[] => [name, option, value]),
        ),
        ['username', 'option', 'value'],
      ),
  ],
  [
    like('SELECT role, member, "isAdmin" FROM system\\.role_members ORDER BY 1, 2'),
    ({ contents }) =>
      inRange(
        contents.memberships.map(({ role, member, isAdmin }) => [role, member, isAdmin]),
        ['role', 'member', 'isAdmin'],
      ),
  ],
  [
    ofDatabase('schema_name', 'schemata', `catalog_name = ${TEXT} AND schema_name NOT IN ${IN_SYSTEM} ORDER BY 1`),
    (store, [database = '']) =>
      inRange(
        ['public', ...store.database(unquoteName(database)).schemas].map((schema) => [schema]),
        ['schema_name'],
      ),
  ],
  [
    ofDatabase(
      'table_schema, table_name, table_type',
      'tables',
      `table_catalog = ${TEXT} AND table_schema NOT IN ${IN_SYSTEM} ORDER BY 1, 2`,
    ),
    (store, [database = '']) => {
      const { tables, views, engine } = store.database(unquoteName(database));
      const type = engine === 'RELATIONAL' ? 'BASE TABLE' : 'TIME SERIES TABLE';
      return inRange(
        [...tables.map(({ schema, name }) => [schema, name, type]), ...views.map((view) => ['public', view, 'VIEW'])],
        ['table_schema', 'table_name', 'table_type'],
      );
    },
  ],
  [
    ofDatabase('sequence_schema, sequence_name', 'sequences', `sequence_catalog = ${TEXT} ORDER BY 1, 2`),
    () => inRange([], ['sequence_schema', 'sequence_name']),
  ],
  [
    ofDatabase(
      'table_schema, table_name',
      'table_constraints',
      `table_catalog = ${TEXT} AND constraint_type = 'FOREIGN KEY' ORDER BY 1, 2`,
    ),
    (store, [database = '']) =>
      inRange(
        store
          .database(unquoteName(database))
          .tables.filter(({ body }) => /\bREFERENCES\b/i.test(body))
          .map(({ schema, name }) => [schema, name]),
        ['table_schema', 'table_name'],
      ),
  ],
  [
    ofDatabase(
      'table_schema, grantee, privilege_type',
      'schema_privileges',
      `table_catalog = ${TEXT} ORDER BY 1, 2, 3`,
    ),
    (store, [database = '']) =>
      inRange(
        store.contents.grants
          .filter((grant) => grant.database === unquoteName(database) && grant.table === undefined)
          .map((grant) => [grant.schema ?? 'information_schema', grant.grantee, grant.privilege]),
        ['table_schema', 'grantee', 'privilege_type'],
      ),
  ],
  [
    ofDatabase(
      'table_schema, table_name, grantee, privilege_type',
      'table_privileges',
      `table_catalog = ${TEXT} AND table_schema NOT IN ${IN_SYSTEM} ORDER BY 1, 2, 3, 4`,
    ),
    (store, [database = '']) =>
      inRange(
        store.contents.grants
          .filter((grant) => grant.database === unquoteName(database) && grant.table !== undefined)
          .map((grant) => [grant.schema ?? '', grant.table ?? '', grant.grantee, grant.privilege]),
        ['table_schema', 'table_name', 'grantee', 'privilege_type'],
      ),
  ],
  [
    ofDatabase(
      'column_name, data_type, is_tag::BOOL, is_hidden::BOOL',
      'columns',
      `table_catalog = ${TEXT} AND table_schema = (${TEXT}) AND table_name = (${TEXT}) ORDER BY ordinal_position`,
    ),
    (store, [database, schema = '', table = ''], session) => {
      const name = [database, quoteName(unquoteText(schema)), quoteName(unquoteText(table))];
      const found = store.find(name, session);
      const hidden = found.key.length === 0 ? [['rowid', 'INT8', false, true]] : [];
      return inRange(
        [...found.columns.map(({ name: column, type, isTag }) => [column, type, isTag, false]), ...hidden],
        ['column_name', 'data_type', 'is_tag', 'is_hidden'],
      );
    },
  ],
  [
    ofDatabase(
      'column_name',
      'statistics',
      `table_catalog = ${TEXT} AND table_schema = (${TEXT}) AND table_name = (${TEXT}) AND index_name = 'primary' AND NOT storing::BOOL AND NOT implicit::BOOL ORDER BY seq_in_index`,
    ),
    (store, [database, schema = '', table = ''], session) => {
      const found = store.find([database, quoteName(unquoteText(schema)), quoteName(unquoteText(table))], session);
      return inRange(
        (found.key.length === 0 ? ['rowid'] : found.key).map((column) => [column]),
        ['column_name'],
      );
    },
  ],
  [
    like(`SELECT count\\(\\*\\) FROM ${NAME}`),
    (store, [a, b, c], session) => inRange([[store.find([a, b, c], session).rows.length]], ['count']),
  ],
  [
    like(`SELECT (.+?) FROM ${NAME} ORDER BY (.+?) LIMIT (\\d+)(?: OFFSET (\\d+))?`),
    (store, [list = '', a, b, c, order = '', limit = '', offset = '0'], session) =>
      select(store.find([a, b, c], session), list, order, Number(offset), Number(limit)),
  ],
  // What makes and unmakes.
  [
    like(`SET search_path = (${ID})`),
    (_store, [schema = ''], session) => {
      session.searchPath = unquoteName(schema);
      return done('SET');
    },
  ],
  [
    like(`CREATE (TS )?DATABASE (IF NOT EXISTS )?(${ID})`),
    change('CREATE DATABASE', ({ contents }, [timeseries, ifNotExists, database = '']) => {
      const name = unquoteName(database);
      if (contents.databases[name] !== undefined) {
        if (ifNotExists !== undefined) return;
        throw new StatementError('42P04', `database "${name}" already exists`);
      }
      const engine = timeseries === undefined ? 'RELATIONAL' : 'TIME SERIES';
      contents.databases[name] = { engine, schemas: [], tables: [], views: [] };
    }),
  ],
  [
    like(`CREATE SCHEMA (?:IF NOT EXISTS )?(${ID})`),
    change('CREATE SCHEMA', (store, [schema = ''], session) => {
      const { schemas } = store.database(session.database);
      if (!schemas.includes(unquoteName(schema))) schemas.push(unquoteName(schema));
    }),
  ],
  [
    like(`CREATE VIEW (${ID}) AS .*`),
    change('CREATE VIEW', (store, [view = ''], session) => {
      store.database(session.database).views.push(unquoteName(view));
    }),
  ],
  [
    /^(CREATE TABLE .*)$/is,
    change('CREATE TABLE', (store, [create = ''], session) => {
      const { database, table } = store.parseTable(create, session);
      store.addTable(database, table);
    }),
  ],
  [
    like(`DROP TABLE (IF EXISTS )?${NAME}`),
    change('DROP TABLE', (store, [ifExists, a, b, c], session) => {
      const { database, schema, name } = store.resolve([a, b, c], session);
      const { tables } = store.database(database);
      const at = tables.findIndex((table) => table.schema === schema && table.name === name);
      if (at >= 0) tables.splice(at, 1);
      else if (ifExists === undefined) throw new StatementError('42P01', `relation "${name}" does not exist`);
    }),
  ],
  [
    like(`DROP DATABASE (IF EXISTS )?(${ID})(?: CASCADE)?`),
    change('DROP DATABASE', ({ contents }, [, database = '']) => {
      delete contents.databases[unquoteName(database)];
    }),
  ],
  [
    like(`INSERT INTO (?!(?:[\\w.]+\\.)?kv\\b)${NAME} VALUES (.+)`),
    change('INSERT', (store, [a, b, c, tuples = ''], session) => {
      const table = store.find([a, b, c], session);
      for (const tuple of splitTop(tuples)) table.rows.push(splitTop(parenthesis(tuple)[0]).map(literalValue));
    }),
  ],
  [
    like(`CREATE (USER|ROLE) (?:IF NOT EXISTS )?(${ID})(?: WITH (.+))?`),
    change('CREATE ROLE', ({ contents }, [kind, user = '', options = '']) => {
      contents.users[unquoteName(user)] ??= { isRole: /role/i.test(kind ?? ''), options: optionsOf(options) };
    }),
  ],
  [
    like(`GRANT ([A-Z]+) ON (DATABASE|SCHEMA|TABLE) ${NAME} TO (${ID})`),
    change('GRANT', (store, [privilege = '', kind = '', a, b, c, grantee = ''], session) => {
      const user = unquoteName(grantee);
      // Every user is one of `public`, which nobody makes.
      if (user !== 'public' && store.contents.users[user] === undefined) {
        throw new StatementError('42704', `user "${user}" does not exist`);
      }
      const place = placeOf(store, kind, [a, b, c], session);
      const grant = { ...place, grantee: user, privilege: privilege.toUpperCase() };
      if (!store.contents.grants.some((other) => JSON.stringify(other) === JSON.stringify(grant))) {
        store.contents.grants.push(grant);
      }
    }),
  ],
  [
    like(`GRANT (${ID}) TO (${ID})( WITH ADMIN OPTION)?`),
    change('GRANT', ({ contents }, [role = '', member = '', admin]) => {
      const entry = { role: unquoteName(role), member: unquoteName(member), isAdmin: admin !== undefined };
      for (const name of [entry.role, entry.member]) {
        if (contents.users[name] === undefined) throw new StatementError('42704', `user "${name}" does not exist`);
      }
      const known = contents.memberships.some(
        (other) => other.role === entry.role && other.member === entry.member && other.isAdmin === entry.isAdmin,
      );
      if (!known) contents.memberships.push(entry);
    }),
  ],
];

function placeOf(
  store: Tables,
  kind: string,
  name: readonly (string | undefined)[],
  session: SqlSession,
): Pick<StoredGrant, 'database' | 'schema' | 'table'> {
  if (/database/i.test(kind)) {
    const database = unquoteName(name[0] ?? '');
    store.database(database);
    return { database };
  }
  if (/schema/i.test(kind)) return { database: session.database, schema: unquoteName(name[0] ?? '') };
  const { database, schema, name: table } = store.resolve(name, session);
  store.find(name, session);
  return { database, schema, table };
}

function optionsOf(text: string): Record<string, string | null> {
  const options: Record<string, string | null> = {};
  for (const [, option = '', value] of text.matchAll(new RegExp(`(VALID UNTIL|[A-Z]+)(?: (${TEXT}))?`, 'g'))) {
    options[option] = value === undefined ? null : unquoteText(value);
  }
  return options;
}

function literalValue(text: string): string | null {
  if (/^NULL$/i.test(text)) return null;
  return text.startsWith("'") ? unquoteText(text) : text;
}

function select(table: StoredTable, list: string, order: string, offset: number, limit: number): Answer {
  const at = (name: string): number => {
    const index = table.columns.findIndex((column) => column.name === name);
    if (index < 0) throw new StatementError('42703', `column "${name}" does not exist`);
    return index;
  };
  const wanted = splitTop(list).map((part) => at(unquoteName(part)));
  const orders = splitTop(order).map((part) => {
    const isDown = / DESC$/i.test(part);
    const index = at(unquoteName(part.replace(/ (?:ASC|DESC)$/i, '')));
    return {
      index,
      sign: isDown ? -1 : 1,
      isNumber: /^(INT|FLOAT|DECIMAL|SMALLINT|BIGINT)/.test(table.columns[index]?.type ?? ''),
    };
  });
  const sorted = table.rows.toSorted((a, b) => {
    for (const { index, sign, isNumber } of orders) {
      const compared = compare(a[index] ?? null, b[index] ?? null, isNumber);
      if (compared !== 0) return sign * compared;
    }
    return 0;
  });
  const rows = sorted.slice(offset, offset + limit).map((row) => wanted.map((index) => row[index] ?? null));
  return { columns: wanted.map((index) => table.columns[index]?.name ?? ''), rows };
}

function compare(a: string | null, b: string | null, isNumber: boolean): number {
  if (a === null || b === null) return Number(b === null) - Number(a === null);
  if (isNumber) return Number(a) - Number(b);
  return a < b ? -1 : Number(a > b);
}
