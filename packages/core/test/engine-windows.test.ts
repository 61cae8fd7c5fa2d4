import { describe, expect, it } from 'vitest';
import {
  type Cluster,
  type ClusterView,
  DEFAULT_STEP_TIMES,
  decide,
  deriveClusters,
  hashPlan,
  initialState,
  isWindowed,
  makeWholePlan,
  type NodeFacts,
  type NodeReport,
  type RunEvent,
  type RunTiming,
  type Topology,
  type Window,
} from '../src/index.ts';
import { fleet, NOW, OLD, planFor, planOf, row, withReport } from './builders.ts';
import { approvalFor } from './conditions.ts';
import { HOUR, MINUTE, Model } from './model.ts';

const DAY = 24 * HOUR;
/** NOW is 2027-01-15T08:00Z. */
const nights: Window = {
  name: 'nights',
  zone: 'UTC',
  open: [{ weekly: ['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'], at: '22:00', for: '4h' }],
};
const OPENS = NOW + 14 * HOUR;
const CLOSES = OPENS + 4 * HOUR;
const isOpen = (ms: number) => (((ms - OPENS) % DAY) + DAY) % DAY < 4 * HOUR;
const times = { ...DEFAULT_STEP_TIMES, fetch: MINUTE, gate: MINUTE, upgrade: 30 * MINUTE, witness: MINUTE };

function begin(topology: Topology, timing: Partial<RunTiming> = {}, windows = [nights]): Model {
  const full = { windows: ['nights'], prefetchMs: 0, ...timing };
  const plan = planFor(topology, topology === 'standalone' ? 1 : 3);
  return new Model(plan, undefined, { timing: full, windows, isOpen, stepTimes: times });
}

const typesOf = (model: Model) => model.events.map(({ type }) => type).filter((type) => type !== 'step-ended');
const dispatched = (model: Model) =>
  model.events.flatMap((event) => (event.type === 'step-dispatched' ? [event.step] : []));
const find = <T extends RunEvent['type']>(model: Model, type: T) =>
  model.events.findLast((event): event is Extract<RunEvent, { type: T }> => event.type === type);
function to(model: Model, ms: number): void {
  model.wait(ms - model.nowMs);
  model.settle();
}

/** Until then what is under way moves, and does not end. */
function working(model: Model, untilMs: number): void {
  while (model.nowMs < untilMs) {
    model.wait(Math.min(10 * MINUTE, untilMs - model.nowMs));
    for (const id of model.running) model.progress(id, model.step(id).attempt);
    model.settle();
  }
}

