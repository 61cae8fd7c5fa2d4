/** I1: at most one node of a multi-replica cluster is not serving because of this system; and none is taken that cannot be spared. */
import { type Checker, type Chronicle, DISRUPTIVE } from '../chronicle.ts';

/** A node that fell by itself shortly before an order was given may not have been noticed: heartbeats, silence, the way of a report. */
export const UNSEEN_MS = 17_000;
/** A liveness record outlives its process by its time to live; the interlock's answer is good for 5 s, and asking takes a moment. */
const AFTER_RECORD_MS = 10_000;

export const orderedAtMs = (action: string, chronicle: Chronicle): number =>
  chronicle.sim.store.orders.get(action)?.createdAtMs ?? 0;

/** Whether whoever gave the order could not know yet that the node was down. */
export function isUnseen(downSinceMs: number, action: string, chronicle: Chronicle): boolean {
  return downSinceMs > orderedAtMs(action, chronicle) - UNSEEN_MS;
}

export const i1: Checker = {
  invariant: 'I1',
  see(evidence, chronicle, fails) {
    if (evidence.type !== 'deed' || !DISRUPTIVE.has(evidence.deed)) return;
    const { sim, nowMs } = chronicle;
    if (sim.database.topology !== 'multi-replica') return;
    if (chronicle.hosts.get(evidence.node)?.readySinceMs === undefined) return;
    const soakMs = chronicle.plan(chronicle.order(evidence.action)?.run ?? '')?.options.soakMs ?? 0;
    for (const { node, process, healedAtMs } of sim.hosts) {
      const healingMs = process?.joinedAtMs === undefined || healedAtMs < nowMs ? 0 : nowMs - process.joinedAtMs;
      if (healingMs > UNSEEN_MS)
        fails(`${evidence.deed} on ${evidence.node} while ranges of ${node} lack replicas for ${healingMs} ms`);
    }
    for (const [node, other] of chronicle.hosts) {
      if (node === evidence.node || other.downSinceMs === undefined) continue;
      const downMs = nowMs - other.downSinceMs;
      const spellMs = other.spellMs(nowMs);
      const unseen = isUnseen(other.downSinceMs, evidence.action, chronicle);
      const expired = downMs > sim.database.ttlMs + AFTER_RECORD_MS && !sim.database.isLive(sim.host(node));
      const why = `${evidence.deed} on ${evidence.node} while ${node} has been down for ${downMs} ms`;
      if (other.takenBy !== undefined && spellMs === 0) fails(`${why}, taken down by ${other.takenBy}`);
      else if (other.takenBy !== undefined && spellMs < soakMs && !unseen) {
        fails(`${why}: it fell ${spellMs} ms after ${other.takenBy} brought it back`);
      } else if (expired) fails(`${why}, which the database knew`);
      else if (!unseen) fails(`${why}, which its agent said, or did not report, before the order was given`);
    }
  },
};
