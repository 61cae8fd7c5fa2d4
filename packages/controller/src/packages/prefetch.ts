/** Brings a package to hosts before it is needed there, so that a window is not spent on fetching. */
import { FleetError } from '@kwfleet/core';
import { readFleetIn } from '../api/fleet.ts';
import { audit } from '../store/audit.ts';
import type { Sql } from '../store/database.ts';
import { lockPackages } from '../store/packages.ts';
import { insertPrefetches } from '../store/prefetches.ts';

/**
 * Asks the agents of these clusters (by id or name) to fetch the package; answers how many were asked. They are told
 * at once, or when they are back; asking again asks those again whose fetch failed, and costs nothing where the package
 * lies already. Call it in a transaction. Throws PACKAGE_UNKNOWN, CLUSTER_UNKNOWN or CLUSTER_AMBIGUOUS.
 */
export async function prefetch(sql: Sql, clusters: readonly string[], sha256: string, actor: string): Promise<number> {
  if (!(await lockPackages(sql, [sha256]))) throw new FleetError('PACKAGE_UNKNOWN', `there is no package ${sha256}`);
  const fleet = await readFleetIn(sql);
  const nodes = new Set(clusters.flatMap((cluster) => fleet.cluster(cluster).nodes.map(({ node }) => node)));
  await insertPrefetches(sql, [...nodes].sort(), sha256, actor);
  await audit(sql, actor, 'package.prefetch', { sha256, clusters, nodes: nodes.size });
  return nodes.size;
}
