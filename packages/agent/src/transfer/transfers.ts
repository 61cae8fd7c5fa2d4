/**
 * The phases of a transfer on one host. The side that exports asks its database nothing but questions and EXPORT; the
 * side that imports touches what this run made, and nothing that was there before.
 */
import { join } from 'node:path';
import {
  ASK,
  createDatabase,
  createSchema,
  createUser,
  dropDatabase,
  dropTable,
  exportDatabase,
  exportTable,
  FleetError,
  filesOfRows,
  grantPrivilege,
  grantRole,
  type Inventory,
  importDatabase,
  importTable,
  setSearchPath,
  setSetting,
  type TableDigest,
  type TransferFile,
  type TransferTask,
  type TransferUnit,
} from '@kwfleet/core';
import type { Deployment } from '../deployment/deployment.ts';
import { commandId } from '../driver/deploy-run.ts';
import type { Watch } from '../driver/driver.ts';
import type { ActionRun } from '../executor/action-run.ts';
import { csvRecords } from '../host/csv.ts';
import type { LongCommandSpec, LongCommands } from '../host/services.ts';
import type { Observer } from '../observe.ts';
import type { Courier, FileRef } from './courier.ts';
import { difference, digestOf, shapeOf } from './digest.ts';
import { Extern } from './extern.ts';
import { takeInventory } from './inventory.ts';
import { runLongSql } from './long-sql.ts';
import { ReadingSql, WritingSql } from './sql-client.ts';

export type TransferParts = {
  readonly root: string;
  readonly stateDir: string;
  readonly observer: Pick<Observer, 'deployment'>;
  readonly commands: LongCommands;
  readonly courier: Courier;
  readonly now: () => number;
  /** What kwbase needs where `root` is not `/`. */
  readonly environment: Readonly<Record<string, string>>;
};

/** A statement that was lost with its client is sent again this often, each time into a directory of its own. */
const TRIES = 3;
const INVENTORY_QUESTION_MS = 60_000;
/** Counting a large table takes hours at times. A timer holds no more than 24 days. */
const SESSION_LIMIT_MS = 20 * 86_400_000;
const JOBS_EVERY_MS = 5_000;
/** An IMPORT names each of its files, and Linux takes no argument that is longer, with the NUL at its end. */
const ARGUMENT_BYTES = 128 * 1024 - 1;
/** More digits than the target's node will have. */
const LARGE_KWDB_ID = 99_999;
/** As EXPORT names the data of a relational table: `n1.0.csv`. */
const DATA_FILE = /^[A-Za-z0-9._-]+\.csv$/;
/** Sampled rows tell how wide the rows are; a CSV may be wider. */
const SIZE_MARGIN = 1.3;

export class Transfers {
  readonly #parts: TransferParts;

  constructor(parts: TransferParts) {
    this.#parts = parts;
  }

