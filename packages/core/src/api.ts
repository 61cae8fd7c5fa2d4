/** What REST answers with. The controller documents and serves these; the command line and the console read them. */

import Type, { type Static } from 'typebox';
import { ImageReference, PackageInfo, Phase } from './action.ts';
import { ApprovalScope, Requirement } from './approval.ts';
import { BackupSet } from './backup.ts';
import { Choice, Hold, RunApproval, RunStatus, RunTiming, RunWait, StepState } from './engine/state.ts';
import { Estimate } from './estimate.ts';
import { Method, NodeReport, Topology } from './facts.ts';
import { Backup, CheckResult, Plan, PlanKind, PlanOptions, RestoreSource } from './plan.ts';
import { RolloutCluster, RolloutPause, RolloutStatus, RolloutWave } from './rollout/state.ts';
import { TransferOptions } from './transfer/model.ts';
import { Window } from './windows/window.ts';
import { FILE_MAX_BYTES, Mistake } from './written.ts';

export const NodeState = Type.Union([
  Type.Literal('healthy'),
  Type.Literal('degraded'),
  Type.Literal('down'),
  /** Its agent does not report. */
  Type.Literal('unknown'),
  /** The database lists it and no agent ever reported from it. */
  Type.Literal('missing'),
]);
export type NodeState = Static<typeof NodeState>;

/** How it is told to be, damped: an outage shows once it has lasted, flapping as flapping. `state` beside it is of now. */
export const HealthView = Type.Object({
  state: NodeState,
  sinceMs: Type.Integer(),
  detail: Type.String(),
  flapping: Type.Boolean(),
});
export type HealthView = Static<typeof HealthView>;

/** What was told of a node or a cluster. */
export const HealthEventView = Type.Object({
  seq: Type.Integer(),
  atMs: Type.Integer(),
  kind: Type.Union([Type.Literal('node'), Type.Literal('cluster')]),
  id: Type.String(),
  /** Absent for the first that was ever told of it. */
  was: Type.Optional(NodeState),
  state: NodeState,
  detail: Type.String(),
  /** The run of its cluster that was not ended then: what it did to the node may be meant. */
  run: Type.Optional(Type.String()),
});
export type HealthEventView = Static<typeof HealthEventView>;

export const NodeView = Type.Object({
  /** The agent's id; for a missing node `missing:KWDB_ID`. */
  id: Type.String(),
  cluster: Type.Optional(Type.String()),
  state: NodeState,
  /** Why it is not healthy, in words; empty when it is. */
  detail: Type.String(),
  health: Type.Optional(HealthView),
  connected: Type.Boolean(),
  lastSeenMs: Type.Optional(Type.Integer()),
  address: Type.Optional(Type.String()),
  kwdbId: Type.Optional(Type.Integer()),
  version: Type.Optional(Type.String()),
  topology: Type.Optional(Topology),
  method: Type.Optional(Method),
  report: Type.Optional(NodeReport),
});
export type NodeView = Static<typeof NodeView>;

export const ClusterSummary = Type.Object({
  /** The database's own cluster id. */
  id: Type.String(),
  name: Type.String(),
  labels: Type.Record(Type.String(), Type.String()),
  topology: Type.Optional(Topology),
  /** Versions found on its nodes, each once, oldest first. */
  versions: Type.Array(Type.String()),
  state: NodeState,
  detail: Type.String(),
  health: Type.Optional(HealthView),
  nodes: Type.Array(NodeView),
  /** The run that is not ended yet, where there is one. */
  run: Type.Optional(Type.String()),
});
export type ClusterSummary = Static<typeof ClusterSummary>;

/** A package as it lies in the registry. */
export type StoredPackage = PackageInfo & { readonly id: string; readonly addedAtMs: number };

export const PackageView = Type.Object({
  ...PackageInfo.properties,
  id: Type.String(),
  addedAtMs: Type.Integer(),
  /** Whether it is on the list that agents accept. */
  signed: Type.Boolean(),
});
export type PackageView = Static<typeof PackageView>;

/** As a person says which version an image is. */
export const GivenVersion = Type.String({ minLength: 1, maxLength: 60 });

