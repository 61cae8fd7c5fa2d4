/** What a plan asks about backups: the one before an upgrade, and the one that is put back. Source: manual, "Prerequisites". */
import { type BackupSet, judgeSet } from './backup.ts';
import { block, pass, result } from './check-result.ts';
import { ATTESTED_MAX_AGE_MS, type Backup, type CheckResult, type PlanOptions } from './plan.ts';
import type { Cluster } from './topology.ts';
import { sameVersion } from './version.ts';

export type BackupInput = { readonly cluster: Cluster; readonly options: PlanOptions; readonly nowMs: number };

/** The backup before an upgrade: there must be a word about it, and what it needs must be there. */
export function checkBackup(input: BackupInput): CheckResult[] {
  const { backup } = input.options;
  if (backup === undefined) {
    return [block('BACKUP_REQUIRED', 'no backup is chosen; the manual asks for one before every upgrade')];
  }
  switch (backup.policy) {
    case 'none':
      return [result('warn', 'BACKUP_REQUIRED', `no backup, because: ${backup.reason}`)];
    case 'attested':
      return [checkAttested(backup, input.nowMs)];
    case 'command':
      return input.cluster.nodes.map(({ node, report }) =>
        report.host.backup?.command === true
          ? pass('BACKUP_UNSUPPORTED', 'its agent.yaml names a backup command', node)
          : block('BACKUP_UNSUPPORTED', 'its agent.yaml names no backup.command', node),
      );
    case 'copy':
      return checkCopy(input);
    default:
      return backup satisfies never;
  }
}

/** Whether an attested backup is young enough now. Without the time when it was made, it is taken for one of now. */
export function checkAttested(backup: Backup & { policy: 'attested' }, nowMs: number): CheckResult {
  const { where, atMs, maxAgeMs = ATTESTED_MAX_AGE_MS } = backup;
  const hours = (ms: number) => `${Math.round(ms / 360_000) / 10} h`;
  if (atMs === undefined) return pass('BACKUP_REQUIRED', `backup attested: ${where}`);
  if (nowMs - atMs > maxAgeMs) {
    return block(
      'BACKUP_EXPIRED',
      `the attested backup is ${hours(nowMs - atMs)} old; at most ${hours(maxAgeMs)} will do`,
    );
  }
  return pass('BACKUP_REQUIRED', `backup attested: ${where}, ${hours(Math.max(0, nowMs - atMs))} old`);
}

function checkCopy({ cluster, options }: BackupInput): CheckResult[] {
  if (cluster.topology === 'multi-replica' && options.route === 'online') {
    return [block('BACKUP_UNSUPPORTED', 'the online route never stops the database, and a copy needs it stopped')];
  }
  const checks = checkPlaces(cluster);
  if (cluster.topology !== 'multi-replica') return checks;
  const message =
    'each node is copied while the others serve: such copies can help to repair one node by hand, and cannot bring the cluster back; `kwfleet backup` makes one that can';
  return [...checks, result('warn', 'BACKUP_INCONSISTENT', message)];
}

/** Whether each agent knows which places make up its node, and a plain copy of them would hold it. */
export function checkPlaces(cluster: Cluster): CheckResult[] {
  return cluster.nodes.map(({ node, report: { host, installation } }) => {
    if (host.backup === undefined || installation?.places === undefined) {
      return block('BACKUP_UNSUPPORTED', 'its agent does not tell which places make up the node', node);
    }
    const { obstacle } = installation.places;
    return obstacle === undefined
      ? pass('BACKUP_UNSUPPORTED', `a copy goes to ${host.backup.directory}`, node)
      : block('BACKUP_UNSUPPORTED', obstacle, node);
  });
}

/** The backup that is put back: whole, of one moment, of exactly these nodes, and of the version they will have. */
export function checkSource(set: BackupSet, cluster: Cluster, to: string): CheckResult[] {
  const problems = judgeSet(set).map(({ code, message, node }) => block(code, message, node));
  if (set.cluster !== cluster.id) {
    problems.push(block('BACKUP_INCOMPLETE', `backup ${set.id} is of cluster ${set.cluster}`));
  }
  if (!sameVersion(set.version, to)) {
    problems.push(block('BACKUP_WRONG_VERSION', `backup ${set.id} holds data of ${set.version}, not of ${to}`));
  }
  for (const { node, report } of cluster.nodes) {
    const part = set.parts.find((candidate) => candidate.node === node);
    if (part === undefined) problems.push(block('BACKUP_INCOMPLETE', `backup ${set.id} has no copy of it`, node));
    else if (part.kwdbId !== report.identity?.kwdbId) {
      const message = `its copy in ${set.id} is of node ${part.kwdbId}; it is node ${report.identity?.kwdbId} now`;
      problems.push(block('BACKUP_INCOMPLETE', message, node));
    }
  }
  for (const { node } of set.parts) {
    if (cluster.nodes.some((facts) => facts.node === node)) continue;
    problems.push(
      block('BACKUP_INCOMPLETE', `backup ${set.id} has a copy of ${node}, which is no node of the cluster`),
    );
  }
  if (problems.length > 0) return problems;
  return [pass('BACKUP_INCOMPLETE', `backup ${set.id} has copies of all ${set.parts.length} nodes, of one moment`)];
}
