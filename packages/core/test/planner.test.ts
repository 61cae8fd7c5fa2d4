import fc from 'fast-check';
import { Value } from 'typebox/value';
import { describe, expect, it } from 'vitest';
import {
  actionFor,
  DEFAULT_OPTIONS,
  hashPlan,
  initialState,
  Plan,
  type PlanOptions,
  type Step,
  type StepKind,
  stepOf,
  type Topology,
} from '../src/index.ts';
import {
  allAt,
  draft,
  fleet,
  idsUpTo,
  installation,
  NEW,
  name,
  OLD,
  OLD_PACKAGE,
  pkg,
  planFor,
  planOf,
} from './builders.ts';

const topology = fc.constantFrom<Topology>('standalone', 'multi-replica', 'single-replica');
const options: fc.Arbitrary<Partial<PlanOptions>> = fc.record(
  { route: fc.constantFrom('offline', 'online'), soakMs: fc.nat(60_000), concurrency: fc.integer({ min: 1, max: 9 }) },
  { requiredKeys: [] },
);

/** A fleet of 1 to 9 nodes, some of which have the target already; a standalone instance has one node. */
const wish = fc
  .record({ topology, size: fc.integer({ min: 1, max: 9 }), done: fc.subarray(idsUpTo(9)), options })
  .map((chosen) => ({ ...chosen, size: chosen.topology === 'standalone' ? 1 : chosen.size }));
type Wish = typeof wish extends fc.Arbitrary<infer T> ? T : never;

function planOfWish({ topology: kind, size, done, options: chosen }: Wish): Plan {
  const nodes = fleet(kind, size).map((one, index) =>
    done.includes(index + 1)
      ? { ...one, report: { ...one.report, installation: installation({ topology: kind, versions: allAt(NEW) }) } }
      : one,
  );
  return planOf(draft(nodes, { options: chosen }));
}

/** For each step, all that must have succeeded before it. Throws on a cycle, and on a need that does not exist. */
function order(plan: Plan): Map<string, Set<string>> {
  const known = new Map<string, Set<string>>();
  const visit = (id: string, path: readonly string[]): Set<string> => {
    const found = known.get(id);
    if (found !== undefined) return found;
    if (path.includes(id)) throw new Error(`cycle: ${[...path, id].join(' → ')}`);
    const all = new Set<string>();
    for (const need of stepOf(plan, id).needs) {
      all.add(need);
      for (const earlier of visit(need, [...path, id])) all.add(earlier);
    }
    known.set(id, all);
    return all;
  };
  for (const { id } of plan.steps) visit(id, []);
  return known;
}

const ofKind = (plan: Plan, kind: StepKind): string[] =>
  plan.steps.filter((step) => step.kind === kind).map(({ id }) => id);
const ofNode = (plan: Plan, node: string): Step[] => plan.steps.filter((step) => step.node === node);

describe('every plan', () => {
  const forAll = (check: (plan: Plan, chosen: Wish) => void) =>
    fc.assert(
      fc.property(wish, (chosen) => check(planOfWish(chosen), chosen)),
      { numRuns: 60 },
    );

  it('is a DAG of steps with ids of their own, whose needs exist and come earlier in the list', () => {
    forAll((plan) => {
      const all = [...plan.steps, ...plan.backOut].map(({ id }) => id);
      expect(new Set(all).size).toBe(all.length);
      for (const course of [plan.steps, plan.backOut]) {
        const ids = course.map(({ id }) => id);
        for (const [index, step] of course.entries()) {
          for (const need of step.needs) expect(ids.indexOf(need)).toBeGreaterThanOrEqual(0);
          for (const need of step.needs) expect(ids.indexOf(need)).toBeLessThan(index);
          expect(step.id).toBe(`${step.kind}:${step.node}`);
        }
      }
      order(plan);
    });
  });

  it('is what its schema says, and plain JSON', () => {
    forAll((plan) => {
      expect(Value.Check(Plan, plan)).toBe(true);
      expect(JSON.parse(JSON.stringify(plan))).toEqual(plan);
    });
  });

  it('brings the package to every node before anything is stopped anywhere', () => {
    forAll((plan) => {
      const known = order(plan);
      const fetches = plan.nodes.map(({ node }) => `fetch:${node}`);
      for (const step of plan.steps) {
        if (step.kind !== 'fetch') expect([...(known.get(step.id) ?? [])]).toEqual(expect.arrayContaining(fetches));
      }
    });
  });

  it('does the same for the same cluster, and says so by its hash', () => {
    forAll((plan, chosen) => {
      expect(hashPlan(planOfWish(chosen))).toBe(hashPlan(plan));
    });
  });

  it('says in words what each step does, and what it changes', () => {
    forAll((plan) => {
      for (const { title, changes, kind } of plan.steps) {
        expect(title).not.toBe('');
        const looks = kind === 'gate' || kind === 'witness' || kind === 'verify' || kind === 'start';
        expect(changes.length > 0).toBe(!looks);
      }
    });
  });
});

