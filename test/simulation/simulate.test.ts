import { describe, expect, test } from 'vitest';
import { fromEventLoop, withoutRealTime } from './determinism.ts';
import { type Outcome, simulate, type Wish } from './run.ts';
import { SAFEGUARDS, type Safeguard } from './safeguards.ts';

const run = (wish: Wish): Promise<Outcome> => fromEventLoop(() => withoutRealTime(() => simulate(wish)));

/** Where a safeguard works on one topology only, the others need not be walked through. */
const TOPOLOGY: Partial<Record<Safeguard, Wish['topology']>> = {
  epoch: 'standalone',
  interlock: 'multi-replica',
  gate: 'multi-replica',
  witness: 'multi-replica',
  ledger: 'multi-replica',
  barrier: 'single-replica',
};
const SEEDS_MAX = 2_000;

/** Which invariant is expected to break: another one breaking first would be luck. */
const BROKEN: Record<Safeguard, readonly string[]> = {
  epoch: ['I4'],
  interlock: ['I1'],
  journal: ['I4', 'I11'],
  gate: ['I4'],
  witness: ['I2'],
  barrier: ['I3'],
  observe: ['I6'],
  idempotence: ['I11', 'I4'],
  approval: ['I10'],
  lateness: ['I4'],
  ledger: ['I7'],
};

describe('the simulator', () => {
  test('finds nothing in the first seeds, and sees every kind of end', async () => {
    const ends = new Set<string>();
    for (let seed = 1; seed <= 300; seed++) {
      const outcome = await run({ seed });
      expect(outcome.violations, `npm run simulate -- --seeds ${seed}..${seed} --trace`).toEqual([]);
      ends.add(outcome.status);
    }
    expect([...ends]).toEqual(expect.arrayContaining(['succeeded', 'held', 'aborted']));
  });

  test('does the same thing again for the same seed', async () => {
    for (const seed of [7, 94, 812]) {
      const [first, second] = [await run({ seed }), await run({ seed })];
      expect(second.hash).toBe(first.hash);
      expect(second.trace()).toEqual(first.trace());
    }
    expect((await run({ seed: 8 })).hash).not.toBe((await run({ seed: 9 })).hash);
  });

  test('lets nothing it runs reach for real time or chance', () => {
    expect(() => withoutRealTime(() => Date.now())).toThrow('simulated world');
    expect(() => withoutRealTime(() => Math.random())).toThrow('simulated world');
    expect(() => withoutRealTime(() => setTimeout(() => {}, 1))).toThrow('simulated world');
  });
});

describe('without a safeguard, within 2,000 seeds the simulator finds what it guards against:', () => {
  test.each(Object.keys(SAFEGUARDS) as Safeguard[])('%s', async (without) => {
    const topology = TOPOLOGY[without];
    for (let seed = 1; seed <= SEEDS_MAX; seed++) {
      const { violations } = await run({ seed, topology, without });
      const found = violations.find(({ invariant }) => BROKEN[without].includes(invariant));
      if (found !== undefined) return;
    }
    expect.fail(`${SEEDS_MAX} seeds without "${without}" violate nothing: nobody would notice its loss`);
  });
});
