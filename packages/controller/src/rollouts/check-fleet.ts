/** The dry run of a rollout: which clusters it is about, in which wave each goes, and what the checks of each say now. */
import {
  admit,
  assignWaves,
  type CheckResult,
  type ClusterSummary,
  chosen,
  demandOf,
  ERRORS,
  type ErrorCode,
  estimatePlan,
  FleetError,
  hashPlan,
  hashRollout,
  limitTooSmall,
  type PlanDraft,
  planOptions,
  type Requirement,
  type RolloutCluster,
  type RolloutFile,
  type Selectable,
  START_SCOPE,
  type TimedStep,
  type WaveOf,
  type Window,
  waveScope,
  windowsOf,
} from '@kwfleet/core';
import { readFleetIn } from '../api/fleet.ts';
import { draftPlan } from '../api/plans.ts';
import { allPolicies } from '../store/approvals.ts';
import type { Sql } from '../store/database.ts';
import type { ChecksRow } from '../store/rollouts.ts';
import { timedSteps } from '../store/timed-steps.ts';
import { someWindows } from '../store/windows.ts';

export type FleetCheck = {
  readonly waves: readonly WaveOf[];
  readonly clusters: Readonly<Record<string, RolloutCluster>>;
  readonly rows: readonly ChecksRow[];
  readonly hash: string;
  /** By scope: who must agree. */
  readonly requirements: Readonly<Record<string, Requirement>>;
};

/** What a selector sees of a cluster. */
export const selectable = ({ id, name, labels, versions, topology, nodes }: ClusterSummary): Selectable => ({
  id,
  name,
  labels,
  versions,
  methods: [...new Set(nodes.flatMap(({ method }) => method ?? []))],
  ...(topology !== undefined && { topology }),
});

/** Plans every chosen cluster as the fleet is now; touches nothing. Call it in a REPEATABLE READ transaction. */
export async function checkFleet(sql: Sql, file: RolloutFile, createdAtMs?: number): Promise<FleetCheck> {
  const fleet = await readFleetIn(sql);
  const summaries = new Map(fleet.clusters().map((summary) => [summary.id, summary]));
  const picked = chosen(file, [...summaries.values()].map(selectable));
  const { waves, left } = assignWaves(file, picked);
  const waveOf = new Map(waves.flatMap(({ name, clusters }) => clusters.map((id) => [id, name] as const)));
  const windows = [...(await someWindows(sql, file.windows ?? [])).values()];
  const request = { to: file.to, options: planOptions(file, createdAtMs ?? fleet.nowMs) };
  const clusters: Record<string, RolloutCluster> = {};
  const rows: ChecksRow[] = [];
  const plans: Record<string, string> = {};
  for (const cluster of picked) {
    const summary = summaries.get(cluster.id) as ClusterSummary;
    const draft = await draftPlan(sql, fleet.cluster(cluster.id), { cluster: cluster.id, ...request }, fleet.nowMs);
    const about = windowsOf(windows, cluster);
    const place = file.limits?.per === undefined ? undefined : (summary.labels[file.limits.per.label] ?? '');
    const timed = file.windows === undefined ? [] : await timedSteps(sql, cluster.id);
    const one = clusterOf(summary, draft, { windows: about, place, timed });
    const own = ownChecks(file, one, about, fleet.nowMs);
    const checks = [...draft.checks, ...own];
    const blocking = checks.filter(({ verdict }) => verdict === 'block' || verdict === 'unknown');
    rows.push({
      cluster: cluster.id,
      name: summary.name,
      wave: waveOf.get(cluster.id) ?? '',
      blocked: blocking.length > 0,
      checks,
    });
    if (left.includes(cluster.id)) continue;
    clusters[cluster.id] = { ...one, ...standing(blocking) };
    plans[cluster.id] = one.planHash ?? '';
  }
  const labels = Object.keys(clusters).map((id) => summaries.get(id)?.labels ?? {});
  const requirements = await requirementsOf(sql, file, labels);
  return { waves, clusters, rows, hash: hashRollout(file, waves, plans), requirements };
}

