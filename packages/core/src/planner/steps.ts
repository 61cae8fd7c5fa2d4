import type { Phase } from '../action.ts';
import type { PlanNode, PlanOptions, Step, StepKind } from '../plan.ts';

export type PlannerInput = {
  readonly nodes: readonly PlanNode[];
  readonly to: string;
  readonly options: PlanOptions;
};

type StepText = { readonly title: string; readonly changes?: readonly string[]; readonly executor?: Step['executor'] };

/** One step about one node. */
export function step(
  kind: StepKind,
  node: PlanNode,
  phases: readonly Phase[],
  needs: readonly string[],
  { options }: PlannerInput,
  { title, changes = [], executor = 'self' }: StepText,
): Step {
  return {
    id: `${kind}:${node.node}`,
    kind,
    node: node.node,
    executor,
    needs: [...needs],
    phases: [...phases],
    deadline: options.deadline,
    title,
    changes: [...changes],
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
