/** The phases of a transfer on a host whose clock only waiting moves, whose database answers what it is told to. */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Deadline, EMPTY_TASK, importTable, type TransferTask, type TransferUnit } from '@kwfleet/core';
import type { AgentMessage } from '@kwfleet/protocol';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Deployment } from '../src/deployment/deployment.ts';
import type { ActionRun } from '../src/executor/action-run.ts';
import { PhaseWatch } from '../src/executor/phase-watch.ts';
import type { Kwbase } from '../src/host/kwbase.ts';
import { runShort } from '../src/host/run.ts';
import type { LongCommandSpec, LongCommands } from '../src/host/services.ts';
import { Courier, type FileExchange, type FileRef } from '../src/transfer/courier.ts';
import { Transfers } from '../src/transfer/transfers.ts';
import { FakeClock } from './fake-host.ts';

let root = '';
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'kwfleet-transfers-'));
});
afterEach(() => rm(root, { recursive: true, force: true }));

const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;
const DEADLINE: Deadline = { idleMs: 15 * MINUTE_MS, ceilingMs: 48 * HOUR_MS };

const table = (name: string) => ({ schema: 'public', table: name });
const series = (tables: number): TransferUnit => ({
  engine: 'timeseries',
  database: 'plant',
  tables: Array.from({ length: tables }, (_, at) => table(`t${at}`)),
});
const relational: TransferUnit = { engine: 'relational', database: 'shop', tables: [table('orders')] };

type Answers = {
  /** Of each table. */
  readonly rows?: number;
  /** Another answer than that of an empty table to a question that holds this text. */
  readonly answers?: (text: string) => string | undefined;
  readonly exchange?: FileExchange;
  /** How long a session takes that asks these. */
  readonly tookMs?: (statements: readonly string[]) => number;
};

/** One host and its database; `sessions` are those it was asked in, `told` what a person saw. */
function host({ rows = 3, tookMs = () => 0, answers = () => undefined, exchange = TAKES_ALL }: Answers) {
  const clock = new FakeClock();
  const sessions: { readonly statements: readonly string[]; readonly timeoutMs: number }[] = [];
  const exports: string[] = [];
  const answer = (text: string): string => {
    const other = answers(text);
    if (other !== undefined) return other;
    if (text.startsWith('SELECT 1 AS')) return `${text.slice(12)}\n1\n`;
    if (text.includes('count(*)')) return `count\n${rows}\n`;
    if (text.includes('information_schema.columns')) {
      return 'column_name,data_type,is_tag,is_hidden\nts,TIMESTAMP,false,false\ndevice,INT,true,false\n';
    }
    if (text.includes('information_schema.statistics')) return 'column_name\n';
    return 'ts,device\n2026-01-01,1\n';
  };
  const kwbase = {
    async query(statements, { timeoutMs }) {
      sessions.push({ statements, timeoutMs });
      const startMs = clock.nowMs;
      const ms = tookMs(statements);
      if (ms <= MINUTE_MS) clock.nowMs += ms;
      while (clock.nowMs < startMs + Math.min(ms, timeoutMs)) await new Promise((resolve) => setImmediate(resolve));
      if (ms > timeoutMs) throw new Error(`no answer within ${timeoutMs} ms`);
      return statements.map(answer).join('');
    },
    sqlArguments: (statements) => ['sql', ...statements],
  } satisfies Pick<Kwbase, 'query' | 'sqlArguments'>;
  const site = { method: 'script-bare', dataDir: 'data', installDir: 'kaiwudb' };
  const transfers = new Transfers({
    root,
    stateDir: join(root, 'state'),
    observer: { deployment: async () => ({ kwbase, site }) as unknown as Deployment },
    commands: exporting(exports),
    courier: new Courier(exchange),
    now: () => clock.now(),
    environment: {},
  });
  const told: string[] = [];
  const run = (unit: TransferUnit, change: Partial<TransferTask> = {}) => {
    const task: TransferTask = {
      ...EMPTY_TASK,
      unit,
      sample: { seed: 1, rows: 5 },
      prefix: 'kwfleet-run-20261123-064028-7f3a9c-u1-',
      directory: 'kwfleet-run-20261123-064028-7f3a9c-u1-1',
      ...change,
    };
    const watch = new PhaseWatch({
      action: 'a1',
      deadline: DEADLINE,
      startedAtMs: clock.now(),
      clock,
      send: (message: AgentMessage) => void ('progress' in message && told.push(message.progress.detail)),
      stopping: () => false,
      fence: async () => {},
    });
    const action = { id: 'run-1/export:n:u1/1', run: 'run-1', kwdbId: 1, deadline: DEADLINE, transfer: task };
    return {
      action,
      watch,
      entry: { deeds: [], phases: [] },
      fence: () => {},
      deed: async () => {},
      observe: async () => {},
    } as unknown as ActionRun;
  };
  return { transfers, run, clock, sessions, exports, told };
}

