import type { Deadline, PackageInfo, Phase } from '../action.ts';
import { DEFAULT_OPTIONS, type PlanNode, type PlanOptions, type Step, type StepKind } from '../plan.ts';

export type PlannerInput = {
  readonly nodes: readonly PlanNode[];
  readonly to: string;
  readonly options: PlanOptions;
  /** What is brought to the hosts; undefined where nothing is. */
  readonly package: PackageInfo | undefined;
};

const MINUTE_MS = 60_000;
/** The slowest line that is waited for: 1 MiB a second. */
const FETCH_BYTES_PER_MS = (1024 * 1024) / 1000;

/**
 * Looking and fetching are bounded by what they take; everything that waits for a node by what the plan was told,
 * because a node with much data is slow to drain, to start and to heal, and shows progress all the while. A witness sits
 * out the soak besides.
 */
function deadlineOf(kind: StepKind, { options, package: pkg }: PlannerInput): Deadline {
  const { deadline, soakMs, sampleGapMs } = options;
  const within = (idleMs: number, ceilingMs: number): Deadline => ({
    idleMs: Math.min(idleMs, deadline.idleMs),
    ceilingMs: Math.min(ceilingMs, deadline.ceilingMs),
  });
  switch (kind) {
    case 'fetch':
      return fetchDeadline(options, pkg, within);
    case 'gate':
      return within(2 * MINUTE_MS, 10 * MINUTE_MS);
    case 'witness':
      return { ...deadline, ceilingMs: deadline.ceilingMs + soakMs + sampleGapMs };
    default:
      return deadline;
  }
}

/**
 * A file is bounded by its size, unless a person said how long a step may take. What the host builds in that step, or its
 * engine pulls, has no size that is known here.
 */
function fetchDeadline(
  { deadline }: PlanOptions,
  pkg: PackageInfo | undefined,
  within: (idleMs: number, ceilingMs: number) => Deadline,
): Deadline {
  if (pkg?.kind === 'build' || pkg?.kind === 'image') return deadline;
  const bySize = within(5 * MINUTE_MS, 10 * MINUTE_MS + Math.ceil((pkg?.sizeBytes ?? 0) / FETCH_BYTES_PER_MS));
  const isChosen = deadline.ceilingMs !== DEFAULT_OPTIONS.deadline.ceilingMs;
  return isChosen ? { ...bySize, ceilingMs: deadline.ceilingMs } : bySize;
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
  const prepares = isMade(input);
  return input.nodes.map((node) =>
    step('fetch', node, prepares ? ['fetch', 'prepare-backup'] : ['fetch'], [], input, {
      title: `bring the package of ${input.to} to ${node.node} and verify it${prepares ? '; see that a backup can be made' : ''}`,
      changes: ["a file in the agent's state directory"],
    }),
  );
}

/** Whether the run itself makes the backup, by a copy or by the operator's command. */
const isMade = ({ options: { backup } }: PlannerInput): boolean =>
  backup?.policy === 'copy' || backup?.policy === 'command';

export const copies = ({ options: { backup } }: PlannerInput): boolean => backup?.policy === 'copy';

/** The operator's own command on every host, while the database serves; nothing where the policy is another. */
export function commandEverywhere(input: PlannerInput, needs: readonly string[]): Step[] {
  if (input.options.backup?.policy !== 'command') return [];
  return input.nodes.map((node) =>
    step('back-up', node, ['back-up'], needs, input, {
      title: `run the backup command of ${node.node}'s host and check what it made`,
      changes: ['what the command does: it is the one in agent.yaml on that host'],
    }),
  );
}

/** A cold copy of every node, once all are stopped. */
export function copyEverywhere(input: PlannerInput, needs: readonly string[]): Step[] {
  return input.nodes.map((node) =>
    step('back-up', node, ['back-up'], needs, input, {
      title: `copy data, certificates and configuration of ${node.node}, now that every node is stopped, and read the copy again`,
      changes: ["a new copy in the host's backup directory; the oldest beyond those kept is removed"],
    }),
  );
}
