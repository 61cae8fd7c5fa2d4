/** Reads what a .rpm says of itself, from its header. Format: lead (96 bytes), signature header, main header. */
import { type Needs, newest } from './deb.ts';

const LEAD_BYTES = 96;
const LEAD_MAGIC = 0xedabeedb;
const HEADER_MAGIC = 0x8eade801;
const ENTRY_BYTES = 16;
const ENTRIES_MAX = 10_000;
const TAG_ARCH = 1022;
const TAG_REQUIRENAME = 1049;
const NAMES_MAX = 2_000;

/**
 * From the first bytes of a .rpm: RPM's name of the architecture (`x86_64`), and the newest glibc symbols that it requires
 * (`libc.so.6(GLIBC_2.34)(64bit)`). What they do not tell is absent.
 */
export function rpmNeeds(head: Buffer): Needs {
  if (head.length < LEAD_BYTES || head.readUInt32BE(0) !== LEAD_MAGIC) return {};
  const signature = headerAt(head, LEAD_BYTES);
  if (signature === undefined) return {};
  // The main header begins at the next multiple of eight.
  const main = headerAt(head, Math.ceil(signature.end / 8) * 8);
  if (main === undefined) return {};
  const [architecture] = stringTag(head, main, TAG_ARCH);
  const glibc = newest(stringTag(head, main, TAG_REQUIRENAME).flatMap((name) => GLIBC.exec(name)?.[1] ?? []));
  return { ...(architecture === undefined ? {} : { architecture }), ...(glibc === undefined ? {} : { glibc }) };
}

const GLIBC = /\(GLIBC_(\d{1,3}(?:\.\d{1,3}){1,2})\)/;

type Header = { readonly entries: number; readonly count: number; readonly data: number; readonly end: number };

function headerAt(head: Buffer, at: number): Header | undefined {
  if (at + ENTRY_BYTES > head.length || head.readUInt32BE(at) !== HEADER_MAGIC) return undefined;
  const count = head.readUInt32BE(at + 8);
  const size = head.readUInt32BE(at + 12);
  if (count > ENTRIES_MAX) return undefined;
  const entries = at + ENTRY_BYTES;
  const data = entries + count * ENTRY_BYTES;
  return { entries, count, data, end: data + size };
}

/** The strings of a tag, as many as its entry counts; none when it is not there, or damaged. */
function stringTag(head: Buffer, { entries, count, data, end }: Header, wanted: number): string[] {
  for (let at = entries; at < entries + count * ENTRY_BYTES && at + ENTRY_BYTES <= head.length; at += ENTRY_BYTES) {
    if (head.readUInt32BE(at) !== wanted) continue;
    const strings: string[] = [];
    let start = data + head.readUInt32BE(at + 8);
    for (let left = Math.min(head.readUInt32BE(at + 12), NAMES_MAX); left > 0; left--) {
      const stop = head.indexOf(0, start);
      if (stop <= start || stop >= Math.min(end, head.length)) break;
      strings.push(head.subarray(start, stop).toString('latin1'));
      start = stop + 1;
    }
    return strings;
  }
  return [];
}
