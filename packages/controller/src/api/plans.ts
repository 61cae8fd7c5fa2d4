/** `/v1/plans`: a wish becomes a plan with its checks; nothing is touched. */
import {
  type Cluster,
  estimatePlan,
  FleetError,
  hashPlan,
  makePlan,
  makeWholePlan,
  type PackageInfo,
  type PlanDraft,
  PlanOptions,
  PlanRequest,
  PlanView,
  page,
} from '@kwfleet/core';
import { audit } from '../store/audit.ts';
import { findBackup } from '../store/backups.ts';
import type { Sql } from '../store/database.ts';
import { newId } from '../store/ids.ts';
import { allPackages } from '../store/packages.ts';
import { findPlan, insertPlan, listPlans, type PlanRow } from '../store/plans.ts';
import { timedSteps } from '../store/timed-steps.ts';
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
      refuseOddKind(body);
      await freshen(database, [body.cluster], body.to);
      const row = await database.transaction((sql) => createPlan(sql, body, actor));
      return reply.code(201).send(await wholeView(database, row, await readFleet(database)));
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
      return wholeView(database, row, await readFleet(database));
    },
  );
}

/** A draft as it is kept. */
export const planRow = (
  draft: PlanDraft,
  asked: Pick<PlanRow, 'cluster' | 'request' | 'createdAtMs' | 'createdBy'>,
): PlanRow => ({
  id: newId('plan', asked.createdAtMs),
  hash: draft.plan === undefined ? '' : hashPlan(draft.plan),
  plan: draft.plan ?? null,
  checks: draft.checks,
  blocked: draft.blocked,
  ...asked,
});

/** Makes a plan of the cluster as it is known now, and keeps it with its checks. Throws VERSION_INVALID or CLUSTER_UNKNOWN. */
export async function createPlan(sql: Sql, asked: PlanRequest, actor: string): Promise<PlanRow> {
  const fleet = await readFleetIn(sql);
  const cluster = fleet.cluster(asked.cluster);
  const request = attestedNow(asked, fleet.nowMs);
  const draft = await draftPlan(sql, cluster, request, fleet.nowMs);
  const row = planRow(draft, { cluster: cluster.id, request, createdAtMs: fleet.nowMs, createdBy: actor });
  await insertPlan(sql, row);
  await audit(sql, actor, 'plan.create', {
    plan: row.id,
    cluster: cluster.id,
    kind: request.kind ?? 'upgrade',
    to: request.to,
    backup: request.options?.backup ?? request.restore ?? null,
    blocked: row.blocked,
  });
  return row;
}

/** The plan that this wish leads to now. Throws VERSION_INVALID or BACKUP_UNKNOWN. */
export async function draftPlan(sql: Sql, cluster: Cluster, request: PlanRequest, nowMs: number): Promise<PlanDraft> {
  const { to, kind = 'upgrade', restore, options = {} } = request;
  const all = await allPackages(sql);
  const accepted = await acceptedPackages(sql);
  const [packages, unsigned] = [true, false].map((wanted) =>
    all.filter(({ sha256 }) => (accepted === 'all' || accepted.has(sha256)) === wanted),
  ) as [PackageInfo[], PackageInfo[]];
  const wish = { cluster, to, packages, unsigned, options, nowMs };
  switch (kind) {
    case 'upgrade':
      return makePlan(wish);
    case 'backup':
      return makeWholePlan({ ...wish, kind });
    case 'restore':
    case 'downgrade': {
      const set = await findBackup(sql, restore?.backup ?? '');
      if (set === undefined) throw new FleetError('BACKUP_UNKNOWN', `there is no backup ${restore?.backup}`);
      return makeWholePlan({ ...wish, kind, source: { set, replaced: restore?.replaced ?? 'keep' } });
    }
    case 'transfer':
      throw new FleetError('BAD_REQUEST', 'body.kind: a transfer is planned at /v1/transfers/plans');
    default:
      return kind satisfies never;
  }
}

/** A backup is named where one is put back, and nowhere else. */
function refuseOddKind({ kind = 'upgrade', restore, options }: PlanRequest): void {
  const puts = kind === 'restore' || kind === 'downgrade';
  if (puts && restore === undefined) throw new FleetError('BAD_REQUEST', `body.restore: a ${kind} names its backup`);
  if (!puts && restore !== undefined) throw new FleetError('BAD_REQUEST', `body.restore: not for kind ${kind}`);
  if (kind !== 'upgrade' && options?.backup !== undefined) {
    throw new FleetError('BAD_REQUEST', `body.options.backup: not for kind ${kind}`);
  }
}

/** An attested backup whose time nobody says was made when it is stated: that time is kept, so that it can expire. */
function attestedNow(request: PlanRequest, nowMs: number): PlanRequest {
  const backup = request.options?.backup;
  if (backup?.policy !== 'attested' || backup.atMs !== undefined) return request;
  return { ...request, options: { ...request.options, backup: { ...backup, atMs: nowMs } } };
}

/** With the time that it will take. */
async function wholeView(sql: Sql, row: PlanRow, fleet: Fleet): Promise<PlanView> {
  const view = planView(row, fleet);
  if (row.plan === null) return view;
  return { ...view, estimate: estimatePlan(row.plan, await timedSteps(sql, row.cluster)) };
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