describe('a multi-replica plan', () => {
  const multi = wish.map((chosen): Wish => ({ ...chosen, topology: 'multi-replica' }));
  const forAll = (check: (plan: Plan, chosen: Wish) => void) =>
    fc.assert(
      fc.property(multi, (chosen) => check(planOfWish(chosen), chosen)),
      { numRuns: 60 },
    );

  it('finishes with one node before it so much as asks about the next', () => {
    forAll((plan) => {
      const known = order(plan);
      const gated = ofKind(plan, 'gate').map((id) => stepOf(plan, id).node);
      for (const [index, later] of gated.entries()) {
        const need = known.get(`gate:${later}`) ?? new Set();
        for (const earlier of gated.slice(0, index)) {
          for (const step of ofNode(plan, earlier)) expect(need.has(step.id)).toBe(true);
        }
      }
    });
  });

  it('gates, upgrades and witnesses each node that is behind, and touches no other', () => {
    forAll((plan, { done, size }) => {
      for (const id of idsUpTo(size)) {
        const kinds = ofNode(plan, name(id)).map(({ kind }) => kind);
        expect(kinds).toEqual(done.includes(id) ? ['fetch'] : ['fetch', 'gate', 'upgrade', 'witness']);
      }
    });
  });

  it('has the gate and the witness asked by another node, and the upgrade carried out by its own', () => {
    forAll((plan) => {
      const executors = { fetch: 'self', gate: 'peer', upgrade: 'self', witness: 'peer' } as Record<StepKind, string>;
      for (const step of plan.steps) expect(step.executor).toBe(executors[step.kind]);
    });
  });

  it('stops, installs and starts offline; leaves it to deploy.sh online; both after the interlock', () => {
    const phases = (route: PlanOptions['route']) => stepOf(planFor('multi-replica', 3, { route }), 'upgrade:n1').phases;
    expect(phases('offline')).toEqual(['interlock', 'drain', 'stop', 'install', 'start', 'verify']);
    expect(phases('online')).toEqual(['interlock', 'install-online', 'verify', 'restore-settings']);
  });
});

describe('a single-replica plan', () => {
  const single = wish.map((chosen): Wish => ({ ...chosen, topology: 'single-replica' }));

  it.each<[StepKind, StepKind]>([
    ['gate', 'fetch'],
    ['stop', 'gate'],
    ['install', 'stop'],
    ['start', 'install'],
    ['verify', 'start'],
  ])('begins no %s before every %s is done', (later, earlier) => {
    fc.assert(
      fc.property(single, (chosen) => {
        const plan = planOfWish(chosen);
        const known = order(plan);
        expect(ofKind(plan, later)).toHaveLength(plan.nodes.length);
        for (const id of ofKind(plan, later)) {
          for (const need of ofKind(plan, earlier)) expect(known.get(id)?.has(need)).toBe(true);
        }
      }),
      { numRuns: 60 },
    );
  });
});

