import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  type Approval,
  type ApprovalPolicy,
  apply,
  type Demand,
  decide,
  demandOf,
  hashPlan,
  legalChoices,
  loosens,
  objection,
  POLICY_DEFAULTS,
  personOf,
  type Requirement,
  readState,
  standing,
} from '../src/index.ts';
import { NOW, planFor } from './builders.ts';
import { HOUR, MINUTE, Model } from './model.ts';

const policy = (change: Partial<ApprovalPolicy>): ApprovalPolicy => ({ ...POLICY_DEFAULTS, name: 'p', ...change });
const needs = (change: Partial<Requirement> = {}): Requirement => ({
  policies: ['p'],
  approvers: 2,
  requesterMayApprove: false,
  validForMs: HOUR,
  ...change,
});

describe('what the policies ask of a cluster', () => {
  it('is asked where all labels are on it, and is the strictest of each', () => {
    const policies = [
      policy({ name: 'all', labels: {}, approvers: 1, requesterMayApprove: true, validForMs: 4 * HOUR }),
      policy({ name: 'production', labels: { environment: 'production' }, approvers: 2, validForMs: 8 * HOUR }),
      policy({
        name: 'bank',
        labels: { environment: 'production', site: 'bank' },
        approvers: 0,
        irreversibleApprovers: 1,
      }),
    ];
    expect(demandOf(policies, { environment: 'test' })).toEqual({
      start: { policies: ['all'], approvers: 1, requesterMayApprove: true, validForMs: 4 * HOUR },
    });
    expect(demandOf(policies, { environment: 'production', site: 'bank' })).toEqual({
      start: { policies: ['all', 'production'], approvers: 2, requesterMayApprove: false, validForMs: 4 * HOUR },
      irreversible: { policies: ['bank'], approvers: 1, requesterMayApprove: false, validForMs: 24 * HOUR },
    });
    expect(demandOf(policies.slice(1), { environment: 'test' })).toEqual({});
  });

  it('never gets less by another policy', () => {
    const anyLabels = fc.constantFrom<Record<string, string>>({}, { e: 'p' }, { e: 'p', s: 'x' });
    const anyPolicy = fc.record({
      name: fc.constantFrom('a', 'b', 'c'),
      labels: anyLabels,
      approvers: fc.nat(3),
      irreversibleApprovers: fc.nat(2),
      requesterMayApprove: fc.boolean(),
      validForMs: fc.integer({ min: 60_000, max: HOUR }),
    });
    fc.assert(
      fc.property(fc.array(anyPolicy), anyPolicy, anyLabels, (some, one, on) => {
        expect(loosens(demandOf(some, on), demandOf([...some, one], on))).toBe(false);
      }),
    );
  });

  it('is loosened by taking any of it away', () => {
    const before: Demand = { start: needs(), irreversible: needs({ approvers: 1 }) };
    const lesser: Demand[] = [
      {},
      { start: needs() },
      { ...before, start: needs({ approvers: 1 }) },
      { ...before, start: needs({ requesterMayApprove: true }) },
      { ...before, irreversible: needs({ approvers: 1, validForMs: HOUR + 1 }) },
    ];
    for (const after of lesser) expect(loosens(before, after)).toBe(true);
    expect(loosens(before, before)).toBe(false);
    expect(loosens({}, before)).toBe(false);
  });
});

