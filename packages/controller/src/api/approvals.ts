/** `/v1/approvals`, `/v1/approval-policies` and `/v1/runs/{id}/approve`: who must agree, and who did. */
import {
  ApprovalPolicy,
  ApprovalRequestBody,
  ApprovalView,
  awaitedScopes,
  FleetError,
  POLICY_DEFAULTS,
  page,
  RunSummary,
} from '@kwfleet/core';
import Type from 'typebox';
import { allPolicies, deletePolicy, listApprovals, putPolicy, recordApproval } from '../store/approvals.ts';
import { audit } from '../store/audit.ts';
import type { Sql } from '../store/database.ts';
import { databaseNow } from '../store/nodes.ts';
import { findPlan } from '../store/plans.ts';
import { insertInput, type RunRow } from '../store/runs.ts';
import { type Api, type ApiParts, IdParams, PageQuery } from './api.ts';
import { freshen } from './freshen.ts';
import { subjectOf } from './run-approval.ts';
import { needRun, refuseStale, runSummary } from './runs.ts';
import { askAgain, type Told } from './transfers.ts';

const NameParams = Type.Object({ name: ApprovalPolicy.properties.name });
const { name: _name, ...policyFields } = ApprovalPolicy.properties;
const PolicyBody = Type.Partial(Type.Object(policyFields), { additionalProperties: false });

export function approvalRoutes(app: Api, parts: ApiParts): void {
  policyRoutes(app, parts);
  const { database } = parts;

  app.get(
    '/v1/approvals',
    {
      schema: {
        tags: ['approvals'],
        querystring: Type.Object({
          ...PageQuery.properties,
          open: Type.Optional(Type.Boolean({ default: true, description: 'Only what waits for somebody now.' })),
        }),
        response: { 200: page(ApprovalView) },
      },
    },
    async ({ query: { open = true, ...query } }) => listApprovals(database, { ...query, open }),
  );

  app.post(
    '/v1/runs/:id/approve',
    {
      config: { access: 'approver' },
      schema: {
        tags: ['approvals'],
        description:
          'Agrees to what the run waits for: its start, or, where a policy asks for that apart, its first step that ' +
          'cannot be undone; that one may be approved ahead. The hash is of the plan that was looked at.',
        params: IdParams,
        body: ApprovalRequestBody,
        response: { 200: RunSummary },
      },
    },
    async ({ params, body, actor }, reply) => {
      const run = await needRun(database, params.id);
      // Nobody agrees to a plan that the cluster has left behind.
      const awaited = run.state.status === 'awaiting_approval' ? await findPlan(database, run.planId) : undefined;
      if (awaited !== undefined) await freshen(database, [run.cluster], run.plan.to);
      const told = awaited && (await askAgain(database, awaited));
      await database.transaction((sql) => approveRun(sql, params.id, body, actor, told));
      return reply.send(runSummary(await needRun(database, params.id)));
    },
  );
}

function policyRoutes(app: Api, { database }: ApiParts): void {
  app.get(
    '/v1/approval-policies',
    { schema: { tags: ['approvals'], response: { 200: Type.Object({ items: Type.Array(ApprovalPolicy) }) } } },
    async () => ({ items: await allPolicies(database) }),
  );

  app.put(
    '/v1/approval-policies/:name',
    {
      config: { access: 'admin' },
      schema: {
        tags: ['approvals'],
        description:
          'Makes the policy, or takes the place of the one of this name. Runs that wait keep what was asked of them.',
        params: NameParams,
        body: PolicyBody,
        response: { 200: ApprovalPolicy },
      },
    },
    async ({ params, body, actor }) => {
      const policy: ApprovalPolicy = { ...POLICY_DEFAULTS, ...body, name: params.name };
      await database.transaction(async (sql) => {
        await putPolicy(sql, policy, actor);
        await audit(sql, actor, 'approval-policy.put', policy);
      });
      return policy;
    },
  );

  app.delete(
    '/v1/approval-policies/:name',
    {
      config: { access: 'admin' },
      schema: { tags: ['approvals'], params: NameParams, response: { 204: Type.Null() } },
    },
    async ({ params, actor }, reply) => {
      await database.transaction(async (sql) => {
        if (!(await deletePolicy(sql, params.name))) {
          throw new FleetError('APPROVAL_POLICY_UNKNOWN', `there is no approval policy ${params.name}`);
        }
        await audit(sql, actor, 'approval-policy.delete', { name: params.name });
      });
      return reply.code(204).send(null);
    },
  );
}

/** Throws RUN_CHOICE_ILLEGAL, APPROVAL_REFUSED, PLAN_STALE or PLAN_BLOCKED. */
async function approveRun(
  sql: Sql,
  id: string,
  body: ApprovalRequestBody,
  actor: string,
  told: Told | undefined,
): Promise<void> {
  const run = await needRun(sql, id);
  const scope = await scopeOf(sql, run, body);
  const { hash, comment } = body;
  const { missing } = await recordApproval(sql, { subject: subjectOf(id, scope), hash, actor, comment });
  if (scope === 'start') {
    const plan = await findPlan(sql, run.planId);
    if (plan !== undefined) await refuseStale(sql, plan, { own: id, told });
  }
  await insertInput(sql, id, { type: 'request', body: { request: 'approve', scope, hash, by: actor } });
  await audit(sql, actor, 'run.approve', { run: id, scope, hash, missing, ...(comment !== undefined && { comment }) });
}

async function scopeOf(sql: Sql, { id, plan, state }: RunRow, { scope }: ApprovalRequestBody) {
  const awaited = awaitedScopes(plan, state, await databaseNow(sql));
  const [first] = awaited;
  if (first === undefined) {
    throw new FleetError('RUN_CHOICE_ILLEGAL', `run ${id} is ${state.status}: it waits for no approval`);
  }
  if (scope !== undefined && !awaited.includes(scope)) {
    throw new FleetError('RUN_CHOICE_ILLEGAL', `run ${id} waits for the approval of its ${first}, not of its ${scope}`);
  }
  return scope ?? first;
}