describe('a run with a window', () => {
  it('waits for it, says until when, and starts when it opens', () => {
    const model = begin('multi-replica');
    model.settle();
    expect(model.state).toMatchObject({ status: 'scheduled', wait: { code: 'WINDOW_CLOSED', untilMs: OPENS } });
    expect(model.state.wait?.message).toContain('2027-01-15 22:00 UTC');
    to(model, OPENS - 1);
    expect(typesOf(model)).toEqual(['run-scheduled']);
    to(model, OPENS);
    expect(model.state.status).toBe('running');
    expect(model.state.wait).toBeUndefined();
    model.until('witness:n3');
    model.settle();
    expect(model.state.status).toBe('succeeded');
  });

  it('does not start where its estimate does not fit what remains, but in the next', () => {
    const model = begin('multi-replica');
    // Three nodes of 32 minutes and the soaks, and the package before: more than the 90 minutes that are left.
    to(model, CLOSES - 90 * MINUTE);
    expect(model.state).toMatchObject({
      status: 'scheduled',
      wait: { code: 'WINDOW_TOO_SHORT', untilMs: OPENS + DAY },
    });
    to(model, OPENS + DAY);
    expect(model.state.status).toBe('running');
  });

  it('finishes the node in hand when the window closes, and holds the rest until the next', () => {
    const model = begin('multi-replica');
    to(model, OPENS);
    model.until('gate:n1');
    model.settle();
    working(model, CLOSES + MINUTE);
    expect(model.running).toEqual(['upgrade:n1']);
    expect(find(model, 'window-overrun')?.message).toContain('n1 is in hand and is finished');
    model.until('witness:n1');
    model.settle();
    expect(model.state).toMatchObject({ status: 'scheduled', wait: { untilMs: OPENS + DAY } });
    expect(dispatched(model)).not.toContain('gate:n2');
    to(model, OPENS + DAY);
    expect(find(model, 'window-opened')).toBeDefined();
    expect(model.state.overrun).toBeUndefined();
    model.until('witness:n3');
    model.settle();
    expect(model.state.status).toBe('succeeded');
  });

  it('takes no other node down when an order came too late, but waits for the next', () => {
    for (const topology of ['multi-replica', 'single-replica'] as const) {
      const model = begin(topology);
      to(model, OPENS);
      model.until('gate:n1');
      if (topology === 'single-replica') model.until('gate:n2', 'gate:n3');
      model.settle();
      model.wait(CLOSES - model.nowMs);
      for (const id of model.running) model.end(id, 'too late');
      model.settle();
      expect(model.state).toMatchObject({ status: 'scheduled', wait: { untilMs: OPENS + DAY } });
      to(model, OPENS + DAY);
      expect(find(model, 'window-opened')).toBeDefined();
      model.until(topology === 'single-replica' ? 'verify:n3' : 'witness:n3');
      model.settle();
      expect(model.state.status).toBe('succeeded');
    }
  });

  it('goes on in the next window without being approved once more: what was agreed to has begun', () => {
    const plan = planFor('multi-replica', 3);
    const validForMs = 20 * HOUR;
    const start = { policies: ['p'], approvers: 1, requesterMayApprove: false, validForMs };
    const approval = { hash: hashPlan(plan), requester: 'ann', requestedAtMs: NOW, start, given: [] };
    const timing = { windows: ['nights'], prefetchMs: 0 };
    const model = new Model(plan, approval, { timing, windows: [nights], isOpen, stepTimes: times });
    model.approve('bo');
    to(model, OPENS);
    model.until('gate:n1');
    model.settle();
    working(model, CLOSES);
    model.until('witness:n1');
    to(model, OPENS + DAY - 1);
    expect(model.state.status).toBe('scheduled');
    to(model, OPENS + DAY);
    expect(model.state.status).toBe('running');
    expect(find(model, 'approval-lapsed')).toBeUndefined();
  });

  it.each<Topology>(['multi-replica', 'single-replica'])(
    'says of a %s cluster that something goes on outside of it only once something was touched',
    (topology) => {
      const model = begin(topology);
      to(model, OPENS);
      expect(model.running).toEqual(['fetch:n1', 'fetch:n2', 'fetch:n3']);
      const frozen = { ...nights, freezes: [{ from: '2027-01-15', until: '2027-01-17' }] };
      model.schedule = { timing: { windows: ['nights'], prefetchMs: 0 }, windows: [frozen], isOpen, stepTimes: times };
      model.settle();
      expect(find(model, 'window-overrun')).toBeUndefined();
    },
  );

  it('begins no further node that does not fit, and asks a gate again that passed before the window closed', () => {
    const model = begin('multi-replica');
    to(model, OPENS);
    model.until('witness:n1');
    model.settle();
    expect(model.running).toEqual(['gate:n2']);
    model.wait(CLOSES - 20 * MINUTE - model.nowMs);
    model.end('gate:n2');
    model.settle();
    expect(model.state).toMatchObject({ status: 'scheduled', wait: { code: 'WINDOW_TOO_SHORT' } });
    expect(dispatched(model)).not.toContain('upgrade:n2');
    to(model, OPENS + DAY);
    expect(model.running).toEqual(['gate:n2']);
    expect(model.step('gate:n2').attempt).toBe(2);
  });

  it('begins not even the last node, once its gate took too long', () => {
    const model = begin('multi-replica');
    to(model, OPENS);
    model.until('witness:n2');
    model.settle();
    model.wait(CLOSES - 20 * MINUTE - model.nowMs);
    model.end('gate:n3');
    model.settle();
    expect([model.running, model.state.wait?.code]).toEqual([[], 'WINDOW_TOO_SHORT']);
  });

  it('goes on in a single-replica cluster once a node was stopped, and says so', () => {
    const model = begin('single-replica');
    to(model, OPENS);
    model.until('stop:n1');
    model.settle();
    working(model, CLOSES + MINUTE);
    expect(find(model, 'window-overrun')?.message).toContain('goes on until all serve again');
    model.until('verify:n1', 'verify:n2', 'verify:n3');
    model.settle();
    expect(model.state.status).toBe('succeeded');
  });

  it('stops nothing in a single-replica cluster when the window closes before the first stop', () => {
    const model = begin('single-replica');
    to(model, OPENS);
    model.until('gate:n1', 'gate:n2');
    model.settle();
    model.wait(CLOSES - model.nowMs);
    model.end('gate:n3');
    model.settle();
    expect(model.state.status).toBe('scheduled');
    expect(dispatched(model).some((step) => step.startsWith('stop:'))).toBe(false);
  });

  it('fetches ahead of the window, and nothing else', () => {
    const model = begin('standalone', { prefetchMs: 2 * HOUR });
    to(model, OPENS - 2 * HOUR - 1);
    expect(dispatched(model)).toEqual([]);
    to(model, OPENS - 2 * HOUR);
    expect(dispatched(model)).toEqual(['fetch:n1']);
    model.end('fetch:n1');
    to(model, OPENS - MINUTE);
    expect(dispatched(model)).toEqual(['fetch:n1']);
    expect(model.state.status).toBe('scheduled');
    to(model, OPENS);
    expect(dispatched(model)).toEqual(['fetch:n1', 'gate:n1']);
  });

  it('heeds a freeze that is put up while it runs, and a window that is taken away', () => {
    const model = begin('multi-replica');
    to(model, OPENS);
    model.until('upgrade:n1');
    model.settle();
    const frozen = { ...nights, freezes: [{ from: '2027-01-15', until: '2027-01-17', reason: 'an incident' }] };
    model.schedule = { timing: { windows: ['nights'], prefetchMs: 0 }, windows: [frozen], isOpen, stepTimes: times };
    model.until('witness:n1');
    model.settle();
    expect(model.state).toMatchObject({ status: 'scheduled', wait: { code: 'WINDOW_FROZEN' } });
    expect(model.state.wait?.message).toContain('an incident');
    model.schedule = { ...model.schedule, windows: [] };
    model.wait(DAY);
    model.settle();
    expect(model.state.wait).toMatchObject({ code: 'WINDOW_NEVER' });
    expect(model.state.wait?.message).toContain('nights');
  });

  it('lets a person abort what waits, and try a broken node again outside of it', () => {
    const waiting = begin('multi-replica');
    waiting.settle();
    expect(waiting.request('abort')).toBe(true);
    waiting.settle();
    expect(waiting.state).toMatchObject({ status: 'aborted' });
    expect(dispatched(waiting)).toEqual([]);

    const model = begin('multi-replica');
    to(model, OPENS);
    model.until('gate:n1');
    model.settle();
    model.end('upgrade:n1', { disposition: 'broken', code: 'START_FAILED' });
    to(model, CLOSES + HOUR);
    expect(model.state.status).toBe('held');
    model.request('retry');
    model.settle();
    expect(model.running).toEqual(['upgrade:n1']);
  });
});

