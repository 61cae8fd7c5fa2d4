/** I7: every changed setting is back at its prior value when a run ends, and no node is left marked. */
import { ENDED } from '@kwfleet/core';
import type { Checker, Chronicle } from '../chronicle.ts';

function check(run: string, chronicle: Chronicle, fails: (message: string) => void): void {
  const { sim } = chronicle;
  const { database } = sim;
  const marked = sim.hosts.filter((host) => host.marked).map(({ node }) => node);
  if (marked.length > 0) fails(`${run} succeeded and leaves ${marked.join(', ')} marked upgrading`);
  if (database.storeDead !== database.storeDeadBefore) {
    fails(`${run} ended and server.time_until_store_dead is ${database.storeDead}, before ${database.storeDeadBefore}`);
  }
}

export const i7: Checker = {
  invariant: 'I7',
  see(evidence, chronicle, fails) {
    if (evidence.type !== 'run-changed' || !ENDED.has(evidence.status)) return;
    // An abort that a person forced while a host was at work says so, and cannot put anything back.
    if (evidence.status !== 'succeeded' && evidence.reason?.includes('left unfinished') === true) return;
    if (chronicle.sim.store.runs.get(evidence.run)?.state.abandoned === true) return;
    if (evidence.status === 'succeeded') check(evidence.run, chronicle, fails);
  },
};
