/**
 * A host light enough that one process holds hundreds: where KWDB would be, it only remembers what is installed and what
 * runs, and takes its time. Agents know it through their own `Driver`, and cannot tell. Each host writes down what happens
 * to it, by itself.
 */
import type { Driver, Watch } from '@kwfleet/agent';
import {
  type Action,
  type ClusterHealth,
  type ClusterView,
  FleetError,
  type LedgerEntry,
  type NodeReport,
  type NodeRow,
  packageOf,
  type Topology,
} from '@kwfleet/core';

/** What a host wrote down: its database came up, its database went down, its packages were exchanged. */
export type HostEvent = {
  readonly atMs: number;
  readonly cluster: string;
  readonly node: string;
  readonly event: 'up' | 'down' | 'installed' | 'install-failed';
  readonly version: string;
};

const START_MODE: Record<Topology, string> = {
  standalone: 'start-single-node',
  'multi-replica': 'start',
  'single-replica': 'start-single-replica',
};
const FREE_BYTES = 100 * 1024 ** 3;
/** How long things take here; on a real host, minutes. */
const STOP_MS = 100;
const INSTALL_MS = 300;
const START_MS = 200;

export type LightClusterOptions = {
  readonly name: string;
  readonly topology: Topology;
  readonly nodes: number;
  readonly version: string;
  /** What its installations do. */
  readonly installFails: boolean;
  readonly record: (event: HostEvent) => void;
};

/** The hosts of one cluster, and what its database knows. */
export class LightCluster {
  readonly id: string;
  readonly options: LightClusterOptions;
  readonly hosts: readonly LightHost[];

  constructor(id: string, options: LightClusterOptions) {
    this.id = id;
    this.options = options;
    this.hosts = Array.from({ length: options.nodes }, (_, i) => new LightHost(this, i + 1));
  }

  rows(): NodeRow[] {
    return this.hosts.map((host) => host.row());
  }

  /** Any node that answers. */
  speaker(asked: LightHost): LightHost | undefined {
    return [asked, ...this.hosts].find((host) => host.isUp);
  }
}

type Process = { readonly pid: number; readonly version: string; readonly startedAtMs: number };

export class LightHost implements Driver {
  readonly node: string;
  readonly cluster: LightCluster;
  readonly kwdbId: number;
  /** Brings a package here, as the real agent does; the bytes are proved and thrown away. */
  bring: (sha256: string) => Promise<void> = async () => {};
  #installed: string;
  #half = false;
  #process: Process | undefined;
  #lastStartMs: number;
  #isDraining = false;
  #pids = 1000;

  constructor(cluster: LightCluster, kwdbId: number) {
    this.cluster = cluster;
    this.kwdbId = kwdbId;
    this.node = `${cluster.options.name}-n${kwdbId}`;
    this.#installed = cluster.options.version;
    this.#lastStartMs = Date.now() - 3_600_000;
    this.#process = { pid: this.#pids++, version: this.#installed, startedAtMs: this.#lastStartMs };
  }

  get isUp(): boolean {
    return this.#process !== undefined;
  }

  get version(): string {
    return this.#installed;
  }

  row(): NodeRow {
    const isUp = this.isUp;
    return {
      kwdbId: this.kwdbId,
      address: `${this.node}:26257`,
      build: `V${this.#process?.version ?? this.#installed}`,
      startedAtMs: this.#lastStartMs,
      updatedAtMs: isUp ? Date.now() : this.#lastStartMs + 1,
      startMode: START_MODE[this.cluster.options.topology],
      isAvailable: isUp,
      isLive: isUp,
      isDecommissioning: false,
      isDraining: this.#isDraining,
    };
  }

  pulse = async (): Promise<{ serving: boolean; ready: boolean }> => ({
    serving: this.isUp,
    ready: this.isUp && !this.#isDraining,
  });

