/**
 * What to do next, from the plan, the state and the facts. Level-triggered: asked again after any interruption it
 * answers from what is, not from what was last done. No I/O, no clock: `nowMs` is given.
 */
import { ERRORS, type ErrorCode } from '../errors.ts';
import type { NodeFacts } from '../facts.ts';
import { judgeServing, judgeStopped } from '../judge.ts';
import { kindOf, type Plan, type Step, type StepKind, stepOf } from '../plan.ts';
import { LOST_AFTER_MS } from '../topology.ts';
import type { StepTimes } from '../windows/estimate.ts';
import type { Window } from '../windows/window.ts';
import { approvalDeadlineMs, approvalStanding, hasLapsed, missingBefore } from './approvals.ts';
import { outdatedCopies } from './copies.ts';
import { abortReason, failureWords } from './reasons.ts';
import { ENDED, type Hold, hasTouched, type RunEvent, type RunState, type StepState, wasBegun } from './state.ts';
import { decideScheduled, findOverrun, isWindowed, waitToTouch } from './timing.ts';

export type EngineFacts = {
  readonly nodes: ReadonlyMap<string, NodeFacts>;
  /** Those that the run's timing names, as they are now. */
  readonly windows?: ReadonlyMap<string, Window>;
  /** How long steps take in this cluster, where that is known better than by default. */
  readonly stepTimes?: StepTimes | undefined;
};

export type Decision =
  | { readonly do: 'record'; readonly event: RunEvent }
  | { readonly do: 'dispatch'; readonly step: Step; readonly executor: string };

/** Without a word from an agent for this long, a run that needs it is held. Before, it is waited for. */
export const HOLD_LOST_AFTER_MS = 30_000;
/** A gate that says no is asked again this often, and the run is held when it said no for this long. */
export const GATE_AGAIN_MS = 5_000;
export const GATE_PATIENCE_MS = 120_000;
/** A gate's yes is good for this long; a stop that would come later asks again. */
export const GATE_FRESH_MS = 60_000;
/** How long reports may lag behind what a step observed before the run is held over it. */
const REPORT_LAG_MS = 60_000;

/** Codes come from hosts: one that this version does not know has no remedy. */
const isCode = (code: string): code is ErrorCode => Object.hasOwn(ERRORS, code);

const record = (event: RunEvent): Decision => ({ do: 'record', event });

/**
 * The next decisions, possibly none (then something is under way, or a person is awaited). Records are to be applied
 * and dispatches recorded as `step-dispatched` before asking again.
 */
export function decide(plan: Plan, state: RunState, facts: EngineFacts, nowMs: number): Decision[] {
  if (ENDED.has(state.status)) return [];
  if (state.status === 'planned' || state.status === 'scheduled') {
    if (hasLapsed(state, nowMs)) return [record({ type: 'approval-lapsed', atMs: nowMs })];
    return decideScheduled(plan, state, facts, nowMs).map(record);
  }
  if (state.status === 'awaiting_approval') return awaitApproval(plan, state, facts, nowMs);
  if (state.status === 'held') return decideHeld(plan, state, facts, nowMs);
  if (state.abortRequested) return decideAbort(plan, state, facts, nowMs);
  const trouble = findTrouble(plan, state, facts, nowMs);
  if (trouble !== undefined) return bringBack(plan, state, facts, nowMs) ?? [trouble];
  if (state.status === 'paused') return [];
  if (state.pauseRequested) return pauseWhenIdle(state, nowMs);
  const [outdated] = outdatedCopies(plan, state);
  if (outdated !== undefined) {
    const why = 'nodes were stopped again since: it is of another moment than the copies that follow';
    return [record({ type: 'step-reset', step: outdated.id, why, atMs: nowMs })];
  }
  const overrun = findOverrun(plan, state, facts, nowMs);
  if (overrun !== undefined) return [record({ type: 'window-overrun', message: overrun, atMs: nowMs })];
  if (plan.steps.every((step) => state.steps[step.id]?.status === 'succeeded'))
    return finish(plan, state, facts, nowMs);
  return dispatchReady(plan, state, facts, nowMs);
}

