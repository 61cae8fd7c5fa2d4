/**
 * The directories below `<data root>/extern` that belong to transfers: KWDB's own word for them is `nodelocal`. The
 * database's user can write there and the agent is root: see open-below.ts.
 */
import { constants } from 'node:fs';
import { type FileHandle, lchown, lstat, mkdir, open, readdir, rename, rm, rmdir, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { FleetError, type TransferFile } from '@kwfleet/core';
import { freeBytes } from '../host/host-facts.ts';
import { runShort, wordsOf } from '../host/run.ts';
import { bytesOf, filesBelow, hash, inside, openDirectory, withFile } from './open-below.ts';

/** Every directory of a transfer begins so; nothing else below `extern` is ever touched. */
const PREFIX = 'kwfleet-';
const DIRECTORY = /^kwfleet-[a-z0-9][a-z0-9.-]{0,100}$/;
/** While the agent fills it. */
const PART = '.part';
const FILES_LIMIT = 50_000;
const SPARE_BYTES = 256 * 1024 ** 2;
const REMOVE_TIMEOUT_MS = 10 * 60_000;

const { O_RDONLY, O_DIRECTORY } = constants;

export class Extern {
  readonly #dataDir: string;
  readonly #directory: string;

  /** `dataDir`: the data root as this host sees it. */
  constructor(dataDir: string) {
    this.#dataDir = dataDir;
    this.#directory = join(dataDir, 'extern');
  }

  /** The path of a transfer's directory. Throws ACTION_INVALID for a name that no transfer has. */
  path(name: string): string {
    if (!DIRECTORY.test(name) || name.includes('..')) {
      throw new FleetError('ACTION_INVALID', `"${name}" is no directory of a transfer`);
    }
    return join(this.#directory, name);
  }

  async has(name: string): Promise<boolean> {
    return lstat(this.path(name)).then(
      (found) => found.isDirectory(),
      () => false,
    );
  }

  /** Every file below the directory, with its size and SHA-256; the paths are relative. */
  async files(name: string, moved: (sign: string) => void): Promise<TransferFile[]> {
    return this.#opened(name, async (directory) => {
      const found = await filesBelow(directory);
      if (found.length > FILES_LIMIT) throw new FleetError('TRANSFER_TOO_LARGE', `${name} has ${found.length} files`);
      const files: TransferFile[] = [];
      for (const parts of found) {
        const path = parts.join('/');
        await withFile(directory, parts, async (file) => {
          const { size } = await file.stat();
          files.push({ path, sizeBytes: size, sha256: await hash(file, path, moved) });
        });
      }
      return files;
    });
  }

  /** Opens a file of an export; closed when `work` has ended. Throws ACTION_INVALID for one that would lead out of it. */
  async withFile<T>(name: string, path: string, work: (file: FileHandle) => Promise<T>): Promise<T> {
    const parts = partsOf(path);
    return this.#opened(name, (directory) => withFile(directory, parts, work));
  }

  /**
   * Fills a directory for an import. `work` gets the path at which each file is to be written, in a directory that only
   * this agent can look into, and that an earlier process of it may have half filled. After that all of it belongs to
   * whoever owns the data, so that the database can read it and write what it rejects beside it, and has its name.
   */
  async fill(
    name: string,
    files: readonly TransferFile[],
    work: (path: (file: TransferFile) => string) => Promise<void>,
  ): Promise<void> {
    const owner = await this.#owner();
    await this.#make(owner);
    await this.remove(name);
    const part = `${name}${PART}`;
    await this.#inExtern(async (extern) => {
      const directory = await this.#openPart(extern, part);
      try {
        const path = (file: TransferFile) => join(inside(directory), ...partsOf(file.path));
        for (const file of files) await mkdir(dirname(path(file)), { recursive: true, mode: 0o700 });
        await work(path);
        await giveAway(directory, owner);
        await rename(join(inside(extern), part), join(inside(extern), name));
      } finally {
        await directory.close();
      }
    });
  }

  async remove(name: string): Promise<void> {
    this.path(name);
    if (!(await this.#isThere())) return;
    await this.#inExtern(async (extern) => {
      const path = join(inside(extern), name);
      const directory = await ownDirectory(path);
      if (directory === undefined) return this.#removeAsOwner(name);
      try {
        for (const entry of await readdir(inside(directory)))
          await rm(join(inside(directory), entry), { recursive: true });
      } finally {
        await directory.close();
      }
      await rmdir(path);
    });
  }

  /** Removes what earlier attempts left: the directories that begin so, but the one that is in use, or is being filled. */
  async removeOthers(prefix: string, kept: string): Promise<void> {
    if (!prefix.startsWith(PREFIX)) throw new FleetError('ACTION_INVALID', `"${prefix}" is no prefix of a transfer`);
    for (const name of await readdir(this.#directory).catch(() => [])) {
      if (name.startsWith(prefix) && name !== kept && name !== `${kept}${PART}`) await this.remove(name);
    }
  }

  /** Keeps the files with rejected rows in `target`; returns their paths. Source of the name: KWDB facts. */
  async keepRejects(name: string, target: string): Promise<string[]> {
    return this.#opened(name, async (directory) => {
      const kept: string[] = [];
      for (const parts of (await filesBelow(directory)).filter((found) => found.at(-1)?.startsWith('reject'))) {
        await mkdir(target, { recursive: true, mode: 0o700 });
        const path = join(target, parts.join('.'));
        await withFile(directory, parts, (file) => copy(file, path));
        kept.push(path);
      }
      return kept;
    });
  }

  /** Throws DISK_FULL when so many bytes more would leave too little. */
  async needRoom(bytes: number, what: string): Promise<void> {
    const free = await freeBytes(this.#directory);
    if (free >= bytes + SPARE_BYTES) return;
    const mebibytes = (count: number) => `${Math.ceil(count / 1024 ** 2)} MiB`;
    throw new FleetError(
      'DISK_FULL',
      `${this.#directory} has ${mebibytes(free)} free; ${what} needs about ${mebibytes(bytes + SPARE_BYTES)}`,
    );
  }

  #isThere(): Promise<boolean> {
    return stat(this.#directory).then(
      () => true,
      () => false,
    );
  }

  /** Whose the data are. */
  async #owner(): Promise<Owner> {
    const { uid, gid } = await stat(this.#dataDir);
    return { uid, gid };
  }

  /** As its owner, as the database itself would. */
  async #make(owner: Owner): Promise<void> {
    if (!(await this.#isThere())) await runAs(owner, ['mkdir', '--', this.#directory]);
  }

  async #removeAsOwner(name: string): Promise<void> {
    await runAs(await this.#owner(), ['rm', '-rf', '--', this.path(name)]);
  }

  /** `extern` may be a link to another disk, but never to what is not the database's. */
  async #inExtern<T>(work: (extern: FileHandle) => Promise<T>): Promise<T> {
    const extern = await open(this.#directory, O_RDONLY | O_DIRECTORY);
    try {
      const [found, owner] = [await extern.stat(), await this.#owner()];
      if (found.uid === owner.uid) return await work(extern);
    } finally {
      await extern.close();
    }
    throw new FleetError('PRIVILEGES_MISSING', `${this.#directory} does not belong to the user who owns the data`);
  }

  async #opened<T>(name: string, work: (directory: FileHandle) => Promise<T>): Promise<T> {
    this.path(name);
    return this.#inExtern(async (extern) => {
      const directory = await openDirectory(join(inside(extern), name));
      try {
        return await work(directory);
      } finally {
        await directory.close();
      }
    });
  }

  /** Finds the one that an earlier process began to fill, or makes it. Anything else of that name goes. */
  async #openPart(extern: FileHandle, part: string): Promise<FileHandle> {
    const path = join(inside(extern), part);
    const found = await ownDirectory(path);
    if (found !== undefined) return found;
    await this.#removeAsOwner(part);
    await mkdir(path, { mode: 0o700 });
    const made = await ownDirectory(path);
    if (made === undefined) throw new FleetError('PRIVILEGES_MISSING', `${part} was exchanged while it was made`);
    return made;
  }
}

