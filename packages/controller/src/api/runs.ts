/** `/v1/runs`: start an upgrade, follow it, and say what it should do. */
import {
  FleetError,
  hashPlan,
  initialState,
  kindOf,
  learnStepTimes,
  legalChoices,
  type PlanDraft,
  type PlanRequest,
  page,
  previousPackagesOf,
  RunRequest,
  RunSummary,
  type RunTiming,
  RunView,
} from '@kwfleet/core';
import Type from 'typebox';
import type { RunRequestKind } from '../runner/run-store.ts';
import { audit } from '../store/audit.ts';
import type { Database, Sql } from '../store/database.ts';
import { newId } from '../store/ids.ts';
import { lockPackages } from '../store/packages.ts';
import { findPlan, type PlanRow } from '../store/plans.ts';
import { findRun, insertInput, insertRun, listRuns, type RunRow } from '../store/runs.ts';
import { timedSteps } from '../store/timed-steps.ts';
import { needWindows } from '../store/windows.ts';
import { type Api, type ApiParts, IdParams, PageQuery } from './api.ts';
import { type Fleet, readFleet, readFleetIn } from './fleet.ts';
import { freshen } from './freshen.ts';
import { draftPlan } from './plans.ts';
import { BlockedPlan } from './problems.ts';
import { approvalOfRun, askForApproval, demandFor } from './run-approval.ts';
import { askAgain, draftTransfer, type Told, transferRequestOf } from './transfers.ts';

const REQUESTS: readonly RunRequestKind[] = ['pause', 'resume', 'retry', 'abort'];

export function runRoutes(app: Api, { database }: ApiParts): void {
  app.post(
    '/v1/runs',
    { schema: { tags: ['runs'], body: RunRequest, response: { 201: RunSummary } } },
    async ({ body, actor }, reply) => {
      const plan = await findPlan(database, body.plan);
      if (plan !== undefined && !plan.blocked) await freshen(database, [plan.cluster], plan.plan?.to);
      const told = plan === undefined || plan.blocked ? undefined : await askAgain(database, plan);
      const id = await database.transaction((sql) => startRun(sql, body, actor, told));
      return reply.code(201).send(runSummary(await needRun(database, id)));
    },
  );

  app.get(
    '/v1/runs',
    {
      schema: {
        tags: ['runs'],
        querystring: Type.Object({ ...PageQuery.properties, cluster: Type.Optional(Type.String({ minLength: 1 })) }),
        response: { 200: page(RunSummary) },
      },
    },
    async ({ query: { cluster, ...query } }) => {
      const id = cluster === undefined ? undefined : (await readFleet(database)).cluster(cluster).id;
      const { items, ...rest } = await listRuns(database, { ...query, cluster: id });
      return { items: items.map(runSummary), ...rest };
    },
  );

  app.get(
    '/v1/runs/:id',
    { schema: { tags: ['runs'], params: IdParams, response: { 200: RunView } } },
    async ({ params }) => runView(await needRun(database, params.id)),
  );

  for (const request of REQUESTS) {
    app.post(
      `/v1/runs/:id/${request}`,
      {
        schema: {
          tags: ['runs'],
          description: 'The run does it at its next decision. A retry asks the agents first how things are.',
          params: IdParams,
          // Nothing to say beyond the address; an empty object is taken too.
          body: Type.Optional(Type.Union([Type.Object({}, { additionalProperties: false }), Type.Null()])),
          response: { 202: RunSummary },
        },
      },
      async ({ params, actor }, reply) => {
        // A retry says that something was mended: the run decides on what the agents see now, not on what they said last.
        const held = request === 'retry' ? await findRun(database, params.id) : undefined;
        if (held?.state.status === 'held') await freshen(database, [held.cluster], held.plan.to);
        const row = await database.transaction((sql) => askOfRun(sql, params.id, request, actor));
        return reply.code(202).send(runSummary(row));
      },
    );
  }
}

/** The rollout that starts a run, and whether people agreed to its start when they agreed to the rollout. */
export type RunOrigin = { readonly rollout: string; readonly approved: boolean };

/**
 * Starts what was looked at, or nothing: the hash must be the plan's, no check may block, and the same question asked
 * of the facts as they are now must lead to the same plan. Throws PLAN_UNKNOWN, PLAN_HASH_MISMATCH, PLAN_BLOCKED,
 * PLAN_STALE or RUN_ACTIVE.
 */
export async function startRun(
  sql: Sql,
  { plan: planId, hash, timing: asked }: RunRequest,
  actor: string,
  told?: Told,
  origin?: RunOrigin,
): Promise<string> {
  const row = await findPlan(sql, planId);
  if (row === undefined) throw new FleetError('PLAN_UNKNOWN', `there is no plan ${planId}`);
  if (row.plan === null || row.blocked) throw new BlockedPlan(`plan ${planId} is blocked by its checks`, row.checks);
  if (row.hash !== hash) throw new FleetError('PLAN_HASH_MISMATCH', `plan ${planId} has the hash ${row.hash}`);
  const packages = [row.plan.package, ...previousPackagesOf(row.plan)].flatMap((needed) => needed?.sha256 ?? []);
  if (!(await lockPackages(sql, packages))) {
    throw new FleetError('PLAN_STALE', 'a package of the plan was deleted');
  }
  const fleet = await refuseStale(sql, row, { told });
  const timing = asked && (await checkTiming(sql, asked));
  const id = newId('run');
  const { labels, name } = fleet.summaryOf(row.cluster);
  const { start, ...demand } = await demandFor(sql, labels);
  const demanded = { ...demand, ...(start && origin?.approved !== true && { start }) };
  const approval = approvalOfRun(row.plan, hash, demanded, actor, fleet.nowMs);
  const state = initialState(id, row.plan, approval, timing);
  const { rollout } = origin ?? {};
  const windowed = timing !== undefined && timing.windows.length > 0;
  const stepTimes = windowed ? learnStepTimes(row.plan, await timedSteps(sql, row.cluster)).times : undefined;
  await insertRun(sql, { id, planId, planHash: row.hash, plan: row.plan, state, stepTimes, by: actor, rollout });
  if (approval !== undefined) await askForApproval(sql, id, name, row.plan, approval);
  await audit(sql, actor, 'run.create', {
    run: id,
    plan: planId,
    hash,
    cluster: row.cluster,
    kind: kindOf(row.plan),
    backup: row.plan.options.backup ?? row.plan.restore?.backup ?? null,
    ...(rollout && { rollout }),
  });
  return id;
}

