import {
  type Action,
  type ActionFailure,
  type ActionResult,
  type ClusterHealth,
  DESTRUCTIVE,
  type Disposition,
  type Finding,
  FleetError,
  type NodeReport,
  type Phase,
  sameVersion,
  type TransferOutcome,
} from '@kwfleet/core';
import type { AgentMessage } from '@kwfleet/protocol';
import type { Backups } from '../backup/backups.ts';
import type { Clock } from '../clock.ts';
import { type Driver, Stopping } from '../driver/driver.ts';
import type { Journal } from '../journal/journal.ts';
import type { ActionState, JournalRecord } from '../journal/records.ts';
import type { Transfers } from '../transfer/transfers.ts';
import { PhaseWatch } from './phase-watch.ts';

/** All that the agent's state machine touches the world through. */
export type Parts = {
  /** This node's name in the fleet. */
  readonly node: string;
  readonly driver: Driver;
  readonly backups: Backups;
  readonly journal: Journal;
  readonly clock: Clock;
  /** Absent where nothing is ever transferred: in the simulator. */
  readonly transfers?: Transfers;
  /** Hands a message to the link; never blocks, never throws. */
  readonly send: (message: AgentMessage) => void;
};

const RETRY_MS = 1000;

/** One action being carried out by one agent process: what its phases share. */
export class ActionRun {
  readonly parts: Parts;
  readonly entry: ActionState;
  readonly stopping: () => boolean;
  watch: PhaseWatch;
  /** The last answer to a cluster check, for the result. */
  health: ClusterHealth | undefined;
  /** What came of a phase of a transfer, for the result. */
  transfer: TransferOutcome | undefined;
  /** When this process last saw that the cluster can spare the node; a restart forgets it on purpose. */
  sparedAtMs: number | undefined;
  #lastReport: NodeReport | undefined;
  lastFinding: Finding | undefined;
  /** What the phase in hand asks before each start of a command; an outage of the agent may lie between two. */
  beforeCommand: (() => Promise<void>) | undefined;

  constructor(parts: Parts, entry: ActionState, stopping: () => boolean) {
    this.parts = parts;
    this.entry = entry;
    this.stopping = stopping;
    this.watch = this.newWatch(entry.phases[0]?.startedAtMs ?? parts.clock.now());
  }

  get action(): Action {
    return this.entry.action;
  }

  newWatch(startedAtMs: number): PhaseWatch {
    const { clock, send } = this.parts;
    return new PhaseWatch({
      action: this.entry.action.id,
      deadline: this.entry.action.deadline,
      startedAtMs,
      clock,
      send,
      stopping: this.stopping,
      fence: async (phase) => {
        await this.beforeCommand?.();
        this.fence(phase);
      },
    });
  }

  /** Throws EPOCH_STALE when an order of a later controller was seen meanwhile. */
  fence(phase: Phase): void {
    const { epoch, cluster } = this.action;
    const highest = this.parts.journal.state.epochs.get(cluster) ?? 0;
    if (DESTRUCTIVE.has(phase) && epoch < highest) {
      throw new FleetError('EPOCH_STALE', `the order is of epoch ${epoch}; epoch ${highest} is in charge now`);
    }
  }

  async observe(): Promise<NodeReport> {
    this.#lastReport = await this.parts.driver.observe(this.action.package);
    return this.#lastReport;
  }

  /** Asks the database; what it does not answer is a finding, not an error. */
  async askHealth(questions: 'ranges' | 'all'): Promise<{ health?: ClusterHealth; findings: Finding[] }> {
    try {
      this.health = await this.parts.driver.health(questions);
      return { health: this.health, findings: [] };
    } catch (error) {
      if (!(error instanceof FleetError)) throw error;
      const said = error.words === undefined ? error.message : `${error.message}: ${error.words}`;
      return { findings: [{ code: 'HEALTH_UNKNOWN', severity: 'block', message: said }] };
    }
  }

  /** Looks until nothing speaks against; rejects with DeadlineError when the time is over. */
  async until(look: () => Promise<readonly Finding[]>): Promise<void> {
    for (;;) {
      const findings = await look();
      this.lastFinding = findings[0];
      if (findings.length === 0) return;
      this.watch.detail(describe(findings));
      await this.watch.pause();
    }
  }

