/** I2: no node is touched before the one before it is back at the target and stayed so for the soak. */
import { type Checker, DISRUPTIVE } from '../chronicle.ts';
import { isUnseen, orderedAtMs, UNSEEN_MS } from './i1.ts';

export const i2: Checker = {
  invariant: 'I2',
  see(evidence, chronicle, fails) {
    if (evidence.type !== 'deed') return;
    const { sim, nowMs } = chronicle;
    if (sim.database.topology !== 'multi-replica') return;
    if (!DISRUPTIVE.has(evidence.deed) && evidence.deed !== 'install') return;
    const run = chronicle.order(evidence.action)?.run ?? '';
    const plan = chronicle.plan(run);
    if (plan === undefined) return;
    for (const [node, other] of chronicle.hosts) {
      if (node === evidence.node || other.takenBy !== run) continue;
      const where = `${evidence.deed} on ${evidence.node}, and ${node}, touched before,`;
      if (other.spellVersion !== plan.to) {
        fails(`${where} never served ${plan.to} (last: ${other.spellVersion ?? 'nothing'})`);
        continue;
      }
      const spellMs = other.spellMs(nowMs);
      const fellUnseen = other.downSinceMs !== undefined && isUnseen(other.downSinceMs, evidence.action, chronicle);
      // It fell at the very end of the soak, live by its record, and was back before the order: nobody could see that.
      const backUnseen =
        other.readySinceMs !== undefined &&
        other.lastServedMs > orderedAtMs(evidence.action, chronicle) - sim.database.ttlMs - UNSEEN_MS;
      if (spellMs < plan.options.soakMs && !fellUnseen && !backUnseen) fails(`${where} served for ${spellMs} ms at most`);
    }
  },
};
