/**
 * What is done to a whole cluster with all its nodes stopped, whatever its topology: a cold backup, and putting one back.
 * No node begins a stage before every node has finished the one before.
 */
import type { PackageInfo } from '../action.ts';
import type { BackupSet } from '../backup.ts';
import { checkPlaces, checkSource } from '../backup-checks.ts';
import { block, pass, result } from '../check-result.ts';
import { checkHost } from '../checks/host.ts';
import {
  checkCondition,
  checkFit,
  checkHealth,
  checkMembership,
  checkReach,
  checkTopology,
  checkWayBack,
} from '../checks.ts';
import {
  type CheckResult,
  DEFAULT_OPTIONS,
  type Plan,
  type PlanNode,
  type PlanOptions,
  type RestoreSource,
  type Step,
} from '../plan.ts';
import type { Cluster } from '../topology.ts';
import { isOlder, normalVersion, sameVersion } from '../version.ts';
import { choosePackage, choosePrevious, type PlanDraft, type PlanWish, planNodes, previousIn } from './make-plan.ts';
import { copyEverywhere, ids, type PlannerInput, step } from './steps.ts';

export type WholeWish = PlanWish &
  (
    | { readonly kind: 'backup' }
    | {
        readonly kind: 'restore' | 'downgrade';
        readonly source: { readonly set: BackupSet; readonly replaced: RestoreSource['replaced'] };
      }
  );

/** Makes a plan of a cold backup, a restore or a downgrade, and its checks; touches nothing. */
export function makeWholePlan(wish: WholeWish): PlanDraft {
  const { cluster, packages, nowMs } = wish;
  const to = normalVersion(wish.to);
  const nodes = planNodes(cluster);
  const options = optionsOf(wish);
  const pkg = wish.kind === 'downgrade' ? choosePackage(packages, to, cluster) : undefined;
  const previousPackages = choosePrevious(packages, pkg, nodes ?? []);
  const checks = [
    ...checkMembership(cluster),
    ...cluster.nodes.flatMap((facts) => {
      const reach = checkReach(facts, nowMs);
      return reach.verdict === 'pass' ? [reach, ...checkHost(facts, pkg)] : [reach];
    }),
    ...checkPlaces(cluster),
    ...(wish.kind === 'backup' ? checkBefore(wish, options) : checkRestore(wish, to)),
    ...checkVersions(wish.kind, nodes, to),
    ...(wish.kind === 'downgrade' ? checkPackage(pkg, { to, cluster, previousPackages }) : []),
  ];
  const blocked = checks.some(({ verdict }) => verdict === 'block' || verdict === 'unknown');
  const lacksPackage = wish.kind === 'downgrade' && pkg === undefined;
  if (cluster.topology === undefined || nodes === undefined || lacksPackage) return { checks, blocked: true };
  const input: PlannerInput = { nodes, to, options, package: pkg };
  const plan: Plan = {
    format: 1,
    kind: wish.kind,
    cluster: cluster.id,
    topology: cluster.topology,
    to,
    ...(pkg === undefined ? {} : { package: pkg }),
    ...previousIn(previousPackages),
    options,
    ...(wish.kind === 'backup' ? {} : { restore: sourceOf(wish.source) }),
    nodes,
    ...(wish.kind === 'backup' ? planBackup(input) : planRestore(input, wish.kind, wish.source.replaced)),
  };
  return { plan, checks, blocked };
}

/** deploy.sh takes an older version only with its bypass; on data of that version it is no step back. */
function optionsOf({ kind, options }: WholeWish): PlanOptions {
  const { backup: _, ...chosen } = { ...DEFAULT_OPTIONS, ...options, route: 'offline' as const };
  if (kind === 'backup') return { ...chosen, backup: { policy: 'copy' } };
  return kind === 'downgrade' ? { ...chosen, bypassVersionCheck: true } : chosen;
}

const sourceOf = ({ set, replaced }: { set: BackupSet; replaced: RestoreSource['replaced'] }): RestoreSource => ({
  backup: set.id,
  version: set.version,
  replaced,
  parts: set.parts,
});

function checkBefore({ cluster, nowMs, to }: WholeWish, options: PlanOptions): CheckResult[] {
  const input = { cluster, to, package: undefined, previousPackages: [], options, nowMs };
  return [...checkTopology(cluster), ...cluster.nodes.flatMap(checkCondition), ...checkHealth(input)];
}

/** A cluster that is broken is what a restore is for: its health is not asked. */
function checkRestore(wish: WholeWish & { kind: 'restore' | 'downgrade' }, to: string): CheckResult[] {
  const odd = wish.cluster.nodes.flatMap(({ node, report: { installation } }) => {
    if (installation === undefined) return [block('NOT_INSTALLED', 'KWDB is not installed here', node)];
    if (installation.condition === 'clean') return [];
    return [
      result('warn', 'INSTALLATION_HALF_DONE', `${installation.condition}: ${installation.conditionDetail}`, node),
    ];
  });
  return [...odd, ...checkSource(wish.source.set, wish.cluster, to)];
}

function checkVersions(kind: WholeWish['kind'], nodes: readonly PlanNode[] | undefined, to: string): CheckResult[] {
  if (nodes === undefined) return [result('unknown', 'VERSION_UNKNOWN', 'not every node tells its version')];
  const others = nodes.filter(({ from }) => !sameVersion(from, to));
  if (kind !== 'downgrade') {
    const more = kind === 'restore' ? '; a downgrade installs that version first' : '';
    return others.length === 0
      ? [pass('BACKUP_WRONG_VERSION', `every node has ${to}`)]
      : others.map(({ node, from }) => block('BACKUP_WRONG_VERSION', `it has ${from}, not ${to}${more}`, node));
  }
  if (others.length === 0) return [block('VERSION_EQUAL', `every node has ${to} already: a restore is what is wanted`)];
  return others
    .filter(({ from }) => isOlder(from, to))
    .map(({ node, from }) => block('BACKUP_WRONG_VERSION', `it has ${from}, which is older than ${to}`, node));
}

