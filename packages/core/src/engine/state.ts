/** The state of a run, and the events that change it. The state is always the fold of its events. */
import Type, { type Static } from 'typebox';
import { ActionFailure, ActionResult, Disposition, LedgerEntry, Phase } from '../action.ts';
import { Approval, ApprovalScope, Requirement } from '../approval.ts';
import type { Step } from '../plan.ts';

export const RunStatus = Type.Union([
  Type.Literal('planned'),
  Type.Literal('awaiting_approval'),
  Type.Literal('scheduled'),
  Type.Literal('running'),
  Type.Literal('paused'),
  Type.Literal('held'),
  Type.Literal('succeeded'),
  Type.Literal('failed'),
  Type.Literal('aborted'),
]);
export type RunStatus = Static<typeof RunStatus>;

export const ENDED: ReadonlySet<RunStatus> = new Set(['succeeded', 'failed', 'aborted']);

/** What a person may do now. `wait`: it ends by itself when what it waits for comes true. */
export const Choice = Type.Union([
  Type.Literal('wait'),
  Type.Literal('resume'),
  Type.Literal('pause'),
  Type.Literal('retry'),
  Type.Literal('abort'),
  /** Agree to what the run waits for. */
  Type.Literal('approve'),
]);
export type Choice = Static<typeof Choice>;

export const Hold = Type.Object({
  code: Type.String(),
  message: Type.String(),
  remedy: Type.String(),
  node: Type.Optional(Type.String()),
  step: Type.Optional(Type.String()),
  /** The host's own words, where there are any. */
  words: Type.Optional(Type.String()),
  choices: Type.Array(Choice),
  /** True when the run goes on without a person once the cause is gone (an agent that reports again). */
  selfClearing: Type.Boolean(),
  sinceMs: Type.Integer(),
});
export type Hold = Static<typeof Hold>;

/** When a run may work. Windows by name: they are looked up at each decision, so that a freeze made later counts. */
export const RunTiming = Type.Object({
  /** Not before this moment. */
  notBeforeMs: Type.Optional(Type.Integer({ minimum: 0 })),
  /** Found due later than this after that moment (nothing ran meanwhile), the run is not started but ended. */
  skipAfterMs: Type.Optional(Type.Integer({ minimum: 0 })),
  /** Nothing but fetching the package begins outside all of these. None: at any time. */
  windows: Type.Array(Type.String(), { maxItems: 20 }),
  /** The package is fetched this long ahead of the window. */
  prefetchMs: Type.Integer({ minimum: 0, maximum: 30 * 86_400_000 }),
});
export type RunTiming = Static<typeof RunTiming>;

/** What a scheduled run waits for. */
export const RunWait = Type.Object({
  code: Type.Union([
    Type.Literal('NOT_YET'),
    Type.Literal('WINDOW_CLOSED'),
    Type.Literal('WINDOW_FROZEN'),
    Type.Literal('WINDOW_TOO_SHORT'),
    Type.Literal('WINDOW_NEVER'),
  ]),
  message: Type.String(),
  /** Absent when it never comes, as the windows are. */
  untilMs: Type.Optional(Type.Integer()),
});
export type RunWait = Static<typeof RunWait>;

/** What is kept of an action's result; the whole of it is in the history. */
export const StepOutcome = Type.Object({
  outcome: ActionResult.properties.outcome,
  failure: Type.Optional(ActionFailure),
  disposition: Disposition,
  newVersionStarted: Type.Boolean(),
  phases: ActionResult.properties.phases,
  transfer: ActionResult.properties.transfer,
  backup: ActionResult.properties.backup,
});
export type StepOutcome = Static<typeof StepOutcome>;

export const StepState = Type.Object({
  status: Type.Union([
    Type.Literal('pending'),
    Type.Literal('running'),
    Type.Literal('succeeded'),
    Type.Literal('failed'),
  ]),
  /** How often it was dispatched; the action of an attempt is `RUN/STEP/ATTEMPT`. */
  attempt: Type.Integer(),
  /** How many of those its host refused because they came too late: nothing was touched by them. */
  late: Type.Optional(Type.Integer()),
  /** The node that carries it out. */
  executor: Type.Optional(Type.String()),
  phase: Type.Optional(Phase),
  detail: Type.Optional(Type.String()),
  startedAtMs: Type.Optional(Type.Integer()),
  progressAtMs: Type.Optional(Type.Integer()),
  endedAtMs: Type.Optional(Type.Integer()),
  result: Type.Optional(StepOutcome),
  /** Gates: `started_at` of the node it is about, as the cluster listed it before anything was done to it. */
  baselineStartedAtMs: Type.Optional(Type.Integer()),
  /** Gates: the settings that an upgrade changes, as they were when it was asked first. */
  ledger: Type.Optional(Type.Array(LedgerEntry)),
  /** Gates: since when the cluster has not been fit, and why; gone once it is. */
  waiting: Type.Optional(Type.Object({ sinceMs: Type.Integer(), code: Type.String(), message: Type.String() })),
});
export type StepState = Static<typeof StepState>;

