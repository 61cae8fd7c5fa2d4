/**
 * What this host accepts as a package: what people signed, by the root of trust pinned here. tuf-js does the verifying
 * (The Update Framework's client workflow); here are its files, kept so that no power cut loses them, its transport,
 * which is the link to the controller, and the words for its refusals. Nothing the controller says is believed.
 */
import { createHash } from 'node:crypto';
import { copyFile, mkdir, open, readFile, rename, rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { FleetError, type PackageInfo } from '@kwfleet/core';
import { contentsOf, isEvaluation, packageOf, readMetadata, targetPath } from '@kwfleet/protocol/tuf';
import type { Logger } from 'pino';
import { type TargetFile, Updater } from 'tuf-js';
import { DownloadHTTPError, DownloadLengthMismatchError } from 'tuf-js/dist/error.js';
import { syncDirectory } from './journal/file-storage.ts';

/** Only the host's own configuration says what is pinned, and whether anything is verified at all. */
export type TrustPolicy =
  | { readonly kind: 'off' }
  /** The root in this file. */
  | { readonly kind: 'root'; readonly file: string }
  /** The root with this SHA-256, as the controller hands it over. */
  | { readonly kind: 'root-sha256'; readonly sha256: string }
  /** The root that the controller shows at the first contact; from then on that one. */
  | { readonly kind: 'first-contact' };

/** A metadata file by its name, or undefined when there is none. Rejects when the controller cannot be asked. */
export type MetadataSource = (name: string) => Promise<Uint8Array | undefined>;

export type TrustOptions = {
  readonly stateDir: string;
  readonly policy: TrustPolicy;
  readonly source: MetadataSource;
  readonly log: Logger;
};

const FILES = ['root.json', 'timestamp.json', 'snapshot.json', 'targets.json'] as const;
/** The SHA-256 of the root that was pinned here: later ones are followed from it. */
const ANCHOR = 'anchor';
/** More changes of root than anybody makes; a pinned root is looked for among so many. */
const ROOTS_LIMIT = 256;
const ROOT_LIMIT_BYTES = 512_000;

export class PackageTrust {
  readonly #options: TrustOptions;
  readonly #directory: string;
  /** One at a time: they share the files. */
  #last: Promise<unknown> = Promise.resolve();
  #toldRoot = '';

  constructor(options: TrustOptions) {
    this.#options = options;
    this.#directory = join(options.stateDir, 'trust');
  }

  /** Whether packages are verified here at all. */
  get on(): boolean {
    return this.#options.policy.kind !== 'off';
  }

  /**
   * Follows the controller's newest metadata. Throws as `verify` does; what does not verify changes nothing here.
   */
  async refresh(): Promise<void> {
    if (this.on) await this.#alone(() => this.#update((updater) => updater.refresh()));
  }

  /**
   * That this very package is on the newest list that people signed. Throws PACKAGE_UNTRUSTED, TRUST_EXPIRED,
   * TRUST_ROLLED_BACK or TRUST_ROOT_UNKNOWN; rejects with what the source rejected with when it cannot be asked.
   */
  async verify(wanted: PackageInfo): Promise<void> {
    if (!this.on) return;
    const target = await this.#alone(() => this.#update((updater) => updater.getTargetInfo(targetPath(wanted.sha256))));
    compare(target, wanted);
  }

  #alone<T>(work: () => Promise<T>): Promise<T> {
    const next = this.#last.catch(() => {}).then(work);
    this.#last = next;
    return next;
  }

  /**
   * tuf-js writes each file in place as soon as it is verified. It is let loose on a copy; what it took over is then
   * brought home durably, also from a refresh that failed halfway: that is what protects from a rollback tomorrow.
   */
  async #update<T>(work: (updater: Updater) => Promise<T>): Promise<T> {
    await this.#pin();
    const copy = join(this.#directory, 'work');
    await rm(copy, { recursive: true, force: true });
    await mkdir(copy, { mode: 0o700 });
    for (const name of FILES) await copyFile(join(this.#directory, name), join(copy, name)).catch(absent);
    const fetcher = new LinkFetcher(this.#options.source);
    try {
      const updater = new Updater({ metadataDir: copy, metadataBaseUrl: 'kwfleet:/', fetcher });
      return await work(updater);
    } catch (error) {
      // tuf-js wraps some errors in words: that of the link is what matters.
      throw fetcher.broken ?? refusal(error);
    } finally {
      for (const name of FILES) await this.#keep(name, await readFile(join(copy, name)).catch(absent));
      await rm(copy, { recursive: true, force: true });
      await this.#tellRoot();
    }
  }

  async #keep(name: string, bytes: Buffer | undefined): Promise<void> {
    const file = join(this.#directory, name);
    if (bytes === undefined || (await readFile(file).catch(absent))?.equals(bytes) === true) return;
    const handle = await open(`${file}.new`, 'w', 0o600);
    try {
      await handle.writeFile(bytes);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(`${file}.new`, file);
    await syncDirectory(this.#directory);
  }

  /** The root that everything is followed from lies here afterwards; one that the configuration names anew wins. */
  async #pin(): Promise<void> {
    await mkdir(this.#directory, { recursive: true, mode: 0o700 });
    const { policy, log } = this.#options;
    const anchor = (await readFile(join(this.#directory, ANCHOR)).catch(absent))?.toString();
    const found = await this.#wanted(policy, anchor);
    if (found === undefined) return;
    const sha256 = sha256Of(found);
    await this.#keep('root.json', found);
    await this.#keep(ANCHOR, Buffer.from(sha256));
    log.info({ sha256, by: policy.kind }, 'a root of trust for packages is pinned on this host');
  }

  /** The root to pin; undefined when the one that is pinned stays. */
  async #wanted(policy: TrustPolicy, anchor: string | undefined): Promise<Buffer | undefined> {
    switch (policy.kind) {
      case 'off':
        return undefined;
      case 'root': {
        const bytes = await readFile(policy.file).catch((cause: unknown) => {
          throw new FleetError('TRUST_ROOT_UNKNOWN', `the root ${policy.file} cannot be read`, { cause });
        });
        return sha256Of(bytes) === anchor ? undefined : bytes;
      }
      case 'root-sha256':
        return policy.sha256 === anchor ? undefined : this.#find(policy.sha256);
      case 'first-contact':
        return anchor === undefined ? this.#newest() : undefined;
      default:
        return policy satisfies never;
    }
  }

  async #newest(): Promise<Buffer> {
    const bytes = await this.#options.source('root.json');
    if (bytes === undefined) throw new FleetError('TRUST_ROOT_UNKNOWN', 'the controller has no root of trust');
    return readRoot(Buffer.from(bytes));
  }

  /** The newest root, or an older one: the host may have been given its hash some rotations ago. */
  async #find(sha256: string): Promise<Buffer> {
    const newest = await this.#newest();
    if (sha256Of(newest) === sha256) return newest;
    const { version } = readMetadata('root', newest.toString('utf8')).signed;
    for (let at = version - 1; at >= Math.max(1, version - ROOTS_LIMIT); at -= 1) {
      const bytes = await this.#options.source(`${at}.root.json`);
      if (bytes !== undefined && sha256Of(bytes) === sha256) return readRoot(Buffer.from(bytes));
    }
    throw new FleetError('TRUST_ROOT_UNKNOWN', `the controller has no root with the SHA-256 ${sha256}`);
  }

  async #tellRoot(): Promise<void> {
    const bytes = await readFile(join(this.#directory, 'root.json')).catch(absent);
    if (bytes === undefined || sha256Of(bytes) === this.#toldRoot) return;
    this.#toldRoot = sha256Of(bytes);
    const contents = contentsOf(readMetadata('root', bytes.toString('utf8')));
    const { log } = this.#options;
    log.info({ version: contents.version, sha256: this.#toldRoot }, 'packages are verified by this root of trust');
    if (isEvaluation(contents)) {
      log.warn('EVALUATION: the controller itself signs packages; `kwfleet root init` hands that over to people');
    }
  }
}

/** tuf-js asks for `kwfleet:/NAME`; the link answers. */
class LinkFetcher {
  readonly #source: MetadataSource;
  /** Why the link could not be asked, when it could not. */
  broken: unknown;

  constructor(source: MetadataSource) {
    this.#source = source;
  }

  async downloadBytes(url: string, maxLength: number): Promise<Buffer> {
    const bytes = await this.#source(basename(url)).catch((error: unknown) => {
      this.broken = error;
      throw error;
    });
    if (bytes === undefined) throw new DownloadHTTPError(`${basename(url)} is not there`, 404);
    if (bytes.length > maxLength) throw new DownloadLengthMismatchError(`${basename(url)} is too long`);
    return Buffer.from(bytes);
  }

  /** Packages come another way, and are verified by their hash there. */
  async downloadFile(): Promise<never> {
    throw new Error('only metadata is fetched through the updater');
  }
}

function compare(target: TargetFile | undefined, wanted: PackageInfo): void {
  const name = `${wanted.fileName} (${wanted.sha256.slice(0, 12)})`;
  if (target === undefined) {
    throw new FleetError('PACKAGE_UNTRUSTED', `${name} is not on the list of packages that people signed`);
  }
  const signed = packageOf(target);
  if (signed === undefined) throw new FleetError('PACKAGE_UNTRUSTED', `the signed entry of ${name} is no package`);
  const fields = new Set([...Object.keys(signed), ...Object.keys(wanted)]) as Set<keyof PackageInfo>;
  const other = [...fields].find((field) => signed[field] !== wanted[field]);
  if (other === undefined) return;
  throw new FleetError(
    'PACKAGE_UNTRUSTED',
    `the order says that ${other} of ${name} is ${wanted[other]}; what was signed says ${signed[other]}`,
  );
}

/** What tuf-js refused, in this project's codes. Its classes do not always survive its own wrapping: its words do. */
function refusal(error: unknown): unknown {
  if (error instanceof FleetError) return error;
  const words = error instanceof Error ? error.message : String(error);
  if (/ENOSPC/.test(words)) {
    return new FleetError('DISK_FULL', "no space left for the root of trust in the agent's state directory", { words });
  }
  if (/is expired/.test(words)) {
    return new FleetError('TRUST_EXPIRED', 'the signed word of what is newest is too old for this host', { words });
  }
  if (/is less than current version|Missing file .* in new snapshot/.test(words)) {
    return new FleetError('TRUST_ROLLED_BACK', 'this host has seen newer metadata than the controller gives', {
      words,
    });
  }
  return new FleetError('PACKAGE_UNTRUSTED', 'the list of packages does not verify', { words, cause: error });
}

/** The bytes, when they are a root signed by its own keys. */
function readRoot(bytes: Buffer): Buffer {
  if (bytes.length > ROOT_LIMIT_BYTES) throw new FleetError('TRUST_ROOT_UNKNOWN', 'the root is too long');
  contentsOf(readMetadata('root', bytes.toString('utf8')));
  return bytes;
}

const sha256Of = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

function absent(error: NodeJS.ErrnoException): undefined {
  if (error.code !== 'ENOENT') throw error;
  return undefined;
}
