/** A database host: its packages, its unit, its database process, its deploy.sh and its disk. Nothing of it trusts kwfleet. */
import type { BackupReceipt } from '@kwfleet/core';
import type { Database, LivenessRecord } from './database.ts';
import { type CommandKind, DeployCommand } from './deploy.ts';
import { Disk } from './disk.ts';
import type { Cause } from './evidence.ts';
import type { Faults } from './faults.ts';
import { compareReleases } from './releases.ts';
import type { SimCopy } from './sim-backups.ts';
import type { World } from './world.ts';

/** The four places of a version but the last, which is the process's. */
export type Packages = {
  recorded: string | undefined;
  package: string | undefined;
  binary: string | undefined;
  /** The package manager calls a package half-installed. */
  half: boolean;
};

export type DatabaseProcess = {
  readonly pid: number;
  readonly version: string;
  readonly startedHostMs: number;
  /** The same in true time. */
  readonly startedMs: number;
  joinedAtMs: number | undefined;
  joined: boolean;
  canBeReady: boolean;
  ready: boolean;
  drained: boolean;
  /** The order that drained it. */
  drainedBy: string | undefined;
};

/** As far as a clock that is kept may be off. */
const CLOCK_OFFSET_MS = 400;

export class Host {
  readonly node: string;
  readonly kwdbId: number;
  readonly address: string;
  readonly world: World;
  readonly faults: Faults;
  readonly database: Database;
  readonly disk = new Disk();
  packages: Packages;
  kept: string | undefined;
  readonly fetched = new Set<string>();
  unit: { failed: boolean; enabled: boolean; busy: 'activating' | 'deactivating' | undefined };
  /** `--upgrade-complete` among the start arguments. */
  completesUpgrade = false;
  marked = false;
  process: DatabaseProcess | null = null;
  record: LivenessRecord | null = null;
  healedAtMs = 0;
  /** The newest version that ever opened the data, and how often they were written: each start writes. */
  data: { readonly version: string; readonly writes: number };
  /** Cold copies, by the run that made them; on disk, as is what a restore moved aside. */
  readonly copies = new Map<string, SimCopy>();
  readonly receipts = new Map<string, BackupReceipt>();
  readonly replaced = new Map<string, Host['data']>();
  up = true;
  boot = 1;
  command: DeployCommand | null = null;
  /** Commands by id, with how they ended; on disk, so a reboot keeps them. */
  readonly commands = new Map<string, DeployCommand>();
  #offsetMs: number;
  #pids = 100;

  constructor(world: World, faults: Faults, database: Database, index: number, version: string) {
    this.world = world;
    this.faults = faults;
    this.database = database;
    this.node = `n${index + 1}`;
    this.kwdbId = index + 1;
    this.address = `10.0.0.${index + 1}:26257`;
    this.packages = { recorded: version, package: version, binary: version, half: false };
    this.data = { version, writes: 1 };
    this.unit = { failed: false, enabled: world.random.chance(0.5), busy: undefined };
    this.#offsetMs = world.random.int(-CLOCK_OFFSET_MS, CLOCK_OFFSET_MS);
  }

  get dataVersion(): string {
    return this.data.version;
  }

