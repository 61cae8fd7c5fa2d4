/** Packages on this host: verified, brought, unpacked; by SHA-256 under `<state_dir>/packages`. */
import { createHash } from 'node:crypto';
import { createReadStream, existsSync } from 'node:fs';
import { mkdir, open, readFile, rename, rm, stat, truncate, utimes, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { FleetError, type PackageInfo } from '@kwfleet/core';
import { DeadlineError, Stopping, type Watch } from './driver/driver.ts';
import { freeBytes } from './host/host-facts.ts';
import { syncDirectory } from './journal/file-storage.ts';
import { findTop, landmarkOf, SPARE_BYTES, unpack } from './package-archive.ts';
import { PackageRoom } from './package-room.ts';
import { Busy, type PackageSource } from './sources.ts';
import type { PackageTrust } from './trust.ts';

export type PackageCacheOptions = {
  readonly stateDir: string;
  readonly source: PackageSource;
  readonly trust: Pick<PackageTrust, 'on' | 'verify'>;
  /** What may lie here; packages in use are not counted out. */
  readonly limitBytes: number;
  /** Other packages lie here than before. */
  readonly onChange?: () => void;
};

/** Beside a package: what the root of trust vouched for. */
const VERIFIED = 'verified.json';
const FILE = 'package.tar.gz';
/** So often a transfer that flows asks whether it may go on. */
const ASK_EVERY_BYTES = 4 * 1024 ** 2;

export class PackageCache {
  readonly #options: PackageCacheOptions;
  readonly #directory: string;
  readonly #room: PackageRoom;
  /** Those that are being brought now: an order and a prefetch may want the same. */
  readonly #inHand = new Set<string>();

  constructor(options: PackageCacheOptions) {
    this.#options = options;
    this.#directory = join(options.stateDir, 'packages');
    this.#room = new PackageRoom(this.#directory, options.limitBytes);
  }

  /**
   * Makes sure that an order's package lies here, verified and unpacked; returns its top directory, where deploy.sh or bin/ is.
   * An image's file stays as it is; returned is where it lies. Goes on where an earlier try ended. Throws PACKAGE_UNTRUSTED and its kin (see PackageTrust.verify) before anything is
   * fetched; PACKAGE_CORRUPT, PACKAGE_UNSAFE, PACKAGE_INCOMPLETE, DISK_FULL or FETCH_FAILED.
   */
  async ensure(wanted: PackageInfo, watch: Watch): Promise<string> {
    return this.#alone(wanted, watch, true);
  }

  /** The same for a package that no order needs yet. Throws also CACHE_FULL. */
  async prefetch(wanted: PackageInfo, watch: Watch): Promise<void> {
    await this.#alone(wanted, watch, false);
  }

  /**
   * The same for a package that `ensure` brought and verified before: nobody is asked again, so that a node that is
   * down already comes back also without the controller.
   */
  async ready(wanted: PackageInfo, watch: Watch): Promise<string> {
    const place = join(this.#directory, wanted.sha256);
    const noted: unknown = await readFile(join(place, VERIFIED), 'utf8').then(JSON.parse, () => undefined);
    const verified = !this.#options.trust.on || isDeepStrictEqual(noted, JSON.parse(JSON.stringify(wanted)));
    const found = verified ? await findTop(join(place, 'unpacked'), wanted) : undefined;
    return found ?? this.ensure(wanted, watch);
  }

  /** The root of trust vouches for a package that lies elsewhere: an image, which the host's engine pulls. */
  vouch(wanted: PackageInfo, watch: Watch): Promise<void> {
    return this.#verify(wanted, watch);
  }

  /** Asks the root of trust once, and notes nothing. Throws as PackageTrust.verify does. */
  confirm(wanted: PackageInfo): Promise<void> {
    return this.#options.trust.verify(wanted);
  }

  /** Removes what is over the limit and not in use. */
  async tidy(): Promise<void> {
    await this.#room.make(undefined, this.#inHand, false);
    this.#options.onChange?.();
  }

  /** Packages that lie here whole and verified: what peers can be given. */
  holdings(): Promise<string[]> {
    return this.#room.whole();
  }

  /** Where a whole package lies; undefined for what is none, so that no other path can be asked for. */
  pathOf(sha256: string): string | undefined {
    const path = /^[0-9a-f]{64}$/.test(sha256) ? join(this.#directory, sha256, FILE) : undefined;
    return path !== undefined && existsSync(path) ? path : undefined;
  }

  async #alone(wanted: PackageInfo, watch: Watch, needed: boolean): Promise<string> {
    const { sha256 } = wanted;
    while (this.#inHand.has(sha256)) {
      watch.detail('the package is on its way to this host already');
      watch.moved(String(await sizeOf(join(this.#directory, sha256, `${FILE}.part`))));
      await watch.pause();
    }
    this.#inHand.add(sha256);
    try {
      return await this.#bring(wanted, watch, needed);
    } catch (error) {
      throw diskFullOr(error, wanted);
    } finally {
      this.#inHand.delete(sha256);
    }
  }

  async #bring(wanted: PackageInfo, watch: Watch, needed: boolean): Promise<string> {
    await this.#verify(wanted, watch);
    const place = join(this.#directory, wanted.sha256);
    await mkdir(place, { recursive: true, mode: 0o700 });
    if (needed) await this.#room.hold(wanted.sha256);
    const unpacked = join(place, 'unpacked');
    const isFile = wanted.kind === 'image-archive';
    const there = isFile ? await this.#wholeFile(wanted) : await findTop(unpacked, wanted);
    if (there !== undefined) {
      await utimes(place, new Date(), new Date());
      return there;
    }
    await this.#room.make(wanted, this.#inHand, needed);
    await this.#checkSpace(wanted, place);
    await this.#download(wanted, join(place, FILE), watch);
    this.#options.onChange?.();
    if (isFile) return join(place, FILE);
    watch.detail('unpacking the package');
    await unpack(join(place, FILE), unpacked, wanted);
    const found = await findTop(unpacked, wanted);
    if (found === undefined) {
      throw new FleetError('PACKAGE_INCOMPLETE', `${wanted.fileName} holds no ${landmarkOf(wanted)}`);
    }
    return found;
  }

  /**
   * Asks the root of trust, and notes that it agreed: an order that has begun is finished without the controller. What
   * is refused is refused before a byte of it is fetched.
   */
  async #verify(wanted: PackageInfo, watch: Watch): Promise<void> {
    if (!this.#options.trust.on) return;
    watch.detail('verifying who signed the package');
    while (!(await this.#vouched(wanted, watch))) await watch.pause();
    const place = join(this.#directory, wanted.sha256);
    await mkdir(place, { recursive: true, mode: 0o700 });
    await writeFile(join(place, VERIFIED), JSON.stringify(wanted), { mode: 0o600, flush: true });
  }

  /** False when the controller could not be asked. */
  async #vouched(wanted: PackageInfo, watch: Watch): Promise<boolean> {
    try {
      await this.#options.trust.verify(wanted);
      return true;
    } catch (error) {
      if (error instanceof FleetError) {
        await rm(join(this.#directory, wanted.sha256, VERIFIED), { force: true });
        throw error;
      }
      if ((error as NodeJS.ErrnoException).code === 'ENOSPC') throw error;
      watch.detail(`who signed the package cannot be asked (${(error as Error).message}); asking again`);
      return false;
    }
  }

  /** Where the package's file lies, when every byte of it is there. */
  async #wholeFile(wanted: PackageInfo): Promise<string | undefined> {
    const file = join(this.#directory, wanted.sha256, FILE);
    return (await sizeOf(file)) === wanted.sizeBytes && (await sha256Of(file)) === wanted.sha256 ? file : undefined;
  }

  async #checkSpace(wanted: PackageInfo, place: string): Promise<void> {
    const have = await freeBytes(place);
    const there = await sizeOf(join(place, `${FILE}.part`));
    const need = wanted.sizeBytes - there + wanted.unpackedBytes + SPARE_BYTES;
    if (have >= need) return;
    throw new FleetError('DISK_FULL', `${place} has ${have} bytes free; ${wanted.fileName} needs ${need}`);
  }

  /** From anybody who has it; should that turn out to be other bytes, once more from the controller alone. */
  async #download(wanted: PackageInfo, file: string, watch: Watch): Promise<void> {
    if ((await this.#wholeFile(wanted)) !== undefined) return;
    const part = `${file}.part`;
    if ((await sizeOf(part)) > wanted.sizeBytes) await truncate(part, 0);
    for (const peers of [true, false]) {
      // What lies here from before may be a peer's.
      const before = await sizeOf(part);
      const byPeer = (await this.#fill(wanted, part, peers, watch)) || before > 0;
      watch.detail('verifying the package');
      if ((await sizeOf(part)) === wanted.sizeBytes && (await sha256Of(part)) === wanted.sha256) {
        await syncFile(part);
        await rename(part, file);
        return syncDirectory(dirname(file));
      }
      await rm(part, { force: true });
      if (!byPeer) break;
      watch.detail('these were other bytes; fetching them from the controller');
    }
    throw new FleetError('PACKAGE_CORRUPT', `the bytes of ${wanted.fileName} are not those of ${wanted.sha256}`);
  }

  /** Until all bytes are here. Answers whether any of them came from a peer. */
  async #fill(wanted: PackageInfo, part: string, peers: boolean, watch: Watch): Promise<boolean> {
    let byPeer = false;
    for (let tries = 0; ; tries += 1) {
      try {
        byPeer = (await this.#receive(wanted, part, peers, watch)) || byPeer;
        if ((await sizeOf(part)) >= wanted.sizeBytes) return byPeer;
      } catch (error) {
        if (error instanceof FleetError || error instanceof DeadlineError || error instanceof Stopping) throw error;
        if ((error as NodeJS.ErrnoException).code === 'ENOSPC') throw error;
        const reason = error instanceof Error ? error.message : String(error);
        // Whoever waits in line is not stuck. A stream that broke is taken up where it was.
        if (error instanceof Busy) watch.moved(`waiting ${tries}`);
        else byPeer ||= peers;
        watch.detail(
          error instanceof Busy ? `waiting for a place: ${reason}` : `the transfer broke (${reason}); going on`,
        );
      }
      await watch.pause();
    }
  }

  async #receive(wanted: PackageInfo, part: string, peers: boolean, watch: Watch): Promise<boolean> {
    const handle = await open(part, 'a', 0o600);
    try {
      let size = (await handle.stat()).size;
      if (size >= wanted.sizeBytes) return false;
      let askedAt = size;
      const { byPeer, chunks } = await this.#options.source(wanted.sha256, size, peers);
      for await (const chunk of chunks) {
        await handle.appendFile(chunk);
        size += chunk.length;
        if (size > wanted.sizeBytes) break;
        watch.detail(`received ${Math.floor((size / wanted.sizeBytes) * 100)} %`);
        watch.moved(String(size));
        if (size - askedAt < ASK_EVERY_BYTES) continue;
        askedAt = size;
        await watch.pause(0);
      }
      return byPeer;
    } finally {
      await handle.close();
    }
  }
}

function diskFullOr(error: unknown, wanted: PackageInfo): unknown {
  if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') return error;
  return new FleetError('DISK_FULL', `no space left for ${wanted.fileName} in the agent's state directory`, {
    cause: error,
  });
}

/** Also of bytes that an agent process before this one received. */
async function syncFile(file: string): Promise<void> {
  const handle = await open(file, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

async function sizeOf(file: string): Promise<number> {
  try {
    return (await stat(file)).size;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return 0;
    throw error;
  }
}

export async function sha256Of(file: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(file)) hash.update(chunk as Buffer);
  return hash.digest('hex');
}
