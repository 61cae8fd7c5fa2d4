/**
 * The checks of a plan: predicates over what was reported, each with a stable code and a way to mend it. A check that
 * cannot be answered is `unknown`, and unknown blocks. Source of what is asked: manual, "Prerequisites" of each section.
 */
import type { PackageInfo } from './action.ts';
import { checkBackup } from './backup-checks.ts';
import { block, pass, result } from './check-result.ts';
import { isCheckCode } from './checks/catalog.ts';
import { checkClocks } from './checks/clocks.ts';
import { checkHost } from './checks/host.ts';
import { takesPackage } from './checks/package-kinds.ts';
import type { Installation, Method, NodeFacts, NodeReport, Topology } from './facts.ts';
import { type Finding, installedVersion, judgeCluster, judgeJobs, judgeMembers } from './judge.ts';
import type { CheckResult, PlanOptions } from './plan.ts';
import { type Cluster, freshestHealth, LOST_AFTER_MS, topologyOf } from './topology.ts';
import { formatVersion, isVersion, parseVersion, sameVersion, transition } from './version.ts';

/** An answer to a cluster check is too old to plan on after this long. Agents ask every minute, and when asked to. */
export const HEALTH_MAX_AGE_MS = 120_000;

/** Those whose node deploy.sh can upgrade while it runs. */
const ONLINE: ReadonlySet<Method> = new Set<Method>(['script-bare', 'script-container']);

export type CheckInput = {
  readonly cluster: Cluster;
  readonly to: string;
  readonly package: PackageInfo | undefined;
  /** One of this version that nobody signed yet. */
  readonly unsigned?: PackageInfo | undefined;
  /** The registry's packages of the versions before, as far as it has them. */
  readonly previousPackages: readonly PackageInfo[];
  readonly options: PlanOptions;
  readonly nowMs: number;
};

/** Every check of a plan, those of the cluster first. */
export function runChecks(input: CheckInput): CheckResult[] {
  const { cluster } = input;
  return [
    ...checkPackage(input),
    ...checkMembership(cluster),
    ...checkTopology(cluster),
    ...checkClocks(cluster),
    ...checkBackup(input),
    ...cluster.nodes.flatMap((facts) => checkNode(facts, input)),
    ...checkTarget(input),
    ...checkHealth(input),
  ];
}

function checkPackage({ package: pkg, unsigned, to }: CheckInput): CheckResult[] {
  if (pkg === undefined && unsigned !== undefined) {
    return [block('PACKAGE_UNSIGNED', `${unsigned.fileName} is in the registry, and nobody signed it`)];
  }
  if (pkg === undefined) return [block('PACKAGE_UNKNOWN', `the registry holds no package of ${to}`)];
  return [pass('PACKAGE_UNKNOWN', `${pkg.fileName} is in the registry`)];
}

export function checkMembership(cluster: Cluster): CheckResult[] {
  const claims = Map.groupBy(cluster.nodes, ({ report }) => report.identity?.kwdbId);
  const copies = [...claims].filter(([, nodes]) => nodes.length > 1);
  if (copies.length > 0) {
    return copies.map(([kwdbId, nodes]) =>
      block('NODE_DUPLICATE', `${nodes.map(({ node }) => node).join(' and ')} both say that they are node ${kwdbId}`),
    );
  }
  if (cluster.missing.length > 0) {
    return cluster.missing.map(({ kwdbId, address }) =>
      block(
        'NODE_MISSING',
        `the database lists node ${kwdbId} (${address ?? 'address unknown'}), and no agent reports it`,
      ),
    );
  }
  return [pass('NODE_MISSING', `all ${cluster.nodes.length} nodes that the database lists are reported by agents`)];
}

export function checkTopology(cluster: Cluster): CheckResult[] {
  const witnesses = cluster.nodes.map(({ node, report }) => ({ node, ...topologyOf(report) }));
  const problems = witnesses.flatMap((witness) => {
    if (witness.verdict === 'agreed') return [];
    if (witness.verdict === 'disagreed') return [block('TOPOLOGY_DISAGREES', witness.message, witness.node)];
    return [result('unknown', 'TOPOLOGY_UNKNOWN', witness.message, witness.node)];
  });
  if (problems.length > 0) return problems;
  const topologies = new Set(witnesses.map((witness) => (witness.verdict === 'agreed' ? witness.topology : '')));
  if (topologies.size !== 1) return [block('TOPOLOGY_DISAGREES', `nodes disagree: ${[...topologies].join(', ')}`)];
  const methods = new Set(cluster.nodes.map(({ report }) => report.installation?.method));
  const checks = [pass('TOPOLOGY_DISAGREES', `${[...topologies][0]}, by its host and by the running start command`)];
  if (methods.size > 1) checks.push(block('METHODS_MIXED', `methods found: ${[...methods].join(', ')}`));
  if (cluster.topology === 'multi-replica' && cluster.nodes.length < 3) {
    checks.push(block('CLUSTER_TOO_SMALL', `${cluster.nodes.length} nodes cannot keep a quorum while one is down`));
  }
  if (cluster.topology === 'standalone' && cluster.nodes.length > 1) {
    checks.push(block('TOPOLOGY_DISAGREES', `a standalone instance with ${cluster.nodes.length} nodes`));
  }
  return checks;
}

