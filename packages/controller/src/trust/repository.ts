/**
 * The packages as a repository of The Update Framework. Root and list of packages are signed by people, on their own
 * machines; they are checked here before agents ever see them, but agents check all of it by themselves. What this
 * controller signs by itself, snapshot and timestamp, only says which signed list is the newest.
 */
import { createHash } from 'node:crypto';
import { FleetError, type PackageInfo, type StagedMetadata, type TrustView } from '@kwfleet/core';
import {
  contentsOf,
  isEvaluation,
  Metadata,
  MetaFile,
  newRoot,
  newTargets,
  packagesOf,
  type Root,
  readMetadata,
  type SigningKey,
  Snapshot,
  SPEC_VERSION,
  signersOf,
  signMetadata,
  type Targets,
  Timestamp,
  timeText,
  writeMetadata,
} from '@kwfleet/protocol/tuf';
import type { Logger } from 'pino';
import { audit } from '../store/audit.ts';
import type { Database, Sql } from '../store/database.ts';
import { databaseNow } from '../store/nodes.ts';
import { allPackages } from '../store/packages.ts';
import {
  findMetadata,
  findStaged,
  insertMetadata,
  lockTrust,
  type StagedRole,
  stage,
  type TrustRole,
  unstage,
} from '../store/trust.ts';

const DAY_MS = 86_400_000;
/** How long a host takes an old word for the newest: what is withheld from it longer is noticed. */
const TIMESTAMP_MS = DAY_MS;
const SNAPSHOT_MS = 7 * DAY_MS;
/** In evaluation the controller signs the list too, and renews it in time. */
const EVALUATION_MS = 3_650 * DAY_MS;

export type Repository = {
  view(): Promise<TrustView>;
  /** `root.json`, `3.root.json`, `timestamp.json`, ...: exactly as signed; undefined when there is none. */
  metadata(name: string): Promise<string | undefined>;
  /** What waits for more signatures. */
  staged(role: StagedRole): Promise<string | undefined>;
  /**
   * Takes metadata that people signed. With enough signatures it is published, else kept until others have signed the
   * same. Throws TRUST_INVALID, changing nothing, when agents would refuse it.
   */
  submit(role: StagedRole, text: string, actor: string): Promise<TrustView>;
  /** Packages that agents accept. */
  signed(sql: Sql): Promise<ReadonlySet<string>>;
  /** In evaluation a package is signed by the controller as it comes, and one that goes leaves the list. */
  changed(sql: Sql, change: { added?: PackageInfo; removed?: string }): Promise<void>;
};

type Current = { readonly root: Metadata<Root>; readonly targets: Metadata<Targets> | undefined };

/** Packages that a plan may use. In evaluation those are all: the controller signs each as it comes. */
export async function acceptedPackages(sql: Sql): Promise<ReadonlySet<string> | 'all'> {
  const now = await current(sql);
  return isEvaluation(contentsOf(now.root)) ? 'all' : signedIn(now);
}

/** Opens the repository, and makes one for evaluation where there is none. */
export async function openRepository(database: Database, online: SigningKey, log: Logger): Promise<Repository> {
  await database.transaction((sql) => makeForEvaluation(sql, online));
  const { root } = await database.transaction(current);
  if (!contentsOf(root).online.keys.includes(online.public)) {
    log.error('the root names another controller key: agents will refuse all packages until people sign a new root');
  }

  return {
    view: () => database.transaction((sql) => viewOf(sql, online), 'REPEATABLE READ'),
    async metadata(name) {
      const asked = /^(?:([1-9]\d{0,15})\.)?(root|targets|snapshot|timestamp)\.json$/.exec(name);
      if (asked === null) return undefined;
      const [, version, role] = asked as unknown as [string, string | undefined, TrustRole];
      if (role === 'timestamp' && version === undefined) await database.transaction((sql) => renew(sql, online));
      return findMetadata(database, role, version === undefined ? undefined : Number(version));
    },
    staged: (role) => findStaged(database, role),
    submit: (role, text, actor) =>
      database.transaction(async (sql) => {
        await lockTrust(sql);
        const published = role === 'root' ? await submitRoot(sql, text, online) : await submitTargets(sql, text);
        if (published) await publishNewest(sql, online);
        const sha256 = createHash('sha256').update(text).digest('hex');
        await audit(sql, actor, published ? 'trust.publish' : 'trust.stage', { role, sha256 });
        return viewOf(sql, online);
      }),
    signed: async (sql) => signedIn(await current(sql)),
    async changed(sql, { added, removed }) {
      await lockTrust(sql);
      const { root, targets } = await current(sql);
      if (!isEvaluation(contentsOf(root)) || targets === undefined) return;
      const others = packagesOf(targets).filter(({ sha256 }) => sha256 !== added?.sha256 && sha256 !== removed);
      await signTargets(sql, added === undefined ? others : [...others, added], online);
      await publishNewest(sql, online);
    },
  };
}

