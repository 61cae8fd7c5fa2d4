/**
 * One turn of a rollout: load, decide, do, and write what came of it together with the deed. Safe to call at any moment,
 * from any number of controllers: a deed is done in the transaction that appends its event, and that is refused when the
 * rollout changed meanwhile. So everything is done once, whoever dies when.
 */
import {
  type ClusterSummary,
  chosen,
  decideRollout,
  durationMs,
  FleetError,
  initialRollout,
  nextStart,
  notificationOfRollout,
  planOptions,
  type RolloutDecision,
  type RolloutEvent,
  START_SCOPE,
} from '@kwfleet/core';
import { readFleet } from '../api/fleet.ts';
import { freshen } from '../api/freshen.ts';
import { createPlan } from '../api/plans.ts';
import { startRun } from '../api/runs.ts';
import { closeRequest, requestApproval } from '../store/approvals.ts';
import { audit } from '../store/audit.ts';
import type { Database, Sql } from '../store/database.ts';
import { newId } from '../store/ids.ts';
import { databaseNow } from '../store/nodes.ts';
import { notify } from '../store/notifications.ts';
import {
  commitRollout,
  insertRollout,
  leaseRollout,
  loadRollout,
  putChecks,
  type RolloutRow,
  subjectOf,
} from '../store/rollouts.ts';
import { checkFleet, selectable } from './check-fleet.ts';

/** Longer than any one deed takes; it only spares double work. */
const LEASE_MS = 30_000;
/** More decisions than this in one turn mean that it goes round in circles: a bug, and better loud. */
const MAX_DECISIONS = 1_000;
/** Clusters that are planned side by side: each waits for its agents. */
const PLANNED_AT_ONCE = 8;

/** Somebody else changed the rollout: what was decided is of the past. */
class Superseded extends Error {}

/**
 * `settled`: controllers have listened for long enough that an agent which is not connected is really away.
 * @returns whether anything was written.
 */
export async function advanceRollout(database: Database, owner: string, id: string, settled = true): Promise<boolean> {
  let wrote = false;
  for (let made = 0; ; made++) {
    if (made > MAX_DECISIONS) throw new Error(`rollout ${id} makes no end of deciding`);
    if (!(await leaseRollout(database, id, owner, LEASE_MS))) return wrote;
    const { row, facts, nowMs } = await database.transaction((sql) => loadRollout(sql, id), 'REPEATABLE READ');
    const decisions = decideRollout(row.spec, row.state, facts, nowMs);
    if (decisions.length === 0) return wrote;
    try {
      if (!(await perform(database, row, decisions, settled))) return wrote;
    } catch (error) {
      if (!(error instanceof Superseded)) throw error;
    }
    wrote = true;
  }
}

/** Returns whether anything was done; if not, its time is yet to come. */
async function perform(
  database: Database,
  row: RolloutRow,
  decisions: readonly RolloutDecision[],
  settled: boolean,
): Promise<boolean> {
  const starts = decisions.flatMap((decision) => (decision.do === 'start' ? [decision.cluster] : []));
  const [decision] = decisions;
  if (starts.length > 0) return startClusters(database, row, starts, settled);
  if (decision?.do === 'check') return check(database, row, settled);
  if (decision?.do === 'look') return look(database, row, decision);
  if (decision?.do === 'record') await database.transaction((sql) => write(sql, row, [decision.event]));
  if (decision?.do === 'ask') await database.transaction((sql) => ask(sql, row, decision.scope));
  return true;
}

/** Appends events, and what follows from them in the store. Throws Superseded. */
async function write(sql: Sql, row: RolloutRow, events: readonly RolloutEvent[]): Promise<RolloutRow> {
  const written = await commitRollout(sql, row, events);
  if (written === undefined) throw new Superseded();
  for (const event of events) await followUp(sql, row, written, event);
  return written;
}

async function followUp(sql: Sql, row: RolloutRow, written: RolloutRow, event: RolloutEvent): Promise<void> {
  const { id, name, spec, createdBy: by, state } = written;
  const notification = notificationOfRollout({ id, name, to: spec.to, by, state }, event);
  if (notification !== undefined) await notify(sql, notification);
  const leavesSchedule = row.state.status === 'scheduled';
  if (leavesSchedule && (event.type === 'rollout-begun' || event.type === 'rollout-ended')) await comeAgain(sql, row);
  if (event.type === 'rollout-ended') await closeApprovals(sql, row);
  if (event.type === 'rollout-ended' || event.type === 'rollout-paused' || event.type === 'rollout-begun') {
    await audit(sql, 'kwfleet', `rollout.${event.type.slice('rollout-'.length)}`, { rollout: row.id, event });
  }
}

