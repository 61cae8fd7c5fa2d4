/** The copies of a run that stops its whole cluster: only together, and of one moment, do they bring the cluster back. */
import type { Plan, Step } from '../plan.ts';
import type { RunState } from './state.ts';

type Steps = Pick<RunState, 'steps'>;

/** Whether all nodes are stopped before any is copied. */
const copiesStopped = ({ options, steps }: Plan): boolean =>
  options.backup?.policy === 'copy' && steps.some(({ kind }) => kind === 'stop');

/**
 * Stops are done again when copies are: somebody may have started the cluster meanwhile, and had it written to. A copy
 * that was begun before the last stop was over is of another moment than those that follow it.
 */
export function outdatedCopies(plan: Plan, { steps }: Steps): Step[] {
  if (!copiesStopped(plan)) return [];
  const lastStopMs = Math.max(...plan.steps.map(({ id, kind }) => (kind === 'stop' ? (steps[id]?.endedAtMs ?? 0) : 0)));
  return plan.steps.filter(
    ({ id, kind }) =>
      kind === 'back-up' && steps[id]?.status === 'succeeded' && (steps[id]?.startedAtMs ?? 0) < lastStopMs,
  );
}

/** What a retry does again beside the steps that failed: while copies are still to be made, it stops all nodes for all copies anew. */
export function stopsBeforeCopies(plan: Plan, { steps, abortRequested }: RunState): string[] {
  if (!copiesStopped(plan) || abortRequested) return [];
  const stops = plan.steps.filter(({ kind }) => kind === 'stop');
  const isDone = ({ id }: Step) => steps[id]?.status === 'succeeded';
  const copied = plan.steps.every((step) => step.kind !== 'back-up' || isDone(step));
  return copied || !stops.every(isDone) ? [] : stops.map(({ id }) => id);
}

/**
 * Whether the copies of these nodes, as a run left them, are of one moment. In a rolling upgrade the other nodes serve
 * while one is copied; a run that ended between its copies may have left some of an earlier attempt.
 */
export function areOfOneMoment(plan: Plan, state: Steps, nodes: readonly string[]): boolean {
  if (plan.options.backup?.policy !== 'copy') return false;
  if (!copiesStopped(plan)) return plan.topology === 'standalone';
  const isWhole = (node: string) => state.steps[`back-up:${node}`]?.status === 'succeeded';
  return outdatedCopies(plan, state).length === 0 && nodes.every(isWhole);
}
