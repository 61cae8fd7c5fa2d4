/**
 * I10: nothing is ordered, and nothing done, before its run was made, and approved where a policy asks for it; and what
 * leads up to touching a node, or a whole single-replica cluster, for the first time is ordered inside its window only.
 */
import type { ApprovalScope } from '@kwfleet/core';
import { REQUESTER } from '../approvers.ts';
import type { Checker, Chronicle } from '../chronicle.ts';
import type { OrderRow, Run } from '../store.ts';

/** Deeds and orders by which the new version is first started on the data. */
const STARTS = new Set(['start', 'upgrade']);

export const i10: Checker = {
  invariant: 'I10',
  see(evidence, chronicle, fails) {
    if (evidence.type === 'ordered') return judgeOrder(evidence.action, chronicle, fails);
    if (evidence.type !== 'deed') return;
    const run = chronicle.sim.store.runs.get(chronicle.order(evidence.action)?.run ?? '');
    if (run === undefined || run.createdAtMs > chronicle.nowMs)
      fails(`${evidence.deed} on ${evidence.node} for no run`);
    else if (run.state.startedAtMs === undefined)
      fails(`${evidence.deed} on ${evidence.node} before ${run.id} was started`);
  },
};

function judgeOrder(id: string, chronicle: Chronicle, fails: (message: string) => void): void {
  const action = chronicle.order(id);
  const run = chronicle.sim.store.runs.get(action?.run ?? '');
  if (action === undefined || run === undefined) return;
  const missing = missingOf(chronicle, run, 'start', run.state.startedAtMs ?? chronicle.nowMs);
  if (missing > 0) fails(`${id} is ordered, and ${missing} people have not approved ${run.id}`);
  const { notBeforeMs = 0 } = chronicle.sim.windows.timing ?? {};
  if (chronicle.nowMs < notBeforeMs)
    fails(`${id} is ordered ${notBeforeMs - chronicle.nowMs} ms before the time of ${run.id}`);
  const [kind = ''] = action.step.split(':');
  if (
    WINDOWED.has(kind) &&
    !isTouched(chronicle, run, id, action.step) &&
    !chronicle.sim.windows.mayOrder(chronicle.nowMs)
  ) {
    fails(`${id} is ordered outside of the window of ${run.id}`);
  }
  if (!STARTS.has(kind)) return;
  const begun = [...chronicle.sim.store.orders.values()].some(
    (row) => row.action.run === run.id && row.action.id !== id && STARTS.has(kindOf(row)) && leftItsMark(row),
  );
  if (!begun && missingOf(chronicle, run, 'irreversible', chronicle.nowMs) > 0) {
    fails(`${id} is ordered, cannot be undone, and nobody approved that`);
  }
}

const WINDOWED = new Set(['gate', 'stop', 'upgrade']);

const kindOf = ({ action }: OrderRow): string => action.step.split(':')[0] ?? '';

/** Not when its host left the node as it was; nor when an upgrade brought it back. */
function leftItsMark(row: OrderRow): boolean {
  const left = row.result?.disposition;
  return left !== 'untouched' && !(left === 'backed-out' && kindOf(row) === 'upgrade');
}

/** Whether the run was ordered to take this node down before; any node, where all go down together. */
function isTouched({ sim }: Chronicle, { id, plan }: Run, order: string, step: string): boolean {
  const node = step.slice(step.indexOf(':') + 1);
  return [...sim.store.orders.values()].some((row) => {
    const { action } = row;
    const [kind = '', at = ''] = action.step.split(':');
    const isOther = action.run === id && action.id !== order && leftItsMark(row);
    return isOther && (kind === 'stop' || kind === 'upgrade') && (plan.topology === 'single-replica' || at === node);
  });
}

/** How many more people had to agree at this time, by what they said and by what the policy asks: not by the engine. */
function missingOf({ sim }: Chronicle, run: Run, scope: ApprovalScope, atMs: number): number {
  const requirement = sim.approvers.demand[scope];
  if (requirement === undefined) return 0;
  const people = run.said.filter(
    (said) =>
      said.scope === scope &&
      said.isOfPlan &&
      said.person !== REQUESTER &&
      said.atMs <= atMs &&
      said.atMs + requirement.validForMs > atMs,
  );
  return Math.max(0, requirement.approvers - new Set(people.map(({ person }) => person)).size);
}
