/** How long a plan will take, by what steps of the same kind took before. */
import Type, { type Static } from 'typebox';
import type { Plan, Step, StepKind } from './plan.ts';

export const Estimate = Type.Object({
  ms: Type.Integer({ minimum: 0 }),
  /** What it was concluded from: earlier runs of this cluster, of others where this one has none, or nothing but a guess. */
  basis: Type.Union([Type.Literal('cluster'), Type.Literal('fleet'), Type.Literal('assumed')]),
});
export type Estimate = Static<typeof Estimate>;

/** What steps took that ended well. */
export type TimedStep = { readonly kind: string; readonly own: boolean; readonly ms: number };

const MINUTE_MS = 60_000;
const ASSUMED_MS = 5 * MINUTE_MS;
const ASSUMED: Readonly<Partial<Record<StepKind, number>>> = {
  fetch: MINUTE_MS,
  gate: 5_000,
  stop: 30_000,
  install: 3 * MINUTE_MS,
  start: MINUTE_MS,
  verify: MINUTE_MS,
  settings: 5_000,
};
/** After the soak, as long as a node takes to be seen back. */
const REJOIN_MS = 20_000;

type Basis = Estimate['basis'];
const RANK: Readonly<Record<Basis, number>> = { cluster: 0, fleet: 1, assumed: 2 };

/** The longest way through the plan's steps, each as long as the median of its kind. Holds and windows are not foreseen. */
export function estimatePlan(plan: Plan, timed: readonly TimedStep[]): Estimate {
  const kinds = new Map<StepKind, { ms: number; basis: Basis }>();
  const ofKind = ({ kind }: Step) => {
    const known = kinds.get(kind) ?? expected(kind, plan, timed);
    kinds.set(kind, known);
    return known;
  };
  const ends = new Map<string, number>();
  let installs = 0;
  for (const step of plan.steps) {
    const { ms } = ofKind(step);
    const startMs = Math.max(0, ...step.needs.map((need) => ends.get(need) ?? 0));
    // So many nodes install at once; the others wait for their turn.
    const turns = step.kind === 'install' ? Math.floor(installs++ / plan.options.concurrency) + 1 : 1;
    ends.set(step.id, startMs + ms * turns);
  }
  const basis = [...kinds.values()].map((kind) => kind.basis).toSorted((a, b) => RANK[b] - RANK[a])[0] ?? 'assumed';
  return { ms: Math.round(Math.max(0, ...ends.values())), basis };
}

function expected(kind: StepKind, { options }: Plan, timed: readonly TimedStep[]): { ms: number; basis: Basis } {
  const own = timed.filter((step) => step.kind === kind && step.own).map(({ ms }) => ms);
  if (own.length > 0) return { ms: median(own), basis: 'cluster' };
  const others = timed.filter((step) => step.kind === kind).map(({ ms }) => ms);
  if (others.length > 0) return { ms: median(others), basis: 'fleet' };
  if (kind === 'witness') return { ms: options.soakMs + options.sampleGapMs + REJOIN_MS, basis: 'assumed' };
  return { ms: ASSUMED[kind] ?? ASSUMED_MS, basis: 'assumed' };
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? 0;
  return sorted.length % 2 === 1 ? upper : (upper + (sorted[middle - 1] ?? upper)) / 2;
}
