/** How long an upgrade takes, so that it is not begun where it does not fit. */
import type { Plan, Step, StepKind } from '../plan.ts';

/** How long a step of each kind takes, in milliseconds; a witness, beside what its plan has it sit out. */
export type StepTimes = Readonly<Record<StepKind, number>>;

const MINUTE_MS = 60_000;

/**
 * What is reckoned with before anything was measured: a node takes ten minutes, which a small one stays well under, and
 * what waits for the cluster to heal two more.
 */
export const DEFAULT_STEP_TIMES: StepTimes = {
  fetch: 2 * MINUTE_MS,
  gate: MINUTE_MS / 4,
  upgrade: 10 * MINUTE_MS,
  witness: 2 * MINUTE_MS,
  stop: MINUTE_MS,
  install: 5 * MINUTE_MS,
  start: 2 * MINUTE_MS,
  verify: MINUTE_MS,
  settings: MINUTE_MS / 4,
  'put-back': 5 * MINUTE_MS,
  return: 2 * MINUTE_MS,
  export: 10 * MINUTE_MS,
  import: 10 * MINUTE_MS,
  compare: MINUTE_MS,
  recreate: MINUTE_MS,
  prepare: MINUTE_MS / 4,
  // A disk that reads and writes 100 MiB a second copies 60 GiB in this time.
  'back-up': 10 * MINUTE_MS,
  'check-backup': 5 * MINUTE_MS,
  restore: 10 * MINUTE_MS,
  discard: MINUTE_MS,
};

/** A step's own time; a witness also sits out the gap between its samples and the soak. */
const timeOf = ({ options }: Plan, { kind }: Step, times: StepTimes): number =>
  times[kind] + (kind === 'witness' ? options.sampleGapMs + options.soakMs : 0);

/**
 * How long these steps take: the longest way through what they need, and no more installs at once than the plan allows.
 * `steps` are all of a plan, or what is left of them.
 */
export function estimateMs(
  plan: Plan,
  times: StepTimes = DEFAULT_STEP_TIMES,
  steps: readonly Step[] = plan.steps,
): number {
  const ends = new Map<string, number>();
  let installed = 0;
  for (const step of steps) {
    const begins = Math.max(0, ...step.needs.map((need) => ends.get(need) ?? 0));
    // In a plan, a step stands after what it needs. Installs beyond the limit wait for a round of earlier ones.
    const rounds = step.kind === 'install' ? Math.floor(installed++ / plan.options.concurrency) : 0;
    ends.set(step.id, begins + (rounds + 1) * timeOf(plan, step, times));
  }
  return Math.max(0, ...ends.values());
}