describe('a retry of what was left as it was', () => {
  const beginBy = (model: Model) => model.orders.map(({ step, beginByMs }) => [step, (beginByMs ?? 0) - model.nowMs]);
  const refused = (topology: Topology, disposition: 'untouched' | 'backed-out' = 'untouched') => {
    const model = begin(topology);
    to(model, OPENS);
    const [first, all] = topology === 'single-replica' ? ['stop', ['n1', 'n2', 'n3']] : ['upgrade', ['n1']];
    model.until(...all.map((node) => `gate:${node}`));
    model.settle();
    for (const node of all) model.end(`${first}:${node}`, { disposition, code: 'DISK_FULL' });
    to(model, CLOSES + HOUR);
    expect(model.state.hold?.code).toBe('DISK_FULL');
    return model;
  };

  it.each([
    ['multi-replica', 'untouched'],
    ['multi-replica', 'backed-out'],
    ['standalone', 'backed-out'],
    ['single-replica', 'untouched'],
  ] as const)('takes nothing of a %s cluster down outside of the window: %s', (topology, disposition) => {
    const model = refused(topology, disposition);
    model.request('retry');
    model.settle();
    expect(model.running).toEqual([]);
    expect(model.state).toMatchObject({ status: 'scheduled', wait: { code: 'WINDOW_CLOSED', untilMs: OPENS + DAY } });
    to(model, OPENS + DAY);
    // Its gate is asked anew, and the order is to be begun within a minute, as the first one was.
    expect(model.running.map((step) => step.split(':')[0])).toEqual(['gate']);
    for (const id of model.running) model.end(id);
    model.settle();
    expect(beginBy(model)).toEqual(model.running.map((step) => [step, MINUTE]));
    model.until(topology === 'single-replica' ? 'verify:n3' : `upgrade:${model.hosts.at(-1)?.node}`);
  });

  it('heeds a freeze, and asks whether the next node fits, not the one after', () => {
    const model = begin('multi-replica');
    to(model, OPENS);
    model.until('gate:n3');
    model.settle();
    model.end('upgrade:n3', { disposition: 'untouched', code: 'DISK_FULL' });
    to(model, CLOSES - 20 * MINUTE);
    model.request('retry');
    model.settle();
    expect(model.state).toMatchObject({ status: 'scheduled', wait: { code: 'WINDOW_TOO_SHORT' } });
    const frozen = { ...nights, freezes: [{ from: '2027-01-15', until: '2027-01-17', reason: 'an incident' }] };
    model.schedule = { timing: { windows: ['nights'], prefetchMs: 0 }, windows: [frozen], isOpen, stepTimes: times };
    to(model, OPENS + DAY);
    expect([model.state.wait?.code, model.running]).toEqual(['WINDOW_FROZEN', []]);
  });

  it('is not what a broken node, or one whose stop was backed out, waits for', () => {
    for (const disposition of ['broken', 'backed-out'] as const) {
      const model = begin('single-replica');
      to(model, OPENS);
      model.until('gate:n1', 'gate:n2', 'gate:n3');
      model.settle();
      for (const node of ['n1', 'n2', 'n3']) model.end(`stop:${node}`, { disposition, code: 'STOP_FAILED' });
      to(model, CLOSES + HOUR);
      model.request('retry');
      model.settle();
      expect(model.running).toEqual(['stop:n1', 'stop:n2', 'stop:n3']);
    }
  });

  it('stays broken, whatever a later attempt left as it was', () => {
    const model = begin('multi-replica');
    to(model, OPENS);
    model.until('gate:n1');
    model.settle();
    for (const disposition of ['broken', 'untouched'] as const) {
      model.end('upgrade:n1', { disposition, code: 'START_FAILED' });
      to(model, Math.max(model.nowMs, CLOSES + HOUR));
      model.request('retry');
      model.settle();
      expect(model.running).toEqual(['upgrade:n1']);
    }
  });

  it('that came too late after that is still not begun', () => {
    const model = refused('multi-replica');
    model.request('retry');
    to(model, OPENS + DAY);
    model.end('gate:n1');
    model.settle();
    model.end('upgrade:n1', 'too late');
    to(model, CLOSES + DAY + HOUR);
    expect(model.state).toMatchObject({ status: 'scheduled', wait: { code: 'WINDOW_CLOSED' } });
  });
});

