/** The fleet as it stands: reports put together into clusters, with the names people gave them. */
import {
  type Cluster,
  type ClusterSummary,
  compareVersions,
  deriveClusters,
  FleetError,
  type HealthRecord,
  type HealthView,
  healthId,
  type NodeFacts,
  type NodeView,
  nodeState,
  normalVersion,
  parseVersion,
  worstState,
} from '@kwfleet/core';
import { allClusters, type ClusterRow } from '../store/clusters.ts';
import type { Database, Sql } from '../store/database.ts';
import { allHealth, type HealthRow } from '../store/health.ts';
import { allNodes, databaseNow } from '../store/nodes.ts';
import { activeRunsByCluster } from '../store/runs.ts';

export type FleetRows = {
  readonly facts: readonly NodeFacts[];
  readonly clusters: readonly ClusterRow[];
  readonly runs: ReadonlyMap<string, string>;
  readonly health: readonly HealthRow[];
  readonly nowMs: number;
};

/** One consistent look at everything. */
export class Fleet {
  readonly nowMs: number;
  readonly #facts: readonly NodeFacts[];
  readonly #clusters: readonly Cluster[];
  readonly #rows: ReadonlyMap<string, ClusterRow>;
  readonly #runs: ReadonlyMap<string, string>;
  readonly #health: ReadonlyMap<string, HealthRecord>;

  constructor({ facts, clusters, runs, health, nowMs }: FleetRows) {
    this.nowMs = nowMs;
    this.#facts = facts;
    this.#clusters = deriveClusters(facts);
    this.#rows = new Map(clusters.map((row) => [row.id, row]));
    this.#runs = runs;
    this.#health = new Map(health.map(({ kind, id, record }) => [`${kind} ${id}`, record]));
  }

  clusters(): ClusterSummary[] {
    return this.#clusters.map((cluster) => this.#summary(cluster));
  }

  /** Every node, those of no cluster yet among them. */
  nodes(): NodeView[] {
    const unclaimed = this.#facts.filter(({ report }) => report.identity === undefined);
    return [
      ...this.clusters().flatMap(({ nodes }) => nodes),
      ...unclaimed.map((facts) => this.#withHealth(viewOf(facts, undefined, this.nowMs))),
    ];
  }

  /** Of the cluster of this id, else of all of this name; none where there is no such cluster. */
  nodesOf(idOrName: string): NodeFacts[] {
    return this.#called(idOrName).flatMap(({ nodes }) => nodes);
  }

  #called(idOrName: string): Cluster[] {
    const byId = this.#clusters.find(({ id }) => id === idOrName);
    return byId === undefined ? this.#clusters.filter(({ id }) => this.nameOf(id) === idOrName) : [byId];
  }

  /** By id, else by name. Throws CLUSTER_UNKNOWN or CLUSTER_AMBIGUOUS. */
  cluster(idOrName: string): Cluster {
    const [first, ...others] = this.#called(idOrName);
    if (first === undefined) throw new FleetError('CLUSTER_UNKNOWN', `there is no cluster "${idOrName}"`);
    if (others.length > 0) {
      const ids = [first, ...others].map(({ id }) => id).join(', ');
      throw new FleetError('CLUSTER_AMBIGUOUS', `several clusters are named "${idOrName}": ${ids}`);
    }
    return first;
  }

  summaryOf(idOrName: string): ClusterSummary {
    return this.#summary(this.cluster(idOrName));
  }

  /** Of the hosts that are connected now, in milliseconds, either way. */
  clockSkewsMs(): number[] {
    return this.#facts.filter(({ connected }) => connected).map(({ clockSkewMs }) => clockSkewMs);
  }

  nameOf(id: string): string {
    return this.#rows.get(id)?.name ?? id;
  }

  runOf(cluster: string): string | undefined {
    return this.#runs.get(cluster);
  }

  #withHealth(node: NodeView): NodeView {
    const health = this.#healthOf('node', healthId(node));
    return health === undefined ? node : { ...node, health };
  }

  #healthOf(kind: HealthRow['kind'], id: string): HealthView | undefined {
    const record = this.#health.get(`${kind} ${id}`);
    if (record === undefined) return undefined;
    const { state, sinceMs, detail, flapping } = record;
    return { state, sinceMs, detail, flapping };
  }

  #summary(cluster: Cluster): ClusterSummary {
    const nodes = [
      ...cluster.nodes.map((facts) => viewOf(facts, cluster.id, this.nowMs)),
      ...cluster.missing.map((missing) => missingView(missing, cluster.id)),
    ].map((node) => this.#withHealth(node));
    const state = worstState(nodes.map((node) => node.state));
    const troubled = nodes.filter((node) => node.state !== 'healthy');
    const versions = [...new Set(nodes.flatMap(({ version }) => version ?? []))];
    const run = this.#runs.get(cluster.id);
    const health = this.#healthOf('cluster', cluster.id);
    return {
      id: cluster.id,
      name: this.nameOf(cluster.id),
      labels: this.#rows.get(cluster.id)?.labels ?? {},
      ...(cluster.topology !== undefined && { topology: cluster.topology }),
      versions: versions.sort((a, b) => compareVersions(parseVersion(a), parseVersion(b))),
      state,
      detail: troubled.map(({ id, state, detail }) => `${id} is ${state}: ${detail}`).join('; '),
      ...(health && { health }),
      nodes,
      ...(run !== undefined && { run }),
    };
  }
}

/** Call it inside a REPEATABLE READ transaction where what follows must see the same. */
export async function readFleetIn(sql: Sql): Promise<Fleet> {
  return new Fleet({
    facts: await allNodes(sql),
    clusters: await allClusters(sql),
    runs: await activeRunsByCluster(sql),
    health: await allHealth(sql),
    nowMs: await databaseNow(sql),
  });
}

export const readFleet = (database: Database): Promise<Fleet> => database.transaction(readFleetIn, 'REPEATABLE READ');

function viewOf(facts: NodeFacts, cluster: string | undefined, nowMs: number): NodeView {
  const { report } = facts;
  const { installation, identity } = report;
  const version = versionOf(installation?.versions);
  return {
    id: facts.node,
    ...(cluster !== undefined && { cluster }),
    ...nodeState(facts, nowMs),
    connected: facts.connected,
    lastSeenMs: facts.lastSeenMs,
    ...(installation && { address: `${installation.address}:${installation.port}`, method: installation.method }),
    ...(identity && { kwdbId: identity.kwdbId }),
    ...(version !== undefined && { version }),
    ...(installation?.topology !== undefined && { topology: installation.topology }),
    report,
  };
}

function missingView({ kwdbId, address }: Cluster['missing'][number], cluster: string): NodeView {
  return {
    id: `missing:${kwdbId}`,
    cluster,
    state: 'missing',
    detail: 'the database lists it and no agent reports from it',
    connected: false,
    kwdbId,
    ...(address !== undefined && { address }),
  };
}

type Versions = NonNullable<NodeFacts['report']['installation']>['versions'];

/** What the host records: a build tag may lack the extension. Only spellings that are versions: the list is sorted by them. */
function versionOf(versions: Versions | undefined): string | undefined {
  for (const text of [versions?.recorded, versions?.running, versions?.binary, versions?.package]) {
    if (text === undefined) continue;
    try {
      return normalVersion(text);
    } catch {
      // Not a version; the report shows it as it is, and the checks of a plan name it.
    }
  }
  return undefined;
}
