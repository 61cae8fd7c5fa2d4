/** Agents that give packages to others of their cluster or site. What they hold is what they say: receivers verify. */
import type { Holdings } from '@kwfleet/protocol';
import type { Sql } from './database.ts';

export type Peer = { readonly node: string; readonly address: string };

/** An agent that says no address gives nothing to others. */
export async function storeHoldings(sql: Sql, node: string, { address, sha256s }: Holdings): Promise<void> {
  if (address === undefined) return void (await sql.execute('DELETE FROM peers WHERE node = $1', [node]));
  await sql.execute(
    `INSERT INTO peers (node, address, packages, told_at_ms) VALUES ($1, $2, $3, now_ms())
     ON CONFLICT (node) DO UPDATE SET address = excluded.address, packages = excluded.packages, told_at_ms = excluded.told_at_ms`,
    [node, address, sha256s],
  );
}

/** Connected agents of the node's cluster, or of clusters with the same label `site`; itself left out. */
const NEIGHBOURS = `FROM peers JOIN nodes USING (node) LEFT JOIN clusters ON clusters.id = nodes.report #>> '{identity,clusterId}',
    (SELECT own.id AS cluster, own.labels ->> 'site' AS site FROM nodes me
       LEFT JOIN clusters own ON own.id = me.report #>> '{identity,clusterId}' WHERE me.node = $1) AS asking
  WHERE peers.node <> $1 AND nodes.stream IS NOT NULL AND nodes.connected_until_ms > now_ms()
    AND (clusters.id = asking.cluster OR clusters.labels ->> 'site' = asking.site)`;

/** Who of the neighbourhood holds the package: those of the same cluster first, else in any order, a few. */
export async function findPeers(sql: Sql, node: string, sha256: string, limit: number): Promise<Peer[]> {
  return sql.query<Peer>(
    `SELECT peers.node, peers.address ${NEIGHBOURS} AND $2 = ANY (peers.packages)
     ORDER BY (clusters.id = asking.cluster) DESC, random() LIMIT $3`,
    [node, sha256, limit],
  );
}

/** The neighbourhood of a node by a name of its own; undefined when nobody there gives packages to others. */
export async function neighbourhoodOf(sql: Sql, node: string): Promise<string | undefined> {
  const [row] = await sql.query<{ name: string }>(
    `SELECT coalesce('site ' || asking.site, 'cluster ' || asking.cluster) AS name ${NEIGHBOURS} LIMIT 1`,
    [node],
  );
  return row?.name;
}