export async function closeApprovals(sql: Sql, { id, state }: RolloutRow): Promise<void> {
  for (const scope of state.asked) await closeRequest(sql, subjectOf(id, scope));
}

/** The next occurrence of one that recurs: made once, when this one leaves its schedule, however late that is. */
export async function comeAgain(sql: Sql, row: RolloutRow): Promise<void> {
  const { start } = row.spec;
  if (start?.every === undefined) return;
  const startAtMs = nextStart(start, Math.max(row.state.startAtMs ?? 0, await databaseNow(sql)));
  if (startAtMs === undefined) return;
  const id = newId('rollout');
  const { file, spec, createdBy: by } = row;
  await insertRollout(sql, { id, file, spec, state: initialRollout(id, startAtMs), by, after: row.id });
  await audit(sql, by, 'rollout.schedule', { rollout: id, after: row.id, startAtMs });
}

/** From when a backup counts that was attested without a time. */
const begunAtMs = ({ state, createdAtMs }: RolloutRow): number => state.startedAtMs ?? createdAtMs;

const isReached = ({ nodes }: ClusterSummary): boolean =>
  nodes.every(({ state, connected }) => connected || state === 'missing');

/** What the agents say now, of all clusters that it is about; then the checks of each. */
async function check(database: Database, row: RolloutRow, settled: boolean): Promise<boolean> {
  const fleet = await readFleet(database);
  const summaries = fleet.clusters();
  const picked = chosen(row.spec, summaries.map(selectable)).map(({ id }) => id);
  if (!settled && summaries.some((summary) => picked.includes(summary.id) && !isReached(summary))) return false;
  await freshen(database, picked, row.spec.to);
  const begun = begunAtMs(row);
  const checked = await database.transaction((sql) => checkFleet(sql, row.spec, begun), 'REPEATABLE READ');
  await database.transaction(async (sql) => {
    const atMs = await databaseNow(sql);
    const { waves, clusters, rows, hash, requirements } = checked;
    if (Object.keys(clusters).length === 0) {
      const reason = 'no cluster is selected; nothing was touched';
      await write(sql, row, [{ type: 'rollout-ended', status: 'aborted', reason, atMs }]);
      return;
    }
    await write(sql, row, [
      { type: 'rollout-checked', waves, clusters, hash, approvals: Object.keys(requirements), atMs },
    ]);
    await putChecks(sql, row.id, rows);
  });
  return true;
}

async function ask(sql: Sql, row: RolloutRow, scope: string): Promise<void> {
  const { requirements } = await checkFleet(sql, row.spec, begunAtMs(row));
  // A policy that was deleted since is no leave to go on: one person who did not ask must still agree.
  const requirement = requirements[scope] ?? {
    policies: ['deleted'],
    approvers: 1,
    requesterMayApprove: false,
    validForMs: 86_400_000,
  };
  const of = scope === START_SCOPE ? '' : `${scope.replace(':', ' ')} of `;
  await requestApproval(sql, {
    subject: subjectOf(row.id, scope),
    title: `${of}rollout ${row.name}: ${Object.keys(row.state.clusters).length} clusters to ${row.spec.to}`,
    hash: row.state.hash ?? '',
    requirement,
    by: row.createdBy,
  });
  await write(sql, row, [{ type: 'approval-asked', scope, atMs: await databaseNow(sql) }]);
}

/**
 * After the soak: is healthy what was upgraded in this wave? What the agents said last may be from before their upgrade ended:
 * before anything comes of it, they are asked. Returns whether anything was written.
 */
