/** Files of transfers at the controller: taken in pieces, checked, bounded, tidied; and who may bring and fetch them. */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { FileRef } from '@kwfleet/protocol';
import { describe, expect, it } from 'vitest';
import type { Database } from '../src/store/database.ts';
import { openTransferFiles, type TransferFiles } from '../src/transfers/files.ts';
import { log, putRun, reportCluster, temporaryDirectory, usePostgres } from './support.ts';

const postgres = usePostgres();
const BYTES = Buffer.from('1,one\n2,two\n3,three\n');

const refOf = (run: string, bytes: Buffer = BYTES, unit = 'kwfleet-r-u1-'): FileRef => ({
  run,
  unit,
  sha256: createHash('sha256').update(bytes).digest('hex'),
  sizeBytes: bytes.length,
  unitBytes: bytes.length,
});

async function* stream(...chunks: Uint8Array[]): AsyncGenerator<Uint8Array> {
  yield* chunks;
}

async function* broken(chunk: Uint8Array): AsyncGenerator<Uint8Array> {
  yield chunk;
  throw new Error('the link broke');
}

type Stage = { database: Database; files: TransferFiles; run: string; directory: string; node: string };

/** A run under way whose first node has an order, and a store of `maxBytes`. */
async function stage(maxBytes = 1_000): Promise<Stage> {
  const database = await postgres.database();
  const [node = ''] = await reportCluster(database, 'c1');
  const run = await putRun(database, 'c1');
  await order(database, run, node);
  const directory = await temporaryDirectory();
  const files = await openTransferFiles(directory, maxBytes, database, log);
  postgres.cleanUp(async () => {
    await files.close();
    await rm(directory, { recursive: true, force: true });
  });
  return { database, files, run, directory, node };
}

const order = (database: Database, run: string, node: string, step = 'export:n:u1', attempt = 1) =>
  database.execute(
    `INSERT INTO actions (id, run, step, node, action, created_at_ms) VALUES ($1, $2, $3, $4, '{}', now_ms())`,
    [`${run}/${step}/${attempt}`, run, step, node],
  );

const endOrders = (database: Database, run: string) =>
  database.execute('UPDATE actions SET ended_at_ms = now_ms() WHERE run = $1', [run]);

/** The run has these steps, in these states. */
const putSteps = (database: Database, run: string, statuses: Readonly<Record<string, string>>) =>
  database.execute(
    `UPDATE runs SET plan = jsonb_set(plan, '{steps}', $2::jsonb), state = jsonb_set(state, '{steps}', $3::jsonb) WHERE id = $1`,
    [
      run,
      JSON.stringify(Object.keys(statuses).map((id) => ({ id, kind: id.split(':')[0] }))),
      JSON.stringify(Object.fromEntries(Object.entries(statuses).map(([id, status]) => [id, { status, attempt: 1 }]))),
    ],
  );

describe('a file of a transfer', () => {
  it('is taken in pieces, goes on where it broke off, and is found whole', async () => {
    const { files, run, node } = await stage();
    const ref = refOf(run);
    expect(await files.offer(ref, node)).toEqual({ receivedBytes: 0, complete: false, full: false });
    await expect(files.put(ref, 0, broken(BYTES.subarray(0, 8)), node)).rejects.toThrow('the link broke');
    expect(await files.find(ref, node)).toBeUndefined();
    expect(await files.offer(ref, node)).toEqual({ receivedBytes: 8, complete: false, full: false });
    expect(await files.put(ref, 8, stream(BYTES.subarray(8)), node)).toBe(true);
    expect(await files.offer(ref, node)).toMatchObject({ complete: true });
    expect(await readFile((await files.find(ref, node)) ?? '')).toEqual(BYTES);
  });

  it('is thrown away when its SHA-256 is another, and can be sent again', async () => {
    const { files, run, node } = await stage();
    const ref = refOf(run);
    const damaged = Buffer.from(BYTES);
    damaged[3] = 0x58;
    expect(await files.put(ref, 0, stream(damaged), node)).toBe(false);
    expect(await files.offer(ref, node)).toMatchObject({ receivedBytes: 0, complete: false });
    expect(await files.put(ref, 0, stream(BYTES, Buffer.from('more')), node)).toBe(false);
    expect(await files.put(ref, 0, stream(BYTES), node)).toBe(true);
  });

  it('that was damaged while it lay here is not called whole when it is offered again', async () => {
    const { files, run, node } = await stage();
    const ref = refOf(run);
    await files.put(ref, 0, stream(BYTES), node);
    await writeFile((await files.find(ref, node)) ?? '', Buffer.from('1,one\n2,two\n3,thrEE\n'));
    expect(await files.offer(ref, node)).toEqual({ receivedBytes: 0, complete: false, full: false });
    expect(await files.put(ref, 0, stream(BYTES), node)).toBe(true);
    expect(await files.offer(ref, node)).toMatchObject({ complete: true });
  });

  it('is nobody’s business but of nodes that have an order of its run', async () => {
    const { database, files, run, node } = await stage();
    const ref = refOf(run);
    await expect(files.offer(ref, 'stranger')).rejects.toMatchObject({ code: 'FORBIDDEN' });
    await expect(files.put(ref, 0, stream(BYTES), 'stranger')).rejects.toMatchObject({ code: 'FORBIDDEN' });
    await expect(files.find(ref, 'stranger')).rejects.toMatchObject({ code: 'FORBIDDEN' });
    await expect(files.offer(refOf('run-none'), node)).rejects.toMatchObject({ code: 'RUN_UNKNOWN' });
    await endOrders(database, run);
    await expect(files.offer(ref, node)).rejects.toMatchObject({ code: 'FORBIDDEN' });
  });

  it('goes when its table was imported, or its run has ended, and not before', async () => {
    const { database, files, run, node, directory } = await stage();
    const [one, other] = [refOf(run), refOf(run, BYTES, 'kwfleet-r-u2-')];
    for (const ref of [one, other]) await files.put(ref, 0, stream(BYTES), node);
    await files.sweep();
    expect(await files.find(one, node)).toBeDefined();
    await putSteps(database, run, { 'import:m1:u1': 'succeeded', 'import:m1:u2': 'running' });
    await files.sweep();
    expect(await files.find(one, node)).toBeUndefined();
    expect(await files.find(other, node)).toBeDefined();
    await database.execute(
      `UPDATE runs SET status = 'aborted', state = jsonb_set(state, '{status}', '"aborted"') WHERE id = $1`,
      [run],
    );
    await files.sweep();
    expect(existsSync(join(directory, 'transfers', run))).toBe(false);
  });
});

