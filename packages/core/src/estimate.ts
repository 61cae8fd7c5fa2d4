/** How long a plan will take, by what steps of the same kind took before. */
import Type, { type Static } from 'typebox';
import type { Plan, StepKind } from './plan.ts';
import { DEFAULT_STEP_TIMES, estimateMs, type StepTimes } from './windows/estimate.ts';

export const Estimate = Type.Object({
  ms: Type.Integer({ minimum: 0 }),
  /** What it was concluded from: earlier runs of this cluster, of others where this one has none, or nothing but a guess. */
  basis: Type.Union([Type.Literal('cluster'), Type.Literal('fleet'), Type.Literal('assumed')]),
});
export type Estimate = Static<typeof Estimate>;

/** What steps took that ended well; a witness, without the soak and the gap that its own plan had it sit out. */
export type TimedStep = { readonly kind: string; readonly own: boolean; readonly ms: number };

type Basis = Estimate['basis'];
const RANK: Readonly<Record<Basis, number>> = { cluster: 0, fleet: 1, assumed: 2 };

/** How long a plan will take. Holds and waits are not foreseen. */
export function estimatePlan(plan: Plan, timed: readonly TimedStep[]): Estimate {
  const { times, basis } = learnStepTimes(plan, timed);
  return { ms: Math.round(Math.max(0, estimateMs(plan, times))), basis };
}

/**
 * What each kind of the plan's steps takes, in milliseconds: the median of those that ended well in this cluster, of
 * others where this one has none; of a kind that nobody timed yet, what is reckoned with before.
 */
export function learnStepTimes(plan: Plan, timed: readonly TimedStep[]): { times: StepTimes; basis: Basis } {
  const times = { ...DEFAULT_STEP_TIMES };
  let basis: Basis = 'cluster';
  for (const kind of new Set(plan.steps.map((step) => step.kind))) {
    const known = measured(kind, timed);
    if (RANK[known?.basis ?? 'assumed'] > RANK[basis]) basis = known?.basis ?? 'assumed';
    if (known !== undefined) times[kind] = known.ms;
  }
  return { times, basis };
}

function measured(kind: StepKind, timed: readonly TimedStep[]): { ms: number; basis: Basis } | undefined {
  const alike = timed.filter((step) => step.kind === kind);
  const own = alike.filter((step) => step.own);
  const of = own.length > 0 ? own : alike;
  if (of.length === 0) return undefined;
  return { ms: median(of.map(({ ms }) => ms)), basis: own.length > 0 ? 'cluster' : 'fleet' };
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? 0;
  return sorted.length % 2 === 1 ? upper : (upper + (sorted[middle - 1] ?? upper)) / 2;
}
