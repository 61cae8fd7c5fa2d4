import type { Phase } from '../action.ts';
import type { PlanNode, Step } from '../plan.ts';
import { fetchEverywhere, ids, type PlannerInput, step } from './steps.ts';

const OFFLINE: readonly Phase[] = ['interlock', 'drain', 'stop', 'install', 'start', 'verify'];
const ONLINE: readonly Phase[] = ['interlock', 'install-online', 'verify'];

/**
 * A multi-replica cluster: one node at a time, the next only after the last is back, verified, and seen from another node.
 * Source: manual, "Upgrading Multi-Replica Clusters": preparing steps 2 to 4 are the gate, executing steps 2 to 6 the
 * upgrade, and "after each node rejoins the cluster and its version and status are verified" the witness.
 */
export function planMultiReplica(input: PlannerInput): Step[] {
  const fetched = fetchEverywhere(input);
  const behind = input.nodes.filter(({ from }) => from !== input.to);
  return behind.reduce<Step[]>((steps, node) => {
    const needs = steps.length === fetched.length ? ids(fetched) : ids(steps.slice(-1));
    return [...steps, ...upgradeOne(node, needs, input)];
  }, fetched);
}

function upgradeOne(node: PlanNode, needs: readonly string[], input: PlannerInput): Step[] {
  const online = input.options.route === 'online';
  const gate = step('gate', node, ['check'], needs, input, {
    executor: 'peer',
    title: `ask the database, through another node, whether it can spare ${node.node}`,
  });
  const upgrade = step('upgrade', node, online ? ONLINE : OFFLINE, [gate.id], input, {
    title: `take ${node.node} from ${node.from} to ${input.to}: ${online ? 'upgrade it running' : 'drain, stop, install, start'}, verify`,
    changes: [
      `KWDB on ${node.node} is ${online ? 'restarted' : 'down from the stop to the start'}; the other nodes serve`,
      `its packages become ${input.to}`,
      ...(online
        ? ['server.time_until_store_dead, until the node is back: deploy.sh sets it to 3 h, then to its default']
        : []),
    ],
  });
  const witness = step('witness', node, ['witness'], [upgrade.id], input, {
    executor: 'peer',
    title: `see from another node that ${node.node} is back at ${input.to}, ranges whole in two samples, and stays so`,
  });
  return [gate, upgrade, witness];
}
