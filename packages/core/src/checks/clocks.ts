/** How far the clocks of a cluster's nodes are apart, as the controller hears them. */
import { block, pass, result } from '../check-result.ts';
import type { CheckResult } from '../plan.ts';
import type { Cluster } from '../topology.ts';

/** KWDB's default limit, as CockroachDB's: a node that sees itself further off than most others ends itself. */
export const CLOCK_LIMIT_MS = 500;
/** What the way of a report adds to a skew is far below this. */
export const CLOCK_BLOCK_MS = 10_000;

/** Warns above what KWDB tolerates, since what is measured includes the way of the reports, and blocks far above. */
export function checkClocks(cluster: Cluster): CheckResult[] {
  const bySkew = cluster.nodes.filter(({ connected }) => connected).toSorted((a, b) => a.clockSkewMs - b.clockSkewMs);
  const [slowest, fastest] = [bySkew[0], bySkew.at(-1)];
  if (slowest === undefined || fastest === undefined || slowest === fastest) return [];
  const apartMs = fastest.clockSkewMs - slowest.clockSkewMs;
  const message = `the clock of ${fastest.node} is ${apartMs} ms ahead of that of ${slowest.node}`;
  if (apartMs > CLOCK_BLOCK_MS) return [block('CLOCK_SKEW', message)];
  if (apartMs > CLOCK_LIMIT_MS) return [result('warn', 'CLOCK_SKEW', message)];
  return [pass('CLOCK_SKEW', `the clocks of all nodes are within ${CLOCK_LIMIT_MS} ms`)];
}
