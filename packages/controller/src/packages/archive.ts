/** Archives as they come from others: read entry by entry, nothing written, nothing believed. */
import { once } from 'node:events';
import { createReadStream } from 'node:fs';
import { open } from 'node:fs/promises';
import { posix } from 'node:path';
import { createGunzip } from 'node:zlib';
import { FleetError } from '@kwfleet/core';
import { Parser, type ReadEntry } from 'tar';

/** Files and directories. */
export const PLAIN: ReadonlySet<string> = new Set(['File', 'OldFile', 'ContiguousFile', 'Directory']);
const LINKS: ReadonlySet<string> = new Set(['SymbolicLink', 'Link']);
const GZIP_MAGIC = 0x1f8b;

/** Reads a .tar or .tar.gz from its beginning to its end. Throws PACKAGE_UNREADABLE, or what `onEntry` throws. */
export async function readArchive(file: string, onEntry: (entry: ReadEntry) => void): Promise<void> {
  let problem: unknown;
  const parser = new Parser({
    strict: true,
    onReadEntry(entry) {
      try {
        if (problem === undefined) onEntry(entry);
      } catch (error) {
        problem = error;
      }
      entry.resume();
    },
  });
  const failed = (error: unknown) => {
    problem ??= error;
  };
  parser.on('error', failed);
  const ended = new Promise<void>((resolve) => {
    parser.once('end', resolve);
    parser.once('error', () => resolve());
  });
  try {
    const bytes = createReadStream(file).on('error', failed);
    for await (const chunk of (await isGzip(file)) ? bytes.pipe(createGunzip()) : bytes) {
      if (problem !== undefined) break;
      if (!parser.write(chunk) && problem === undefined) await Promise.race([once(parser, 'drain'), ended]);
    }
    bytes.destroy();
    if (problem === undefined) {
      parser.end();
      await ended;
    }
  } catch (error) {
    failed(error);
  }
  if (problem === undefined) return;
  if (problem instanceof FleetError) throw problem;
  const reason = problem instanceof Error ? problem.message : String(problem);
  throw new FleetError('PACKAGE_UNREADABLE', `the file is not a whole .tar or .tar.gz: ${reason}`, { cause: problem });
}

async function isGzip(file: string): Promise<boolean> {
  const handle = await open(file);
  try {
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(2), 0, 2, 0);
    return bytesRead === 2 && buffer.readUInt16BE(0) === GZIP_MAGIC;
  } finally {
    await handle.close();
  }
}

/**
 * The entry's path, which lies under the folder `top`, as do the targets of links; in the archive as a whole, where there
 * is no such folder. Throws PACKAGE_UNSAFE.
 */
export function safePath(entry: ReadEntry, top: string | undefined): string {
  const path = inside(entry.path, '.', 'path', top);
  if (LINKS.has(entry.type)) {
    // A symbolic link is read from where it lies, a hard link from the top of the archive.
    const from = entry.type === 'SymbolicLink' ? posix.dirname(path) : '.';
    inside(entry.linkpath ?? '', from, `link ${path} →`, top);
  } else if (!PLAIN.has(entry.type)) {
    throw new FleetError('PACKAGE_UNSAFE', `${path} is neither a file, a directory nor a link (${entry.type})`);
  }
  return path;
}

function inside(path: string, from: string, what: string, top: string | undefined): string {
  const normal = posix.normalize(posix.join(from, path)).replace(/\/$/, '');
  const climbs = from === '.' && path.split('/').includes('..');
  const odd = path === '' || path.startsWith('/') || path.includes('\\') || path.includes('\0');
  const stays =
    top === undefined ? normal !== '..' && !normal.startsWith('../') : normal === top || normal.startsWith(`${top}/`);
  if (odd || climbs || !stays) {
    const where = top === undefined ? 'the archive' : `${top}/`;
    throw new FleetError('PACKAGE_UNSAFE', `${what} ${JSON.stringify(path).slice(0, 200)} does not stay in ${where}`);
  }
  return normal;
}
