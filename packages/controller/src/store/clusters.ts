/** What people say of clusters: names and labels. What the clusters are is derived from the nodes' reports. */
import type { Sql } from './database.ts';

export type ClusterRow = { readonly id: string; readonly name: string; readonly labels: Record<string, string> };

export async function allClusters(sql: Sql): Promise<ClusterRow[]> {
  return sql.query<ClusterRow>('SELECT id, name, labels FROM clusters ORDER BY id');
}

/** Whether there is such a cluster. */
export async function describeCluster(
  sql: Sql,
  id: string,
  change: { name?: string | undefined; labels?: Record<string, string> | undefined },
): Promise<boolean> {
  const { name = null, labels } = change;
  const changed = await sql.execute(
    'UPDATE clusters SET name = coalesce($2, name), labels = coalesce($3::jsonb, labels) WHERE id = $1',
    [id, name, labels === undefined ? null : JSON.stringify(labels)],
  );
  return changed > 0;
}
