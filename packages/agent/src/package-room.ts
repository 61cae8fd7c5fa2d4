/** How much room packages take on this host: those used last stay, within a limit; those in use stay in any case. */
import { lstat, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { FleetError, type PackageInfo } from '@kwfleet/core';

type Kept = { readonly sha256: string; readonly bytes: number; readonly usedMs: number };

/** An order's package and that of the version before: both may be needed until the next order names others. */
const HELD_PACKAGES = 2;
const HELD = 'held.json';

export class PackageRoom {
  readonly #directory: string;
  readonly #limitBytes: number;

  constructor(directory: string, limitBytes: number) {
    this.#directory = directory;
    this.#limitBytes = limitBytes;
  }

  /** An order needs the package: it is not removed before orders need others, also by the next agent process. */
  async hold(sha256: string): Promise<void> {
    const held = await this.#held();
    if (held[0] === sha256) return;
    const next = [sha256, ...held.filter((other) => other !== sha256)].slice(0, HELD_PACKAGES);
    const file = join(this.#directory, HELD);
    await writeFile(`${file}.new`, JSON.stringify(next), { mode: 0o600, flush: true });
    await rename(`${file}.new`, file);
  }

  /**
   * Removes those used longest ago until `wanted`, which is in hand, fits within the limit too. Throws CACHE_FULL when it does not even
   * then, for a package that can wait; one that an order needs is brought all the same.
   */
  async make(wanted: PackageInfo | undefined, inHand: ReadonlySet<string>, needed: boolean): Promise<void> {
    const held = await this.#held();
    const kept = (await this.#kept()).sort((a, b) => a.usedMs - b.usedMs);
    const wantedBytes = wanted === undefined ? 0 : wanted.sizeBytes + wanted.unpackedBytes;
    let bytes = kept.reduce((sum, one) => sum + (one.sha256 === wanted?.sha256 ? 0 : one.bytes), wantedBytes);
    for (const { sha256, bytes: own } of kept) {
      if (bytes <= this.#limitBytes) return;
      if (inHand.has(sha256) || held.includes(sha256)) continue;
      await rm(join(this.#directory, sha256), { recursive: true, force: true });
      bytes -= own;
    }
    if (bytes <= this.#limitBytes || needed || wanted === undefined) return;
    const why = `packages in use and ${wanted.fileName} take ${bytes} bytes, ${this.#limitBytes} are allowed`;
    throw new FleetError('CACHE_FULL', why);
  }

  /** Packages that lie here whole, by their hash. */
  async whole(): Promise<string[]> {
    const names = await this.#names();
    const found = await Promise.all(
      names.map((sha256) => stat(join(this.#directory, sha256, 'package.tar.gz')).catch(() => undefined)),
    );
    return names.filter((_, i) => found[i]?.isFile() === true);
  }

  async #names(): Promise<string[]> {
    const names = await readdir(this.#directory).catch(() => []);
    return names.filter((name) => /^[0-9a-f]{64}$/.test(name));
  }

  async #kept(): Promise<Kept[]> {
    return Promise.all(
      (await this.#names()).map(async (sha256) => {
        const place = join(this.#directory, sha256);
        const { mtimeMs } = await stat(place);
        return { sha256, bytes: await sizeOfTree(place), usedMs: mtimeMs };
      }),
    );
  }

  async #held(): Promise<string[]> {
    const found: unknown = await readFile(join(this.#directory, HELD), 'utf8').then(JSON.parse, () => []);
    return Array.isArray(found) ? found.filter((name) => typeof name === 'string') : [];
  }
}

/** Bytes of all files below; what goes away meanwhile counts nothing. */
async function sizeOfTree(path: string): Promise<number> {
  const entries = await readdir(path, { withFileTypes: true }).catch(() => []);
  let bytes = 0;
  for (const entry of entries) {
    const child = join(path, entry.name);
    if (entry.isDirectory()) bytes += await sizeOfTree(child);
    else bytes += (await lstat(child).catch(() => undefined))?.size ?? 0;
  }
  return bytes;
}
