/**
 * When a run may work (I10). It is started at its time, inside a window that its estimate fits. A rolling upgrade that
 * its window closes over finishes the node in hand, and the rest waits for the next window; a cluster that is stopped as a
 * whole is brought back first, whatever the window.
 */
import { checkAttested } from '../backup-checks.ts';
import { installedVersion, members } from '../judge.ts';
import type { Plan, Step } from '../plan.ts';
import { isVersion, normalVersion } from '../version.ts';
import { type Admission, admit } from '../windows/admission.ts';
import { estimateMs } from '../windows/estimate.ts';
import type { Window } from '../windows/window.ts';
import type { EngineFacts } from './decision.ts';
import { hasTouched, type RunEvent, type RunState, type RunWait } from './state.ts';

/** What a planned or scheduled run does now: start, go on, end because its time was missed, or wait (for something else). */
export function decideScheduled(plan: Plan, state: RunState, facts: EngineFacts, nowMs: number): RunEvent[] {
  const { timing, wait: known } = state;
  const begun = state.startedAtMs !== undefined;
  if (!begun && isMissed(state, nowMs)) {
    const late = Math.round((nowMs - (timing?.notBeforeMs ?? nowMs)) / 1000);
    const reason = `its time was missed by ${late} s, and its schedule says to skip it then; nothing was touched`;
    return [{ type: 'run-ended', status: 'aborted', reason, atMs: nowMs }];
  }
  const stale = !begun && state.status === 'scheduled' ? staleness(plan, facts) : undefined;
  const expired = begun ? undefined : backupObjection(plan, nowMs);
  const wait = begun ? waitToTouch(plan, state, facts, nowMs) : waitToStart(plan, state, facts, nowMs);
  if (wait === undefined && stale !== undefined) {
    const reason = `the cluster is not as the plan found it any more: ${stale}; nothing was touched, plan again`;
    return [{ type: 'run-ended', status: 'aborted', reason, atMs: nowMs }];
  }
  if (wait === undefined && expired !== undefined) {
    const reason = `${expired}; nothing was touched, plan again with a newer one`;
    return [{ type: 'run-ended', status: 'aborted', reason, atMs: nowMs }];
  }
  if (wait === undefined) return [{ type: begun ? 'window-opened' : 'run-started', atMs: nowMs }];
  const same = known?.code === wait.code && known.untilMs === wait.untilMs;
  return same ? [] : [{ type: 'run-scheduled', wait, atMs: nowMs }];
}

/** What the plan of a run that waited says of the cluster, and is no longer so. What is not known is asked by the gates. */
function staleness(plan: Plan, { nodes }: EngineFacts): string | undefined {
  const planned = new Set(plan.nodes.map(({ kwdbId }) => kwdbId));
  for (const { node, kwdbId, from } of plan.nodes) {
    const report = nodes.get(node)?.report;
    if (report?.identity !== undefined && report.identity.kwdbId !== kwdbId) return `${node} is another node now`;
    const version = report?.installation && installedVersion(report.installation);
    if (version !== undefined && isVersion(version) && normalVersion(version) !== from) {
      return `${node} has ${normalVersion(version)}, not ${from}`;
    }
    const stranger = members(report?.view?.nodes ?? []).find((row) => !planned.has(row.kwdbId));
    if (stranger !== undefined) return `node ${stranger.kwdbId} is not in the plan`;
  }
  return undefined;
}

/** How old an attested backup may be counts when the run starts, however long ago its plan was made. */
function backupObjection({ options: { backup } }: Plan, nowMs: number): string | undefined {
  if (backup?.policy !== 'attested') return undefined;
  const { verdict, message } = checkAttested(backup, nowMs);
  return verdict === 'block' ? message : undefined;
}

/** Found due too late: nothing of the system ran when it was due. One that waited for a window meanwhile was not missed. */
function isMissed({ timing, wait }: RunState, nowMs: number): boolean {
  if (timing?.notBeforeMs === undefined || timing.skipAfterMs === undefined) return false;
  return (wait === undefined || wait.code === 'NOT_YET') && nowMs - timing.notBeforeMs > timing.skipAfterMs;
}

