/** I4: no destructive deed under an old epoch, without a step of a plan, or on facts older than their limit. */
import type { Action, Phase } from '@kwfleet/core';
import { type Checker, type Chronicle, DISRUPTIVE } from '../chronicle.ts';

/** What a failed order may do to get its host back, although the plan does not list it. */
const BACKING_OUT: ReadonlySet<Phase> = new Set(['stop', 'put-back', 'start', 'put-data-back']);
/** A gate's answer is good for 60 s: a job that ran before it must have been seen by it. */
const GATE_FRESH_MS = 62_000;
const BEGUN_WITHIN_MS = 65_000;

/** The highest true epoch among the orders that each agent took on. */
const knownEpochs = new WeakMap<Chronicle, Map<string, number>>();

function epochsOf(chronicle: Chronicle): Map<string, number> {
  const known = knownEpochs.get(chronicle) ?? new Map<string, number>();
  knownEpochs.set(chronicle, known);
  return known;
}

export const i4: Checker = {
  invariant: 'I4',
  see(evidence, chronicle, fails) {
    if (evidence.type !== 'accepted' && evidence.type !== 'deed') return;
    const order = chronicle.order(evidence.action);
    if (order === undefined) return fails(`${evidence.action} on ${evidence.node} was never decided by anybody`);
    const epochs = epochsOf(chronicle);
    const highest = epochs.get(evidence.node) ?? 0;
    if (evidence.type === 'accepted') {
      checkAge(order, chronicle, (message) => fails(`${order.id} on ${evidence.node}: ${message}`));
      return void epochs.set(evidence.node, Math.max(highest, order.epoch));
    }
    const what = `${evidence.deed} on ${evidence.node} by ${order.id}`;
    if (order.epoch < highest) fails(`${what}: its epoch is ${order.epoch}, and this agent knows ${highest}`);
    const plan = chronicle.plan(order.run);
    const step = [...(plan?.steps ?? []), ...(plan?.backOut ?? [])].find(({ id }) => id === order.step);
    if (step === undefined) fails(`${what}: the plan has no such step`);
    else if (!step.phases.includes(evidence.deed) && !BACKING_OUT.has(evidence.deed))
      fails(`${what}: not what the step is for`);
    checkJobs(evidence.deed, order.id, chronicle, (message) => fails(`${what}: ${message}`));
  },
};

/** An order that takes down what its run had not touched is taken on soon after it was decided, or not at all. */
function checkAge({ beginByMs, id }: Action, { sim, nowMs }: Chronicle, fails: (message: string) => void): void {
  const row = sim.store.orders.get(id);
  if (row === undefined || beginByMs === undefined) return;
  const { chances, timed } = sim.faults.plan;
  // The controller tells its clock with a message; after its look at that clock an agent may stand still.
  const limitMs = BEGUN_WITHIN_MS + (chances.messageLate > 0 ? 120_000 : 0) + (timed.agentFreeze > 0 ? 60_000 : 0);
  if (nowMs - row.createdAtMs > limitMs) fails(`it is taken on ${nowMs - row.createdAtMs} ms after it was decided`);
}

function checkJobs(deed: Phase, id: string, chronicle: Chronicle, fails: (message: string) => void): void {
  const row = chronicle.sim.store.orders.get(id);
  const order = row?.action;
  if (row === undefined || order === undefined || !DISRUPTIVE.has(deed)) return;
  // A node that was touched already has to be brought to an end; a way back after an abort does not ask for jobs.
  const isWayBack = chronicle.plan(order.run)?.backOut.some((step) => step.id === order.step) === true;
  // A restore is for a cluster that may be past asking: what runs in it is given up with the rest.
  const isRestore = chronicle.plan(order.run)?.restore !== undefined;
  if (order.attempt > 1 || isWayBack || isRestore || hasBegunToStop(order, chronicle)) return;
  for (const job of chronicle.sim.database.jobs) {
    if (job.sinceMs < row.createdAtMs - GATE_FRESH_MS && job.untilMs > chronicle.nowMs) {
      fails(`job ${job.id} was running since ${row.createdAtMs - job.sinceMs} ms before the order was given`);
    }
  }
}

/** In a single-replica cluster there is nobody to ask once the first node was stopped, and no way but on. */
function hasBegunToStop(order: Action, chronicle: Chronicle): boolean {
  if (order.topology !== 'single-replica') return false;
  const { store } = chronicle.sim;
  const orderedAtMs = store.orders.get(order.id)?.createdAtMs ?? 0;
  return [...store.orders.values()].some(
    ({ action, createdAtMs }) =>
      action.run === order.run && action.step.startsWith('stop:') && createdAtMs < orderedAtMs,
  );
}
