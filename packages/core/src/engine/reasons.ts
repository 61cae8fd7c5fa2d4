/** Why a step failed, and what an abort leaves behind, in words for a person. */
import type { Plan, Step } from '../plan.ts';
import { type Hold, hasTouched, type RunState, type StepState } from './state.ts';

/** So many of a kind are named; of more, how many. */
const NAMED_MAX = 5;

/** What went wrong with a step, and how it left its host. */
export function failureWords({ title }: Step, { result }: Pick<StepState, 'result'> = {}): string {
  const left = result?.disposition;
  const aftermath =
    left === 'backed-out'
      ? '; the old version was put back and serves'
      : left === 'untouched'
        ? '; nothing was changed on the host'
        : result?.newVersionStarted
          ? '; the new version was started on the data, so it is not taken back in place'
          : '';
  return `${title}: ${result?.failure?.message ?? 'failed without a reason'}${aftermath}`;
}

/**
 * Why an aborted run ended, and what a person has to look after now: what it still waited for, what failed, and the nodes
 * that it leaves without having seen them serve. `under`: the steps under way that it gives up; `stuck`: what it waited for.
 */
export function abortReason(plan: Plan, state: RunState, under: readonly Step[], stuck: Hold | undefined): string {
  const told = new Set([stuck?.step, ...under.map(({ id }) => id)]);
  const failed = [...plan.steps, ...plan.backOut].filter(({ id }) => {
    const { status, result } = state.steps[id] ?? {};
    return !told.has(id) && (status === 'failed' || (status === 'pending' && result?.disposition === 'broken'));
  });
  const parts = [
    `aborted by a person${stuck === undefined ? '' : ` (${stuck.code}: ${stuck.message})`}`,
    named(
      'left unfinished: ',
      under.map(({ title }) => title),
    ),
    named(
      'failed: ',
      failed.map((step) => failureWords(step, state.steps[step.id])),
      '; ',
    ),
    named('stopped, and not seen to run since: ', stoppedNodes(plan, state)),
    named('begun to be upgraded, and not seen to be back: ', unseenNodes(plan, state)),
  ];
  return parts.filter((part) => part !== '').join('; ');
}

function named(what: string, names: readonly string[], between = ', '): string {
  if (names.length === 0) return '';
  const more = names.length > NAMED_MAX ? ` and ${names.length - NAMED_MAX} more` : '';
  return `${what}${names.slice(0, NAMED_MAX).join(between)}${more}`;
}

/** Those that a stop, or what takes a node back, may have stopped, and that nothing started since. */
function stoppedNodes(plan: Plan, state: RunState): string[] {
  const steps = [...plan.steps, ...plan.backOut];
  const isUp = ({ id, kind }: Step) =>
    (kind === 'start' || kind === 'return' || kind === 'verify') && state.steps[id]?.status === 'succeeded';
  const up = new Set(steps.filter(isUp).map(({ node }) => node));
  const down = steps.filter((step) => (step.kind === 'stop' || step.kind === 'put-back') && hasTouched(state, step));
  return [...new Set(down.map(({ node }) => node))].filter((node) => !up.has(node));
}

/** Those whose upgrade may have changed them, and that were not verified: by another node, where there is one to look. */
function unseenNodes(plan: Plan, state: RunState): string[] {
  const isSeen = ({ node, id }: Step) => {
    const witness = plan.steps.find((step) => step.kind === 'witness' && step.node === node);
    return state.steps[witness?.id ?? id]?.status === 'succeeded';
  };
  const upgrades = plan.steps.filter((step) => step.kind === 'upgrade' && hasTouched(state, step));
  return upgrades.filter((step) => !isSeen(step)).map(({ node }) => node);
}
