/**
 * Packages are published as a repository of The Update Framework (theupdateframework.github.io/specification): here is
 * what its metadata says in this project. The models are @tufjs/models', the client on the agent is tuf-js.
 *
 * - `root` names the keys of every role. People sign it.
 * - `targets` lists the packages, each with all that is known of it. People sign it.
 * - `snapshot` and `timestamp` say which version of the list is the newest. The controller signs them, by itself.
 */
import { createHash, createPrivateKey, createPublicKey, type KeyObject, sign } from 'node:crypto';
import { FleetError, PackageInfo } from '@kwfleet/core';
import { type Key, Metadata, MetadataKind, Root, Signature, TargetFile, Targets } from '@tufjs/models';
import Schema from 'typebox/schema';

export { Metadata, MetadataKind, MetaFile, Root, Snapshot, Targets, Timestamp } from '@tufjs/models';

/** An ed25519 key that can sign; `public` is its public half, 32 bytes in hexadecimal. */
export type SigningKey = { readonly public: string; readonly secret: KeyObject };

/** The keys of a role, as public halves, and how many of them must sign. */
export type RoleKeys = { readonly keys: readonly string[]; readonly threshold: number };

/** What a root says. */
export type RootContents = {
  readonly version: number;
  readonly expiresAtMs: number;
  readonly root: RoleKeys;
  /** Who may publish packages. */
  readonly targets: RoleKeys;
  /** The controller's key, for `snapshot` and `timestamp`. */
  readonly online: RoleKeys;
};

export const SPEC_VERSION = '1.0.31';
const RAW_KEY_BYTES = 32;

/** A key from its PKCS#8 PEM. */
export function signingKey(pem: string): SigningKey {
  const secret = createPrivateKey(pem);
  const spki = createPublicKey(secret).export({ format: 'der', type: 'spki' });
  return { public: spki.subarray(-RAW_KEY_BYTES).toString('hex'), secret };
}

export const isPublicKey = (text: string): boolean => /^[0-9a-f]{64}$/.test(text);

/** SHA-256 over the key's canonical JSON, as the specification recommends. */
export const keyIdOf = (publicKey: string): string =>
  createHash('sha256')
    .update(JSON.stringify(keyJson(publicKey)))
    .digest('hex');

/** In canonical order: keyIdOf hashes it as it is. */
const keyJson = (publicKey: string) => ({ keytype: 'ed25519', keyval: { public: publicKey }, scheme: 'ed25519' });

/** As TUF writes times: whole seconds, in UTC. */
export const timeText = (ms: number): string => new Date(ms).toISOString().replace(/\.\d+Z$/, 'Z');

export function newRoot({ version, expiresAtMs, root, targets, online }: RootContents): Metadata<Root> {
  const all = [...new Set([...root.keys, ...targets.keys, ...online.keys])].sort();
  const role = ({ keys, threshold }: RoleKeys) => ({ keyids: keys.map(keyIdOf), threshold });
  const json = {
    _type: MetadataKind.Root,
    spec_version: SPEC_VERSION,
    version,
    expires: timeText(expiresAtMs),
    consistent_snapshot: true,
    keys: Object.fromEntries(all.map((key) => [keyIdOf(key), keyJson(key)])),
    roles: { root: role(root), targets: role(targets), snapshot: role(online), timestamp: role(online) },
  };
  return new Metadata(Root.fromJSON(json as Parameters<typeof Root.fromJSON>[0]));
}

