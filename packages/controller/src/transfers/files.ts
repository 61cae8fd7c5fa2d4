/**
 * Files of transfers on their way: `<dataDir>/transfers/<run>/<unit>/<sha256>`, received in pieces, kept until the unit
 * was imported, its attempt failed or its run has ended, and never more of them than the configuration allows.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { ENDED, FleetError, stepPart } from '@kwfleet/core';
import type { FileRef, FileState } from '@kwfleet/protocol';
import type { Logger } from 'pino';
import type { Database } from '../store/database.ts';
import { findRun, type RunRow } from '../store/runs.ts';
import { freeBytes, Room, SPARE_BYTES } from './room.ts';

const SWEEP_EVERY_MS = 10_000;

export type TransferFiles = {
  /**
   * Makes room for a file, with the others of its unit. Throws TRANSFER_TOO_LARGE when they never fit, RUN_UNKNOWN when
   * its run has ended, FORBIDDEN when this node has no order to export it.
   */
  offer(ref: FileRef, node: string | undefined): Promise<FileState>;
  /** Appends from `offset` on. False: the whole does not have the SHA-256, and is thrown away. */
  put(ref: FileRef, offset: number, bytes: AsyncIterable<Uint8Array>, node: string | undefined): Promise<boolean>;
  /** The path of a whole file; undefined when it is not there. Throws as `offer`. */
  find(ref: FileRef, node: string | undefined): Promise<string | undefined>;
  /** Removes what no run needs any more. */
  sweep(): Promise<void>;
  close(): Promise<void>;
};

export async function openTransferFiles(
  dataDir: string,
  maxBytes: number,
  database: Database,
  log: Logger,
): Promise<TransferFiles> {
  const folder = join(dataDir, 'transfers');
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const place = ({ run, unit }: FileRef) => join(folder, run, unit);
  const whole = (ref: FileRef) => join(place(ref), ref.sha256);
  const part = (ref: FileRef) => `${whole(ref)}.part`;
  /** Files that are being received now: a second sender of the same one waits. */
  const busy = new Set<string>();
  const room = new Room(folder, maxBytes, database);

  const files: TransferFiles = {
    async offer(ref, node) {
      const action = await requireExport(database, ref, node);
      const bytes = Math.max(ref.unitBytes, ref.sizeBytes);
      if (bytes > maxBytes) {
        const message = `the files have ${bytes} bytes together, which is more than transfers.max_bytes (${maxBytes})`;
        throw new FleetError('TRANSFER_TOO_LARGE', message);
      }
      if (!(await room.reserve(place(ref), { action, bytes }))) {
        return { receivedBytes: 0, complete: false, full: true };
      }
      if ((await sizeOf(whole(ref))) >= 0) {
        // It is offered again because something went wrong: it may have been damaged while it lay here.
        if ((await sha256Of(whole(ref))) === ref.sha256) {
          return { receivedBytes: ref.sizeBytes, complete: true, full: false };
        }
        await rm(whole(ref), { force: true });
      }
      const receivedBytes = Math.max(0, await sizeOf(part(ref)));
      const missing = ref.sizeBytes - receivedBytes;
      const full = (await freeBytes(folder)) < missing + SPARE_BYTES;
      return { receivedBytes, complete: false, full: full || busy.has(whole(ref)) };
    },
    async put(ref, offset, bytes, node) {
      await requireOrder(database, ref.run, node);
      if (busy.has(whole(ref))) throw new FleetError('UNAVAILABLE', 'this file is being received already');
      busy.add(whole(ref));
      try {
        await mkdir(place(ref), { recursive: true, mode: 0o700 });
        const size = await append(part(ref), offset, ref.sizeBytes, bytes);
        if (size < ref.sizeBytes) throw new FleetError('UNAVAILABLE', `${size} of ${ref.sizeBytes} bytes came`);
        if (size > ref.sizeBytes || (await sha256Of(part(ref))) !== ref.sha256) {
          await rm(part(ref), { force: true });
          return false;
        }
        await rename(part(ref), whole(ref));
        return true;
      } finally {
        busy.delete(whole(ref));
      }
    },
    async find(ref, node) {
      await requireOrder(database, ref.run, node);
      return (await sizeOf(whole(ref))) < 0 ? undefined : whole(ref);
    },
    async sweep() {
      for (const run of await readdir(folder)) {
        const row = await findRun(database, run);
        if (row === undefined || ENDED.has(row.state.status)) {
          await rm(join(folder, run), { recursive: true, force: true });
          continue;
        }
        for (const unit of await readdir(join(folder, run))) {
          if (!isDone(row, unit)) continue;
          // Looked at again while nobody reserves: the next attempt may have begun.
          await room.locked(async (sql) => {
            const now = await findRun(sql, run);
            if (now === undefined || isDone(now, unit))
              await rm(join(folder, run, unit), { recursive: true, force: true });
          });
        }
      }
    },
    close: async () => clearInterval(sweeper),
  };
  const sweep = () =>
    files.sweep().catch((error: unknown) => log.warn({ err: error }, 'transfers could not be tidied; later'));
  const sweeper = setInterval(() => void sweep(), SWEEP_EVERY_MS);
  return files;
}