/** I10: a run begins when enough people agreed to exactly its plan; one that they do not agree to in time ends. */
function awaitApproval(plan: Plan, state: RunState, facts: EngineFacts, nowMs: number): Decision[] {
  if (approvalStanding(state, 'start', nowMs)?.granted === true) {
    return decideScheduled(plan, state, facts, nowMs).map(record);
  }
  const deadlineMs = approvalDeadlineMs(state);
  if (deadlineMs === undefined || nowMs < deadlineMs) return [];
  const reason = 'it was not approved in time; nothing was touched';
  return [record({ type: 'run-ended', status: 'aborted', reason, atMs: nowMs })];
}

/** The steps that are being walked: forward, or the way back. */
const course = (plan: Plan, state: RunState): readonly Step[] => (state.abortRequested ? plan.backOut : plan.steps);

const runningSteps = (plan: Plan, state: RunState): Step[] => {
  const isRunning = ({ id }: Step) => state.steps[id]?.status === 'running';
  return [...plan.steps.filter(isRunning), ...plan.backOut.filter(isRunning)];
};

function heard(facts: EngineFacts, node: string | undefined, nowMs: number): 'now' | 'late' | 'lost' {
  const known = node === undefined ? undefined : facts.nodes.get(node);
  if (known === undefined) return 'lost';
  const silentMs = nowMs - known.lastSeenMs;
  if (known.connected && silentMs <= LOST_AFTER_MS) return 'now';
  return silentMs <= HOLD_LOST_AFTER_MS ? 'late' : 'lost';
}

function hold(
  code: ErrorCode,
  message: string,
  nowMs: number,
  more: {
    node?: string;
    step?: string;
    words?: string | undefined;
    selfClearing?: boolean;
    choices?: Hold['choices'];
  } = {},
): Decision {
  const { selfClearing = false, words, choices, ...where } = more;
  const full: Hold = {
    code,
    message,
    remedy: ERRORS[code].remedy,
    ...where,
    ...(words === undefined ? {} : { words }),
    choices: choices ?? (selfClearing ? ['wait', 'abort'] : ['retry', 'abort']),
    selfClearing,
    sinceMs: nowMs,
  };
  return record({ type: 'run-held', hold: full, atMs: nowMs });
}

/** What forbids going on: a step that failed, one that does not move, or an agent that is gone in the middle. */
function findTrouble(plan: Plan, state: RunState, facts: EngineFacts, nowMs: number): Decision | undefined {
  const failed = course(plan, state).find((step) => state.steps[step.id]?.status === 'failed');
  if (failed !== undefined) return holdFailed(failed, state.steps[failed.id], nowMs);
  for (const step of runningSteps(plan, state)) {
    const trouble = stepTrouble(state, step, facts, nowMs);
    if (trouble !== undefined) return trouble;
  }
  return undefined;
}

/** What is wrong with a step that is under way: its agent is gone, or it does not move. */
function stepTrouble(state: RunState, step: Step, facts: EngineFacts, nowMs: number): Decision | undefined {
  const current = state.steps[step.id];
  if (current === undefined) return undefined;
  const where = { node: step.node, step: step.id, selfClearing: true };
  if (heard(facts, current.executor, nowMs) === 'lost') {
    // Looking can be done from elsewhere; what is being done on a host can only be awaited.
    if (step.executor !== 'self') return record(resetLost(step, current, nowMs));
    const message = `the agent of ${current.executor} does not report while "${step.title}" is under way`;
    return hold('AGENT_LOST', message, nowMs, where);
  }
  const stalled = stalledFor(step, current, nowMs);
  return stalled === undefined ? undefined : hold('STEP_STALLED', `${step.title}: ${stalled}`, nowMs, where);
}

const resetLost = (step: Step, current: StepState, nowMs: number): RunEvent => ({
  type: 'step-reset',
  step: step.id,
  why: `the agent of ${current.executor} does not report; another node will look`,
  atMs: nowMs,
});

