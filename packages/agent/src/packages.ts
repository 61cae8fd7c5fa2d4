/** Packages on this host: brought from the controller, verified, unpacked; by SHA-256 under `<state_dir>/packages`. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { chmod, mkdir, open, readdir, readFile, rename, rm, stat, truncate, utimes, writeFile } from 'node:fs/promises';
import { dirname, join, normalize, posix } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { FleetError, type PackageInfo } from '@kwfleet/core';
import * as tar from 'tar';
import { DeadlineError, Stopping, type Watch } from './driver/driver.ts';
import { freeBytes } from './host/host-facts.ts';
import { syncDirectory } from './journal/file-storage.ts';
import type { PackageTrust } from './trust.ts';

/** Streams a package's bytes from `offset`. Rejects with FETCH_FAILED when it cannot be had at all. */
export type PackageSource = (sha256: string, offset: number) => AsyncIterable<Uint8Array>;

const ENTRIES_LIMIT = 50_000;
/** What a package may unpack to when the controller did not count it. */
const UNPACKED_LIMIT_BYTES = 64 * 1024 ** 3;
/** Left free on the disk, so that journal and database can go on writing. */
const SPARE_BYTES = 64 * 1024 ** 2;
const KEPT_PACKAGES = 4;
/** Beside a package: what the root of trust vouched for. */
const VERIFIED = 'verified.json';
/** So often a transfer that flows asks whether it may go on. */
const ASK_EVERY_BYTES = 4 * 1024 ** 2;

export class PackageCache {
  readonly #directory: string;
  readonly #source: PackageSource;
  readonly #trust: Pick<PackageTrust, 'on' | 'verify'>;
  /** Those that are being brought now: an order and a prefetch may want the same. */
  readonly #inHand = new Set<string>();

  constructor(stateDir: string, source: PackageSource, trust: Pick<PackageTrust, 'on' | 'verify'>) {
    this.#directory = join(stateDir, 'packages');
    this.#source = source;
    this.#trust = trust;
  }