/** Every command ends at once; an EXPORT leaves two files. */
function exporting(statements: string[]): LongCommands {
  const outputs = new Map<string, string>();
  return {
    async start(id: string, { argv }: LongCommandSpec) {
      const statement = argv.at(-1) ?? '';
      statements.push(statement);
      const place = /nodelocal:\/\/1\/([a-z0-9-]+)'/.exec(statement)?.[1] ?? '';
      await mkdir(join(root, 'data/extern', place), { recursive: true });
      await writeFile(join(root, 'data/extern', place, 'meta.sql'), 'CREATE');
      await writeFile(join(root, 'data/extern', place, 'n1.0.csv'), '1\n');
      outputs.set(id, 'result\nsucceed\n');
    },
    state: async (id) => (outputs.has(id) ? { status: 'exited', exitCode: 0 } : { status: 'absent' }),
    output: async (id, offset) => Buffer.from((outputs.get(id) ?? '').slice(offset)),
    kill: async () => {},
    remove: async (id) => void outputs.delete(id),
    list: async () => [...outputs.keys()],
  };
}

/** A controller that takes every file. */
const TAKES_ALL: FileExchange = {
  offerFile: async () => ({ receivedBytes: 0, complete: false, full: false }),
  async putFile(_ref, _offset, bytes) {
    for await (const _ of bytes);
    return 'received';
  },
  async *fetchFile() {},
};

describe('an export', () => {
  it('of a time-series database with thousands of tables is heard to move on with each of them', async () => {
    await mkdir(join(root, 'data/extern'), { recursive: true });
    const { transfers, run, clock, told } = host({ tookMs: () => 2_000 });
    const exported = run(series(1_500));
    await transfers.export(exported);
    expect(clock.nowMs).toBeGreaterThan(3 * 1_500 * 2_000);
    expect(exported.transfer?.digests).toHaveLength(1_500);
    expect(exported.transfer?.files.map(({ path }) => path)).toEqual(['meta.sql', 'n1.0.csv']);
    expect(told).toContain('counting and sampling database plant, table 700 of 1500');
  });

  it('waits for a count that takes hours, says how long, and no longer than the step has', async () => {
    await mkdir(join(root, 'data/extern'), { recursive: true });
    const count = (ms: number) => (statements: readonly string[]) =>
      statements.some((text) => text.includes('count(*)')) ? ms : 0;
    const slow = host({ tookMs: count(2 * HOUR_MS) });
    const exported = slow.run(relational);
    await slow.transfers.export(exported);
    expect(exported.transfer?.digests).toMatchObject([{ rows: 3 }]);
    expect(slow.told).toContain('counting and sampling shop.public.orders (3600 s so far)');
    const limits = slow.sessions.map(({ timeoutMs }) => timeoutMs);
    expect(limits[0]).toBe(DEADLINE.ceilingMs);
    // What was waited for is no more to be had.
    expect(limits.at(-1)).toBeLessThanOrEqual(DEADLINE.ceilingMs - 2 * HOUR_MS);
  });

  it('of a table whose files one IMPORT cannot name is refused before it begins', async () => {
    await mkdir(join(root, 'data/extern'), { recursive: true });
    const million = 1_000_000;
    const fits = host({ rows: 160 * million });
    await fits.transfers.export(fits.run(relational));
    expect(fits.exports).toHaveLength(1);
    for (const rows of [180 * million, Number.MAX_SAFE_INTEGER]) {
      const large = host({ rows });
      await expect(large.transfers.export(large.run(relational))).rejects.toMatchObject({ code: 'TRANSFER_TOO_LARGE' });
      expect(large.exports).toEqual([]);
    }
    const database = host({ rows: 180 * million });
    await database.transfers.export(database.run(series(1)));
    expect(database.exports).toHaveLength(1);
  });
});

