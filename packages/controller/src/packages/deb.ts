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
