/**
 * Exchanges what lies at a path for something else by renames, so that nothing is ever removed before its successor is in
 * place, and so that a power cut between any two renames leaves a state from which the exchange goes on, or back.
 */
import { chmod, chown, lstat, mkdir, readdir, rename, rm, rmdir } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { FleetError } from '@kwfleet/core';
import { syncDirectory } from '../journal/file-storage.ts';
import { mountPoints } from './mounts.ts';
import type { Entry } from './tree.ts';

export type Aside = {
  /** `whole`: the path itself is renamed. `contents`: it is a mount point, so what lies in it is. */
  readonly how: 'whole' | 'contents';
  readonly path: string;
  /** Where the others lie: on the same file system as the path. */
  readonly directory: string;
  /** What comes in its place, copied there whole first. */
  readonly staged: string;
  /** What was there. */
  readonly replaced: string;
  readonly placing: string;
  readonly undoing: string;
  readonly undone: string;
};

const OURS = /^\.kwfleet-(staged|replaced|placing|undoing|undone)-/;

/** Whether a path within a root is of what restores laid there, because the root is, or was, a mount point: no part of the node. */
export const isLaidAside = (path: string): boolean => OURS.test(path);

/** Throws BACKUP_UNSUPPORTED for a file that is a mount point: nothing can take its place. */
export async function asideOf({ path }: { readonly path: string }, run: string): Promise<Aside> {
  const here = await find(path);
  const parent = await lstat(dirname(path));
  // What is not there any more was renamed away: a mount point cannot be.
  const mounted = here !== null && (here.dev !== parent.dev || (await mountPoints()).has(path));
  const contents = mounted && here.isDirectory();
  if (mounted && here.isFile()) {
    throw new FleetError('BACKUP_UNSUPPORTED', `${path} is a file that is mounted there: it cannot be exchanged`);
  }
  const directory = contents ? path : dirname(path);
  const at = (state: string) =>
    join(directory, contents ? `.kwfleet-${state}-${run}` : `${basename(path)}.kwfleet-${state}-${run}`);
  return {
    how: contents ? 'contents' : 'whole',
    path,
    directory,
    staged: at('staged'),
    replaced: at('replaced'),
    placing: at('placing'),
    undoing: at('undoing'),
    undone: at('undone'),
  };
}

function absent(error: NodeJS.ErrnoException): null {
  if (error.code === 'ENOENT' || error.code === 'ENOTDIR') return null;
  throw error;
}

export const find = (path: string) => lstat(path).catch(absent);
export const exists = async (path: string): Promise<boolean> => (await find(path)) !== null;

/** Whose something is, and who may use it. */
export type Owned = Pick<Entry, 'uid' | 'gid' | 'mode'>;

async function own(path: string, { uid, gid, mode }: Owned): Promise<void> {
  if (process.getuid?.() === 0) await chown(path, uid, gid);
  await chmod(path, mode);
}

/** What is staged comes in place, what was there moves aside. Safe to repeat; nothing when it is done. */
export async function exchange(aside: Aside, like: Owned): Promise<void> {
  if (aside.how === 'contents') return exchangeContents(aside, like);
  if (!(await exists(aside.staged))) return;
  if (await exists(aside.path)) {
    if (await exists(aside.replaced)) {
      throw new FleetError('RESTORE_FAILED', `${aside.path} came back while it was being replaced: see what made it`);
    }
    await rename(aside.path, aside.replaced);
    await syncDirectory(aside.directory);
  }
  await rename(aside.staged, aside.path);
  await syncDirectory(aside.directory);
}

async function exchangeContents({ path, staged, replaced, placing }: Aside, like: Owned): Promise<void> {
  if (await exists(staged)) {
    await mkdir(replaced, { recursive: true, mode: 0o700 });
    await moveAll(path, replaced);
    await syncDirectory(path);
    // From here on what lies in the path is the new: one rename says so.
    await rename(staged, placing);
    await syncDirectory(path);
  }
  if (!(await exists(placing))) return;
  await moveAll(placing, path);
  await own(path, like);
  // Nothing is left in it, or copies of what an earlier restore had laid aside when the backup was made.
  await rm(placing, { recursive: true, force: true });
  await syncDirectory(path);
}

/** What was there before comes back; what had taken its place goes. Safe to repeat, at whatever point it was left. */
export async function undo(aside: Aside, wasAbsent: boolean, top?: Owned): Promise<void> {
  const { path, directory, staged, replaced, placing, undoing, undone } = aside;
  if (aside.how === 'contents') {
    if ((await exists(replaced)) && !(await exists(undone)) && !(await exists(staged))) {
      await mkdir(undoing, { recursive: true, mode: 0o700 });
      await moveAll(path, undoing);
      await rename(undoing, undone);
      await syncDirectory(directory);
    }
    if (await exists(replaced)) {
      await moveAll(replaced, path);
      if (top !== undefined) await own(path, top);
      await rmdir(replaced);
    }
  } else if (await exists(replaced)) {
    if (await exists(path)) await rename(path, undone);
    await rename(replaced, path);
  } else if (wasAbsent && !(await exists(staged)) && (await exists(path))) {
    await rename(path, undone);
  }
  await syncDirectory(directory);
  // Only copies of what lies in the backup.
  for (const rest of [undone, placing, staged]) await rm(rest, { recursive: true, force: true });
}

async function moveAll(from: string, to: string): Promise<void> {
  for (const name of await readdir(from)) {
    if (!isLaidAside(name)) await rename(join(from, name), join(to, name));
  }
}
