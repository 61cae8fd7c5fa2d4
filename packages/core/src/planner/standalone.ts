import type { Phase } from '../action.ts';
import type { Step } from '../plan.ts';
import { commandEverywhere, copies, fetchEverywhere, ids, type PlannerInput, step } from './steps.ts';

/**
 * A standalone instance: checked, stopped, upgraded, started, verified.
 * Source: manual, "Upgrading Standalone Instances", steps 1 to 6.
 */
export function planStandalone(input: PlannerInput): Step[] {
  const fetched = fetchEverywhere(input);
  const [node] = input.nodes;
  if (node === undefined) return [];
  const backups = commandEverywhere(input, ids(fetched));
  const copied = copies(input);
  const phases: readonly Phase[] = copied
    ? ['stop', 'back-up', 'install', 'start', 'verify']
    : ['stop', 'install', 'start', 'verify'];
  const gate = step('gate', node, ['check'], ids([...fetched, ...backups]), input, {
    title: `check ${node.node} once more, right before the stop`,
  });
  const upgrade = step('upgrade', node, phases, [gate.id], input, {
    irreversible: true,
    title: `take ${node.node} from ${node.from} to ${input.to}: stop, ${copied ? 'copy, ' : ''}install, start, verify`,
    changes: [
      `KWDB on ${node.node} is down from the stop to the start`,
      ...(copied ? ['a copy of its data, certificates and configuration, made while it is stopped'] : []),
      `its packages become ${input.to}`,
    ],
  });
  return [...fetched, ...backups, gate, upgrade];
}
