/** What a run's approvals mean to the engine: nothing is done before enough people agreed to exactly this plan. */
import { type ApprovalScope, objection, type Standing, standing } from '../approval.ts';
import { type Plan, stepOf } from '../plan.ts';
import { hasTouched, type RunApproval, type RunEvent, type RunState } from './state.ts';

/** How an approval that this run needs stands now; undefined when it needs none of this scope. */
export function approvalStanding(state: RunState, scope: ApprovalScope, nowMs: number): Standing | undefined {
  const { approval } = state;
  const requirement = approval?.[scope];
  if (approval === undefined || requirement === undefined) return undefined;
  return standing({ ...approval, requirement }, givenFor(approval, scope), nowMs);
}

const givenFor = ({ given }: RunApproval, scope: ApprovalScope) => given.filter((one) => one.scope === scope);

/** The steps that cannot be undone have begun: what was to be approved before them is past. */
const isPastReturn = (plan: Plan, state: RunState): boolean =>
  plan.steps.some((step) => step.irreversible === true && hasTouched(state, step));

/** How many people must still agree before a step that cannot be undone may begin; 0 when it may. */
export function missingBefore(plan: Plan, state: RunState, step: string, nowMs: number): number {
  if (stepOf(plan, step).irreversible !== true || isPastReturn(plan, state)) return 0;
  return approvalStanding(state, 'irreversible', nowMs)?.missing ?? 0;
}

/** What approval is awaited now, or may be given ahead; undefined when none is. */
export function awaitedScopes(plan: Plan, state: RunState, nowMs: number): ApprovalScope[] {
  const scopes: ApprovalScope[] = [];
  if (state.status === 'awaiting_approval') scopes.push('start');
  const ahead = approvalStanding(state, 'irreversible', nowMs);
  const isComing = plan.steps.some(({ irreversible }) => irreversible === true) && !isPastReturn(plan, state);
  if (ahead !== undefined && !ahead.granted && isComing) scopes.push('irreversible');
  return scopes;
}

/** A run waits for its time, and what was agreed to meanwhile became too old: people are asked anew. */
export function hasLapsed(state: RunState, nowMs: number): boolean {
  return state.startedAtMs === undefined && approvalStanding(state, 'start', nowMs)?.granted === false;
}

/** When a run that nobody approves is given up. */
export function approvalDeadlineMs({ approval, status }: RunState): number | undefined {
  if (status !== 'awaiting_approval' || approval?.start === undefined) return undefined;
  return approval.requestedAtMs + approval.start.validForMs;
}

/** The event that a person's approval makes, or none when it would not count. */
export function eventOfApproval(
  plan: Plan,
  state: RunState,
  given: { readonly scope: ApprovalScope; readonly person: string; readonly hash: string },
  atMs: number,
): RunEvent | undefined {
  const { approval } = state;
  const requirement = approval?.[given.scope];
  if (approval === undefined || requirement === undefined) return undefined;
  if (!awaitedScopes(plan, state, atMs).includes(given.scope)) return undefined;
  const candidate = { person: given.person, hash: given.hash, atMs };
  if (objection({ ...approval, requirement }, givenFor(approval, given.scope), candidate) !== undefined)
    return undefined;
  return { type: 'approval-given', scope: given.scope, ...candidate };
}
