/**
 * What agents report. These schemas are the one definition of each shape: the wire boundary validates against them,
 * REST documents them, the planner and the engine take their types from them. A field that is absent is unknown.
 * Times are milliseconds since the epoch and end in `Ms`; sizes are bytes and end in `Bytes`.
 */
import Type, { type Static } from 'typebox';

export const Topology = Type.Union([
  Type.Literal('standalone'),
  Type.Literal('multi-replica'),
  Type.Literal('single-replica'),
]);
export type Topology = Static<typeof Topology>;

export const Method = Type.Union([
  Type.Literal('script-bare'),
  Type.Literal('script-container'),
  Type.Literal('compose'),
  Type.Literal('docker-run'),
  Type.Literal('source'),
]);
export type Method = Static<typeof Method>;

export const Security = Type.Union([Type.Literal('insecure'), Type.Literal('tls'), Type.Literal('tlcp')]);
export type Security = Static<typeof Security>;

/** How a host's installation stands: `clean`, or one of the half-done states an interrupted deploy.sh leaves. */
export const Condition = Type.Union([
  Type.Literal('clean'),
  /** The package manager holds no server package, or the binary is gone. */
  Type.Literal('binary-missing'),
  /** The package manager calls a package half-installed or half-configured (dpkg `iH`, `iF`, `in`). */
  Type.Literal('package-half-installed'),
  /** The new binary is there while `.version` still names the old one: deploy.sh died before its last step. */
  Type.Literal('version-file-behind'),
  /** The running process is another version than the installed binary: not restarted since the install. */
  Type.Literal('process-behind'),
  /** The database lists this node as being upgraded, or `--upgrade-complete` was left in its start arguments. */
  Type.Literal('marked-upgrading'),
]);
export type Condition = Static<typeof Condition>;

/** What lies round the database on its host and could spoil an upgrade. Lists are short: the agent cuts them. */
export const Surroundings = Type.Object({
  /** `2.36`; absent where there is none, or none that tells. */
  glibc: Type.Optional(Type.String({ pattern: '^\\d{1,3}(\\.\\d{1,3}){1,2}$' })),
  /** Ports of the database that another program listens on while the database is down. */
  takenPorts: Type.Array(Type.Object({ port: Type.Integer(), program: Type.Optional(Type.String()) })),
  /** The database's own certificates on this host, and when each expires. */
  certificates: Type.Array(Type.Object({ file: Type.String(), expiresAtMs: Type.Integer() })),
  /** Cron jobs, timers and configuration management that may start or change the database's service. */
  restarters: Type.Array(Type.Object({ where: Type.String(), what: Type.String() })),
  /** Places where those may be written down and that the agent may not read. */
  unread: Type.Array(Type.String()),
  /** What the installed version occupies, files or image: as much is kept of it during an upgrade. */
  installedBytes: Type.Optional(Type.Integer({ minimum: 0 })),
  /** Which disk each directory lies on: those on one disk share its free space. */
  disks: Type.Object({ agent: Type.String(), install: Type.String(), data: Type.String() }),
  /** Images of packages that this host was asked about: there, to be had from their registry, or neither, and why. */
  images: Type.Array(
    Type.Object({
      digest: Type.String(),
      state: Type.Union([Type.Literal('present'), Type.Literal('pullable'), Type.Literal('unavailable')]),
      detail: Type.String(),
    }),
  ),
});
export type Surroundings = Static<typeof Surroundings>;

export const HostFacts = Type.Object({
  hostname: Type.String(),
  /** Debian's names: `amd64`, `arm64`. */
  architecture: Type.String(),
  distribution: Type.Object({
    id: Type.String(),
    versionId: Type.String(),
    family: Type.Union([Type.Literal('deb'), Type.Literal('rpm'), Type.Literal('unknown')]),
  }),
  bootId: Type.String(),
  agentVersion: Type.String(),
  /** What the agent may do: it is root, it has sudo without a password, or neither. */
  privileges: Type.Union([Type.Literal('root'), Type.Literal('sudo'), Type.Literal('none')]),
  /** The host's clock when the report was made. */
  clockMs: Type.Integer(),
  /** Free space where packages are unpacked, where KWDB is installed, and where its data lies. */
  freeBytes: Type.Object({ agent: Type.Integer(), install: Type.Integer(), data: Type.Integer() }),
  /** Absent from older agents. */
  surroundings: Type.Optional(Surroundings),
  /** Where copies go, what is free there, and whether agent.yaml names a backup command; absent from older agents. */
  backup: Type.Optional(Type.Object({ directory: Type.String(), freeBytes: Type.Integer(), command: Type.Boolean() })),
});
export type HostFacts = Static<typeof HostFacts>;

