import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  ASK,
  createDatabase,
  createSchema,
  createUser,
  dropDatabase,
  dropTable,
  exportDatabase,
  exportTable,
  grantPrivilege,
  grantRole,
  identifier,
  importDatabase,
  importTable,
  literal,
  middleOffset,
  sampleQuery,
  separator,
  setSearchPath,
  setSetting,
} from '../src/index.ts';

/** Names as people and attackers make them: quotes, ends of statements, comments, backslashes, other scripts. */
const wicked = fc
  .array(
    fc.oneof(
      fc.constantFrom(
        '"',
        "'",
        '""',
        "''",
        ';',
        '--',
        '/*',
        '*/',
        '\\',
        "\\'",
        '$$',
        ')',
        '(',
        ',',
        ' ',
        '\n',
        '\t',
        '%',
        '`',
      ),
      fc.string({ maxLength: 6 }),
      fc.constantFrom('DROP TABLE x', 'OR 1=1', 'nodelocal://1/x', 'Ünïcode', '数据库', "E'"),
    ),
    { minLength: 1, maxLength: 6 },
  )
  .map((parts) => parts.join(''))
  .filter((name) => name.length > 0 && !name.includes('\0') && name.isWellFormed());

type Token = { readonly kind: 'name' | 'text' | 'word'; readonly value: string };

/**
 * A lexer of its own, written from the SQL standard and not from the code under test: what a database would see. A
 * semicolon or a comment outside of quotes throws.
 */
function tokens(sql: string): Token[] {
  const found: Token[] = [];
  let at = 0;
  while (at < sql.length) {
    const char = sql[at] as string;
    if (char === '"' || char === "'") {
      let value = '';
      at += 1;
      for (;;) {
        if (at >= sql.length) throw new Error('a quote is not closed');
        if (sql[at] === char && sql[at + 1] === char) {
          value += char;
          at += 2;
        } else if (sql[at] === char) break;
        else value += sql[at++];
      }
      at += 1;
      found.push({ kind: char === '"' ? 'name' : 'text', value });
    } else if (char === ';' || sql.startsWith('--', at) || sql.startsWith('/*', at)) {
      throw new Error(`"${sql.slice(at, at + 2)}" outside of quotes`);
    } else if (/\s/.test(char)) at += 1;
    else {
      const word = /^[A-Za-z0-9_.:[\]*%-]+|^./s.exec(sql.slice(at))?.[0] ?? char;
      found.push({ kind: 'word', value: word });
      at += word.length;
    }
  }
  return found;
}

const words = (sql: string): string =>
  tokens(sql)
    .map(({ kind, value }) => (kind === 'word' ? value : kind === 'name' ? '<name>' : '<text>'))
    .join(' ');
const names = (sql: string): string[] => tokens(sql).flatMap(({ kind, value }) => (kind === 'name' ? [value] : []));
const texts = (sql: string): string[] => tokens(sql).flatMap(({ kind, value }) => (kind === 'text' ? [value] : []));

describe('identifier and literal', () => {
  it('give every name back as it is, and let none out', () => {
    fc.assert(
      fc.property(wicked, (name) => {
        expect(tokens(identifier(name))).toEqual([{ kind: 'name', value: name }]);
        expect(tokens(literal(name))).toEqual([{ kind: 'text', value: name }]);
      }),
      { numRuns: 2_000 },
    );
  });

  it('refuse what has no spelling', () => {
    for (const name of ['a\0b', '\ud800']) {
      expect(() => identifier(name)).toThrow(expect.objectContaining({ code: 'ACTION_INVALID' }));
      expect(() => literal(name)).toThrow(expect.objectContaining({ code: 'ACTION_INVALID' }));
    }
  });
});

/** Every statement with names in it, made of three names. */
const STATEMENTS: readonly ((a: string, b: string, c: string) => string)[] = [
  (a) => ASK.schemas(a),
  (a) => ASK.tables(a),
  (a) => ASK.sequences(a),
  (a) => ASK.foreignKeys(a),
  (a) => ASK.schemaGrants(a),
  (a) => ASK.tableGrants(a),
  (a, b, c) => ASK.columns(a, { schema: b, table: c }),
  (a, b, c) => ASK.primaryKey(a, { schema: b, table: c }),
  (a, b, c) => ASK.count(a, { schema: b, table: c }),
  (a, b, c) => sampleQuery(a, { schema: b, table: c, columns: [a, c], order: [b] }, { from: 'end', rows: 5 }),
  (a, b, c) => exportTable(1, 'kwfleet-x-1', a, { schema: b, table: c }),
  (a) => exportDatabase(1, 'kwfleet-x-1', a),
  (a) => setSearchPath(a),
  (a) => createDatabase({ name: a, engine: 'timeseries' }),
  (a) => createSchema(a),
  (a, b, c) => dropTable(a, { schema: b, table: c }),
  (a) => dropDatabase(a),
  (a, b) => createUser({ name: a, isRole: false, options: ['NOLOGIN', `VALID UNTIL=${b}`, c(b)] }),
  (a, b) => grantRole({ role: a, member: b, isAdmin: true }),
  (a, b) => grantPrivilege({ database: a, grantee: b, privilege: 'SELECT' }),
  (a, b, c) => grantPrivilege({ database: a, schema: b, grantee: c, privilege: 'CREATE' }),
  (a, b, c) => grantPrivilege({ database: a, schema: b, table: c, grantee: a, privilege: 'INSERT' }),
  (a) => setSetting({ name: 'sql.defaults.distsql', value: a }),
  (a) => importTable(1, 'kwfleet-x-1', [a.replaceAll('/', '')]),
];
/** An option that nobody knows is left out, whatever it says. */
const c = (text: string): string => `WITH ${text}`;

