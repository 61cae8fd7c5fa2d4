/** The state of a rollout, and the events that change it. The state is always the fold of its events. */
import Type, { type Static } from 'typebox';

export const RolloutStatus = Type.Union([
  /** Its start is still to come. */
  Type.Literal('scheduled'),
  /** Its clusters are chosen, and the checks of all of them are asked. */
  Type.Literal('checking'),
  Type.Literal('awaiting_approval'),
  Type.Literal('running'),
  Type.Literal('paused'),
  /** Every cluster is at the target. */
  Type.Literal('succeeded'),
  /** It went to its end, and some clusters are not at the target. */
  Type.Literal('incomplete'),
  Type.Literal('aborted'),
]);
export type RolloutStatus = Static<typeof RolloutStatus>;
export const ROLLOUT_ENDED: ReadonlySet<RolloutStatus> = new Set(['succeeded', 'incomplete', 'aborted']);

export const RolloutCluster = Type.Object({
  name: Type.String(),
  hosts: Type.Integer(),
  /** Its value of the label that limits are counted by. */
  place: Type.Optional(Type.String()),
  status: Type.Union([
    Type.Literal('waiting'),
    Type.Literal('running'),
    /** Its run waits for a person, or for an agent that is gone: it counts as failed until it goes on. */
    Type.Literal('held'),
    Type.Literal('succeeded'),
    Type.Literal('failed'),
    /** It had the target already. */
    Type.Literal('skipped'),
  ]),
  run: Type.Optional(Type.String()),
  /** Of the plan that the checks were asked with, and that was approved where that was needed. */
  planHash: Type.Optional(Type.String()),
  /** What it is reckoned to take. */
  estimateMs: Type.Integer(),
  /** Of the rollout's windows, those about it. */
  windows: Type.Array(Type.String()),
  /** Why it failed or is held; while it waits, what its checks were blocked by. */
  code: Type.Optional(Type.String()),
  message: Type.Optional(Type.String()),
  startedAtMs: Type.Optional(Type.Integer()),
  endedAtMs: Type.Optional(Type.Integer()),
});
export type RolloutCluster = Static<typeof RolloutCluster>;

export const RolloutWave = Type.Object({
  name: Type.String(),
  /** Ids, in the order in which they are started. */
  clusters: Type.Array(Type.String()),
  status: Type.Union([Type.Literal('waiting'), Type.Literal('running'), Type.Literal('soaking'), Type.Literal('done')]),
  startedAtMs: Type.Optional(Type.Integer()),
  /** When the last of its clusters was through. */
  settledAtMs: Type.Optional(Type.Integer()),
  /** When, after the soak, some of what it upgraded was found not healthy: it is given a moment. */
  unwellAtMs: Type.Optional(Type.Integer()),
});
export type RolloutWave = Static<typeof RolloutWave>;

export const RolloutPause = Type.Object({ code: Type.String(), message: Type.String(), sinceMs: Type.Integer() });
export type RolloutPause = Static<typeof RolloutPause>;

export const ROLLOUT_FORMAT = 1;

export const RolloutState = Type.Object({
  format: Type.Literal(ROLLOUT_FORMAT),
  rollout: Type.String(),
  status: RolloutStatus,
  /** When it begins; absent: at once. */
  startAtMs: Type.Optional(Type.Integer()),
  waves: Type.Array(RolloutWave),
  /** By id. */
  clusters: Type.Record(Type.String(), RolloutCluster),
  /** Of what is approved: the file, the waves, and the plan of every cluster. */
  hash: Type.Optional(Type.String()),
  /** Scopes that must be approved: `start`, `wave:NAME`. */
  approvals: Type.Array(Type.String()),
  asked: Type.Array(Type.String()),
  approved: Type.Array(Type.String()),
  pause: Type.Optional(RolloutPause),
  /** A person saw what its checks said, and let it go on. */
  checksSeen: Type.Boolean(),
  /** Failed clusters with which a person let it go on. */
  accepted: Type.Array(Type.String()),
  abortRequested: Type.Boolean(),
  startedAtMs: Type.Optional(Type.Integer()),
  endedAtMs: Type.Optional(Type.Integer()),
  reason: Type.Optional(Type.String()),
});
export type RolloutState = Static<typeof RolloutState>;

export type RolloutEvent = { readonly atMs: number } & (
  | { readonly type: 'rollout-begun' }
  | {
      readonly type: 'rollout-checked';
      readonly waves: readonly { readonly name: string; readonly clusters: readonly string[] }[];
      readonly clusters: Readonly<Record<string, RolloutCluster>>;
      readonly hash: string;
      readonly approvals: readonly string[];
    }
  | { readonly type: 'approval-asked' | 'approval-granted'; readonly scope: string }
  | { readonly type: 'wave-started' | 'wave-settled' | 'wave-ended'; readonly wave: string }
  | { readonly type: 'wave-unwell'; readonly wave: string; readonly message: string }
  | { readonly type: 'cluster-started'; readonly cluster: string; readonly run: string }
  | { readonly type: 'cluster-succeeded' | 'cluster-skipped' | 'cluster-resumed'; readonly cluster: string }
  | {
      readonly type: 'cluster-failed' | 'cluster-held';
      readonly cluster: string;
      readonly code: string;
      readonly message: string;
    }
  | { readonly type: 'rollout-paused'; readonly code: string; readonly message: string; readonly by: string }
  | { readonly type: 'rollout-resumed' | 'abort-requested'; readonly by: string }
  | { readonly type: 'rollout-ended'; readonly status: 'succeeded' | 'incomplete' | 'aborted'; readonly reason: string }
);