/** Versions grow with the time, so that a database put back from a backup does not seem rolled back to agents. */
async function nextVersion(sql: Sql, role: 'targets' | 'snapshot' | 'timestamp'): Promise<number> {
  const last = JSON.parse((await findMetadata(sql, role)) ?? '{}') as { signed?: { version?: number } };
  return Math.max((last.signed?.version ?? 0) + 1, Math.floor((await databaseNow(sql)) / 1000));
}

async function makeForEvaluation(sql: Sql, online: SigningKey): Promise<void> {
  await lockTrust(sql);
  if ((await findMetadata(sql, 'root')) !== undefined) return;
  const own = { keys: [online.public], threshold: 1 };
  const expiresAtMs = (await databaseNow(sql)) + EVALUATION_MS;
  const root = newRoot({ version: 1, expiresAtMs, root: own, targets: own, online: own });
  signMetadata(root, online);
  await insertMetadata(sql, 'root', 1, writeMetadata(root));
  await signTargets(sql, await allPackages(sql), online);
  await publishNewest(sql, online);
}

async function signTargets(sql: Sql, packages: readonly PackageInfo[], online: SigningKey): Promise<void> {
  const version = await nextVersion(sql, 'targets');
  const targets = newTargets(version, (await databaseNow(sql)) + EVALUATION_MS, packages);
  signMetadata(targets, online);
  await insertMetadata(sql, 'targets', version, writeMetadata(targets));
}

/**
 * A new snapshot of the newest list, and a timestamp that names it. Throws TRUST_INVALID where the root names the key of
 * another controller: hosts would refuse what this one signs.
 */
async function publishNewest(sql: Sql, online: SigningKey): Promise<void> {
  if (!(await isNamed(sql, online))) {
    const how = 'controllers of one database share data_dir/trust; see docs/packages.md';
    throw new FleetError('TRUST_INVALID', `the root names another controller's key than this one's: ${how}`);
  }
  const targets = await findMetadata(sql, 'targets');
  if (targets === undefined) return;
  const version = await nextVersion(sql, 'snapshot');
  const meta = { 'targets.json': metaFile(readMetadata('targets', targets).signed.version, targets) };
  const expires = timeText((await databaseNow(sql)) + SNAPSHOT_MS);
  const snapshot = new Metadata(new Snapshot({ specVersion: SPEC_VERSION, version, expires, meta }));
  signMetadata(snapshot, online);
  await insertMetadata(sql, 'snapshot', version, writeMetadata(snapshot));
  await signTimestamp(sql, online);
}

async function isNamed(sql: Sql, online: SigningKey): Promise<boolean> {
  return contentsOf((await current(sql)).root).online.keys.includes(online.public);
}

function metaFile(version: number, text: string): MetaFile {
  const sha256 = createHash('sha256').update(text).digest('hex');
  return new MetaFile({ version, length: Buffer.byteLength(text), hashes: { sha256 } });
}

/** Names the newest snapshot. */
async function signTimestamp(sql: Sql, online: SigningKey): Promise<void> {
  const snapshot = (await findMetadata(sql, 'snapshot')) ?? '';
  const { signed } = JSON.parse(snapshot) as { signed: { version: number } };
  const version = await nextVersion(sql, 'timestamp');
  const expires = timeText((await databaseNow(sql)) + TIMESTAMP_MS);
  const timestamp = new Metadata(
    new Timestamp({ specVersion: SPEC_VERSION, version, expires, snapshotMeta: metaFile(signed.version, snapshot) }),
  );
  signMetadata(timestamp, online);
  await insertMetadata(sql, 'timestamp', version, writeMetadata(timestamp));
}

/** Signs anew what has less than half of its time left. */
async function renew(sql: Sql, online: SigningKey): Promise<void> {
  if (!(await isNamed(sql, online))) return;
  const nowMs = await databaseNow(sql);
  const due = async (role: TrustRole, validMs: number) => {
    const { signed } = JSON.parse((await findMetadata(sql, role)) ?? '{}') as { signed?: { expires?: string } };
    return signed?.expires !== undefined && Date.parse(signed.expires) - nowMs < validMs / 2;
  };
  if (!(await due('timestamp', TIMESTAMP_MS)) && !(await due('snapshot', SNAPSHOT_MS))) return;
  await lockTrust(sql);
  // Another controller may have been quicker.
  if (await due('snapshot', SNAPSHOT_MS)) return publishNewest(sql, online);
  if (await due('timestamp', TIMESTAMP_MS)) await signTimestamp(sql, online);
}

async function current(sql: Sql): Promise<Current> {
  const root = await findMetadata(sql, 'root');
  const targets = await findMetadata(sql, 'targets');
  if (root === undefined) throw new Error('the repository has no root');
  return {
    root: readMetadata('root', root),
    targets: targets === undefined ? undefined : readMetadata('targets', targets),
  };
}

/** Whether agents accept the list: its keys may have been changed after it was signed, or its time may be over. */
const acceptable = ({ root, targets }: Current): boolean =>
  targets !== undefined && signersOf(root, 'targets', targets).enough && !targets.signed.isExpired();

