import { describe, expect, it } from 'vitest';
import { DEFAULT_STEP_TIMES, estimatePlan, learnStepTimes, type PlanOptions, type TimedStep } from '../src/index.ts';
import { planFor } from './builders.ts';

const timed = (kinds: Readonly<Record<string, number[]>>, own = true): TimedStep[] =>
  Object.entries(kinds).flatMap(([kind, all]) => all.map((ms) => ({ kind, own, ms })));

describe('how long a plan takes', () => {
  const rolling = planFor('multi-replica', 3);
  const satOutMs = rolling.options.soakMs + rolling.options.sampleGapMs;
  const known = { fetch: [10], gate: [1, 1, 500], upgrade: [100], witness: [40, 60] };

  it('one node after the other in a rolling upgrade, by the medians of the cluster', () => {
    expect(estimatePlan(rolling, timed(known))).toEqual({ ms: 10 + 3 * (1 + 100 + 50 + satOutMs), basis: 'cluster' });
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
  });

  it('and by the soak and the gap of its own plan, whatever earlier ones had', () => {
    const ms = (options: Partial<PlanOptions>) =>
      estimatePlan(planFor('multi-replica', 3, options), timed({ ...known, witness: [20_000] })).ms;
    expect(ms({ soakMs: 3_600_000 }) - ms({ soakMs: 0 })).toBe(3 * 3_600_000);
    expect(ms({ sampleGapMs: 60_000 }) - ms({ sampleGapMs: 10_000 })).toBe(3 * 50_000);
  });

  it('nodes of a single-replica cluster at once, as many as may install at once', () => {
    const kinds = { fetch: [1], gate: [1], stop: [1], install: [100], start: [1], verify: [1], settings: [1] };
    const all = (concurrency: number) => estimatePlan(planFor('single-replica', 4, { concurrency }), timed(kinds)).ms;
    expect(all(2) - all(4)).toBe(100);
    expect(all(1) - all(4)).toBe(300);
  });
});
