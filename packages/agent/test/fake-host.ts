/** A host small enough to reason about: the driver over it, a clock that only sleeping moves, storage that crashes. */
import {
  type Action,
  type ActionResult,
  type BackupReceipt,
  type ClusterHealth,
  type Condition,
  FleetError,
  type LedgerEntry,
  type Method,
  type NodeReport,
  type NodeRow,
  type PackageInfo,
  type Surroundings,
} from '@kwfleet/core';
import type { AgentMessage } from '@kwfleet/protocol';
import type { Backups } from '../src/backup/backups.ts';
import type { Clock } from '../src/clock.ts';
import type { Driver, Watch } from '../src/driver/driver.ts';
import { Executor } from '../src/executor/executor.ts';
import { Journal, type JournalStorage } from '../src/journal/journal.ts';

export const CLUSTER = 'c1';

export class FakeClock implements Clock {
  nowMs = 1_000_000;
  /** What the host's own clock is wrong by: it can be set, and come up with another after a power cut. */
  wrongMs = 0;

  now(): number {
    return this.nowMs + this.wrongMs;
  }

  elapsed(): number {
    return this.nowMs;
  }

  async sleep(ms: number): Promise<void> {
    this.nowMs += ms;
    // Lets everything that is ready run before the sleeper does.
    await new Promise((resolve) => setImmediate(resolve));
  }
}

/** What can go wrong on the host. */
export type Faults = {
  installFails?: boolean;
  /** The installation leaves the new binary under the old `.version`. */
  installHalf?: boolean;
  crashOnStart?: boolean;
  stopFails?: boolean;
  drainFails?: boolean;
  putBackFails?: boolean;
  /** An under-replicated range, so many looks long. */
  unhealthyLooks?: number;
  mute?: boolean;
  installHangs?: boolean;
  backupDiskFull?: boolean;
  backupDamaged?: boolean;
  restoreFails?: boolean;
  startsWhileStaging?: boolean;
  /** A database that waits for the rest of its cluster answers nobody. */
  tellsNoVersion?: boolean;
  /** Something starts the database while an installation is at work, and it falls before anybody looks. */
  fallsMeanwhile?: boolean;
  /** What the database that came up while the version before was put back tells that it is. */
  comesUpMeanwhile?: string;
  /** An online upgrade starts the new version, which falls; from then on nobody can look. */
  fallsOnline?: boolean;
  /** A command of the order goes on after the phase that began it has failed. */
  atWork?: boolean | 'unknown';
  /** So many looks that get no answer. */
  silentLooks?: number;
};

export class FakeHost implements Driver {
  readonly clock: FakeClock;
  readonly faults: Faults;
  installed = '3.0.0';
  half = false;
  running: { pid: number; version: string; startedAtMs: number } | null;
  draining = false;
  enabled = true;
  freeBytes = 1e12;
  surroundings: Surroundings | undefined;
  method: Method = 'script-bare';
  /** Of whose image the last look was to tell. */
  wanted: PackageInfo | undefined;
  settings = new Map([['server.time_until_store_dead', '30m0s']]);
  /** Another node fell: the database lists it as not live. */
  peerDown = false;
  /** What happens around the host before it is drained, or upgraded while it runs. */
  meanwhile: () => void = () => {};
  /** Every deed, in order. */
  readonly deeds: string[] = [];
  #nextPid = 100;