describe('every statement', () => {
  it('has the same words whatever the names are, and carries them unchanged', () => {
    fc.assert(
      fc.property(wicked, wicked, wicked, (x, y, z) => {
        for (const make of STATEMENTS) {
          const [plain, made] = [make('aa', 'bb', 'cc'), make(x, y, z)];
          expect(words(made)).toBe(words(plain));
          const place = new Map([
            ['aa', x],
            ['bb', y],
            ['cc', z],
          ]);
          const expected = (found: string[]) => found.map((name) => place.get(name) ?? name);
          expect(names(made)).toEqual(expected(names(plain)));
        }
      }),
      { numRuns: 300 },
    );
  });

  it('for the source is a question or an EXPORT', () => {
    const table = { schema: 'public', table: 't' };
    const asked = [
      ...Object.values(ASK).map((ask) =>
        typeof ask === 'string' ? ask : (ask as (...p: unknown[]) => string)('d', table),
      ),
      sampleQuery('d', { ...table, columns: ['a'], order: ['a'] }, { from: 7, rows: 3 }),
      exportTable(1, 'x', 'd', table),
      exportDatabase(1, 'x', 'd'),
      separator('kwfleet_0123456789abcdef'),
    ];
    for (const text of asked) expect(text).toMatch(/^(SELECT|EXPORT INTO CSV) /);
  });

  it('spells what KWDB takes', () => {
    const table = { schema: 'public', table: 'My "T"' };
    expect(exportTable(1, 'kwfleet-r-u1-1', 'db', table)).toBe(
      `EXPORT INTO CSV 'nodelocal://1/kwfleet-r-u1-1' FROM TABLE "db"."public"."My ""T""" WITH chunk_rows = '100000'`,
    );
    expect(importTable(2, 'd', ['n1.0.csv', 'n1.1.csv'])).toBe(
      `IMPORT TABLE CREATE USING 'nodelocal://2/d/meta.sql' CSV DATA ('nodelocal://2/d/n1.0.csv', 'nodelocal://2/d/n1.1.csv')`,
    );
    expect(importTable(2, 'd', [])).toBe(`IMPORT TABLE CREATE USING 'nodelocal://2/d/meta.sql'`);
    expect(importDatabase(2, 'd')).toBe(`IMPORT DATABASE CSV DATA ('nodelocal://2/d')`);
    expect(createUser({ name: 'u', isRole: false, options: ['NOLOGIN', 'VALID UNTIL=2030-01-01'] })).toBe(
      `CREATE USER IF NOT EXISTS "u" WITH NOLOGIN VALID UNTIL '2030-01-01'`,
    );
    expect(texts(setSetting({ name: 'a.b', value: `it's` }))).toEqual([`it's`]);
  });

  it('refuses a privilege or a setting that is no name of one', () => {
    const grant = { database: 'd', grantee: 'u', privilege: 'ALL ON DATABASE x TO y; --' };
    expect(() => grantPrivilege(grant)).toThrow(expect.objectContaining({ code: 'ACTION_INVALID' }));
    for (const name of ['a b', "a'", 'a;b', '', 'a.', 'A.b']) {
      expect(() => setSetting({ name, value: '1' })).toThrow(expect.objectContaining({ code: 'ACTION_INVALID' }));
    }
  });
});

describe('the middle sample', () => {
  it('overlaps neither end, is the same for the same seed, and another for another table', () => {
    fc.assert(
      fc.property(
        fc.nat(0xffff_ffff),
        fc.integer({ min: 1, max: 500 }),
        fc.integer({ min: 0, max: 1e9 }),
        (seed, rows, count) => {
          const offset = middleOffset({ seed, rows }, { schema: 'public', table: 't' }, count);
          expect(middleOffset({ seed, rows }, { schema: 'public', table: 't' }, count)).toBe(offset);
          if (offset === undefined) {
            expect(count).toBeLessThanOrEqual(3 * rows);
            return;
          }
          expect(offset).toBeGreaterThanOrEqual(rows);
          expect(offset + rows).toBeLessThanOrEqual(count - rows);
        },
      ),
    );
    const at = (table: string) => middleOffset({ seed: 7, rows: 10 }, { schema: 'public', table }, 1_000_000);
    expect(new Set(['a', 'b', 'c', 'd'].map(at)).size).toBe(4);
  });
});
