import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  HEALTH_THRESHOLDS,
  type HealthRecord,
  type NodeState,
  nextHealth,
  SEVERITY,
  worstState,
} from '../src/index.ts';
import { NOW } from './builders.ts';

const T = HEALTH_THRESHOLDS;
const BEAT_MS = 2_000;
const healthy = { state: 'healthy', detail: '' } as const;
const as = (state: NodeState) => ({ state, detail: state === 'healthy' ? '' : `it is ${state}` });

/** Looks every two seconds; each state lasts so long. */
function watch(phases: readonly (readonly [NodeState, number])[]) {
  let nowMs = NOW;
  let record: HealthRecord = nextHealth(undefined, healthy, nowMs);
  const looks: { atMs: number; observed: NodeState; sinceMs: number; record: HealthRecord }[] = [];
  const told: NodeState[] = [];
  for (const [observed, lastsMs] of phases) {
    for (let passedMs = 0; passedMs < lastsMs; passedMs += BEAT_MS) {
      nowMs += BEAT_MS;
      const next = nextHealth(record, as(observed), nowMs);
      if (next.state !== record.state) told.push(next.state);
      record = next;
      looks.push({ atMs: nowMs, observed, sinceMs: record.observedSinceMs, record });
    }
  }
  return { looks, told, record };
}

describe('the health of a node', () => {
  it('is what is seen at the first look', () => {
    expect(nextHealth(undefined, as('down'), NOW)).toMatchObject({ state: 'down', sinceMs: NOW, detail: 'it is down' });
  });

  it('is told of once it has lasted, for the worse sooner than for the better', () => {
    const { looks, told } = watch([
      ['down', 200_000],
      ['healthy', 200_000],
    ]);
    expect(told).toEqual(['down', 'healthy']);
    const [worse, better] = ['down', 'healthy'].map((state) =>
      looks.find(({ record }) => record.state === state && record.sinceMs > NOW),
    );
    expect((worse?.atMs ?? 0) - (worse?.sinceMs ?? 0)).toBeLessThan(T.worseAfterMs + BEAT_MS);
    expect((better?.atMs ?? 0) - NOW).toBeLessThan(200_000 + T.betterAfterMs + 2 * BEAT_MS);
  });

  it('says nothing of a hiccup', () => {
    expect(
      watch([
        ['down', T.worseAfterMs - BEAT_MS],
        ['healthy', 100_000],
      ]).told,
    ).toEqual([]);
  });

  it('tells of what is unwell in changing ways, none of which lasts: the least of it', () => {
    const crashing = Array.from({ length: 360 }, (_, at) => [at % 2 === 0 ? 'down' : 'degraded', 10_000] as const);
    const { told, looks, record } = watch(crashing);
    expect(told).toEqual(['degraded']);
    const first = looks.find(({ record: { state } }) => state === 'degraded');
    expect((first?.atMs ?? 0) - NOW).toBeLessThan(T.worseAfterMs + 2 * BEAT_MS);
    expect(first?.record.detail).toBe('it is degraded');
    expect(record.flapping).toBe(false);
    // What lasts after that is told as it is.
    expect(watch([...crashing, ['down', 20_000]]).told).toEqual(['degraded', 'down']);
    expect(watch([...crashing, ['healthy', 70_000]]).told).toEqual(['degraded', 'healthy']);
    // A moment of health in between begins it anew.
    const { told: ofHiccups } = watch([
      ['degraded', 10_000],
      ['healthy', BEAT_MS],
      ['down', 10_000],
      ['healthy', 100_000],
    ]);
    expect(ofHiccups).toEqual([]);
  });

  it('says what it is at the moment, where that is worse than what is told', () => {
    const { record } = watch([
      ['degraded', 10_000],
      ['missing', 8_000],
    ]);
    expect(record).toMatchObject({ state: 'degraded', detail: 'missing at the moment: it is missing' });
  });

  it('goes on from a record from before it was kept since when it is worse', () => {
    const { worseSinceMs, worseAtLeast, ...old } = watch([['degraded', 10_000]]).record;
    expect([worseSinceMs, worseAtLeast]).toEqual([NOW + BEAT_MS, 'degraded']);
    expect(nextHealth(old, as('down'), NOW + BEAT_MS + T.worseAfterMs).state).toBe('degraded');
  });

  it('tells of flapping once, though nothing of it lasts', () => {
    const flaps = Array.from({ length: 200 }, (_, at) => [at % 2 === 0 ? 'down' : 'healthy', 6_000] as const);
    const { told, record } = watch(flaps);
    expect(told).toEqual(['degraded']);
    expect(record).toMatchObject({ flapping: true, detail: expect.stringContaining('comes and goes') });
    expect(watch([...flaps, ['healthy', T.flapWindowMs + T.betterAfterMs]]).told).toEqual(['degraded', 'healthy']);
    expect(watch([...flaps, ['down', 60_000]]).told).toEqual(['degraded', 'down']);
  });

  it('of a cluster is that of its worst node', () => {
    expect(worstState(['healthy', 'unknown', 'degraded'])).toBe('unknown');
    expect(worstState([])).toBe('healthy');
  });
});

