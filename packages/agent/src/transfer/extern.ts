/** The directories below `<data root>/extern` that belong to transfers: KWDB's own word for them is `nodelocal`. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { chown, cp, lstat, mkdir, readdir, rm, stat } from 'node:fs/promises';
import { dirname, join, relative, sep } from 'node:path';
import { FleetError, type TransferFile } from '@kwfleet/core';
import { freeBytes } from '../host/host-facts.ts';

/** Every directory of a transfer begins so; nothing else below `extern` is ever touched. */
export const PREFIX = 'kwfleet-';
const DIRECTORY = /^kwfleet-[a-z0-9][a-z0-9.-]{0,100}$/;
const FILES_LIMIT = 50_000;
const SPARE_BYTES = 256 * 1024 ** 2;

export class Extern {
  readonly #directory: string;

  /** `dataDir`: the data root as this host sees it. */
  constructor(dataDir: string) {
    this.#directory = join(dataDir, 'extern');
  }

  /** The path of a transfer's directory. Throws ACTION_INVALID for a name that no transfer has. */
  path(name: string): string {
    if (!DIRECTORY.test(name) || name.includes('..')) {
      throw new FleetError('ACTION_INVALID', `"${name}" is no directory of a transfer`);
    }
    return join(this.#directory, name);
  }

  /** The path of a file in it. Throws ACTION_INVALID for one that would lead out of it. */
  fileIn(name: string, path: string): string {
    const parts = path.split('/');
    const isInside = parts.every((part) => part !== '' && part !== '.' && part !== '..' && !part.includes('\0'));
    if (!isInside || path.length > 1024) {
      throw new FleetError('ACTION_INVALID', `"${path.slice(0, 80)}" is no file of an export`);
    }
    return join(this.path(name), ...parts);
  }

  async has(name: string): Promise<boolean> {
    return stat(this.path(name)).then(
      () => true,
      () => false,
    );
  }

  /** Every file below the directory but what KWDB rejected, with its size and SHA-256; the paths are relative. */
  async files(name: string, moved: (sign: string) => void): Promise<TransferFile[]> {
    const root = this.path(name);
    const paths = await filesBelow(root);
    if (paths.length > FILES_LIMIT) throw new FleetError('TRANSFER_TOO_LARGE', `${name} has ${paths.length} files`);
    const files: TransferFile[] = [];
    for (const path of paths) {
      const { size } = await stat(path);
      files.push({ path: relative(root, path).split(sep).join('/'), sizeBytes: size, sha256: await hash(path, moved) });
    }
    return files;
  }

  /** Makes a directory for an import, and the folders of its files, for KWDB's own user. */
  async make(name: string, files: readonly TransferFile[]): Promise<void> {
    for (const { path } of files) await mkdir(dirname(this.fileIn(name, path)), { recursive: true });
    await mkdir(this.path(name), { recursive: true });
    await this.#giveAway(this.path(name));
  }

  /** All of it belongs to whoever owns the data, so that the database can read it and write what it rejects beside it. */
  async #giveAway(path: string): Promise<void> {
    const { uid, gid } = await stat(join(this.#directory, '..'));
    if (process.getuid?.() !== 0) return;
    await chown(this.#directory, uid, gid);
    for (const entry of [path, ...(await entriesBelow(path))]) await chown(entry, uid, gid);
  }

  async owned(name: string): Promise<void> {
    await this.#giveAway(this.path(name));
  }

  async remove(name: string): Promise<void> {
    await rm(this.path(name), { recursive: true, force: true });
  }

  /** Removes what earlier attempts left: the directories that begin so, but the one that is in use. */
  async removeOthers(prefix: string, kept: string): Promise<void> {
    if (!prefix.startsWith(PREFIX)) throw new FleetError('ACTION_INVALID', `"${prefix}" is no prefix of a transfer`);
    for (const name of await readdir(this.#directory).catch(() => [])) {
      if (name.startsWith(prefix) && name !== kept) await this.remove(name);
    }
  }

  /** Keeps the files with rejected rows in `target`; returns their paths. Source of the name: KWDB facts. */
  async keepRejects(name: string, target: string): Promise<string[]> {
    const kept: string[] = [];
    for (const path of await filesBelow(this.path(name))) {
      if (!isReject(path)) continue;
      const file = join(target, relative(this.path(name), path).replaceAll(sep, '.'));
      await mkdir(target, { recursive: true, mode: 0o700 });
      await cp(path, file);
      kept.push(file);
    }
    return kept;
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
}

const isReject = (path: string): boolean => /(^|\/)reject[^/]*$/.test(path);

/** Regular files only: a link in an export would lead out of it. */
async function filesBelow(directory: string): Promise<string[]> {
  const found: string[] = [];
  for (const path of await entriesBelow(directory)) if ((await lstat(path)).isFile()) found.push(path);
  return found.sort();
}

async function entriesBelow(directory: string): Promise<string[]> {
  const entries = await readdir(directory, { withFileTypes: true, recursive: true }).catch((error) => {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  });
  return entries.map((entry) => join(entry.parentPath, entry.name));
}

export async function hash(file: string, moved: (sign: string) => void = () => {}): Promise<string> {
  const sum = createHash('sha256');
  let bytes = 0;
  for await (const chunk of createReadStream(file, { highWaterMark: 1024 ** 2 })) {
    sum.update(chunk as Buffer);
    bytes += (chunk as Buffer).length;
    moved(`${file} ${bytes}`);
  }
  return sum.digest('hex');
}
