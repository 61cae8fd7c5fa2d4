import type { Phase } from '../action.ts';
import type { PlanNode, Step } from '../plan.ts';
import { commandEverywhere, copies, fetchEverywhere, ids, type PlannerInput, step } from './steps.ts';

const OFFLINE: readonly Phase[] = ['interlock', 'drain', 'stop', 'install', 'start', 'verify'];
const OFFLINE_COPIED: readonly Phase[] = ['interlock', 'drain', 'stop', 'back-up', 'install', 'start', 'verify'];
const ONLINE: readonly Phase[] = ['interlock', 'install-online', 'verify', 'restore-settings'];

/**
 * A multi-replica cluster: one node at a time, the next only after the last is back, verified, and seen from another node.
 * Source: manual, "Upgrading Multi-Replica Clusters": preparing steps 2 to 4 are the gate, executing steps 2 to 6 the
 * upgrade, and "after each node rejoins the cluster and its version and status are verified" the witness.
 */
export function planMultiReplica(input: PlannerInput): Step[] {
  const fetched = fetchEverywhere(input);
  const backups = commandEverywhere(input, ids(fetched));
  const steps = [...fetched, ...backups];
  let needs = ids(backups.length > 0 ? backups : fetched);
  for (const node of input.nodes.filter(({ from }) => from !== input.to)) {
    const upgrade = upgradeOne(node, needs, input);
    steps.push(...upgrade);
    needs = ids(upgrade.slice(-1));
  }
  return steps;
}

/**
 * deploy.sh's online route changes a cluster setting and resets it to its default, not to what it was. Each node's
 * procedure puts the value from before the run back; this does it once more when a run is aborted in between.
 */
export function backOutOnline(input: PlannerInput): Step[] {
  const [first] = input.nodes;
  if (input.options.route !== 'online' || first === undefined) return [];
  return [
    step('settings', first, ['restore-settings'], [], input, {
      executor: 'any',
      title: 'put server.time_until_store_dead back to what it was before the run',
      changes: ['server.time_until_store_dead'],
    }),
  ];
}

function upgradeOne(node: PlanNode, needs: readonly string[], input: PlannerInput): Step[] {
  const online = input.options.route === 'online';
  const copied = copies(input);
  const gate = step('gate', node, ['check'], needs, input, {
    executor: 'peer',
    title: `ask the database, through another node, whether it can spare ${node.node}`,
  });
  const upgrade = step('upgrade', node, online ? ONLINE : copied ? OFFLINE_COPIED : OFFLINE, [gate.id], input, {
    irreversible: true,
    title: `take ${node.node} from ${node.from} to ${input.to}: ${online ? 'upgrade it running' : copied ? 'drain, stop, copy, install, start' : 'drain, stop, install, start'}, verify`,
    changes: [
      `KWDB on ${node.node} is ${online ? 'restarted' : 'down from the stop to the start'}; the other nodes serve`,
      ...(copied ? ['a copy of its data, certificates and configuration, made while it is stopped'] : []),
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