function stalledFor(step: Step, current: StepState, nowMs: number): string | undefined {
  const idleMs = nowMs - (current.progressAtMs ?? nowMs);
  const totalMs = nowMs - (current.startedAtMs ?? nowMs);
  const last = current.detail === undefined ? '' : `; last seen: ${current.detail}`;
  if (idleMs > step.deadline.idleMs) return `no progress for ${Math.round(idleMs / 1000)} s${last}`;
  if (totalMs > step.deadline.ceilingMs) return `not done after ${Math.round(totalMs / 1000)} s${last}`;
  return undefined;
}

function holdFailed(step: Step, current: StepState | undefined, nowMs: number): Decision {
  const failure = current?.result?.failure;
  const code = failure !== undefined && isCode(failure.code) ? failure.code : 'INTERNAL';
  return hold(code, failureWords(step, current), nowMs, {
    node: step.node,
    step: step.id,
    words: failure?.words,
  });
}

/** A hold that waits for something ends by itself when that has come true; any other waits for a person. */
function decideHeld(plan: Plan, state: RunState, facts: EngineFacts, nowMs: number): Decision[] {
  if (state.hold?.selfClearing !== true) return [];
  const [back] = bringBack(plan, state, facts, nowMs) ?? [];
  if (back?.do === 'dispatch') {
    return [record({ type: 'hold-cleared', why: `${back.step.node} can be brought back`, atMs: nowMs })];
  }
  const trouble = findTrouble(plan, state, facts, nowMs);
  const now = trouble?.do === 'record' && trouble.event.type === 'run-held' ? trouble.event.hold : undefined;
  if (trouble !== undefined && now?.selfClearing) {
    // The reason that a person reads is the one of now.
    return now.code === state.hold.code && now.step === state.hold.step ? [] : [trouble];
  }
  if (waitsForAgent(plan, state, facts, nowMs) || waitsForApproval(plan, state, nowMs)) return [];
  return [record({ type: 'hold-cleared', why: `what it waited for came true (${state.hold.code})`, atMs: nowMs })];
}

/** Held because the agent that is due next, or to be seen at the end, is gone: nothing is running, so it is asked for directly. */
function waitsForAgent(plan: Plan, state: RunState, facts: EngineFacts, nowMs: number): boolean {
  const { hold: held } = state;
  if (held?.code !== 'AGENT_LOST') return false;
  if (held.step === undefined) return heard(facts, held.node, nowMs) !== 'now';
  if (state.steps[held.step]?.status !== 'pending') return false;
  return chooseExecutor(plan, stepOf(plan, held.step), facts, nowMs) === undefined;
}

/** A step that cannot be undone may be approved at any time: nothing is under way meanwhile. */
function waitsForApproval(plan: Plan, state: RunState, nowMs: number): boolean {
  const { hold: held } = state;
  if (held?.code !== 'APPROVAL_NEEDED' || held.step === undefined) return false;
  return missingBefore(plan, state, held.step, nowMs) > 0;
}

/**
 * An abort lets what is under way on hosts come to its end; then walks the way back where the plan has one and it is
 * still legal; then ends. What it waits for is given up after a deadline or a lost agent, but on the way back, where
 * nodes are down, that is a hold: it ends when a person aborts once more. A node that cannot be reached keeps no other
 * down meanwhile.
 */
function decideAbort(plan: Plan, state: RunState, facts: EngineFacts, nowMs: number): Decision[] {
  const trouble = findTrouble(plan, state, facts, nowMs);
  const stuck = trouble?.do === 'record' && trouble.event.type === 'run-held' ? trouble.event.hold : undefined;
  if (trouble !== undefined && stuck === undefined) return [trouble];
  const under = runningSteps(plan, state);
  const moving = under.filter((step) => stepTrouble(state, step, facts, nowMs) === undefined);
  if (!state.abandoned && canBackOut(plan, state)) {
    if (moving.some((step) => plan.steps.includes(step))) return [];
    const back = stuck === undefined ? undefined : bringBack(plan, state, facts, nowMs);
    if (back !== undefined) return back;
    if (stuck !== undefined && trouble !== undefined) return moving.length > 0 ? [] : [trouble];
    if (plan.backOut.some(({ id }) => state.steps[id]?.status !== 'succeeded')) {
      return dispatchReady(plan, state, facts, nowMs);
    }
  }
  if (moving.length > 0) return [];
  const reason = abortReason(plan, state, under, stuck);
  return [record({ type: 'run-ended', status: 'aborted', reason, atMs: nowMs })];
}

