/** Reads what a .deb says of itself: an `ar` archive whose `control.tar.*` holds the file `control`. */
import { gunzipSync, zstdDecompressSync } from 'node:zlib';
import { execa } from 'execa';
import { Parser } from 'tar';

const MAGIC = '!<arch>\n';
const HEADER_BYTES = 60;
/** A control archive is a few KiB; one that unpacks to more is not one. */
const CONTROL_MAX_BYTES = 16 * 1024 * 1024;
const XZ_MS = 10_000;

/** The fields of the control file, from the first bytes of a .deb; undefined when they cannot be read from these. */
export async function debFields(head: Buffer): Promise<Map<string, string> | undefined> {
  const member = controlMember(head);
  if (member === undefined) return undefined;
  const tar = await decompress(member.name, member.data).catch(() => undefined);
  const control = tar && readControl(tar);
  return control === undefined ? undefined : parseFields(control);
}

/** What packages tell of what they need on a host; what they do not tell is absent. */
export type Needs = { readonly architecture?: string; readonly glibc?: string; readonly installedBytes?: number };

/** Of the server's .deb, which comes first, and the others that are installed with it. */
export async function debNeeds(heads: readonly Buffer[]): Promise<Needs> {
  const read = await Promise.all(heads.map(debFields));
  const architecture = read[0]?.get('architecture');
  const all = read.filter((fields) => fields !== undefined);
  const glibc = newest(
    all.flatMap((fields) => GLIBC.exec(`${fields.get('pre-depends') ?? ''},${fields.get('depends') ?? ''}`)?.[1] ?? []),
  );
  // In KiB. A sum that lacks a part would be too little: then none is told.
  const sizes = all.map((fields) => Number(fields.get('installed-size') ?? Number.NaN));
  const kibibytes = sizes.reduce((sum, size) => sum + size, 0);
  return {
    ...(architecture === undefined ? {} : { architecture }),
    ...(glibc === undefined ? {} : { glibc }),
    ...(all.length === heads.length && Number.isSafeInteger(kibibytes) && kibibytes > 0
      ? { installedBytes: kibibytes * 1024 }
      : {}),
  };
}

/** `libc6 (>= 2.31)`, with Debian's revision left out. */
const GLIBC = /(?:^|[,\s])libc6(?::\w+)?\s*\(>=\s*(\d{1,3}(?:\.\d{1,3}){1,2})/;

/** The highest of dotted numbers. */
export function newest(versions: readonly string[]): string | undefined {
  const numbers = (version: string) => version.split('.').map(Number);
  return versions.toSorted((a, b) => {
    const [left, right] = [numbers(a), numbers(b)];
    const at = [0, 1, 2].find((index) => (left[index] ?? 0) !== (right[index] ?? 0)) ?? 0;
    return (right[at] ?? 0) - (left[at] ?? 0);
  })[0];
}

function controlMember(head: Buffer): { name: string; data: Buffer } | undefined {
  if (head.subarray(0, MAGIC.length).toString('latin1') !== MAGIC) return undefined;
  for (let at = MAGIC.length; at + HEADER_BYTES <= head.length; ) {
    const name = head
      .subarray(at, at + 16)
      .toString('latin1')
      .trim()
      .replace(/\/$/, '');
    const size = Number(
      head
        .subarray(at + 48, at + 58)
        .toString('latin1')
        .trim(),
    );
    if (!Number.isSafeInteger(size) || size < 0) return undefined;
    const start = at + HEADER_BYTES;
    if (name.startsWith('control.tar')) {
      return start + size <= head.length ? { name, data: head.subarray(start, start + size) } : undefined;
    }
    // Members begin at even offsets.
    at = start + size + (size % 2);
  }
  return undefined;
}

async function decompress(name: string, data: Buffer): Promise<Buffer> {
  const limit = { maxOutputLength: CONTROL_MAX_BYTES };
  if (name.endsWith('.gz')) return gunzipSync(data, limit);
  if (name.endsWith('.zst')) return zstdDecompressSync(data, limit);
  // Node has no xz; where the host has none either, the caller goes by the file's name.
  if (name.endsWith('.xz')) {
    const { stdout } = await execa('xz', ['--decompress', '--stdout'], {
      input: data,
      encoding: 'buffer',
      timeout: XZ_MS,
      maxBuffer: CONTROL_MAX_BYTES,
    });
    return Buffer.from(stdout);
  }
  return data;
}

function readControl(tar: Buffer): string | undefined {
  const chunks: Buffer[] = [];
  const parser = new Parser({
    onReadEntry(entry) {
      if (entry.path.replace(/^\.\//, '') === 'control') entry.on('data', (chunk) => chunks.push(Buffer.from(chunk)));
      else entry.resume();
    },
  });
  parser.end(tar as never);
  return chunks.length === 0 ? undefined : Buffer.concat(chunks).toString('utf8');
}

function parseFields(control: string): Map<string, string> {
  return new Map(
    [...control.matchAll(/^([A-Za-z][A-Za-z0-9-]*):[ \t]*(.*)$/gm)].map(([, name = '', value = '']) => [
      name.toLowerCase(),
      value.trim(),
    ]),
  );
}
