/**
 * PostgreSQL as the runner and the gateways use it: the tables of the controller's store, each transaction all or
 * nothing. Reached through `io`, so that a caller can die on either side of a commit; it can be away, and an answer
 * can be lost although the commit took effect.
 */
import {
  type Action,
  type ActionProgress,
  type ActionResult,
  type ApprovalScope,
  ENDED,
  FleetError,
  initialState,
  type NodeFacts,
  type NodeReport,
  type Plan,
  type RunApproval,
  type RunState,
  type RunTiming,
  type Window,
} from '@kwfleet/core';
import type {
  ApprovalInput,
  RunInput,
  RunRequestKind,
  RunSnapshot,
  RunStore,
  RunWrite,
} from '../../packages/controller/src/runner/run-store.ts';
import { hashOf } from './approvers.ts';
import type { Faults } from './faults.ts';
import { STEP_TIMES } from './windows.ts';
import type { Life, World } from './world.ts';

export type Run = {
  readonly id: string;
  readonly plan: Plan;
  readonly createdAtMs: number;
  state: RunState;
  epoch: number;
  owner: string | undefined;
  leaseUntilMs: number;
  inputSeq: number;
  appliedSeq: number;
  inputs: RunInput[];
  /** When its history last grew by more than progress. */
  movedAtMs: number;
  /** Every approval that anybody gave, whether it counts or not. */
  readonly said: Said[];
};

type Said = {
  readonly scope: ApprovalScope;
  readonly person: string;
  readonly isOfPlan: boolean;
  readonly atMs: number;
};

export type OrderRow = {
  readonly action: Action;
  readonly createdAtMs: number;
  ended: boolean;
  result: ActionResult | undefined;
};

type NodeRow = {
  report: NodeReport | undefined;
  lastSeenMs: number;
  clockSkewMs: number;
  stream: string | undefined;
  connectedUntilMs: number;
};

/** `ask` for the runner; `deliver` for the gateways. */
export type Notice = 'run' | 'action' | 'stream';

export class Store {
  readonly runs = new Map<string, Run>();
  readonly orders = new Map<string, OrderRow>();
  readonly nodes = new Map<string, NodeRow>();
  readonly windows = new Map<string, Window>();
  readonly #world: World;
  readonly #faults: Faults;
  #epoch = 0;
  down = false;
  /** Grows with each report that is stored and each link that comes or goes. */
  nodesEdition = 0;
  /** Told after each commit that others should look at; may be late, as notices are. */
  readonly listeners = new Set<(notice: Notice) => void>();

  constructor(world: World, faults: Faults) {
    this.#world = world;
    this.#faults = faults;
  }

  get activeRun(): Run | undefined {
    for (const run of this.runs.values()) if (!ENDED.has(run.state.status)) return run;
    return undefined;
  }

