/** What the screen of a run is drawn from: the run as the controller tells it, grouped by node. Pure. */
import type { PlanNode, RunView, Step, StepState } from '@kwfleet/core';
import { clean } from './text.ts';

/** Everything one picture needs. The renderer reads no clock and no terminal. */
export type RunScreen = {
  readonly view: RunView;
  /** By the controller's clock. */
  readonly nowMs: number;
  /** Last lines of the command that runs in a step. */
  readonly tail?: { readonly step: string; readonly lines: readonly string[] } | undefined;
  /** Set while the controller cannot be heard. */
  readonly trouble?: string | undefined;
  /** Why the run ended, in the words of its last event. */
  readonly ending?: string | undefined;
  /** Counts pictures; turns the spinner. */
  readonly frame: number;
};

export type NodeStanding = 'waiting' | 'active' | 'between' | 'held' | 'failed' | 'done';

export type StepOnScreen = { readonly step: Step; readonly state: StepState };

export type NodeOnScreen = {
  readonly node: PlanNode;
  readonly standing: NodeStanding;
  readonly steps: readonly StepOnScreen[];
  readonly startedAtMs: number | undefined;
  readonly endedAtMs: number | undefined;
};

const PENDING: StepState = { status: 'pending', attempt: 0 };

/** The nodes in the plan's order, each with its steps and how it stands. */
export function nodesOf(view: RunView): NodeOnScreen[] {
  return view.plan.nodes.map((node) => {
    const steps = view.plan.steps
      .filter((step) => step.node === node.node)
      .map((step) => ({ step, state: view.steps[step.id] ?? PENDING }));
    const standing = standingOf(view, node.node, steps);
    const starts = steps.flatMap(({ state }) => state.startedAtMs ?? []);
    const ends = steps.flatMap(({ state }) => state.endedAtMs ?? []);
    return {
      node,
      standing,
      steps,
      startedAtMs: starts.length === 0 ? undefined : Math.min(...starts),
      endedAtMs: standing === 'done' && ends.length > 0 ? Math.max(...ends) : undefined,
    };
  });
}

function standingOf(view: RunView, node: string, steps: readonly StepOnScreen[]): NodeStanding {
  const has = (status: StepState['status']) => steps.some(({ state }) => state.status === status);
  if (steps.length > 0 && steps.every(({ state }) => state.status === 'succeeded')) return 'done';
  if (view.hold !== undefined && view.hold.node === node) return 'held';
  if (has('failed')) return 'failed';
  if (has('running')) return 'active';
  return has('succeeded') ? 'between' : 'waiting';
}

const TAIL_LINES = 5;

/** The tail of a command's output after one more piece of it. */
export function appendOutput(tail: RunScreen['tail'], step: string, piece: string): NonNullable<RunScreen['tail']> {
  const before = tail?.step === step ? tail.lines : [];
  const lines = clean(piece)
    .split('\n')
    .map((line) => line.trimEnd())
    .filter((line) => line !== '');
  return { step, lines: [...before, ...lines].slice(-TAIL_LINES) };
}
