import type { ApprovalView, Page, Problem, RunSummary, RunView } from '@kwfleet/core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { closeRequest, recordApproval, requestApproval, standingOf } from '../src/store/approvals.ts';
import { RestRig } from './rest-rig.ts';
import { until, usePostgres } from './support.ts';

const postgres = usePostgres();
let rig: RestRig;
const tokens: Record<string, string> = {};

beforeAll(async () => {
  const settings = await postgres.settings().catch(() => undefined);
  if (settings === undefined) return;
  rig = await RestRig.open(settings);
  for (const name of ['ann', 'bo', 'cai']) tokens[name] = await rig.person(name, 'approver');
  tokens.ann2 = await rig.person('ann', 'operator');
  tokens.op = await rig.person('op', 'operator');
});
afterAll(() => rig?.close());

const put = (path: string, body: object, token?: string) =>
  rig.ask(path, { method: 'PUT', body: JSON.stringify(body), headers: { 'content-type': 'application/json' }, token });
const label = async (cluster: string, labels: object, token?: string) =>
  rig.ask(`/v1/clusters/${cluster}`, {
    method: 'PATCH',
    body: JSON.stringify({ labels }),
    headers: { 'content-type': 'application/json' },
    token,
  });
const runOf = (id: string) => rig.get<RunView>(`/v1/runs/${id}`);
const approve = (id: string, hash: string, token: string | undefined, more: object = {}) =>
  rig.get<RunSummary & Problem>(`/v1/runs/${id}/approve`, { json: { hash, ...more }, token });
const openSubjects = async () =>
  (await rig.get<Page<ApprovalView>>('/v1/approvals')).items.map(({ subject }) => subject);

async function begin(cluster: string, token = tokens.ann) {
  const plan = await rig.plan(cluster, token);
  return rig.get<RunSummary>('/v1/runs', { json: { plan: plan.id, hash: plan.hash }, token });
}

describe('a policy', () => {
  it('is for admins to make, is on record, and is refused when it makes no sense', async () => {
    const wanted = { labels: { environment: 'production' }, approvers: 2, irreversibleApprovers: 1 };
    expect((await put('/v1/approval-policies/production', wanted, tokens.bo)).status).toBe(403);
    expect(await (await put('/v1/approval-policies/production', wanted)).json()).toEqual({
      name: 'production',
      ...wanted,
      requesterMayApprove: false,
      validForMs: 86_400_000,
    });
    expect((await put('/v1/approval-policies/production', { approvers: -1 })).status).toBe(400);
    expect((await put('/v1/approval-policies/production', { approver: 1 })).status).toBe(400);
    expect(await rig.get('/v1/approval-policies/none', { method: 'DELETE' })).toMatchObject({
      code: 'APPROVAL_POLICY_UNKNOWN',
    });
    const audit = await rig.get<Page<{ what: string }>>('/v1/audit');
    expect(audit.items[0]).toMatchObject({ what: 'approval-policy.put', detail: { name: 'production', approvers: 2 } });
  });

  it('cannot be labelled away by whoever asks for upgrades', async () => {
    await rig.cluster('labels');
    expect((await label('labels', { environment: 'production', site: 'a' }, tokens.op)).status).toBe(200);
    expect((await label('labels', { environment: 'production' }, tokens.op)).status).toBe(200);
    const refused = await label('labels', { environment: 'test' }, tokens.op);
    expect(await refused.json()).toMatchObject({ code: 'FORBIDDEN', detail: expect.stringContaining('less approval') });
    expect((await label('labels', { environment: 'test' })).status).toBe(200);
  });
});