/** The newer version is what an abort puts back, before the older was started. */
function checkPackage(
  pkg: Plan['package'],
  { cluster, ...wish }: { to: string; cluster: Cluster; previousPackages: readonly PackageInfo[] },
): CheckResult[] {
  if (pkg === undefined) return [block('PACKAGE_UNKNOWN', `the registry holds no package of ${wish.to}`)];
  return cluster.nodes.flatMap((facts) => [...checkFit(facts, pkg), ...checkWayBack(facts, { ...wish, package: pkg })]);
}

type Course = { readonly steps: Step[]; readonly backOut: Step[] };

/** All checked, all stopped, all copied, all started, each verified. */
function planBackup(input: PlannerInput): Course {
  const { nodes } = input;
  const prepares = nodes.map((node) =>
    step('prepare', node, ['prepare-backup'], [], input, { title: `see that ${node.node} has space for a copy` }),
  );
  const gates = nodes.map((node) =>
    step('gate', node, ['check'], ids(prepares), input, {
      title: `check ${node.node} once more, right before the stop`,
    }),
  );
  const stops = stopEverywhere(input, ids(gates));
  const backups = copyEverywhere(input, ids(stops));
  const back = startEverywhere(input, ids(backups));
  return { steps: [...prepares, ...gates, ...stops, ...backups, ...back], backOut: returnEverywhere(input, []) };
}

/**
 * All backups read again, all stopped, for a downgrade all installed, all put back, all started, each verified.
 * Source: manual, "Direct downgrades ... are not supported": uninstall, install the original version, restore.
 */
function planRestore(input: PlannerInput, kind: 'restore' | 'downgrade', replaced: RestoreSource['replaced']): Course {
  const { nodes, to } = input;
  const down = kind === 'downgrade';
  const fetched = down
    ? nodes.map((node) =>
        step('fetch', node, ['fetch'], [], input, {
          title: `bring the package of ${to} to ${node.node} and verify it`,
          changes: ["a file in the agent's state directory"],
        }),
      )
    : [];
  const checked = nodes.map((node) =>
    step('check-backup', node, ['check-backup'], ids(fetched), input, {
      title: `read every file of the backup of ${node.node} again, before anything is stopped`,
    }),
  );
  const stops = stopEverywhere(input, ids(checked));
  const installs = down
    ? nodes.map((node) =>
        step('install', node, ['install'], ids(stops), input, {
          title: `replace ${node.from} by ${to} on ${node.node}, now that every node is stopped`,
          changes: [`the packages of ${node.from} are removed, those of ${to} installed`],
        }),
      )
    : [];
  const restores = nodes.map((node) =>
    step('restore', node, ['restore'], ids(down ? installs : stops), input, {
      title: `put the backup of ${node.node} in place`,
      changes: [
        'data, certificates and configuration become those of the backup: what was written since is not among them',
        "what is there now is moved aside, under a name with the run's id",
      ],
    }),
  );
  const back = startEverywhere(input, ids(restores), true);
  const discards =
    replaced === 'keep'
      ? []
      : nodes.map((node) =>
          step('discard', node, ['discard-replaced'], ids(back), input, {
            irreversible: true,
            title: `remove from ${node.node} what the restore moved aside`,
            changes: ['the data from before the restore are removed for good'],
          }),
        );
  return {
    steps: [...fetched, ...checked, ...stops, ...installs, ...restores, ...back, ...discards],
    backOut: backOutRestore(input, down),
  };
}

/** The way back while nothing was started on the restored data. */
function backOutRestore(input: PlannerInput, down: boolean): Step[] {
  const putBacks = input.nodes.map((node) =>
    step('put-back', node, down ? ['stop', 'put-data-back', 'put-back'] : ['stop', 'put-data-back'], [], input, {
      title: `have on ${node.node} again what was there before`,
      changes: [
        'data, certificates and configuration become those from before',
        ...(down ? [`its packages become ${node.from} again`] : []),
      ],
    }),
  );
  return [...putBacks, ...returnEverywhere(input, ids(putBacks))];
}

function stopEverywhere(input: PlannerInput, needs: readonly string[]): Step[] {
  return input.nodes.map((node) =>
    step('stop', node, ['stop'], needs, input, {
      title: `stop ${node.node}`,
      changes: [`KWDB on ${node.node} is down until all are started: the cluster does not serve meanwhile`],
    }),
  );
}

/** After the first start on restored data there is no way back but another restore. */
function startEverywhere(input: PlannerInput, needs: readonly string[], irreversible?: true): Step[] {
  const { nodes, to } = input;
  const starts = nodes.map((node) =>
    step('start', node, ['start'], needs, input, {
      title: `start ${node.node}`,
      ...(irreversible && { irreversible }),
    }),
  );
  const verifies = nodes.map((node) =>
    // A host that died since is started again.
    step('verify', node, ['start', 'verify'], ids(starts), input, { title: `see that ${node.node} serves ${to}` }),
  );
  return [...starts, ...verifies];
}

function returnEverywhere(input: PlannerInput, needs: readonly string[]): Step[] {
  return input.nodes.map((node) =>
    step('return', node, ['start', 'verify'], needs, input, { title: `start ${node.node} at ${node.from} again` }),
  );
}
