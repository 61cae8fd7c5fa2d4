/**
 * The orders an agent can be given: a closed set of phases, each of which says what must be true afterwards and is safe to
 * repeat. There is no phase that carries a command line.
 */
import Type, { type Static } from 'typebox';
import { BackupPolicy, BackupReceipt, RestoreOrder } from './backup.ts';
import { FleetError } from './errors.ts';
import { ClusterHealth, NodeReport, Topology } from './facts.ts';
import { TransferOutcome, TransferTask } from './transfer/model.ts';

/**
 * - `fetch`: the package lies on the host, unpacked, its SHA-256 verified.
 * - `check`: the database was asked the questions of a cluster check; the answer is in the result.
 * - `interlock`: this host saw by itself that the cluster can spare its node now.
 * - `drain`: the node serves no clients and holds no leases, as far as it could be brought to.
 * - `stop`: no process of the database is left.
 * - `install`: the target version is installed (database stopped).
 * - `install-online`: deploy.sh upgraded the running node, marking it itself.
 * - `start`: the database runs.
 * - `verify`: this node serves the target version, by its own four versions, a new process and `/health?ready=1`.
 * - `witness`: seen from this host, the subject is back at the target, its record renewed, ranges healthy twice, soaked.
 * - `put-back`: the version before is installed again; legal only while the new one never started on the data.
 * - `export`: a table, or a time-series database, was exported, its files are at the controller and gone from this host.
 * - `import`: those files were brought here, checked, and imported; KWDB rejected none of the rows.
 * - `compare`: the target's tables have as many rows as the source's, and the same rows in the samples.
 * - `recreate`: databases, users, privileges and settings of the order are there.
 * - `restore-settings`: the cluster settings of the order have the values it gives: those from before the run.
 * - `prepare-backup`: what the backup needs is there: space, or the operator's command. Nothing is changed but that an older
 *   copy may go which was kept beyond the number until a newer one could stand for it.
 * - `back-up`: the backup of the order's policy is made and verified. A copy needs the database stopped.
 * - `check-backup`: the backup of the order lies here, its manifest is the recorded one, every file was read again.
 * - `restore`: data, certificates and configuration are those of the backup; what was there is kept beside (database stopped).
 * - `put-data-back`: what a restore moved aside is in its place again; legal only while nothing was started on the restored data.
 * - `discard-replaced`: what a restore moved aside is removed.
 */
export const Phase = Type.Union([
  Type.Literal('fetch'),
  Type.Literal('check'),
  Type.Literal('interlock'),
  Type.Literal('drain'),
  Type.Literal('stop'),
  Type.Literal('install'),
  Type.Literal('install-online'),
  Type.Literal('start'),
  Type.Literal('verify'),
  Type.Literal('witness'),
  Type.Literal('put-back'),
  Type.Literal('restore-settings'),
  Type.Literal('export'),
  Type.Literal('import'),
  Type.Literal('compare'),
  Type.Literal('recreate'),
  Type.Literal('prepare-backup'),
  Type.Literal('back-up'),
  Type.Literal('check-backup'),
  Type.Literal('restore'),
  Type.Literal('put-data-back'),
  Type.Literal('discard-replaced'),
]);
export type Phase = Static<typeof Phase>;

/** Phases that make a node serve less, or change what is on its host: never without a current epoch. */
export const DESTRUCTIVE: ReadonlySet<Phase> = new Set([
  'drain',
  'stop',
  'install',
  'install-online',
  'start',
  'put-back',
  'restore-settings',
  'export',
  'import',
  'recreate',
  'back-up',
  'restore',
  'put-data-back',
  'discard-replaced',
]);

/**
 * A cluster setting that an upgrade changes, and its value before: the ledger. The names are a closed set, and the value
 * is a duration as KWDB prints it (`30m0s`), so that nothing else can be smuggled into a statement.
 * Source: KWDB facts, `kwbase node upgrade`.
 */
export const LedgerEntry = Type.Object({
  name: Type.Literal('server.time_until_store_dead'),
  value: Type.String({ pattern: '^([0-9]+(\\.[0-9]+)?(h|ms|m|s))+$', maxLength: 40 }),
});
export type LedgerEntry = Static<typeof LedgerEntry>;

/** An image by its digest, never by a tag, which may name another image tomorrow. */
export const ImageReference = Type.String({
  pattern: '^[a-z0-9][a-zA-Z0-9._:/-]{0,200}@sha256:[0-9a-f]{64}$',
  maxLength: 300,
});

/**
 * A package as the controller's registry knows it: `bare` and `container` are the vendor's files, read out of the file
 * itself; a `tree` was built from source, `bin/kwbase` and its libraries; a `build` holds nothing but the version that
 * the host is to build by the steps of its own configuration; an `image` lies in a registry of container images, and the
 * host's own engine pulls it by its digest; an `image-archive` is such an image as a file, which `docker save` wrote and
 * the host's engine loads.
 */
export const PackageInfo = Type.Object({
  /** SHA-256 of the file, or the digest of the image; hexadecimal, the package's id. */
  sha256: Type.String({ pattern: '^[0-9a-f]{64}$' }),
  fileName: Type.String(),
  /** 0 for an image: its engine knows. */
  sizeBytes: Type.Integer({ minimum: 0 }),
  unpackedBytes: Type.Integer({ minimum: 0 }),
  /** `3.1.0`, or with an extension `3.1.0-hotfix1`. */
  version: Type.String(),
  kind: Type.Union([
    Type.Literal('bare'),
    Type.Literal('container'),
    Type.Literal('image'),
    Type.Literal('image-archive'),
    Type.Literal('tree'),
    Type.Literal('build'),
  ]),
  architecture: Type.String(),
  family: Type.Union([Type.Literal('deb'), Type.Literal('rpm'), Type.Literal('any')]),
  /** Of an image, and only there: where it is pulled from, `registry.example.net/kwdb/kwdb@sha256:DIGEST`. */
  image: Type.Optional(ImageReference),
  /** The lowest glibc that it names among what it needs, `2.31`; absent when it names none. */
  glibc: Type.Optional(Type.String({ pattern: '^\\d{1,3}(\\.\\d{1,3}){1,2}$' })),
  /**
   * What its files occupy once they are installed, as its packages tell, or the layers of the image that is in it; absent
   * when nothing tells.
   */
  installedBytes: Type.Optional(Type.Integer({ minimum: 0 })),
});
export type PackageInfo = Static<typeof PackageInfo>;