describe('a run of a production cluster', () => {
  it('waits for two people, neither of them the requester, and begins with the second', async () => {
    const agents = await rig.cluster('prod');
    await label('prod', { environment: 'production' });
    const run = await begin('prod');
    expect(run).toMatchObject({ status: 'awaiting_approval', choices: ['approve', 'abort'] });
    expect(await openSubjects()).toEqual(expect.arrayContaining([`run:${run.id}`, `run:${run.id}/irreversible`]));

    expect(await approve(run.id, run.planHash, tokens.op)).toMatchObject({ code: 'FORBIDDEN' });
    expect(await approve(run.id, run.planHash, tokens.ann)).toMatchObject({ code: 'APPROVAL_REFUSED' });
    expect(await approve(run.id, '0'.repeat(64), tokens.bo)).toMatchObject({ code: 'APPROVAL_REFUSED' });
    expect(await approve(run.id, run.planHash, tokens.bo, { comment: 'seen' })).toMatchObject({ id: run.id });
    expect(await approve(run.id, run.planHash, tokens.bo)).toMatchObject({
      code: 'APPROVAL_REFUSED',
      detail: expect.stringContaining('already'),
    });
    await until('the first is counted', async () => (await runOf(run.id)).approval?.given.length === 1);
    // People, whatever token they used: the engine judges by them once more.
    const counted = await runOf(run.id);
    expect([counted.status, counted.approval?.requester, counted.approval?.given.map(({ person }) => person)]).toEqual([
      'awaiting_approval',
      'ann',
      ['bo'],
    ]);
    expect(agents.some((agent) => agent.received.some((message) => 'action' in message))).toBe(false);

    await approve(run.id, run.planHash, tokens.cai);
    await until('it runs', async () => (await runOf(run.id)).status === 'running');
    expect(await openSubjects()).not.toContain(`run:${run.id}`);
    expect(await approve(run.id, run.planHash, tokens.bo, { scope: 'start' })).toMatchObject({
      code: 'RUN_CHOICE_ILLEGAL',
      detail: expect.stringContaining('not of its start'),
    });
    await approve(run.id, run.planHash, tokens.bo);
    expect(await openSubjects()).toEqual([]);
    await until('all are counted', async () => (await runOf(run.id)).approval?.given.length === 3);
    expect(await approve(run.id, run.planHash, tokens.cai)).toMatchObject({ code: 'RUN_CHOICE_ILLEGAL' });
    const all = await rig.get<Page<ApprovalView>>('/v1/approvals?open=false');
    expect(all.items.find(({ subject }) => subject === `run:${run.id}`)).toMatchObject({
      missing: 0,
      requester: 'ann',
      approvals: [
        { person: 'bo', counts: true, comment: 'seen' },
        { person: 'cai', counts: true },
      ],
    });
  });

  it('is not approved when the cluster is no longer as the plan found it', async () => {
    let address = '10.0.0.1';
    await rig.cluster('moved', (report, kwdbId) =>
      kwdbId === 1 && report.installation ? { ...report, installation: { ...report.installation, address } } : report,
    );
    await label('moved', { environment: 'production' });
    const run = await begin('moved');
    address = '10.9.9.9';
    expect(await approve(run.id, run.planHash, tokens.bo)).toMatchObject({ code: 'PLAN_STALE' });
    const [waiting] = (await rig.get<Page<ApprovalView>>('/v1/approvals')).items;
    expect(waiting).toMatchObject({ run: run.id, approvals: [] });
    expect((await rig.ask(`/v1/runs/${run.id}/abort`, { json: {} })).status).toBe(202);
    await until('it ended', async () => (await runOf(run.id)).status === 'aborted');
    expect(await openSubjects()).toEqual([]);
  });

  it('needs nothing where no policy selects it', async () => {
    await rig.cluster('free');
    const run = await begin('free');
    expect(['planned', 'running']).toContain(run.status);
    expect(await approve(run.id, run.planHash, tokens.bo)).toMatchObject({ code: 'RUN_CHOICE_ILLEGAL' });
  });
});

describe('in the store', () => {
  const requirement = { policies: ['p'], approvers: 2, requesterMayApprove: false, validForMs: 60_000 };

  it('approvals of two who ask at once count both, and of one who asks twice once', async () => {
    const database = await postgres.database();
    const request = { subject: 'rollout:r1', title: 'a rollout', hash: 'h', requirement, by: 'ann (token-1)' };
    await requestApproval(database, request);
    const give = (actor: string) =>
      database.transaction((sql) => recordApproval(sql, { subject: 'rollout:r1', hash: 'h', actor }));
    const given = await Promise.allSettled([give('bo (token-2)'), give('bo (token-3)'), give('cai (token-4)')]);
    expect(given.filter(({ status }) => status === 'fulfilled')).toHaveLength(2);
    expect(await standingOf(database, 'rollout:r1')).toMatchObject({ granted: true, missing: 0 });
  });

  it('they die when what was approved changes', async () => {
    const database = await postgres.database();
    const request = { subject: 'rollout:r2', title: 'a rollout', requirement, by: 'ann' };
    await requestApproval(database, { ...request, hash: 'h1' });
    await database.transaction((sql) => recordApproval(sql, { subject: 'rollout:r2', hash: 'h1', actor: 'bo' }));
    await requestApproval(database, { ...request, hash: 'h2' });
    expect(await standingOf(database, 'rollout:r2')).toMatchObject({ granted: false, missing: 2, counted: [] });
    // What is asked of people may have changed with it.
    const stricter = { ...requirement, approvers: 3 };
    await requestApproval(database, { ...request, hash: 'h3', requirement: stricter });
    expect(await standingOf(database, 'rollout:r2')).toMatchObject({ missing: 3 });
  });

  it('nobody agrees to what is over', async () => {
    const database = await postgres.database();
    await requestApproval(database, { subject: 'rollout:r3', title: 'a rollout', hash: 'h', requirement, by: 'ann' });
    await closeRequest(database, 'rollout:r3');
    const late = database.transaction((sql) => recordApproval(sql, { subject: 'rollout:r3', hash: 'h', actor: 'bo' }));
    await expect(late).rejects.toMatchObject({ code: 'APPROVAL_REFUSED' });
    expect((await standingOf(database, 'rollout:r3'))?.approvals).toEqual([]);
  });
});