function waitToStart(plan: Plan, state: RunState, facts: EngineFacts, nowMs: number): RunWait | undefined {
  const { notBeforeMs = 0, prefetchMs = 0 } = state.timing ?? {};
  if (nowMs < notBeforeMs) {
    return { code: 'NOT_YET', message: `it starts at ${new Date(notBeforeMs).toISOString()}`, untilMs: notBeforeMs };
  }
  const wait = waitToTouch(plan, state, facts, nowMs);
  // The package is brought to the hosts ahead of the window: that touches no database.
  const fetches = wait?.untilMs !== undefined && wait.untilMs - nowMs <= prefetchMs;
  return fetches ? undefined : wait;
}

/** Why nothing that touches a node may begin now, or undefined when it may. */
export function waitToTouch(plan: Plan, state: RunState, facts: EngineFacts, nowMs: number): RunWait | undefined {
  const admission = admissionOf(state, facts, nowMs, neededMs(plan, state, facts));
  return admission === undefined || admission.go ? undefined : admission.wait;
}

/** Steps that begin inside a window only: those that lead up to touching a node, or a whole cluster, for the first time. */
export function isWindowed(plan: Plan, state: RunState, step: Step): boolean {
  return state.timing !== undefined && state.timing.windows.length > 0 && leadsUp(plan, state, step);
}

/**
 * Whether a step leads up to touching what this run has not touched yet: its node, or the cluster that is stopped as a
 * whole. A node that an attempt left as it was, or brought back, is not touched: another attempt takes it down anew.
 */
export function leadsUp(plan: Plan, state: RunState, { kind, node }: Step): boolean {
  if (stopsAll(plan)) return ['gate', 'back-up', 'stop'].includes(kind) && !isTouched(plan, state);
  return (
    ['gate', 'back-up', 'upgrade'].includes(kind) && !hasTouched(state, { id: `upgrade:${node}`, kind: 'upgrade' })
  );
}

/** What goes on although the window is closed, in words, the first time that it is so. */
export function findOverrun(plan: Plan, state: RunState, facts: EngineFacts, nowMs: number): string | undefined {
  if (state.overrun !== undefined || !isTouched(plan, state)) return undefined;
  const admission = admissionOf(state, facts, nowMs, 0);
  if (admission === undefined || admission.go) return undefined;
  if (stopsAll(plan)) {
    const left = plan.steps.some(({ id }) => state.steps[id]?.status !== 'succeeded');
    return left
      ? `${admission.wait.message}. Nodes of this cluster were stopped already: it goes on until all serve again`
      : undefined;
  }
  const inHand = plan.steps.find(({ id }) => state.steps[id]?.status === 'running');
  return inHand && `${admission.wait.message}. ${inHand.node} is in hand and is finished; the rest waits`;
}

/** Whether all nodes are stopped together: a single-replica upgrade, and a backup or restore of any cluster. */
const stopsAll = (plan: Plan): boolean => plan.steps.some(({ kind }) => kind === 'stop');

/** Whether the run took anything down, and did not leave it as it was. */
const isTouched = (plan: Plan, state: RunState): boolean =>
  plan.steps.some((step) => (step.kind === 'stop' || step.kind === 'upgrade') && hasTouched(state, step));

/** None without windows. One that is gone is no leave to work. */
function admissionOf(state: RunState, facts: EngineFacts, nowMs: number, needMs: number): Admission | undefined {
  const names = state.timing?.windows ?? [];
  if (names.length === 0) return undefined;
  const windows = names.map((name) => facts.windows?.get(name));
  const gone = names.find((_, i) => windows[i] === undefined);
  if (gone !== undefined) {
    const message = `the window "${gone}" that it is to start in does not exist any more`;
    return { go: false, wait: { code: 'WINDOW_NEVER', message } };
  }
  return admit(windows as Window[], nowMs, needMs);
}

/** What must fit: an untouched cluster as a whole; of one that is on its way, the next node. */
function neededMs(plan: Plan, state: RunState, { stepTimes }: EngineFacts): number {
  const left = plan.steps.filter(({ id }) => state.steps[id]?.status !== 'succeeded');
  if (!isTouched(plan, state)) return estimateMs(plan, stepTimes, left);
  const next = left.find((step) => step.kind === 'upgrade' && !hasTouched(state, step));
  return estimateMs(plan, stepTimes, next === undefined ? [] : left.filter(({ node }) => node === next.node));
}