  /**
   * Makes sure the package lies here, verified and unpacked; returns the directory of its deploy.sh. Goes on where an
   * earlier try ended. Throws PACKAGE_UNTRUSTED and its kin
   * (see PackageTrust.verify) before anything is fetched, PACKAGE_CORRUPT, PACKAGE_UNSAFE, PACKAGE_INCOMPLETE, DISK_FULL or FETCH_FAILED.
   */
  async ensure(wanted: PackageInfo, watch: Watch): Promise<string> {
    const { sha256 } = wanted;
    const part = join(this.#directory, sha256, 'package.tar.gz.part');
    while (this.#inHand.has(sha256)) {
      watch.detail('the package is on its way to this host already');
      watch.moved(String(await sizeOf(part)));
      await watch.pause();
    }
    this.#inHand.add(sha256);
    try {
      return await this.#ensure(wanted, watch);
    } finally {
      this.#inHand.delete(sha256);
    }
  }

  /**
   * The same for a package that `ensure` brought and verified before: nobody is asked again, so that a node that is
   * down already comes back also without the controller.
   */
  async ready(wanted: PackageInfo, watch: Watch): Promise<string> {
    const place = join(this.#directory, wanted.sha256);
    const noted: unknown = await readFile(join(place, VERIFIED), 'utf8').then(JSON.parse, () => undefined);
    const verified = !this.#trust.on || isDeepStrictEqual(noted, JSON.parse(JSON.stringify(wanted)));
    const found = verified ? await findDeployDirectory(join(place, 'unpacked')) : undefined;
    return found ?? this.ensure(wanted, watch);
  }

  async #ensure(wanted: PackageInfo, watch: Watch): Promise<string> {
    await this.#verify(wanted, watch);
    const place = join(this.#directory, wanted.sha256);
    const unpacked = join(place, 'unpacked');
    const there = await findDeployDirectory(unpacked);
    if (there !== undefined) {
      await utimes(place, new Date(), new Date());
      return there;
    }
    try {
      await mkdir(place, { recursive: true, mode: 0o700 });
      await this.#checkSpace(wanted, place);
      await this.#download(wanted, join(place, 'package.tar.gz'), watch);
      watch.detail('unpacking the package');
      await unpack(join(place, 'package.tar.gz'), unpacked, wanted);
    } catch (error) {
      throw diskFullOr(error, wanted);
    }
    const found = await findDeployDirectory(unpacked);
    if (found === undefined) throw new FleetError('PACKAGE_INCOMPLETE', `${wanted.fileName} holds no deploy.sh`);
    return found;
  }

  /** Removes all but the packages used last. */
  async tidy(): Promise<void> {
    const names = await readdir(this.#directory).catch(() => []);
    const dated = await Promise.all(
      names.map(async (name) => ({ name, usedMs: (await stat(join(this.#directory, name))).mtimeMs })),
    );
    dated.sort((a, b) => b.usedMs - a.usedMs);
    for (const { name } of dated.slice(KEPT_PACKAGES))
      await rm(join(this.#directory, name), { recursive: true, force: true });
  }

  /**
   * Asks the root of trust, and notes that it agreed: an order that has begun is finished without the controller. What
   * is refused is refused before a byte of it is fetched.
   */
  async #verify(wanted: PackageInfo, watch: Watch): Promise<void> {
    if (!this.#trust.on) return;
    watch.detail('verifying who signed the package');
    while (!(await this.#vouched(wanted, watch))) await watch.pause();
    const place = join(this.#directory, wanted.sha256);
    await mkdir(place, { recursive: true, mode: 0o700 });
    await writeFile(join(place, VERIFIED), JSON.stringify(wanted), { mode: 0o600, flush: true });
  }

  /** False when the controller could not be asked. */
  async #vouched(wanted: PackageInfo, watch: Watch): Promise<boolean> {
    try {
      await this.#trust.verify(wanted);
      return true;
    } catch (error) {
      if (error instanceof FleetError) {
        await rm(join(this.#directory, wanted.sha256, VERIFIED), { force: true });
        throw error;
      }
      watch.detail(`who signed the package cannot be asked (${(error as Error).message}); asking again`);
      return false;
    }
  }

  async #checkSpace(wanted: PackageInfo, place: string): Promise<void> {
    const have = await freeBytes(place);
    const there = await sizeOf(join(place, 'package.tar.gz.part'));
    const need = wanted.sizeBytes - there + wanted.unpackedBytes + SPARE_BYTES;
    if (have >= need) return;
    throw new FleetError('DISK_FULL', `${place} has ${have} bytes free; ${wanted.fileName} needs ${need}`);
  }

  async #download(wanted: PackageInfo, file: string, watch: Watch): Promise<void> {
    if ((await sizeOf(file)) === wanted.sizeBytes && (await sha256Of(file)) === wanted.sha256) return;
    const part = `${file}.part`;
    if ((await sizeOf(part)) > wanted.sizeBytes) await truncate(part, 0);
    for (;;) {
      try {
        await this.#receive(wanted, part, watch);
        if ((await sizeOf(part)) >= wanted.sizeBytes) break;
      } catch (error) {
        if (error instanceof FleetError || error instanceof DeadlineError || error instanceof Stopping) throw error;
        if ((error as NodeJS.ErrnoException).code === 'ENOSPC') throw error;
        // The stream broke: the part is kept, and the next try goes on from there.
        watch.detail(`the transfer broke (${error instanceof Error ? error.message : String(error)}); going on`);
      }
      await watch.pause();
    }
    watch.detail('verifying the package');
    if ((await sizeOf(part)) !== wanted.sizeBytes || (await sha256Of(part)) !== wanted.sha256) {
      await rm(part, { force: true });
      throw new FleetError('PACKAGE_CORRUPT', `the bytes of ${wanted.fileName} are not those of ${wanted.sha256}`);
    }
    await rename(part, file);
    await syncDirectory(dirname(file));
  }

  async #receive(wanted: PackageInfo, part: string, watch: Watch): Promise<void> {
    const handle = await open(part, 'a', 0o600);
    try {
      let size = (await handle.stat()).size;
      let askedAt = size;
      for await (const chunk of size < wanted.sizeBytes ? this.#source(wanted.sha256, size) : []) {
        await handle.appendFile(chunk);
        size += chunk.length;
        if (size > wanted.sizeBytes) break;
        watch.detail(`received ${Math.floor((size / wanted.sizeBytes) * 100)} %`);
        watch.moved(String(size));
        if (size - askedAt < ASK_EVERY_BYTES) continue;
        askedAt = size;
        await watch.pause(0);
      }
      await handle.sync();
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

/** Unpacks beside `target` and moves it there whole. Throws PACKAGE_UNSAFE before anything is written. */
async function unpack(file: string, target: string, wanted: PackageInfo): Promise<void> {
  await checkEntries(file, wanted);
  const fresh = `${target}.new`;
  await rm(fresh, { recursive: true, force: true });
  await rm(target, { recursive: true, force: true });
  await mkdir(fresh, { recursive: true, mode: 0o700 });
  await tar.x({ file, cwd: fresh, strict: true, preserveOwner: false, preservePaths: false });
  const deploy = await findDeployDirectory(fresh);
  if (deploy !== undefined) {
    await chmod(join(deploy, 'deploy.sh'), 0o755);
    // deploy.sh logs there as root; the agent, which may be another, must be able to remove it again.
    await mkdir(join(deploy, 'log'), { recursive: true });
  }
  await rename(fresh, target);
  await syncDirectory(dirname(target));
}

/** Why an entry of an archive must not be unpacked; undefined when it may. */
export function unsafeEntry(entry: {
  readonly path: string;
  readonly type: string;
  readonly linkpath?: string | undefined;
}): string | undefined {
  if (leaves(entry.path)) return `${entry.path} leaves the package`;
  switch (entry.type) {
    case 'File':
    case 'OldFile':
    case 'ContiguousFile':
    case 'Directory':
      return undefined;
    case 'SymbolicLink':
      return leaves(posix.join(posix.dirname(entry.path), entry.linkpath ?? '/')) || isAbsolute(entry.linkpath)
        ? `${entry.path} is a link out of the package`
        : undefined;
    case 'Link':
      return leaves(entry.linkpath ?? '/') ? `${entry.path} is a link out of the package` : undefined;
    default:
      return `${entry.path} is a ${entry.type}`;
  }
}

const isAbsolute = (path: string | undefined): boolean => path === undefined || path.startsWith('/');

function leaves(path: string): boolean {
  const plain = normalize(path);
  return isAbsolute(plain) || plain === '..' || plain.startsWith('../') || path.includes('\0');
}

async function checkEntries(file: string, wanted: PackageInfo): Promise<void> {
  const limitBytes = wanted.unpackedBytes > 0 ? wanted.unpackedBytes + SPARE_BYTES : UNPACKED_LIMIT_BYTES;
  let count = 0;
  let bytes = 0;
  let unsafe: string | undefined;
  const onReadEntry = (entry: tar.ReadEntry): void => {
    count += 1;
    bytes += entry.size;
    unsafe ??= unsafeEntry(entry);
    if (count > ENTRIES_LIMIT) unsafe ??= `more than ${ENTRIES_LIMIT} files`;
    if (bytes > limitBytes) unsafe ??= `more than ${limitBytes} bytes unpacked`;
  };
  try {
    await tar.t({ file, strict: true, onReadEntry });
  } catch (error) {
    throw new FleetError('PACKAGE_UNREADABLE', `${wanted.fileName} is no whole .tar.gz`, { cause: error });
  }
  if (unsafe !== undefined) throw new FleetError('PACKAGE_UNSAFE', `${wanted.fileName}: ${unsafe}`);
}

/** `kaiwudb_install` as a rule; any one top directory with a deploy.sh will do. */
async function findDeployDirectory(unpacked: string): Promise<string | undefined> {
  for (const name of ['.', ...(await readdir(unpacked).catch(() => []))]) {
    const directory = join(unpacked, name);
    const found = await stat(join(directory, 'deploy.sh')).catch(() => null);
    if (found?.isFile() === true) return directory;
  }
  return undefined;
}
