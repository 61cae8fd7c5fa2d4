/** A consistent cold copy of a stopped node: data, certificates and configuration, with the SHA-256 of every file. */
import { mkdir, readdir, readFile, rename, rm, statfs, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { type BackupReceipt, FleetError } from '@kwfleet/core';
import { syncDirectory } from '../journal/file-storage.ts';
import { exists, isLaidAside } from './aside.ts';
import { clone, copyTree, Meter, mebibytes, Progress, SPARE_BYTES } from './copy-tree.ts';
import { copyOf, type Manifest, readManifest, totals, writeManifest } from './manifest.ts';
import { makeWay, PART, retain } from './retention.ts';
import type { Root, Say, Work } from './spec.ts';
import { type Found, isWithin, resolveRoots, walkTree } from './tree.ts';

/** Where the copy of one run lies: `<directory>/<node>/<run>`. */
export const placeOf = (directory: string, node: string, set: string): string => join(directory, node, set);

type Tree = { readonly root: Root; readonly found: readonly Found[] };

/** Throws DISK_FULL with the numbers, or BACKUP_UNSUPPORTED, before anything is stopped. */
export async function prepare(work: Work & { work: 'prepare' }, say: Say): Promise<void> {
  const { directory, roots, node, set } = work;
  const trees = await walkAll(directory, roots);
  await mkdir(directory, { recursive: true, mode: 0o700 });
  await makeWay(join(directory, node), set, work);
  await requireSpace(directory, trees, say);
}

/** Makes the copy, or goes on with it. It appears under its name only when it is whole and read again. */
export async function makeCopy(
  work: Work & { work: 'copy' },
  say: Say,
  nowMs: number,
): Promise<Omit<BackupReceipt, 'policy'>> {
  const place = placeOf(work.directory, work.identity.node, work.identity.set);
  const trees = await walkAll(work.directory, work.roots);
  const part = await openPart(place, work.action);
  try {
    if (!part.resumed) await makeRoom(part.path, place, trees, say);
    await fill(part.path, work, trees, say, nowMs);
  } catch (error) {
    // A full disk is emptied again: the database must be able to start.
    if (isFull(error)) await rm(part.path, { recursive: true, force: true });
    throw error;
  }
  await rm(place, { recursive: true, force: true });
  await rename(part.path, place);
  await syncDirectory(dirname(place));
  const removed = await retain(dirname(place), work.identity.set, work);
  const { manifest, sha256 } = await readManifest(place);
  const { version, madeAtMs } = manifest;
  return { place, version, madeAtMs, manifestSha256: sha256, removed, ...totals(manifest) };
}

async function fill(
  part: string,
  work: Work & { work: 'copy' },
  trees: readonly Tree[],
  say: Say,
  nowMs: number,
): Promise<void> {
  const total = trees.flatMap(({ found }) => found).reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  const meter = new Meter(say, 'copied', total);
  const progress = await Progress.open(join(part, 'progress.jsonl'));
  const roots: Manifest['roots'] = [];
  for (const { root, found } of trees) {
    const to = copyOf(part, root.name);
    const sums = await copyTree({ from: root.path, to, entries: found, progress, meter });
    const entries = found.map(({ stamp: _, ...entry }) => {
      const sha256 = sums.get(entry.path);
      return sha256 === undefined ? entry : { ...entry, sha256 };
    });
    roots.push({ ...root, entries });
  }
  await requireUnchanged(trees);
  const { action, identity } = work;
  await writeManifest(part, { format: 1, ...identity, action, madeAtMs: nowMs, roots });
  await rm(join(part, 'progress.jsonl'), { force: true });
  await syncDirectory(part);
  say(`copied and read again: ${mebibytes(total)} MiB`);
}

/** A database that ran meanwhile, seen or not, would make a copy of no moment at all. */
async function requireUnchanged(trees: readonly Tree[]): Promise<void> {
  for (const { root, found } of trees) {
    const now = new Map((await walkTree(root, isLaidAside)).map((entry) => [entry.path, entry]));
    // A directory's times change when something in it does, which is seen there.
    const changed =
      found.find(({ path, type, stamp }) => type !== 'directory' && now.get(path)?.stamp !== stamp) ??
      (now.size === found.length ? undefined : root);
    if (changed === undefined) continue;
    throw new FleetError('BACKUP_FAILED', `${join(root.path, changed.path)} changed while it was copied`);
  }
}

async function walkAll(directory: string, roots: readonly Root[]): Promise<Tree[]> {
  const real = await resolveRoots(roots);
  const [data] = real;
  if (data?.name !== 'data') throw new FleetError('BACKUP_UNSUPPORTED', 'this node has no data directory');
  const inside = real.find(({ path }) => isWithin(directory, path));
  if (inside !== undefined) {
    throw new FleetError('BACKUP_UNSUPPORTED', `backup.directory ${directory} lies within ${inside.path}`);
  }
  const trees: Tree[] = [];
  for (const root of real) trees.push({ root, found: await walkTree(root, isLaidAside) });
  // A disk or a volume that is mounted only while the database runs leaves an empty directory.
  if (trees[0]?.found.some(({ type }) => type === 'file') !== true) {
    throw new FleetError('BACKUP_UNSUPPORTED', `${data.path} holds no file: the data of the node are not there`);
  }
  return trees;
}

/** What an earlier order of the same run copied is of no use beside the copy that takes its place: it gives way where both do not fit. */
async function makeRoom(part: string, place: string, trees: readonly Tree[], say: Say): Promise<void> {
  try {
    await requireSpace(part, trees, say);
  } catch (error) {
    if (!isFull(error) || !(await exists(place))) throw error;
    await rm(place, { recursive: true, force: true });
    await requireSpace(part, trees, say);
  }
}

async function requireSpace(directory: string, trees: readonly Tree[], say: Say): Promise<void> {
  const { bavail, bsize } = await statfs(directory);
  const freeBytes = bavail * bsize;
  let needBytes = SPARE_BYTES;
  for (const tree of trees) {
    if (await sharesBlocks(directory, tree)) continue;
    needBytes += tree.found.reduce((sum, entry) => sum + entry.allocatedBytes, 0);
  }
  say(`a copy needs ${mebibytes(needBytes)} MiB in ${directory}; ${mebibytes(freeBytes)} MiB are free`);
  if (freeBytes >= needBytes) return;
  throw new FleetError('DISK_FULL', `${directory} has ${freeBytes} bytes free; a copy needs ${needBytes}`);
}

async function sharesBlocks(directory: string, { root, found }: Tree): Promise<boolean> {
  const sample = found.find(({ type, sizeBytes }) => type === 'file' && sizeBytes > 0);
  if (sample === undefined) return true;
  const trial = join(directory, '.reflink-trial');
  await rm(trial, { force: true });
  const works = await clone(join(root.path, sample.path), trial);
  await rm(trial, { force: true });
  return works;
}

/** What the same order left unfinished is gone on with; anything else unfinished is removed. */
async function openPart(place: string, action: string): Promise<{ path: string; resumed: boolean }> {
  const home = dirname(place);
  await mkdir(home, { recursive: true, mode: 0o700 });
  const path = `${place}${PART}`;
  const resumed = (await readFile(join(path, 'action'), 'utf8').catch(() => '')) === action;
  for (const name of await readdir(home)) {
    if (name.endsWith(PART) && (join(home, name) !== path || !resumed)) {
      await rm(join(home, name), { recursive: true, force: true });
    }
  }
  if (!resumed) {
    await mkdir(path, { mode: 0o700 });
    await writeFile(join(path, 'action'), action);
  }
  return { path, resumed };
}

export function isFull(error: unknown): boolean {
  const { code } = error as { code?: unknown };
  return code === 'ENOSPC' || code === 'EDQUOT' || code === 'DISK_FULL';
}
