/** Files of a transfer on their way through the controller: in pieces, resumed where they broke off, checked by SHA-256. */
import { constants } from 'node:fs';
import { type FileHandle, open, rm, stat } from 'node:fs/promises';
import { FleetError, type TransferFile } from '@kwfleet/core';
import { DeadlineError, Stopping, type Watch } from '../driver/driver.ts';
import { bytesOf, hash } from './open-below.ts';

/** A file as the controller knows it: of this run, and of this part of it. */
export type FileRef = {
  readonly run: string;
  readonly unit: string;
  readonly sha256: string;
  readonly sizeBytes: number;
  /** All files of the part together: the controller has room for all of them, or takes none. */
  readonly unitBytes: number;
};

/** What the controller says to an offer. `full`: there is no room now for the part that it belongs to. */
export type Offered = { readonly receivedBytes: number; readonly complete: boolean; readonly full: boolean };

/** The controller's end of it. All reject with FleetErrors where trying again is of no use. */
export type FileExchange = {
  offerFile(ref: FileRef): Promise<Offered>;
  /** Sends the bytes from `offset` on. `corrupt`: what arrived does not have the SHA-256, and was thrown away. */
  putFile(ref: FileRef, offset: number, bytes: AsyncIterable<Uint8Array>): Promise<'received' | 'corrupt'>;
  fetchFile(ref: FileRef, offset: number): AsyncIterable<Uint8Array>;
};

const CHUNK_BYTES = 64 * 1024;
const { O_RDONLY, O_WRONLY, O_APPEND, O_CREAT, O_EXCL, O_NOFOLLOW } = constants;
/** Room comes when another table was imported: minutes, or hours. */
const ROOM_EVERY_MS = 5_000;
/** A file that arrives damaged so often has something wrong on its way that no repetition mends. */
const CORRUPT_TRIES = 3;

export class Courier {
  readonly #exchange: FileExchange;

  constructor(exchange: FileExchange) {
    this.#exchange = exchange;
  }

  /** The opened file is whole at the controller afterwards. Throws TRANSFER_CORRUPT or TRANSFER_TOO_LARGE. */
  async send(ref: FileRef, file: FileHandle, name: string, watch: Watch): Promise<void> {
    let corrupt = 0;
    for (let waitedMs = 0; ; ) {
      const state = await tried(() => this.#exchange.offerFile(ref), watch);
      if (state?.complete === true) return;
      if (state?.full === true) {
        watch.detail(`waiting for room on the controller (${waitedMs / 1000} s so far)`);
        await watch.pause(ROOM_EVERY_MS);
        waitedMs += ROOM_EVERY_MS;
        continue;
      }
      if (state !== undefined) {
        const bytes = read(file, state.receivedBytes, ref, watch);
        const end = await tried(() => this.#exchange.putFile(ref, state.receivedBytes, bytes), watch);
        if (end === 'corrupt') corrupt += 1;
        if (corrupt >= CORRUPT_TRIES) {
          throw new FleetError('TRANSFER_CORRUPT', `${name} arrived damaged at the controller ${corrupt} times`);
        }
        if (end === 'received') return;
      }
      await watch.pause();
    }
  }

  /** The file lies whole at `path` afterwards. Throws TRANSFER_CORRUPT. */
  async receive(ref: FileRef, file: TransferFile, path: string, watch: Watch): Promise<void> {
    if ((await sizeOf(path)) > ref.sizeBytes) await rm(path, { force: true });
    while ((await sizeOf(path)) < ref.sizeBytes || (await sizeOf(path)) < 0) {
      const got = await tried(() => this.#receive(ref, path, watch), watch);
      if (got === undefined) await watch.pause();
    }
    if ((await sizeOf(path)) === ref.sizeBytes && (await hashOf(path, file.path, watch)) === ref.sha256) return;
    await rm(path, { force: true });
    throw new FleetError('TRANSFER_CORRUPT', `the bytes of ${file.path} are not those that were exported`);
  }

  async #receive(ref: FileRef, path: string, watch: Watch): Promise<true> {
    // One that is there was begun by an earlier call, or process.
    const isThere = (await sizeOf(path)) >= 0;
    const handle = await open(path, O_WRONLY | O_APPEND | O_NOFOLLOW | (isThere ? 0 : O_CREAT | O_EXCL), 0o640);
    try {
      let size = (await handle.stat()).size;
      for await (const chunk of size < ref.sizeBytes ? this.#exchange.fetchFile(ref, size) : []) {
        await handle.appendFile(chunk);
        size += chunk.length;
        watch.moved(`${path} ${size}`);
        if (size > ref.sizeBytes) break;
      }
      await handle.sync();
    } finally {
      await handle.close();
    }
    return true;
  }
}

/** What came of it; undefined when the connection broke and it may be tried again. */
async function tried<T>(work: () => Promise<T>, watch: Watch): Promise<T | undefined> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof FleetError || error instanceof DeadlineError || error instanceof Stopping) throw error;
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === 'ENOSPC' || code === 'ENOENT' || code === 'EACCES' || code === 'ELOOP') throw error;
    watch.detail(`the transfer broke (${message}); going on`);
    return undefined;
  }
}

async function hashOf(path: string, name: string, watch: Watch): Promise<string> {
  const file = await open(path, O_RDONLY | O_NOFOLLOW);
  try {
    return await hash(file, name, watch.moved.bind(watch));
  } finally {
    await file.close();
  }
}

async function* read(file: FileHandle, offset: number, ref: FileRef, watch: Watch): AsyncGenerator<Uint8Array> {
  let at = offset;
  for await (const chunk of bytesOf(file, offset, CHUNK_BYTES)) {
    yield chunk;
    at += chunk.length;
    watch.moved(`${ref.sha256} ${at}`);
    if (at > ref.sizeBytes) return;
  }
}

/** -1 when it is not there. */
async function sizeOf(path: string): Promise<number> {
  try {
    return (await stat(path)).size;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return -1;
    throw error;
  }
}
