import type { Step } from '../plan.ts';
import { fetchEverywhere, ids, type PlannerInput, step } from './steps.ts';

/**
 * A standalone instance: checked, stopped, upgraded, started, verified.
 * Source: manual, "Upgrading Standalone Instances", steps 1 to 6.
 */
export function planStandalone(input: PlannerInput): Step[] {
  const fetched = fetchEverywhere(input);
  const [node] = input.nodes;
  if (node === undefined) return [];
  const gate = step('gate', node, ['check'], ids(fetched), input, {
    title: `check ${node.node} once more, right before the stop`,
  });
  const upgrade = step('upgrade', node, ['stop', 'install', 'start', 'verify'], [gate.id], input, {
    irreversible: true,
    title: `take ${node.node} from ${node.from} to ${input.to}: stop, install, start, verify`,
    changes: [`KWDB on ${node.node} is down from the stop to the start`, `its packages become ${input.to}`],
  });
  return [...fetched, gate, upgrade];
}