describe('an approval', () => {
  const request = { requester: 'ann', hash: 'h', requirement: needs() };
  const of = (person: string, change: Partial<Approval> = {}): Approval => ({
    person,
    hash: 'h',
    atMs: NOW,
    ...change,
  });

  it.each<[string, Approval[], number]>([
    ['two people', [of('bo'), of('cai')], 0],
    ['one person twice', [of('bo'), of('bo', { atMs: NOW - 1 })], 1],
    ['the requester and another', [of('ann'), of('bo')], 1],
    ['one for another plan', [of('bo'), of('cai', { hash: 'old' })], 1],
    ['one that is too old', [of('bo'), of('cai', { atMs: NOW - HOUR })], 1],
    ['one that is just not too old', [of('bo'), of('cai', { atMs: NOW - HOUR + 1 })], 0],
  ])('by %s', (_, approvals, missing) => {
    expect(standing(request, approvals, NOW)).toMatchObject({ missing, granted: missing === 0 });
  });

  it('is refused before it is given with the reason for which it would not count', () => {
    expect(objection(request, [], of('bo'))).toBeUndefined();
    expect(objection(request, [], of('ann'))).toContain('somebody else');
    expect(objection(request, [], of('bo', { hash: 'old' }))).toContain('what is to be approved is h');
    expect(objection(request, [of('bo')], of('bo'))).toContain('already');
    expect(objection(request, [of('bo', { atMs: NOW - HOUR })], of('bo'))).toBeUndefined();
  });

  it('counts exactly when nothing speaks against it', () => {
    const person = fc.constantFrom('ann', 'bo', 'cai');
    const approval = fc.record({ person, hash: fc.constantFrom('h', 'old'), atMs: fc.constant(NOW) });
    fc.assert(
      fc.property(fc.array(approval, { maxLength: 6 }), approval, (given, candidate) => {
        const before = standing(request, given, NOW).counted.length;
        const after = standing(request, [...given, candidate], NOW).counted.length;
        expect(after - before).toBe(objection(request, given, candidate) === undefined ? 1 : 0);
      }),
    );
  });

  it('is a person, whatever token they use', () => {
    expect(personOf('mei (token-20261123-064028-7f3a9c)')).toBe('mei');
    expect(personOf('mei (night) (token-20261123-064028-7f3a9c)')).toBe('mei (night)');
    expect(personOf('local')).toBe('local');
  });
});

