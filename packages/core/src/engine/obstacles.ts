/** What keeps a step that is due from being ordered: gates and their age, peers that do not serve, nodes that still run. */
import { judgeStopped } from '../judge.ts';
import { type Plan, type Step, stepOf } from '../plan.ts';
import { missingBefore } from './approvals.ts';
import {
  type Decision,
  type EngineFacts,
  GATE_AGAIN_MS,
  GATE_FRESH_MS,
  GATE_PATIENCE_MS,
  heard,
  hold,
  isCode,
  REPORT_LAG_MS,
  record,
} from './decision.ts';
import { type Hold, hasTouched, type RunState, type StepState, wasBegun } from './state.ts';

/** What stands against a step that is due: a record to make first, `wait`, or nothing. */
export function findObstacle(
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
