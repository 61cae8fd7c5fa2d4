/**
 * When some runs of the simulator may work: in a window that is open for 16 minutes of each 20, or not before a moment. A
 * generator of its own draws it, so that all else of a seed stays as it is without.
 */
import { DEFAULT_STEP_TIMES, type RunTiming, type StepTimes, type Window } from '@kwfleet/core';
import { Random } from './random.ts';
import { BEGIN_MS } from './world.ts';

const MINUTE_MS = 60_000;
const CYCLE_MS = 20 * MINUTE_MS;
const OPEN_MS = 16 * MINUTE_MS;
const DAY_MS = 24 * 60 * MINUTE_MS;
/** Simulated nodes are small: a window closes over many runs, and few wait long for one that they fit into. */
export const STEP_TIMES = Object.fromEntries(
  Object.keys(DEFAULT_STEP_TIMES).map((kind) => [kind, MINUTE_MS / 4]),
) as StepTimes;
/** Between its decision and its commit, a controller may sleep as long as its lease holds. */
const DECIDED_WITHIN_MS = 10_000;

export class Windows {
  readonly timing: RunTiming | undefined;
  readonly window: Window | undefined;
  readonly #offsetMs: number;

  constructor(seed: number) {
    const random = new Random(seed ^ 0x77696e64);
    this.#offsetMs = random.int(0, CYCLE_MS / MINUTE_MS - 1) * MINUTE_MS;
    const startsLater = random.chance(0.15);
    const notBeforeMs = BEGIN_MS + random.int(0, 5) * MINUTE_MS;
    if (startsLater) this.timing = { windows: [], prefetchMs: 0, notBeforeMs };
    if (!random.chance(0.25)) return;
    const windows = { windows: ['simulated'], prefetchMs: random.pick([0, 10 * MINUTE_MS]) };
    this.timing = { ...windows, ...(startsLater && { notBeforeMs }) };
    this.window = windowFrom(this.#offsetMs);
  }

  /** Whether something may have been decided inside the window that is ordered now: reckoned without core's windows. */
  mayOrder(nowMs: number): boolean {
    const phaseMs = (((nowMs - this.#offsetMs) % CYCLE_MS) + CYCLE_MS) % CYCLE_MS;
    return this.window === undefined || phaseMs < OPEN_MS + DECIDED_WITHIN_MS;
  }
}

/** The same object for the same times: what core works out about a window once, it need not in every world. */
const known = new Map<number, Window>();

function windowFrom(offsetMs: number): Window {
  const before = known.get(offsetMs);
  if (before !== undefined) return before;
  const window: Window = {
    name: 'simulated',
    zone: 'UTC',
    open: Array.from({ length: DAY_MS / CYCLE_MS }, (_, i) => {
      const minutes = ((i * CYCLE_MS + offsetMs) % DAY_MS) / MINUTE_MS;
      const [hour, minute] = [Math.floor(minutes / 60), minutes % 60].map((n) => String(n).padStart(2, '0'));
      const weekly = ['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'] as const;
      return { weekly: [...weekly], at: `${hour}:${minute}`, for: `${OPEN_MS / MINUTE_MS}m` };
    }),
  };
  known.set(offsetMs, window);
  return window;
}
