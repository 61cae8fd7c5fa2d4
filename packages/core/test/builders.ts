/** What tests are built from: a healthy cluster as agents report it, and small ways to make it otherwise. */
import { deepStrictEqual } from 'node:assert';
import {
  type CheckResult,
  type ClusterHealth,
  type ClusterView,
  deriveClusters,
  type HostFacts,
  type Installation,
  makePlan,
  type NodeFacts,
  type NodeReport,
  type NodeRow,
  type PackageInfo,
  type Plan,
  type PlanDraft,
  type PlanOptions,
  type Topology,
} from '../src/index.ts';

export const NOW = 1_800_000_000_000;
export const OLD = '3.0.0';
export const NEW = '3.1.0';
/** When every process of the healthy cluster was started. */
export const STARTED = NOW - 86_400_000;
const MIB = 1024 * 1024;

export const START_MODE: Record<Topology, string> = {
  standalone: 'start-single-node',
  'multi-replica': 'start',
  'single-replica': 'start-single-replica',
};

export const name = (kwdbId: number): string => `n${kwdbId}`;
export const idsUpTo = (size: number): number[] => Array.from({ length: size }, (_, index) => index + 1);

export function row(kwdbId: number, change: Partial<NodeRow> = {}): NodeRow {
  return {
    kwdbId,
    address: `10.0.0.${kwdbId}:26257`,
    build: `V${OLD}`,
    startedAtMs: STARTED,
    updatedAtMs: NOW - 2_000,
    startMode: 'start',
    isAvailable: true,
    isLive: true,
    isDecommissioning: false,
    isDraining: false,
    ...change,
  };
}

export function view(rows: NodeRow[], change: Partial<ClusterView> = {}): ClusterView {
  return { clusterId: 'c1', kwdbId: rows[0]?.kwdbId ?? 1, observedAtMs: NOW - 1_000, nodes: rows, ...change };
}

export function health(rows: NodeRow[], change: Partial<ClusterHealth> = {}): ClusterHealth {
  return {
    view: view(rows),
    rangesUnavailable: 0,
    rangesUnderreplicated: 0,
    jobs: [],
    leases: rows.map(({ kwdbId }) => ({ kwdbId, count: 10 })),
    sessions: rows.map(({ kwdbId }) => ({ kwdbId, count: 3 })),
    settings: [{ name: 'server.time_until_store_dead', value: '5m0s' }],
    ...change,
  };
}

export function host(change: Partial<HostFacts> = {}): HostFacts {
  return {
    hostname: 'host',
    architecture: 'amd64',
    distribution: { id: 'ubuntu', versionId: '22.04', family: 'deb' },
    bootId: 'boot-1',
    agentVersion: '0.1.0',
    privileges: 'root',
    clockMs: NOW,
    freeBytes: { agent: 10_000 * MIB, install: 10_000 * MIB, data: 10_000 * MIB },
    backup: { directory: '/var/lib/kwfleet/backups', freeBytes: 10_000 * MIB, command: true },
    ...change,
  };
}

export function installation(change: Partial<Installation> = {}): Installation {
  return {
    method: 'script-bare',
    topology: 'multi-replica',
    installDir: '/usr/local/kaiwudb',
    dataDir: '/var/lib/kaiwudb',
    places: { certificates: '/etc/kaiwudb/certs', configuration: ['/etc/kaiwudb/info'] },
    address: '10.0.0.1',
    port: 26257,
    httpPort: 8080,
    user: 'kaiwudb',
    security: 'tls',
    encrypted: false,
    peers: [],
    unit: { exists: true, active: 'active', enabled: true, mainPid: 100, startedAtMs: STARTED },
    versions: { recorded: OLD, package: OLD, binary: `V${OLD}`, running: `V${OLD}` },
    condition: 'clean',
    conditionDetail: '',
    ...change,
  };
}

/** The four versions, all the same. */
export const allAt = (version: string): Installation['versions'] => ({
  recorded: version,
  package: version,
  binary: `V${version}`,
  running: `V${version}`,
});

/** A node that serves `version`, as a process of its own. */
export function serving(version: string, change: Partial<NodeReport> = {}): NodeReport {
  return { ...report(1, ['multi-replica', 3]), installation: installation({ versions: allAt(version) }), ...change };
}

/** A healthy node's report; `change` replaces whole fields. */
export function report(kwdbId: number, [topology, size]: [Topology, number], change: Partial<NodeReport> = {}) {
  const rows = idsUpTo(size).map((id) => row(id, { startMode: START_MODE[topology] }));
  return {
    host: host({ hostname: name(kwdbId) }),
    installation: installation({ topology, address: `10.0.0.${kwdbId}` }),
    serving: true,
    ready: true,
    identity: { clusterId: 'c1', kwdbId },
    view: view(rows, { kwdbId }),
    health: health(rows, { view: view(rows, { kwdbId }) }),
    observedAtMs: NOW - 1_000,
    ...change,
  } satisfies NodeReport as NodeReport;
}