/**
 * Legal until something is started that the old version would not take its data back from, and needed once a node was
 * touched. A backup starts what was there before.
 */
function canBackOut(plan: Plan, state: RunState): boolean {
  const some = (kind: StepKind, is: (step: Step) => boolean) =>
    plan.steps.some((step) => step.kind === kind && is(step));
  const begun = ({ id }: Step) => wasBegun(state.steps[id]);
  const touched = some('stop', (step) => hasTouched(state, step)) || some('upgrade', begun);
  return plan.backOut.length > 0 && touched && (kindOf(plan) === 'backup' || !some('start', begun));
}

function pauseWhenIdle(state: RunState, nowMs: number): Decision[] {
  const busy = Object.values(state.steps).some(({ status }) => status === 'running');
  return busy ? [] : [record({ type: 'run-paused', by: 'engine', atMs: nowMs })];
}

/** I6: a run succeeds only when every node was observed at the target, by its own newest report. */
function finish(plan: Plan, state: RunState, facts: EngineFacts, nowMs: number): Decision[] {
  if (kindOf(plan) === 'transfer') {
    const reason = 'every table was imported and compares equal';
    return [record({ type: 'run-ended', status: 'succeeded', reason, atMs: nowMs })];
  }
  const unmet = plan.nodes.flatMap(({ node }) => {
    const known = facts.nodes.get(node);
    if (known === undefined || heard(facts, node, nowMs) !== 'now') {
      return [{ node, silent: true, message: 'its agent does not report' }];
    }
    return judgeServing(known.report, plan.to, {}).map(({ message }) => ({ node, silent: false, message }));
  });
  const first = unmet[0];
  if (first === undefined) {
    return [
      record({ type: 'run-ended', status: 'succeeded', reason: `every node was observed at ${plan.to}`, atMs: nowMs }),
    ];
  }
  const lastEndMs = Math.max(0, ...Object.values(state.steps).map((step) => step.endedAtMs ?? 0));
  if (nowMs - lastEndMs <= REPORT_LAG_MS) return [];
  return [
    hold(
      first.silent ? 'AGENT_LOST' : 'VERIFY_TIMEOUT',
      `${first.node} is not at ${plan.to} at the end: ${first.message}`,
      nowMs,
      {
        node: first.node,
        selfClearing: first.silent,
      },
    ),
  ];
}

/** The steps that are due: those they need have succeeded. */
const readySteps = (plan: Plan, state: RunState): Step[] =>
  course(plan, state).filter(
    ({ id, needs }) =>
      state.steps[id]?.status === 'pending' && needs.every((need) => state.steps[need]?.status === 'succeeded'),
  );

/**
 * Whether it brings back a node that the run took down, at the version that it had: no less right while another cannot be
 * reached. A start of another version ends the way back: for that, all must be there.
 */
function bringsBack(plan: Plan, state: RunState, { kind, node }: Step): boolean {
  if (kind === 'start') return kindOf(plan) === 'backup' || kindOf(plan) === 'restore';
  // A node that still serves would be stopped by it, and not be started before all can be.
  if (kind === 'put-back') return hasTouched(state, { id: `stop:${node}`, kind: 'stop' });
  return kind === 'return';
}

/** What can be done for nodes that are down, whatever is wrong elsewhere; undefined when nothing can. */
function bringBack(plan: Plan, state: RunState, facts: EngineFacts, nowMs: number): Decision[] | undefined {
  if (state.pauseRequested && !state.abortRequested) return undefined;
  const busy = new Set(runningSteps(plan, state).map(({ node }) => node));
  const decisions = readySteps(plan, state).flatMap((step): Decision[] => {
    if (!bringsBack(plan, state, step) || busy.has(step.node)) return [];
    if (findObstacle(plan, state, step, facts, nowMs) !== undefined) return [];
    const executor = chooseExecutor(plan, step, facts, nowMs);
    return executor === undefined ? [] : [{ do: 'dispatch', step, executor }];
  });
  return decisions.length > 0 ? decisions : undefined;
}

