/** A plan: what will happen, as data. Made by a pure function, shown, approved, hashed, never edited. */
import { createHash } from 'node:crypto';
import canonicalize from 'canonicalize';
import Type, { type Static } from 'typebox';
import { Deadline, PackageInfo, Phase } from './action.ts';
import { BackupPart } from './backup.ts';
import { Method, Topology } from './facts.ts';
import { TransferContent } from './transfer/model.ts';

export const Route = Type.Union([Type.Literal('offline'), Type.Literal('online')]);
export type Route = Static<typeof Route>;

/**
 * What a plan is for. `backup`: a cold copy of the whole cluster, all nodes stopped. `restore`: such a copy put back
 * under the version that made it. `downgrade`: the version before installed again, and its copy put back. `transfer`:
 * everything of another cluster exported and imported into this one.
 */
export const PlanKind = Type.Union([
  Type.Literal('upgrade'),
  Type.Literal('backup'),
  Type.Literal('restore'),
  Type.Literal('downgrade'),
  Type.Literal('transfer'),
]);
export type PlanKind = Static<typeof PlanKind>;

/**
 * The backup that the manual asks for before every upgrade. `attested`: a person states where it is and when it was made;
 * too old a one blocks. `copy`: each agent copies its stopped node. `command`: the operator's own script on each host.
 * `none` needs a reason that goes on record.
 */
export const Backup = Type.Union([
  Type.Object({
    policy: Type.Literal('attested'),
    where: Type.String({ minLength: 1, maxLength: 500 }),
    /** When it was made; when it is stated, unless said. */
    atMs: Type.Optional(Type.Integer({ minimum: 0 })),
    /** How old it may be when the run starts; ATTESTED_MAX_AGE_MS unless said. */
    maxAgeMs: Type.Optional(Type.Integer({ minimum: 60_000, maximum: 30 * 86_400_000 })),
  }),
  Type.Object({ policy: Type.Literal('copy') }),
  Type.Object({ policy: Type.Literal('command') }),
  Type.Object({ policy: Type.Literal('none'), reason: Type.String({ minLength: 1, maxLength: 500 }) }),
]);
export type Backup = Static<typeof Backup>;

/** The backup of a plan, in words. */
export function backupWords(backup: Backup | undefined): string {
  switch (backup?.policy) {
    case undefined:
      return 'none stated';
    case 'none':
      return `none, because: ${backup.reason}`;
    case 'attested':
      return `attested: ${backup.where}${backup.atMs === undefined ? '' : `, made ${new Date(backup.atMs).toISOString()}`}`;
    case 'copy':
      return 'a cold copy of each node';
    case 'command':
      return "the host's own backup command";
    default:
      return backup satisfies never;
  }
}

/** What was written since an attested backup would be lost with it: a day's work at most. */
export const ATTESTED_MAX_AGE_MS = 86_400_000;

/** What a person may choose. All have defaults but the backup. */
export const PlanOptions = Type.Object({
  /** Multi-replica only. `offline`: stop, install, start, as the manual says. `online`: deploy.sh marks the running node. */
  route: Route,
  backup: Type.Optional(Backup),
  bypassVersionCheck: Type.Boolean(),
  /** How long the cluster must stay healthy after a node is back before the next is touched. */
  soakMs: Type.Integer({ minimum: 0, maximum: 86_400_000 }),
  /** Between the two samples in which ranges must be healthy. */
  sampleGapMs: Type.Integer({ minimum: 100, maximum: 600_000 }),
  /** Single-replica only: how many nodes install at once. */
  concurrency: Type.Integer({ minimum: 1, maximum: 1000 }),
  /** How long one step may go without progress, and how long it may take at most. */
  deadline: Deadline,
});
export type PlanOptions = Static<typeof PlanOptions>;

export const DEFAULT_OPTIONS: PlanOptions = {
  route: 'offline',
  bypassVersionCheck: false,
  soakMs: 30_000,
  sampleGapMs: 5_000,
  concurrency: 8,
  // A node with much data may take long to rejoin; it shows progress all the while. deploy.sh itself waits 10 minutes.
  deadline: { idleMs: 15 * 60_000, ceilingMs: 6 * 3_600_000 },
};

export const PlanNode = Type.Object({
  node: Type.String(),
  kwdbId: Type.Integer(),
  address: Type.String(),
  method: Method,
  from: Type.String(),
});
export type PlanNode = Static<typeof PlanNode>;

/** `self`: the step's own node carries it out. `peer`: another one that serves, chosen when it is due. `any`: any that serves. */
export const Executor = Type.Union([Type.Literal('self'), Type.Literal('peer'), Type.Literal('any')]);

