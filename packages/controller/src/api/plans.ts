/** `/v1/plans`: a wish becomes a plan with its checks; nothing is touched. */
import {
  type Cluster,
  FleetError,
  hashPlan,
  makePlan,
  type PackageInfo,
  type PlanDraft,
  PlanOptions,
  PlanRequest,
  PlanView,
  page,
} from '@kwfleet/core';
import { audit } from '../store/audit.ts';
import type { Sql } from '../store/database.ts';
import { newId } from '../store/ids.ts';
import { allPackages } from '../store/packages.ts';
import { findPlan, insertPlan, listPlans, type PlanRow } from '../store/plans.ts';
import { acceptedPackages } from '../trust/repository.ts';
import { type Api, type ApiParts, IdParams, PageQuery } from './api.ts';
import { type Fleet, readFleet, readFleetIn } from './fleet.ts';
import { freshen } from './freshen.ts';

export function planRoutes(app: Api, { database }: ApiParts): void {
  app.post(
    '/v1/plans',
    { schema: { tags: ['plans'], body: PlanRequest, response: { 201: PlanView } } },
    async ({ body, actor }, reply) => {
      refuseUnknownOptions(body);
      await freshen(database, body.cluster);
      const view = await database.transaction(async (sql) => {
        const fleet = await readFleetIn(sql);
        const cluster = fleet.cluster(body.cluster);
        const draft = await draftPlan(sql, cluster, body, fleet.nowMs);
        const row: PlanRow = {
          id: newId('plan', fleet.nowMs),
          cluster: cluster.id,
          hash: draft.plan === undefined ? '' : hashPlan(draft.plan),
          plan: draft.plan ?? null,
          checks: draft.checks,
          blocked: draft.blocked,
          request: body,
          createdAtMs: fleet.nowMs,
          createdBy: actor,
        };
        await insertPlan(sql, row);
        await audit(sql, actor, 'plan.create', {
          plan: row.id,
          cluster: cluster.id,
          to: body.to,
          blocked: row.blocked,
        });
        return planView(row, fleet);
      });
      return reply.code(201).send(view);
    },
  );

  app.get(
    '/v1/plans',
    { schema: { tags: ['plans'], querystring: PageQuery, response: { 200: page(PlanView) } } },
    async ({ query }) => {
      const fleet = await readFleet(database);
      const { items, ...rest } = await listPlans(database, query);
      return { items: items.map((row) => planView(row, fleet)), ...rest };
    },
  );

  app.get(
    '/v1/plans/:id',
    { schema: { tags: ['plans'], params: IdParams, response: { 200: PlanView } } },
    async ({ params }) => {
      const row = await findPlan(database, params.id);
      if (row === undefined) throw new FleetError('PLAN_UNKNOWN', `there is no plan ${params.id}`);
      return planView(row, await readFleet(database));
    },
  );
}

/** The plan that this wish leads to now. Throws VERSION_INVALID. */
export async function draftPlan(sql: Sql, cluster: Cluster, request: PlanRequest, nowMs: number): Promise<PlanDraft> {
  const all = await allPackages(sql);
  const accepted = await acceptedPackages(sql);
  const [packages, unsigned] = [true, false].map((wanted) =>
    all.filter(({ sha256 }) => (accepted === 'all' || accepted.has(sha256)) === wanted),
  ) as [PackageInfo[], PackageInfo[]];
  return makePlan({ cluster, to: request.to, packages, unsigned, options: request.options ?? {}, nowMs });
}

export function planView({ plan, checks, ...row }: PlanRow, fleet: Fleet): PlanView {
  return {
    id: row.id,
    hash: row.hash,
    clusterName: fleet.nameOf(row.cluster),
    createdAtMs: row.createdAtMs,
    createdBy: row.createdBy,
    ...(plan !== null && { plan }),
    checks: [...checks],
    blocked: row.blocked,
  };
}

/** A misspelt option would silently be the default. */
function refuseUnknownOptions({ options = {} }: PlanRequest): void {
  const unknown = Object.keys(options).find((name) => !(name in PlanOptions.properties));
  if (unknown !== undefined) throw new FleetError('BAD_REQUEST', `body.options.${unknown}: there is no such option`);
}