  constructor(clock: FakeClock, faults: Faults = {}) {
    this.clock = clock;
    this.faults = faults;
    this.running = { pid: this.#nextPid++, version: '3.0.0', startedAtMs: clock.now() - 5000 };
  }

  async observe(wanted?: PackageInfo): Promise<NodeReport> {
    this.wanted = wanted;
    this.#refuseSilent();
    const condition: Condition = this.half ? 'package-half-installed' : 'clean';
    const serving = this.running !== null;
    return {
      host: {
        hostname: 'h1',
        architecture: 'amd64',
        distribution: { id: 'debian', versionId: '12', family: 'deb' },
        bootId: 'boot',
        agentVersion: '0',
        privileges: 'root',
        clockMs: this.clock.now(),
        freeBytes: { agent: this.freeBytes, install: this.freeBytes, data: this.freeBytes },
        ...(this.surroundings === undefined ? {} : { surroundings: this.surroundings }),
      },
      installation: {
        method: this.method,
        topology: 'multi-replica',
        installDir: '/usr/local/kaiwudb',
        dataDir: '/var/lib/kaiwudb',
        address: '10.0.0.1',
        port: 26257,
        httpPort: 8080,
        user: 'kaiwudb',
        security: 'insecure',
        encrypted: false,
        peers: [],
        unit: {
          exists: true,
          active: serving ? 'active' : this.#crashed ? 'failed' : 'inactive',
          enabled: this.enabled,
          ...(this.running === null ? {} : { mainPid: this.running.pid, startedAtMs: this.running.startedAtMs }),
        },
        versions: {
          recorded: this.installed,
          package: this.installed,
          binary: this.installed,
          ...(this.running === null || this.faults.tellsNoVersion === true ? {} : { running: this.running.version }),
        },
        condition,
        conditionDetail: this.half ? 'kaiwudb-server is iF' : '',
      },
      serving,
      ready: serving && !this.draining,
      identity: { clusterId: CLUSTER, kwdbId: 1 },
      observedAtMs: this.clock.now(),
    };
  }

  #crashed = false;

  #refuseSilent(): void {
    const left = this.faults.silentLooks ?? 0;
    if (left === 0) return;
    this.faults.silentLooks = left - 1;
    throw new FleetError('SERVICE_MANAGER_SILENT', 'systemd does not tell the state of kaiwudb');
  }

  async health(): Promise<ClusterHealth> {
    if (this.faults.mute === true) throw new FleetError('KWBASE_FAILED', 'no answer', { words: 'cannot dial server' });
    const left = this.faults.unhealthyLooks ?? 0;
    if (left > 0) this.faults.unhealthyLooks = left - 1;
    const row = (kwdbId: number, up: boolean): NodeRow => ({
      kwdbId,
      build: kwdbId === 1 ? (this.running?.version ?? '3.0.0') : '3.0.0',
      startedAtMs: kwdbId === 1 ? (this.running?.startedAtMs ?? 0) : 1,
      updatedAtMs: this.clock.now(),
      isAvailable: up,
      isLive: up,
      isDecommissioning: false,
      isDraining: false,
    });
    const own = this.running !== null;
    return {
      view: {
        clusterId: CLUSTER,
        kwdbId: own ? 1 : 2,
        observedAtMs: this.clock.now(),
        nodes: [row(1, own), row(2, !this.peerDown), row(3, true)],
      },
      rangesUnavailable: 0,
      rangesUnderreplicated: left > 0 ? 1 : 0,
      settings: [...this.settings].map(([name, value]) => ({ name, value })),
      jobs: [],
    };
  }

  async fetch(): Promise<void> {
    this.deeds.push('fetch');
  }

  async drain(): Promise<void> {
    this.deeds.push('drain');
    this.draining = true;
    this.meanwhile();
    if (this.faults.drainFails === true) throw new FleetError('DRAIN_FAILED', 'told to fail');
  }

  async stop(): Promise<void> {
    this.deeds.push('stop');
    if (this.faults.stopFails === true) throw new FleetError('STOP_FAILED', 'told to fail');
    this.running = null;
    this.draining = false;
  }

  async quiesce(): Promise<void> {}

  async isAtWork(): Promise<boolean> {
    if (this.faults.atWork === 'unknown') throw new FleetError('SERVICE_MANAGER_SILENT', 'no answer');
    return this.faults.atWork ?? false;
  }