export const Deadline = Type.Object({
  /** Without any progress for this long, the step is stalled. */
  idleMs: Type.Integer({ minimum: 1 }),
  /** However much it moves, it is stalled after this long. */
  ceilingMs: Type.Integer({ minimum: 1 }),
});
export type Deadline = Static<typeof Deadline>;

export const Action = Type.Object({
  /** `RUN/STEP/ATTEMPT`: redelivery of the same id changes nothing. */
  id: Type.String(),
  run: Type.String(),
  cluster: Type.String(),
  step: Type.String(),
  node: Type.String(),
  attempt: Type.Integer({ minimum: 1 }),
  /** The epoch of the lease under which this was decided; agents refuse what is lower than the highest they saw. */
  epoch: Type.Integer({ minimum: 1 }),
  phases: Type.Array(Phase),
  topology: Topology,
  /** Versions before and after, for this node. */
  from: Type.String(),
  to: Type.String(),
  /** What `fetch` and the installing phases install; absent in an order that installs nothing. */
  package: Type.Optional(PackageInfo),
  /** The package of the version before, where the registry has it: what `put-back` installs. */
  previousPackage: Type.Optional(PackageInfo),
  bypassVersionCheck: Type.Boolean(),
  /** The database's id of this host's node, and of every other node that must be live and available. */
  kwdbId: Type.Integer(),
  others: Type.Array(Type.Integer()),
  /** For `witness`: the node looked at, and its `started_at` before it was stopped. */
  subject: Type.Optional(Type.Object({ kwdbId: Type.Integer(), startedAfterMs: Type.Integer() })),
  /** For `restore-settings`. */
  ledger: Type.Array(LedgerEntry),
  /** For the phases of a transfer. */
  transfer: Type.Optional(TransferTask),
  /** For `prepare-backup` and `back-up`. */
  backup: Type.Optional(BackupPolicy),
  /**
   * For a copy: the newest backup that the cluster could be restored from without the one that this run makes, whose set
   * may never be whole. However few copies its host keeps, that one stays.
   */
  standingBackup: Type.Optional(Type.String()),
  /** For `check-backup` and what follows it. */
  restore: Type.Optional(RestoreOrder),
  /**
   * By the controller's clock. Begun later, on a host that it has not touched, it is refused: what it was decided on (a
   * gate's answer, a window, an approval) may be so no more. Absent where the order finishes what was begun.
   */
  beginByMs: Type.Optional(Type.Integer({ minimum: 0 })),
  soakMs: Type.Integer({ minimum: 0 }),
  /** Between the two samples in which ranges must be healthy. */
  sampleGapMs: Type.Integer({ minimum: 0 }),
  deadline: Deadline,
});
export type Action = Static<typeof Action>;

/** The package that an order installs. Throws ACTION_INVALID when it has none, which its controller must not have sent. */
export function packageOf(action: Action): PackageInfo {
  if (action.package === undefined) throw new FleetError('ACTION_INVALID', `${action.id} names no package to install`);
  return action.package;
}

/** How the node was left. */
export const Disposition = Type.Union([
  /** Nothing on the host was changed. */
  Type.Literal('untouched'),
  /** What the action asked for is true. */
  Type.Literal('done'),
  /** The version before is installed and serving again. */
  Type.Literal('backed-out'),
  /** The node is down, or not as it should be, and needs a decision. */
  Type.Literal('broken'),
]);
export type Disposition = Static<typeof Disposition>;

export const ActionFailure = Type.Object({
  code: Type.String(),
  message: Type.String(),
  /** What the host itself said, cleaned of control characters. */
  words: Type.Optional(Type.String()),
  phase: Phase,
});
export type ActionFailure = Static<typeof ActionFailure>;

export const ActionResult = Type.Object({
  action: Type.String(),
  outcome: Type.Union([Type.Literal('succeeded'), Type.Literal('failed')]),
  failure: Type.Optional(ActionFailure),
  disposition: Disposition,
  /** Set once the target version was started on the data: from then on it is never put back in place. */
  newVersionStarted: Type.Boolean(),
  phases: Type.Array(Type.Object({ phase: Phase, startedAtMs: Type.Integer(), endedAtMs: Type.Integer() })),
  report: NodeReport,
  health: Type.Optional(ClusterHealth),
  /** What came of a phase of a transfer. */
  transfer: Type.Optional(TransferOutcome),
  /** The backup that this order made, also when something failed after it. */
  backup: Type.Optional(BackupReceipt),
});
export type ActionResult = Static<typeof ActionResult>;

/** Whether the host refused the order because it came too late: it was not begun. */
export const isLate = ({ failure, disposition }: ActionResult): boolean =>
  failure?.code === 'ORDER_LATE' && disposition === 'untouched';

export const ActionProgress = Type.Object({
  action: Type.String(),
  phase: Phase,
  /** What is going on, for a person: `waiting for ranges to heal (3 under-replicated)`. */
  detail: Type.String(),
  atMs: Type.Integer(),
});
export type ActionProgress = Static<typeof ActionProgress>;