/** A container image as a package: its digest names it, people say which version it is. */
export const ImageRequest = Type.Object(
  {
    image: ImageReference,
    version: GivenVersion,
    architecture: Type.Union([Type.Literal('amd64'), Type.Literal('arm64')]),
  },
  { additionalProperties: false },
);
export type ImageRequest = Static<typeof ImageRequest>;

const Sha256 = Type.String({ pattern: '^[0-9a-f]{64}$' });

/** A package that the controller takes by itself, from a place that its configuration allows. */
export const ImportRequest = Type.Union([
  Type.Object(
    {
      path: Type.String({ minLength: 1, maxLength: 4096 }),
      sha256: Type.Optional(Sha256),
      version: Type.Optional(GivenVersion),
    },
    { additionalProperties: false },
  ),
  Type.Object(
    { url: Type.String({ minLength: 1, maxLength: 2000 }), sha256: Sha256, version: Type.Optional(GivenVersion) },
    { additionalProperties: false },
  ),
  ImageRequest,
]);
export type ImportRequest = Static<typeof ImportRequest>;

/** Metadata of The Update Framework: what it says, and the signatures over it. */
export const SignedMetadata = Type.Object({
  signed: Type.Record(Type.String(), Type.Unknown()),
  signatures: Type.Array(Type.Object({ keyid: Type.String(), sig: Type.String() }), { maxItems: 100 }),
});

export type SignedMetadata = Static<typeof SignedMetadata>;

/** Metadata that waits for the signatures of more people; keys are public halves, in hexadecimal. */
export const StagedMetadata = Type.Object({
  version: Type.Integer(),
  signedBy: Type.Array(Type.String()),
  threshold: Type.Integer(),
});
export type StagedMetadata = Static<typeof StagedMetadata>;

/** Whose keys agents accept packages from; keys are public halves, in hexadecimal. */
export const TrustView = Type.Object({
  /** The controller itself signs packages, with a key made on the spot. */
  evaluation: Type.Boolean(),
  /** The controller's key: for what is newest, and in evaluation for everything. */
  online: Type.String(),
  root: Type.Object({
    version: Type.Integer(),
    /** Of the root as it is signed: what a host can pin. */
    sha256: Type.String(),
    expiresAtMs: Type.Integer(),
    keys: Type.Array(Type.String()),
    threshold: Type.Integer(),
  }),
  packages: Type.Object({
    keys: Type.Array(Type.String()),
    threshold: Type.Integer(),
    /** Whether agents accept the list: false when it expired, or its keys were changed after it was signed. */
    acceptable: Type.Boolean(),
    version: Type.Integer(),
    expiresAtMs: Type.Integer(),
    sha256s: Type.Array(Type.String()),
  }),
  staged: Type.Object({ root: Type.Optional(StagedMetadata), targets: Type.Optional(StagedMetadata) }),
});
export type TrustView = Static<typeof TrustView>;

export const PrefetchRequest = Type.Object(
  {
    /** Ids or names. */
    clusters: Type.Optional(Type.Array(Type.String({ minLength: 1, maxLength: 253 }), { minItems: 1, maxItems: 1000 })),
    /** Clusters that have all of these labels; with `clusters`, those of them that do. */
    labels: Type.Optional(Type.Record(Type.String({ maxLength: 63 }), Type.String({ maxLength: 200 }))),
  },
  { additionalProperties: false },
);
export type PrefetchRequest = Static<typeof PrefetchRequest>;

/** How far a package is on its way to one host. */
export const PrefetchView = Type.Object({
  node: Type.String(),
  /** `waiting` until the agent says that it lies there, verified, or why it does not. */
  state: Type.Union([Type.Literal('waiting'), Type.Literal('done'), Type.Literal('failed')]),
  askedAtMs: Type.Integer(),
  askedBy: Type.String(),
  endedAtMs: Type.Optional(Type.Integer()),
  code: Type.Optional(Type.String()),
  message: Type.Optional(Type.String()),
});
export type PrefetchView = Static<typeof PrefetchView>;