  async install(action: Action, watch: Watch): Promise<void> {
    this.meanwhile();
    await watch.fence();
    if (this.running !== null) throw new Error('installed under a running database');
    this.deeds.push('install');
    watch.output(0, 'installing\n');
    while (this.faults.installHangs === true) await watch.pause();
    this.half = this.faults.installHalf === true;
    if (this.faults.fallsMeanwhile === true) this.#crashed = true;
    if (this.faults.installFails === true || this.half) throw new FleetError('INSTALL_FAILED', 'told to fail');
    this.installed = action.to;
  }

  async installOnline(action: Action, watch: Watch): Promise<void> {
    this.meanwhile();
    await watch.fence();
    this.deeds.push('install-online');
    if (this.faults.fallsOnline === true) {
      this.running = null;
      this.#crashed = true;
      this.faults.silentLooks = 2;
      throw new FleetError('SERVICE_MANAGER_SILENT', 'systemd does not tell the state of the command');
    }
    if (this.faults.installFails === true) throw new FleetError('DEPLOY_MARK_FAILED', 'told to fail');
    this.half = this.faults.installHalf === true;
    if (this.half) throw new FleetError('INSTALL_FAILED', 'told to fail');
    this.installed = action.to;
    this.running = { pid: this.#nextPid++, version: action.to, startedAtMs: this.clock.now() };
  }

  async start(): Promise<void> {
    this.deeds.push(`start ${this.installed}`);
    this.clock.nowMs += 10;
    this.#crashed = this.faults.crashOnStart === true && this.installed !== '3.0.0';
    if (!this.#crashed) this.running = { pid: this.#nextPid++, version: this.installed, startedAtMs: this.clock.now() };
  }

  async putBack(action: Action, watch: Watch): Promise<void> {
    this.meanwhile();
    await watch.fence();
    if (this.running !== null) throw new Error('put back under a running database');
    this.deeds.push('put-back');
    if (this.faults.comesUpMeanwhile !== undefined) {
      this.running = { pid: 98, version: this.faults.comesUpMeanwhile, startedAtMs: this.clock.now() };
    }
    if (this.faults.putBackFails === true) throw new FleetError('INSTALL_FAILED', 'told to fail');
    this.installed = action.from;
    this.half = false;
  }

  async setSetting(entry: LedgerEntry): Promise<void> {
    this.deeds.push(`set ${entry.value}`);
    this.settings.set(entry.name, entry.value);
  }

  async restoreEnabled(enabled: boolean): Promise<void> {
    this.enabled = enabled;
  }

  async release(): Promise<void> {}
}

/** Bytes in memory. At the write of number `crashAt` the process dies: `keeps` of the bytes reach the disk. */
export class CrashingStorage implements JournalStorage {
  bytes: Buffer;
  writes = 0;
  readonly crashed: Promise<void>;
  #crash: () => void = () => {};
  readonly #crashAt: number;
  readonly #keeps: number;

  constructor(bytes: Uint8Array = new Uint8Array(), crashAt = Number.POSITIVE_INFINITY, keeps = 0) {
    this.bytes = Buffer.from(bytes);
    this.#crashAt = crashAt;
    this.#keeps = keeps;
    this.crashed = new Promise((resolve) => {
      this.#crash = resolve;
    });
  }

  async read(): Promise<Uint8Array> {
    return Buffer.from(this.bytes);
  }

  append(bytes: Uint8Array): Promise<void> {
    this.writes += 1;
    const dies = this.writes === this.#crashAt;
    const kept = dies ? bytes.subarray(0, Math.round(bytes.length * this.#keeps)) : bytes;
    this.bytes = Buffer.concat([this.bytes, kept]);
    if (!dies) return Promise.resolve();
    this.#crash();
    // Whoever waits for a dead process's write waits for ever.
    return new Promise(() => {});
  }

  async replace(bytes: Uint8Array): Promise<void> {
    this.bytes = Buffer.from(bytes);
  }
}

/** Backups of a host without files: what was asked, in the host's own list of deeds, and one fault. */
export class FakeBackups implements Backups {
  readonly #host: FakeHost;
  #made: BackupReceipt | undefined;

  constructor(host: FakeHost) {
    this.#host = host;
  }

  async prepare(): Promise<void> {
    this.#host.deeds.push('prepare-backup');
  }

  async make(action: Action): Promise<void> {
    this.#host.deeds.push('back-up');
    if (this.#host.faults.backupDiskFull === true) throw new FleetError('DISK_FULL', 'no space for the copy');
    this.#made = {
      policy: action.backup ?? 'copy',
      place: `/backups/n1/${action.run}`,
      version: action.from,
      sizeBytes: 10,
      files: 1,
      manifestSha256: 'b'.repeat(64),
      madeAtMs: this.#host.clock.now(),
      removed: [],
    };
  }

  async made(): Promise<BackupReceipt | undefined> {
    return this.#made;
  }

  async check(): Promise<void> {
    this.#host.deeds.push('check-backup');
    if (this.#host.faults.backupDamaged === true) throw new FleetError('BACKUP_DAMAGED', 'a file is not as it was');
  }

  async stage(): Promise<void> {
    if (this.#host.faults.startsWhileStaging === true)
      this.#host.running = { pid: 99, version: '3.1.0', startedAtMs: this.#host.clock.now() };
  }

  async restore(): Promise<void> {
    this.#host.deeds.push('restore');
    if (this.#host.faults.restoreFails === true) throw new FleetError('RESTORE_FAILED', 'a rename failed');
  }

  async putBack(): Promise<void> {
    this.#host.deeds.push('put-data-back');
  }

  async discard(): Promise<void> {
    this.#host.deeds.push('discard');
  }
}

export async function executorOver(host: FakeHost, storage: JournalStorage) {
  const sent: AgentMessage[] = [];
  const journal = await Journal.open(storage);
  const send = (message: AgentMessage) => {
    sent.push(structuredClone(message));
  };
  const executor = new Executor({
    node: 'n1',
    driver: host,
    backups: new FakeBackups(host),
    journal,
    clock: host.clock,
    send,
  });
  return { executor, journal, sent };
}

export const resultsIn = (sent: readonly AgentMessage[]): ActionResult[] =>
  sent.flatMap((message) => ('result' in message ? [message.result] : []));

/** One order, from its acceptance to its result. */
export async function carryOut(
  faults: Faults,
  action: Action,
  prepare: (host: FakeHost) => void = () => {},
  storage = new CrashingStorage(),
) {
  const host = new FakeHost(new FakeClock(), faults);
  prepare(host);
  const { executor, sent, journal } = await executorOver(host, storage);
  await executor.accept(action);
  await executor.idle();
  const [result] = resultsIn(sent);
  if (result === undefined) throw new Error('no result');
  return { host, storage, executor, sent, journal, result };
}

export function order(change: Partial<Action> = {}): Action {
  return {
    id: 'run/upgrade:n1/1',
    run: 'run',
    cluster: CLUSTER,
    step: 'upgrade:n1',
    node: 'n1',
    attempt: 1,
    epoch: 5,
    phases: ['interlock', 'drain', 'stop', 'install', 'start', 'verify'],
    topology: 'multi-replica',
    from: '3.0.0',
    to: '3.1.0',
    package: {
      sha256: 'a'.repeat(64),
      fileName: 'p.tar.gz',
      sizeBytes: 1,
      unpackedBytes: 0,
      version: '3.1.0',
      kind: 'bare',
      architecture: 'amd64',
      family: 'deb',
    },
    bypassVersionCheck: false,
    kwdbId: 1,
    others: [2, 3],
    ledger: [],
    soakMs: 5000,
    sampleGapMs: 2000,
    deadline: { idleMs: 20_000, ceilingMs: 120_000 },
    ...change,
  };
}
