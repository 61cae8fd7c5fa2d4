/**
 * The database as a cluster: what its nodes believe of each other (liveness records that outlive the process, range
 * counts that follow them) and what is really so. Source of every behaviour: the KWDB facts.
 */
import type { ClusterHealth, ClusterView, NodeRow, Topology } from '@kwfleet/core';
import type { Host } from './host.ts';
import type { World } from './world.ts';

export const CLUSTER_ID = '5a1c7bb0-7d7e-4f2b-9c39-6f1a2e3d4c5b';
export const STORE_DEAD_DEFAULT = '30m0s';
const STORE_DEAD_UPGRADING = '3h0m0s';

const START_MODES: Record<Topology, string> = {
  standalone: 'start-single-node',
  'multi-replica': 'start',
  'single-replica': 'start-single-replica',
};

/** What a node last wrote of itself; it stays when the node is gone. */
export type LivenessRecord = {
  build: string;
  startedHostMs: number;
  updatedHostMs: number;
  /** The true time of the last heartbeat. */
  beatMs: number;
};

type Job = { readonly id: string; readonly sinceMs: number; readonly untilMs: number };

export class Database {
  readonly topology: Topology;
  readonly hosts: Host[] = [];
  readonly ttlMs: number;
  readonly beatEveryMs: number;
  /** Each range by the indexes of the hosts that hold a replica. */
  ranges: readonly (readonly number[])[] = [];
  jobs: Job[] = [];
  storeDead: string;
  readonly storeDeadBefore: string;
  readonly #world: World;

  constructor(world: World, topology: Topology) {
    this.#world = world;
    this.topology = topology;
    this.ttlMs = world.random.int(9_000, 30_000);
    this.beatEveryMs = Math.round(this.ttlMs / 2);
    this.storeDead = world.random.chance(0.5) ? STORE_DEAD_DEFAULT : '1h15m0s';
    this.storeDeadBefore = this.storeDead;
  }

  /** Called once, when all hosts are there: three replicas a range, or one. */
  layOut(): void {
    const count = this.hosts.length;
    const copies = this.topology === 'multi-replica' ? 3 : 1;
    this.ranges = Array.from({ length: 6 }, (_, range) =>
      Array.from({ length: copies }, (_, replica) => (range + replica * (copies === 3 && count > 3 ? 1 : 1)) % count),
    );
  }

  set(value: string, cause: string): void {
    if (value === this.storeDead) return;
    this.storeDead = value;
    this.#world.tell({ type: 'setting', value, cause });
  }

  /** `kwbase node upgrade`: refused unless every node is live. */
  mark(host: Host): boolean {
    if (!this.hosts.every((other) => this.isLive(other))) return false;
    host.marked = true;
    this.set(STORE_DEAD_UPGRADING, `node upgrade of ${host.node}`);
    return true;
  }

  /** `--upgrade-complete` at a start: clears the mark, resets the setting to its default and not to what it was. */
  completeUpgrade(host: Host): void {
    host.marked = false;
    this.set(STORE_DEAD_DEFAULT, `--upgrade-complete of ${host.node}`);
  }

  /** What the cluster believes: the record of a node has not run out. */
  isLive(host: Host): boolean {
    this.#beat(host);
    return host.record !== null && this.#world.nowMs < host.record.beatMs + this.ttlMs;
  }

  /** Ranges with fewer than all replicas, and with fewer than a quorum of them, as the cluster believes. */
  countRanges(): { unavailable: number; underreplicated: number } {
    let unavailable = 0;
    let underreplicated = 0;
    const whole = this.hosts.map((host) => this.isLive(host) && this.#world.nowMs >= host.healedAtMs);
    const live = this.hosts.map((host) => this.isLive(host));
    for (const replicas of this.ranges) {
      if (replicas.some((index) => !whole[index])) underreplicated++;
      if (replicas.filter((index) => live[index]).length * 2 <= replicas.length) unavailable++;
    }
    return this.topology === 'multi-replica' ? { unavailable, underreplicated } : { unavailable, underreplicated: 0 };
  }

  /** Whether a quorum of every range really runs, leaving `without` out. */
  keepsQuorum(without: Host): boolean {
    return this.ranges.every((replicas) => {
      const up = replicas.filter(
        (index) => this.hosts[index] !== without && this.hosts[index]?.process?.ready === true,
      );
      return up.length * 2 > replicas.length;
    });
  }

  view(through: Host): ClusterView {
    return {
      clusterId: CLUSTER_ID,
      kwdbId: through.kwdbId,
      observedAtMs: through.clock(),
      nodes: this.hosts.map((host) => this.#row(host)),
    };
  }

  health(through: Host, questions: 'ranges' | 'all'): ClusterHealth {
    const { unavailable, underreplicated } = this.countRanges();
    const basics = {
      view: this.view(through),
      rangesUnavailable: unavailable,
      rangesUnderreplicated: underreplicated,
      settings: [{ name: 'server.time_until_store_dead', value: this.storeDead }],
    };
    if (questions === 'ranges') return basics;
    const { nowMs } = this.#world;
    this.jobs = this.jobs.filter(({ untilMs }) => untilMs > nowMs);
    return {
      ...basics,
      jobs: this.jobs.map(({ id }) => ({ id, type: 'IMPORT', description: 'bulk import', status: 'running' })),
      leases: this.hosts.map(({ kwdbId }) => ({ kwdbId, count: 4 })),
      sessions: this.hosts.map(({ kwdbId }) => ({ kwdbId, count: 2 })),
    };
  }

  /** A node takes clients once it joined; in a single-replica cluster also the one that holds the system's ranges must. */
  refresh(): void {
    for (const host of this.hosts) {
      const { process } = host;
      if (process === null) continue;
      const joined = process.joined && (this.topology !== 'single-replica' || this.hosts[0]?.process?.joined === true);
      const ready = joined && process.canBeReady && !process.drained;
      if (ready && !process.ready) {
        process.ready = true;
        this.#world.tell({ type: 'ready', node: host.node, version: process.version });
      }
      if (!ready && process.ready) {
        process.ready = false;
        const own = process.drainedBy === undefined;
        const cause = own ? 'own' : 'system';
        const why = own ? 'a node it needs is gone' : 'drained';
        this.#world.tell({ type: 'unready', node: host.node, cause, why, action: process.drainedBy });
      }
    }
  }

  #row(host: Host): NodeRow {
    const isLive = this.isLive(host);
    const { record } = host;
    return {
      kwdbId: host.kwdbId,
      ...(record === null
        ? {}
        : {
            address: host.address,
            build: `V${record.build}`,
            startedAtMs: record.startedHostMs,
            updatedAtMs: record.updatedHostMs,
            startMode: START_MODES[this.topology],
          }),
      isAvailable: isLive && !host.marked,
      isLive,
      isDecommissioning: false,
      isDraining: host.process?.drained === true,
    };
  }

  /** Heartbeats are worked out when somebody looks: the last one due while the process ran. */
  #beat(host: Host): void {
    const { process, record } = host;
    if (process === null || record === null || process.joinedAtMs === undefined) return;
    const beats = Math.floor((this.#world.nowMs - process.joinedAtMs) / this.beatEveryMs);
    const beatMs = process.joinedAtMs + beats * this.beatEveryMs;
    if (beatMs <= record.beatMs) return;
    record.beatMs = beatMs;
    record.updatedHostMs = host.clock() - (this.#world.nowMs - beatMs);
  }
}
