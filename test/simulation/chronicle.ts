/** What the checkers share: how each host stood over time, gathered from evidence alone. */
import type { Action, Phase, Plan } from '@kwfleet/core';
import { i1 } from './checkers/i1.ts';
import { i2 } from './checkers/i2.ts';
import { i3 } from './checkers/i3.ts';
import { i4 } from './checkers/i4.ts';
import { i5 } from './checkers/i5.ts';
import { i6 } from './checkers/i6.ts';
import { i7 } from './checkers/i7.ts';
import { i8 } from './checkers/i8.ts';
import { i9 } from './checkers/i9.ts';
import { i10 } from './checkers/i10.ts';
import { i11 } from './checkers/i11.ts';
import type { Evidence } from './evidence.ts';
import type { Simulation } from './simulation.ts';

/** Judges what happens; `fails` says so, with the reason. */
export type Checker = {
  readonly invariant: string;
  /** Something happened; the records are of before it. */
  readonly see?: (evidence: Evidence, chronicle: Chronicle, fails: (message: string) => void) => void;
  /** The run of the simulation is over. */
  readonly end?: (chronicle: Chronicle, fails: (message: string) => void) => void;
};

const CHECKERS: readonly Checker[] = [i1, i2, i3, i4, i5, i6, i7, i8, i9, i10, i11];

/** Deeds that take a serving node down. */
export const DISRUPTIVE: ReadonlySet<Phase> = new Set(['drain', 'stop', 'install-online']);

export class HostRecord {
  /** Since when it takes clients without a break, and at which version. */
  readySinceMs: number | undefined = 0;
  version: string | undefined;
  downSinceMs: number | undefined;
  /** The run that last took it down. */
  takenBy: string | undefined;
  takenAtMs = 0;
  /** The longest time it took clients without a break since then. */
  #spellMs = 0;
  #memberSinceMs: number | undefined;
  #memberMs = 0;
  spellVersion: string | undefined;
  /** When it last served the version it serves, or served. */
  lastServedMs = 0;

  takenDown(run: string, nowMs: number): void {
    this.takenBy = run;
    this.takenAtMs = nowMs;
    this.#spellMs = 0;
    this.spellVersion = undefined;
    this.#memberMs = 0;
  }

  joined(nowMs: number): void {
    this.#memberSinceMs = nowMs;
  }

  left(nowMs: number): void {
    this.#memberMs = this.memberMs(nowMs);
    this.#memberSinceMs = undefined;
  }

  /** The longest time the database counted it in without a break, since it was taken down. */
  memberMs(nowMs: number): number {
    if (this.#memberSinceMs === undefined || this.#memberSinceMs < this.takenAtMs) return this.#memberMs;
    return Math.max(this.#memberMs, nowMs - this.#memberSinceMs);
  }

  ready(version: string, nowMs: number): void {
    this.readySinceMs = nowMs;
    this.version = version;
    this.downSinceMs = undefined;
    // A node that changes its version begins a new spell.
    if (version !== this.spellVersion) this.#spellMs = 0;
    this.spellVersion = version;
  }

  unready(nowMs: number): void {
    this.#spellMs = this.spellMs(nowMs);
    this.readySinceMs = undefined;
    this.downSinceMs = nowMs;
    this.lastServedMs = nowMs;
  }

  spellMs(nowMs: number): number {
    if (this.readySinceMs === undefined || this.readySinceMs < this.takenAtMs) return this.#spellMs;
    return Math.max(this.#spellMs, nowMs - this.readySinceMs);
  }
}

export class Chronicle {
  readonly sim: Simulation;
  readonly hosts = new Map<string, HostRecord>();
  readonly #watch = CHECKERS.flatMap(({ invariant, see }) =>
    see === undefined ? [] : [{ see, fails: (message: string) => this.sim.violate(invariant, message) }],
  );
  readonly trace: { readonly atMs: number; readonly evidence: Evidence }[] = [];

  constructor(sim: Simulation) {
    this.sim = sim;
    for (const { node, process } of sim.hosts) {
      const record = new HostRecord();
      record.version = process?.version;
      this.hosts.set(node, record);
    }
  }

  get nowMs(): number {
    return this.sim.world.nowMs;
  }

  /** The order as the store has it: what was really decided, whatever an agent was told. */
  order(id: string): Action | undefined {
    return this.sim.store.orders.get(id)?.action;
  }

  plan(run: string): Plan | undefined {
    return this.sim.store.runs.get(run)?.plan;
  }

  note(evidence: Evidence): void {
    this.trace.push({ atMs: this.nowMs, evidence });
    for (const { see, fails } of this.#watch) see(evidence, this, fails);
    this.#record(evidence);
  }

  end(): void {
    for (const { invariant, end } of CHECKERS) end?.(this, (message) => this.sim.violate(invariant, message));
  }

  #record(evidence: Evidence): void {
    if (!('node' in evidence)) return;
    const record = this.hosts.get(evidence.node) as HostRecord;
    if (evidence.type === 'joined') record.joined(this.nowMs);
    if (evidence.type === 'left') record.left(this.nowMs);
    if (evidence.type === 'ready') record.ready(evidence.version, this.nowMs);
    if (evidence.type === 'unready') record.unready(this.nowMs);
    if (evidence.type === 'deed' && DISRUPTIVE.has(evidence.deed) && record.readySinceMs !== undefined) {
      record.takenDown(this.order(evidence.action)?.run ?? '', this.nowMs);
    }
  }
}