export const StepKind = Type.Union([
  Type.Literal('fetch'),
  Type.Literal('gate'),
  Type.Literal('upgrade'),
  Type.Literal('witness'),
  Type.Literal('stop'),
  Type.Literal('install'),
  Type.Literal('start'),
  Type.Literal('verify'),
  Type.Literal('settings'),
  Type.Literal('put-back'),
  Type.Literal('return'),
  Type.Literal('export'),
  Type.Literal('import'),
  Type.Literal('compare'),
  Type.Literal('recreate'),
  Type.Literal('prepare'),
  Type.Literal('back-up'),
  Type.Literal('check-backup'),
  Type.Literal('restore'),
  Type.Literal('discard'),
]);
export type StepKind = Static<typeof StepKind>;

export const Step = Type.Object({
  /** `KIND:NODE`, or `KIND:NODE:PART` where a node has several; unique in the plan. */
  id: Type.String(),
  kind: StepKind,
  /** The node it is about. */
  node: Type.String(),
  executor: Executor,
  needs: Type.Array(Type.String()),
  phases: Type.Array(Phase),
  deadline: Deadline,
  title: Type.String(),
  /** What it changes, in words; empty when it only looks. */
  changes: Type.Array(Type.String()),
  /** There is no way back once it has begun: where a policy asks for it, people approve before the first of them. */
  irreversible: Type.Optional(Type.Literal(true)),
});
export type Step = Static<typeof Step>;

export const CheckResult = Type.Object({
  code: Type.String(),
  verdict: Type.Union([Type.Literal('pass'), Type.Literal('warn'), Type.Literal('block'), Type.Literal('unknown')]),
  node: Type.Optional(Type.String()),
  message: Type.String(),
  remedy: Type.Optional(Type.String()),
});
export type CheckResult = Static<typeof CheckResult>;

/** The backup that a plan puts back, and what becomes of what was there. */
export const RestoreSource = Type.Object({
  /** The set's id: that of the run which made it. */
  backup: Type.String(),
  version: Type.String(),
  /** `keep`: what was there stays beside, under a name with the run's id. `remove`: it goes once all nodes are verified. */
  replaced: Type.Union([Type.Literal('keep'), Type.Literal('remove')]),
  parts: Type.Array(BackupPart),
});
export type RestoreSource = Static<typeof RestoreSource>;

export const Plan = Type.Object({
  format: Type.Literal(1),
  /** Absent in plans that were stored before there were others: an upgrade. `kindOf` says it. */
  kind: Type.Optional(PlanKind),
  cluster: Type.String(),
  topology: Topology,
  to: Type.String(),
  /** What is installed; absent where a plan installs nothing. */
  package: Type.Optional(PackageInfo),
  previousPackage: Type.Optional(PackageInfo),
  /** Where nodes had several versions before: the packages of the others. */
  otherPreviousPackages: Type.Optional(Type.Array(PackageInfo)),
  options: PlanOptions,
  /** For `transfer`. */
  transfer: Type.Optional(TransferContent),
  /** For `restore` and `downgrade`. */
  restore: Type.Optional(RestoreSource),
  nodes: Type.Array(PlanNode),
  steps: Type.Array(Step),
  /** What an abort does after nodes were touched and before the new version was started anywhere. */
  backOut: Type.Array(Step),
});
export type Plan = Static<typeof Plan>;

/** What the plan is for; one that was stored before there were other kinds is an upgrade. */
export const kindOf = ({ kind }: Pick<Plan, 'kind'>): PlanKind => kind ?? 'upgrade';

/** What nodes may be put back to, as far as the registry has it: one package for each version that they had. */
export const previousPackagesOf = ({
  previousPackage,
  otherPreviousPackages = [],
}: Pick<Plan, 'previousPackage' | 'otherPreviousPackages'>): PackageInfo[] =>
  previousPackage === undefined ? [] : [previousPackage, ...otherPreviousPackages];

/** SHA-256 over the canonical JSON (RFC 8785) of the plan: what an approval is bound to. */
export function hashPlan(plan: Plan): string {
  const text = canonicalize(plan);
  if (text === undefined) throw new TypeError('a plan must be plain JSON');
  return createHash('sha256').update(text).digest('hex');
}

/** The step with this id; a plan that names a step it does not have is a bug. */
export function stepOf(plan: Plan, id: string): Step {
  const step = [...plan.steps, ...plan.backOut].find((candidate) => candidate.id === id);
  if (step === undefined) throw new Error(`the plan has no step ${id}`);
  return step;
}
