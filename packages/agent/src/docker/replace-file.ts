/** Files of operators: exchanged whole, with the owner and mode that they had, and kept beside. */
import { chmod, chown, copyFile, open, realpath, rename, rm, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { FleetError } from '@kwfleet/core';
import { syncDirectory } from '../journal/file-storage.ts';

/**
 * Writes `text` in the place of `path`, which must be there: whoever reads it sees the old or the new. A link is
 * followed. Throws PRIVILEGES_MISSING or DISK_FULL.
 */
export async function replaceFile(path: string, text: string): Promise<void> {
  const target = await realpath(path);
  await appear(target, target, async (fresh) => {
    const handle = await open(fresh, 'w', 0o600);
    try {
      await handle.writeFile(text);
      await handle.sync();
    } finally {
      await handle.close();
    }
  });
}

/** A copy of `path` as `copy`, unless there is one. */
export async function keepFile(path: string, copy: string): Promise<void> {
  if ((await stat(copy).catch(() => null)) !== null) return;
  const source = await realpath(path);
  await appear(source, copy, async (fresh) => {
    await copyFile(source, fresh);
    const handle = await open(fresh, 'r');
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  });
}

/**
 * Tries beside `path`, and beside what it leads to, all that `keepFile` to `copy` and `replaceFile` will do, and leaves
 * nothing there. Throws as they do.
 */
export async function tryExchange(path: string, copy: string): Promise<void> {
  for (const tried of [`${copy}-tried`, `${await realpath(path)}.kwfleet-tried`]) {
    await rm(tried, { force: true });
    try {
      await keepFile(path, tried);
    } finally {
      await rm(tried, { force: true });
    }
  }
}

/** Makes a file under another name, gives it the rights of `like`, and moves it to `target`. */
async function appear(like: string, target: string, make: (fresh: string) => Promise<void>): Promise<void> {
  const fresh = `${target}.kwfleet-new`;
  try {
    const { mode, uid, gid } = await stat(like);
    await rm(fresh, { force: true });
    await make(fresh);
    await chmod(fresh, mode & 0o7777);
    await giveOwner(fresh, { uid, gid }, target);
    await rename(fresh, target);
    await syncDirectory(dirname(target));
  } catch (error) {
    await rm(fresh, { force: true }).catch(() => {});
    throw writeFailure(error, target);
  }
}

/** Only root gives a file away: where nothing has to change, nobody is asked. */
async function giveOwner(
  fresh: string,
  { uid, gid }: { readonly uid: number; readonly gid: number },
  target: string,
): Promise<void> {
  const own = await stat(fresh);
  if (own.uid === uid && own.gid === gid) return;
  try {
    await chown(fresh, uid, gid);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EPERM') throw error;
    const message = `the agent could not give ${target} the owner ${uid}:${gid} of the file it is made of: it must be that user, or root`;
    throw new FleetError('PRIVILEGES_MISSING', message, { cause: error });
  }
}

/** Why a file of an operator could not be written. */
export function writeFailure(error: unknown, path: string): unknown {
  const { code } = error as NodeJS.ErrnoException;
  if (code === 'EACCES' || code === 'EPERM' || code === 'EROFS') {
    return new FleetError('PRIVILEGES_MISSING', `the agent may not write ${path}`, { cause: error });
  }
  if (code === 'ENOSPC') return new FleetError('DISK_FULL', `no space left for ${path}`, { cause: error });
  return error;
}