type Owner = { readonly uid: number; readonly gid: number };

/** Throws ACTION_INVALID for the path of a file that would lead out of its directory. */
export function partsOf(path: string): string[] {
  const parts = path.split('/');
  const isInside = parts.every((part) => part !== '' && part !== '.' && part !== '..' && !part.includes('\0'));
  if (isInside && path.length <= 1024) return parts;
  throw new FleetError('ACTION_INVALID', `"${path.slice(0, 80)}" is no file of an export`);
}

/** A directory that nobody but this agent can have written into; undefined for anything else, and for nothing. */
async function ownDirectory(path: string): Promise<FileHandle | undefined> {
  let directory: FileHandle;
  try {
    directory = await openDirectory(path);
  } catch (error) {
    if (['ENOENT', 'ELOOP', 'ENOTDIR', 'EACCES'].includes((error as NodeJS.ErrnoException).code ?? ''))
      return undefined;
    throw error;
  }
  const { uid, mode } = await directory.stat();
  if (uid === process.getuid?.() && (mode & 0o077) === 0) return directory;
  await directory.close();
  return undefined;
}

/** What the agent itself wrote into a directory of its own; the directory last: until then nobody can reach what is in it. */
async function giveAway(directory: FileHandle, { uid, gid }: Owner): Promise<void> {
  if (process.getuid?.() !== 0) return;
  const entries = await readdir(inside(directory), { withFileTypes: true, recursive: true });
  for (const entry of entries) await lchown(join(entry.parentPath, entry.name), uid, gid);
  await directory.chown(uid, gid);
}

/** A program that changes what is the data's owner's, with no more power than that user has. */
async function runAs(user: Owner, [file, ...args]: readonly [string, ...string[]]): Promise<void> {
  const as = process.getuid?.() === 0 ? { user } : {};
  const ended = await runShort(file, args, { timeoutMs: REMOVE_TIMEOUT_MS, cwd: '/', ...as });
  if (ended.exitCode !== 0) throw new Error(`${file} ${args.at(-1)}: ${wordsOf(ended)}`);
}

async function copy(file: FileHandle, path: string): Promise<void> {
  const target = await open(path, 'w', 0o600);
  try {
    for await (const chunk of bytesOf(file)) await target.appendFile(chunk);
  } finally {
    await target.close();
  }
}