function checkNode(facts: NodeFacts, input: CheckInput): CheckResult[] {
  const reach = checkReach(facts, input.nowMs);
  if (reach.verdict !== 'pass') return [reach];
  const { installation } = facts.report;
  if (installation === undefined || !installation.unit.exists) {
    return [reach, block('NOT_INSTALLED', 'KWDB is not installed here', facts.node)];
  }
  return [
    reach,
    ...checkCondition(facts),
    ...checkFit(facts, input.package),
    ...checkRoute(facts, input.options),
    ...checkVersion(facts, input),
    ...checkWayBack(facts, input),
    ...checkHost(facts, input.package),
  ];
}

export function checkReach(facts: NodeFacts, nowMs: number): CheckResult {
  const silentMs = nowMs - facts.lastSeenMs;
  if (facts.connected && silentMs <= LOST_AFTER_MS) return pass('NODE_UNREACHABLE', 'its agent reports', facts.node);
  return block('NODE_UNREACHABLE', `its agent was last heard ${Math.round(silentMs / 1000)} s ago`, facts.node);
}

export function checkCondition({ node, report }: NodeFacts): CheckResult[] {
  const { installation } = report;
  if (installation === undefined) return [];
  const { condition, conditionDetail } = installation;
  if (condition === 'marked-upgrading') return [checkMark(report, installation, node)];
  if (condition !== 'clean') return [block('INSTALLATION_HALF_DONE', `${condition}: ${conditionDetail}`, node)];
  if (!report.serving) return [block('NODE_NOT_RUNNING', `the service is ${installation.unit.active}`, node)];
  return [pass('INSTALLATION_HALF_DONE', 'its four versions agree, nothing is half done', node)];
}

/** A mark blocks; a start argument that only was left behind is taken out by the driver of containers before the next start. */
function checkMark(
  { view, identity }: NodeReport,
  { method, conditionDetail }: Installation,
  node: string,
): CheckResult {
  const row = view?.nodes.find(({ kwdbId }) => kwdbId === identity?.kwdbId);
  const leftBehind = method === 'script-container' && row?.isLive === true && row.isAvailable;
  return result(leftBehind ? 'warn' : 'block', 'NODE_MARKED_UPGRADING', conditionDetail, node);
}

export function checkFit({ node, report }: NodeFacts, pkg: PackageInfo | undefined): CheckResult[] {
  const { installation, host } = report;
  if (installation === undefined || pkg === undefined) return [];
  const { method } = installation;
  const misfits: CheckResult[] = [];
  if (!takesPackage(method, pkg.kind)) {
    misfits.push(block('METHOD_MISMATCH', `it is deployed by ${method}, the package is a ${pkg.kind} one`, node));
  }
  if (pkg.architecture !== host.architecture) {
    misfits.push(block('ARCHITECTURE_MISMATCH', `it is ${host.architecture}, the package ${pkg.architecture}`, node));
  }
  if (pkg.family !== 'any' && pkg.family !== host.distribution.family) {
    const { id, versionId, family } = host.distribution;
    misfits.push(
      block('DISTRIBUTION_MISMATCH', `${id} ${versionId}'s tool takes ${family} packages, this is ${pkg.family}`, node),
    );
  }
  if (installation.unfit !== undefined) misfits.push(block('CONTAINER_UNFIT', installation.unfit, node));
  return misfits.length > 0
    ? misfits
    : [pass('METHOD_MISMATCH', 'the package fits method, architecture and distribution', node)];
}

function checkRoute({ node, report }: NodeFacts, { route }: PlanOptions): CheckResult[] {
  const method = report.installation?.method;
  if (route === 'offline' || method === undefined || ONLINE.has(method)) return [];
  return [block('ROUTE_UNSUPPORTED', `a node deployed by ${method} is not upgraded while it runs`, node)];
}

