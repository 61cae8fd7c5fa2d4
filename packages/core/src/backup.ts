/** Backups: what an agent says of one it made, what belongs together, and what may be restored. */
import Type, { type Static } from 'typebox';
import type { CheckCode } from './checks/catalog.ts';

/** How a backup is made by kwfleet: a cold copy by the agent, or the operator's own script on the host. */
export const BackupPolicy = Type.Union([Type.Literal('copy'), Type.Literal('command')]);
export type BackupPolicy = Static<typeof BackupPolicy>;

/** What an agent says of a backup that it made, verified. */
export const BackupReceipt = Type.Object({
  policy: BackupPolicy,
  /** Where it lies, in the host's words. */
  place: Type.String({ minLength: 1, maxLength: 4096 }),
  /** The version whose data it holds. */
  version: Type.String(),
  sizeBytes: Type.Integer({ minimum: 0 }),
  files: Type.Integer({ minimum: 0 }),
  /** SHA-256 of its manifest, which has the SHA-256 of every file. */
  manifestSha256: Type.String({ pattern: '^[0-9a-f]{64}$' }),
  /** By the host's clock. */
  madeAtMs: Type.Integer(),
  /** Sets whose copies on this host were removed to keep no more than agent.yaml says. */
  removed: Type.Array(Type.String()),
});
export type BackupReceipt = Static<typeof BackupReceipt>;

/** One node's part of a backup. */
export const BackupPart = Type.Object({
  node: Type.String(),
  kwdbId: Type.Integer(),
  place: Type.String(),
  sizeBytes: Type.Integer(),
  files: Type.Integer(),
  manifestSha256: Type.String(),
  madeAtMs: Type.Integer(),
  /** Whose data it holds; absent in plans of older controllers. */
  version: Type.Optional(Type.String()),
  /** Set once the host removed it, to keep no more than agent.yaml says. */
  removedAtMs: Type.Optional(Type.Integer()),
});
export type BackupPart = Static<typeof BackupPart>;

/** The backups that one run made. Its id is the run's. */
export const BackupSet = Type.Object({
  id: Type.String(),
  cluster: Type.String(),
  policy: BackupPolicy,
  version: Type.String(),
  /** Whether all nodes were stopped together while it was made: only such a set can bring a cluster back. */
  oneMoment: Type.Boolean(),
  /** How many nodes the cluster had. */
  nodes: Type.Integer(),
  parts: Type.Array(BackupPart),
});
export type BackupSet = Static<typeof BackupSet>;

export type BackupFinding = { readonly code: CheckCode; readonly message: string; readonly node?: string };

/** What stands against restoring this set; nothing when it may be. */
export function judgeSet(set: BackupSet): BackupFinding[] {
  const findings: BackupFinding[] = [];
  if (set.policy === 'command') {
    findings.push({
      code: 'BACKUP_UNSUPPORTED',
      message: `backup ${set.id} was made by the operator's own command, which alone can restore it`,
    });
  }
  if (!set.oneMoment) {
    findings.push({
      code: 'BACKUP_INCONSISTENT',
      message: `the copies of ${set.id} are of different moments: nodes ran while others were copied, or between the copies`,
    });
  }
  for (const { node, version } of set.parts) {
    if (version === undefined || version === set.version) continue;
    findings.push({
      code: 'BACKUP_INCONSISTENT',
      message: `its copy in ${set.id} is of data of ${version}, that of others of data of ${set.version}`,
      node,
    });
  }
  for (const { node, removedAtMs } of set.parts) {
    if (removedAtMs === undefined) continue;
    findings.push({ code: 'BACKUP_INCOMPLETE', message: `the copy of ${set.id} was removed here`, node });
  }
  if (set.parts.length < set.nodes) {
    findings.push({
      code: 'BACKUP_INCOMPLETE',
      message: `backup ${set.id} has the copies of ${set.parts.length} of ${set.nodes} nodes`,
    });
  }
  return findings;
}

/** What an order says of the backup to be checked or restored: the part of its node. */
export const RestoreOrder = Type.Object({
  /** The run that made it. */
  set: Type.String(),
  version: Type.String(),
  manifestSha256: Type.String({ pattern: '^[0-9a-f]{64}$' }),
});
export type RestoreOrder = Static<typeof RestoreOrder>;