describe('a run with a start time', () => {
  it('starts then, once', () => {
    const model = begin('standalone', { windows: [], notBeforeMs: NOW + HOUR });
    to(model, NOW + HOUR - 1);
    expect(model.state).toMatchObject({ status: 'scheduled', wait: { code: 'NOT_YET', untilMs: NOW + HOUR } });
    to(model, NOW + HOUR);
    model.until('upgrade:n1');
    model.settle();
    expect(model.state.status).toBe('succeeded');
    expect(typesOf(model).filter((type) => type === 'run-started')).toHaveLength(1);
  });

  it('catches up after an outage, or is skipped, as it says', () => {
    const catchesUp = begin('standalone', { windows: [], notBeforeMs: NOW + HOUR });
    catchesUp.settle();
    to(catchesUp, NOW + 9 * HOUR);
    expect(catchesUp.state.status).toBe('running');

    const skips = begin('standalone', { windows: [], notBeforeMs: NOW + HOUR, skipAfterMs: 10 * MINUTE });
    skips.settle();
    const intime = begin('standalone', { windows: [], notBeforeMs: NOW + HOUR, skipAfterMs: 10 * MINUTE });
    intime.settle();
    to(intime, NOW + HOUR + 10 * MINUTE);
    expect(intime.state.status).toBe('running');
    to(skips, NOW + HOUR + 10 * MINUTE + 1);
    expect(skips.state).toMatchObject({ status: 'aborted' });
    expect(skips.state.reason).toContain('missed');
    expect(dispatched(skips)).toEqual([]);
  });

  it('does not start when the cluster is another by then than the plan was made for', () => {
    const model = begin('standalone', { windows: [], notBeforeMs: NOW + HOUR });
    model.settle();
    model.host('n1').installed = '3.0.1';
    to(model, NOW + HOUR);
    expect(model.state).toMatchObject({ status: 'aborted' });
    expect(model.state.reason).toContain('n1 has 3.0.1, not 3.0.0');
    expect(dispatched(model)).toEqual([]);
  });

  it.each(['scheduled', 'approved late'])('does not start on an attested backup that became too old: %s', (how) => {
    const backup = { policy: 'attested', where: 'vault', atMs: NOW, maxAgeMs: DAY } as const;
    const plan = planFor('standalone', 1, { backup });
    const begins = (afterMs: number) => {
      const approvers = how === 'scheduled' ? [] : [1];
      const timing = { windows: [], prefetchMs: 0, ...(how === 'scheduled' && { notBeforeMs: NOW + afterMs }) };
      const model = new Model(plan, approvalFor(plan, approvers), { timing, windows: [], isOpen: () => true });
      model.settle();
      to(model, NOW + afterMs);
      model.approve('bo');
      model.settle();
      return model;
    };
    expect(begins(DAY).state.status).toBe('running');
    const late = begins(5 * DAY);
    expect([late.state.status, dispatched(late)]).toEqual(['aborted', []]);
    expect(late.state.reason).toBe(
      'the attested backup is 120 h old; at most 24 h will do; nothing was touched, plan again with a newer one',
    );
    // What was begun in time goes on.
    const begun = begins(DAY);
    to(begun, NOW + 2 * DAY);
    begun.until('upgrade:n1');
  });

  it.each<[string, (report: NodeReport) => Partial<NodeReport>]>([
    ['n1 is another node now', ({ identity }) => ({ identity: { clusterId: identity?.clusterId ?? '', kwdbId: 9 } })],
    ['node 9 is not in the plan', ({ view }) => ({ view: { ...(view as ClusterView), nodes: [row(1), row(9)] } })],
  ])('does not start when by then %s', (reason, change) => {
    const plan = planFor('standalone', 1);
    const timing = { windows: [], prefetchMs: 0, notBeforeMs: NOW + HOUR };
    const state = { ...initialState('r1', plan, undefined, timing), status: 'scheduled' as const };
    const decided = (nodes: NodeFacts[]) =>
      decide(plan, state, { nodes: new Map(nodes.map((facts) => [facts.node, facts])) }, NOW + HOUR);
    const nodes = fleet('standalone', 1);
    expect(decided(nodes)).toMatchObject([{ event: { type: 'run-started' } }]);
    const [decision] = decided(withReport(nodes, 1, change));
    expect(decision).toMatchObject({
      event: { type: 'run-ended', status: 'aborted', reason: expect.stringContaining(reason) },
    });
  });

  it('that waits for its window meanwhile was not missed', () => {
    const model = begin('standalone', { notBeforeMs: NOW + HOUR, skipAfterMs: 10 * MINUTE });
    model.settle();
    to(model, NOW + HOUR);
    expect(model.state.wait?.code).toBe('WINDOW_CLOSED');
    to(model, OPENS);
    expect(model.state.status).toBe('running');
  });
});

