/**
 * A world for the engine: hosts with a database each, agents that carry actions out, and a controller that applies
 * what the engine decides. Every event and every dispatch is held against the invariants of the architecture, so that
 * whoever drives the model, a test or fast-check, drives it within them or sees it throw.
 */
import { Compile } from 'typebox/compile';
import {
  type Action,
  type ActionFailure,
  type ActionResult,
  type ApprovalScope,
  actionFor,
  actionId,
  apply,
  type ClusterHealth,
  type Decision,
  type Disposition,
  decide,
  ENDED,
  type EngineFacts,
  ERRORS,
  eventOfApproval,
  eventOfRequest,
  eventOfResult,
  GATE_FRESH_MS,
  initialState,
  judgeRejoined,
  judgeServing,
  judgeStopped,
  LOST_AFTER_MS,
  legalChoices,
  type NodeReport,
  type Phase,
  type Plan,
  parseActionId,
  type RunApproval,
  type RunEvent,
  RunState,
  type RunTiming,
  type Step,
  type StepState,
  type StepTimes,
  stepOf,
  type Window,
  wasBegun,
} from '../src/index.ts';
import {
  allAt,
  assertSame,
  facts,
  frozen,
  health,
  host,
  installation,
  NOW,
  report,
  row,
  START_MODE,
  STARTED,
} from './builders.ts';

const isRunState = Compile(RunState);
export const SECOND = 1_000;
export const MINUTE = 60_000;
export const HOUR = 3_600_000;

/** What a host is like, whether or not anyone knows. */
export type Host = {
  readonly node: string;
  readonly kwdbId: number;
  installed: string;
  running: string | undefined;
  /** Who took it down: the system under test, or the world. */
  down: 'us' | 'crash' | undefined;
  /** Somebody started it by hand while it was to stay down. */
  meddled: boolean;
  pid: number;
  startedAtMs: number;
  connected: boolean;
  lastSeenMs: number;
  /** How far its clock is ahead of the controller's, as the controller hears it. */
  skewMs: number;
  /** What its agent reported last. */
  report: NodeReport;
};

/**
 * How an action comes out: as the world allows, refused by its host for coming too late (where that matters to it), or
 * with a failure that leaves the node as said.
 */
export type Ending =
  | 'as it goes'
  | 'too late'
  | { readonly disposition: Disposition; readonly code?: string; readonly newVersionStarted?: boolean };

/** When a run may work, and the same once more as the model itself knows it. */
export type Schedule = {
  readonly timing: RunTiming;
  readonly windows: readonly Window[];
  readonly isOpen: (ms: number) => boolean;
  readonly stepTimes?: StepTimes;
};

function must(condition: boolean, why: string): asserts condition {
  if (!condition) throw new Error(why);
}

export class Model {
  readonly plan: Plan;
  readonly hosts: readonly Host[];
  readonly events: RunEvent[] = [];
  readonly initial: RunState;
  state: RunState;
  nowMs = NOW;
  /** Orders that agents have and did not finish. */
  orders: Action[] = [];
  /** Results that wait in journals for a connection. */
  journals: { readonly node: string; readonly result: ActionResult }[] = [];
  /** Every result that was ever delivered: any of them may come again. */
  readonly delivered: ActionResult[] = [];
  /** What the database lists as under way. */
  jobs: NonNullable<ClusterHealth['jobs']> = [];
  /** Every approval that anybody gave. */
  readonly said: { person: string; scope: ApprovalScope; hash: string; atMs: number }[] = [];
  /** May be changed in the middle, as people change windows. */
  schedule: Schedule | undefined;
  readonly #ids = new Set<string>();
  /** In the order in which it happened: the orders that copy a node, and the stops that were carried out. */
  readonly #course: { readonly node: string; readonly did: 'copy' | 'stop' }[] = [];
  /** Nodes that were taken down, and steps without a way back that were begun, each by the order that did it first. */
  readonly #touched = new Map<string, string>();
  /** When an agent answered, by the controller's clock, however late the controller hears of it. */
  readonly #answeredAtMs = new Map<string, number>();

  constructor(plan: Plan, approval?: RunApproval, schedule?: Schedule) {
    this.plan = frozen(plan);
    this.schedule = schedule;
    this.initial = frozen(initialState('r1', plan, approval, schedule?.timing));
    this.state = this.initial;
    this.hosts = plan.nodes.map(({ node, kwdbId, from }) => ({
      node,
      kwdbId,
      installed: from,
      running: from,
      down: undefined,
      meddled: false,
      pid: 100,
      startedAtMs: STARTED,
      connected: true,
      lastSeenMs: NOW,
      skewMs: 0,
      report: report(kwdbId, [plan.topology, plan.nodes.length]),
    }));
    for (const one of this.hosts) one.report = this.#reportOf(one);
  }

