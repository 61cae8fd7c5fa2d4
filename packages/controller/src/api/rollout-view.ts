/** A rollout as people see it. */
import {
  budgetOf,
  knownDurationMs,
  type RolloutFacts,
  type RolloutSummary,
  type RolloutView,
  rolloutChoices,
  waitOf,
} from '@kwfleet/core';
import { standingOf } from '../store/approvals.ts';
import type { Sql } from '../store/database.ts';
import { loadRollout, type RolloutRow, subjectOf } from '../store/rollouts.ts';

export function rolloutSummary({ id, name, spec, state, createdAtMs, createdBy }: RolloutRow): RolloutSummary {
  const counts = { waiting: 0, running: 0, held: 0, succeeded: 0, failed: 0, skipped: 0 };
  for (const { status } of Object.values(state.clusters)) counts[status]++;
  const wave = state.waves.findLast(({ status }) => status !== 'waiting')?.name;
  return {
    id,
    name,
    to: spec.to,
    status: state.status,
    counts,
    ...(wave !== undefined && { wave }),
    ...(state.pause && { pause: state.pause }),
    ...(state.reason !== undefined && { reason: state.reason }),
    choices: rolloutChoices(state),
    ...(state.startAtMs !== undefined && { startAtMs: state.startAtMs }),
    ...(state.startedAtMs !== undefined && { startedAtMs: state.startedAtMs }),
    ...(state.endedAtMs !== undefined && { endedAtMs: state.endedAtMs }),
    createdAtMs,
    createdBy,
  };
}

/** Call it in a REPEATABLE READ transaction. Throws ROLLOUT_UNKNOWN. */
export async function rolloutView(sql: Sql, id: string): Promise<RolloutView> {
  const { row, facts, nowMs } = await loadRollout(sql, id);
  const { state, spec, file } = row;
  const waits = waitsFor(row, facts, nowMs);
  return {
    ...rolloutSummary(row),
    nowMs,
    file,
    waves: [...state.waves],
    clusters: state.clusters,
    ...(state.hash !== undefined && { hash: state.hash }),
    approvals: await approvalsOf(sql, row),
    ...(waits && { waits }),
    budget: budgetOf(spec, Object.keys(state.clusters).length),
  };
}

async function approvalsOf(sql: Sql, { id, state }: RolloutRow): Promise<RolloutView['approvals']> {
  const approvals: RolloutView['approvals'] = [];
  for (const scope of state.asked) {
    const standing = await standingOf(sql, subjectOf(id, scope));
    if (standing === undefined) continue;
    const { missing, counted, request } = standing;
    const people = counted.map(({ person }) => person);
    const isPast = state.approved.includes(scope);
    approvals.push({ scope, missing: isPast ? 0 : missing, people, policies: request.requirement.policies });
  }
  return approvals;
}

/** Why nothing begins now although something is left, in words. */
function waitsFor({ spec, state }: RolloutRow, facts: RolloutFacts, nowMs: number): RolloutView['waits'] {
  if (state.status === 'scheduled')
    return { message: 'its start', ...(state.startAtMs !== undefined && { untilMs: state.startAtMs }) };
  if (state.status === 'awaiting_approval') return { message: 'people who must agree' };
  if (state.status !== 'running') return undefined;
  const at = state.waves.findIndex(({ status }) => status === 'running' || status === 'soaking');
  const wave = state.waves[at];
  if (wave === undefined) return undefined;
  if (wave.status === 'soaking') {
    const soakMs = knownDurationMs(spec.waves[at]?.soak ?? spec.soak ?? '0s');
    return { message: `the soak after the wave "${wave.name}"`, untilMs: (wave.settledAtMs ?? nowMs) + soakMs };
  }
  if (Object.values(state.clusters).some(({ status }) => status === 'running')) return undefined;
  for (const id of wave.clusters) {
    const cluster = state.clusters[id];
    if (cluster?.status !== 'waiting') continue;
    const wait = waitOf(spec, cluster, facts, nowMs);
    if (wait !== undefined) {
      return {
        message: `${cluster.name}: ${wait.message}`,
        ...(wait.untilMs !== undefined && { untilMs: wait.untilMs }),
      };
    }
  }
  return undefined;
}
