/** I7: every changed setting is back at its prior value when a run ends, and no node is left marked. */
import { ENDED } from '@kwfleet/core';
import type { Checker, Chronicle } from '../chronicle.ts';

/** The setting as each run found it; absent for a run that came after one that was cut off at work. */
const befores = new WeakMap<Chronicle, Map<string, string | undefined>>();

export const i7: Checker = {
  invariant: 'I7',
  see(evidence, chronicle, fails) {
    const { sim } = chronicle;
    const before = befores.get(chronicle) ?? new Map<string, string | undefined>();
    befores.set(chronicle, before);
    if (evidence.type === 'run-created') {
      before.set(evidence.run, before.has('cut off') ? undefined : sim.database.storeDead);
      return;
    }
    if (evidence.type !== 'run-changed' || !ENDED.has(evidence.status)) return;
    // An abort that a person forced while a host was at work says so, and cannot put anything back.
    const forced = evidence.reason?.includes('left unfinished') === true;
    if (forced || sim.store.runs.get(evidence.run)?.state.abandoned === true) {
      before.set('cut off', '');
      return;
    }
    const marked = sim.hosts.filter((host) => host.marked).map(({ node }) => node);
    if (evidence.status === 'succeeded' && marked.length > 0) fails(`${marked.join(', ')} is left marked upgrading`);
    const value = before.get(evidence.run);
    if (value !== undefined && value !== sim.database.storeDead) {
      const now = sim.database.storeDead;
      fails(`${evidence.run} ${evidence.status} and server.time_until_store_dead is ${now}, before ${value}`);
    }
  },
};