async function look(
  database: Database,
  row: RolloutRow,
  { wave, time }: Extract<RolloutDecision, { do: 'look' }>,
): Promise<boolean> {
  const clusters = row.state.waves.find(({ name }) => name === wave)?.clusters ?? [];
  const upgraded = clusters.filter((id) => row.state.clusters[id]?.status === 'succeeded');
  // Asked each time, their answers would be the next reason to look.
  if (time !== 'again') await freshen(database, upgraded);
  const fleet = await readFleet(database);
  const states = new Map(fleet.clusters().map((summary) => [summary.id, summary]));
  const unwell = upgraded.flatMap((cluster) => {
    const { name, state, detail } = states.get(cluster) ?? { name: cluster, state: 'gone', detail: '' };
    return state === 'healthy' ? [] : [{ cluster, name, message: detail === '' ? state : `${state}: ${detail}` }];
  });
  const atMs = fleet.nowMs;
  const ended: RolloutEvent = { type: 'wave-ended', wave, atMs };
  if (unwell.length > 0 && time === 'again') return false;
  if (unwell.length > 0 && time === 'first') {
    const message = unwell.map(({ name, message }) => `${name} is ${message}`).join('; ');
    await database.transaction((sql) => write(sql, row, [{ type: 'wave-unwell', wave, message, atMs }]));
    return true;
  }
  const failures = unwell.map(({ cluster, message }): RolloutEvent => {
    return {
      type: 'cluster-failed',
      cluster,
      code: 'CLUSTER_UNHEALTHY',
      message: `after its upgrade it is ${message}`,
      atMs,
    };
  });
  await database.transaction((sql) => write(sql, row, [...failures, ended]));
  return true;
}

/**
 * Plans several clusters side by side, and starts them one by one, each in a transaction with its event. Those behind them,
 * and those behind one that fails, are decided on anew. Returns whether anything was written.
 */
async function startClusters(
  database: Database,
  row: RolloutRow,
  clusters: readonly string[],
  settled: boolean,
): Promise<boolean> {
  const batch = clusters.slice(0, PLANNED_AT_ONCE);
  await freshen(database, batch, row.spec.to);
  // Their agents may be on their way back to a controller that was away.
  const away = new Set(
    settled ? [] : (await readFleet(database)).clusters().flatMap((one) => (isReached(one) ? [] : one.id)),
  );
  let current = row;
  for (const cluster of batch.filter((id) => !away.has(id))) {
    current = await startCluster(database, current, cluster);
    if (current.state.clusters[cluster]?.status === 'failed') break;
  }
  return current !== row;
}

async function startCluster(database: Database, row: RolloutRow, cluster: string): Promise<RolloutRow> {
  const actor = row.createdBy;
  const known = row.state.clusters[cluster];
  const covered = row.state.approved.includes(START_SCOPE);
  try {
    const plan = await database.transaction((sql) =>
      createPlan(sql, { cluster, to: row.spec.to, options: planOptions(row.spec, begunAtMs(row)) }, actor),
    );
    const blocking = plan.checks.filter(({ verdict }) => verdict === 'block' || verdict === 'unknown');
    const equal = blocking.length > 0 && blocking.every(({ code }) => code === 'VERSION_EQUAL');
    if (equal) return await settle(database, row, { type: 'cluster-skipped', cluster });
    const [first] = blocking;
    if (first !== undefined) {
      return await settle(database, row, { type: 'cluster-failed', cluster, code: first.code, message: first.message });
    }
    if (covered && plan.hash !== known?.planHash) {
      const message = 'its plan is another now than the one that was approved';
      return await settle(database, row, { type: 'cluster-failed', cluster, code: 'PLAN_STALE', message });
    }
    const windows = known?.windows ?? [];
    const prefetchMs = row.spec.prefetch === undefined ? 0 : (durationMs(row.spec.prefetch) ?? 0);
    const timing = row.spec.windows === undefined ? {} : { timing: { windows, prefetchMs } };
    return await database.transaction(async (sql) => {
      const by = { rollout: row.id, approved: covered };
      const run = await startRun(sql, { plan: plan.id, hash: plan.hash, ...timing }, actor, undefined, by);
      return write(sql, row, [{ type: 'cluster-started', cluster, run, atMs: await databaseNow(sql) }]);
    });
  } catch (error) {
    // A refusal is the cluster's; a database that is away, or a bug, is nobody's failure: it is tried again.
    if (!(error instanceof FleetError) || error.code === 'UNAVAILABLE') throw error;
    return settle(database, row, { type: 'cluster-failed', cluster, code: error.code, message: error.message });
  }
}

type Settled =
  | { type: 'cluster-skipped'; cluster: string }
  | { type: 'cluster-failed'; cluster: string; code: string; message: string };

const settle = (database: Database, row: RolloutRow, event: Settled): Promise<RolloutRow> =>
  database.transaction(async (sql) => write(sql, row, [{ ...event, atMs: await databaseNow(sql) }]));
