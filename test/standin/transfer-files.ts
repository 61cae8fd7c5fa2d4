/**
 * EXPORT and IMPORT of the stand-in: real CSV files below the store's `extern`, jobs that go on when their client is
 * gone, rows that are rejected into a file, and imports that are not rolled back. On node's builtins alone.
 */
import * as fs from 'node:fs';
import * as path from 'node:path';
import {
  type Answer,
  quoteName,
  type SqlSession,
  StatementError,
  type StoredTable,
  splitTop,
  type Tables,
  unquoteName,
  unquoteText,
} from './tables.ts';

/** What can be made to go wrong; part of the stand-in's knobs. */
export type TransferKnobs = {
  /** How long an EXPORT or IMPORT takes at least. */
  readonly exportDelayMs?: number;
  readonly importDelayMs?: number;
  /** An EXPORT does nothing as long as this is set. */
  readonly exportWaits?: boolean;
  /** The EXPORT, or IMPORT, that names this table or database fails half way, and leaves what it did. */
  readonly exportFails?: string;
  readonly importFails?: string;
  /** So many rows of a table are rejected into a file beside the data. */
  readonly importRejects?: Readonly<Record<string, number>>;
  /** Of this table, one value is stored as another, and nobody is told. */
  readonly importCorrupts?: string;
  /** A row is written to this table while it is exported. */
  readonly writesDuringExport?: string;
};

export type TransferJob = {
  readonly job_id: string;
  readonly job_type: 'IMPORT';
  readonly description: string;
  readonly status: string;
};

type Context = {
  readonly tables: Tables;
  readonly nodeId: number;
  readonly store: string;
  readonly knobs: () => TransferKnobs;
  readonly sleep: (ms: number) => Promise<void>;
};

const TEXT = "'(?:[^']|'')*'";
const ID = '(?:"(?:[^"]|"")*"|[a-zA-Z_][a-zA-Z0-9_]*)';
const NAME = `(${ID})(?:\\.(${ID}))?(?:\\.(${ID}))?`;
const EXPORT_TABLE = new RegExp(`^EXPORT INTO CSV (${TEXT}) FROM TABLE ${NAME}(?: WITH chunk_rows = '(\\d+)')?$`, 'is');
const EXPORT_DATABASE = new RegExp(
  `^EXPORT INTO CSV (${TEXT}) FROM DATABASE (${ID})(?: WITH chunk_rows = '(\\d+)')?$`,
  'is',
);
const IMPORT_TABLE = new RegExp(`^IMPORT TABLE CREATE USING (${TEXT})(?: CSV DATA \\((.*)\\))?$`, 'is');
const IMPORT_DATABASE = new RegExp(`^IMPORT DATABASE CSV DATA \\((${TEXT})\\)$`, 'is');
const IMPORTS_OF = new RegExp(
  `^SELECT job_id, status FROM \\[SHOW JOBS\\] WHERE job_type = 'IMPORT' AND status IN \\([^)]*\\) AND strpos\\(description, (${TEXT})\\) > 0$`,
  'is',
);

export class TransferFiles {
  readonly #context: Context;
  readonly jobs = new Map<string, TransferJob>();
  #nextJob = Date.now();

  constructor(context: Context) {
    this.#context = context;
  }

  /** Undefined when the statement is neither. */
  async run(text: string, session: SqlSession): Promise<Answer | undefined> {
    const statement = text.trim().replace(/;\s*$/, '');
    const table = EXPORT_TABLE.exec(statement);
    if (table !== null) return this.#exportTable(table, session);
    const database = EXPORT_DATABASE.exec(statement);
    if (database !== null) return this.#exportDatabase(database);
    const one = IMPORT_TABLE.exec(statement);
    if (one !== null) return this.#job(statement, (done) => this.#importTable(one, session, done));
    const all = IMPORT_DATABASE.exec(statement);
    if (all !== null) return this.#job(statement, (done) => this.#importDatabase(all, done));
    const imports = IMPORTS_OF.exec(statement);
    if (imports === null) return undefined;
    const wanted = unquoteText(imports[1] ?? '');
    const rows = [...this.jobs.values()].filter(({ description }) => description.includes(wanted));
    return { columns: ['job_id', 'status'], rows: rows.map(({ job_id, status }) => [job_id, status]) };
  }

