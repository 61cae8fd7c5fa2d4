/** Packages as this agent has to do with them, put together: whom it believes, from where it takes them, to whom it gives. */
import { FleetError, type PackageInfo } from '@kwfleet/core';
import type { Logger } from 'pino';
import { systemClock } from './clock.ts';
import type { AgentConfig } from './config.ts';
import type { Watch } from './driver/driver.ts';
import type { Identity } from './enroll.ts';
import type { Link } from './link.ts';
import { PackageCache } from './packages.ts';
import { type PeerServer, servePeers } from './peers.ts';
import { Prefetcher } from './prefetcher.ts';
import { packageSources } from './sources.ts';
import { PackageTrust } from './trust.ts';

export type SupplyOptions = {
  readonly config: Pick<AgentConfig, 'stateDir' | 'trust' | 'cacheMaxBytes' | 'peers'>;
  /** Undefined: the link is plaintext, on loopback. */
  readonly identity: Identity | undefined;
  /** Made after this, and used only once it is there. */
  readonly link: () => Link;
  /** Brings what is no file, ahead of its order: an image, which the host's engine pulls. */
  readonly bringImage?: (wanted: PackageInfo, watch: Watch) => Promise<void>;
  readonly log: Logger;
};

export class Supply {
  readonly packages: PackageCache;
  readonly #options: SupplyOptions;
  readonly #trust: PackageTrust;
  readonly #prefetcher: Prefetcher;
  #peers: PeerServer | undefined;

  constructor(options: SupplyOptions) {
    const { config, identity, link, log } = options;
    const { stateDir } = config;
    this.#options = options;
    this.#trust = new PackageTrust({
      stateDir,
      policy: config.trust,
      source: (name) => link().fetchMetadata(name),
      log,
    });
    this.packages = new PackageCache({
      stateDir,
      trust: this.#trust,
      limitBytes: config.cacheMaxBytes,
      source: packageSources({
        controller: (sha256, offset) => link().fetchPackage(sha256, offset),
        findPeers: (sha256) => link().findPeers(sha256),
        identity,
        log,
        now: () => systemClock.elapsed(),
      }),
      onChange: () => void this.#tellHoldings(),
    });
    this.#prefetcher = new Prefetcher({
      bring: (wanted, watch) => this.#bring(wanted, watch),
      tell: (prefetched) => link().send({ prefetched }),
      clock: systemClock,
      log,
    });
  }

  /** Begins to give packages to peers, where the configuration says so. Throws CONFIG_INVALID. */
  async open(): Promise<void> {
    const { config, identity, log } = this.#options;
    if (config.peers === undefined) return;
    const pathOf = (sha256: string) => this.packages.pathOf(sha256);
    this.#peers = await servePeers({ config: config.peers, identity, pathOf, log });
  }

  /**
   * A new stream to the controller: the root of trust is pinned at the first contact, and followed long before a package
   * is wanted; and the controller is told what peers can be given here.
   */
  welcomed(): void {
    const { log } = this.#options;
    this.#trust
      .refresh()
      .catch((error: unknown) => log.warn({ err: error }, 'the root of trust cannot be followed now'));
    void this.#tellHoldings();
  }

  prefetch(wanted: PackageInfo): void {
    this.#prefetcher.want(wanted);
  }

  async close(): Promise<void> {
    this.#peers?.close();
    await this.#prefetcher.stop();
  }

  async #bring(wanted: PackageInfo, watch: Watch): Promise<void> {
    const { bringImage } = this.#options;
    if (wanted.kind !== 'image') return this.packages.prefetch(wanted, watch);
    if (bringImage !== undefined) return bringImage(wanted, watch);
    throw new FleetError('METHOD_MISMATCH', `nothing on this host runs images: ${wanted.image}`);
  }

  async #tellHoldings(): Promise<void> {
    const { link, log } = this.#options;
    try {
      const address = this.#peers?.address;
      link().send({ holdings: { ...(address && { address }), sha256s: await this.packages.holdings() } });
    } catch (error) {
      log.warn({ err: error }, 'what lies here could not be told');
    }
  }
}
