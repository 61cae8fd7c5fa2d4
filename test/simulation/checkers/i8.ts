/** I8: one run a cluster at a time. */
import { ENDED } from '@kwfleet/core';
import type { Checker } from '../chronicle.ts';

export const i8: Checker = {
  invariant: 'I8',
  see(evidence, chronicle, fails) {
    if (evidence.type !== 'run-created') return;
    const others = [...chronicle.sim.store.runs.values()].filter(
      ({ id, state }) => id !== evidence.run && !ENDED.has(state.status),
    );
    for (const { id } of others) fails(`${evidence.run} is made while ${id} has not ended`);
  },
};