describe('whatever a node does', () => {
  const phase = fc.tuple(
    fc.constantFrom<NodeState>(...SEVERITY),
    fc.integer({ min: 1, max: 60 }).map((beats) => beats * BEAT_MS),
  );
  const phases = fc.array(phase, { maxLength: 60, size: 'max' });
  const rank = (state: NodeState) => SEVERITY.indexOf(state);

  it('an outage that lasts is never told to be less than it is', () => {
    fc.assert(
      fc.property(phases, (some) => {
        for (const { atMs, observed, sinceMs, record } of watch(some).looks) {
          if (atMs - sinceMs >= T.worseAfterMs) expect(rank(record.state)).toBeGreaterThanOrEqual(rank(observed));
        }
      }),
      { numRuns: 200 },
    );
  });

  it('an hour in which it is never as well as is told is told of in time, by the least that it was', () => {
    fc.assert(
      fc.property(phases, (some) => {
        const { looks } = watch(some);
        let worse: { sinceMs: number; least: number } | undefined;
        looks.forEach(({ atMs, observed, record }, at) => {
          const before = looks[at - 1]?.record.state ?? 'healthy';
          const isWorse = rank(observed) > rank(before);
          worse = isWorse
            ? { sinceMs: worse?.sinceMs ?? atMs, least: Math.min(worse?.least ?? rank(observed), rank(observed)) }
            : undefined;
          if (worse !== undefined && atMs - worse.sinceMs >= T.worseAfterMs) {
            expect(rank(record.state)).toBeGreaterThanOrEqual(worse.least);
          }
          if (record.state !== before) worse = undefined;
        });
      }),
      { numRuns: 200 },
    );
  });

  it('while it flaps, it is told of at most as often as there are states to get worse through', () => {
    fc.assert(
      fc.property(phases, (some) => {
        let events = 0;
        let before: NodeState | undefined;
        for (const { record } of watch(some).looks) {
          events = record.flapping ? events + (before !== undefined && before !== record.state ? 1 : 0) : 0;
          before = record.state;
          expect(events).toBeLessThan(SEVERITY.length);
        }
      }),
      { numRuns: 200 },
    );
  });

  it('it is told to be healthy again when it has been so for long enough', () => {
    fc.assert(
      fc.property(phases, (some) => {
        const { record } = watch([...some, ['healthy', T.flapWindowMs + T.betterAfterMs]]);
        expect(record).toMatchObject({ state: 'healthy', detail: '', flapping: false });
      }),
      { numRuns: 100 },
    );
  });

  it('what is kept of it stays small', () => {
    fc.assert(
      fc.property(phases, (some) => {
        for (const { record } of watch(some).looks) expect(record.turnsMs.length).toBeLessThanOrEqual(T.flapChanges);
      }),
    );
  });
});
