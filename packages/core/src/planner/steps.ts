import type { Deadline, Phase } from '../action.ts';
import type { PlanNode, PlanOptions, Step, StepKind } from '../plan.ts';

export type PlannerInput = {
  readonly nodes: readonly PlanNode[];
  readonly to: string;
  readonly options: PlanOptions;
  readonly packageBytes: number;
};

const MINUTE_MS = 60_000;
/** The slowest line that is waited for: 1 MiB a second. */
const FETCH_BYTES_PER_MS = (1024 * 1024) / 1000;

/**
 * Looking and fetching are bounded by what they take; everything that waits for a node by what the plan was told,
 * because a node with much data is slow to drain, to start and to heal, and shows progress all the while.
 */
function deadlineOf(kind: StepKind, { options, packageBytes }: PlannerInput): Deadline {
  const within = (idleMs: number, ceilingMs: number): Deadline => ({
    idleMs: Math.min(idleMs, options.deadline.idleMs),
    ceilingMs: Math.min(ceilingMs, options.deadline.ceilingMs),
  });
  if (kind === 'fetch') return within(5 * MINUTE_MS, 10 * MINUTE_MS + Math.ceil(packageBytes / FETCH_BYTES_PER_MS));
  if (kind === 'gate') return within(2 * MINUTE_MS, 10 * MINUTE_MS);
  return options.deadline;
}

type StepText = {
  readonly title: string;
  readonly changes?: readonly string[];
  readonly executor?: Step['executor'];
  readonly irreversible?: true;
};

/** One step about one node. */
export function step(
  kind: StepKind,
  node: PlanNode,
  phases: readonly Phase[],
  needs: readonly string[],
  input: PlannerInput,
  { title, changes = [], executor = 'self', irreversible }: StepText,
): Step {
  return {
    id: `${kind}:${node.node}`,
    kind,
    node: node.node,
    executor,
    needs: [...needs],
    phases: [...phases],
    deadline: deadlineOf(kind, input),
    title,
    changes: [...changes],
    ...(irreversible && { irreversible }),
  };
}

export const ids = (steps: readonly Step[]): string[] => steps.map(({ id }) => id);

/** The package is brought to every host, and checked there, before anything is stopped anywhere. */
export function fetchEverywhere(input: PlannerInput): Step[] {
  return input.nodes.map((node) =>
    step('fetch', node, ['fetch'], [], input, {
      title: `bring the package of ${input.to} to ${node.node} and verify it`,
      changes: ["a file in the agent's state directory"],
    }),
  );
}
