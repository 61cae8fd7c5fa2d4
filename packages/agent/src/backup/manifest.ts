/** The list of everything in a backup. Its own SHA-256 is what the controller remembers. */
import { createHash } from 'node:crypto';
import { open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { FleetError } from '@kwfleet/core';
import Type, { type Static } from 'typebox';
import Schema from 'typebox/schema';
import type { Identity } from './spec.ts';

const MANIFEST = 'manifest.json';

const ManifestEntry = Type.Object({
  path: Type.String(),
  type: Type.Union([Type.Literal('directory'), Type.Literal('file'), Type.Literal('link')]),
  mode: Type.Integer(),
  uid: Type.Integer(),
  gid: Type.Integer(),
  mtimeMs: Type.Number(),
  sizeBytes: Type.Integer({ minimum: 0 }),
  /** What it took on the disk it was copied from; absent in manifests of older agents. */
  allocatedBytes: Type.Optional(Type.Integer({ minimum: 0 })),
  target: Type.Optional(Type.String()),
  sha256: Type.Optional(Type.String({ pattern: '^[0-9a-f]{64}$' })),
});
export type ManifestEntry = Static<typeof ManifestEntry>;

export const Manifest = Type.Object({
  format: Type.Literal(1),
  set: Type.String(),
  cluster: Type.String(),
  node: Type.String(),
  kwdbId: Type.Integer(),
  version: Type.String(),
  action: Type.String(),
  madeAtMs: Type.Integer(),
  roots: Type.Array(Type.Object({ name: Type.String(), path: Type.String(), entries: Type.Array(ManifestEntry) })),
});
export type Manifest = Static<typeof Manifest>;

const checker = Schema.Compile(Manifest);

/** Where the copy of a root lies inside a backup. */
export const copyOf = (place: string, root: string): string => join(place, 'files', root);

export function totals({ roots }: Pick<Manifest, 'roots'>): { files: number; sizeBytes: number } {
  const files = roots.flatMap(({ entries }) => entries.filter(({ type }) => type === 'file'));
  return { files: files.length, sizeBytes: files.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0) };
}

/** Writes it durably; answers its SHA-256. */
export async function writeManifest(place: string, manifest: Manifest): Promise<string> {
  const bytes = Buffer.from(`${JSON.stringify(manifest)}\n`);
  const handle = await open(join(place, MANIFEST), 'w', 0o600);
  try {
    await handle.writeFile(bytes);
    await handle.sync();
  } finally {
    await handle.close();
  }
  return sha256(bytes);
}

/** Throws BACKUP_MISSING when there is none, BACKUP_DAMAGED when it is none of ours. */
export async function readManifest(place: string): Promise<{ manifest: Manifest; sha256: string }> {
  let bytes: Buffer;
  try {
    bytes = await readFile(join(place, MANIFEST));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    throw new FleetError('BACKUP_MISSING', `there is no backup in ${place}`);
  }
  let content: unknown;
  try {
    content = JSON.parse(bytes.toString());
  } catch {
    content = undefined;
  }
  if (!checker.Check(content)) throw new FleetError('BACKUP_DAMAGED', `the manifest in ${place} cannot be read`);
  return { manifest: content, sha256: sha256(bytes) };
}

/** Throws BACKUP_DAMAGED when the manifest is not the one that was recorded, or not of this node. */
export function requireIdentity(manifest: Manifest, found: string, expected: string, identity: Identity): void {
  for (const name of ['set', 'cluster', 'node', 'kwdbId', 'version'] as const) {
    if (manifest[name] === identity[name]) continue;
    throw new FleetError('BACKUP_DAMAGED', `the manifest is of ${name} ${manifest[name]}, not of ${identity[name]}`);
  }
  if (found !== expected) {
    throw new FleetError('BACKUP_DAMAGED', `the manifest has the SHA-256 ${found}; recorded was ${expected}`);
  }
}

const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');
