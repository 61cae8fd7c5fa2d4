import type { Step } from '../plan.ts';
import { commandEverywhere, copies, copyEverywhere, fetchEverywhere, ids, type PlannerInput, step } from './steps.ts';

/**
 * A single-replica cluster: all checked, all stopped, all installed, all started, each verified. No node begins
 * a stage before every node has finished the one before.
 * Source: manual, "Upgrading Single-Replica Clusters", steps 1 to 3.
 */
export function planSingleReplica(input: PlannerInput): Step[] {
  const { nodes, to } = input;
  const fetched = fetchEverywhere(input);
  const commands = commandEverywhere(input, ids(fetched));
  const gates = nodes.map((node) =>
    step('gate', node, ['check'], ids([...fetched, ...commands]), input, {
      title: `check ${node.node} once more, right before the stop`,
    }),
  );
  const stops = nodes.map((node) =>
    step('stop', node, ['stop'], ids(gates), input, {
      title: `stop ${node.node}`,
      changes: [`KWDB on ${node.node} is down until all are started; its data is out of reach meanwhile`],
    }),
  );
  const backups = copies(input) ? copyEverywhere(input, ids(stops)) : [];
  const installs = nodes.map((node) =>
    step('install', node, ['install'], ids([...stops, ...backups]), input, {
      title: `install ${to} on ${node.node}, now that every node is stopped`,
      changes: [`its packages become ${to}`],
    }),
  );
  const starts = nodes.map((node) =>
    step('start', node, ['start'], ids(installs), input, {
      title: `start ${node.node}, now that every node has ${to}`,
      irreversible: true,
    }),
  );
  const verifies = nodes.map((node) =>
    // A host that died since is started again: every node has the target by now.
    step('verify', node, ['start', 'verify'], ids(starts), input, { title: `see that ${node.node} serves ${to}` }),
  );
  return [...fetched, ...commands, ...gates, ...stops, ...backups, ...installs, ...starts, ...verifies];
}

/**
 * The way back while the new version was started nowhere: the old one is put back on every node, then all are started.
 * After the first start of the new version on the data there is none. Source: manual, "Direct downgrades ... are not supported".
 */
export function backOutSingleReplica(input: PlannerInput): Step[] {
  const putBacks = input.nodes.map((node) =>
    step('put-back', node, ['stop', 'put-back'], [], input, {
      title: `have ${node.from} installed on ${node.node} again`,
      changes: [`its packages become ${node.from} again`],
    }),
  );
  const returns = input.nodes.map((node) =>
    step('return', node, ['start', 'verify'], ids(putBacks), input, {
      title: `start ${node.node} at ${node.from} again`,
    }),
  );
  return [...putBacks, ...returns];
}
