/** The driver of this host: what all deployment methods share, and for the rest the one whose method is found here. */
import {
  type Action,
  type ClusterHealth,
  FleetError,
  type LedgerEntry,
  type Method,
  type NodeReport,
  type PackageInfo,
} from '@kwfleet/core';
import type { LongCommands } from '../host/services.ts';
import type { Observer } from '../observe.ts';
import type { PackageCache } from '../packages.ts';
import { belongsTo, endOrphans, isAtWork } from './deploy-run.ts';
import type { Driver, MethodDriver, Watch } from './driver.ts';

export type HostDriverOptions = {
  readonly observer: Observer;
  readonly commands: LongCommands;
  readonly packages: PackageCache;
  readonly methods: Partial<Record<Method, MethodDriver>>;
};

const DRAIN_TIMEOUT_MS = 600_000;

export class HostDriver implements Driver {
  readonly #options: HostDriverOptions;

  constructor(options: HostDriverOptions) {
    this.#options = options;
  }

  observe(wanted?: PackageInfo): Promise<NodeReport> {
    return this.#options.observer.observe(wanted);
  }

  health(questions: 'ranges' | 'all'): Promise<ClusterHealth> {
    return this.#options.observer.health(questions);
  }

  setSetting(entry: LedgerEntry): Promise<void> {
    return this.#options.observer.setSetting(entry);
  }

  async drain(action: Action, watch: Watch): Promise<void> {
    const kwbase = await this.#options.observer.kwbase();
    watch.detail('draining: leases and clients move to the other nodes');
    try {
      await kwbase.drain(Math.min(action.deadline.idleMs, DRAIN_TIMEOUT_MS));
    } catch (error) {
      if (!(error instanceof FleetError)) throw error;
      throw new FleetError('DRAIN_FAILED', 'the node could not be drained', { words: error.words, cause: error });
    }
  }

  quiesce(action: Action, watch: Watch): Promise<void> {
    return endOrphans(this.#options.commands, action, watch);
  }

  isAtWork(action: Action): Promise<boolean> {
    return isAtWork(this.#options.commands, action);
  }

  async fetch(action: Action, watch: Watch): Promise<void> {
    return (await this.#method()).fetch(action, watch);
  }

  async stop(action: Action, watch: Watch): Promise<void> {
    return (await this.#method()).stop(action, watch);
  }

  async install(action: Action, watch: Watch): Promise<void> {
    return (await this.#method()).install(action, watch);
  }

  async installOnline(action: Action, watch: Watch): Promise<void> {
    return (await this.#method()).installOnline(action, watch);
  }

  async start(action: Action, watch: Watch): Promise<void> {
    return (await this.#method()).start(action, watch);
  }

  async putBack(action: Action, watch: Watch): Promise<void> {
    return (await this.#method()).putBack(action, watch);
  }

  async restored(action: Action, watch: Watch): Promise<void> {
    await (await this.#method()).restored?.(action, watch);
  }

  async restoreEnabled(enabled: boolean): Promise<void> {
    return (await this.#method()).restoreEnabled(enabled);
  }

  async release(action: Action): Promise<void> {
    try {
      // First: a database that runs gets back how it starts with the host.
      await (await this.#method()).release(action);
    } finally {
      await this.#tidy(action);
    }
  }

  async #tidy(action: Action): Promise<void> {
    const { commands, packages } = this.#options;
    for (const id of await commands.list()) {
      // One that still runs was left alone on purpose; the next order finds it.
      if (belongsTo(id, action.id) && (await commands.state(id)).status !== 'running') await commands.remove(id);
    }
    await packages.tidy();
  }

  /** Throws NOT_INSTALLED, or METHOD_UNSUPPORTED for a method that this agent only recognises. */
  async #method(): Promise<MethodDriver> {
    const { observer, methods } = this.#options;
    const deployment = await observer.deployment();
    if (deployment === undefined) throw new FleetError('NOT_INSTALLED', 'KWDB is not installed on this host');
    const { method } = deployment.site;
    const driver = methods[method];
    if (driver === undefined) {
      throw new FleetError('METHOD_UNSUPPORTED', `this agent does not upgrade ${method} installations`);
    }
    return driver;
  }
}
