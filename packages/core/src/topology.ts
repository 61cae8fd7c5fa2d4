/** Which nodes form one cluster, and of which topology: derived from what the database itself says, never typed in. */
import type { NodeState } from './api.ts';
import type { ClusterHealth, ClusterView, NodeFacts, NodeReport, NodeRow, Topology } from './facts.ts';
import { members } from './judge.ts';

/** Source: KWDB facts, "Topologies": the start command is the second witness beside `MODE`. */
const START_MODES: ReadonlyMap<string, Topology> = new Map([
  ['start-single-node', 'standalone'],
  ['start', 'multi-replica'],
  ['start-single-replica', 'single-replica'],
]);

/** An agent that was not heard of for this long is taken for gone: three heartbeats of the default. */
export const LOST_AFTER_MS = 15_000;

export type TopologyWitness =
  | { readonly verdict: 'agreed'; readonly topology: Topology }
  | { readonly verdict: 'disagreed' | 'unknown'; readonly message: string };

/** Asks both witnesses of one node: its host (`MODE`, or the command of its container or process), and `start_mode` in the node status. Either alone is not enough to plan on. */
export function topologyOf(report: NodeReport): TopologyWitness {
  const recorded = report.installation?.topology;
  const row = report.view?.nodes.find((candidate) => candidate.kwdbId === report.identity?.kwdbId);
  const running = row?.startMode === undefined ? undefined : START_MODES.get(row.startMode);
  if (recorded === undefined) return { verdict: 'unknown', message: 'the host does not tell the topology' };
  if (row?.startMode === undefined) return { verdict: 'unknown', message: 'the database does not tell its start mode' };
  if (running === undefined) return { verdict: 'unknown', message: `start mode "${row.startMode}" is not known` };
  if (running === recorded) return { verdict: 'agreed', topology: recorded };
  return {
    verdict: 'disagreed',
    message: `the host says ${recorded}, the start mode "${row.startMode}" says ${running}`,
  };
}

export type MissingNode = { readonly kwdbId: number; readonly address?: string };

export type Cluster = {
  /** The database's own cluster id. */
  readonly id: string;
  /** Set when every node that tells its topology tells the same. */
  readonly topology?: Topology;
  /** Ordered by the database's node id. */
  readonly nodes: readonly NodeFacts[];
  /** Nodes that the database lists and no agent reports. */
  readonly missing: readonly MissingNode[];
};

/** What was observed last by the controller's clock: each host's own is corrected by its skew. */
function freshest<T>(
  nodes: readonly NodeFacts[],
  answerOf: (facts: NodeFacts) => { readonly answer: T; readonly observedAtMs: number } | undefined,
): T | undefined {
  const answers = nodes.flatMap((facts) => {
    const found = answerOf(facts);
    return found === undefined ? [] : [{ ...found, atMs: found.observedAtMs - facts.clockSkewMs }];
  });
  return answers.toSorted((a, b) => b.atMs - a.atMs)[0]?.answer;
}

/** The newest of what any node of the cluster said of it. */
export const freshestView = (nodes: readonly NodeFacts[]): ClusterView | undefined =>
  freshest(nodes, ({ report: { view } }) => view && { answer: view, observedAtMs: view.observedAtMs });

/** The newest answer to the questions of a cluster check. */
export const freshestHealth = (nodes: readonly NodeFacts[]): ClusterHealth | undefined =>
  freshest(nodes, ({ report: { health } }) => health && { answer: health, observedAtMs: health.view.observedAtMs });

const kwdbIdOf = (facts: NodeFacts): number => facts.report.identity?.kwdbId ?? 0;

/** Groups nodes by the cluster id that their database gave. Nodes whose database never answered belong to none yet. */
export function deriveClusters(nodes: readonly NodeFacts[]): Cluster[] {
  const groups = Map.groupBy(
    nodes.filter(({ report }) => report.identity !== undefined),
    ({ report }) => report.identity?.clusterId ?? '',
  );
  return [...groups].map(([id, group]) => clusterOf(id, group)).sort((a, b) => a.id.localeCompare(b.id));
}

function clusterOf(id: string, group: readonly NodeFacts[]): Cluster {
  const nodes = group.toSorted((a, b) => kwdbIdOf(a) - kwdbIdOf(b) || a.node.localeCompare(b.node));
  const reported = new Set(nodes.map(kwdbIdOf));
  const missing = members(freshestView(nodes)?.nodes ?? [])
    .filter((row) => !reported.has(row.kwdbId))
    .map(({ kwdbId, address }): MissingNode => (address === undefined ? { kwdbId } : { kwdbId, address }));
  const topologies = new Set(nodes.flatMap(({ report }) => report.installation?.topology ?? []));
  const [topology] = topologies;
  return { id, nodes, missing, ...(topologies.size === 1 && topology !== undefined ? { topology } : {}) };
}

function rowOf(report: NodeReport): NodeRow | undefined {
  return report.view?.nodes.find((row) => row.kwdbId === report.identity?.kwdbId);
}

/** A node's health in one word, with the reason. `connected` and freshness come first: what is not heard is not known. */
export function nodeState(facts: NodeFacts, nowMs: number): { state: NodeState; detail: string } {
  const { report } = facts;
  const silentMs = nowMs - facts.lastSeenMs;
  if (!facts.connected || silentMs > LOST_AFTER_MS) {
    return { state: 'unknown', detail: `its agent was last heard ${Math.max(0, Math.round(silentMs / 1000))} s ago` };
  }
  const { installation } = report;
  if (installation === undefined) return { state: 'degraded', detail: 'KWDB is not installed' };
  if (!report.serving)
    return { state: 'down', detail: `the database does not serve (service ${installation.unit.active})` };
  if (!report.ready) return { state: 'degraded', detail: 'the database does not take clients' };
  if (installation.condition !== 'clean') {
    return { state: 'degraded', detail: `${installation.condition}: ${installation.conditionDetail}` };
  }
  const row = rowOf(report);
  if (row !== undefined && !row.isAvailable) return { state: 'degraded', detail: 'marked upgrading or leaving' };
  return { state: 'healthy', detail: '' };
}