describe('a run that a policy wants approved', () => {
  const made = (scopes: Demand, topology: 'multi-replica' | 'single-replica' = 'multi-replica') => {
    const plan = planFor(topology, 3);
    return new Model(plan, { hash: hashPlan(plan), requester: 'ann', requestedAtMs: NOW, ...scopes, given: [] });
  };

  it('is made awaiting it, dispatches nothing before, and starts with the last of them', () => {
    const model = made({ start: needs() });
    model.settle();
    expect(model.state.status).toBe('awaiting_approval');
    expect(legalChoices(model.state)).toEqual(['approve', 'abort']);
    expect([
      model.approve('ann'),
      model.approve('bo', 'start', 'old'),
      model.approve('bo'),
      model.approve('bo'),
    ]).toEqual([false, false, true, false]);
    model.settle();
    expect(model.orders).toEqual([]);
    expect(model.approve('cai')).toBe(true);
    model.settle();
    expect(model.state.status).toBe('running');
    expect(model.orders.length).toBeGreaterThan(0);
    expect(model.approve('dan')).toBe(false);
  });

  it('counts no approval that the history should not hold', () => {
    const model = made({ start: needs() });
    for (const person of ['ann', 'bo', 'bo']) {
      model.apply({
        type: 'approval-given',
        scope: 'start',
        person,
        hash: model.state.approval?.hash ?? '',
        atMs: NOW,
      });
    }
    model.apply({ type: 'approval-given', scope: 'start', person: 'cai', hash: 'old', atMs: NOW });
    model.settle();
    expect(model.state.status).toBe('awaiting_approval');
  });

  it('does not start by what was agreed to for later, and a person may agree to both', () => {
    const model = made({ start: needs({ approvers: 1 }), irreversible: needs({ approvers: 1 }) });
    expect(model.approve('bo', 'irreversible')).toBe(true);
    model.settle();
    expect([model.state.status, model.orders]).toEqual(['awaiting_approval', []]);
    expect(model.approve('bo')).toBe(true);
    model.settle();
    expect(model.state.status).toBe('running');
  });

  it('ends untouched when nobody agrees in time, and can be given up before', () => {
    const late = made({ start: needs() });
    late.approve('bo');
    late.wait(HOUR - 1);
    late.settle();
    expect(late.state.status).toBe('awaiting_approval');
    late.wait(1);
    late.settle();
    expect(late.state).toMatchObject({ status: 'aborted', reason: expect.stringContaining('not approved in time') });
    const given = made({ start: needs() });
    given.request('abort');
    given.settle();
    expect(given.state.status).toBe('aborted');
    expect([...late.orders, ...given.orders]).toEqual([]);
  });

  it('holds before what cannot be undone until that is approved apart, with the way back open', () => {
    const model = made({ irreversible: needs({ approvers: 1 }) }, 'single-replica');
    model.until('install:n1', 'install:n2', 'install:n3');
    model.settle();
    expect(model.state.hold).toMatchObject({ code: 'APPROVAL_NEEDED', choices: ['approve', 'wait', 'abort'] });
    model.wait(HOUR);
    model.settle();
    expect(model.running).toEqual([]);
    expect(model.approve('bo', 'irreversible')).toBe(true);
    model.settle();
    expect(model.running).toEqual(['start:n1', 'start:n2', 'start:n3']);
  });

  it('goes back where nobody approves what cannot be undone', () => {
    const model = made({ irreversible: needs({ approvers: 1 }) }, 'single-replica');
    model.until('install:n1', 'install:n2', 'install:n3');
    model.settle();
    model.request('abort');
    model.until('return:n1', 'return:n2', 'return:n3');
    model.settle();
    expect(model.state.status).toBe('aborted');
  });

  it('is not asked again once the first of those steps began', () => {
    const model = made({ irreversible: needs({ approvers: 1 }) });
    model.approve('bo', 'irreversible');
    model.until('witness:n1');
    model.wait(2 * HOUR);
    model.until('witness:n3');
    expect(JSON.stringify(model.events)).not.toContain('APPROVAL_NEEDED');
  });

  it('dies when the first approval is too old by the time it is needed', () => {
    const model = made({ irreversible: needs({ approvers: 1 }) });
    model.approve('bo', 'irreversible');
    model.wait(HOUR);
    model.until('gate:n1');
    model.settle();
    expect(model.state.hold?.code).toBe('APPROVAL_NEEDED');
  });

  it('is asked for anew when what it was given for left the node as it was', () => {
    const model = made({ irreversible: needs({ approvers: 1 }) });
    model.approve('bo', 'irreversible');
    model.until('gate:n1');
    model.settle();
    model.end('upgrade:n1', { disposition: 'backed-out' });
    model.wait(2 * HOUR);
    model.settle();
    model.request('retry');
    model.settle();
    expect([model.state.hold?.code, model.running]).toEqual(['APPROVAL_NEEDED', []]);
    expect(model.approve('cai', 'irreversible')).toBe(true);
    model.until('witness:n3');
  });

  it('asks anew when its approval became too old before its time came', () => {
    const plan = planFor('multi-replica', 3);
    const asked = {
      hash: hashPlan(plan),
      requester: 'ann',
      requestedAtMs: NOW,
      start: needs({ approvers: 1 }),
      given: [],
    };
    const timing = { windows: [], prefetchMs: 0, notBeforeMs: NOW + 90 * MINUTE };
    const model = new Model(plan, asked);
    model.state = { ...model.state, timing };
    model.approve('bo');
    model.settle();
    expect(model.state).toMatchObject({ status: 'scheduled', wait: { code: 'NOT_YET' } });
    model.wait(HOUR);
    model.settle();
    expect(model.state.status).toBe('awaiting_approval');
    expect(model.state.wait).toBeUndefined();
    model.wait(40 * MINUTE);
    model.settle();
    expect([model.state.status, model.orders]).toEqual(['awaiting_approval', []]);
    expect(model.approve('bo')).toBe(true);
    model.settle();
    expect(model.state.status).toBe('running');
  });

  it('that was stored before there were approvals is read, and asked for none', () => {
    const { plan, state } = new Model(planFor('multi-replica', 3));
    const read = readState({ ...state, format: 2 }, plan);
    expect(read.approval).toBeUndefined();
    expect(decide(plan, read, { nodes: new Map() }, NOW)).toMatchObject([{ event: { type: 'run-started' } }]);
    expect(apply(plan, read, { type: 'approval-given', scope: 'start', person: 'x', hash: '', atMs: NOW })).toBe(read);
  });
});
