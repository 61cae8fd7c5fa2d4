/** I10: nothing starts outside its window, or without approval. There are no windows yet: nothing before its run was made. */
import type { Checker } from '../chronicle.ts';

export const i10: Checker = {
  invariant: 'I10',
  see(evidence, chronicle, fails) {
    if (evidence.type !== 'deed') return;
    const run = chronicle.sim.store.runs.get(chronicle.order(evidence.action)?.run ?? '');
    if (run === undefined || run.createdAtMs > chronicle.nowMs)
      fails(`${evidence.deed} on ${evidence.node} for no run`);
    else if (run.state.startedAtMs === undefined)
      fails(`${evidence.deed} on ${evidence.node} before ${run.id} was started`);
  },
};