  /** Journals that the host is about to be changed, with what was running before the first change. */
  async deed(phase: Phase, report: NodeReport): Promise<void> {
    this.fence(phase);
    const action = this.action.id;
    if (this.entry.mark === null) await this.#mark(report);
    if (!this.entry.deeds.includes(phase)) await this.record({ type: 'deed', action, phase });
    // The journal may have been busy with the order of a later controller.
    this.fence(phase);
  }

  async #mark(report: NodeReport): Promise<void> {
    const { unit, versions } = installationOf(report);
    const { started } = this;
    if (versions.running !== undefined && (started === null || !sameVersion(started, versions.running))) {
      await this.record({ type: 'started', action: this.action.id, version: versions.running });
    }
    const mark = {
      running: unit.mainPid !== undefined,
      failed: unit.active === 'failed',
      enabled: unit.enabled,
      ...(unit.mainPid === undefined ? {} : { pid: unit.mainPid }),
      ...(unit.startedAtMs === undefined ? {} : { startedAtMs: unit.startedAtMs }),
    };
    await this.record({ type: 'mark', action: this.action.id, mark });
  }

  /** The version this agent knows to have last been started on the data. */
  get started(): string | null {
    return this.parts.journal.state.startedVersion;
  }

  async recordTargetStarted(patience: 'idle-limit' | 'for-ever' = 'idle-limit'): Promise<void> {
    if (this.entry.newVersionStarted) return;
    await this.record({ type: 'started', action: this.action.id, version: this.action.to }, patience);
  }

  /**
   * Appends to the journal; while that fails, tries again for the idle limit (or until the agent stops), because a
   * full disk is often emptied. Nothing is done on the host meanwhile.
   */
  async record(record: JournalRecord, patience: 'idle-limit' | 'for-ever' = 'idle-limit'): Promise<void> {
    const untilMs = this.parts.clock.elapsed() + this.action.deadline.idleMs;
    for (;;) {
      try {
        return await this.parts.journal.append(record);
      } catch (error) {
        if (patience === 'idle-limit' && this.parts.clock.elapsed() >= untilMs) throw error;
        this.watch.detail(`waiting: ${error instanceof Error ? error.message : String(error)}`);
        await this.parts.clock.sleep(RETRY_MS);
        if (this.stopping()) throw new Stopping();
      }
    }
  }

  async result(failure: ActionFailure | undefined, disposition: Disposition): Promise<ActionResult> {
    const backup = await this.parts.backups.made(this.action);
    return {
      action: this.action.id,
      outcome: failure === undefined ? 'succeeded' : 'failed',
      ...(failure === undefined ? {} : { failure }),
      disposition,
      newVersionStarted: this.entry.newVersionStarted || this.#targetStartedBefore(),
      phases: this.entry.phases.map(({ phase, startedAtMs, endedAtMs }) => ({
        phase,
        startedAtMs,
        endedAtMs: endedAtMs ?? this.parts.clock.now(),
      })),
      report: await this.#freshReport(),
      ...(this.health === undefined ? {} : { health: this.health }),
      ...(this.transfer === undefined ? {} : { transfer: this.transfer }),
      ...(backup === undefined ? {} : { backup }),
    };
  }

  /** An earlier action of the same upgrade may have started it. */
  #targetStartedBefore(): boolean {
    return this.started !== null && sameVersion(this.started, this.action.to);
  }

  async #freshReport(): Promise<NodeReport> {
    for (;;) {
      try {
        return await this.observe();
      } catch (error) {
        if (this.#lastReport !== undefined) return this.#lastReport;
        this.watch.detail(`the node cannot be observed: ${String(error)}`);
        await this.parts.clock.sleep(RETRY_MS);
        if (this.stopping()) throw new Stopping();
      }
    }
  }
}

export function installationOf(report: NodeReport): NonNullable<NodeReport['installation']> {
  if (report.installation === undefined) throw new FleetError('NOT_INSTALLED', 'KWDB is not installed on this host');
  return report.installation;
}

export function describe(findings: readonly Finding[]): string {
  const more = findings.length > 3 ? `, and ${findings.length - 3} more` : '';
  return `waiting: ${findings
    .slice(0, 3)
    .map((finding) => finding.message)
    .join('; ')}${more}`;
}
