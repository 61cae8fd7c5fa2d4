import { type ActionResult, isLate, type LedgerEntry } from '../action.ts';
import { type Plan, stepOf } from '../plan.ts';
import { stepPart, unitOf } from '../transfer/plan-transfer.ts';
import { stopsBeforeCopies } from './copies.ts';
import {
  type RunApproval,
  type RunEvent,
  type RunState,
  type RunTiming,
  STATE_FORMAT,
  type StepOutcome,
  type StepState,
} from './state.ts';

/** A run that has not begun; with an approval that its start needs, it awaits that. `timing`: when it may work. */
export function initialState(run: string, plan: Plan, approval?: RunApproval, timing?: RunTiming): RunState {
  return {
    format: STATE_FORMAT,
    run,
    status: approval?.start === undefined ? 'planned' : 'awaiting_approval',
    ...(approval && { approval }),
    steps: Object.fromEntries(
      [...plan.steps, ...plan.backOut].map((step) => [step.id, { status: 'pending', attempt: 0 } satisfies StepState]),
    ),
    pauseRequested: false,
    abortRequested: false,
    abandoned: false,
    ...(timing === undefined ? {} : { timing }),
  };
}

function withStep(state: RunState, id: string, change: (step: StepState) => StepState): RunState {
  const step = state.steps[id];
  if (step === undefined) throw new Error(`run ${state.run} has no step ${id}`);
  return { ...state, steps: { ...state.steps, [id]: change(step) } };
}

/** Whether an event of this attempt still matters: late and doubled ones of an older attempt, or of an ended one, do not. */
const isCurrent = (step: StepState | undefined, attempt: number): boolean =>
  step !== undefined && step.attempt === attempt && step.status === 'running';

/** An attempt that touched nothing leaves the node as the one before left it. */
function outcomeOf(result: ActionResult, before: StepOutcome | undefined): StepOutcome {
  const { outcome, failure, phases, transfer, backup } = result;
  const asBefore = result.disposition === 'untouched' && before !== undefined;
  const { disposition, newVersionStarted } = asBefore ? before : result;
  return {
    outcome,
    disposition,
    newVersionStarted,
    phases,
    ...(failure === undefined ? {} : { failure }),
    ...(transfer === undefined ? {} : { transfer }),
    ...(backup === undefined ? {} : { backup }),
  };
}

/**
 * The state after an event. Pure, total, and deaf to what is late: redelivered or reordered events of earlier attempts
 * change nothing (I11).
 */
export function apply(plan: Plan, state: RunState, event: RunEvent): RunState {
  switch (event.type) {
    case 'approval-given': {
      const { type: _, ...given } = event;
      if (state.approval === undefined) return state;
      return { ...state, approval: { ...state.approval, given: [...state.approval.given, given] } };
    }
    case 'approval-lapsed': {
      const { wait: _, approval, ...rest } = state;
      if (approval === undefined) return state;
      return { ...rest, status: 'awaiting_approval', approval: { ...approval, requestedAtMs: event.atMs } };
    }
    case 'run-started':
      return { ...running(state), startedAtMs: event.atMs };
    case 'run-scheduled':
      return { ...state, status: 'scheduled', wait: event.wait };
    case 'window-opened': {
      const { overrun: _, ...rest } = running(state);
      return { ...rest, steps: askedAfresh(state) };
    }
    case 'window-overrun':
      return { ...state, overrun: event.message };
    case 'step-dispatched':
      return withStep(state, event.step, (step) => {
        const { waiting } = step;
        return {
          status: 'running',
          attempt: event.attempt,
          executor: event.executor,
          startedAtMs: event.atMs,
          progressAtMs: event.atMs,
          ...(waiting === undefined ? {} : { waiting }),
          // Until it is mended, a node that this run broke stays broken, whatever the next attempt comes to, and one that
          // it stopped is not untouched. And a table that a transfer made stays its own.
          ...(step.result !== undefined && keepsResult(plan, event.step, step.result) ? { result: step.result } : {}),
          ...lateness(step, false),
          ...firstSeen(step),
        };
      });
    case 'step-progressed':
      if (!isCurrent(state.steps[event.step], event.attempt)) return state;
      return withStep(state, event.step, (step) => ({
        ...step,
        phase: event.phase,
        detail: event.detail,
        progressAtMs: event.atMs,
      }));
    case 'step-ended':
      return applyEnd(plan, state, event);
    case 'step-reset':
      return withStep(state, event.step, (step) => ({
        status: 'pending',
        attempt: step.attempt,
        endedAtMs: event.atMs,
        ...lateness(step, event.late === true),
        ...firstSeen(step),
        ...(event.code === undefined
          ? {}
          : { waiting: { sinceMs: step.waiting?.sinceMs ?? event.atMs, code: event.code, message: event.why } }),
      }));
    case 'run-held':
      return { ...state, status: 'held', hold: event.hold };
    case 'hold-cleared':
      return { ...running(state), steps: askedAfresh(state) };
    case 'pause-requested':
      return { ...state, pauseRequested: true };
    case 'run-paused':
      return { ...state, status: 'paused' };
    case 'run-resumed':
      return { ...running(state), pauseRequested: false, steps: askedAfresh(state) };
    case 'retry-requested':
      return { ...running(state), pauseRequested: false, steps: retried(plan, state) };
    case 'abort-requested':
      return { ...running(state), abortRequested: true, abandoned: state.abortRequested };
    case 'run-ended': {
      const { hold: _, wait: __, ...rest } = state;
      return { ...rest, status: event.status, endedAtMs: event.atMs, reason: event.reason };
    }
    default:
      return event satisfies never;
  }
}