function clusterOf(
  summary: ClusterSummary,
  { plan }: PlanDraft,
  { windows, place, timed }: { windows: readonly Window[]; place: string | undefined; timed: readonly TimedStep[] },
): RolloutCluster {
  return {
    name: summary.name,
    hosts: summary.nodes.length,
    ...(place !== undefined && { place }),
    status: 'waiting',
    ...(plan && { planHash: hashPlan(plan) }),
    estimateMs: plan === undefined ? 0 : estimatePlan(plan, timed).ms,
    windows: windows.map(({ name }) => name),
  };
}

/** What else speaks against a cluster: it has no window in which it fits, or is larger than what may be touched at once. */
function ownChecks(
  file: RolloutFile,
  cluster: RolloutCluster,
  windows: readonly Window[],
  nowMs: number,
): CheckResult[] {
  const checks: CheckResult[] = [];
  const block = (code: ErrorCode, message: string) =>
    checks.push({ code, verdict: 'block', message, remedy: ERRORS[code].remedy });
  if (file.windows !== undefined) {
    const admission = windows.length === 0 ? undefined : admit(windows, nowMs, cluster.estimateMs);
    if (admission === undefined) {
      block('WINDOW_NEVER', `none of the windows ${file.windows.join(', ')} is about this cluster`);
    } else if (!admission.go && admission.wait.code === 'WINDOW_NEVER') block('WINDOW_NEVER', admission.wait.message);
    else
      checks.push({
        code: 'WINDOW_CLOSED',
        verdict: 'pass',
        message: admission.go ? 'its window is open' : admission.wait.message,
      });
  }
  const limit = limitTooSmall(file.limits ?? {}, cluster);
  if (limit !== undefined) {
    block('ROLLOUT_LIMIT', `it has ${cluster.hosts} hosts, and no more than ${limit} may be under way at once`);
  }
  return checks;
}

/** A cluster that has the target on every node is through; one that is blocked otherwise waits with the reason. */
function standing(blocking: readonly CheckResult[]): Partial<RolloutCluster> {
  const [first] = blocking.filter(({ code }) => code !== 'VERSION_EQUAL');
  if (first !== undefined) return { code: first.code, message: first.message };
  return blocking.length > 0 ? { status: 'skipped' } : {};
}

/** What the file asks for by name, and what the policies ask that select any of its clusters: the strictest of each. */
async function requirementsOf(
  sql: Sql,
  file: RolloutFile,
  labels: readonly Record<string, string>[],
): Promise<Record<string, Requirement>> {
  const policies = await allPolicies(sql);
  const named = (name: string | undefined) => policies.filter((policy) => policy.name === name);
  const selecting = policies.filter((policy) => labels.some((those) => demandOf([policy], those).start !== undefined));
  const together = (those: typeof policies) =>
    demandOf(
      those.map((policy) => ({ ...policy, labels: {} })),
      {},
    ).start;
  const requirements: Record<string, Requirement> = {};
  const start = together([...new Set([...named(file.approval), ...selecting])]);
  if (start !== undefined) requirements[START_SCOPE] = start;
  for (const { name, approval } of file.waves) {
    const wave = together(named(approval));
    if (wave !== undefined) requirements[waveScope(name)] = wave;
  }
  return requirements;
}

/** Throws APPROVAL_POLICY_UNKNOWN or WINDOW_UNKNOWN for a name that is nothing's. */
export async function refuseUnknownNames(sql: Sql, file: RolloutFile): Promise<void> {
  const policies = new Set((await allPolicies(sql)).map(({ name }) => name));
  for (const name of [file.approval, ...file.waves.map(({ approval }) => approval)]) {
    if (name !== undefined && !policies.has(name)) {
      throw new FleetError('APPROVAL_POLICY_UNKNOWN', `there is no approval policy ${name}`);
    }
  }
  const windows = await someWindows(sql, file.windows ?? []);
  for (const name of file.windows ?? []) {
    if (!windows.has(name)) throw new FleetError('WINDOW_UNKNOWN', `there is no window "${name}"`);
  }
}