describe('the way back of an abort', () => {
  it('puts every node of a single-replica cluster back before it starts any', () => {
    const { backOut } = planFor('single-replica', 4);
    const putBacks = backOut.filter(({ kind }) => kind === 'put-back').map(({ id }) => id);
    expect(putBacks).toHaveLength(4);
    const returns = backOut.filter(({ kind }) => kind === 'return');
    expect(returns.map(({ needs }) => needs)).toEqual([putBacks, putBacks, putBacks, putBacks]);
    expect(backOut).toHaveLength(8);
  });

  it('is the setting alone on the online route, and nothing where each node backs out by itself', () => {
    expect(planFor('multi-replica', 3, { route: 'online' }).backOut.map(({ kind }) => kind)).toEqual(['settings']);
    expect(planFor('multi-replica', 3).backOut).toEqual([]);
    expect(planFor('standalone', 1).backOut).toEqual([]);
  });
});

describe('a standalone plan', () => {
  it('checks, then stops, installs, starts and verifies', () => {
    const plan = planFor('standalone', 1);
    expect(plan.steps.map(({ id, needs }) => [id, needs])).toEqual([
      ['fetch:n1', []],
      ['gate:n1', ['fetch:n1']],
      ['upgrade:n1', ['gate:n1']],
    ]);
    expect(stepOf(plan, 'upgrade:n1').phases).toEqual(['stop', 'install', 'start', 'verify']);
  });
});

describe("a plan's hash", () => {
  const plan = planFor('multi-replica', 3);

  /** The same value, its keys the other way round at every depth. */
  const turned = (value: unknown): unknown => {
    if (Array.isArray(value)) return value.map(turned);
    if (typeof value !== 'object' || value === null) return value;
    return Object.fromEntries(
      Object.entries(value)
        .toReversed()
        .map(([key, inner]) => [key, turned(inner)]),
    );
  };

  /** Every way to change one leaf or drop one element. */
  function* changes(value: unknown): Generator<unknown> {
    if (typeof value === 'string') yield `${value}.`;
    else if (typeof value === 'number') yield value + 1;
    else if (typeof value === 'boolean') yield !value;
    else if (Array.isArray(value)) {
      if (value.length > 0) yield value.slice(1);
      if (value.length > 1) yield value.toReversed();
      for (const [index, inner] of value.entries()) for (const other of changes(inner)) yield value.with(index, other);
    } else if (typeof value === 'object' && value !== null) {
      for (const [key, inner] of Object.entries(value)) {
        const { [key]: _, ...rest } = value as Record<string, unknown>;
        yield rest;
        for (const other of changes(inner)) yield { ...value, [key]: other };
      }
    }
  }

  it('does not know the order of keys', () => {
    const other = turned(plan) as Plan;
    expect(JSON.stringify(other)).not.toBe(JSON.stringify(plan));
    expect(hashPlan(other)).toBe(hashPlan(plan));
    expect(hashPlan(plan)).toMatch(/^[0-9a-f]{64}$/);
  });

  it('changes with every change of any field, of an order, of a step more or less', () => {
    const all = [...changes(plan)].map((other) => hashPlan(other as Plan));
    expect(all.length).toBeGreaterThan(300);
    expect(all).not.toContain(hashPlan(plan));
    expect(new Set(all).size).toBeGreaterThan(300);
  });
});