export const PlanRequest = Type.Object(
  {
    /** Id or name. */
    cluster: Type.String({ minLength: 1, maxLength: 253 }),
    /** The version to upgrade to; for other kinds the version of the backup. */
    to: Type.String({ minLength: 1, maxLength: 60 }),
    /** `upgrade` unless told. */
    kind: Type.Optional(PlanKind),
    /** For `restore` and `downgrade`: the backup's id, and what becomes of what is there now (`keep` unless told). */
    restore: Type.Optional(
      Type.Object(
        {
          backup: Type.String({ minLength: 1, maxLength: 253 }),
          replaced: Type.Optional(RestoreSource.properties.replaced),
        },
        { additionalProperties: false },
      ),
    ),
    options: Type.Optional(Type.Partial(Type.Object({ ...PlanOptions.properties, backup: Backup }))),
  },
  { additionalProperties: false },
);
export type PlanRequest = Static<typeof PlanRequest>;

export const TransferRequest = Type.Object(
  {
    /** Ids or names: what is exported, and the cluster that everything is imported into. */
    source: Type.String({ minLength: 1, maxLength: 253 }),
    into: Type.String({ minLength: 1, maxLength: 253 }),
    options: Type.Optional(TransferOptions),
  },
  { additionalProperties: false },
);
export type TransferRequest = Static<typeof TransferRequest>;

export const PlanView = Type.Object({
  id: Type.String(),
  /** SHA-256 of the plan's canonical JSON; a run is started with it. */
  hash: Type.String(),
  clusterName: Type.String(),
  createdAtMs: Type.Integer(),
  createdBy: Type.String(),
  /** Absent when the checks did not get far enough to make one (no package, topology unknown, ...). */
  plan: Type.Optional(Plan),
  checks: Type.Array(CheckResult),
  /** True when a check blocks or is unknown: such a plan cannot be started. */
  blocked: Type.Boolean(),
  /** How long it will take if nothing holds it; told with one plan, not in lists. */
  estimate: Type.Optional(Estimate),
});
export type PlanView = Static<typeof PlanView>;

export const RunRequest = Type.Object(
  {
    plan: Type.String({ minLength: 1 }),
    hash: Type.String({ pattern: '^[0-9a-f]{64}$' }),
    /** When it may work; absent: now, and at any time. */
    timing: Type.Optional(Type.Partial(RunTiming, { additionalProperties: false })),
  },
  { additionalProperties: false },
);
export type RunRequest = Static<typeof RunRequest>;

/** `scope` where both are awaited: without it, what is due first. */
export const ApprovalRequestBody = Type.Object(
  {
    hash: Type.String({ pattern: '^[0-9a-f]{64}$' }),
    scope: Type.Optional(ApprovalScope),
    comment: Type.Optional(Type.String({ minLength: 1, maxLength: 500 })),
  },
  { additionalProperties: false },
);
export type ApprovalRequestBody = Static<typeof ApprovalRequestBody>;

/** Something that people must agree to, and who has. */
export const ApprovalView = Type.Object({
  /** `run:ID`, `run:ID/irreversible`, ... */
  subject: Type.String(),
  run: Type.Optional(Type.String()),
  title: Type.String(),
  hash: Type.String(),
  requirement: Requirement,
  requester: Type.String(),
  requestedAtMs: Type.Integer(),
  /** `counts` is false for one that died: of another hash, or too old. */
  approvals: Type.Array(
    Type.Object({
      person: Type.String(),
      atMs: Type.Integer(),
      counts: Type.Boolean(),
      comment: Type.Optional(Type.String()),
    }),
  ),
  /** How many more people must agree. */
  missing: Type.Integer(),
});
export type ApprovalView = Static<typeof ApprovalView>;
/** The backups that one run made, its name as id. */
export const BackupView = Type.Object({
  ...BackupSet.properties,
  clusterName: Type.String(),
  /** When the last part of it was made. */
  madeAtMs: Type.Integer(),
  sizeBytes: Type.Integer(),
  /** Why it cannot be restored, in words; empty when it can. */
  problems: Type.Array(Type.String()),
});
export type BackupView = Static<typeof BackupView>;

