/**
 * What to do next, from the plan, the state and the facts. Level-triggered: asked again after any interruption it
 * answers from what is, not from what was last done. No I/O, no clock: `nowMs` is given.
 */
import { judgeServing } from '../judge.ts';
import { kindOf, type Plan, type Step, type StepKind, stepOf } from '../plan.ts';
import { approvalDeadlineMs, approvalStanding, hasLapsed, missingBefore } from './approvals.ts';
import { outdatedCopies } from './copies.ts';
import {
  type Decision,
  type EngineFacts,
  HOLD_LOST_AFTER_MS,
  heard,
  hold,
  isCode,
  REPORT_LAG_MS,
  record,
} from './decision.ts';
import { findObstacle } from './obstacles.ts';
import { abortReason, failureWords } from './reasons.ts';
import { ENDED, hasTouched, type RunEvent, type RunState, type StepState, wasBegun } from './state.ts';
import { decideScheduled, findOverrun, isWindowed, waitToTouch } from './timing.ts';

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
  // Whatever holds the run, it does not hold for a node that can be brought back: a hold would be cleared for that at once.
  const unlessBack = (decision: Decision): Decision[] =>
    decision.do === 'record' && decision.event.type === 'run-held'
      ? (bringBack(plan, state, facts, nowMs) ?? [decision])
      : [decision];
  // I10: what touches a node that was not touched yet begins inside a window only.
  const windowed = ready.some((step) => isWindowed(plan, state, step));
  const wait = windowed ? waitToTouch(plan, state, facts, nowMs) : undefined;
  let installing = runningSteps(plan, state).filter(({ kind }) => kind === 'install').length;
  for (const step of ready) {
    if (wait !== undefined && isWindowed(plan, state, step)) continue;
    if (step.kind === 'install' && installing >= plan.options.concurrency) continue;
    const obstacle = findObstacle(plan, state, step, facts, nowMs);
    if (obstacle === 'wait') continue;
    if (obstacle !== undefined) return unlessBack(obstacle);
    const executor = chooseExecutor(plan, step, facts, nowMs);
    if (executor === undefined) {
      const missing = lostExecutor(plan, state, step, facts, nowMs);
      if (missing !== undefined && !bringsBack(plan, state, step)) return unlessBack(missing);
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