  async #exportTable([, uri = '', a, b, c, chunk = '100000']: RegExpExecArray, session: SqlSession): Promise<Answer> {
    const { tables, knobs, nodeId } = this.#context;
    const table = tables.find([a, b, c], session);
    const directory = this.#directory(unquoteText(uri));
    await this.#exportTakes();
    if (knobs().writesDuringExport === table.name) this.#writeAlong(table);
    const files = this.#writeTable(directory, table, Number(chunk), 'quoted');
    if (knobs().exportFails === table.name)
      throw new StatementError('XX000', 'export: the disk of the blob service is gone');
    const rows = files.map(({ name, rows: count }) => [name, count, nodeId, 1]);
    return { columns: ['filename', 'rows', 'node_id', 'file_num'], rows };
  }

  async #exportDatabase([, uri = '', name = '', chunk = '100000']: RegExpExecArray): Promise<Answer> {
    const { tables, knobs } = this.#context;
    const database = tables.database(unquoteName(name));
    if (database.engine !== 'TIME SERIES')
      throw new StatementError('0A000', 'the stand-in exports relational tables one by one');
    const directory = this.#directory(unquoteText(uri));
    await this.#exportTakes();
    fs.mkdirSync(directory, { recursive: true });
    // As KWDB does: a name without capitals is written bare.
    const plain = unquoteName(name);
    const creates = database.tables.map((table) => `CREATE TABLE ${table.name} ${table.body};\n`);
    const shown = /[A-Z]/.test(plain) ? quoteName(plain) : plain;
    fs.writeFileSync(path.join(directory, 'meta.sql'), `CREATE TS DATABASE ${shown};\n${creates.join('')}`);
    for (const table of database.tables) {
      this.#writeTable(path.join(directory, 'public', table.name), table, Number(chunk), 'none');
      if (knobs().writesDuringExport === table.name) this.#writeAlong(table);
    }
    return { columns: ['result'], rows: [[knobs().exportFails === plain ? 'fail' : 'succeed']] };
  }

  async #exportTakes(): Promise<void> {
    const { knobs, sleep } = this.#context;
    await sleep(knobs().exportDelayMs ?? 0);
    while (knobs().exportWaits === true) await sleep(50);
  }

  #writeAlong(table: StoredTable): void {
    const last = table.rows.at(-1);
    if (last !== undefined) table.rows.push(last.map((value, at) => (at === 0 ? `${value}9` : value)));
    this.#context.tables.save();
  }

  #writeTable(directory: string, table: StoredTable, chunkRows: number, meta: 'quoted' | 'none') {
    fs.mkdirSync(directory, { recursive: true });
    if (meta === 'quoted') {
      fs.writeFileSync(path.join(directory, 'meta.sql'), `CREATE TABLE ${quoteName(table.name)} ${table.body};\n`);
    }
    const files: { name: string; rows: number }[] = [];
    for (let at = 0; at < table.rows.length; at += chunkRows) {
      const rows = table.rows.slice(at, at + chunkRows);
      const name = `n${this.#context.nodeId}.${files.length}.csv`;
      fs.writeFileSync(path.join(directory, name), rows.map((row) => `${row.map(field).join(',')}\n`).join(''));
      files.push({ name, rows: rows.length });
    }
    return files;
  }

  /** It goes on when its client is gone; until then it is among the jobs. */
  async #job(statement: string, work: (done: Done) => Promise<void>): Promise<Answer> {
    const job_id = String(this.#nextJob++);
    this.jobs.set(job_id, { job_id, job_type: 'IMPORT', description: statement, status: 'running' });
    const done: Done = { rows: 0, rejected: 0, abandoned: 0 };
    try {
      await this.#context.sleep(this.#context.knobs().importDelayMs ?? 0);
      await work(done);
    } finally {
      this.jobs.delete(job_id);
    }
    const note = done.rejected === 0 ? 'None' : 'There is a REJECT FILE, please read and resolve it';
    return {
      columns: ['job_id', 'status', 'fraction_completed', 'rows', 'abandon_rows', 'reject_rows', 'note'],
      rows: [[job_id, 'succeeded', 1, done.rows, String(done.abandoned), String(done.rejected), note]],
    };
  }

  async #importTable([, meta = '', data]: RegExpExecArray, session: SqlSession, done: Done): Promise<void> {
    const { tables } = this.#context;
    const create = fs.readFileSync(this.#directory(unquoteText(meta)), 'utf8');
    const { database, table } = tables.parseTable(create, session);
    tables.addTable(database, table);
    for (const uri of data === undefined ? [] : splitTop(data))
      this.#load(this.#directory(unquoteText(uri)), table, done);
    tables.save();
    this.#fail(table.name);
  }

  async #importDatabase([, uri = '']: RegExpExecArray, done: Done): Promise<void> {
    const { tables } = this.#context;
    const directory = this.#directory(unquoteText(uri));
    const [first = '', ...creates] = fs.readFileSync(path.join(directory, 'meta.sql'), 'utf8').split(/;\n/);
    const session = { database: 'defaultdb', searchPath: 'public' };
    if (tables.run(first, session) === undefined)
      throw new StatementError('42601', 'The first sql CREATE DATABASE SQL has errors');
    const database = unquoteName(/(\S+)$/.exec(first)?.[1] ?? '');
    for (const create of creates.filter((text) => text.trim() !== '')) {
      const { table } = tables.parseTable(create, { database, searchPath: 'public' });
      tables.addTable(database, table);
      const place = path.join(directory, 'public', table.name);
      const files = fs.existsSync(place) ? fs.readdirSync(place).filter((name) => name.endsWith('.csv')) : [];
      for (const file of files) this.#load(path.join(place, file), table, done);
      this.#fail(table.name);
    }
    tables.save();
    this.#fail(database);
  }

  #fail(name: string): void {
    if (this.#context.knobs().importFails !== name) return;
    this.#context.tables.save();
    throw new StatementError('XX000', `import: could not write to ${name}: out of memory`);
  }

  #load(file: string, table: StoredTable, done: Done): void {
    const { knobs, nodeId } = this.#context;
    const rejects = knobs().importRejects?.[table.name] ?? 0;
    const rows = parse(fs.readFileSync(file, 'utf8'));
    const kept = rows.filter((row, at) => at >= rejects && row.length === table.columns.length);
    const rejected = rows.filter((row) => !kept.includes(row));
    if (knobs().importCorrupts === table.name && kept[0] !== undefined) kept[0] = kept[0].map((value) => `${value}x`);
    table.rows.push(...kept);
    done.rows += kept.length;
    done.rejected += rejected.length;
    if (rejected.length === 0) return;
    const lines = rejected.map((row) => `${row.map(field).join(',')}\nvalue out of range\n`);
    fs.appendFileSync(path.join(path.dirname(file), `reject.n${nodeId}.0.txt`), lines.join(''));
  }

  /** `nodelocal://1/dir` as a path; only this node's own extern directory can be had. */
  #directory(uri: string): string {
    const match = /^nodelocal:\/\/0*(\d+)\/([^?#]*)$/.exec(uri);
    if (match === null || Number(match[1]) !== this.#context.nodeId) {
      throw new StatementError('22023', `unsupported storage: ${uri}`);
    }
    const base = path.join(this.#context.store, 'extern');
    const found = path.join(base, match[2] ?? '');
    if (!found.startsWith(`${base}${path.sep}`))
      throw new StatementError('42501', 'local file access to paths outside of external-io-dir');
    return found;
  }
}

type Done = { rows: number; rejected: number; abandoned: number };

/** NULL is an empty field, an empty text a quoted one. */
function field(value: string | null): string {
  if (value === null) return '';
  return value === '' || /[",\n\r]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value;
}

function parse(text: string): (string | null)[][] {
  const rows: (string | null)[][] = [];
  let row: (string | null)[] = [];
  const pattern = /(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r?\n|$)/g;
  for (const match of text.matchAll(pattern)) {
    const [, quoted, plain = '', end] = match;
    if (end === '' && quoted === undefined && plain === '' && row.length === 0) break;
    row.push(quoted === undefined ? (plain === '' ? null : plain) : quoted.replaceAll('""', '"'));
    if (end === ',') continue;
    rows.push(row);
    row = [];
    if (end === '') break;
  }
  return rows;
}
