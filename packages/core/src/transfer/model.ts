/**
 * A transfer: everything of one cluster exported and imported into another. Names of databases, tables and users are
 * data wherever they occur here; only sql.ts makes them parts of statements.
 */
import Type, { type Static } from 'typebox';

/** KWDB's own limit of a name is far lower; this bounds what a broken answer could bring. */
const Name = Type.String({ minLength: 1, maxLength: 255 });
/** Made by the controller or the agent, of characters that mean nothing to a path, a URI or SQL. */
const SafeName = Type.String({ pattern: '^[a-z0-9][a-z0-9.-]{0,120}$' });

export const Engine = Type.Union([Type.Literal('relational'), Type.Literal('timeseries')]);
export type Engine = Static<typeof Engine>;

export const TableRef = Type.Object({ schema: Name, table: Name });
export type TableRef = Static<typeof TableRef>;

/**
 * What is exported and imported as one: a relational table, or a time-series database with all its tables.
 * Source: KWDB facts, "Export and import".
 */
export const TransferUnit = Type.Object({
  engine: Engine,
  database: Name,
  /** One for a relational unit; every table of a time-series database. */
  tables: Type.Array(TableRef, { minItems: 1, maxItems: 10_000 }),
});
export type TransferUnit = Static<typeof TransferUnit>;

/** A file of an export, by its path below the unit's directory. */
export const TransferFile = Type.Object({
  path: Type.String({ minLength: 1, maxLength: 1024 }),
  sizeBytes: Type.Integer({ minimum: 0 }),
  sha256: Type.String({ pattern: '^[0-9a-f]{64}$' }),
});
export type TransferFile = Static<typeof TransferFile>;

/** What is compared of a table: how many rows it has, and what an ordered sample of them looks like. */
export const TableDigest = Type.Object({
  ...TableRef.properties,
  rows: Type.Integer({ minimum: 0 }),
  /** The columns read, and those that order the rows, in the source's order: both sides ask alike. */
  columns: Type.Array(Name, { maxItems: 5_000 }),
  order: Type.Array(Name, { maxItems: 5_000 }),
  sampledRows: Type.Integer({ minimum: 0 }),
  /** SHA-256 over the sampled rows as `kwbase sql --format=csv` prints them. */
  sha256: Type.String({ pattern: '^[0-9a-f]{64}$' }),
});
export type TableDigest = Static<typeof TableDigest>;

/** Where samples lie: so many rows at the start, at the end, and from a place in the middle that the seed decides. */
export const Sample = Type.Object({
  seed: Type.Integer({ minimum: 0, maximum: 0xffff_ffff }),
  rows: Type.Integer({ minimum: 1, maximum: 10_000 }),
});
export type Sample = Static<typeof Sample>;

export const TransferUser = Type.Object({ name: Name, isRole: Type.Boolean(), options: Type.Array(Type.String()) });
export type TransferUser = Static<typeof TransferUser>;

export const Membership = Type.Object({ role: Name, member: Name, isAdmin: Type.Boolean() });
export type Membership = Static<typeof Membership>;

/** A privilege on a database; on a schema of it where one is named; on a table where that is named too. */
export const Grant = Type.Object({
  database: Name,
  schema: Type.Optional(Name),
  table: Type.Optional(Name),
  grantee: Name,
  privilege: Type.String({ pattern: '^[A-Z]{2,20}$' }),
});
export type Grant = Static<typeof Grant>;

export const TransferSetting = Type.Object({
  name: Type.String({ pattern: '^[a-z][a-z0-9_]*(\\.[a-z0-9_]+)*$', maxLength: 200 }),
  value: Type.String({ maxLength: 10_000 }),
});
export type TransferSetting = Static<typeof TransferSetting>;

/** A database that is made before its tables are imported. IMPORT DATABASE makes those of time series, but no empty one. */
export const NewDatabase = Type.Object({ name: Name, engine: Engine, schemas: Type.Array(Name) });
export type NewDatabase = Static<typeof NewDatabase>;