  /** One transaction for a process. */
  transaction<T>(life: Life, effect: () => T): Promise<T> {
    const { random } = this.#world;
    return this.#world.io(life, random.int(1, 8), () => {
      if (this.down) throw unavailable('the database does not answer');
      const value = effect();
      if (this.#faults.strikes('answerLost'))
        throw unavailable('the connection broke; nobody knows whether it was committed');
      return value;
    });
  }

  runStore(life: Life): RunStore {
    return {
      // Answered at once: it changes nothing, so dying around it is dying before the lease, which takes its time.
      activeRuns: async () => {
        if (this.down) throw unavailable('the database does not answer');
        return this.activeRun === undefined ? [] : [this.activeRun.id];
      },
      // A lease that another holds is as good as seen: nothing comes of it, now or a few milliseconds later.
      lease: async (run, owner, ttlMs) =>
        this.#isHeldByOther(this.#run(run), owner)
          ? null
          : this.transaction(life, () => this.#lease(run, owner, ttlMs)),
      load: (run) => this.transaction(life, () => this.snapshot(run)),
      commit: (run, epoch, write) => this.transaction(life, () => this.#commit(run, epoch, write, life.name)),
    };
  }

  #lease(id: string, owner: string, ttlMs: number): number | null {
    const run = this.#run(id);
    if (this.#isHeldByOther(run, owner)) return null;
    if (run.leaseUntilMs <= this.#world.nowMs) run.epoch = ++this.#epoch;
    run.owner = owner;
    run.leaseUntilMs = this.#world.nowMs + ttlMs;
    return run.epoch;
  }

  #isHeldByOther({ leaseUntilMs, owner: holder }: Run, owner: string): boolean {
    return leaseUntilMs > this.#world.nowMs && holder !== owner;
  }

  snapshot(id: string): RunSnapshot {
    const { plan, state, inputs, appliedSeq } = this.#run(id);
    return {
      plan,
      state,
      inputs: inputs.filter(({ seq }) => seq > appliedSeq),
      nodes: new Map(this.allNodes().map((facts) => [facts.node, facts])),
      windows: this.windows,
      stepTimes: STEP_TIMES,
      nowMs: this.#world.nowMs,
    };
  }

  #commit(id: string, epoch: number, write: RunWrite, owner: string): boolean {
    const run = this.#run(id);
    if (run.epoch !== epoch || run.owner === undefined) return false;
    const { nowMs } = this.#world;
    const before = run.state;
    run.state = write.state;
    run.appliedSeq = Math.max(run.appliedSeq, write.appliedSeq);
    run.inputs = run.inputs.filter(({ seq }) => seq > run.appliedSeq);
    if (write.events.some(({ type }) => type !== 'step-progressed')) run.movedAtMs = nowMs;
    for (const event of write.events) {
      if (event.type === 'step-reset')
        this.#world.tell({ type: 'event', run: id, text: `step-reset ${event.step}: ${event.why}` });
    }
    for (const action of write.actions) {
      for (const row of this.orders.values()) {
        if (row.action.run === id && row.action.step === action.step && row.action.id !== action.id) row.ended = true;
      }
      if (!this.orders.has(action.id)) {
        this.orders.set(action.id, { action, createdAtMs: nowMs, ended: false, result: undefined });
      }
      this.#world.tell({ type: 'ordered', action: action.id, epoch, owner });
    }
    if (ENDED.has(write.state.status)) {
      for (const row of this.orders.values()) if (row.action.run === id) row.ended = true;
    }
    if (write.actions.length > 0) this.#notify('action');
    if (before.status !== write.state.status) this.#tellStatus(run, write);
    return true;
  }

  #tellStatus({ id, state }: Run, { events }: RunWrite): void {
    const end = events.find((event) => event.type === 'run-ended');
    const reason = end?.type === 'run-ended' ? end.reason : undefined;
    this.#world.tell({ type: 'run-changed', run: id, status: state.status, hold: state.hold, reason });
  }

  /** Throws RUN_ACTIVE when there is one already. */
  createRun(plan: Plan, approval?: RunApproval, timing?: RunTiming): string {
    if (this.activeRun !== undefined) throw new FleetError('RUN_ACTIVE', 'the cluster has a run that is not ended');
    const id = `run${this.runs.size + 1}`;
    const { nowMs } = this.#world;
    this.runs.set(id, {
      id,
      plan,
      createdAtMs: nowMs,
      state: initialState(id, plan, approval, timing),
      said: [],
      epoch: 0,
      owner: undefined,
      leaseUntilMs: 0,
      inputSeq: 0,
      appliedSeq: 0,
      inputs: [],
      movedAtMs: nowMs,
    });
    this.#world.tell({ type: 'run-created', run: id, plan });
    this.#notify('run');
    return id;
  }

  request(id: string, request: RunRequestKind): void {
    this.#input(this.#run(id), { type: 'request', request, by: 'operator' });
  }

  approve(id: string, given: { scope: ApprovalScope; person: string; hash: string }): void {
    const run = this.#run(id);
    const { scope, person, hash } = given;
    run.said.push({ scope, person, isOfPlan: hash === hashOf(run.plan), atMs: this.#world.nowMs });
    this.#world.tell({ type: 'person', text: `${person} approves the ${scope} of ${id}` });
    this.#input(run, { type: 'request', request: 'approve', scope, hash, by: person });
  }

  attach(node: string, stream: string, linkMs: number): void {
    const known = this.nodes.get(node);
    const { nowMs } = this.#world;
    const link = { stream, connectedUntilMs: nowMs + linkMs };
    // What is known of the node is as old as before, until it says something new.
    const lastSeenMs = known?.lastSeenMs ?? nowMs;
    this.nodes.set(node, { report: known?.report, clockSkewMs: known?.clockSkewMs ?? 0, lastSeenMs, ...link });
    this.nodesEdition++;
    this.#notify('stream');
  }

  detach(node: string, stream: string): void {
    const row = this.nodes.get(node);
    if (row?.stream !== stream) return;
    row.stream = undefined;
    row.connectedUntilMs = 0;
    this.nodesEdition++;
    this.#notify('run');
  }

  storeReport(node: string, report: NodeReport, stream: string): void {
    const row = this.nodes.get(node);
    if (row === undefined || row.stream !== stream) return;
    row.report = report;
    this.nodesEdition++;
    row.lastSeenMs = this.#world.nowMs;
    row.clockSkewMs = report.host.clockMs - this.#world.nowMs;
    this.#notify('run');
  }

  beat(node: string, stream: string, linkMs: number, pulse?: { serving: boolean; ready: boolean }): void {
    const row = this.nodes.get(node);
    if (row === undefined || row.stream !== stream) return;
    row.lastSeenMs = this.#world.nowMs;
    row.connectedUntilMs = this.#world.nowMs + linkMs;
    if (pulse === undefined || row.report === undefined) return;
    const turned = row.report.serving !== pulse.serving || row.report.ready !== pulse.ready;
    if (!turned) return;
    row.report = { ...row.report, ...pulse };
    this.nodesEdition++;
    this.#notify('run');
  }

  pending(node: string): Action[] {
    const due: Action[] = [];
    for (const { action, ended } of this.orders.values()) if (!ended && action.node === node) due.push(action);
    return due;
  }

  storeResult(node: string, result: ActionResult): void {
    const row = this.orders.get(result.action);
    if (row === undefined || row.action.node !== node || row.result !== undefined) return;
    row.result = result;
    row.ended = true;
    const { outcome, disposition, failure } = result;
    const why = failure === undefined ? '' : `${failure.code} in ${failure.phase}: ${failure.message}`;
    this.#world.tell({ type: 'result', action: result.action, outcome, disposition, why });
    this.#input(this.#run(row.action.run), { type: 'result', result });
  }

  storeProgress(node: string, progress: ActionProgress): void {
    const row = this.orders.get(progress.action);
    if (row === undefined || row.ended || row.action.node !== node) return;
    this.#input(this.#run(row.action.run), { type: 'progress', progress });
  }

  allNodes(): NodeFacts[] {
    const all: NodeFacts[] = [];
    for (const [node, { report, stream, connectedUntilMs, lastSeenMs, clockSkewMs }] of this.nodes) {
      if (report === undefined) continue;
      const connected = stream !== undefined && connectedUntilMs > this.#world.nowMs;
      all.push({ node, connected, lastSeenMs, clockSkewMs, report });
    }
    return all.sort((a, b) => (a.node < b.node ? -1 : 1));
  }

  #input(run: Run, body: NewInput): void {
    run.inputs.push({ seq: ++run.inputSeq, atMs: this.#world.nowMs, ...body });
    this.#notify('run');
  }

  #run(id: string): Run {
    const run = this.runs.get(id);
    if (run === undefined) throw new Error(`there is no run ${id}`);
    return run;
  }

  #notify(notice: Notice): void {
    for (const listener of this.listeners) listener(notice);
  }
}

type NewInput =
  | { readonly type: 'result'; readonly result: ActionResult }
  | { readonly type: 'progress'; readonly progress: ActionProgress }
  | { readonly type: 'request'; readonly request: RunRequestKind; readonly by: string }
  | ({ readonly type: 'request' } & ApprovalInput);

const unavailable = (words: string) => new FleetError('UNAVAILABLE', 'PostgreSQL', { words });