/** Whether a host may have begun it: an order is taken for begun until its host says that it came too late. */
export const wasBegun = (step: StepState | undefined): boolean => (step?.attempt ?? 0) > (step?.late ?? 0);

/**
 * Whether it may have left its node other than it found it: not by what was ordered, but by what its host says of the last
 * attempt. A stop that was backed out may have left its node stopped; only an upgrade starts it again.
 */
export function hasTouched({ steps }: Pick<RunState, 'steps'>, { id, kind }: Pick<Step, 'id' | 'kind'>): boolean {
  const step = steps[id];
  if (step?.status === 'running' || step?.status === 'succeeded') return true;
  // Without a result it was never ordered, or its host refused the order because it came too late.
  const left = step?.result?.disposition ?? 'untouched';
  return left !== 'untouched' && !(left === 'backed-out' && kind === 'upgrade');
}

/** Raised whenever the shape changes; read-state.ts brings older ones up. */
export const STATE_FORMAT = 3;

/** What people must agree to, and who has. Held in the run itself: its history tells who approved. */
export const RunApproval = Type.Object({
  /** Of the plan. */
  hash: Type.String(),
  requester: Type.String(),
  requestedAtMs: Type.Integer(),
  start: Type.Optional(Requirement),
  irreversible: Type.Optional(Requirement),
  given: Type.Array(Type.Object({ ...Approval.properties, scope: ApprovalScope })),
});
export type RunApproval = Static<typeof RunApproval>;

export const RunState = Type.Object({
  format: Type.Literal(STATE_FORMAT),
  run: Type.String(),
  status: RunStatus,
  steps: Type.Record(Type.String(), StepState),
  hold: Type.Optional(Hold),
  /** Absent where no policy asks for one. */
  approval: Type.Optional(RunApproval),
  /** A person asked to stop before the next step. */
  pauseRequested: Type.Boolean(),
  abortRequested: Type.Boolean(),
  /** A person gave up even the way back: the run ends as things are. */
  abandoned: Type.Boolean(),
  /** Absent: it may work at any time. */
  timing: Type.Optional(RunTiming),
  /** While it is scheduled. */
  wait: Type.Optional(RunWait),
  /** Its window closed over work that is not left half done: what goes on, and why. */
  overrun: Type.Optional(Type.String()),
  startedAtMs: Type.Optional(Type.Integer()),
  endedAtMs: Type.Optional(Type.Integer()),
  /** Why it ended, in words. */
  reason: Type.Optional(Type.String()),
});
export type RunState = Static<typeof RunState>;

export type RunEvent =
  | { readonly type: 'approval-lapsed'; readonly atMs: number }
  | {
      readonly type: 'approval-given';
      readonly scope: ApprovalScope;
      readonly person: string;
      readonly hash: string;
      readonly atMs: number;
    }
  | { readonly type: 'run-started'; readonly atMs: number }
  | { readonly type: 'run-scheduled'; readonly wait: RunWait; readonly atMs: number }
  | { readonly type: 'window-opened'; readonly atMs: number }
  | { readonly type: 'window-overrun'; readonly message: string; readonly atMs: number }
  | {
      readonly type: 'step-dispatched';
      readonly step: string;
      readonly attempt: number;
      readonly executor: string;
      readonly atMs: number;
    }
  | {
      readonly type: 'step-progressed';
      readonly step: string;
      readonly attempt: number;
      readonly phase: Phase;
      readonly detail: string;
      readonly atMs: number;
    }
  | {
      readonly type: 'step-ended';
      readonly step: string;
      readonly attempt: number;
      readonly result: ActionResult;
      readonly atMs: number;
    }
  | {
      readonly type: 'step-reset';
      readonly step: string;
      readonly why: string;
      readonly code?: string;
      /** Its host refused the attempt because it came too late. */
      readonly late?: true;
      readonly atMs: number;
    }
  | { readonly type: 'run-held'; readonly hold: Hold; readonly atMs: number }
  | { readonly type: 'hold-cleared'; readonly why: string; readonly atMs: number }
  | {
      readonly type: 'pause-requested' | 'run-paused' | 'run-resumed' | 'retry-requested' | 'abort-requested';
      readonly by: string;
      readonly atMs: number;
    }
  | {
      readonly type: 'run-ended';
      readonly status: 'succeeded' | 'failed' | 'aborted';
      readonly reason: string;
      readonly atMs: number;
    };
