/** Copies files so that they are on the disk, whole and provably the same, before anybody relies on them. */
import { createHash } from 'node:crypto';
import { constants, createReadStream } from 'node:fs';
import {
  chmod,
  chown,
  copyFile,
  type FileHandle,
  lutimes,
  mkdir,
  open,
  readFile,
  rm,
  statfs,
  symlink,
} from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { FleetError } from '@kwfleet/core';
import { syncDirectory } from '../journal/file-storage.ts';
import type { Say } from './spec.ts';
import type { Entry } from './tree.ts';

const CHUNK_BYTES = 1024 * 1024;
/** What file systems allocate by. */
const BLOCK_BYTES = 4096;
const ZEROS = Buffer.alloc(BLOCK_BYTES);
/** Left free, so that the agent's journal and the database can go on writing. */
export const SPARE_BYTES = 64 * 1024 * 1024;
/** How often the free space is looked at while copying. */
const LOOK_EVERY_BYTES = 32 * 1024 * 1024;
const SAY_EVERY_MS = 2000;

/** `from` on the way into the copy; `hash` when it is known already what the bytes must be. */
export type Copied = Entry & { readonly stamp: string; readonly sha256?: string };

export type CopyTree = {
  readonly from: string;
  readonly to: string;
  readonly entries: readonly Copied[];
  /** Lines of what is copied already and synced, kept beside: an interrupted copy goes on from there. */
  readonly progress: Progress;
  readonly meter: Meter;
};

/** Copies `from` to `to`, parents first; answers the SHA-256 of every file. Each file is read again from the copy. */
export async function copyTree({ from, to, entries, progress, meter }: CopyTree): Promise<Map<string, string>> {
  const sums = new Map<string, string>();
  const reflink: Reflink = { works: true };
  for (const entry of entries) {
    const target = entry.path === '' ? to : join(to, entry.path);
    if (entry.type === 'directory') {
      await mkdir(target, { recursive: true, mode: 0o700 });
      continue;
    }
    await mkdir(dirname(target), { recursive: true, mode: 0o700 });
    if (entry.type === 'link') await copyLink(entry, target);
    else sums.set(entry.path, await copyOne({ entry, from: join(from, entry.path), target, progress, meter, reflink }));
  }
  // Last, and children first: what is written into a directory changes its times.
  for (const entry of entries.toReversed()) {
    if (entry.type !== 'directory') continue;
    const target = entry.path === '' ? to : join(to, entry.path);
    await likeOriginal(target, entry);
    await syncDirectory(target);
  }
  await syncDirectory(dirname(to));
  return sums;
}

type Reflink = { works: boolean };

type One = {
  readonly entry: Copied;
  readonly from: string;
  readonly target: string;
  readonly progress: Progress;
  readonly meter: Meter;
  readonly reflink: Reflink;
};

async function copyOne({ entry, from, target, progress, meter, reflink }: One): Promise<string> {
  const done = progress.done(target, entry.stamp);
  if (done !== undefined && (await sha256OfFile(target).catch(() => '')) === done) {
    meter.moved(entry.sizeBytes);
    return done;
  }
  await rm(target, { force: true });
  const sha256 = await copyBytes(from, target, meter, reflink);
  await likeOriginal(target, entry);
  if (entry.sha256 !== undefined && entry.sha256 !== sha256) {
    throw new FleetError('BACKUP_DAMAGED', `${from} is not as it was when the backup was made`);
  }
  if ((await sha256OfFile(target)) !== sha256) {
    throw new FleetError('BACKUP_FAILED', `${target} reads otherwise than it was written: the disk loses data`);
  }
  await progress.add(target, entry.stamp, sha256);
  return sha256;
}

async function copyBytes(from: string, target: string, meter: Meter, reflink: Reflink): Promise<string> {
  if (reflink.works && (await clone(from, target))) {
    await syncFile(target);
    const sha256 = await sha256OfFile(from);
    meter.moved((await open(from).then(sizeAndClose)) ?? 0);
    return sha256;
  }
  reflink.works = false;
  const source = await open(from, constants.O_RDONLY | constants.O_NOFOLLOW);
  try {
    const copy = await open(target, 'wx', 0o600);
    try {
      return await stream(source, copy, target, meter);
    } finally {
      await copy.close();
    }
  } finally {
    await source.close();
  }
}

async function sizeAndClose(handle: FileHandle): Promise<number> {
  const { size } = await handle.stat();
  await handle.close();
  return size;
}

