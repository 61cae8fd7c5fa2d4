/**
 * Every check by its code: what it asks and when it speaks. The reference of checks is made from this, and pages group
 * by it; a check whose code is not here does not compile.
 */
import type { ErrorCode } from '../errors.ts';

/** In the order in which people are shown them. */
export const CHECK_GROUPS = {
  package: 'The package and the version',
  cluster: 'The cluster as it is now',
  backup: 'Backups',
  node: 'Each node and its installation',
  host: 'Each host',
  transfer: 'Transfers',
} as const;
export type CheckGroup = keyof typeof CHECK_GROUPS;

export type CheckEntry = {
  readonly group: CheckGroup;
  /** The question, which `yes` passes. */
  readonly asks: string;
  readonly blocks?: string;
  readonly warns?: string;
  /** Asked again right before it matters: at each gate of a run, or by the agent itself before it stops its node. */
  readonly again?: 'gate' | 'host';
};

export const CHECKS = {
  PACKAGE_UNKNOWN: {
    group: 'package',
    asks: 'Does the registry hold a package of this version?',
    blocks: 'It holds none.',
  },
  PACKAGE_UNSIGNED: {
    group: 'package',
    asks: 'Did people sign the package?',
    blocks: 'It is in the registry and nobody signed it, where signatures are asked for.',
  },
  METHOD_MISMATCH: {
    group: 'package',
    asks: 'Does the package fit deployment method, architecture and distribution of each node?',
    blocks: 'It is made for another deployment method.',
  },
  ARCHITECTURE_MISMATCH: {
    group: 'package',
    asks: "Is the package built for the host's architecture?",
    blocks: 'It is built for another one.',
  },
  DISTRIBUTION_MISMATCH: {
    group: 'package',
    asks: "Does the host's package tool take it?",
    blocks: 'It is .deb where the host takes .rpm, or the other way round.',
  },
  GLIBC_TOO_OLD: {
    group: 'package',
    asks: 'Is the glibc of the host as new as the package needs?',
    blocks:
      'It is older, or the host does not tell its own. What is needed is read from what the .deb or .rpm depends on; a package that names nothing blocks nobody.',
  },
  IMAGE_UNAVAILABLE: {
    group: 'package',
    asks: 'Is the image of a container on the host, or can it be pulled?',
    blocks:
      'It is not in the engine, and the registry does not give it: the host asked it, without pulling, and tells why. Asked for a plan, as a run is started, and of the engine alone right before the node goes down. A package that holds its image needs no registry.',
  },
  VERSION_UNKNOWN: {
    group: 'package',
    asks: 'Does the node tell its version?',
    blocks: 'It tells none, or something that is no version.',
  },
  VERSION_REFUSED: {
    group: 'package',
    asks: 'Does KWDB take this step between versions?',
    blocks: 'It does not.',
  },
  VERSION_OLDER: { group: 'package', asks: 'Does the step go forward?', blocks: 'It goes back to an older version.' },
  VERSION_EQUAL: {
    group: 'package',
    asks: 'Is there anything to upgrade?',
    blocks: 'Every node has the version already. One that has it, among others that have not, passes.',
  },
  VERSION_UNSUPPORTED: {
    group: 'package',
    asks: 'Does deploy.sh take the step without its bypass?',
    blocks: 'It does not, and the plan does not bypass it.',
    warns: 'The plan bypasses it.',
  },
  PREVIOUS_PACKAGE_MISSING: {
    group: 'package',
    asks: 'Could a failed installation be put back?',
    blocks: 'rpm hosts need the package of the version before in the registry, and it is not there.',
  },

  NODE_MISSING: {
    group: 'cluster',
    asks: 'Is every node that the database lists reported by an agent, and no other listed?',
    blocks: 'One is not.',
    again: 'gate',
  },
  NODE_DUPLICATE: { group: 'cluster', asks: 'Is each node reported by one agent?', blocks: 'Two speak for one node.' },
  TOPOLOGY_DISAGREES: {
    group: 'cluster',
    asks: 'Do both witnesses of each node, and all nodes, tell one topology?',
    blocks: 'They do not.',
  },
  TOPOLOGY_UNKNOWN: { group: 'cluster', asks: 'Does each node tell its topology?', blocks: 'One does not.' },
  METHODS_MIXED: {
    group: 'cluster',
    asks: 'Are all nodes deployed by one method?',
    blocks: 'They are not.',
  },
  CLUSTER_TOO_SMALL: {
    group: 'cluster',
    asks: 'Does a multi-replica cluster keep its quorum while one node is down?',
    blocks: 'It has fewer than three nodes.',
  },
  NODE_NOT_LIVE: { group: 'cluster', asks: 'Is every node live?', blocks: 'One is not.', again: 'gate' },
  NODE_NOT_AVAILABLE: {
    group: 'cluster',
    asks: 'Is every node available?',
    blocks: 'One is marked upgrading, leaves, or drains.',
    again: 'gate',
  },
  RANGES_UNAVAILABLE: {
    group: 'cluster',
    asks: 'Is all data in reach?',
    blocks: 'Ranges are unavailable.',
    again: 'gate',
  },
  RANGES_UNDERREPLICATED: {
    group: 'cluster',
    asks: 'Do all ranges have all their replicas?',
    blocks: 'Some have not.',
    again: 'gate',
  },
  JOBS_RUNNING: {
    group: 'cluster',
    asks: 'Are no schema changes, imports or other jobs under way?',
    blocks: 'Some are.',
    again: 'gate',
  },
  LEASES_UNEVEN: {
    group: 'cluster',
    asks: 'Are the leases spread over the nodes?',
    warns: 'One node holds more than four fifths of them.',
    again: 'gate',
  },
  CLIENTS_ON_ONE_NODE: {
    group: 'cluster',
    asks: 'Do clients talk to several nodes?',
    warns: 'All sessions are on one.',
    again: 'gate',
  },
  HEALTH_UNKNOWN: {
    group: 'cluster',
    asks: 'Did the database tell how the cluster is?',
    blocks: 'It did not answer, or not within the last two minutes.',
    again: 'gate',
  },
  CLOCK_SKEW: {
    group: 'cluster',
    asks: "Are the nodes' clocks within the 500 ms that KWDB tolerates, and near the controller's?",
    blocks: 'Two nodes are more than 10 s apart.',
    warns: "Two nodes are more than 500 ms apart, or one is more than 2 s off the controller's clock.",
  },

  BACKUP_REQUIRED: {
    group: 'backup',
    asks: 'Is there a word about a backup?',
    blocks: 'There is none.',
    warns: 'There is a reason for having none.',
  },
  BACKUP_EXPIRED: { group: 'backup', asks: 'Is the attested backup young enough?', blocks: 'It is too old.' },
  BACKUP_UNSUPPORTED: {
    group: 'backup',
    asks: 'Can the backup that was asked for be made on each node?',
    blocks:
      'Its agent lacks what it needs for that, a copy of its places would not hold the node, or the route never stops the database.',
  },
  BACKUP_INCONSISTENT: {
    group: 'backup',
    asks: 'Are the copies of all nodes of one moment?',
    warns: 'They are made node by node, while the others serve.',
  },
  BACKUP_INCOMPLETE: {
    group: 'backup',
    asks: 'Does the backup hold a whole copy of each node of this cluster?',
    blocks: 'It does not.',
  },
  BACKUP_MISSING: { group: 'backup', asks: 'Are the copies still there?', blocks: 'One is gone.' },
  BACKUP_DAMAGED: { group: 'backup', asks: 'Are the copies as they were made?', blocks: 'One is not.' },
  BACKUP_WRONG_VERSION: {
    group: 'backup',
    asks: 'Is the backup of the version that the nodes will have?',
    blocks: 'It is of another one.',
  },

  NODE_UNREACHABLE: {
    group: 'node',
    asks: 'Does the agent of each node report?',
    blocks: 'One was not heard for 15 s. Its last words are not planned on.',
  },
  NOT_INSTALLED: { group: 'node', asks: 'Is KWDB installed on each node?', blocks: 'On one it is not.' },
  CONTAINER_UNFIT: {
    group: 'node',
    asks: 'Can the container of each node be replaced without a loss?',
    blocks:
      'It cannot, and the host tells why; or it is not sure which of several is meant. Asked again by `fetch`, and right before the stop.',
    again: 'host',
  },
  INSTALLATION_HALF_DONE: {
    group: 'node',
    asks: 'Do all places that tell a version agree, and is nothing half done?',
    blocks: 'An earlier upgrade or installation was interrupted.',
    warns: 'The same, where a backup is put back over it.',
    again: 'host',
  },
  NODE_MARKED_UPGRADING: {
    group: 'node',
    asks: 'Is no node marked as being upgraded?',
    blocks: 'An earlier online upgrade left its mark.',
  },
  NODE_NOT_RUNNING: { group: 'node', asks: 'Does each node serve?', blocks: 'One does not.' },
  ROUTE_UNSUPPORTED: {
    group: 'node',
    asks: 'Can nodes that are deployed this way be upgraded by the chosen route?',
    blocks: 'They cannot: the online route is one of the deployment script.',
  },
  METHOD_UNSUPPORTED: {
    group: 'node',
    asks: 'Can this release upgrade nodes that are deployed this way?',
    blocks: 'It cannot.',
  },

  PRIVILEGES_MISSING: {
    group: 'host',
    asks: 'May the agent do what an upgrade needs?',
    blocks: 'It is neither root nor has it sudo without a password.',
  },
  AGENT_INCOMPATIBLE: {
    group: 'host',
    asks: 'Are agent and controller of one release line?',
    blocks: 'The first two numbers of their versions differ.',
  },
  PORT_TAKEN: {
    group: 'host',
    asks: "Are the database's ports free, or held by the database itself?",
    blocks: 'Another program listens on one while the database is down, so that it could not start.',
    again: 'host',
  },
  CERTIFICATE_EXPIRY: {
    group: 'host',
    asks: "Are the database's certificates valid for another 30 days?",
    blocks: 'One has expired: a node that is restarted with it does not come back.',
    warns: 'One expires within 30 days, or the agent can read none.',
    again: 'host',
  },
  RESTARTER_FOUND: {
    group: 'host',
    asks: "Does nothing else on the host mind the database's service?",
    warns:
      'A cron job or timer mentions it, or ansible-pull, Puppet, Chef or Salt runs there: it may start a database that was stopped for the upgrade.',
  },
  DISK_FULL: {
    group: 'host',
    asks: 'Is there room for the package, fetched and unpacked, for the copy of the version before, for the new files or image beside the old, and for the data to grow?',
    blocks: 'There is not. Directories on one disk share its room.',
    again: 'host',
  },

  TRANSFER_SAME_CLUSTER: { group: 'transfer', asks: 'Are source and target two clusters?', blocks: 'They are one.' },
  TRANSFER_NOTHING: { group: 'transfer', asks: 'Does the source hold tables?', blocks: 'It holds none.' },
  TRANSFER_UNKNOWN: { group: 'transfer', asks: 'Did both sides tell what they hold?', blocks: 'One did not.' },
  TRANSFER_TARGET_NOT_EMPTY: {
    group: 'transfer',
    asks: 'Is the target free of what would be made there?',
    blocks: 'It is not.',
  },
  TRANSFER_NOT_CARRIED: {
    group: 'transfer',
    asks: 'Is everything carried?',
    warns: 'Some things are not: the message names them.',
  },
  TRANSFER_PASSWORDS: {
    group: 'transfer',
    asks: 'Can users log in at the target as before?',
    warns: 'Passwords are not carried.',
  },
} as const satisfies Partial<Record<ErrorCode, CheckEntry>>;

export type CheckCode = keyof typeof CHECKS;

export const isCheckCode = (code: string): code is CheckCode => Object.hasOwn(CHECKS, code);

/** A plan that was stored by another release may have checks that this one does not know. */
export const groupOf = (code: string): CheckGroup | undefined => (isCheckCode(code) ? CHECKS[code].group : undefined);