function dispatchReady(plan: Plan, state: RunState, facts: EngineFacts, nowMs: number): Decision[] {
  const ready = readySteps(plan, state);
  const decisions: Decision[] = [];
  let lost: Decision | undefined;
  // I10: what touches a node that was not touched yet begins inside a window only.
  const windowed = ready.some((step) => isWindowed(plan, state, step));
  const wait = windowed ? waitToTouch(plan, state, facts, nowMs) : undefined;
  let installing = runningSteps(plan, state).filter(({ kind }) => kind === 'install').length;
  for (const step of ready) {
    if (wait !== undefined && isWindowed(plan, state, step)) continue;
    if (step.kind === 'install' && installing >= plan.options.concurrency) continue;
    const obstacle = findObstacle(plan, state, step, facts, nowMs);
    if (obstacle === 'wait') continue;
    if (obstacle !== undefined) return [obstacle];
    const executor = chooseExecutor(plan, step, facts, nowMs);
    if (executor === undefined) {
      const missing = lostExecutor(plan, state, step, facts, nowMs);
      if (missing !== undefined && !bringsBack(plan, state, step)) return [missing];
      lost ??= missing;
      continue;
    }
    if (step.kind === 'install') installing++;
    decisions.push({ do: 'dispatch', step, executor });
  }
  const idle = decisions.length === 0 && runningSteps(plan, state).length === 0;
  if (idle && lost !== undefined) return [lost];
  return idle && wait !== undefined ? [record({ type: 'run-scheduled', wait, atMs: nowMs })] : decisions;
}

/** What stands against a step that is due: a record to make first, `wait`, or nothing. */
function findObstacle(
  plan: Plan,
  state: RunState,
  step: Step,
  facts: EngineFacts,
  nowMs: number,
): Decision | 'wait' | undefined {
  const missing = missingBefore(plan, state, step.id, nowMs);
  if (missing > 0) {
    const people = missing === 1 ? 'one more person' : `${missing} more people`;
    const message = `"${step.title}" cannot be undone: ${people} must approve it first`;
    const choices: Hold['choices'] = ['approve', 'wait', 'abort'];
    return hold('APPROVAL_NEEDED', message, nowMs, { node: step.node, step: step.id, selfClearing: true, choices });
  }
  switch (step.kind) {
    case 'gate':
      return gateObstacle(state.steps[step.id], step, nowMs) ?? closedByAgent(plan, state, step, facts, nowMs);
    case 'upgrade':
      assertNoneDown(plan, state, step);
      return staleGate(plan, state, step, facts, nowMs) ?? unfitPeer(plan, state, step, facts, nowMs);
    case 'stop':
      // Retried while a copy is under way: its host has that in hand.
      if (state.steps[`back-up:${step.node}`]?.status === 'running') return 'wait';
      return staleGates(plan, state, facts, nowMs);
    case 'back-up':
      return plan.options.backup?.policy === 'copy' ? barrierObstacle(plan, state, facts, nowMs) : undefined;
    case 'install':
    case 'restore':
      return barrierObstacle(plan, state, facts, nowMs);
    default:
      return undefined;
  }
}

/** A gate that said no is asked again after a pause, and holds the run when it said no for too long. */
function gateObstacle(current: StepState | undefined, step: Step, nowMs: number): Decision | 'wait' | undefined {
  if (current?.waiting === undefined) return undefined;
  const { sinceMs, code, message } = current.waiting;
  if (nowMs - sinceMs > GATE_PATIENCE_MS) {
    const known = isCode(code) ? code : 'GATE_CLOSED';
    return hold(known, `${step.title}: ${message}`, nowMs, { node: step.node, step: step.id });
  }
  return nowMs - (current.endedAtMs ?? 0) < GATE_AGAIN_MS ? 'wait' : undefined;
}

