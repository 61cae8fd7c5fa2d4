/** What the screen of a run is drawn from: the run as the controller tells it, grouped by node. Pure. */
import { ENDED, type PlanNode, type RunView, type Step, type StepState } from '@kwfleet/core';
import { clean } from './text.ts';

/** Everything one picture needs. The renderer reads no clock and no terminal. */
export type RunScreen = {
  readonly view: RunView;
  /** By the controller's clock. */
  readonly nowMs: number;
  /** The end of what the command of a step has printed so far. */
  readonly tail?: Tail | undefined;
  /** Set while the controller cannot be heard. */
  readonly trouble?: string | undefined;
  /** Why the run ended, in the words of its last event. */
  readonly ending?: string | undefined;
  /** Counts pictures; turns the spinner. */
  readonly frame: number;
};

export type Tail = { readonly step: string; readonly text: string };

export type NodeStanding = 'waiting' | 'active' | 'between' | 'held' | 'failed' | 'done' | 'returned';

export type StepOnScreen = { readonly step: Step; readonly state: StepState };

export type NodeOnScreen = {
  readonly node: PlanNode;
  readonly standing: NodeStanding;
  readonly steps: readonly StepOnScreen[];
  /** A few words on a node that is not being worked on. */
  readonly note: string;
  /** Since when something was done on the node; the package may have come long before. */
  readonly startedAtMs: number | undefined;
  readonly endedAtMs: number | undefined;
};

const PENDING: StepState = { status: 'pending', attempt: 0 };

/** The nodes in the plan's order, each with its steps and how it stands. */
export function nodesOf(view: RunView): NodeOnScreen[] {
  const { steps: forward, backOut, nodes } = view.plan;
  const stateOf = ({ id }: Step) => view.steps[id] ?? PENDING;
  const isBackingOut = backOut.some((step) => stateOf(step).status !== 'pending');
  return nodes.map((node) => {
    const ofNode = (steps: readonly Step[]): StepOnScreen[] =>
      steps.filter((step) => step.node === node.node).map((step) => ({ step, state: stateOf(step) }));
    const ahead = ofNode(forward);
    const back = isBackingOut ? ofNode(backOut) : [];
    // On the way back, what was still to come will not.
    const steps = isBackingOut ? [...ahead.filter(({ state }) => state.status !== 'pending'), ...back] : ahead;
    const standing = standingOf(view, node.node, ahead, back);
    return { node, standing, steps, note: noteOf(view, standing, steps), ...spanOf(standing, steps) };
  });
}

function standingOf(
  view: RunView,
  node: string,
  ahead: readonly StepOnScreen[],
  back: readonly StepOnScreen[],
): NodeStanding {
  const has = (status: StepState['status']) => [...ahead, ...back].some(({ state }) => state.status === status);
  const isReturning = back.some(({ step }) => step.kind === 'return');
  if (isReturning && back.every(({ state }) => state.status === 'succeeded')) return 'returned';
  // A node that has the version already has no steps, and is done.
  if (!isReturning && ahead.every(({ state }) => state.status === 'succeeded')) return 'done';
  if (view.hold !== undefined && view.hold.node === node) return 'held';
  if (has('running') || ahead.some(({ state }) => state.waiting !== undefined)) return 'active';
  if (has('failed')) return 'failed';
  return [...ahead, ...back].some(isBeyondFetch) ? 'between' : 'waiting';
}

/** Steps that are done and all that count: the way back counts only once it is taken. */
export function progressOf({ plan, steps }: RunView): { done: number; total: number } {
  const isTaken = plan.backOut.some(({ id }) => (steps[id]?.status ?? 'pending') !== 'pending');
  const counted = isTaken ? plan.backOut : plan.steps;
  return { done: counted.filter(({ id }) => steps[id]?.status === 'succeeded').length, total: counted.length };
}

/** Having the package changes nothing on a node: its upgrade begins with what comes after. */
const isBeyondFetch = ({ step, state }: StepOnScreen): boolean => step.kind !== 'fetch' && state.status === 'succeeded';

function noteOf(view: RunView, standing: NodeStanding, steps: readonly StepOnScreen[]): string {
  if (standing === 'done' && steps.length === 0) return 'had it already';
  if (standing === 'returned') return 'the version before is back';
  if (standing !== 'between' && standing !== 'waiting') return '';
  const isEnded = ENDED.has(view.status);
  const last = steps.findLast(({ state }) => state.status === 'succeeded');
  if (standing === 'waiting') return isEnded ? 'not touched' : last === undefined ? '' : 'package ready';
  const next = isEnded ? undefined : steps.find(({ state }) => state.status === 'pending');
  return `${last?.step.kind ?? 'nothing'} done${next === undefined ? '' : `, ${next.step.kind} comes next`}`;
}

function spanOf(
  standing: NodeStanding,
  steps: readonly StepOnScreen[],
): Pick<NodeOnScreen, 'startedAtMs' | 'endedAtMs'> {
  const counted = steps.filter(({ step }) => step.kind !== 'fetch');
  const starts = counted.flatMap(({ state }) => state.startedAtMs ?? []);
  const ends = counted.flatMap(({ state }) => state.endedAtMs ?? []);
  return {
    startedAtMs: starts.length === 0 ? undefined : Math.min(...starts),
    endedAtMs: (standing === 'done' || standing === 'returned') && ends.length > 0 ? Math.max(...ends) : undefined,
  };
}

const TAIL_CHARACTERS = 4_000;

/** The tail after one more piece of output. Pieces end anywhere, so text is kept, and lines are made of it when drawn. */
export function appendOutput(tail: Tail | undefined, step: string, piece: string): Tail {
  const before = tail?.step === step ? tail.text : '';
  return { step, text: `${before}${piece}`.slice(-TAIL_CHARACTERS) };
}

/** The last lines of a tail that say something. */
export function tailOf({ text }: Tail, most: number): string[] {
  const lines = clean(text)
    .split('\n')
    .map((line) => line.trimEnd());
  return lines.filter((line) => line !== '').slice(-most);
}
