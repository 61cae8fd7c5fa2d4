/**
 * What a rollout does next, from its file, its state and the facts. Like the engine of a run: level-triggered, without
 * I/O or clock. Whatever it starts is an ordinary run, and what a run may do is the engine's to say.
 */
import { knownDurationMs } from '../duration.ts';
import type { Hold, RunStatus } from '../engine/state.ts';
import { admit, type Wait } from '../windows/admission.ts';
import type { Window } from '../windows/window.ts';
import type { Limits, RolloutFile, WaveFile } from './file.ts';
import {
  failedIn,
  ROLLOUT_ENDED,
  type RolloutCluster,
  type RolloutEvent,
  type RolloutState,
  type RolloutWave,
  tally,
} from './state.ts';

/** How a cluster's run stands. */
export type RunFact = {
  readonly run: string;
  readonly status: RunStatus;
  readonly hold?: Hold | undefined;
  readonly reason?: string | undefined;
};

export type RolloutFacts = {
  /** By cluster: the run that this rollout started. */
  readonly runs: ReadonlyMap<string, RunFact>;
  readonly windows: ReadonlyMap<string, Window>;
  /** Scopes that enough people agreed to, as the hash is now. */
  readonly granted: ReadonlySet<string>;
};

export type RolloutDecision =
  | { readonly do: 'record'; readonly event: RolloutEvent }
  /** Choose the clusters, plan each, ask its checks: leads to `rollout-checked`. */
  | { readonly do: 'check' }
  /** Ask people: leads to `approval-asked`. */
  | { readonly do: 'ask'; readonly scope: string }
  /** Plan afresh and start a run: leads to `cluster-started`, or to its failure. */
  | { readonly do: 'start'; readonly cluster: string }
  /** The soak is over: look whether what was upgraded is healthy. Leads to `wave-ended` once all of it is. */
  | { readonly do: 'look'; readonly wave: string; readonly time: LookTime };

/**
 * The first time, whatever is not healthy leads to `wave-unwell`; the last time, to failures and `wave-ended`. In between it is
 * looked at again, and nothing comes of it but that all is well.
 */
export type LookTime = 'first' | 'again' | 'last';

/** What is not healthy after the soak may be so for a moment: a busy host, a connection that broke. It is given so long. */
const UNWELL_MS = 60_000;

/** A hold that may end by itself, an agent that is gone for a moment, counts as a failure once it has lasted so long. */
const SELF_CLEARING_MS = 60_000;

export const START_SCOPE = 'start';
export const waveScope = (wave: string): string => `wave:${wave}`;

/** The next decisions; none while something is under way, or a person or a moment is awaited. */
export function decideRollout(
  file: RolloutFile,
  state: RolloutState,
  facts: RolloutFacts,
  nowMs: number,
): RolloutDecision[] {
  const record = (event: RolloutEvent): RolloutDecision[] => [{ do: 'record', event }];
  if (ROLLOUT_ENDED.has(state.status)) return [];
  const news = newsOfRuns(state, facts, nowMs);
  if (news !== undefined) return record(news);
  if (state.abortRequested) return endAborted(state, nowMs);
  if (state.status === 'scheduled') return begin(file, state, nowMs);
  if (state.status === 'paused') return [];
  if (state.status === 'checking') return [{ do: 'check' }];
  const pause = reasonToPause(file, state);
  if (pause !== undefined) return record({ type: 'rollout-paused', ...pause, by: 'kwfleet', atMs: nowMs });
  const index = state.waves.findIndex(({ status }) => status !== 'done');
  const wave = state.waves[index];
  if (wave === undefined) {
    // One that was held, and given up on, may be at work again.
    const isDone = Object.values(state.clusters).every(({ status }) => status !== 'running');
    return isDone ? record(ending(file, state, nowMs)) : [];
  }
  switch (wave.status) {
    case 'waiting':
      return beginWave(state, wave, facts, nowMs);
    case 'running':
      return walkWave(file, state, wave, facts, nowMs);
    case 'soaking': {
      // After the last wave there is nothing to wait for, and still something to look at.
      const soakMs = index === state.waves.length - 1 ? 0 : soakOf(file, file.waves[index]);
      if (nowMs - (wave.settledAtMs ?? 0) < soakMs) return [];
      return [{ do: 'look', wave: wave.name, time: lookTime(wave, nowMs) }];
    }
    default:
      return [];
  }
}

function lookTime({ unwellAtMs }: RolloutWave, nowMs: number): LookTime {
  if (unwellAtMs === undefined) return 'first';
  return nowMs - unwellAtMs < UNWELL_MS ? 'again' : 'last';
}