/**
 * The first question of every decision (I1, I2): no node may be taken down while another is down, or back but not yet
 * witnessed. The plan's order gives this already; a plan or state that would break it is a bug, and stops here.
 */
function assertNoneDown(plan: Plan, state: RunState, next: Step): void {
  if (plan.topology !== 'multi-replica') return;
  for (const other of plan.steps) {
    if (other.kind !== 'upgrade' || other.node === next.node) continue;
    const upgraded = state.steps[other.id];
    const witnessed = state.steps[`witness:${other.node}`]?.status === 'succeeded';
    if (wasBegun(upgraded) && !witnessed) {
      throw new Error(`${next.id} is due while ${other.node} was touched and is not verified to be back`);
    }
  }
}

/**
 * When a gate was answered, by the controller's clock: an answer that waited in a journal while the link was cut is as old
 * as its question, not as its arrival. The host's clock is corrected by its skew, and never makes an answer younger.
 */
function answeredAtMs(gate: StepState | undefined, facts: EngineFacts): number {
  const arrivedAtMs = gate?.endedAtMs ?? 0;
  const onHostMs = gate?.result?.phases.at(-1)?.endedAtMs;
  if (onHostMs === undefined) return arrivedAtMs;
  const skewMs = facts.nodes.get(gate?.executor ?? '')?.clockSkewMs ?? 0;
  return Math.min(arrivedAtMs, onHostMs - skewMs);
}

/** I4: a stop acts on facts of now. A gate that passed before a pause or a hold is asked again. */
function staleGate(plan: Plan, state: RunState, step: Step, facts: EngineFacts, nowMs: number): Decision | undefined {
  const gate = state.steps[`gate:${step.node}`];
  if (gate?.endedAtMs === undefined || nowMs - answeredAtMs(gate, facts) <= GATE_FRESH_MS) return undefined;
  const gateStep = stepOf(plan, `gate:${step.node}`);
  // A retry of a node that this run took down already cannot be gated: the cluster misses it because of us.
  if ((state.steps[step.id]?.result?.disposition ?? 'untouched') === 'broken') return undefined;
  return record({ type: 'step-reset', step: gateStep.id, why: 'its answer is too old to act on', atMs: nowMs });
}

/**
 * I1: a liveness record outlives its process by up to 30 s, and a node that is live may take no clients. The agents know
 * better: while one says that its node does not serve, or says nothing, no other node of its cluster is touched.
 */
function unfitPeer(plan: Plan, state: RunState, step: Step, facts: EngineFacts, nowMs: number): Decision | undefined {
  if (plan.topology !== 'multi-replica') return undefined;
  // A retry of a node that this run took down brings it back, and takes nothing more; one that serves again is taken down.
  const broken = state.steps[`upgrade:${step.node}`]?.result?.disposition === 'broken';
  if (broken && facts.nodes.get(step.node)?.report.ready !== true) return undefined;
  for (const { node } of plan.nodes) {
    if (node === step.node) continue;
    const silent = heard(facts, node, nowMs) !== 'now';
    if (!silent && facts.nodes.get(node)?.report.ready === true) continue;
    const why = silent ? `the agent of ${node} does not report` : `${node} takes no clients, as its agent says`;
    return record({ type: 'step-reset', step: `gate:${step.node}`, code: 'GATE_CLOSED', why, atMs: nowMs });
  }
  return undefined;
}

/**
 * A gate that was closed for what an agent said stays closed until the agent says otherwise. The node before, seen to be
 * back, may be the one that was away meanwhile: then it has to be seen again (I2).
 */
function closedByAgent(
  plan: Plan,
  state: RunState,
  step: Step,
  facts: EngineFacts,
  nowMs: number,
): Decision | undefined {
  const gate = state.steps[step.id];
  if (gate?.waiting?.code !== 'GATE_CLOSED') return undefined;
  const spoiled = step.needs.find(
    (need) => stepOf(plan, need).kind === 'witness' && (state.steps[need]?.endedAtMs ?? 0) < (gate.endedAtMs ?? 0),
  );
  if (spoiled === undefined) return unfitPeer(plan, state, step, facts, nowMs);
  return record({ type: 'step-reset', step: spoiled, why: `since then, ${gate.waiting.message}`, atMs: nowMs });
}

