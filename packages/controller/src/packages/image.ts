/** Reads from a saved container image (`docker save`) which architecture it is for, while the bytes go by. */
import { Parser } from 'tar';

/** An image's configuration is a few KiB of JSON; layers are what is large. */
const JSON_MAX_BYTES = 1024 * 1024;
const ENTRIES_MAX = 10_000;

export type ImageReader = { write(chunk: Buffer): void; architecture(): string | undefined };

export function imageReader(): ImageReader {
  let found: string | undefined;
  let entries = 0;
  let broken = false;
  const parser = new Parser({
    onReadEntry(entry) {
      entries += 1;
      if (found !== undefined || entries > ENTRIES_MAX || entry.size > JSON_MAX_BYTES) return void entry.resume();
      const chunks: Buffer[] = [];
      entry.on('data', (chunk) => chunks.push(Buffer.from(chunk)));
      entry.on('end', () => {
        found ??= architectureIn(Buffer.concat(chunks));
      });
    },
  });
  parser.on('error', () => {
    broken = true;
  });
  return {
    write(chunk) {
      if (!broken && found === undefined) parser.write(chunk as never);
    },
    architecture: () => found,
  };
}

function architectureIn(bytes: Buffer): string | undefined {
  if (bytes[0] !== 0x7b) return undefined;
  try {
    const value = JSON.parse(bytes.toString('utf8')) as { architecture?: unknown; rootfs?: unknown };
    return typeof value.architecture === 'string' && value.rootfs !== undefined ? value.architecture : undefined;
  } catch {
    return undefined;
  }
}
