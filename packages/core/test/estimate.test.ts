import { describe, expect, it } from 'vitest';
import { DEFAULT_STEP_TIMES, estimatePlan, learnStepTimes, type TimedStep } from '../src/index.ts';
import { planFor } from './builders.ts';

const timed = (kinds: Readonly<Record<string, number[]>>, own = true): TimedStep[] =>
  Object.entries(kinds).flatMap(([kind, all]) => all.map((ms) => ({ kind, own, ms })));

describe('how long a plan takes', () => {
  const rolling = planFor('multi-replica', 3);
  const known = { fetch: [10], gate: [1, 1, 500], upgrade: [100], witness: [40, 60] };

  it('one node after the other in a rolling upgrade, by the medians of the cluster', () => {
    expect(estimatePlan(rolling, timed(known))).toEqual({ ms: 10 + 3 * (1 + 100 + 50), basis: 'cluster' });
  });

  it('by other clusters where this one has no history, and says so', () => {
    const { gate, ...others } = known;
    expect(estimatePlan(rolling, [...timed({ gate }), ...timed(others, false)]).basis).toBe('fleet');
    const mixed = [...timed(known), ...timed({ upgrade: [9_999] }, false)];
    expect(estimatePlan(rolling, mixed)).toEqual(estimatePlan(rolling, timed(known)));
  });

  it('by assumption where nobody has, soak included', () => {
    const short = estimatePlan(planFor('multi-replica', 3, { soakMs: 0 }), []);
    const long = estimatePlan(planFor('multi-replica', 3, { soakMs: 60_000 }), []);
    expect([short.basis, long.basis]).toEqual(['assumed', 'assumed']);
    expect(long.ms - short.ms).toBe(3 * 60_000);
  });

  it('kind by kind: what nobody timed yet is reckoned as stated', () => {
    const { times, basis } = learnStepTimes(rolling, timed({ upgrade: [100, 300] }));
    expect([times, basis]).toEqual([{ ...DEFAULT_STEP_TIMES, upgrade: 200 }, 'assumed']);
    // A witness sits out the soak of its own plan, whatever that of earlier ones was.
    const soaked = planFor('multi-replica', 3, { soakMs: 30_000 });
    expect(learnStepTimes(soaked, timed({ witness: [90_000] })).times.witness).toBe(60_000);
  });

  it('nodes of a single-replica cluster at once, as many as may install at once', () => {
    const kinds = { fetch: [1], gate: [1], stop: [1], install: [100], start: [1], verify: [1], settings: [1] };
    const all = (concurrency: number) => estimatePlan(planFor('single-replica', 4, { concurrency }), timed(kinds)).ms;
    expect(all(2) - all(4)).toBe(100);
    expect(all(1) - all(4)).toBe(300);
  });
});