export const RunSummary = Type.Object({
  id: Type.String(),
  /** What it is for. */
  kind: PlanKind,
  cluster: Type.String(),
  clusterName: Type.String(),
  planId: Type.String(),
  /** Of the plan: what an approval is bound to. */
  planHash: Type.String(),
  topology: Topology,
  to: Type.String(),
  status: RunStatus,
  hold: Type.Optional(Hold),
  /** When it may work, and what it waits for now; what goes on although its window closed. */
  timing: Type.Optional(RunTiming),
  wait: Type.Optional(RunWait),
  overrun: Type.Optional(Type.String()),
  /** What a policy asks of it, and who has agreed. */
  approval: Type.Optional(RunApproval),
  pauseRequested: Type.Boolean(),
  abortRequested: Type.Boolean(),
  /** What may be asked of it now. */
  choices: Type.Array(Choice),
  /** Why it ended, in words. */
  reason: Type.Optional(Type.String()),
  createdAtMs: Type.Integer(),
  createdBy: Type.String(),
  startedAtMs: Type.Optional(Type.Integer()),
  endedAtMs: Type.Optional(Type.Integer()),
  /** Steps that succeeded, and all: of the way forward, or of the way back once an abort was asked for. */
  done: Type.Integer(),
  total: Type.Integer(),
});
export type RunSummary = Static<typeof RunSummary>;

export const RunView = Type.Object({
  ...RunSummary.properties,
  plan: Plan,
  /** By step id; the agents' whole results are in the report. */
  steps: Type.Record(Type.String(), StepState),
});
export type RunView = Static<typeof RunView>;

/** One line of a run's history, as it comes over server-sent events: `id` is `seq`, `event` is `type`. */
export const RunEventView = Type.Object({
  seq: Type.Integer(),
  atMs: Type.Integer(),
  /** A RunEvent's type, or `output` for a piece of a command's output (not kept in the chain). */
  type: Type.String(),
  step: Type.Optional(Type.String()),
  node: Type.Optional(Type.String()),
  phase: Type.Optional(Phase),
  /** One line for a person. */
  message: Type.String(),
  /** The event as stored. */
  event: Type.Unknown(),
});
export type RunEventView = Static<typeof RunEventView>;

const RolloutCounts = Type.Object({
  waiting: Type.Integer(),
  running: Type.Integer(),
  held: Type.Integer(),
  succeeded: Type.Integer(),
  failed: Type.Integer(),
  skipped: Type.Integer(),
});

export const RolloutSummary = Type.Object({
  id: Type.String(),
  name: Type.String(),
  to: Type.String(),
  status: RolloutStatus,
  /** Clusters by how they stand. */
  counts: RolloutCounts,
  /** The wave that is under way, or was last. */
  wave: Type.Optional(Type.String()),
  pause: Type.Optional(RolloutPause),
  reason: Type.Optional(Type.String()),
  choices: Type.Array(Type.String()),
  startAtMs: Type.Optional(Type.Integer()),
  startedAtMs: Type.Optional(Type.Integer()),
  endedAtMs: Type.Optional(Type.Integer()),
  createdAtMs: Type.Integer(),
  createdBy: Type.String(),
});
export type RolloutSummary = Static<typeof RolloutSummary>;

export const RolloutView = Type.Object({
  ...RolloutSummary.properties,
  nowMs: Type.Integer(),
  /** As it was written. */
  file: Type.String(),
  waves: Type.Array(RolloutWave),
  clusters: Type.Record(Type.String(), RolloutCluster),
  /** Of what is approved: the file, the waves, and the plan of every cluster. */
  hash: Type.Optional(Type.String()),
  /** What waits for people, and who agreed so far. */
  approvals: Type.Array(
    Type.Object({
      scope: Type.String(),
      missing: Type.Integer(),
      people: Type.Array(Type.String()),
      policies: Type.Array(Type.String()),
    }),
  ),
  /** What it waits for now, in words, and until when where that is known. */
  waits: Type.Optional(Type.Object({ message: Type.String(), untilMs: Type.Optional(Type.Integer()) })),
  budget: Type.Integer(),
});
export type RolloutView = Static<typeof RolloutView>;

/** What the checks say of one cluster. */
export const RolloutChecks = Type.Object({
  cluster: Type.String(),
  name: Type.String(),
  /** Empty where no wave takes it. */
  wave: Type.String(),
  blocked: Type.Boolean(),
  checks: Type.Array(CheckResult),
});
export type RolloutChecks = Static<typeof RolloutChecks>;

