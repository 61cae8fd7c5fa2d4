/** Whether a backup is what it was when it was made: every file read again, none missing, none more. */
import { access, constants, rm, statfs } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { FleetError } from '@kwfleet/core';
import { asideOf, exists } from './aside.ts';
import { placeOf } from './cold-copy.ts';
import { clone, Meter, mebibytes, SPARE_BYTES, sha256OfFile } from './copy-tree.ts';
import { copyOf, type Manifest, readManifest, requireIdentity, totals } from './manifest.ts';
import { mountPoints } from './mounts.ts';
import { requireSamePlaces, rootsPutBack } from './restore.ts';
import type { Say, Work } from './spec.ts';
import { isWithin, walkTree } from './tree.ts';

/**
 * Throws BACKUP_MISSING or BACKUP_DAMAGED; and when it could not be put in place: DISK_FULL, or RESTORE_FAILED and
 * BACKUP_UNSUPPORTED with the reason.
 */
export async function check(work: Work & { work: 'check' }, say: Say): Promise<void> {
  const place = placeOf(work.directory, work.identity.node, work.identity.set);
  const { manifest, sha256 } = await readManifest(place);
  requireIdentity(manifest, sha256, work.manifestSha256, work.identity);
  const { files, sizeBytes } = totals(manifest);
  const meter = new Meter(say, 'read', sizeBytes);
  for (const root of manifest.roots) await checkRoot(place, root, meter);
  await requireSamePlaces(manifest, work.roots);
  for (const root of rootsPutBack(manifest)) await requireExchangeable(root);
  await requireRoom(place, manifest);
  say(`${files} files, ${mebibytes(sizeBytes)} MiB, are as they were when the backup was made`);
}

async function checkRoot(place: string, root: Manifest['roots'][number], meter: Meter): Promise<void> {
  const copy = copyOf(place, root.name);
  const found = new Map(
    (await walkTree({ name: 'backup', path: copy }).catch(() => [])).map((entry) => [entry.path, entry]),
  );
  for (const entry of root.entries) {
    const there = found.get(entry.path);
    const file = join(copy, entry.path);
    if (there?.type !== entry.type) throw damaged(`${file} is missing`);
    if (there.target !== entry.target) throw damaged(`${file} points elsewhere`);
    if (entry.type !== 'file') continue;
    if (there.sizeBytes !== entry.sizeBytes || (await sha256OfFile(file)) !== entry.sha256) {
      throw damaged(`${file} is not as it was when the backup was made`);
    }
    meter.moved(entry.sizeBytes);
  }
  if (found.size !== root.entries.length) throw damaged(`${copy} holds files that are not in its manifest`);
}

/** What lies there can be renamed, or what lies in it. */
async function requireExchangeable(root: Manifest['roots'][number]): Promise<void> {
  const [top] = root.entries;
  if (top === undefined) throw damaged(`the manifest lists nothing of ${root.path}`);
  if (!(await exists(dirname(root.path)))) {
    throw new FleetError('RESTORE_FAILED', `${dirname(root.path)} is missing: make it, with its owner and mode`);
  }
  const { directory } = await asideOf(root, 'trial');
  const within = [...(await mountPoints())].find((point) => point !== root.path && isWithin(point, root.path));
  if (within !== undefined) {
    throw new FleetError('BACKUP_UNSUPPORTED', `${within} is mounted within ${root.path}: it would move away with it`);
  }
  try {
    await access(directory, constants.W_OK);
  } catch (error) {
    throw new FleetError('RESTORE_FAILED', `nothing can be renamed in ${directory}: ${(error as Error).message}`);
  }
}

/** The present data stay where they are until all is well: both must fit. */
async function requireRoom(place: string, manifest: Manifest): Promise<void> {
  const data = rootsPutBack(manifest).find(({ name }) => name === 'data');
  const sample = data?.entries.find(({ type, sizeBytes }) => type === 'file' && sizeBytes > 0);
  if (data === undefined || sample === undefined) return;
  const { directory } = await asideOf(data, 'trial');
  const trial = join(directory, '.kwfleet-reflink-trial');
  await rm(trial, { force: true });
  const shares = await clone(join(copyOf(place, 'data'), sample.path), trial);
  await rm(trial, { force: true });
  if (shares) return;
  const { bavail, bsize } = await statfs(directory);
  const needBytes =
    data.entries.reduce((sum, { sizeBytes, allocatedBytes = sizeBytes }) => sum + allocatedBytes, 0) + SPARE_BYTES;
  if (bavail * bsize >= needBytes) return;
  throw new FleetError('DISK_FULL', `${directory} has ${bavail * bsize} bytes free; the backup needs ${needBytes}`);
}

const damaged = (message: string) => new FleetError('BACKUP_DAMAGED', message);