/** What a run came to, where the state does not say so yet. One at a time: it may end the rollout. */
function newsOfRuns(state: RolloutState, { runs }: RolloutFacts, atMs: number): RolloutEvent | undefined {
  for (const [cluster, known] of Object.entries(state.clusters)) {
    if (known.status !== 'running' && known.status !== 'held') continue;
    const run = runs.get(cluster);
    if (run === undefined) continue;
    if (run.status === 'succeeded') return { type: 'cluster-succeeded', cluster, atMs };
    if (run.status === 'failed' || run.status === 'aborted') {
      const message = run.reason ?? `its run ${run.run} is ${run.status}`;
      return { type: 'cluster-failed', cluster, code: known.code ?? 'RUN_NOT_SUCCEEDED', message, atMs };
    }
    if (run.status === 'held' && run.hold !== undefined && known.status === 'running') {
      if (run.hold.selfClearing && atMs - run.hold.sinceMs < SELF_CLEARING_MS) continue;
      return { type: 'cluster-held', cluster, code: run.hold.code, message: run.hold.message, atMs };
    }
    if (run.status !== 'held' && known.status === 'held') return { type: 'cluster-resumed', cluster, atMs };
  }
  return undefined;
}

function begin({ start }: RolloutFile, { startAtMs = 0 }: RolloutState, nowMs: number): RolloutDecision[] {
  if (nowMs < startAtMs) return [];
  const lateMs = startAtMs === 0 ? 0 : nowMs - startAtMs;
  if (start?.missed === 'skip' && lateMs > knownDurationMs(start.grace ?? '15m')) {
    const reason = `its start was missed by ${Math.round(lateMs / 1000)} s, and its file says to skip it then`;
    return [{ do: 'record', event: { type: 'rollout-ended', status: 'aborted', reason, atMs: nowMs } }];
  }
  return [{ do: 'record', event: { type: 'rollout-begun', atMs: nowMs } }];
}

/** No cluster is begun any more; what is begun comes to its end by itself. */
function endAborted(state: RolloutState, nowMs: number): RolloutDecision[] {
  if (Object.values(state.clusters).some(({ status }) => status === 'running')) return [];
  const reason = `aborted by a person; ${tally(state)}`;
  return [{ do: 'record', event: { type: 'rollout-ended', status: 'aborted', reason, atMs: nowMs } }];
}

const isBlocked = ({ status, code }: RolloutCluster): boolean => status === 'waiting' && code !== undefined;

/** Failures beyond the budget, a failure in a wave that stops at the first, or checks that promise more than the budget. */
function reasonToPause(file: RolloutFile, state: RolloutState): { code: string; message: string } | undefined {
  const total = Object.keys(state.clusters).length;
  const budget = budgetOf(file, total);
  const accepted = new Set(state.accepted);
  const failed = failedIn(state).filter((id) => !accepted.has(id));
  const named = (ids: readonly string[]) =>
    ids
      .slice(0, 5)
      .map((id) => `${state.clusters[id]?.name} (${state.clusters[id]?.code})`)
      .join(', ') + (ids.length > 5 ? ` and ${ids.length - 5} more` : '');
  if (failed.length > budget) {
    const message = `${failed.length} of ${total} clusters failed, and the budget is ${budget}: ${named(failed)}`;
    return { code: 'ROLLOUT_BUDGET_SPENT', message };
  }
  const waves = state.waves.filter(({ status }) => status === 'running' || status === 'soaking');
  for (const { name, clusters } of waves) {
    const policy = file.waves.find((wave) => wave.name === name)?.onFailure ?? file.failures?.wave ?? 'continue';
    const here = failed.filter((id) => clusters.includes(id));
    if (policy === 'pause' && here.length > 0) {
      return { code: 'ROLLOUT_WAVE_FAILED', message: `in the wave "${name}", ${named(here)} failed` };
    }
  }
  const blocked = Object.entries(state.clusters).flatMap(([id, cluster]) => (isBlocked(cluster) ? [id] : []));
  const begun = state.waves.some(({ status }) => status !== 'waiting');
  // Once a person has seen the checks and let it go on, each cluster is asked again when its turn comes.
  if (begun || state.checksSeen || blocked.length <= budget) return undefined;
  const message = `checks block ${blocked.length} of ${total} clusters, and the budget is ${budget}: ${named(blocked)}`;
  return { code: 'ROLLOUT_CHECKS_BLOCK', message };
}

export function budgetOf({ failures }: RolloutFile, total: number): number {
  const budget = failures?.budget ?? 0;
  return typeof budget === 'number' ? budget : Math.floor((total * Number.parseInt(budget, 10)) / 100);
}

const soakOf = ({ soak }: RolloutFile, wave: WaveFile | undefined): number =>
  knownDurationMs(wave?.soak ?? soak ?? '0s');