/**
 * The same for a single-replica cluster: each gate asks about the whole cluster, so the newest answer counts. Once a
 * node was stopped there is nobody to ask: the cluster misses it because of us.
 */
function staleGates(plan: Plan, state: RunState, facts: EngineFacts, nowMs: number): Decision | undefined {
  const begun = plan.steps.some((step) => step.kind === 'stop' && hasTouched(state, step));
  const gates = plan.steps.filter(({ kind }) => kind === 'gate');
  const ageOf = ({ id }: Step) => nowMs - answeredAtMs(state.steps[id], facts);
  const newest = gates.toSorted((a, b) => ageOf(a) - ageOf(b))[0];
  if (begun || newest === undefined || ageOf(newest) <= GATE_FRESH_MS) return undefined;
  return record({ type: 'step-reset', step: newest.id, why: 'its answer is too old to act on', atMs: nowMs });
}

/**
 * I3: nothing is installed, copied or restored while any node of the cluster is seen running, whatever the stop steps
 * reported, nor while one is not seen at all: a host that rebooted meanwhile may have brought its database up again.
 */
function barrierObstacle(
  plan: Plan,
  state: RunState,
  facts: EngineFacts,
  nowMs: number,
): Decision | 'wait' | undefined {
  const silent = plan.nodes.find(({ node }) => heard(facts, node, nowMs) !== 'now');
  if (silent !== undefined) {
    if (heard(facts, silent.node, nowMs) !== 'lost') return 'wait';
    const message = `the agent of ${silent.node} does not report; nothing is installed before it is seen to be stopped`;
    return hold('AGENT_LOST', message, nowMs, { node: silent.node, selfClearing: true });
  }
  const up = plan.nodes.flatMap(({ node }) => {
    const report = facts.nodes.get(node)?.report;
    // Once installed, a node may report what it likes: a crashed agent's last report is not news.
    return report === undefined
      ? [{ node, message: 'no report' }]
      : judgeStopped(report).map(({ message }) => ({ node, message }));
  });
  const first = up[0];
  if (first === undefined) return undefined;
  const stoppedAtMs = Math.max(0, ...plan.nodes.map(({ node }) => state.steps[`stop:${node}`]?.endedAtMs ?? 0));
  if (nowMs - stoppedAtMs <= REPORT_LAG_MS) return 'wait';
  return hold('DEPLOY_STILL_RUNNING', `${first.node} runs although all must be stopped: ${first.message}`, nowMs, {
    node: first.node,
  });
}

/** The node that carries a step out: its own, or for a look from outside a healthy other one. */
function chooseExecutor(plan: Plan, step: Step, facts: EngineFacts, nowMs: number): string | undefined {
  if (step.executor === 'self') return heard(facts, step.node, nowMs) === 'now' ? step.node : undefined;
  const viewer = plan.nodes.find(
    ({ node }) =>
      (step.executor === 'any' || node !== step.node) &&
      heard(facts, node, nowMs) === 'now' &&
      facts.nodes.get(node)?.report.ready === true,
  );
  return viewer?.node;
}

function lostExecutor(
  plan: Plan,
  state: RunState,
  step: Step,
  facts: EngineFacts,
  nowMs: number,
): Decision | undefined {
  const where = { node: step.node, step: step.id, selfClearing: true };
  if (step.executor === 'self') {
    if (heard(facts, step.node, nowMs) !== 'lost') return undefined;
    return hold('AGENT_LOST', `the agent of ${step.node} does not report; next is "${step.title}"`, nowMs, where);
  }
  const dueSinceMs = Math.max(state.startedAtMs ?? 0, ...step.needs.map((need) => state.steps[need]?.endedAtMs ?? 0));
  if (nowMs - dueSinceMs <= HOLD_LOST_AFTER_MS) return undefined;
  const others = plan.nodes.filter(({ node }) => node !== step.node).map(({ node }) => node);
  return hold('AGENT_LOST', `no other node can look (${others.join(', ')}); next is "${step.title}"`, nowMs, where);
}