function signedIn(now: Current): ReadonlySet<string> {
  const packages = acceptable(now) && now.targets !== undefined ? packagesOf(now.targets) : [];
  return new Set(packages.map(({ sha256 }) => sha256));
}

/** Whether it was published; false when it waits for more signatures. */
async function submitRoot(sql: Sql, text: string, online: SigningKey): Promise<boolean> {
  const { root } = await current(sql);
  const now = contentsOf(root);
  const next = readMetadata('root', text);
  const contents = contentsOf(next);
  if (contents.version !== now.version + 1) {
    throw new FleetError('TRUST_INVALID', `the next root is version ${now.version + 1}, not ${contents.version}`);
  }
  if (contents.online.keys.length !== 1 || contents.online.keys[0] !== online.public) {
    throw new FleetError('TRUST_INVALID', `snapshot and timestamp must have this controller's key, ${online.public}`);
  }
  if (isEvaluation(contents)) {
    throw new FleetError('TRUST_INVALID', "the controller's own key may sign neither roots nor packages");
  }
  if (next.signed.isExpired()) throw new FleetError('TRUST_INVALID', 'the root has expired already');
  // Out of evaluation the controller hands over, once.
  if (isEvaluation(now)) signMetadata(next, online);
  await joinSignatures(sql, 'root', next);
  const [before, after] = [signersOf(root, 'root', next), signersOf(next, 'root', next)];
  if (before.enough && after.enough) {
    await insertMetadata(sql, 'root', contents.version, writeMetadata(next));
    await unstage(sql, 'root');
    return true;
  }
  if (after.by.length === 0 && before.by.length === 0) {
    throw new FleetError('TRUST_INVALID', 'the root is signed by none of its keys');
  }
  await stage(sql, 'root', writeMetadata(next));
  return false;
}

async function submitTargets(sql: Sql, text: string): Promise<boolean> {
  const { root, targets } = await current(sql);
  const next = readMetadata('targets', text);
  if (next.signed.version <= (targets?.signed.version ?? 0)) {
    throw new FleetError(
      'TRUST_INVALID',
      `the list is version ${next.signed.version}; ${targets?.signed.version} is published already: sign anew`,
    );
  }
  if (Object.keys(next.signed.targets).length !== packagesOf(next).length || next.signed.delegations !== undefined) {
    throw new FleetError('TRUST_INVALID', 'the list names something that is no package');
  }
  if (next.signed.isExpired()) throw new FleetError('TRUST_INVALID', 'the list has expired already');
  await joinSignatures(sql, 'targets', next);
  const signers = signersOf(root, 'targets', next);
  if (signers.by.length === 0) throw new FleetError('TRUST_INVALID', 'the list is signed by no key that may sign it');
  if (!signers.enough) {
    await stage(sql, 'targets', writeMetadata(next));
    return false;
  }
  await insertMetadata(sql, 'targets', next.signed.version, writeMetadata(next));
  await unstage(sql, 'targets');
  return true;
}

/** Signatures of the very same contents, given by others before, count too. */
async function joinSignatures(sql: Sql, role: StagedRole, next: Metadata<Root | Targets>): Promise<void> {
  const text = await findStaged(sql, role);
  if (text === undefined) return;
  const before = readMetadata(role, text) as Metadata<Root | Targets>;
  if (!(before.signed as Root).equals(next.signed as Root)) return;
  for (const [id, signature] of Object.entries(before.signatures)) next.signatures[id] ??= signature;
}

async function viewOf(sql: Sql, online: SigningKey): Promise<TrustView> {
  const now = await current(sql);
  const { root, targets } = now;
  const contents = contentsOf(root);
  const text = (await findMetadata(sql, 'root')) ?? '';
  const stagedRoot = await findStaged(sql, 'root');
  const stagedTargets = await findStaged(sql, 'targets');
  return {
    evaluation: isEvaluation(contents),
    online: online.public,
    root: {
      version: contents.version,
      sha256: createHash('sha256').update(text).digest('hex'),
      expiresAtMs: contents.expiresAtMs,
      keys: [...contents.root.keys],
      threshold: contents.root.threshold,
    },
    packages: {
      keys: [...contents.targets.keys],
      threshold: contents.targets.threshold,
      acceptable: acceptable(now),
      version: targets?.signed.version ?? 0,
      expiresAtMs: targets === undefined ? 0 : Date.parse(targets.signed.expires),
      sha256s: targets === undefined ? [] : packagesOf(targets).map(({ sha256 }) => sha256),
    },
    staged: {
      ...(stagedRoot && { root: stagedView(root, 'root', readMetadata('root', stagedRoot)) }),
      ...(stagedTargets && { targets: stagedView(root, 'targets', readMetadata('targets', stagedTargets)) }),
    },
  };
}

function stagedView(root: Metadata<Root>, role: StagedRole, metadata: Metadata<Root | Targets>): StagedMetadata {
  const { by, threshold } = signersOf(root, role, metadata as Metadata<Root>);
  return { version: metadata.signed.version, signedBy: [...by], threshold };
}