it.each<Topology>(['standalone', 'multi-replica', 'single-replica'])(
  'a %s cluster that is stopped as a whole for its backup is stopped inside a window only',
  (topology) => {
    const [cluster] = deriveClusters(fleet(topology, topology === 'standalone' ? 1 : 3)) as [Cluster];
    const plan = planOf(makeWholePlan({ kind: 'backup', cluster, to: OLD, packages: [], options: {}, nowMs: NOW }));
    const state = initialState('r1', plan, undefined, { windows: ['nights'], prefetchMs: 0 });
    const kinds = plan.steps.filter((step) => isWindowed(plan, state, step)).map(({ kind }) => kind);
    expect(new Set(kinds)).toEqual(new Set(['gate', 'stop', 'back-up']));
    // Once it is down, what brings it back asks for no window: nor does the copy, without which it would stay down.
    const stop = plan.steps.find(({ kind }) => kind === 'stop');
    const begun = { ...state, steps: { ...state.steps, [stop?.id ?? '']: { status: 'running' as const, attempt: 1 } } };
    expect(plan.steps.filter((step) => isWindowed(plan, begun, step))).toEqual([]);
  },
);

it("the operator's backup command of a rolling upgrade runs inside a window only", () => {
  const plan = planFor('multi-replica', 3, { backup: { policy: 'command' } });
  const state = initialState('r1', plan, undefined, { windows: ['nights'], prefetchMs: 0 });
  const kinds = new Set(plan.steps.filter((step) => isWindowed(plan, state, step)).map(({ kind }) => kind));
  expect(kinds).toEqual(new Set(['gate', 'back-up', 'upgrade']));
});