function checkVersion({ node, report }: NodeFacts, { to, options }: CheckInput): CheckResult[] {
  const version = report.installation === undefined ? undefined : installedVersion(report.installation);
  if (version === undefined) return [result('unknown', 'VERSION_UNKNOWN', 'the installation tells no version', node)];
  if (!isVersion(version)) {
    return [
      result(
        'unknown',
        'VERSION_UNKNOWN',
        `the installation tells "${version.slice(0, 60)}", which is no version`,
        node,
      ),
    ];
  }
  const step = transition(parseVersion(version), parseVersion(to));
  if (step.verdict === 'legal') return [pass('VERSION_REFUSED', `${version} → ${to} is a step that KWDB takes`, node)];
  if (step.verdict === 'unsupported') {
    const verdict = options.bypassVersionCheck ? 'warn' : 'block';
    return [result(verdict, 'VERSION_UNSUPPORTED', step.reason, node)];
  }
  // A node that is there already is no obstacle: an interrupted upgrade goes on with the others.
  if (step.code === 'VERSION_EQUAL') return [pass('VERSION_EQUAL', `it has ${to} already`, node)];
  return [block(step.code, step.reason, node)];
}

/**
 * An agent keeps a copy of the installed version to put it back after a failed installation. From dpkg's books whole
 * packages can be made again; rpm's have no such way, so there the registry must have the package.
 */
export function checkWayBack(
  { node, report }: NodeFacts,
  { package: pkg, previousPackages, to }: Pick<CheckInput, 'package' | 'previousPackages' | 'to'>,
): CheckResult[] {
  const recorded = report.installation?.versions.recorded;
  if (pkg?.kind !== 'bare' || pkg.family !== 'rpm' || recorded === undefined || !isVersion(recorded)) return [];
  if (sameVersion(recorded, to)) return [];
  const previous = previousPackages.find(({ version }) => sameVersion(version, recorded));
  if (previous !== undefined) return [pass('PREVIOUS_PACKAGE_MISSING', `the way back is ${previous.fileName}`, node)];
  const message = `a failed installation could not be put back: the registry has no rpm package of ${recorded}`;
  return [block('PREVIOUS_PACKAGE_MISSING', message, node)];
}

function checkTarget({ cluster, to }: CheckInput): CheckResult[] {
  const all = cluster.nodes.every(({ report }) => {
    const version = report.installation === undefined ? undefined : installedVersion(report.installation);
    return version !== undefined && isVersion(version) && sameVersion(version, to);
  });
  return all ? [block('VERSION_EQUAL', `every node has ${formatVersion(parseVersion(to))} already`)] : [];
}

/** The questions of a cluster check, judged for the topology. Also asked anew at every gate of a run. */
export function judgeGate(
  topology: Topology,
  health: Parameters<typeof judgeCluster>[0],
  expected: readonly number[],
): Finding[] {
  if (topology === 'multi-replica') return judgeCluster(health, expected);
  // One replica each: nothing can be under-replicated, and all are stopped anyway; but all must be there, no other that
  // would run on meanwhile, and no job.
  return [...judgeMembers(health, expected), ...judgeJobs(health)];
}

/** The newest answer to the questions of a cluster check, judged; too old a one is unknown. */
export function checkHealth({ cluster, nowMs }: Pick<CheckInput, 'cluster' | 'nowMs'>): CheckResult[] {
  const health = freshestHealth(cluster.nodes);
  if (cluster.topology === undefined || cluster.nodes.length === 0) return [];
  if (health === undefined)
    return [result('unknown', 'HEALTH_UNKNOWN', 'no node could ask the database how the cluster is')];
  // Both are of the host that asked: its clock is compared with the controller's by the skew of its link.
  const asker = cluster.nodes.find(({ report }) => report.health === health);
  const ageMs = nowMs + (asker?.clockSkewMs ?? 0) - health.view.observedAtMs;
  if (ageMs > HEALTH_MAX_AGE_MS) {
    return [
      result('unknown', 'HEALTH_UNKNOWN', `the last answer about the cluster is ${Math.round(ageMs / 1000)} s old`),
    ];
  }
  const names = new Map(cluster.nodes.map(({ node, report }) => [report.identity?.kwdbId, node]));
  const expected = cluster.nodes.flatMap(({ report }) => report.identity?.kwdbId ?? []);
  const findings = judgeGate(cluster.topology, health, expected);
  if (findings.length === 0)
    return [pass('NODE_NOT_LIVE', 'all nodes live and available, ranges whole, no jobs running')];
  return findings.map((finding) =>
    result(
      finding.code === 'HEALTH_UNKNOWN' ? 'unknown' : finding.severity,
      isCheckCode(finding.code) ? finding.code : 'HEALTH_UNKNOWN',
      finding.message,
      finding.kwdbId === undefined ? undefined : names.get(finding.kwdbId),
    ),
  );
}
