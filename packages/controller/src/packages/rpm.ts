/** Reads what a .rpm says of itself, from its header. Format: lead (96 bytes), signature header, main header. */

const LEAD_BYTES = 96;
const LEAD_MAGIC = 0xedabeedb;
const HEADER_MAGIC = 0x8eade801;
const ENTRY_BYTES = 16;
const ENTRIES_MAX = 10_000;
const TAG_ARCH = 1022;

/** RPM's name of the architecture (`x86_64`), from the first bytes of the file; undefined when they do not tell. */
export function rpmArchitecture(head: Buffer): string | undefined {
  if (head.length < LEAD_BYTES || head.readUInt32BE(0) !== LEAD_MAGIC) return undefined;
  const signature = headerAt(head, LEAD_BYTES);
  if (signature === undefined) return undefined;
  // The main header begins at the next multiple of eight.
  const main = headerAt(head, Math.ceil(signature.end / 8) * 8);
  return main && stringTag(head, main, TAG_ARCH);
}

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

function stringTag(head: Buffer, { entries, count, data, end }: Header, wanted: number): string | undefined {
  for (let at = entries; at < entries + count * ENTRY_BYTES && at + ENTRY_BYTES <= head.length; at += ENTRY_BYTES) {
    if (head.readUInt32BE(at) !== wanted) continue;
    const start = data + head.readUInt32BE(at + 8);
    const stop = head.indexOf(0, start);
    return stop > start && stop < Math.min(end, head.length)
      ? head.subarray(start, stop).toString('latin1')
      : undefined;
  }
  return undefined;
}