describe('the packages of a plan', () => {
  it('are the one that fits, of several of the target', () => {
    const arm = pkg({ architecture: 'arm64', sha256: 'c'.repeat(64) });
    const rpm = pkg({ family: 'rpm', sha256: 'd'.repeat(64) });
    expect(planOf(draft(fleet('multi-replica', 3), { packages: [arm, rpm, pkg(), OLD_PACKAGE] }))).toMatchObject({
      package: pkg(),
      previousPackage: OLD_PACKAGE,
    });
  });

  it('lack the one before when the registry has it not, or only for other hosts', () => {
    const foreign = { ...OLD_PACKAGE, family: 'rpm' as const };
    expect(planOf(draft(fleet('multi-replica', 3), { packages: [pkg(), foreign] }))).not.toHaveProperty(
      'previousPackage',
    );
  });

  it('never put back a version that this node did not have', () => {
    const nodes = fleet('multi-replica', 3).map((one, index) => {
      const versions = allAt(index === 1 ? '3.0.5' : OLD);
      return { ...one, report: { ...one.report, installation: installation({ versions }) } };
    });
    const other = pkg({ version: '3.0.5', sha256: 'e'.repeat(64) });
    const both = planOf(draft(nodes, { packages: [pkg(), other, OLD_PACKAGE] }));
    for (const { node, from } of both.nodes) {
      const [step, at] = [stepOf(both, `upgrade:${node}`), { executor: node, epoch: 1, nowMs: 0 }];
      expect(actionFor(both, initialState('r1', both), step, at).previousPackage?.version).toBe(from);
    }
    const plan = planOf(draft(nodes));
    const state = initialState('r1', plan);
    for (const { node, from } of plan.nodes) {
      const action = actionFor(plan, state, stepOf(plan, `upgrade:${node}`), { executor: node, epoch: 1, nowMs: 0 });
      expect([undefined, from]).toContain(action.previousPackage?.version);
    }
    expect(
      actionFor(plan, state, stepOf(plan, 'upgrade:n1'), { executor: 'n1', epoch: 1, nowMs: 0 }).previousPackage,
    ).toEqual(OLD_PACKAGE);
  });

  it('are of the target in its normal form', () => {
    expect(planOf(draft(fleet('standalone', 1), { to: 'V3.1.0' })).to).toBe(NEW);
  });
});

describe('how long a step may take', () => {
  const MINUTE_MS = 60_000;
  const HOUR_MS = 60 * MINUTE_MS;
  const deadlineOf = (step: string, options: Partial<PlanOptions> = {}, change: Parameters<typeof pkg>[0] = {}) =>
    stepOf(planOf(draft(fleet('multi-replica', 3), { packages: [pkg(change), OLD_PACKAGE], options })), step).deadline;

  it('to bring a file, is told by its size, and by a ceiling that a person chose', () => {
    const sizeBytes = 3600 * 1024 * 1024;
    expect(deadlineOf('fetch:n1', {}, { sizeBytes })).toEqual({ idleMs: 5 * MINUTE_MS, ceilingMs: 70 * MINUTE_MS });
    for (const ceilingMs of [12 * HOUR_MS, 20 * MINUTE_MS]) {
      const deadline = { idleMs: 15 * MINUTE_MS, ceilingMs };
      expect(deadlineOf('fetch:n1', { deadline }, { sizeBytes }).ceilingMs).toBe(ceilingMs);
    }
  });

  it.each(['build', 'image'] as const)('for a package of the kind %s, has no size to be told by', (kind) => {
    const deadline = { idleMs: 40 * MINUTE_MS, ceilingMs: 9 * HOUR_MS };
    expect(deadlineOf('fetch:n1', {}, { kind, sizeBytes: 0 })).toEqual(DEFAULT_OPTIONS.deadline);
    expect(deadlineOf('fetch:n1', { deadline }, { kind, sizeBytes: 1 })).toEqual(deadline);
  });

  it('for a look, is short, whatever was chosen', () => {
    const deadline = { idleMs: 40 * MINUTE_MS, ceilingMs: 9 * HOUR_MS };
    expect(deadlineOf('gate:n1', { deadline })).toEqual({ idleMs: 2 * MINUTE_MS, ceilingMs: 10 * MINUTE_MS });
  });

  it('for a witness, leaves the whole ceiling beside the soak and what comes before it', () => {
    const deadline = { idleMs: MINUTE_MS, ceilingMs: HOUR_MS };
    const options = { deadline, soakMs: 24 * HOUR_MS, sampleGapMs: MINUTE_MS };
    expect(deadlineOf('witness:n2', options)).toEqual({ idleMs: MINUTE_MS, ceilingMs: 25 * HOUR_MS + MINUTE_MS });
    expect(deadlineOf('upgrade:n2', options)).toEqual(deadline);
  });
});
