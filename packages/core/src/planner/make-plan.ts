/** From a wish to a plan: choose the package, ask the checks, and lay out the procedure of the topology. */
import type { PackageInfo } from '../action.ts';
import { takesPackage } from '../checks/package-kinds.ts';
import { runChecks } from '../checks.ts';
import type { Topology } from '../facts.ts';
import { installedVersion } from '../judge.ts';
import { type CheckResult, DEFAULT_OPTIONS, type Plan, type PlanNode, type PlanOptions, type Step } from '../plan.ts';
import type { Cluster } from '../topology.ts';
import { isVersion, normalVersion, sameVersion } from '../version.ts';
import { backOutOnline, planMultiReplica } from './multi-replica.ts';
import { backOutSingleReplica, planSingleReplica } from './single-replica.ts';
import { planStandalone } from './standalone.ts';
import type { PlannerInput } from './steps.ts';

type Procedure = { readonly steps: (input: PlannerInput) => Step[]; readonly backOut: (input: PlannerInput) => Step[] };

/** A standalone node's procedure is delegated whole, and backs out by itself. */
const PROCEDURES: Record<Topology, Procedure> = {
  standalone: { steps: planStandalone, backOut: () => [] },
  'multi-replica': { steps: planMultiReplica, backOut: backOutOnline },
  'single-replica': { steps: planSingleReplica, backOut: backOutSingleReplica },
};

export type PlanWish = {
  readonly cluster: Cluster;
  readonly to: string;
  /** Every package of the registry that agents accept. */
  readonly packages: readonly PackageInfo[];
  /** Those that people have not signed: they are told of, never planned with. */
  readonly unsigned?: readonly PackageInfo[];
  readonly options: Partial<PlanOptions>;
  readonly nowMs: number;
};

export type PlanDraft = {
  /** Absent when not even the steps could be laid out. */
  readonly plan?: Plan;
  readonly checks: readonly CheckResult[];
  /** Whether a check blocks, or could not be answered. */
  readonly blocked: boolean;
};

/** Makes the plan and its checks; touches nothing. Throws VERSION_INVALID when `to` is no version. */
export function makePlan({ cluster, to, packages, unsigned = [], options: chosen, nowMs }: PlanWish): PlanDraft {
  const target = normalVersion(to);
  const options: PlanOptions = { ...DEFAULT_OPTIONS, ...chosen };
  const pkg = choosePackage(packages, target, cluster);
  const nodes = planNodes(cluster);
  const previousPackages = choosePrevious(packages, pkg, nodes ?? []);
  const waiting = choosePackage(unsigned, target, cluster);
  const checks = runChecks({ cluster, to: target, package: pkg, unsigned: waiting, previousPackages, options, nowMs });
  const blocked = checks.some(({ verdict }) => verdict === 'block' || verdict === 'unknown');
  if (pkg === undefined || cluster.topology === undefined || nodes === undefined) return { checks, blocked: true };
  const procedure = PROCEDURES[cluster.topology];
  const input: PlannerInput = { nodes, to: target, options, package: pkg };
  const plan: Plan = {
    format: 1,
    kind: 'upgrade',
    cluster: cluster.id,
    topology: cluster.topology,
    to: target,
    package: pkg,
    ...previousIn(previousPackages),
    options,
    nodes,
    steps: procedure.steps(input),
    backOut: procedure.backOut(input),
  };
  return { plan, checks, blocked };
}

/** The package of the target that fits the first node; else any of the target, so that the checks can say what does not fit. */
export function choosePackage(packages: readonly PackageInfo[], to: string, cluster: Cluster): PackageInfo | undefined {
  const candidates = packages.filter(({ version }) => sameVersion(version, to));
  const report = cluster.nodes[0]?.report;
  return (
    candidates.find(
      (candidate) =>
        report?.installation !== undefined &&
        takesPackage(report.installation.method, candidate.kind) &&
        candidate.architecture === report.host.architecture &&
        (candidate.family === 'any' || candidate.family === report.host.distribution.family),
    ) ?? candidates[0]
  );
}

/** For each version that nodes have and the package is not of: the package that it could be put back from. */
export function choosePrevious(
  packages: readonly PackageInfo[],
  pkg: PackageInfo | undefined,
  nodes: readonly PlanNode[],
): PackageInfo[] {
  if (pkg === undefined) return [];
  const versions = [...new Set(nodes.map(({ from }) => from))].filter((from) => !sameVersion(from, pkg.version));
  return versions.flatMap((from) => packages.find((candidate) => fitsLike(candidate, pkg, from)) ?? []);
}

/** These, as a plan holds them. */
export function previousIn([first, ...others]: readonly PackageInfo[]) {
  return {
    ...(first === undefined ? {} : { previousPackage: first }),
    ...(others.length === 0 ? {} : { otherPreviousPackages: others }),
  };
}

const fitsLike = (candidate: PackageInfo, pkg: PackageInfo, version: string): boolean =>
  sameVersion(candidate.version, version) &&
  candidate.kind === pkg.kind &&
  candidate.architecture === pkg.architecture &&
  candidate.family === pkg.family;

/** The nodes in the order of the database's ids, or undefined when one of them does not tell what it must. */
export function planNodes(cluster: Cluster): PlanNode[] | undefined {
  const nodes = cluster.nodes.flatMap(({ node, report }): PlanNode[] => {
    const { installation, identity } = report;
    const version = installation === undefined ? undefined : installedVersion(installation);
    if (installation === undefined || version === undefined || !isVersion(version) || identity === undefined) return [];
    const from = normalVersion(version);
    const address = `${installation.address}:${installation.port}`;
    return [{ node, kwdbId: identity.kwdbId, address, method: installation.method, from }];
  });
  return nodes.length === cluster.nodes.length ? nodes : undefined;
}