/** Throws TRUST_INVALID when it says more or other than this project's roots do. */
export function contentsOf({ signed }: Metadata<Root>): RootContents {
  const roleOf = (name: string): RoleKeys => {
    const { keyIDs = [], threshold = 1 } = signed.roles[name] ?? {};
    return { keys: keyIDs.map((id) => signed.keys[id]?.keyVal.public ?? ''), threshold };
  };
  const [root, targets, online, timestamp] = ['root', 'targets', 'snapshot', 'timestamp'].map(roleOf) as [
    RoleKeys,
    RoleKeys,
    RoleKeys,
    RoleKeys,
  ];
  const contents = { version: signed.version, expiresAtMs: Date.parse(signed.expires), root, targets, online };
  if (JSON.stringify(online) !== JSON.stringify(timestamp)) {
    throw new FleetError('TRUST_INVALID', 'snapshot and timestamp must have the same key, the controller’s');
  }
  for (const [name, { keys, threshold }] of Object.entries({ root, targets, online })) {
    const sound = keys.every(isPublicKey) && new Set(keys).size === keys.length;
    const possible = Number.isInteger(threshold) && threshold >= 1 && threshold <= keys.length;
    if (!sound || !possible) throw new FleetError('TRUST_INVALID', `the keys of ${name} are not as they must be`);
  }
  return contents;
}

/** Whether the controller itself may publish packages: true until people's keys take over. */
export function isEvaluation({ root, targets, online }: RootContents): boolean {
  return [...root.keys, ...targets.keys].some((key) => online.keys.includes(key));
}

export const targetPath = (sha256: string): string => `packages/${sha256}`;

/** The list of packages; everything known of each is signed with it. */
export function newTargets(version: number, expiresAtMs: number, packages: readonly PackageInfo[]): Metadata<Targets> {
  const targets = Object.fromEntries(
    packages.map((info): [string, TargetFile] => {
      const path = targetPath(info.sha256);
      const custom = { package: { ...info } };
      const file = { path, length: info.sizeBytes, hashes: { sha256: info.sha256 }, unrecognizedFields: { custom } };
      return [path, new TargetFile(file)];
    }),
  );
  return new Metadata(new Targets({ specVersion: SPEC_VERSION, version, expires: timeText(expiresAtMs), targets }));
}

/** The package that a target is, or undefined when it is not one of ours. */
export function packageOf({ path, length, hashes, custom }: TargetFile): PackageInfo | undefined {
  const info: unknown = custom.package;
  if (!isPackage.Check(info)) return undefined;
  const whole = path === targetPath(info.sha256) && hashes.sha256 === info.sha256 && length === info.sizeBytes;
  return whole ? info : undefined;
}
const isPackage = Schema.Compile(PackageInfo);

export const packagesOf = ({ signed }: Metadata<Targets>): PackageInfo[] =>
  Object.values(signed.targets).flatMap((target) => packageOf(target) ?? []);

type Kinds = { root: Root; targets: Targets };

/** Reads metadata from its JSON. Throws TRUST_INVALID. */
export function readMetadata<K extends keyof Kinds>(kind: K, text: string): Metadata<Kinds[K]> {
  try {
    return Metadata.fromJSON(kind as MetadataKind.Root, JSON.parse(text)) as unknown as Metadata<Kinds[K]>;
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new FleetError('TRUST_INVALID', `this is no ${kind} metadata: ${reason}`, { cause });
  }
}

export const writeMetadata = (metadata: Metadata<Root | Targets> | { toJSON(): unknown }): string =>
  JSON.stringify(metadata.toJSON());

/** Adds the key's signature; those of other keys stay. */
export function signMetadata(metadata: Pick<Metadata<Root>, 'sign'>, key: SigningKey): void {
  metadata.sign((bytes) => {
    const sig = sign(null, bytes, key.secret).toString('hex');
    return new Signature({ keyID: keyIdOf(key.public), sig });
  });
}

export type Signers = {
  /** Public halves of the role's keys whose signature is good. */
  readonly by: readonly string[];
  readonly threshold: number;
  readonly enough: boolean;
};

/** Who of a role's keys, by this root, has signed. */
export function signersOf(
  { signed }: Metadata<Root>,
  role: 'root' | 'targets' | 'snapshot' | 'timestamp',
  metadata: Parameters<Key['verifySignature']>[0],
): Signers {
  const { keyIDs = [], threshold = Number.POSITIVE_INFINITY } = signed.roles[role] ?? {};
  const by = keyIDs.flatMap((id) => {
    const key = signed.keys[id];
    try {
      key?.verifySignature(metadata);
      return key?.keyVal.public ?? [];
    } catch {
      return [];
    }
  });
  return { by, threshold, enough: new Set(by).size >= threshold };
}