export const RolloutEventView = Type.Object({
  seq: Type.Integer(),
  atMs: Type.Integer(),
  type: Type.String(),
  /** One line for a person. */
  message: Type.String(),
  event: Type.Unknown(),
});
export type RolloutEventView = Static<typeof RolloutEventView>;

export const RolloutApproval = Type.Object(
  {
    /** `start` or `wave:NAME`; absent: what it waits for now. */
    scope: Type.Optional(Type.String({ minLength: 1, maxLength: 80 })),
    hash: Type.String({ pattern: '^[0-9a-f]{64}$' }),
    comment: Type.Optional(Type.String({ maxLength: 500 })),
  },
  { additionalProperties: false },
);
export type RolloutApproval = Static<typeof RolloutApproval>;

/** A YAML or JSON file as it was written, so that mistakes can be told with their places. */
export const WrittenFile = Type.Object(
  { file: Type.String({ minLength: 1, maxLength: FILE_MAX_BYTES }) },
  { additionalProperties: false },
);
export type WrittenFile = Static<typeof WrittenFile>;

export const WindowView = Type.Object({
  window: Window,
  nowMs: Type.Integer(),
  /** When it is open in the days from now on; the first may have begun before. */
  days: Type.Integer(),
  spans: Type.Array(Type.Object({ startMs: Type.Integer(), endMs: Type.Integer() })),
});
export type WindowView = Static<typeof WindowView>;

/** What clients of the database felt while it was upgraded, as a workload counted it. */
export const ClientView = Type.Object(
  {
    /** Who counted: `demo workload`, `synthetic probe`, ... */
    source: Type.String({ minLength: 1, maxLength: 100, pattern: '^[^\\u0000-\\u001f]*$' }),
    attempted: Type.Integer({ minimum: 0 }),
    acknowledged: Type.Integer({ minimum: 0 }),
    failedFirstTry: Type.Integer({ minimum: 0 }),
    failedAfterRetry: Type.Integer({ minimum: 0 }),
    /** Acknowledged writes that could not be read back. */
    lostAcknowledged: Type.Integer({ minimum: 0 }),
    /** The longest time in which nothing succeeded. */
    maxStallMs: Type.Integer({ minimum: 0 }),
  },
  { additionalProperties: false },
);
export type ClientView = Static<typeof ClientView>;

/** One notification on its way to one target. */
export const DeliveryView = Type.Object({
  id: Type.String(),
  notification: Type.String(),
  target: Type.String(),
  event: Type.String(),
  title: Type.String(),
  status: Type.Union([Type.Literal('pending'), Type.Literal('delivered'), Type.Literal('dead')]),
  attempts: Type.Integer(),
  lastError: Type.Optional(Type.String()),
  createdAtMs: Type.Integer(),
  endedAtMs: Type.Optional(Type.Integer()),
});
export type DeliveryView = Static<typeof DeliveryView>;

/** Whom a controller tells what. Addresses and secrets are in its configuration and are not shown. */
export const TargetView = Type.Object({
  name: Type.String(),
  kind: Type.String(),
  /** The host it goes to. */
  host: Type.String(),
  events: Type.Array(Type.String()),
  labels: Type.Record(Type.String(), Type.String()),
});
export type TargetView = Static<typeof TargetView>;

/** RFC 9457, `application/problem+json`. */
export const Problem = Type.Object({
  type: Type.String(),
  title: Type.String(),
  status: Type.Integer(),
  detail: Type.String(),
  /** Stable; docs/reference/errors.md lists all. */
  code: Type.String(),
  node: Type.Optional(Type.String()),
  remedy: Type.String(),
  words: Type.Optional(Type.String()),
  /** Checks that block, where the problem is a blocked plan. */
  checks: Type.Optional(Type.Array(CheckResult)),
  /** Mistakes in a file that was sent, where that is the problem. */
  mistakes: Type.Optional(Type.Array(Mistake)),
  requestId: Type.Optional(Type.String()),
});
export type Problem = Static<typeof Problem>;

/** A page of a list; `cursor` is absent on the last. */
export const page = <T extends Type.TSchema>(item: T) =>
  Type.Object({ items: Type.Array(item), cursor: Type.Optional(Type.String()) });
export type Page<T> = { items: T[]; cursor?: string };