/**
 * Nobody needs its files any more: they were imported, or the attempt that brought them came to nothing. A retry exports
 * the table anew.
 */
function isDone({ plan, state }: RunRow, unit: string): boolean {
  return plan.steps.some(({ id, kind }) => {
    if (!unit.endsWith(`-${stepPart(id)}-`)) return false;
    const status = state.steps[id]?.status;
    if (kind === 'export') return status !== 'running' && status !== 'succeeded';
    return kind === 'import' && (status === 'succeeded' || status === 'failed');
  });
}

/** The order of this node by which the unit is being exported. Without certificates, whoever is here has it. */
async function requireExport(database: Database, { run, unit }: FileRef, node: string | undefined): Promise<string> {
  await requireOrder(database, run, node);
  const part = /-([^-]+)-$/.exec(unit)?.[1] ?? '';
  const [row] = await database.query<{ id: string }>(
    `SELECT id FROM actions WHERE run = $1 AND ended_at_ms IS NULL AND ($2::text IS NULL OR node = $2)
       AND split_part(step, ':', 1) = 'export' AND split_part(step, ':', 3) = $3`,
    [run, node ?? null, part],
  );
  if (row === undefined) throw new FleetError('FORBIDDEN', `this node has no order to export ${unit}`);
  return row.id;
}

/** Only a node that has an order of the run may bring its files or fetch them; without certificates, whoever is here. */
async function requireOrder(database: Database, run: string, node: string | undefined): Promise<void> {
  const [row] = await database.query<{ mine: boolean }>(
    `SELECT EXISTS (SELECT 1 FROM actions WHERE run = runs.id AND ended_at_ms IS NULL AND ($2::text IS NULL OR node = $2)) AS mine
     FROM runs WHERE id = $1 AND status NOT IN ('succeeded', 'failed', 'aborted')`,
    [run, node ?? null],
  );
  if (row === undefined) throw new FleetError('RUN_UNKNOWN', `there is no run ${run} under way`);
  if (!row.mine) throw new FleetError('FORBIDDEN', `this node has no order of run ${run}`);
}

/** The size afterwards. What lies behind `offset` is cut off first: it is sent again. */
async function append(
  file: string,
  offset: number,
  limitBytes: number,
  bytes: AsyncIterable<Uint8Array>,
): Promise<number> {
  const handle = await open(file, 'a+', 0o600);
  try {
    let { size } = await handle.stat();
    if (offset > size) throw new FleetError('UNAVAILABLE', `${size} bytes are here; ${offset} were continued from`);
    await handle.truncate(offset);
    size = offset;
    for await (const chunk of bytes) {
      size += chunk.length;
      if (size > limitBytes) return size;
      await handle.appendFile(chunk);
    }
    await handle.sync();
    return size;
  } finally {
    await handle.close();
  }
}

async function sha256Of(file: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(file)) hash.update(chunk as Buffer);
  return hash.digest('hex');
}

/** -1 when it is not there. */
async function sizeOf(file: string): Promise<number> {
  try {
    return (await stat(file)).size;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return -1;
    throw error;
  }
}