/** The task of a step: what the phases `export`, `import`, `compare` and `recreate` work on. */
export const TransferTask = Type.Object({
  /** Below the data root's `extern`; of this run, step and attempt alone. */
  directory: Type.Optional(SafeName),
  /** Directories of the run's earlier attempts begin with this. */
  prefix: Type.Optional(SafeName),
  unit: Type.Optional(TransferUnit),
  sample: Type.Optional(Sample),
  /** For `import`: what the export brought, and whether tables found there may be this run's own, half imported. */
  files: Type.Array(TransferFile),
  mayReplace: Type.Boolean(),
  /** For `import` and `compare`: what the source has. */
  digests: Type.Array(TableDigest),
  databases: Type.Array(NewDatabase),
  users: Type.Array(TransferUser),
  memberships: Type.Array(Membership),
  grants: Type.Array(Grant),
  clusterSettings: Type.Array(TransferSetting),
});
export type TransferTask = Static<typeof TransferTask>;

export const EMPTY_TASK: TransferTask = {
  files: [],
  mayReplace: false,
  digests: [],
  databases: [],
  users: [],
  memberships: [],
  grants: [],
  clusterSettings: [],
};

/** What came of a transfer phase; later steps of the unit are made of it. */
export const TransferOutcome = Type.Object({
  files: Type.Array(TransferFile, { maxItems: 50_000 }),
  digests: Type.Array(TableDigest),
  /** Files in the agent's state directory with the rows that an import rejected. */
  rejectFiles: Type.Array(Type.String()),
});
export type TransferOutcome = Static<typeof TransferOutcome>;

/** Everything that a run carries over, as the plan shows it. */
export const TransferContent = Type.Object({
  source: Type.Object({ cluster: Type.String(), node: Type.String(), version: Type.String() }),
  sample: Sample,
  units: Type.Array(TransferUnit),
  databases: Type.Array(NewDatabase),
  users: Type.Array(TransferUser),
  memberships: Type.Array(Membership),
  grants: Type.Array(Grant),
  clusterSettings: Type.Array(TransferSetting),
});
export type TransferContent = Static<typeof TransferContent>;

/** What a person may choose of a transfer. All have defaults. */
export const TransferOptions = Type.Object(
  {
    /** How many tables are under way at once, one behind the other. */
    concurrency: Type.Optional(Type.Integer({ minimum: 1, maximum: 8 })),
    /** Rows of each of the three samples of a table. */
    sampleRows: Type.Optional(Type.Integer({ minimum: 1, maximum: 10_000 })),
    /** Where the samples in the middle lie; drawn when the plan is made, unless given. */
    seed: Type.Optional(Sample.properties.seed),
    /** How long one step may take at most. */
    ceilingMs: Type.Optional(Type.Integer({ minimum: 60_000, maximum: 30 * 86_400_000 })),
  },
  { additionalProperties: false },
);
export type TransferOptions = Static<typeof TransferOptions>;

export const InventoryDatabase = Type.Object({
  name: Name,
  engine: Engine,
  /** Those made by users; `public` goes without saying. */
  schemas: Type.Array(Name),
  tables: Type.Array(TableRef),
  /** Views, sequences, template and other tables that neither EXPORT nor IMPORT carries: `KIND schema.name`. */
  notCarried: Type.Array(Type.String()),
  /** Tables with foreign keys, which EXPORT leaves out. */
  foreignKeys: Type.Array(TableRef),
});
export type InventoryDatabase = Static<typeof InventoryDatabase>;

/** As the source tells it: its version may have privileges that are not known here. */
export const InventoryGrant = Type.Object({ ...Grant.properties, privilege: Type.String() });
export type InventoryGrant = Static<typeof InventoryGrant>;

/** Everything a cluster holds, as one of its nodes told it. */
export const Inventory = Type.Object({
  observedAtMs: Type.Integer(),
  databases: Type.Array(InventoryDatabase),
  users: Type.Array(TransferUser),
  memberships: Type.Array(Membership),
  grants: Type.Array(InventoryGrant),
  clusterSettings: Type.Array(TransferSetting),
  /** Names of every cluster setting that this version knows. */
  knownSettings: Type.Array(Type.String()),
});
export type Inventory = Static<typeof Inventory>;