  /** All nodes are down together: a single-replica upgrade, and a backup of any cluster. */
  get #stopsAll(): boolean {
    return this.plan.steps.some(({ kind }) => kind === 'stop');
  }

  // Looking

  host(node: string): Host {
    const found = this.hosts.find((one) => one.node === node);
    must(found !== undefined, `no host ${node}`);
    return found;
  }

  step(id: string): StepState {
    const found = this.state.steps[id];
    must(found !== undefined, `no step ${id}`);
    return found;
  }

  get ended(): boolean {
    return ENDED.has(this.state.status);
  }

  /** Ids of the steps that are under way. */
  get running(): string[] {
    return Object.entries(this.state.steps).flatMap(([id, { status }]) => (status === 'running' ? [id] : []));
  }

  facts(): EngineFacts {
    return {
      nodes: new Map(
        this.hosts.map(({ node, kwdbId, connected, lastSeenMs, skewMs, report: last }) => [
          node,
          facts(kwdbId, last, { node, connected, lastSeenMs, clockSkewMs: skewMs }),
        ]),
      ),
      windows: new Map(this.schedule?.windows.map((window) => [window.name, window])),
      stepTimes: this.schedule?.stepTimes,
    };
  }

  decide(): Decision[] {
    return decide(this.plan, this.state, this.facts(), this.nowMs);
  }

  // The controller

  /** Decides once and does what was decided. */
  turn(): Decision[] {
    const decided = this.state;
    const decisions = this.decide();
    for (const decision of decisions) {
      if (decision.do === 'record') this.apply(decision.event);
      else this.#dispatch(decision.step, decision.executor, decided);
    }
    return decisions;
  }

  /** Decides until there is nothing to decide. What goes on for ever at one moment in time is a bug. */
  settle(): void {
    for (let turns = 0; this.turn().length > 0; turns++) {
      must(turns < 50, `it does not settle: ${JSON.stringify(this.events.slice(-6))}`);
    }
  }

  request(what: 'pause' | 'resume' | 'retry' | 'abort'): boolean {
    const event = eventOfRequest(this.state, what, 'ann', this.nowMs);
    if (event !== undefined) this.apply(event);
    return event !== undefined;
  }

  /** A person says that they agree; whether it counts is for the engine to say. */
  approve(person: string, scope: ApprovalScope = 'start', hash = this.state.approval?.hash ?? ''): boolean {
    this.said.push({ person, scope, hash, atMs: this.nowMs });
    const event = eventOfApproval(this.plan, this.state, { scope, person, hash }, this.nowMs);
    if (event !== undefined) this.apply(event);
    return event !== undefined;
  }

  apply(event: RunEvent): void {
    const before = this.state;
    this.state = frozen(apply(this.plan, before, event));
    this.events.push(event);
    this.#checkState(event);
  }

  #dispatch(step: Step, executor: string, decided: RunState): void {
    const action = actionFor(this.plan, decided, step, { executor, epoch: 1, nowMs: this.nowMs });
    this.#checkDispatch(step, action);
    const { id, attempt } = action;
    this.apply({ type: 'step-dispatched', step: step.id, attempt, executor, atMs: this.nowMs });
    this.#ids.add(id);
    if (step.kind === 'back-up' && action.backup === 'copy') this.#course.push({ node: executor, did: 'copy' });
    const touches = [
      ...(step.kind === 'stop' || step.kind === 'upgrade' ? [step.node] : []),
      ...(step.irreversible ? [step.id] : []),
    ];
    for (const what of touches) if (!this.#touched.has(what)) this.#touched.set(what, id);
    this.orders.push(action);
  }

  // Agents and the world

  /** Lets time pass; agents that are connected keep reporting. */
  wait(ms: number): void {
    this.nowMs += ms;
    this.heartbeat();
  }

  /** Lets time pass, deciding every 5 s as the runner does. */
  waitDeciding(ms: number): void {
    for (let passed = 0; passed < ms; passed += 5 * SECOND) {
      this.settle();
      this.wait(Math.min(5 * SECOND, ms - passed));
    }
    this.settle();
  }

  heartbeat(): void {
    for (const one of this.hosts) {
      if (!one.connected) continue;
      one.lastSeenMs = this.nowMs;
      one.report = this.#reportOf(one);
    }
  }

  disconnect(node: string): void {
    this.host(node).connected = false;
  }

  reconnect(node: string): void {
    this.host(node).connected = true;
    this.heartbeat();
    const waiting = this.journals.filter((one) => one.node === node);
    this.journals = this.journals.filter((one) => one.node !== node);
    for (const { result } of waiting) this.deliver(result);
  }

  /** The world takes a database down. */
  crash(node: string): void {
    const one = this.host(node);
    if (one.running === undefined) return;
    one.running = undefined;
    one.down = one.meddled ? 'us' : 'crash';
    one.meddled = false;
  }

  /** Somebody starts, by hand, the old version on a host that is to stay down. */
  meddle(node: string): void {
    const one = this.host(node);
    if (one.down !== 'us' || one.installed === this.plan.to) return;
    this.#start(one);
    one.meddled = true;
  }

  /** Somebody takes back what the world did. */
  mend(): void {
    for (const one of this.hosts) {
      if (one.down === 'crash') this.#start(one);
      if (one.meddled) this.#stop(one);
    }
  }

  /** An agent carries an order out and reports it, at once or when it is connected again. */
  finish(action: Action, ending: Ending = 'as it goes'): void {
    this.orders = this.orders.filter((one) => one !== action);
    this.nowMs += SECOND;
    const result = this.#resultOf(action, ending);
    this.#answeredAtMs.set(action.id, this.nowMs);
    this.heartbeat();
    if (this.host(action.node).connected) this.deliver(result);
    else this.journals.push({ node: action.node, result });
  }

  #resultOf(action: Action, ending: Ending): ActionResult {
    if (ending === 'as it goes' || (ending === 'too late' && action.beginByMs === undefined))
      return this.#carryOut(action);
    if (ending !== 'too late') return this.#fail(action, ending);
    return this.#fail(action, { disposition: 'untouched', code: 'ORDER_LATE' });
  }

  /** Finishes the order of a step that is under way. */
  end(step: string, ending: Ending = 'as it goes'): void {
    const id = `r1/${step}/${this.step(step).attempt}`;
    const action = this.orders.find((one) => one.id === id);
    must(action !== undefined, `no agent has an order ${id}`);
    this.finish(action, ending);
  }

  /** Goes on, everything going well, until all of these steps succeeded. */
  until(...steps: string[]): void {
    for (let turns = 0; steps.some((id) => this.step(id).status !== 'succeeded'); turns++) {
      must(turns < 200, `${steps.join(', ')} are not reached: ${JSON.stringify(this.state)}`);
      this.settle();
      const action = this.orders.find((one) => this.running.includes(one.step));
      if (action === undefined) this.wait(SECOND);
      else this.finish(action);
    }
  }

  /** Brings a result to the controller, for the first time or not. */
  deliver(result: ActionResult): void {
    const event = eventOfResult(this.plan, this.state, result, this.nowMs);
    this.delivered.push(result);
    if (event === undefined) return;
    this.apply(event);
    this.#forget(result);
    const after = this.state;
    must(eventOfResult(this.plan, after, result, this.nowMs + 1) === undefined, `${result.action} counts twice`);
    if (event.type === 'step-ended') must(apply(this.plan, after, event) === after, `${result.action} applies twice`);
  }

  /** What an order left as it was is as untouched as before. */
  #forget({ action, disposition }: ActionResult): void {
    const served = disposition === 'untouched' || (disposition === 'backed-out' && action.startsWith('r1/upgrade:'));
    if (!served) return;
    for (const [what, by] of this.#touched) if (by === action) this.#touched.delete(what);
  }

  /** Progress of an attempt, of now or of long ago. */
  progress(step: string, attempt: number, phase: Phase = 'verify'): void {
    const { status, attempt: current } = this.step(step);
    const event: RunEvent = { type: 'step-progressed', step, attempt, phase, detail: 'moving', atMs: this.nowMs };
    const before = this.state;
    this.apply(event);
    if (status !== 'running' || attempt !== current) {
      must(this.state === before, `late progress of ${step} attempt ${attempt} changed something`);
    }
  }

  healthSeenBy(viewer: Host): ClusterHealth | undefined {
    if (viewer.running === undefined) return undefined;
    const rows = this.hosts.map(({ kwdbId, running, startedAtMs }) =>
      row(kwdbId, {
        build: `V${running ?? this.plan.to}`,
        startedAtMs,
        updatedAtMs: running === undefined ? startedAtMs + 1 : Math.max(this.nowMs, startedAtMs + 1),
        startMode: START_MODE[this.plan.topology],
        isLive: running !== undefined,
        isAvailable: running !== undefined,
      }),
    );
    const down = this.hosts.filter(({ running }) => running === undefined).length;
    const view = { clusterId: 'c1', kwdbId: viewer.kwdbId, observedAtMs: this.nowMs, nodes: rows };
    return health(rows, {
      view,
      jobs: this.jobs,
      rangesUnderreplicated: this.plan.topology === 'multi-replica' ? down : 0,
    });
  }

  #reportOf(one: Host): NodeReport {
    const { kwdbId, installed, running, pid, startedAtMs } = one;
    const up = running !== undefined;
    const { running: _, ...versions } = allAt(installed);
    const seen = this.healthSeenBy(one);
    return {
      host: host({ hostname: one.node, clockMs: this.nowMs }),
      installation: installation({
        topology: this.plan.topology,
        unit: up
          ? { exists: true, active: 'active', enabled: true, mainPid: pid, startedAtMs }
          : { exists: true, active: 'inactive', enabled: true },
        versions: up ? { ...versions, running: `V${running}` } : versions,
      }),
      serving: up,
      ready: up,
      identity: { clusterId: 'c1', kwdbId },
      ...(seen === undefined ? {} : { view: seen.view, health: seen }),
      observedAtMs: this.nowMs,
    };
  }

  #start(one: Host): void {
    if (one.running !== undefined) return;
    Object.assign(one, { running: one.installed, down: undefined, meddled: false, startedAtMs: this.nowMs });
    one.pid++;
  }

  #stop(one: Host): void {
    Object.assign(one, { running: undefined, down: 'us', meddled: false });
  }

  #result(action: Action, disposition: Disposition, failure?: ActionFailure): ActionResult {
    const one = this.host(action.node);
    const seen = this.healthSeenBy(one);
    return {
      action: action.id,
      outcome: failure === undefined ? 'succeeded' : 'failed',
      ...(failure === undefined ? {} : { failure }),
      disposition,
      newVersionStarted: one.running === this.plan.to,
      phases: action.phases.map((phase) => ({
        phase,
        startedAtMs: this.nowMs - SECOND + one.skewMs,
        endedAtMs: this.nowMs + one.skewMs,
      })),
      report: this.#reportOf(one),
      ...(seen === undefined ? {} : { health: seen }),
    };
  }

  /** What an agent does that is able and honest: phase by phase, to the first that the world does not allow. */
  #carryOut(action: Action): ActionResult {
    const one = this.host(action.node);
    let touched = false;
    for (const phase of action.phases) {
      const failure = this.#carryOutPhase(one, action, phase);
      if (failure !== undefined) return this.#result(action, touched ? 'broken' : 'untouched', { ...failure, phase });
      touched ||= phase !== 'interlock' && phase !== 'check' && phase !== 'witness';
    }
    return this.#result(action, 'done');
  }

  #carryOutPhase(one: Host, action: Action, phase: Phase): { code: string; message: string } | undefined {
    const against = ([first]: readonly { code: string; message: string }[]) => first;
    switch (phase) {
      case 'check':
        return one.running === undefined ? { code: 'KWBASE_FAILED', message: 'cannot dial server' } : undefined;
      case 'interlock': {
        const gone = this.hosts.find((other) => other !== one && other.running === undefined);
        return gone && { code: 'INTERLOCK_REFUSED', message: `${gone.node} is not live` };
      }
      case 'stop':
        this.#stop(one);
        this.#course.push({ node: one.node, did: 'stop' });
        return undefined;
      case 'install':
        if (one.running !== undefined) return { code: 'DEPLOY_STILL_RUNNING', message: 'it runs' };
        one.installed = action.to;
        return undefined;
      case 'put-back':
        one.installed = action.from;
        return undefined;
      case 'install-online':
        one.installed = action.to;
        if (one.running !== action.to) this.#stop(one);
        this.#start(one);
        return undefined;
      case 'start':
        this.#start(one);
        one.meddled = false;
        return undefined;
      case 'verify':
        return against(judgeServing(this.#reportOf(one), action.to, {}));
      case 'witness': {
        const seen = this.healthSeenBy(one);
        if (seen === undefined || action.subject === undefined) return { code: 'VERIFY_TIMEOUT', message: 'no answer' };
        return against(judgeRejoined(seen, action.subject, [action.kwdbId, ...action.others], action.to));
      }
      default:
        return undefined;
    }
  }

  /** An agent fails, and leaves the host as it says. What only looks leaves it as it was. */
  #fail(action: Action, ending: Exclude<Ending, string>): ActionResult {
    const one = this.host(action.node);
    const { kind } = stepOf(this.plan, action.step);
    const changes =
      kind === 'upgrade' || kind === 'stop' || kind === 'install' || kind === 'start' || kind === 'return';
    const disposition = changes ? ending.disposition : 'untouched';
    if (disposition === 'broken') {
      this.#stop(one);
      if (kind === 'upgrade' || kind === 'install') one.installed = action.to;
    }
    if (disposition === 'backed-out' && kind === 'upgrade') {
      this.#stop(one);
      one.installed = action.from;
      this.#start(one);
    }
    const phase = action.phases[0] ?? 'check';
    const failure = { code: ending.code ?? 'INSTALL_FAILED', message: 'it did not work', phase };
    return { ...this.#result(action, disposition, failure), newVersionStarted: ending.newVersionStarted ?? false };
  }

  // Invariants

  #checkState(event: RunEvent): void {
    const { state, plan } = this;
    must(isRunState.Check(state), `not a state after ${event.type}: ${JSON.stringify(state)}`);
    assertSame(JSON.parse(JSON.stringify(state)), state, `a state that is no plain JSON after ${event.type}`);
    must(
      (state.status === 'held') === (state.hold !== undefined),
      `held without a hold, or the reverse: ${event.type}`,
    );
    if (state.hold !== undefined) this.#checkHold();
    if (plan.topology === 'multi-replica' && !this.#stopsAll) {
      const away = plan.nodes.filter(({ node }) => {
        const upgrade = state.steps[`upgrade:${node}`];
        if (upgrade === undefined || !wasBegun(upgrade)) return false;
        if (state.steps[`witness:${node}`]?.status === 'succeeded') return false;
        const left = upgrade.status === 'running' ? undefined : upgrade.result?.disposition;
        return left !== 'untouched' && left !== 'backed-out';
      });
      must(away.length <= 1, `I1: begun and not witnessed: ${away.map(({ node }) => node).join(', ')}`);
      const down = this.hosts.filter((one) => one.down === 'us');
      must(down.length <= 1, `I1: down because of us: ${down.map(({ node }) => node).join(', ')}`);
    }
    if (event.type === 'run-ended' && event.status === 'succeeded') {
      for (const one of this.hosts) {
        must(judgeServing(one.report, plan.to, {}).length === 0, `I6: ${one.node} was not observed at ${plan.to}`);
      }
    }
  }

  #checkHold(): void {
    const hold = this.state.hold;
    must(hold !== undefined && Object.hasOwn(ERRORS, hold.code), `I9: a hold of no known code: ${hold?.code}`);
    must(hold.message !== '' && hold.remedy !== '', `I9: a hold that tells nothing: ${JSON.stringify(hold)}`);
    must(hold.choices.length > 0, 'I9: a hold without a choice');
    assertSame(legalChoices(this.state), hold.choices, 'a hold that shows other choices than are legal');
  }

  /** I10. What was begun inside a window may end outside of it. */
  #mustBeInTime({ id, kind, node }: Step): void {
    if (this.schedule === undefined) return;
    const { timing, isOpen } = this.schedule;
    must(this.nowMs >= (timing.notBeforeMs ?? 0), `I10: ${id} before its time`);
    if (timing.windows.length === 0 || !['gate', 'stop', 'upgrade'].includes(kind)) return;
    const begun = this.#stopsAll ? this.#touched.size > 0 : this.#touched.has(node);
    must(begun || isOpen(this.nowMs), `I10: ${id} outside of its window`);
  }

  #checkDispatch(step: Step, action: Action): void {
    const { state, plan, nowMs } = this;
    const { id, node, kind } = step;
    must(!this.#ids.has(action.id), `${action.id} twice`);
    assertSame(parseActionId('r1', action.id), { step: id, attempt: action.attempt }, 'an id that does not tell');
    must(state.steps[id]?.status === 'pending', `${id} is ${state.steps[id]?.status}`);
    must(state.status === 'running' && (state.abortRequested || !state.pauseRequested), `${id} while ${state.status}`);
    this.#mustBeInTime(step);
    must(plan.steps.includes(step) !== state.abortRequested, `I8: ${id}, abort: ${state.abortRequested}`);
    for (const need of step.needs) must(state.steps[need]?.status === 'succeeded', `I2: ${id} before ${need}`);
    const executor = this.host(action.node);
    must(executor.connected && nowMs - executor.lastSeenMs <= LOST_AFTER_MS, `${id} to a silent agent`);
    if (step.executor === 'self') must(action.node === node, `${id} to ${action.node}`);
    if (step.executor === 'peer') must(action.node !== node, `${id} to the node it is about`);
    this.#mustBeApproved(id, 'start', state.startedAtMs ?? nowMs);
    const isFirst = plan.steps.every((one) => !one.irreversible || !this.#touched.has(one.id));
    if (step.irreversible && isFirst) this.#mustBeApproved(id, 'irreversible', nowMs);
    const begun = (prefix: string) => plan.nodes.some((one) => wasBegun(state.steps[`${prefix}:${one.node}`]));
    const all = (prefix: string) =>
      plan.nodes.every((one) => state.steps[`${prefix}:${one.node}`]?.status === 'succeeded');
    if (kind === 'upgrade' && this.host(node).down !== 'us') {
      this.#mustBeFresh(id, [`gate:${node}`]);
      for (const one of this.hosts) {
        const silent = !one.connected || nowMs - one.lastSeenMs > LOST_AFTER_MS;
        must(one.node === node || (one.report.ready && !silent), `I1: ${id} while ${one.node} is silent or not ready`);
      }
    }
    if (kind === 'stop' && !begun('stop')) {
      this.#mustBeFresh(
        id,
        plan.nodes.map((one) => `gate:${one.node}`),
      );
    }
    if (kind === 'install') {
      must(all('stop'), `I3: ${id} before all are stopped`);
      for (const one of this.hosts) {
        must(judgeStopped(one.report).length === 0, `I3: ${id} while ${one.node} runs`);
        must(nowMs - one.lastSeenMs <= LOST_AFTER_MS, `I3: ${id} while ${one.node} is silent`);
      }
      const installing = this.running.filter((other) => other.startsWith('install:')).length;
      must(installing < plan.options.concurrency, `${id} is one too many`);
    }
    if (kind === 'install' && plan.options.backup?.policy === 'copy') {
      const since = this.#course.slice(this.#course.findLastIndex(({ did }) => did === 'stop'));
      const copied = plan.nodes.filter((one) =>
        since.some(({ node: other, did }) => other === one.node && did === 'copy'),
      );
      must(copied.length === plan.nodes.length, `${id} with copies of different moments`);
    }
    if (kind === 'start' && plan.steps.some((one) => one.kind === 'install')) {
      must(all('install'), `I3: ${id} before all are installed`);
      for (const one of this.hosts) must(one.installed === plan.to, `I3: ${id} while ${one.node} has ${one.installed}`);
    }
    if (kind === 'put-back') must(!begun('start'), `${id} after the new version was started`);
    const putsBack = plan.backOut.some((one) => one.kind === 'put-back');
    if (kind === 'return' && putsBack) must(all('put-back'), `${id} before all are put back`);
  }

  /** I10: by what people said and the policy asks, not by what the engine keeps of it. */
  #mustBeApproved(id: string, scope: ApprovalScope, atMs: number): void {
    const { approval } = this.state;
    const requirement = approval?.[scope];
    if (approval === undefined || requirement === undefined) return;
    const people = this.said.filter(
      (one) =>
        one.scope === scope &&
        one.hash === approval.hash &&
        one.atMs <= atMs &&
        one.atMs + requirement.validForMs > atMs &&
        (requirement.requesterMayApprove || one.person !== approval.requester),
    );
    const count = new Set(people.map(({ person }) => person)).size;
    must(count >= requirement.approvers, `I10: ${id} with ${count} approvals of ${requirement.approvers} (${scope})`);
  }

  /** I4: one of these gates said yes not longer ago than its limit. */
  #mustBeFresh(id: string, gates: string[]): void {
    const answeredAtMs = (gate: string) => this.#answeredAtMs.get(actionId('r1', gate, this.step(gate).attempt)) ?? 0;
    const lastMs = Math.max(...gates.map(answeredAtMs));
    must(this.nowMs - lastMs <= GATE_FRESH_MS, `I4: ${id} on an answer ${this.nowMs - lastMs} ms old`);
  }
}