  #write(version: string): void {
    this.data = { version, writes: this.data.writes + 1 };
  }

  /** This host's own clock. */
  clock(): number {
    return this.world.nowMs + this.#offsetMs;
  }

  /** A person lets NTP set it. */
  setClock(): void {
    if (Math.abs(this.#offsetMs) > CLOCK_OFFSET_MS) this.#offsetMs = 0;
  }

  jumpClock(byMs: number): void {
    this.#offsetMs += byMs;
  }

  get active(): 'active' | 'inactive' | 'failed' | 'activating' | 'deactivating' {
    if (this.unit.busy !== undefined) return this.unit.busy;
    if (this.process !== null) return 'active';
    return this.unit.failed ? 'failed' : 'inactive';
  }

  /** The database was running long before anything here begins. */
  beginServing(): void {
    const startedMs = this.world.nowMs - this.world.random.int(3_600_000, 86_400_000);
    const startedHostMs = startedMs + this.#offsetMs;
    const version = this.packages.binary as string;
    this.process = {
      pid: this.#pids++,
      version,
      startedHostMs,
      startedMs,
      joinedAtMs: startedMs + 3_000,
      joined: true,
      canBeReady: true,
      ready: true,
      drained: false,
      drainedBy: undefined,
    };
    this.record = { build: version, startedHostMs, updatedHostMs: startedHostMs + 1, beatMs: startedMs };
  }

  /** `systemctl start`: returns at once, and says nothing of whether the database comes up. */
  start(cause: Cause, action?: string): void {
    if (this.process !== null || this.unit.busy !== undefined) return;
    this.unit.failed = false;
    this.unit.busy = 'activating';
    this.#later(this.world.random.int(20, 800), () => this.#exec(cause, action));
  }

  #exec(cause: Cause, action: string | undefined): void {
    this.unit.busy = undefined;
    const { binary } = this.packages;
    if (binary === undefined) {
      // 203/EXEC: there is nothing to run.
      this.unit.failed = true;
      return;
    }
    const before = this.record?.build ?? binary;
    const version = compareReleases(before, binary) < 0 && this.faults.strikes('startsOld') ? before : binary;
    this.world.tell({ type: 'started', node: this.node, version, cause, action, dataVersion: this.dataVersion });
    const startedHostMs = this.clock();
    this.process = {
      pid: this.#pids++,
      version,
      startedHostMs,
      startedMs: this.world.nowMs,
      joinedAtMs: undefined,
      joined: false,
      canBeReady: !this.faults.strikes('neverReady'),
      ready: false,
      drained: false,
      drainedBy: undefined,
    };
    const { pid } = this.process;
    if (compareReleases(version, this.dataVersion) < 0 || this.faults.strikes('startCrashes')) {
      // It may have opened the data before it fell.
      if (compareReleases(version, this.dataVersion) > 0 && this.world.random.chance(0.5)) this.#write(version);
      this.#later(this.world.random.int(100, 3_000), () => this.crash(pid, cause === 'system' ? 'system' : 'own'));
      return;
    }
    if (compareReleases(version, this.dataVersion) > 0) this.#write(version);
    else this.#write(this.dataVersion);
    this.#later(this.world.random.int(500, 12_000), () => this.#join(pid));
  }

  #join(pid: number): void {
    const { process, world } = this;
    if (process?.pid !== pid) return;
    process.joined = true;
    process.joinedAtMs = world.nowMs;
    world.tell({ type: 'joined', node: this.node });
    const slow = this.faults.strikes('healsSlowly');
    this.healedAtMs = world.nowMs + (slow ? world.random.int(20_000, 200_000) : world.random.int(0, 8_000));
    this.record = {
      build: process.version,
      startedHostMs: process.startedHostMs,
      updatedHostMs: Math.max(process.startedHostMs, this.clock() - 1),
      beatMs: world.nowMs,
    };
    if (this.completesUpgrade) {
      this.completesUpgrade = false;
      this.database.completeUpgrade(this);
    }
    this.database.refresh();
    if (this.faults.strikes('flaps')) {
      this.#later(world.random.int(500, 60_000), () => {
        if (!this.faults.active) return;
        this.crash(pid, 'own');
        if (world.random.chance(0.6)) this.#later(5_000, () => this.start('own'));
      });
    }
  }

  /** `systemctl stop`; the process takes its time. */
  stop(cause: Cause, action?: string): void {
    const { process, world } = this;
    if (process === null || this.unit.busy === 'deactivating') return;
    this.unit.busy = 'deactivating';
    const hangs = this.faults.strikes('stopHangs');
    // systemd kills what does not stop within 90 s.
    this.#later(hangs ? 90_000 : world.random.int(100, 6_000), () => {
      if (this.process !== process) return;
      this.unit.busy = undefined;
      this.#gone(cause, 'stopped', action);
      this.world.tell({ type: 'stopped', node: this.node, cause, action });
    });
  }

  /** The process ends by itself. */
  crash(pid: number, cause: Cause): void {
    if (this.process?.pid !== pid) return;
    this.unit.busy = undefined;
    this.unit.failed = true;
    this.#gone(cause, 'crashed', undefined);
  }

  drain(action: string): void {
    if (this.process === null) return;
    this.process.drained = true;
    this.process.drainedBy = action;
    this.database.refresh();
  }

  #gone(cause: Cause, why: string, action: string | undefined): void {
    const wasReady = this.process?.ready === true;
    if (this.process?.joined === true) this.world.tell({ type: 'left', node: this.node });
    this.database.isLive(this);
    this.process = null;
    if (wasReady) this.world.tell({ type: 'unready', node: this.node, cause, why, action });
    this.database.refresh();
  }

  /** Starts deploy.sh, outside the agent's process; the same id is started once. */
  runDeploy(kind: CommandKind, id: string, version: string, action: string): void {
    if (this.commands.has(id)) return;
    this.command = new DeployCommand(this, kind, version, action);
    this.commands.set(id, this.command);
    this.command.begin();
  }

  /** Power is gone: whatever ran is no more; the disk stays. */
  powerOff(): void {
    this.up = false;
    this.boot++;
    this.command?.kill();
    for (const command of this.commands.values()) command.orphan = false;
    this.unit.busy = undefined;
    this.unit.failed = false;
    if (this.process !== null) this.#gone('own', 'the host went down', undefined);
  }

  powerOn(): void {
    this.up = true;
    if (this.unit.enabled) this.#later(1_000, () => this.start('own'));
  }

  /** In this boot of the host only. */
  #later(delayMs: number, run: () => void): void {
    const { boot } = this;
    this.world.after(delayMs, () => {
      if (this.boot === boot && this.up) run();
    });
  }
}