/** A wave begins once those have agreed who must. */
function beginWave(state: RolloutState, wave: RolloutWave, { granted }: RolloutFacts, atMs: number): RolloutDecision[] {
  for (const scope of [START_SCOPE, waveScope(wave.name)]) {
    if (!state.approvals.includes(scope) || state.approved.includes(scope)) continue;
    if (granted.has(scope)) return [{ do: 'record', event: { type: 'approval-granted', scope, atMs } }];
    return state.asked.includes(scope) ? [] : [{ do: 'ask', scope }];
  }
  return [{ do: 'record', event: { type: 'wave-started', wave: wave.name, atMs } }];
}

function walkWave(
  file: RolloutFile,
  state: RolloutState,
  wave: RolloutWave,
  facts: RolloutFacts,
  nowMs: number,
): RolloutDecision[] {
  const record = (event: RolloutEvent): RolloutDecision => ({ do: 'record', event });
  const waiting = wave.clusters.filter((id) => state.clusters[id]?.status === 'waiting');
  const running = Object.values(state.clusters).filter(({ status }) => status === 'running');
  if (waiting.length === 0 && !wave.clusters.some((id) => state.clusters[id]?.status === 'running')) {
    return [record({ type: 'wave-settled', wave: wave.name, atMs: nowMs })];
  }
  const decisions: RolloutDecision[] = [];
  const busy = [...running];
  for (const id of waiting) {
    const cluster = state.clusters[id] as RolloutCluster;
    if (!hasRoom(file.limits ?? {}, cluster, busy)) continue;
    const wait = waitOf(file, cluster, facts, nowMs);
    if (wait?.code === 'WINDOW_NEVER') {
      return [record({ type: 'cluster-failed', cluster: id, code: wait.code, message: wait.message, atMs: nowMs })];
    }
    const leadMs = knownDurationMs(file.prefetch ?? '0s');
    if (wait !== undefined && (wait.untilMs ?? Number.POSITIVE_INFINITY) - nowMs > leadMs) continue;
    busy.push(cluster);
    decisions.push({ do: 'start', cluster: id });
  }
  return decisions;
}

/** Why its window does not let this cluster begin now. */
export function waitOf(
  file: RolloutFile,
  cluster: RolloutCluster,
  { windows }: Pick<RolloutFacts, 'windows'>,
  nowMs: number,
): Wait | undefined {
  if (file.windows === undefined) return undefined;
  const names = cluster.windows;
  const found = names.flatMap((name) => windows.get(name) ?? []);
  if (found.length < names.length) {
    const gone = names.find((name) => !windows.has(name));
    return { code: 'WINDOW_NEVER', message: `the window "${gone}" does not exist any more` };
  }
  if (found.length === 0) {
    return { code: 'WINDOW_NEVER', message: `none of the windows ${file.windows.join(', ')} is about this cluster` };
  }
  const admission = admit(found, nowMs, cluster.estimateMs);
  return admission.go ? undefined : admission.wait;
}

/** Whether one more may be under way. A cluster that is held is not: it waits for a person. */
function hasRoom(limits: Limits, cluster: RolloutCluster, busy: readonly RolloutCluster[]): boolean {
  const near = busy.filter(({ place }) => place === cluster.place);
  return isWithin(limits, cluster, busy) && (limits.per === undefined || isWithin(limits.per, cluster, near));
}

function isWithin(
  { clusters, hosts }: { clusters?: number | undefined; hosts?: number | undefined },
  cluster: RolloutCluster,
  busy: readonly RolloutCluster[],
): boolean {
  const used = busy.reduce((sum, one) => sum + one.hosts, 0);
  return (
    busy.length < (clusters ?? Number.POSITIVE_INFINITY) && used + cluster.hosts <= (hosts ?? Number.POSITIVE_INFINITY)
  );
}

/** A limit that this cluster alone would break: it could never start. */
export function limitTooSmall({ hosts, per }: Limits, cluster: { readonly hosts: number }): number | undefined {
  const limit = Math.min(hosts ?? Number.POSITIVE_INFINITY, per?.hosts ?? Number.POSITIVE_INFINITY);
  return cluster.hosts > limit ? limit : undefined;
}

function ending(file: RolloutFile, state: RolloutState, atMs: number): RolloutEvent {
  const failed = failedIn(state).length;
  const within = failed === 0 ? '' : `; within its budget of ${budgetOf(file, Object.keys(state.clusters).length)}`;
  const spent = state.accepted.length > 0 ? '; a person let it go on' : within;
  return {
    type: 'rollout-ended',
    status: failed === 0 ? 'succeeded' : 'incomplete',
    reason: `${tally(state)}${failed === 0 ? '' : spent}`,
    atMs,
  };
}

/** What a person may ask of a rollout as it stands. */
export function rolloutChoices(state: RolloutState): ('pause' | 'resume' | 'abort' | 'approve')[] {
  if (ROLLOUT_ENDED.has(state.status) || state.abortRequested) return [];
  if (state.status === 'paused') return ['resume', 'abort'];
  if (state.status === 'awaiting_approval') return ['approve', 'pause', 'abort'];
  return ['pause', 'abort'];
}