export const Installation = Type.Object({
  method: Method,
  /** From `MODE` line 2, or from the command of the container or process; absent when that does not tell it. */
  topology: Type.Optional(Topology),
  installDir: Type.String(),
  dataDir: Type.String(),
  /**
   * What makes up the node beside `dataDir`, as paths on the host: what a backup copies. Absent when this agent does not
   * know it of the deployment method.
   */
  places: Type.Optional(
    Type.Object({
      certificates: Type.Optional(Type.String()),
      /** Read at each start of the database: put back by a restore. */
      configuration: Type.Array(Type.String()),
      /** Names the image or tree that is installed: copied for people, and never put back under another. */
      definition: Type.Optional(Type.Array(Type.String())),
      /** Why a plain copy of these places would not hold the node, in words; absent when it would. */
      obstacle: Type.Optional(Type.String()),
    }),
  ),
  address: Type.String(),
  port: Type.Integer(),
  httpPort: Type.Integer(),
  user: Type.String(),
  security: Security,
  encrypted: Type.Boolean(),
  /** The other nodes' addresses, from `NODE`. */
  peers: Type.Array(Type.String()),
  unit: Type.Object({
    exists: Type.Boolean(),
    active: Type.Union([
      Type.Literal('active'),
      Type.Literal('inactive'),
      Type.Literal('failed'),
      Type.Literal('activating'),
      Type.Literal('deactivating'),
    ]),
    enabled: Type.Boolean(),
    mainPid: Type.Optional(Type.Integer()),
    startedAtMs: Type.Optional(Type.Integer()),
  }),
  /** The four places that tell a version; they can all disagree after an interrupted upgrade. */
  versions: Type.Object({
    /** `.version` of a script's installation: basic version, and the extension after a space (`3.1.0 hotfix1`). */
    recorded: Type.Optional(Type.String()),
    /** The package manager's version of the server package; for a container, what its image tells. */
    package: Type.Optional(Type.String()),
    /** `kwbase version`. */
    binary: Type.Optional(Type.String()),
    /** `build` of this node in `kwbase node status`. */
    running: Type.Optional(Type.String()),
  }),
  condition: Condition,
  /** What the condition was concluded from, in words; empty when clean. */
  conditionDetail: Type.String(),
  /** Why what is installed here cannot be exchanged without a loss, in words; absent when it can. */
  unfit: Type.Optional(Type.String()),
});
export type Installation = Static<typeof Installation>;

/** One row of `kwbase node status --all`. */
export const NodeRow = Type.Object({
  kwdbId: Type.Integer(),
  /** Absent for a node that never came up since the answering node started (KWDB prints NULL). */
  address: Type.Optional(Type.String()),
  build: Type.Optional(Type.String()),
  startedAtMs: Type.Optional(Type.Integer()),
  updatedAtMs: Type.Optional(Type.Integer()),
  startMode: Type.Optional(Type.String()),
  isAvailable: Type.Boolean(),
  isLive: Type.Boolean(),
  isDecommissioning: Type.Boolean(),
  isDraining: Type.Boolean(),
});
export type NodeRow = Static<typeof NodeRow>;

/** What the database says of the cluster, asked through one node. */
export const ClusterView = Type.Object({
  clusterId: Type.String(),
  /** The id of the node that answered. */
  kwdbId: Type.Integer(),
  observedAtMs: Type.Integer(),
  nodes: Type.Array(NodeRow),
});
export type ClusterView = Static<typeof ClusterView>;

/** The questions a cluster check asks; asked right before they matter. */
export const ClusterHealth = Type.Object({
  view: ClusterView,
  rangesUnavailable: Type.Optional(Type.Integer()),
  rangesUnderreplicated: Type.Optional(Type.Integer()),
  /** Schema changes, bulk imports and other jobs that are pending, running, paused or reverting. */
  jobs: Type.Optional(
    Type.Array(
      Type.Object({ id: Type.String(), type: Type.String(), description: Type.String(), status: Type.String() }),
    ),
  ),
  leases: Type.Optional(Type.Array(Type.Object({ kwdbId: Type.Integer(), count: Type.Integer() }))),
  sessions: Type.Optional(Type.Array(Type.Object({ kwdbId: Type.Integer(), count: Type.Integer() }))),
  settings: Type.Optional(Type.Array(Type.Object({ name: Type.String(), value: Type.String() }))),
});
export type ClusterHealth = Static<typeof ClusterHealth>;

/** Everything an agent knows of its node, sent on connect and on change. */
export const NodeReport = Type.Object({
  host: HostFacts,
  installation: Type.Optional(Installation),
  /** Whether `/health` and `/health?ready=1` answered 200. */
  serving: Type.Boolean(),
  ready: Type.Boolean(),
  /** Which node of which cluster this is: from the database when it answers, else what it last said (kept on the host). */
  identity: Type.Optional(Type.Object({ clusterId: Type.String(), kwdbId: Type.Integer() })),
  /** What the database said just now; absent when it did not answer. */
  view: Type.Optional(ClusterView),
  /** The last answer to the questions of a cluster check; asked when a full report is made, so it may be older. */
  health: Type.Optional(ClusterHealth),
  observedAtMs: Type.Integer(),
});
export type NodeReport = Static<typeof NodeReport>;

/** A node as the controller knows it: the last report and how fresh the link is. */
export const NodeFacts = Type.Object({
  /** The node's name in the fleet: its agent's id. */
  node: Type.String(),
  connected: Type.Boolean(),
  /** When the controller last heard from the agent, by the controller's clock. */
  lastSeenMs: Type.Integer(),
  /** The host's clock minus the controller's when last heard, in milliseconds. */
  clockSkewMs: Type.Integer(),
  report: NodeReport,
});
export type NodeFacts = Static<typeof NodeFacts>;
