/** I6: a run that says succeeded: every host truly runs the target, installed whole. */
import type { Checker } from '../chronicle.ts';

/** A node may fall by itself after it was looked at: reports and heartbeats may be this old. */
const SEEN_MS = 45_000;

export const i6: Checker = {
  invariant: 'I6',
  see(evidence, chronicle, fails) {
    if (evidence.type !== 'run-changed' || evidence.status !== 'succeeded') return;
    const to = chronicle.plan(evidence.run)?.to;
    for (const host of chronicle.sim.hosts) {
      const { node, packages } = host;
      const record = chronicle.hosts.get(node);
      if (record?.version !== to) fails(`${node} last served ${record?.version}, not ${to}`);
      const gone = record?.downSinceMs === undefined ? 0 : chronicle.nowMs - record.downSinceMs;
      if (gone > SEEN_MS) fails(`${node} has not been serving for ${gone} ms`);
      const versions = [packages.recorded, packages.package, packages.binary];
      if (packages.half || versions.some((version) => version !== to))
        fails(`${node} has installed ${versions.join(', ')}`);
    }
  },
};