/** Throws WINDOW_UNKNOWN, or BAD_REQUEST for a policy about a time that is not given. */
async function checkTiming(sql: Sql, { notBeforeMs, skipAfterMs, ...rest }: Partial<RunTiming>): Promise<RunTiming> {
  if (skipAfterMs !== undefined && notBeforeMs === undefined) {
    throw new FleetError('BAD_REQUEST', 'body.timing.skipAfterMs: needs notBeforeMs');
  }
  const { windows = [], prefetchMs = 0 } = rest;
  await needWindows(sql, windows);
  return {
    windows,
    prefetchMs,
    ...(notBeforeMs !== undefined && { notBeforeMs }),
    ...(skipAfterMs !== undefined && { skipAfterMs }),
  };
}

/**
 * `own`: the run of this plan that waits for its start. `told`: what both clusters of a transfer hold now. Throws RUN_ACTIVE,
 * PLAN_STALE or PLAN_BLOCKED.
 */
export async function refuseStale(
  sql: Sql,
  row: PlanRow,
  { own, told }: { readonly own?: string; readonly told?: Told | undefined } = {},
): Promise<Fleet> {
  const fleet = await readFleetIn(sql);
  const active = fleet.runOf(row.cluster);
  // An upgrade under way changes the facts: say what is the matter, not that they changed.
  if (active !== undefined && active !== own)
    throw new FleetError('RUN_ACTIVE', `run ${active} of this cluster is not ended`);
  const draft = await draftAgain(sql, fleet, row, told);
  if (draft.plan === undefined || hashPlan(draft.plan) !== row.hash) {
    throw new FleetError('PLAN_STALE', 'the same question leads to another plan now');
  }
  if (draft.blocked) throw new BlockedPlan('checks that passed when the plan was made block now', draft.checks);
  return fleet;
}

async function draftAgain(sql: Sql, fleet: Fleet, row: PlanRow, told: Told | undefined): Promise<PlanDraft> {
  const transfer = transferRequestOf(row);
  if (transfer !== undefined) return draftTransfer(fleet, transfer, told ?? { source: {}, target: {} });
  return draftPlan(sql, fleet.cluster(row.cluster), row.request as PlanRequest, fleet.nowMs);
}

/** Throws RUN_UNKNOWN, or RUN_CHOICE_ILLEGAL as the run stands. */
async function askOfRun(sql: Sql, id: string, request: RunRequestKind, by: string): Promise<RunRow> {
  const row = await needRun(sql, id);
  const choices = legalChoices(row.state);
  if (!choices.includes(request)) {
    const legal = choices.length === 0 ? 'nothing' : choices.join(', ');
    throw new FleetError(
      'RUN_CHOICE_ILLEGAL',
      `run ${id} is ${row.state.status}: ${legal} can be asked, not ${request}`,
    );
  }
  await insertInput(sql, id, { type: 'request', body: { request, by } });
  await audit(sql, by, `run.${request}`, { run: id });
  return row;
}

export async function needRun(sql: Sql | Database, id: string): Promise<RunRow> {
  const row = await findRun(sql, id);
  if (row === undefined) throw new FleetError('RUN_UNKNOWN', `there is no run ${id}`);
  return row;
}

export function runSummary({ id, cluster, clusterName, planId, plan, state, ...row }: RunRow): RunSummary {
  const course = state.abortRequested && plan.backOut.length > 0 ? plan.backOut : plan.steps;
  return {
    id,
    kind: kindOf(plan),
    cluster,
    clusterName,
    planId,
    planHash: row.planHash,
    topology: plan.topology,
    to: plan.to,
    status: state.status,
    ...(state.hold && { hold: state.hold }),
    ...(state.timing && { timing: state.timing }),
    ...(state.wait && { wait: state.wait }),
    ...(state.overrun !== undefined && { overrun: state.overrun }),
    ...(state.approval && { approval: state.approval }),
    pauseRequested: state.pauseRequested,
    abortRequested: state.abortRequested,
    choices: legalChoices(state),
    ...(state.reason !== undefined && { reason: state.reason }),
    createdAtMs: row.createdAtMs,
    createdBy: row.createdBy,
    ...(state.startedAtMs !== undefined && { startedAtMs: state.startedAtMs }),
    ...(state.endedAtMs !== undefined && { endedAtMs: state.endedAtMs }),
    done: course.filter(({ id: step }) => state.steps[step]?.status === 'succeeded').length,
    total: course.length,
  };
}

export function runView(row: RunRow): RunView {
  return { ...runSummary(row), plan: row.plan, steps: row.state.steps };
}