  async observe(): Promise<NodeReport> {
    const { topology } = this.cluster.options;
    const process = this.#process;
    const version = this.#installed;
    return {
      host: {
        hostname: this.node,
        architecture: 'amd64',
        distribution: { id: 'debian', versionId: '12', family: 'deb' },
        bootId: `boot-${this.node}`,
        agentVersion: '0.1.0',
        privileges: 'root',
        clockMs: Date.now(),
        freeBytes: { agent: FREE_BYTES, install: FREE_BYTES, data: FREE_BYTES },
      },
      installation: {
        method: 'script-bare',
        topology,
        installDir: '/usr/local/kaiwudb',
        dataDir: '/var/lib/kaiwudb',
        address: this.node,
        port: 26257,
        httpPort: 8080,
        user: 'kaiwudb',
        security: 'insecure',
        encrypted: false,
        peers: this.cluster.hosts.flatMap(({ node }) => (node === this.node ? [] : [node])),
        unit: {
          exists: true,
          active: process === undefined ? 'inactive' : 'active',
          enabled: true,
          ...(process && { mainPid: process.pid, startedAtMs: process.startedAtMs }),
        },
        versions: {
          recorded: version,
          package: version,
          binary: `V${version}`,
          ...(process && { running: `V${process.version}` }),
        },
        condition: this.#half ? 'package-half-installed' : 'clean',
        conditionDetail: this.#half ? 'the server package is half configured' : '',
      },
      serving: process !== undefined,
      ready: process !== undefined && !this.#isDraining,
      identity: { clusterId: this.cluster.id, kwdbId: this.kwdbId },
      ...(process && { view: this.#view(this) }),
      observedAtMs: Date.now(),
    };
  }

  #view(through: LightHost): ClusterView {
    const nodes = this.cluster.rows();
    return { clusterId: this.cluster.id, kwdbId: through.kwdbId, observedAtMs: Date.now(), nodes };
  }

  async health(): Promise<ClusterHealth> {
    const through = this.cluster.speaker(this);
    if (through === undefined) {
      throw new FleetError('KWBASE_FAILED', 'the database could not be asked', { words: 'Error: cannot dial server.' });
    }
    const up = this.cluster.hosts.filter((host) => host.isUp);
    const down = this.cluster.hosts.length - up.length;
    return {
      view: this.#view(through),
      rangesUnavailable: this.cluster.options.topology === 'single-replica' ? down : 0,
      rangesUnderreplicated: this.cluster.options.topology === 'multi-replica' ? down : 0,
      jobs: [],
      leases: up.map(({ kwdbId }) => ({ kwdbId, count: 10 })),
      sessions: up.map(({ kwdbId }) => ({ kwdbId, count: 2 })),
      settings: [{ name: 'server.time_until_store_dead', value: '30m0s' }],
    };
  }

  fetch(action: Action): Promise<void> {
    return this.bring(packageOf(action).sha256);
  }

  async drain(): Promise<void> {
    this.#isDraining = true;
  }

  async stop(_action: Action, watch: Watch): Promise<void> {
    if (this.#process === undefined) return;
    await watch.pause(STOP_MS);
    this.#note('down', this.#process.version);
    this.#process = undefined;
    this.#isDraining = false;
  }

  async install(action: Action, watch: Watch): Promise<void> {
    if (this.#process !== undefined) throw new FleetError('DEPLOY_STILL_RUNNING', 'the database runs');
    await watch.fence();
    watch.output(0, `[INFO] upgrade ${this.#installed} to ${action.to}\n`);
    await watch.pause(INSTALL_MS);
    if (this.cluster.options.installFails) {
      this.#half = true;
      this.#note('install-failed', action.to);
      throw new FleetError('INSTALL_FAILED', 'deploy.sh failed', {
        words: 'dpkg: error processing package kaiwudb-server',
      });
    }
    this.#change(action.to);
  }

  async installOnline(): Promise<void> {
    throw new FleetError('METHOD_UNSUPPORTED', 'the hosts of the demo are upgraded offline');
  }

  async start(_action: Action, watch: Watch): Promise<void> {
    if (this.#process !== undefined) return;
    await watch.fence();
    await watch.pause(START_MS);
    this.#lastStartMs = Date.now();
    this.#process = { pid: this.#pids++, version: this.#installed, startedAtMs: this.#lastStartMs };
    this.#note('up', this.#installed);
  }

  async putBack(action: Action, watch: Watch): Promise<void> {
    await watch.pause(INSTALL_MS);
    this.#half = false;
    if (this.#installed !== action.from) this.#change(action.from);
  }

  async setSetting(_entry: LedgerEntry): Promise<void> {}
  async restoreEnabled(): Promise<void> {}
  async isAtWork(): Promise<boolean> {
    return false;
  }

  async quiesce(): Promise<void> {}
  async release(): Promise<void> {}

  #change(version: string): void {
    this.#installed = version;
    this.#note('installed', version);
  }

  #note(event: HostEvent['event'], version: string): void {
    const { record, name } = this.cluster.options;
    record({ atMs: Date.now(), cluster: name, node: this.node, event, version });
  }
}
