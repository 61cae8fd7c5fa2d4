/** Files of transfers at the controller: taken in pieces, checked, bounded, tidied; and who may bring and fetch them. */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { readFile, rm, writeFile } from 'node:fs/promises';
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

const order = (database: Database, run: string, node: string) =>
  database.execute(
    `INSERT INTO actions (id, run, step, node, action, created_at_ms) VALUES ($1, $2, 'export:n:u1', $3, '{}', now_ms())`,
    [`${run}/export:n:u1/1`, run, node],
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

  it('waits for room, and is refused when it can never have it', async () => {
    const { files, run, node } = await stage(30);
    const first = refOf(run);
    expect(await files.put(first, 0, stream(BYTES), node)).toBe(true);
    const second = Buffer.from('another file\n');
    expect(await files.offer(refOf(run, second), node)).toMatchObject({ full: true });
    const large = refOf(run, Buffer.alloc(31));
    await expect(files.offer(large, node)).rejects.toMatchObject({ code: 'TRANSFER_TOO_LARGE' });
  });

  it('is nobody’s business but of nodes that have an order of its run', async () => {
    const { database, files, run, node } = await stage();
    const ref = refOf(run);
    await expect(files.offer(ref, 'stranger')).rejects.toMatchObject({ code: 'FORBIDDEN' });
    await expect(files.put(ref, 0, stream(BYTES), 'stranger')).rejects.toMatchObject({ code: 'FORBIDDEN' });
    await expect(files.find(ref, 'stranger')).rejects.toMatchObject({ code: 'FORBIDDEN' });
    await expect(files.offer(refOf('run-none'), node)).rejects.toMatchObject({ code: 'RUN_UNKNOWN' });
    await database.execute('UPDATE actions SET ended_at_ms = now_ms() WHERE run = $1', [run]);
    await expect(files.offer(ref, node)).rejects.toMatchObject({ code: 'FORBIDDEN' });
  });

  it('goes when its table was imported, or its run has ended, and not before', async () => {
    const { database, files, run, node, directory } = await stage();
    const [one, other] = [refOf(run), refOf(run, BYTES, 'kwfleet-r-u2-')];
    for (const ref of [one, other]) await files.put(ref, 0, stream(BYTES), node);
    await files.sweep();
    expect(await files.find(one, node)).toBeDefined();
    await database.execute(
      `UPDATE runs SET plan = jsonb_set(plan, '{steps}', $2::jsonb), state = jsonb_set(state, '{steps}', $3::jsonb) WHERE id = $1`,
      [
        run,
        JSON.stringify(['u1', 'u2'].map((part) => ({ id: `import:m1:${part}`, kind: 'import' }))),
        JSON.stringify({
          'import:m1:u1': { status: 'succeeded', attempt: 1 },
          'import:m1:u2': { status: 'running', attempt: 1 },
        }),
      ],
    );
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