  /** Everything the cluster of this node holds. */
  async inventory(): Promise<Inventory> {
    const { kwbase } = await this.#deployment();
    return takeInventory(new ReadingSql({ kwbase, timeoutMs: () => INVENTORY_QUESTION_MS }), this.#parts.now);
  }

  /** The unit was exported, nobody changed it meanwhile, its files are at the controller and gone from this host. */
  async export(run: ActionRun): Promise<void> {
    const { watch } = run;
    const { unit, sample, directory, prefix } = taskOf(run);
    const sql = new ReadingSql(await this.#sqlOptions(run));
    const extern = await this.#extern();
    const place = (index: number) => (unit.tables.length === 1 ? '' : `, table ${index + 1} of ${unit.tables.length}`);
    const shapes: Awaited<ReturnType<typeof shapeOf>>[] = [];
    for (const [index, table] of unit.tables.entries()) {
      sql.doing(`asking for the columns of ${nameOf(unit)}${place(index)}`);
      shapes.push(await shapeOf(sql, unit.database, table));
    }
    const measure = async (what: string) => {
      const digests: TableDigest[] = [];
      let bytes = 0;
      for (const [index, shape] of shapes.entries()) {
        sql.doing(`${what}${place(index)}`);
        const { digest, sampledBytes } = await digestOf(sql, unit.database, shape, sample);
        digests.push(digest);
        if (digest.sampledRows > 0) bytes += (sampledBytes / digest.sampledRows) * digest.rows * SIZE_MARGIN;
      }
      return { digests, bytes };
    };
    const before = await measure(`counting and sampling ${nameOf(unit)}`);
    refuseLongImport(unit, LARGE_KWDB_ID, directory, expectedOf(before.digests[0], run.action.kwdbId));
    await extern.needRoom(before.bytes, `the export of ${nameOf(unit)}`);
    run.fence('export');
    const exported = await this.#exported(run, extern, unit, directory);
    const after = await measure(`looking whether ${nameOf(unit)} was changed meanwhile`);
    const changed = difference(before.digests, after.digests);
    if (changed !== undefined) {
      await extern.remove(exported);
      const message = `${unit.database} was written to during its export: ${changed}`;
      throw new FleetError('TRANSFER_SOURCE_CHANGED', message);
    }
    const files = await extern.files(exported, (sign) => watch.moved(sign));
    refuseLongImport(unit, LARGE_KWDB_ID, directory, dataOf(files));
    for (const [index, file] of files.entries()) {
      watch.detail(`sending ${file.path} of ${nameOf(unit)} (${index + 1} of ${files.length})`);
      const ref = refOf(run, prefix, file, files);
      await extern.withFile(exported, file.path, (opened) => this.#parts.courier.send(ref, opened, file.path, watch));
    }
    run.transfer = { files, digests: before.digests, rejectFiles: [] };
    await extern.removeOthers(prefix, '');
  }

  /** Every file was brought here and checked, and KWDB imported all rows of them. */
  async import(run: ActionRun): Promise<void> {
    const { unit, directory, files } = taskOf(run);
    const { watch, action } = run;
    refuseLongImport(unit, action.kwdbId, directory, dataOf(files));
    const sql = new WritingSql(await this.#sqlOptions(run));
    const extern = await this.#extern();
    for (let attempt = 1; attempt <= TRIES; attempt++) {
      const id = commandId(action.id, 'import', attempt);
      const place = `${directory}-${attempt}`;
      if ((await this.#parts.commands.state(id)).status === 'absent') {
        await this.#bring(run, extern, place);
        await this.#settleImports(run, sql);
        await this.#clear(run, sql);
        await run.deed('import', await run.observe());
      }
      const spec = await this.#importSpec(run, place);
      const what = `importing ${nameOf(unit)}`;
      const end = await runLongSql({ commands: this.#parts.commands, action, id, spec, watch, what });
      if (end.status === 'lost') {
        watch.detail('the import was lost; looking how the database left it');
        continue;
      }
      try {
        if (end.status === 'failed') {
          const message = `${nameOf(unit)} could not be imported; nothing of it counts`;
          throw new FleetError('TRANSFER_IMPORT_FAILED', message, { words: end.words });
        }
        await this.#judgeImport(run, extern, place, end.output);
      } finally {
        await extern.removeOthers(taskOf(run).prefix, '');
      }
      return;
    }
    throw new FleetError('TRANSFER_IMPORT_FAILED', `the import of ${nameOf(unit)} was lost ${TRIES} times`);
  }

  /** The target's tables have as many rows as the source's, and the same rows in the samples. */
  async compare(run: ActionRun): Promise<void> {
    const { unit, sample } = taskOf(run);
    const { digests: expected } = rawTask(run);
    const sql = new ReadingSql(await this.#sqlOptions(run));
    const found: TableDigest[] = [];
    for (const want of expected) {
      sql.doing(`comparing ${unit.database}.${want.schema}.${want.table}`);
      found.push((await digestOf(sql, unit.database, want, sample)).digest);
    }
    const differs = difference(expected, found);
    if (differs !== undefined) throw new FleetError('TRANSFER_MISMATCH', `${unit.database}: ${differs}`);
    run.transfer = { files: [], digests: found, rejectFiles: [] };
  }

  /** Databases, users, privileges and settings of the order are there; each statement is safe to repeat. */
  async recreate(run: ActionRun): Promise<void> {
    const { databases, users, memberships, grants, clusterSettings } = rawTask(run);
    const sql = new WritingSql(await this.#sqlOptions(run));
    await run.deed('recreate', await run.observe());
    const told = (what: string) => () => {
      sql.doing(what);
      run.fence('recreate');
    };
    const there = new Set((await sql.rows(ASK.databases)).map(([name]) => name));
    const missing = databases.filter(({ name }) => !there.has(name));
    await sql.writeAll(missing.map(createDatabase), told(`making ${missing.length} databases`));
    for (const { name, schemas } of databases.filter((database) => database.schemas.length > 0)) {
      await sql.writeAll(schemas.map(createSchema), told(`making the schemas of ${name}`), name);
    }
    await sql.writeAll(users.map(createUser), told(`making ${users.length} users and roles`));
    await sql.writeAll(memberships.map(grantRole), told(`making ${memberships.length} memberships`));
    for (const [database, granted] of Map.groupBy(grants, (grant) => grant.database)) {
      await sql.writeAll(
        granted.map(grantPrivilege),
        told(`granting ${granted.length} privileges in ${database}`),
        database,
      );
    }
    await sql.writeAll(clusterSettings.map(setSetting), told(`making ${clusterSettings.length} cluster settings`));
  }

  /** Runs EXPORT, or finds the one that an earlier agent process started; answers the directory it wrote. */
  async #exported(run: ActionRun, extern: Extern, unit: TransferUnit, directory: string): Promise<string> {
    const { commands } = this.#parts;
    const { action, watch } = run;
    for (let attempt = 1; attempt <= TRIES; attempt++) {
      const id = commandId(action.id, 'export', attempt);
      const place = `${directory}-${attempt}`;
      if ((await commands.state(id)).status === 'absent') await extern.removeOthers(rawTask(run).prefix ?? '', '');
      const kwdbId = action.kwdbId;
      const [table] = unit.tables;
      if (table === undefined) throw new FleetError('ACTION_INVALID', 'the order names no table');
      const statement =
        unit.engine === 'timeseries'
          ? exportDatabase(kwdbId, place, unit.database)
          : exportTable(kwdbId, place, unit.database, table);
      const spec = await this.#spec([statement]);
      const end = await runLongSql({ commands, action, id, spec, watch, what: `exporting ${nameOf(unit)}` });
      if (end.status === 'failed') {
        await extern.remove(place);
        throw new FleetError('TRANSFER_EXPORT_FAILED', `${nameOf(unit)} could not be exported`, { words: end.words });
      }
      if (end.status === 'done' && (await extern.has(place))) {
        judgeExport(unit, end.output);
        return place;
      }
      watch.detail('the export was lost; beginning anew');
    }
    throw new FleetError('TRANSFER_EXPORT_FAILED', `the export of ${nameOf(unit)} was lost ${TRIES} times`);
  }

  async #bring(run: ActionRun, extern: Extern, place: string): Promise<void> {
    const { prefix, files } = taskOf(run);
    const { watch } = run;
    await extern.removeOthers(prefix, place);
    if (await isWhole(extern, place, files, watch)) return;
    // The files, and what the database makes of them.
    await extern.needRoom(2 * bytesOf(files), `the import of ${place}`);
    await extern.fill(place, files, async (path) => {
      for (const [index, file] of files.entries()) {
        watch.detail(`receiving ${file.path} (${index + 1} of ${files.length})`);
        await this.#parts.courier.receive(refOf(run, prefix, file, files), file, path(file), watch);
      }
    });
  }

  /** An IMPORT whose client died may go on in the database: nothing is dropped under it. */
  async #settleImports(run: ActionRun, sql: ReadingSql): Promise<void> {
    const { prefix } = taskOf(run);
    for (let waitedMs = 0; ; waitedMs += JOBS_EVERY_MS) {
      sql.doing('asking for import jobs of an earlier attempt');
      const jobs = await sql.rows(ASK.importsOf(prefix));
      const [id, status] = jobs[0] ?? [];
      if (jobs.length === 0) return;
      const waited = `${waitedMs / 1000} s so far`;
      run.watch.detail(`waiting for import job ${id} of an earlier attempt, which is ${status} (${waited})`);
      await run.watch.pause(JOBS_EVERY_MS);
    }
  }

  /** Drops what an earlier attempt of this step left half imported. Throws TRANSFER_TARGET_NOT_EMPTY for anything else. */
  async #clear(run: ActionRun, sql: WritingSql): Promise<void> {
    const { unit, mayReplace } = taskOf(run);
    const isOwn = mayReplace || run.entry.deeds.includes('import');
    const databases = (await sql.rows(ASK.databases)).map(([name]) => name);
    if (!databases.includes(unit.database)) return;
    if (unit.engine === 'timeseries') {
      if (!isOwn) throw notEmpty(`the database ${unit.database} is there already`);
      run.fence('import');
      return sql.write(dropDatabase(unit.database));
    }
    const there = await sql.rows(ASK.tables(unit.database));
    for (const table of unit.tables) {
      if (!there.some(([schema, name]) => schema === table.schema && name === table.table)) continue;
      if (!isOwn) throw notEmpty(`the table ${nameOf(unit)} is there already`);
      run.fence('import');
      await sql.write(dropTable(unit.database, table));
    }
  }

  async #judgeImport(run: ActionRun, extern: Extern, place: string, output: string): Promise<void> {
    const { unit } = taskOf(run);
    const answer = csvRecords(fromHeader(output, 'job_id,')).at(-1);
    if (answer?.status !== 'succeeded') {
      const message = `the import of ${nameOf(unit)} did not end with "succeeded"`;
      throw new FleetError('TRANSFER_IMPORT_FAILED', message, { words: output.slice(-2_000) });
    }
    const [rejected, abandoned] = [answer.reject_rows, answer.abandon_rows].map((count) => Number(count ?? 0));
    if (rejected === 0 && abandoned === 0) return;
    const target = join(this.#parts.stateDir, 'rejects', run.action.run, place);
    const rejectFiles = await extern.keepRejects(place, target);
    run.transfer = { files: [], digests: [], rejectFiles };
    const where = rejectFiles.length === 0 ? 'KWDB wrote no reject file' : `they are in ${rejectFiles.join(', ')}`;
    throw new FleetError(
      'TRANSFER_ROWS_REJECTED',
      `KWDB rejected ${rejected} rows of ${nameOf(unit)} and abandoned ${abandoned}; ${where}`,
    );
  }

  async #importSpec(run: ActionRun, place: string): Promise<LongCommandSpec> {
    const { unit, files } = taskOf(run);
    const { kwdbId } = run.action;
    if (unit.engine === 'timeseries') return this.#spec([importDatabase(kwdbId, place)]);
    const schema = unit.tables[0]?.schema ?? 'public';
    return this.#spec([setSearchPath(schema), importTable(kwdbId, place, dataOf(files))], unit.database);
  }

  async #spec(statements: readonly string[], database?: string): Promise<LongCommandSpec> {
    const { root, environment, stateDir } = this.#parts;
    const { site, kwbase } = await this.#deployment();
    const home = join(root, site.installDir);
    const path = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
    return {
      argv: [join(home, 'bin/kwbase'), ...kwbase.sqlArguments(statements, database)],
      cwd: stateDir,
      env: { PATH: path, HOME: '/root', ...environment, LD_LIBRARY_PATH: join(home, 'lib') },
    };
  }

  /** A session ends with the step: one that outlived it would go on reading, or writing, unwatched. */
  async #sqlOptions({ watch }: ActionRun) {
    const { kwbase } = await this.#deployment();
    return { kwbase, timeoutMs: () => Math.min(watch.leftMs(), SESSION_LIMIT_MS), watch };
  }

  async #extern(): Promise<Extern> {
    return new Extern(join(this.#parts.root, (await this.#deployment()).site.dataDir));
  }

  /** Throws NOT_INSTALLED, or METHOD_UNSUPPORTED where kwbase and its data are not this host's own files. */
  async #deployment(): Promise<Deployment> {
    const deployment = await this.#parts.observer.deployment();
    if (deployment === undefined) throw new FleetError('NOT_INSTALLED', 'KWDB is not installed on this host');
    if (deployment.site.method !== 'script-bare') {
      throw new FleetError(
        'METHOD_UNSUPPORTED',
        `nothing is transferred on a host deployed by ${deployment.site.method}`,
      );
    }
    return deployment;
  }
}

function rawTask({ action }: ActionRun): TransferTask {
  if (action.transfer === undefined) throw new FleetError('ACTION_INVALID', 'the order of a transfer has no task');
  return action.transfer;
}

type UnitTask = TransferTask & Required<Pick<TransferTask, 'unit' | 'sample' | 'directory' | 'prefix'>>;

function taskOf(run: ActionRun): UnitTask {
  const task = rawTask(run);
  const { unit, sample, directory, prefix } = task;
  if (unit === undefined || sample === undefined || directory === undefined || prefix === undefined) {
    throw new FleetError('ACTION_INVALID', 'the order names no table to transfer');
  }
  return { ...task, unit, sample, directory, prefix };
}

const nameOf = ({ engine, database, tables }: TransferUnit): string =>
  engine === 'timeseries' ? `database ${database}` : `${database}.${tables[0]?.schema}.${tables[0]?.table}`;

const notEmpty = (what: string): FleetError =>
  new FleetError('TRANSFER_TARGET_NOT_EMPTY', `${what}, and this run did not make it`);

const refOf = (
  { action }: ActionRun,
  unit: string,
  { sha256, sizeBytes }: TransferFile,
  files: readonly TransferFile[],
): FileRef => ({ run: action.run, unit, sha256, sizeBytes, unitBytes: bytesOf(files) });

const bytesOf = (files: readonly TransferFile[]): number => files.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);

/** Whether an earlier process of the agent brought all of it, and nobody changed it since. */
async function isWhole(extern: Extern, place: string, files: readonly TransferFile[], watch: Watch): Promise<boolean> {
  if (!(await extern.has(place))) return false;
  const there = await extern.files(place, (sign) => watch.moved(sign));
  const hashes = new Map(there.map(({ path, sha256 }) => [path, sha256]));
  return there.length === files.length && files.every(({ path, sha256 }) => hashes.get(path) === sha256);
}

/** The data of a relational table, without what describes them. */
const dataOf = (files: readonly TransferFile[]): string[] =>
  files.map(({ path }) => path).filter((path) => DATA_FILE.test(path));

/** The names that an EXPORT on this node will give to a table's data, or so many of them that no IMPORT can name them. */
const expectedOf = (digest: TableDigest | undefined, kwdbId: number): string[] =>
  Array.from({ length: Math.min(filesOfRows(digest?.rows ?? 0), ARGUMENT_BYTES) }, (_, at) => `n${kwdbId}.${at}.csv`);

/** Before hours are spent on it: a table whose files one IMPORT cannot name. Throws TRANSFER_TOO_LARGE. */
function refuseLongImport(unit: TransferUnit, kwdbId: number, directory: string, data: readonly string[]): void {
  if (unit.engine === 'timeseries') return;
  const bytes = Buffer.byteLength(importTable(kwdbId, `${directory}-${TRIES}`, data));
  if (bytes <= ARGUMENT_BYTES) return;
  const most = Math.floor((data.length * ARGUMENT_BYTES) / bytes);
  const message = `${nameOf(unit)} makes ${data.length} files, and one IMPORT can name about ${most} of them`;
  throw new FleetError('TRANSFER_TOO_LARGE', message);
}

/** Relational: a row a file. Time series: one row that says how it went. Source: KWDB facts, "Answer". */
function judgeExport(unit: TransferUnit, output: string): void {
  if (unit.engine === 'relational') return;
  const answer = csvRecords(fromHeader(output, 'result')).at(-1);
  if (answer?.result === 'succeed') return;
  const message = `the export of ${nameOf(unit)} did not end with "succeed"`;
  throw new FleetError('TRANSFER_EXPORT_FAILED', message, { words: output.slice(-2_000) });
}

/** Other statements of the session, and warnings, are printed before. */
function fromHeader(text: string, start: string): string {
  if (text.startsWith(start)) return text;
  const at = text.indexOf(`\n${start}`);
  return at < 0 ? '' : text.slice(at + 1);
}