describe('waiting for others', () => {
  it('for room on the controller lasts as long as it takes, and says how long it has', async () => {
    await mkdir(join(root, 'data/extern'), { recursive: true });
    const refs: FileRef[] = [];
    let full = 3 * 3_600;
    const exchange: FileExchange = {
      ...TAKES_ALL,
      async offerFile(ref) {
        refs.push(ref);
        full -= 5;
        return { receivedBytes: 0, complete: false, full: full >= 0 };
      },
    };
    const { transfers, run, told } = host({ exchange });
    const exported = run(relational);
    await transfers.export(exported);
    expect(told).toContain('waiting for room on the controller (7200 s so far)');
    // Six bytes of what describes the table, two of its data: told with each, so that there is room for all or none.
    expect(new Set(refs.map(({ unitBytes }) => unitBytes))).toEqual(new Set([8]));
  });

  it('for an import job of an earlier attempt does, too', async () => {
    await mkdir(join(root, 'data/extern'), { recursive: true });
    let asked = 0;
    const { transfers, run, told } = host({
      answers: (text) => {
        if (!text.includes('SHOW JOBS')) return undefined;
        asked += 1;
        return `job_id,status\n${asked < 1_000 ? '77,running\n' : ''}`;
      },
    });
    // The stand-in of this test ends every command with what an EXPORT answers.
    const imported = transfers.import(run(relational, { files: [] }));
    await expect(imported).rejects.toMatchObject({ code: 'TRANSFER_IMPORT_FAILED' });
    expect(asked).toBe(1_000);
    expect(told).toContain('waiting for import job 77 of an earlier attempt, which is running (3600 s so far)');
  });
});

describe('an import', () => {
  it('is one argument of a command: what Linux would not take is refused before anything is fetched', async () => {
    await mkdir(join(root, 'data/extern'), { recursive: true });
    const file = (at: number) => ({ path: `n1.${at}.csv`, sizeBytes: 1, sha256: '0'.repeat(64) });
    const { transfers, run } = host({});
    const ordered = run(relational, { files: Array.from({ length: 1_900 }, (_, at) => file(at)) });
    await expect(transfers.import(ordered)).rejects.toMatchObject({
      code: 'TRANSFER_TOO_LARGE',
      message: expect.stringMatching(/makes 1900 files, and one IMPORT can name about 18\d\d of them/),
    });
  });

  it('names so many files as a process takes', async () => {
    const { transfers, run } = host({ rows: 170_000_000 });
    await mkdir(join(root, 'data/extern'), { recursive: true });
    await transfers.export(run(relational));
    const names = Array.from({ length: 1_700 }, (_, at) => `n1.${at}.csv`);
    const longest = importTable(1, 'kwfleet-run-20261123-064028-7f3a9c-u1-1-1', names);
    expect((await runShort('/bin/true', [longest], { timeoutMs: 60_000 })).exitCode).toBe(0);
    const most = await runShort('/bin/true', ['x'.repeat(128 * 1024 - 1)], { timeoutMs: 60_000 });
    expect(most.exitCode).toBe(0);
    const more = await runShort('/bin/true', ['x'.repeat(128 * 1024)], { timeoutMs: 60_000 });
    expect(more.exitCode).not.toBe(0);
  });
});
