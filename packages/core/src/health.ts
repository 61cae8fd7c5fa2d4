/**
 * How a node is, damped. What is observed may change with every heartbeat; what is told of it changes when it has lasted,
 * so that a node which flaps is told of once, and one which is really away is told of within a fixed time.
 */
import Type, { type Static } from 'typebox';
import { NodeState, type NodeView } from './api.ts';

/** From best to worst: a cluster is as its worst node. */
export const SEVERITY: readonly NodeState[] = ['healthy', 'degraded', 'unknown', 'missing', 'down'];
const severityOf = (state: NodeState): number => SEVERITY.indexOf(state);

export const worstState = (states: readonly NodeState[]): NodeState =>
  states.reduce((a, b) => (severityOf(b) > severityOf(a) ? b : a), 'healthy');

export type Thresholds = {
  /** Something worse is told once it has lasted so long. */
  readonly worseAfterMs: number;
  /** Something better is told once it has lasted so long. */
  readonly betterAfterMs: number;
  /** So many changes between well and unwell within this time are flapping. */
  readonly flapChanges: number;
  readonly flapWindowMs: number;
};

export const HEALTH_THRESHOLDS: Thresholds = {
  worseAfterMs: 15_000,
  betterAfterMs: 60_000,
  flapChanges: 6,
  flapWindowMs: 10 * 60_000,
};

/** What is kept of a node between two looks. */
export const HealthRecord = Type.Object({
  /** What is told, and since when. */
  state: NodeState,
  sinceMs: Type.Integer(),
  detail: Type.String(),
  flapping: Type.Boolean(),
  /** What was observed last, and since when without a break. */
  observed: NodeState,
  observedSinceMs: Type.Integer(),
  /**
   * While all that is observed is worse than what is told: since when, and the least of it. Absent otherwise, and in
   * records from before this was kept.
   */
  worseSinceMs: Type.Optional(Type.Integer()),
  worseAtLeast: Type.Optional(NodeState),
  /** When it last turned from well to unwell or back; the newest last, no more than make it flapping. */
  turnsMs: Type.Array(Type.Integer()),
});
export type HealthRecord = Static<typeof HealthRecord>;

export type Observed = { readonly state: NodeState; readonly detail: string };

/** The record after another look. What is told has changed when its `state` or `flapping` is another than before. */
export function nextHealth(
  before: HealthRecord | undefined,
  { state: observed, detail }: Observed,
  nowMs: number,
  thresholds: Thresholds = HEALTH_THRESHOLDS,
): HealthRecord {
  if (before === undefined) {
    const told = { state: observed, sinceMs: nowMs, detail, flapping: false };
    return { ...told, observed, observedSinceMs: nowMs, turnsMs: [] };
  }
  const observedSinceMs = observed === before.observed ? before.observedSinceMs : nowMs;
  const turned = (observed === 'healthy') !== (before.observed === 'healthy');
  const turnsMs = [...before.turnsMs, ...(turned ? [nowMs] : [])]
    .filter((atMs) => nowMs - atMs < thresholds.flapWindowMs)
    .slice(-thresholds.flapChanges);
  const flapping = turnsMs.length >= thresholds.flapChanges;
  const worse = worseSince(before, observed, nowMs);
  const state = told(before, observed, { forMs: nowMs - observedSinceMs, flapping, worse, nowMs }, thresholds);
  const sinceMs = state === before.state ? before.sinceMs : nowMs;
  const words = flapping ? flapWords(turnsMs, nowMs, detail) : wordsOf(state, observed, detail, before);
  const next = { state, sinceMs, detail: words, flapping, observed, observedSinceMs, turnsMs };
  // Once it is told, it is asked anew what is worse than that.
  return worse === undefined || state !== before.state ? next : { ...next, ...worse };
}

type Worse = { readonly worseSinceMs: number; readonly worseAtLeast: NodeState };

/** Since when everything observed is worse than what is told: it may be that no one state of it lasts. */
function worseSince(before: HealthRecord, observed: NodeState, nowMs: number): Worse | undefined {
  const isWorse = (state: NodeState) => severityOf(state) > severityOf(before.state);
  if (!isWorse(observed)) return undefined;
  if (!isWorse(before.observed)) return { worseSinceMs: nowMs, worseAtLeast: observed };
  const { worseSinceMs = before.observedSinceMs, worseAtLeast = before.observed } = before;
  return { worseSinceMs, worseAtLeast: severityOf(observed) < severityOf(worseAtLeast) ? observed : worseAtLeast };
}

/** While it flaps, what is told gets no better: so however long that lasts, it is told of as often as there are states. */
function told(
  { state: before }: HealthRecord,
  observed: NodeState,
  { forMs, flapping, worse, nowMs }: { forMs: number; flapping: boolean; worse: Worse | undefined; nowMs: number },
  thresholds: Thresholds,
): NodeState {
  if (worse !== undefined && forMs >= thresholds.worseAfterMs) return observed;
  if (worse !== undefined && nowMs - worse.worseSinceMs >= thresholds.worseAfterMs) return worse.worseAtLeast;
  if (flapping) return before === 'healthy' ? 'degraded' : before;
  if (severityOf(observed) < severityOf(before) && forMs >= thresholds.betterAfterMs) return observed;
  return before;
}

function flapWords(turnsMs: readonly number[], nowMs: number, detail: string): string {
  const minutes = Math.max(1, Math.ceil((nowMs - (turnsMs[0] ?? nowMs)) / 60_000));
  const now = detail === '' ? 'well at the moment' : detail;
  return `it comes and goes: ${turnsMs.length} changes within ${minutes} min; ${now}`;
}

/** The reason of what is told; one of before is kept while what is observed differs from it. */
function wordsOf(state: NodeState, observed: NodeState, detail: string, before: HealthRecord): string {
  if (state === observed) return detail;
  return state === before.state ? before.detail : `${observed} at the moment: ${detail}`;
}

/** By what a node's record is found: a missing one is known only by its number in its cluster. */
export const healthId = ({ id, state, cluster }: Pick<NodeView, 'id' | 'state' | 'cluster'>): string =>
  state === 'missing' ? `${cluster}/${id}` : id;