describe('room for the files of a table', () => {
  const MORE = Buffer.from('another file\n');
  /** Two tables of two files each, of which one alone fits. */
  const unitBytes = BYTES.length + MORE.length;
  const of = (run: string, part: string) =>
    [BYTES, MORE].map((bytes) => ({ ...refOf(run, bytes, `kwfleet-r-${part}-`), unitBytes }));

  async function twoLanes() {
    const made = await stage(unitBytes + 20);
    const { database, run, node } = made;
    await order(database, run, node, 'export:n:u2');
    const [[one, more], [other]] = [of(run, 'u1'), of(run, 'u2')] as [[FileRef, FileRef], [FileRef, FileRef]];
    return { ...made, one, more, other };
  }

  it('is reserved for all of them before the first comes: another table waits, and neither is stuck half way', async () => {
    const { database, files, run, node, directory, one, more, other } = await twoLanes();
    expect(await files.offer(one, node)).toMatchObject({ full: false });
    // Nothing has come yet, and there would be room for its first file.
    expect(await files.offer(other, node)).toEqual({ receivedBytes: 0, complete: false, full: true });
    await files.put(one, 0, stream(BYTES), node);
    expect(await files.offer(more, node)).toMatchObject({ full: false });
    await files.put(more, 0, stream(MORE), node);
    // Another controller, or this one started anew, sees the same.
    const second = await openTransferFiles(directory, unitBytes + 20, database, log);
    expect(await second.offer(other, node)).toMatchObject({ full: true });
    await second.close();
    await putSteps(database, run, { 'import:m:u1': 'succeeded', 'export:n:u2': 'running' });
    await files.sweep();
    expect(await files.offer(other, node)).toMatchObject({ full: false });
  });

  it('goes to one of many that ask at once', async () => {
    const { database, files, run, node, directory } = await twoLanes();
    const parts = ['u3', 'u4', 'u5', 'u6', 'u7', 'u8'];
    for (const part of parts) await order(database, run, node, `export:n:${part}`);
    const refs = parts.map((part) => of(run, part)[0] as FileRef);
    // So much to count that all have counted before one of them writes its own, if nothing holds them.
    for (let at = 0; at < 500; at++) await mkdir(join(directory, 'transfers', run, `old-${at}-`), { recursive: true });
    const answers = await Promise.all(refs.map((ref) => files.offer(ref, node)));
    expect(answers.filter(({ full }) => !full)).toHaveLength(1);
  });

  it('is refused to a table that has more than may ever lie here, though each of its files has less', async () => {
    const { files, run, node } = await stage(unitBytes - 1);
    const [first] = of(run, 'u1');
    await expect(files.offer(first as FileRef, node)).rejects.toMatchObject({
      code: 'TRANSFER_TOO_LARGE',
      message: `the files have ${unitBytes} bytes together, which is more than transfers.max_bytes (${unitBytes - 1})`,
    });
  });

  it('is given back when the attempt failed, and what came by it is of no use to the next', async () => {
    const { database, files, run, node, one, other } = await twoLanes();
    await files.offer(one, node);
    await files.put(one, 0, stream(BYTES), node);
    await putSteps(database, run, { 'export:n:u1': 'running', 'export:n:u2': 'running' });
    await files.sweep();
    expect(await files.offer(other, node)).toMatchObject({ full: true });
    await putSteps(database, run, { 'export:n:u1': 'failed', 'export:n:u2': 'running' });
    await files.sweep();
    expect(await files.offer(other, node)).toMatchObject({ full: false });

    // The next attempt comes before anything was tidied.
    await files.put(other, 0, stream(BYTES), node);
    await endOrders(database, run);
    await order(database, run, node, 'export:n:u2', 2);
    expect(await files.offer(other, node)).toEqual({ receivedBytes: 0, complete: false, full: false });
    expect(await files.find(other, node)).toBeUndefined();
  });

  it('is given back when the import failed: a retry exports the table anew', async () => {
    const { database, files, run, node, one, other } = await twoLanes();
    await files.offer(one, node);
    const running = { 'export:n:u1': 'succeeded', 'import:m:u1': 'running', 'export:n:u2': 'running' };
    await putSteps(database, run, running);
    await files.sweep();
    expect(await files.offer(other, node)).toMatchObject({ full: true });
    await putSteps(database, run, { ...running, 'import:m:u1': 'failed' });
    await files.sweep();
    expect(await files.offer(other, node)).toMatchObject({ full: false });
  });

  it('is only for a node that has the order to export that table', async () => {
    const { files, run, node } = await stage();
    await expect(files.offer(refOf(run, BYTES, 'kwfleet-r-u9-'), node)).rejects.toMatchObject({ code: 'FORBIDDEN' });
    await expect(files.offer(refOf(run, BYTES, 'kwfleet-r-u1-'), 'stranger')).rejects.toMatchObject({
      code: 'FORBIDDEN',
    });
  });
});
