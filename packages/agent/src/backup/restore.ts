/**
 * Puts a backup in place of what a stopped node has: staged beside it and read again first, then exchanged by renames. What
 * was there is kept under a name with the run's id until it is discarded, or put back.
 */
import { open, readFile, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { FleetError } from '@kwfleet/core';
import { syncDirectory } from '../journal/file-storage.ts';
import { asideOf, exchange, find, isLaidAside, type Owned, undo } from './aside.ts';
import { placeOf } from './cold-copy.ts';
import { type Copied, copyTree, Meter, mebibytes, Progress } from './copy-tree.ts';
import { copyOf, type Manifest, readManifest, requireIdentity, totals } from './manifest.ts';
import { isPutBack, type Root, type Say, type Work } from './spec.ts';
import { resolveRoots, walkTree } from './tree.ts';

/** How far a restore came: written before the first rename, removed when it is undone or the rest is discarded. */
type State = {
  /** Roots that were not there before. */
  readonly absent: readonly string[];
  readonly roots: readonly (Root & { readonly top?: Owned })[];
};

type Restore = Work & { work: 'stage' | 'restore' };

/** Puts the backup beside the node's places, once; the places themselves are not touched. */
export async function stage(work: Restore, say: Say): Promise<void> {
  await staged(work, say);
}

/** Exchanges what is staged, and stages it first where it is not. The database must not run. */
export async function restore(work: Restore, say: Say): Promise<void> {
  for (const root of await staged(work, say)) {
    const [top] = root.entries;
    if (top === undefined) throw new FleetError('BACKUP_DAMAGED', `the manifest lists nothing of ${root.path}`);
    await exchange(await asideOf(root, work.run), top);
    say(`${root.path} is as it was in the backup; what was there is kept beside it`);
  }
}

/** The roots that are put back, with what lies beside each of them. */
async function staged(work: Restore, say: Say): Promise<Manifest['roots']> {
  const place = placeOf(work.directory, work.identity.node, work.identity.set);
  const { manifest, sha256 } = await readManifest(place);
  requireIdentity(manifest, sha256, work.manifestSha256, work.identity);
  const wanted = rootsPutBack(manifest);
  if ((await readState(work.stateFile)) === undefined) {
    await requireSamePlaces(manifest, work.roots);
    await copyBeside(place, wanted, work, say);
    const roots = await Promise.all(wanted.map(async ({ name, path }) => ({ name, path, ...(await topOf(path)) })));
    const absent = roots.filter(({ top }) => top === undefined).map(({ name }) => name);
    await writeState(work.stateFile, { absent, roots });
  }
  return wanted;
}

/** Whose it is now, and who may use it: renames bring that back but for a mount point. Nothing when it is not there. */
async function topOf(path: string): Promise<{ top?: Owned }> {
  const found = await find(path);
  return found === null ? {} : { top: { uid: found.uid, gid: found.gid, mode: found.mode & 0o7777 } };
}

/** What goes back: a backup of an older agent may hold what an earlier restore had laid aside, which is no part of the node. */
export const rootsPutBack = ({ roots }: Manifest): Manifest['roots'] =>
  roots.filter(isPutBack).map((root) => ({ ...root, entries: root.entries.filter(({ path }) => !isLaidAside(path)) }));

/** Copies everything beside its place, on its own file system, each file compared with the manifest as it is read. */
async function copyBeside(place: string, roots: Manifest['roots'], work: Restore, say: Say): Promise<void> {
  const { sizeBytes } = totals({ roots });
  const meter = new Meter(say, 'put beside', sizeBytes);
  const progress = await Progress.open(`${work.stateFile}.progress`);
  try {
    for (const root of roots) {
      const { staged } = await asideOf(root, work.run);
      const from = copyOf(place, root.name);
      await copyTree({ from, to: staged, entries: await toCopy(from, root), progress, meter });
    }
  } catch (error) {
    await unstage(roots, work);
    throw error;
  }
  await rm(`${work.stateFile}.progress`, { force: true });
  say(`put beside and read again: ${mebibytes(sizeBytes)} MiB`);
}

/** What cannot be staged whole leaves nothing behind: a full disk is emptied again. */
async function unstage(roots: readonly Root[], { run, stateFile }: Restore): Promise<void> {
  for (const root of roots) await rm((await asideOf(root, run)).staged, { recursive: true, force: true });
  await rm(`${stateFile}.progress`, { force: true });
}

async function toCopy(from: string, root: Manifest['roots'][number]): Promise<Copied[]> {
  const found = new Map((await walkTree({ name: 'backup', path: from })).map((entry) => [entry.path, entry]));
  return root.entries.map((entry): Copied => {
    const there = found.get(entry.path);
    if (there?.type === entry.type) return { ...entry, stamp: there.stamp };
    throw new FleetError('BACKUP_DAMAGED', `${join(from, entry.path)} is missing`);
  });
}

/**
 * A backup goes back to where it came from: configuration names the places of data. Throws RESTORE_FAILED when a place is
 * another now, BACKUP_UNSUPPORTED when the node does not tell where its data lie.
 */
export async function requireSamePlaces(manifest: Manifest, roots: readonly Root[]): Promise<void> {
  if (!roots.some(({ name }) => name === 'data')) {
    throw new FleetError('BACKUP_UNSUPPORTED', 'this node does not tell where its data lie');
  }
  const present = new Map((await resolveRoots(roots)).map(({ name, path }) => [name, path]));
  for (const { name, path } of manifest.roots.filter(isPutBack)) {
    const now = present.get(name);
    if (now === undefined || now === path) continue;
    throw new FleetError('RESTORE_FAILED', `the backup's ${name} lay in ${path}; this node has it in ${now}`);
  }
}

/** Puts what was there before back in its place. Nothing when no restore of this run got so far. */
export async function putBack({ run, roots, stateFile }: Work & { work: 'put-back' }, say: Say): Promise<void> {
  const state = await readState(stateFile);
  const places: State['roots'] = state?.roots ?? (await resolveRoots(roots)).filter(isPutBack);
  for (const root of places) {
    await undo(await asideOf(root, run), state?.absent.includes(root.name) === true, root.top);
    say(`${root.path} is as it was before the restore`);
  }
  await forget(stateFile);
}

/** Removes what a restore moved aside. */
export async function discard({ run, roots, stateFile }: Work & { work: 'discard' }, say: Say): Promise<void> {
  const state = await readState(stateFile);
  for (const root of state?.roots ?? (await resolveRoots(roots)).filter(isPutBack)) {
    const { replaced } = await asideOf(root, run);
    await rm(replaced, { recursive: true, force: true });
    say(`removed what was in ${root.path} before the restore`);
  }
  await forget(stateFile);
}

async function readState(file: string): Promise<State | undefined> {
  try {
    return JSON.parse(await readFile(file, 'utf8')) as State;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

async function writeState(file: string, state: State): Promise<void> {
  const handle = await open(`${file}.new`, 'w', 0o600);
  try {
    await handle.writeFile(JSON.stringify(state));
    await handle.sync();
  } finally {
    await handle.close();
  }
  await rename(`${file}.new`, file);
  await syncDirectory(dirname(file));
}

async function forget(stateFile: string): Promise<void> {
  await rm(`${stateFile}.progress`, { force: true });
  await rm(stateFile, { force: true });
  await syncDirectory(dirname(stateFile));
}
