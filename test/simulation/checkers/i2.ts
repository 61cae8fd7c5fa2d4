/** I2: no node is touched before the one before it was seen to be back at the target, truly, and to stay so for the soak. */
import { type Checker, type Chronicle, DISRUPTIVE } from '../chronicle.ts';
import type { Evidence } from '../evidence.ts';

/** By chronicle: when each node was last certified to be back. */
const certificates = new WeakMap<Chronicle, Map<string, number>>();

function certificatesOf(chronicle: Chronicle): Map<string, number> {
  const known = certificates.get(chronicle) ?? new Map<string, number>();
  certificates.set(chronicle, known);
  return known;
}

export const i2: Checker = {
  invariant: 'I2',
  see(evidence, chronicle, fails) {
    if (chronicle.sim.database.topology !== 'multi-replica') return;
    if (evidence.type === 'result') return certify(evidence, chronicle, fails);
    if (evidence.type !== 'deed') return;
    if (!DISRUPTIVE.has(evidence.deed) && evidence.deed !== 'install') return;
    const run = chronicle.order(evidence.action)?.run ?? '';
    for (const [node, other] of chronicle.hosts) {
      if (node === evidence.node || other.takenBy !== run) continue;
      const seenAtMs = certificatesOf(chronicle).get(node) ?? 0;
      if (seenAtMs <= other.takenAtMs) {
        fails(`${evidence.deed} on ${evidence.node}, and ${node}, touched before, was not seen to be back`);
      }
    }
  },
};

/** A witness that says yes is believed only when the world agrees. */
function certify(
  { action, outcome }: Evidence & { type: 'result' },
  chronicle: Chronicle,
  fails: (message: string) => void,
): void {
  const order = chronicle.order(action);
  const plan = order === undefined ? undefined : chronicle.plan(order.run);
  const step = plan?.steps.find(({ id }) => id === order?.step);
  if (plan === undefined || step?.kind !== 'witness' || outcome !== 'succeeded') return;
  const record = chronicle.hosts.get(step.node);
  if (record === undefined) return;
  const { nowMs, sim } = chronicle;
  if (record.spellVersion !== plan.to) {
    fails(`${action} says that ${step.node} is back; it last served ${record.spellVersion ?? 'nothing'}`);
  }
  // Its liveness record outlives a node: one that falls within that time of the soak's end looks as if it stayed.
  const provableMs = plan.options.soakMs - sim.database.ttlMs;
  // One that is live and takes no clients looks well to the database; that its agent says so is I1's to judge.
  const spellMs = record.memberMs(nowMs);
  if (spellMs < provableMs) fails(`${action} says that ${step.node} stayed; it was a member for ${spellMs} ms at most`);
  certificatesOf(chronicle).set(step.node, nowMs);
}