/** Holes stay holes: what is all zeros is not written. */
async function stream(source: FileHandle, copy: FileHandle, target: string, meter: Meter): Promise<string> {
  const hash = createHash('sha256');
  const buffer = Buffer.allocUnsafe(CHUNK_BYTES);
  let at = 0;
  for (;;) {
    const { bytesRead } = await source.read(buffer, 0, CHUNK_BYTES, at);
    if (bytesRead === 0) break;
    const chunk = buffer.subarray(0, bytesRead);
    hash.update(chunk);
    for (const [start, end] of written(chunk)) {
      await meter.spare(target);
      for (let done = start; done < end; ) {
        done += (await copy.write(chunk, done, end - done, at + done)).bytesWritten;
      }
    }
    at += bytesRead;
    meter.moved(bytesRead);
  }
  await copy.truncate(at);
  await copy.sync();
  return hash.digest('hex');
}

/** The stretches of a chunk that are not all zeros. */
function* written(chunk: Buffer): Generator<readonly [start: number, end: number]> {
  const isHole = (at: number) => {
    const block = chunk.subarray(at, at + BLOCK_BYTES);
    return block.equals(ZEROS.subarray(0, block.length));
  };
  for (let start = 0, end = 0; start < chunk.length; start = end) {
    while (start < chunk.length && isHole(start)) start += BLOCK_BYTES;
    end = start;
    while (end < chunk.length && !isHole(end)) end += BLOCK_BYTES;
    if (start < chunk.length) yield [start, Math.min(end, chunk.length)];
  }
}

/** Shares the blocks where the file system can; never a hard link: a copy must not change with its original. */
export async function clone(from: string, target: string): Promise<boolean> {
  try {
    await copyFile(from, target, constants.COPYFILE_FICLONE_FORCE | constants.COPYFILE_EXCL);
    return true;
  } catch {
    await rm(target, { force: true });
    return false;
  }
}

async function copyLink(entry: Copied, target: string): Promise<void> {
  await rm(target, { force: true });
  await symlink(entry.target ?? '', target);
  await lutimes(target, entry.mtimeMs / 1000, entry.mtimeMs / 1000);
}

async function likeOriginal(target: string, { uid, gid, mode, mtimeMs }: Entry): Promise<void> {
  if (process.getuid?.() === 0) await chown(target, uid, gid);
  await chmod(target, mode);
  await lutimes(target, mtimeMs / 1000, mtimeMs / 1000);
}

async function syncFile(file: string): Promise<void> {
  const handle = await open(file, 'r+');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

export async function sha256OfFile(file: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(file, { highWaterMark: CHUNK_BYTES })) hash.update(chunk as Buffer);
  return hash.digest('hex');
}

/** What was copied and synced by an earlier process of the same order. */
export class Progress {
  readonly #file: string;
  readonly #known = new Map<string, { readonly stamp: string; readonly sha256: string }>();

  constructor(file: string) {
    this.#file = file;
  }

  static async open(file: string): Promise<Progress> {
    const progress = new Progress(file);
    const text = await readFile(file, 'utf8').catch(() => '');
    for (const line of text.split('\n')) {
      try {
        const [target, stamp, sha256] = JSON.parse(line) as [string, string, string];
        progress.#known.set(target, { stamp, sha256 });
      } catch {
        // The last line may be torn: that file is copied again.
      }
    }
    return progress;
  }

  /** The SHA-256 of a file that was copied while it was as it is now. */
  done(target: string, stamp: string): string | undefined {
    const known = this.#known.get(target);
    return known?.stamp === stamp ? known.sha256 : undefined;
  }

  async add(target: string, stamp: string, sha256: string): Promise<void> {
    const handle = await open(this.#file, 'a', 0o600);
    try {
      await handle.appendFile(`${JSON.stringify([target, stamp, sha256])}\n`);
    } finally {
      await handle.close();
    }
  }
}

/** Tells how far it is, and stops before the disk is full. */
export class Meter {
  readonly #say: Say;
  readonly #what: string;
  readonly #totalBytes: number;
  #bytes = 0;
  #toldAtMs = 0;
  #sinceLookBytes = LOOK_EVERY_BYTES;

  constructor(say: Say, what: string, totalBytes: number) {
    this.#say = say;
    this.#what = what;
    this.#totalBytes = totalBytes;
  }

  moved(bytes: number): void {
    this.#bytes += bytes;
    this.#sinceLookBytes += bytes;
    if (Date.now() - this.#toldAtMs < SAY_EVERY_MS) return;
    this.#toldAtMs = Date.now();
    this.#say(`${this.#what}: ${mebibytes(this.#bytes)} of ${mebibytes(this.#totalBytes)} MiB`);
  }

  /** Throws DISK_FULL while there is still something left for the others. */
  async spare(target: string): Promise<void> {
    if (this.#sinceLookBytes < LOOK_EVERY_BYTES) return;
    this.#sinceLookBytes = 0;
    const { bavail, bsize } = await statfs(dirname(target));
    if (bavail * bsize >= SPARE_BYTES) return;
    throw new FleetError('DISK_FULL', `${dirname(target)} has no more than ${SPARE_BYTES} bytes free`);
  }
}

export const mebibytes = (bytes: number): number => Math.ceil(bytes / 1024 / 1024);
