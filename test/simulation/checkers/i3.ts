/** I3: single-replica: nothing is installed before all are stopped, nothing started before all are installed at one version. */
import type { Checker } from '../chronicle.ts';
import { orderedAtMs } from './i1.ts';

/** A host that came up by itself (a reboot, its unit enabled) this short a time before the order may not have been noticed. */
const UNSEEN_MS = 30_000;

export const i3: Checker = {
  invariant: 'I3',
  see(evidence, chronicle, fails) {
    const { sim } = chronicle;
    if (sim.database.topology !== 'single-replica') return;
    // On the way back of an abort, the old version is put back under nodes of that version: nothing to keep apart.
    if (evidence.type === 'command-began' && evidence.kind === 'install') {
      for (const host of sim.hosts) {
        if (host.process === null) continue;
        const upMs = chronicle.nowMs - host.process.startedMs;
        const orderAgeMs = chronicle.nowMs - orderedAtMs(evidence.action, chronicle);
        if (upMs > orderAgeMs + UNSEEN_MS)
          fails(`${evidence.kind} on ${evidence.node} while ${host.node} has been running for ${upMs} ms`);
      }
    }
    if (evidence.type === 'started' && evidence.cause === 'system') {
      const versions = sim.hosts.map(({ packages }) => packages.binary ?? 'none');
      if (new Set(versions).size > 1) {
        fails(`${evidence.node} is started while the hosts have ${versions.join(', ')}`);
      }
    }
  },
};
