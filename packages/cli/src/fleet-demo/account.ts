/** Whether a rollout went as its file says, by what the hosts wrote down themselves. Pure. */
import type { HostEvent } from './light-host.ts';

export type Expectation = {
  /** Waves in order, each with the names of its clusters. */
  readonly waves: readonly { readonly name: string; readonly clusters: readonly string[] }[];
  /** By cluster: how many nodes it has, and its topology. */
  readonly clusters: ReadonlyMap<string, { readonly nodes: number; readonly topology: string }>;
  /** Nothing may be touched before the window opens, nor before the second person agreed. */
  readonly notBeforeMs: number;
  readonly target: string;
  readonly failing: string;
  readonly unreachable: string;
  /** How many clusters may be under way at once. */
  readonly limit: number;
};

/** What is not as it must be, in words; empty when all is. */
export function findFaults(events: readonly HostEvent[], expected: Expectation): string[] {
  return [
    ...tooEarly(events, expected),
    ...outOfOrder(events, expected),
    ...tooManyAtOnce(events, expected),
    ...[...expected.clusters].flatMap(([name, { topology, nodes }]) => {
      const own = events.filter(({ cluster }) => cluster === name);
      return [...procedureFaults(name, topology, nodes, own), ...endFaults(name, nodes, own, expected)];
    }),
  ];
}

function tooEarly(events: readonly HostEvent[], { notBeforeMs }: Expectation): string[] {
  const early = events.find(({ atMs }) => atMs < notBeforeMs);
  return early === undefined ? [] : [`${early.node} was touched ${notBeforeMs - early.atMs} ms before it might be`];
}

/** No node of a wave goes down before every node of the waves before it is up for good. */
function outOfOrder(events: readonly HostEvent[], { waves }: Expectation): string[] {
  const faults: string[] = [];
  let lastUpMs = 0;
  let before = '';
  for (const { name, clusters } of waves) {
    const own = events.filter(({ cluster }) => clusters.includes(cluster));
    const first = own[0];
    if (first !== undefined && first.atMs < lastUpMs) {
      faults.push(`the wave ${name} touched ${first.node} while the wave ${before} was under way`);
    }
    lastUpMs = Math.max(lastUpMs, ...own.map(({ atMs }) => atMs));
    before = name;
  }
  return faults;
}

/** How many clusters have a node down at one moment is at most how many are under way. */
function tooManyAtOnce(events: readonly HostEvent[], { limit }: Expectation): string[] {
  const down = new Map<string, number>();
  for (const { cluster, event, atMs } of events) {
    if (event === 'down') down.set(cluster, (down.get(cluster) ?? 0) + 1);
    if (event === 'up') down.set(cluster, (down.get(cluster) ?? 0) - 1);
    const now = [...down.values()].filter((count) => count > 0).length;
    if (now > limit) return [`${now} clusters had a node down at ${new Date(atMs).toISOString()}, more than ${limit}`];
  }
  return [];
}

/** Multi-replica: one node down at a time. Single-replica: all down, then all installed, then all up. */
function procedureFaults(name: string, topology: string, nodes: number, own: readonly HostEvent[]): string[] {
  const down = new Set<string>();
  const installed = new Set<string>();
  for (const { event, node } of own) {
    if (event === 'down') down.add(node);
    if (event === 'up') down.delete(node);
    if (event === 'installed') installed.add(node);
    if (topology === 'multi-replica' && down.size > 1) return [`${name}: ${[...down].join(' and ')} were down at once`];
    if (topology !== 'single-replica') continue;
    if (event === 'installed' && down.size < nodes) return [`${name}: ${node} was installed before all were down`];
    if (event === 'up' && installed.size < nodes) return [`${name}: ${node} was started before all were installed`];
  }
  return [];
}

function endFaults(name: string, nodes: number, own: readonly HostEvent[], expected: Expectation): string[] {
  const ups = own.filter(({ event }) => event === 'up');
  if (name === expected.unreachable) return own.length === 0 ? [] : [`${name} was touched although nobody reached it`];
  if (name === expected.failing) {
    const left = ups.filter(({ version }) => version === expected.target);
    const back = own.some(({ event }) => event === 'install-failed') && own.at(-1)?.event === 'up';
    return left.length === 0 && back ? [] : [`${name} was not put back after its installation failed`];
  }
  const there = new Set(ups.filter(({ version }) => version === expected.target).map(({ node }) => node));
  const twice = ups.length !== there.size ? [`${name}: a node was started more than once`] : [];
  return there.size === nodes ? twice : [`${name}: ${there.size} of ${nodes} nodes came up at ${expected.target}`];
}