export function facts(kwdbId: number, nodeReport: NodeReport, change: Partial<NodeFacts> = {}): NodeFacts {
  return {
    node: name(kwdbId),
    connected: true,
    lastSeenMs: NOW - 1_000,
    clockSkewMs: 0,
    report: nodeReport,
    ...change,
  };
}

/** A healthy cluster: nodes n1, n2, ... with the database's ids 1, 2, ... */
export function fleet(topology: Topology, size: number): NodeFacts[] {
  return idsUpTo(size).map((id) => facts(id, report(id, [topology, size])));
}

/** The fleet with one node's report changed. */
export function withReport(nodes: NodeFacts[], kwdbId: number, change: (old: NodeReport) => Partial<NodeReport>) {
  return nodes.map((node) =>
    node.node === name(kwdbId) ? { ...node, report: { ...node.report, ...change(node.report) } } : node,
  );
}

/** The fleet with one node's installation changed. */
export function withInstallation(nodes: NodeFacts[], kwdbId: number, change: Partial<Installation>): NodeFacts[] {
  return withReport(nodes, kwdbId, ({ installation: old }) => ({
    installation: { ...installation(), ...old, ...change },
  }));
}

/** The fleet with every node's last cluster check changed. */
export function withHealth(nodes: NodeFacts[], change: (old: ClusterHealth) => Partial<ClusterHealth>): NodeFacts[] {
  return nodes.map((node) => {
    const old = node.report.health;
    return old === undefined ? node : { ...node, report: { ...node.report, health: { ...old, ...change(old) } } };
  });
}

export function withRow(old: ClusterHealth, kwdbId: number, change: Partial<NodeRow>): ClusterHealth {
  const nodes = old.view.nodes.map((one) => (one.kwdbId === kwdbId ? { ...one, ...change } : one));
  return { ...old, view: { ...old.view, nodes } };
}

export function pkg(change: Partial<PackageInfo> = {}): PackageInfo {
  return {
    sha256: 'a'.repeat(64),
    fileName: `kwdb-${change.version ?? NEW}.tar.gz`,
    sizeBytes: 100 * MIB,
    unpackedBytes: 300 * MIB,
    version: NEW,
    kind: 'bare',
    architecture: 'amd64',
    family: 'deb',
    ...change,
  };
}

export const OLD_PACKAGE = pkg({ version: OLD, sha256: 'b'.repeat(64) });
export const BACKUP = { policy: 'attested', where: 's3://backups/c1' } as const;

export type DraftWish = {
  to?: string;
  packages?: PackageInfo[];
  options?: Partial<PlanOptions>;
};

/** The draft for these nodes, which must form one cluster. */
export function draft(
  nodes: NodeFacts[],
  { to = NEW, packages = [pkg(), OLD_PACKAGE], options = {} }: DraftWish = {},
): PlanDraft {
  const clusters = deriveClusters(nodes);
  const [cluster] = clusters;
  if (cluster === undefined || clusters.length !== 1) throw new Error(`${clusters.length} clusters, not one`);
  return makePlan({ cluster, to, packages, options: { backup: BACKUP, ...options }, nowMs: NOW });
}

export function planFor(topology: Topology, size: number, options: Partial<PlanOptions> = {}): Plan {
  return planOf(draft(fleet(topology, size), { options }));
}

export function planOf({ plan, checks }: PlanDraft): Plan {
  if (plan === undefined) throw new Error(`no plan: ${JSON.stringify(checks)}`);
  return plan;
}

/** Codes of the checks with this verdict, each once. */
export function codesOf(checks: readonly CheckResult[], verdict: CheckResult['verdict']): string[] {
  return [...new Set(checks.filter((check) => check.verdict === verdict).map(({ code }) => code))];
}

/** Freezes all of a value, so that whoever changes it in place throws. */
export function frozen<T>(value: T): T {
  if (typeof value === 'object' && value !== null && !Object.isFrozen(value)) {
    Object.freeze(value);
    for (const inner of Object.values(value)) frozen(inner);
  }
  return value;
}

/** `expect(a).toEqual(b)` without its cost: for loops that compare states thousands of times. */
export const assertSame = (actual: unknown, expected: unknown, why: string): void => {
  try {
    deepStrictEqual(actual, expected);
  } catch (cause) {
    throw new Error(why, { cause });
  }
};