export function initialRollout(rollout: string, startAtMs?: number): RolloutState {
  return {
    format: ROLLOUT_FORMAT,
    rollout,
    status: 'scheduled',
    ...(startAtMs === undefined ? {} : { startAtMs }),
    waves: [],
    clusters: {},
    approvals: [],
    asked: [],
    approved: [],
    checksSeen: false,
    accepted: [],
    abortRequested: false,
  };
}

/** The state after an event. Pure; an event about a cluster that is settled already changes nothing. */
export function applyRollout(state: RolloutState, event: RolloutEvent): RolloutState {
  const { atMs } = event;
  switch (event.type) {
    case 'rollout-begun':
      return { ...state, status: 'checking', startedAtMs: atMs };
    case 'rollout-checked': {
      const waves = event.waves.map(({ name, clusters }) => ({
        name,
        clusters: [...clusters],
        status: 'waiting' as const,
      }));
      const { hash, approvals } = event;
      return { ...state, status: 'running', waves, clusters: { ...event.clusters }, hash, approvals: [...approvals] };
    }
    case 'approval-asked':
      return { ...state, status: 'awaiting_approval', asked: [...state.asked, event.scope] };
    case 'approval-granted':
      return { ...state, status: 'running', approved: [...state.approved, event.scope] };
    case 'wave-started':
      return withWave(state, event.wave, { status: 'running', startedAtMs: atMs });
    case 'wave-settled':
      return withWave(state, event.wave, { status: 'soaking', settledAtMs: atMs });
    case 'wave-unwell':
      return withWave(state, event.wave, { unwellAtMs: atMs });
    case 'wave-ended':
      return withWave(state, event.wave, { status: 'done' });
    case 'cluster-started':
      return withCluster(state, event.cluster, (cluster) => {
        const { code: _, message: __, ...rest } = cluster;
        return { ...rest, status: 'running', run: event.run, startedAtMs: atMs };
      });
    case 'cluster-resumed':
      return withCluster(state, event.cluster, (cluster) => {
        const { code: _, message: __, endedAtMs: ___, ...rest } = cluster;
        return { ...rest, status: 'running' };
      });
    case 'cluster-succeeded':
    case 'cluster-skipped':
      return withCluster(state, event.cluster, (cluster) => {
        const { code: _, message: __, ...rest } = cluster;
        return { ...rest, status: event.type === 'cluster-skipped' ? 'skipped' : 'succeeded', endedAtMs: atMs };
      });
    case 'cluster-failed':
    case 'cluster-held': {
      const { code, message } = event;
      const status = event.type === 'cluster-held' ? 'held' : 'failed';
      return withCluster(state, event.cluster, (cluster) => ({ ...cluster, status, code, message, endedAtMs: atMs }));
    }
    case 'rollout-paused':
      return { ...state, status: 'paused', pause: { code: event.code, message: event.message, sinceMs: atMs } };
    case 'rollout-resumed': {
      const { pause, ...rest } = state;
      // What had failed by then was seen by whoever let it go on.
      const seen = {
        accepted: failedIn(state),
        checksSeen: state.checksSeen || pause?.code === 'ROLLOUT_CHECKS_BLOCK',
      };
      // Somebody may have mended what the checks found: they are asked once more.
      const again = state.waves.length === 0 || pause?.code === 'ROLLOUT_CHECKS_BLOCK';
      const waits = state.asked.some((scope) => !state.approved.includes(scope));
      return { ...rest, ...seen, status: again ? 'checking' : waits ? 'awaiting_approval' : 'running' };
    }
    case 'abort-requested': {
      const { pause: _, ...rest } = state;
      return { ...rest, status: 'running', abortRequested: true };
    }
    case 'rollout-ended':
      return { ...state, status: event.status, endedAtMs: atMs, reason: event.reason };
    default:
      return event satisfies never;
  }
}

/** Clusters that count as failed now. */
export const failedIn = ({ clusters }: RolloutState): string[] =>
  Object.entries(clusters).flatMap(([id, { status }]) => (status === 'failed' || status === 'held' ? [id] : []));

function withWave(state: RolloutState, name: string, change: Partial<RolloutWave>): RolloutState {
  return { ...state, waves: state.waves.map((wave) => (wave.name === name ? { ...wave, ...change } : wave)) };
}

function withCluster(
  state: RolloutState,
  id: string,
  change: (cluster: RolloutCluster) => RolloutCluster,
): RolloutState {
  const cluster = state.clusters[id];
  if (cluster === undefined) throw new Error(`rollout ${state.rollout} has no cluster ${id}`);
  return { ...state, clusters: { ...state.clusters, [id]: change(cluster) } };
}

/** `58 of 60 clusters are at the target; failed: c17 (INSTALL_FAILED)`. */
export function tally({ clusters }: RolloutState): string {
  const all = Object.values(clusters);
  const there = all.filter(({ status }) => status === 'succeeded' || status === 'skipped').length;
  const failed = all.filter(({ status }) => status === 'failed' || status === 'held');
  const shown = failed
    .slice(0, 10)
    .map(({ name, code }) => `${name} (${code})`)
    .join(', ');
  const more = failed.length > 10 ? ` and ${failed.length - 10} more` : '';
  return `${there} of ${all.length} clusters are at the target${failed.length === 0 ? '' : `; not there: ${shown}${more}`}`;
}
