/** The packages that can be installed: whole files, named by their SHA-256, never changed. */
import { createHash, randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import {
  FleetError,
  type ImageRequest,
  normalVersion,
  type PackageInfo,
  type StoredPackage,
  sameVersion,
} from '@kwfleet/core';
import { audit } from '../store/audit.ts';
import type { Database } from '../store/database.ts';
import { deletePackage, findPackage, insertPackage, runUsingPackage } from '../store/packages.ts';
import type { Repository } from '../trust/repository.ts';
import { inspectPackage } from './inspect.ts';

export type Added = { readonly package: StoredPackage; readonly added: boolean };

export type GivenFile = {
  readonly name: string;
  /** What it must be. */
  readonly sha256?: string | undefined;
  /** The version of an image, as a person says it. */
  readonly version?: string | undefined;
};

export type PackageRegistry = {
  /**
   * Takes a file in, inspected; `added` is false when it was there already. Throws as `inspectPackage` does, or
   * PACKAGE_CORRUPT when it is not the one with this SHA-256; nothing is kept then.
   */
  add(bytes: AsyncIterable<Buffer>, file: GivenFile, actor: string): Promise<Added>;
  /** Takes an image in, of which nothing lies here: hosts' engines pull it by its digest. */
  addImage(image: ImageRequest, actor: string): Promise<Added>;
  /** Throws PACKAGE_UNKNOWN, or PACKAGE_IN_USE while a run that is not ended may need it. */
  remove(sha256: string, actor: string): Promise<void>;
  /** Where the bytes of a package lie; undefined for what is no SHA-256, so that no path can be asked for. */
  pathOf(sha256: string): string | undefined;
};

const SHA256_CHARACTERS = 64;
const UPLOAD = /^upload-.*\.partial$/;
/** What unpacks to more than this many times the largest file is no package but an attack. */
const UNPACKED_FACTOR = 4;

/** Another controller that shares the directory may be receiving it; nobody receives for so long. */
const ABANDONED_MS = 86_400_000;

/** Opens `<dataDir>/packages`; uploads that were left unfinished are removed. */
export async function openRegistry(
  dataDir: string,
  maxBytes: number,
  database: Database,
  repository: Pick<Repository, 'changed'>,
): Promise<PackageRegistry> {
  const folder = join(dataDir, 'packages');
  await mkdir(folder, { recursive: true, mode: 0o700 });
  await removeAbandoned(folder);
  const fileOf = (sha256: string) => join(folder, `${sha256}.tar.gz`);

  return {
    async add(bytes, { name, sha256: expected, version }, actor) {
      const fileName = plainName(name);
      const partial = join(folder, `upload-${randomBytes(8).toString('hex')}.partial`);
      try {
        const { sha256, sizeBytes } = await receive(bytes, partial, maxBytes);
        if (expected !== undefined && expected !== sha256) {
          throw new FleetError('PACKAGE_CORRUPT', `the file has the SHA-256 ${sha256}, not ${expected}`);
        }
        const known = await findPackage(database, sha256);
        if (known !== undefined) refuseOther(known, version);
        if (known !== undefined && existsSync(fileOf(sha256))) return { package: known, added: false };
        const found = await inspectPackage(partial, fileName, maxBytes * UNPACKED_FACTOR, version);
        const info: PackageInfo = { sha256, fileName, sizeBytes, ...found };
        const added = await database.transaction(async (sql) => {
          const isNew = await insertPackage(sql, info, actor);
          // Under the row's lock, as is the removal: a file comes and goes with its row.
          await rename(partial, fileOf(sha256));
          if (isNew) await repository.changed(sql, { added: info });
          if (isNew) await audit(sql, actor, 'package.add', { sha256, fileName, version: info.version });
          return isNew;
        });
        return { package: (await findPackage(database, sha256)) as StoredPackage, added };
      } finally {
        await rm(partial, { force: true });
      }
    },
    async addImage({ image, version, architecture }, actor) {
      const sha256 = image.slice(-SHA256_CHARACTERS);
      const info: PackageInfo = {
        sha256,
        fileName: image,
        sizeBytes: 0,
        unpackedBytes: 0,
        version: normalVersion(version),
        kind: 'image',
        architecture,
        family: 'any',
        image,
      };
      const added = await database.transaction(async (sql) => {
        const isNew = await insertPackage(sql, info, actor);
        if (isNew) await repository.changed(sql, { added: info });
        if (isNew) await audit(sql, actor, 'package.add', { sha256, image, version: info.version });
        return isNew;
      });
      const stored = (await findPackage(database, sha256)) as StoredPackage;
      refuseOther(stored, version);
      return { package: stored, added };
    },
    async remove(sha256, actor) {
      await database.transaction(async (sql) => {
        if (!(await deletePackage(sql, sha256)))
          throw new FleetError('PACKAGE_UNKNOWN', `there is no package ${sha256}`);
        const run = await runUsingPackage(sql, sha256);
        if (run !== undefined) throw new FleetError('PACKAGE_IN_USE', `run ${run} may still need it`);
        await repository.changed(sql, { removed: sha256 });
        await audit(sql, actor, 'package.delete', { sha256 });
        await rm(fileOf(sha256), { force: true });
      });
    },
    pathOf: (sha256) => (/^[0-9a-f]{64}$/.test(sha256) ? fileOf(sha256) : undefined),
  };
}

async function removeAbandoned(folder: string): Promise<void> {
  for (const name of await readdir(folder)) {
    if (!UPLOAD.test(name)) continue;
    const path = join(folder, name);
    const mtimeMs = (await stat(path).catch(() => undefined))?.mtimeMs ?? 0;
    if (Date.now() - mtimeMs > ABANDONED_MS) await rm(path, { force: true });
  }
}

/** A package is what it was added as: whoever says otherwise now is told, not silently overruled. */
function refuseOther({ sha256, version }: StoredPackage, given: string | undefined): void {
  if (given === undefined || sameVersion(given, version)) return;
  const message = `version: the registry has ${sha256} as ${version}, not as ${given}; delete it there to add it anew`;
  throw new FleetError('BAD_REQUEST', message);
}

async function receive(
  bytes: AsyncIterable<Buffer>,
  partial: string,
  maxBytes: number,
): Promise<{ sha256: string; sizeBytes: number }> {
  const hash = createHash('sha256');
  let sizeBytes = 0;
  const file = await open(partial, 'wx', 0o600);
  try {
    for await (const chunk of bytes) {
      sizeBytes += chunk.length;
      if (sizeBytes > maxBytes) throw new FleetError('PACKAGE_TOO_LARGE', `more than ${maxBytes} bytes`);
      hash.update(chunk);
      await file.writev([chunk]);
    }
    await file.sync();
  } finally {
    await file.close();
  }
  if (sizeBytes === 0) throw new FleetError('PACKAGE_UNREADABLE', 'the file is empty');
  return { sha256: hash.digest('hex'), sizeBytes };
}

/** For people only; the bytes are found by their hash. */
function plainName(given: string): string {
  const name = basename(given.replaceAll('\\', '/')).replaceAll(/[\u0000-\u001f\u007f]/g, '');
  return name.slice(0, 200) || 'package.tar.gz';
}
