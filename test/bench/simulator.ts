/** How many seeds the simulator plays in a second: what makes a hundred thousand of them a matter of minutes. */
import { rate, simulateRange } from '../simulation/threads.ts';
import type { Figure } from './run.ts';

const SEEDS = 3_000;
const THREADS = 2;
/** On two cores that have nothing else to do. */
const RUNS_PER_SECOND_MIN = 300;

export async function simulator(): Promise<Figure[]> {
  const totals = await simulateRange({
    from: 1,
    to: SEEDS,
    topology: undefined,
    without: undefined,
    threads: THREADS,
    keepGoing: true,
  });
  const figure = { bench: 'simulator', figure: `runs of ${SEEDS} seeds on ${THREADS} threads` };
  return [
    { ...figure, value: rate(totals), unit: 'runs/s', atLeast: RUNS_PER_SECOND_MIN },
    { bench: 'simulator', figure: 'violations', value: totals.failures.length, unit: 'seeds', bound: 0 },
  ];
}
