/** What lies under one root, in a fixed order, with everything that a copy has to keep. */
import type { BigIntStats } from 'node:fs';
import { lstat, readdir, readlink, realpath } from 'node:fs/promises';
import { dirname, join, relative, resolve } from 'node:path';
import { FleetError } from '@kwfleet/core';
import { mountPoints } from './mounts.ts';
import type { Root } from './spec.ts';

/** More files than this are not copied one by one. */
export const ENTRIES_LIMIT = 1_000_000;

export type Entry = {
  /** Relative to the root; empty for the root itself. */
  readonly path: string;
  readonly type: 'directory' | 'file' | 'link';
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtimeMs: number;
  /** Of a file: its length. */
  readonly sizeBytes: number;
  /** Of a link: where it points. */
  readonly target?: string;
};

export type Found = Entry & {
  /** What the file takes on the disk. */
  readonly allocatedBytes: number;
  /** Changes whenever the file does. */
  readonly stamp: string;
};

/**
 * Everything under the root, parents first, but for what `leavesOut` names. Throws BACKUP_UNSUPPORTED for what a plain copy cannot bring back: devices,
 * something mounted below the root, or (in data) a link out of it.
 */
export async function walkTree(root: Root, leavesOut = (_path: string): boolean => false): Promise<Found[]> {
  const found: Found[] = [];
  const top = await lstat(root.path, { bigint: true });
  const mounts = await mountPoints();
  const waiting = [''];
  while (waiting.length > 0) {
    const path = waiting.pop() as string;
    const full = path === '' ? root.path : join(root.path, path);
    const stats = path === '' ? top : await lstat(full, { bigint: true });
    if (stats.isSocket() || stats.isFIFO()) continue;
    // Files of an overlay may tell the device of the layer they come from; a mount is seen at its directory.
    if (stats.isDirectory() && stats.dev !== top.dev)
      throw unsupported(`${full} is on another file system than ${root.path}`);
    if (path !== '' && mounts.has(full)) throw unsupported(`${full} is mounted within ${root.path}`);
    found.push(await entryOf(root, path, full, stats));
    if (found.length > ENTRIES_LIMIT) throw unsupported(`${root.path} holds more than ${ENTRIES_LIMIT} files`);
    if (!stats.isDirectory()) continue;
    const names = (await readdir(full)).sort().reverse();
    for (const name of names) {
      if (name.includes('\uFFFD')) throw unsupported(`${full} holds a name that is not UTF-8`);
      const below = path === '' ? name : `${path}/${name}`;
      if (!leavesOut(below)) waiting.push(below);
    }
  }
  return found;
}

async function entryOf(root: Root, path: string, full: string, stats: BigIntStats): Promise<Found> {
  const common = {
    path,
    mode: Number(stats.mode) & 0o7777,
    uid: Number(stats.uid),
    gid: Number(stats.gid),
    mtimeMs: Number(stats.mtimeNs / 1_000_000n),
    allocatedBytes: Number(stats.blocks) * 512,
    stamp: `${stats.ino} ${stats.size} ${stats.mtimeNs} ${stats.ctimeNs}`,
  };
  if (stats.isDirectory()) return { ...common, type: 'directory', sizeBytes: 0 };
  if (stats.isFile()) return { ...common, type: 'file', sizeBytes: Number(stats.size) };
  if (!stats.isSymbolicLink()) throw unsupported(`${full} is neither a file nor a directory`);
  const target = await readlink(full);
  const leaves = relative(root.path, resolve(dirname(full), target)).startsWith('..');
  if (root.name === 'data' && leaves) throw unsupported(`${full} is a link out of the data directory, to ${target}`);
  return { ...common, type: 'link', sizeBytes: 0, target };
}

const unsupported = (message: string) => new FleetError('BACKUP_UNSUPPORTED', message);

/** Links on the way to a root are followed, and what is not there is left out. Throws when one root lies in another. */
export async function resolveRoots(roots: readonly Root[]): Promise<Root[]> {
  const real: Root[] = [];
  for (const root of roots) {
    try {
      real.push({ name: root.name, path: await realpath(root.path) });
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    }
  }
  for (const a of real) {
    for (const b of real) {
      if (a !== b && isWithin(b.path, a.path)) throw unsupported(`${b.path} lies within ${a.path}`);
    }
  }
  return real;
}

export const isWithin = (path: string, directory: string): boolean =>
  path === directory || path.startsWith(directory === '/' ? '/' : `${directory}/`);
