/** Packages that the controller takes by itself: from a directory of its machine, or over HTTP. Both only where allowed. */
import { createReadStream } from 'node:fs';
import { realpath, stat } from 'node:fs/promises';
import { basename, isAbsolute, sep } from 'node:path';
import { FleetError } from '@kwfleet/core';

export type PackageSource =
  /** A file on the controller's machine. */
  | { readonly path: string; readonly sha256?: string | undefined }
  /** Fetched over HTTP or HTTPS, and only these very bytes. */
  | { readonly url: string; readonly sha256: string };

export type SourceStream = { readonly bytes: AsyncIterable<Buffer>; readonly fileName: string };

const ANSWER_MS = 30_000;
/** A server that sends nothing for so long has gone away. */
const QUIET_MS = 60_000;

/**
 * Opens a source that lies in one of the allowed places: absolute directories, and beginnings of addresses that end
 * with a slash. Throws SOURCE_REFUSED when it lies elsewhere, SOURCE_FAILED when it cannot be read.
 */
export async function openSource(source: PackageSource, allowed: readonly string[]): Promise<SourceStream> {
  return 'path' in source ? openPath(source.path, allowed) : openUrl(source.url, allowed);
}

async function openPath(path: string, allowed: readonly string[]): Promise<SourceStream> {
  if (!isAbsolute(path)) throw new FleetError('SOURCE_REFUSED', `${path} is no absolute path`);
  // Links are followed first: what they lead to is what must be allowed.
  const real = await realpath(path).catch((cause: unknown) => {
    throw new FleetError('SOURCE_FAILED', `${path} cannot be read on the controller`, { cause });
  });
  const folders = await Promise.all(
    allowed.filter(isAbsolute).map((folder) => realpath(folder).catch(() => undefined)),
  );
  if (!folders.some((folder) => folder !== undefined && real.startsWith(folder === sep ? sep : `${folder}${sep}`))) {
    throw new FleetError('SOURCE_REFUSED', `${path} lies in none of the directories of packages.sources`);
  }
  if (!(await stat(real)).isFile()) throw new FleetError('SOURCE_FAILED', `${path} is not a file`);
  return { bytes: createReadStream(real) as AsyncIterable<Buffer>, fileName: basename(path) };
}

async function openUrl(text: string, allowed: readonly string[]): Promise<SourceStream> {
  const url = URL.parse(text);
  if (url === null || !/^https?:$/.test(url.protocol) || url.username !== '' || url.password !== '') {
    throw new FleetError('SOURCE_REFUSED', `${text} is no address of http or https, or holds a password`);
  }
  // Compared as they were parsed: `..` and odd spellings are gone by then.
  const begins = allowed.flatMap((prefix) => URL.parse(prefix)?.href ?? []);
  if (!begins.some((prefix) => prefix.endsWith('/') && url.href.startsWith(prefix))) {
    throw new FleetError('SOURCE_REFUSED', `${url.href} begins with none of the addresses of packages.sources`);
  }
  const ended = new AbortController();
  const timer = setTimeout(() => ended.abort(), ANSWER_MS);
  try {
    const answer = await fetch(url, { redirect: 'error', signal: ended.signal });
    if (!answer.ok || answer.body === null) {
      throw new FleetError('SOURCE_FAILED', `${url.href} answers ${answer.status} ${answer.statusText}`);
    }
    return { bytes: chunksOf(answer.body, ended), fileName: basename(url.pathname) };
  } catch (cause) {
    if (cause instanceof FleetError) throw cause;
    throw failed(url.href, cause);
  } finally {
    clearTimeout(timer);
  }
}

async function* chunksOf(body: AsyncIterable<Uint8Array>, ended: AbortController): AsyncGenerator<Buffer> {
  let timer = setTimeout(() => ended.abort(), QUIET_MS);
  try {
    for await (const chunk of body) {
      clearTimeout(timer);
      yield Buffer.from(chunk);
      timer = setTimeout(() => ended.abort(), QUIET_MS);
    }
  } catch (cause) {
    throw failed('the address', cause);
  } finally {
    clearTimeout(timer);
    ended.abort();
  }
}

function failed(what: string, cause: unknown): FleetError {
  const reason =
    cause instanceof Error ? ((cause.cause as Error | undefined)?.message ?? cause.message) : String(cause);
  return new FleetError('SOURCE_FAILED', `${what} does not give the package: ${reason}`, { cause });
}