const keepsResult = (plan: Plan, id: string, { disposition }: StepOutcome): boolean =>
  disposition === 'broken' || plan.transfer !== undefined || stepOf(plan, id).kind === 'stop';

/** How many attempts came too late, with this one if it did. */
function lateness({ late = 0 }: Pick<StepState, 'late'>, thisToo: boolean): Pick<StepState, 'late'> {
  const counted = thisToo ? late + 1 : late;
  return counted === 0 ? {} : { late: counted };
}

/** What a gate saw first counts: a retry after the node was already touched must not move the marks. */
function firstSeen({ baselineStartedAtMs, ledger }: Pick<StepState, 'baselineStartedAtMs' | 'ledger'>) {
  return {
    ...(baselineStartedAtMs === undefined ? {} : { baselineStartedAtMs }),
    ...(ledger === undefined ? {} : { ledger }),
  };
}

function ledgerOf({ health }: ActionResult): LedgerEntry[] | undefined {
  return health?.settings?.flatMap(({ name, value }): LedgerEntry[] =>
    name === 'server.time_until_store_dead' ? [{ name, value }] : [],
  );
}

function running(state: RunState): RunState {
  const { hold: _, wait: __, ...rest } = state;
  return { ...rest, status: 'running' };
}

/** What a gate waited for before the run stood still is no reason to hold it: it is asked afresh. */
function askedAfresh(state: RunState): RunState['steps'] {
  return Object.fromEntries(
    Object.entries(state.steps).map(([id, step]) => {
      const { waiting, ...rest } = step;
      return [id, waiting === undefined ? step : rest];
    }),
  );
}

/**
 * Failed steps become pending again; what a gate waited for is asked afresh. A table whose import or comparison failed
 * is exported anew: what was mended was mended in the source, and what differs must not be compared with itself. Where
 * copies of a stopped cluster are still to be made, all nodes are stopped again first.
 */
function retried(plan: Plan, state: RunState): RunState['steps'] {
  const failed = Object.keys(state.steps).filter((id) => state.steps[id]?.status === 'failed');
  const again = new Set([...failed.flatMap((id) => [id, ...unitSteps(plan, id)]), ...stopsBeforeCopies(plan, state)]);
  return Object.fromEntries(
    Object.entries(askedAfresh(state)).map(([id, step]): [string, StepState] => [
      id,
      again.has(id) && step.status !== 'running' ? { ...step, status: 'pending' } : step,
    ]),
  );
}

/** The steps of a transfer that are about the same table. */
function unitSteps({ transfer, steps }: Plan, id: string): string[] {
  if (transfer === undefined || unitOf(transfer, id) === undefined) return [];
  return steps.filter((step) => stepPart(step.id) === stepPart(id)).map((step) => step.id);
}

/** Once a table was imported, nobody asks for its files again: a large one has thousands. */
function withoutFiles(plan: Plan, state: RunState, imported: string): RunState {
  const exported = unitSteps(plan, imported).find((id) => stepOf(plan, id).kind === 'export');
  if (exported === undefined) return state;
  return withStep(state, exported, (step) => {
    const { result } = step;
    if (result?.transfer === undefined) return step;
    return { ...step, result: { ...result, transfer: { ...result.transfer, files: [] } } };
  });
}

function applyEnd(plan: Plan, state: RunState, event: RunEvent & { type: 'step-ended' }): RunState {
  if (!isCurrent(state.steps[event.step], event.attempt)) return state;
  const { result } = event;
  const { node, kind } = stepOf(plan, event.step);
  const kwdbId = plan.nodes.find((candidate) => candidate.node === node)?.kwdbId;
  const row = result.health?.view.nodes.find((candidate) => candidate.kwdbId === kwdbId);
  const ended = withStep(state, event.step, (step) => {
    const { waiting: _, detail: __, ...rest } = step;
    return {
      ...rest,
      status: result.outcome,
      endedAtMs: event.atMs,
      result: outcomeOf(result, step.result),
      ...lateness(step, isLate(result)),
      ...firstSeen({
        baselineStartedAtMs: step.baselineStartedAtMs ?? row?.startedAtMs,
        ledger: step.ledger ?? ledgerOf(result),
      }),
    };
  });
  return kind === 'import' && result.outcome === 'succeeded' ? withoutFiles(plan, ended, event.step) : ended;
}
