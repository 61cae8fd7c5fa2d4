/**
 * Files in a directory that the database's user can write, opened by an agent that is root. That user may exchange any
 * name for a link at any moment: so nothing is followed, each directory is opened in the one above it, and what is read
 * is what was opened, never its name again.
 */
import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { type FileHandle, open, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { FleetError } from '@kwfleet/core';

const { O_RDONLY, O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK } = constants;
const CHUNK_BYTES = 1024 ** 2;
/** An export has two levels below its directory. */
const DEPTH_LIMIT = 16;

/** Names in it are those of the opened directory, whatever became of its own name. */
export const inside = ({ fd }: FileHandle): string => `/proc/self/fd/${fd}`;

/** Rejects with ELOOP or ENOTDIR where it is none. */
export const openDirectory = (path: string): Promise<FileHandle> => open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);

/** Opens a file by its path of parts, each of which is a name; closed when `work` has ended. */
export async function withFile<T>(
  directory: FileHandle,
  [name = '', ...more]: readonly string[],
  work: (file: FileHandle) => Promise<T>,
): Promise<T> {
  const path = join(inside(directory), name);
  // A pipe would be waited for, for ever.
  const opened = await (more.length > 0 ? openDirectory(path) : open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK));
  try {
    if (more.length > 0) return await withFile(opened, more, work);
    if (!(await opened.stat()).isFile()) throw new FleetError('ACTION_INVALID', `${name} is no file`);
    return await work(opened);
  } finally {
    await opened.close();
  }
}

/** The regular files below an opened directory, as paths of parts, in order. */
export async function filesBelow(directory: FileHandle, above: readonly string[] = []): Promise<string[][]> {
  if (above.length > DEPTH_LIMIT) throw new FleetError('TRANSFER_TOO_LARGE', 'its directories have no end');
  const entries = await readdir(inside(directory), { withFileTypes: true });
  const found: string[][] = [];
  for (const entry of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const parts = [...above, entry.name];
    if (entry.isFile()) found.push(parts);
    if (!entry.isDirectory()) continue;
    const next = await openDirectory(join(inside(directory), entry.name));
    try {
      found.push(...(await filesBelow(next, parts)));
    } finally {
      await next.close();
    }
  }
  return found;
}

/** The bytes of an opened file from `offset` on. */
export async function* bytesOf(file: FileHandle, offset = 0, chunkBytes = CHUNK_BYTES): AsyncGenerator<Buffer> {
  for (let at = offset; ; ) {
    const { bytesRead, buffer } = await file.read(Buffer.allocUnsafe(chunkBytes), 0, chunkBytes, at);
    if (bytesRead === 0) return;
    at += bytesRead;
    yield buffer.subarray(0, bytesRead);
  }
}

/** `name` is for the signs of life. */
export async function hash(file: FileHandle, name: string, moved: (sign: string) => void): Promise<string> {
  const sum = createHash('sha256');
  let bytes = 0;
  for await (const chunk of bytesOf(file)) {
    sum.update(chunk);
    bytes += chunk.length;
    moved(`${name} ${bytes}`);
  }
  return sum.digest('hex');
}
