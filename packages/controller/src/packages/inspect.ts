/** Looks into an installation package without unpacking it: is it whole, is it safe to unpack, what is it for. */
import { posix } from 'node:path';
import { FleetError, normalVersion, type PackageInfo, sameVersion } from '@kwfleet/core';
import type { ReadEntry } from 'tar';
import { PLAIN, readArchive, safePath } from './archive.ts';
import { debNeeds } from './deb.ts';
import { type ImageReader, imageReader } from './image.ts';
import { ImageArchive, isOfImageArchive } from './image-archive.ts';
import { rpmNeeds } from './rpm.ts';
import {
  BUILD_FILE,
  BUILD_TOP,
  ELF_HEAD_BYTES,
  elfArchitecture,
  readBuild,
  requireTree,
  versionOfName,
} from './tree.ts';

/** The top folder of the vendor's packages; that of a built tree has any other name. */
const ROOT = 'kaiwudb_install';
const ENTRIES_MAX = 20_000;
/** Enough for the control part at the head of a .deb or .rpm. */
const HEAD_BYTES = 4 * 1024 * 1024;
const VERSION_FILE_MAX_BYTES = 4_096;

export type Inspection = Pick<
  PackageInfo,
  'version' | 'kind' | 'architecture' | 'family' | 'unpackedBytes' | 'glibc' | 'installedBytes'
>;

type Seen = {
  /** The one top folder, known by the first entry; an image's archive has none. */
  top: string | undefined;
  archive: ImageArchive | undefined;
  entries: number;
  unpackedBytes: number;
  readonly paths: Set<string>;
  /** First bytes of the files that tell what the package is, by path. */
  readonly heads: Map<string, Buffer[]>;
  image: { readonly reader: ImageReader; readonly sizeBytes: number } | undefined;
};

/**
 * Reads the whole file once. `given`: the version as a person says it, for an image's file, which need not tell its own.
 * Throws PACKAGE_UNREADABLE, PACKAGE_INCOMPLETE, PACKAGE_UNSAFE, PACKAGE_TOO_LARGE when it would unpack to more than
 * `unpackedMaxBytes`, or BAD_REQUEST when it tells another version than the one given.
 */
export async function inspectPackage(
  file: string,
  fileName: string,
  unpackedMaxBytes: number,
  given?: string,
): Promise<Inspection> {
  const seen: Seen = {
    top: undefined,
    archive: undefined,
    entries: 0,
    unpackedBytes: 0,
    paths: new Set(),
    heads: new Map(),
    image: undefined,
  };
  await readArchive(file, (entry) => lookAt(entry, seen, unpackedMaxBytes));
  const { top = ROOT, archive } = seen;
  if (archive !== undefined) {
    const { version, architecture } = archive.conclude(seen.paths, versionOfName(fileName), given);
    return {
      version,
      kind: 'image-archive',
      architecture: known(architecture),
      family: 'any',
      // The engine takes the file as it is: nothing is unpacked beside it.
      unpackedBytes: 0,
      installedBytes: seen.unpackedBytes,
    };
  }
  const found = top === ROOT ? await conclude(seen, fileName) : concludeTree(top, seen, fileName);
  if (given !== undefined && !sameVersion(given, found.version)) {
    throw new FleetError('BAD_REQUEST', `version: the package itself says that it is ${found.version}, not ${given}`);
  }
  return { ...found, unpackedBytes: seen.unpackedBytes };
}

function lookAt(entry: ReadEntry, seen: Seen, unpackedMaxBytes: number): void {
  if (seen.entries === 0 && isOfImageArchive(entry.path)) seen.archive = new ImageArchive();
  if (seen.archive === undefined) seen.top ??= topOf(entry.path);
  const path = safePath(entry, seen.top);
  seen.entries += 1;
  seen.unpackedBytes += entry.size;
  if (seen.entries > ENTRIES_MAX) throw new FleetError('PACKAGE_TOO_LARGE', `more than ${ENTRIES_MAX} files`);
  if (seen.unpackedBytes > unpackedMaxBytes) {
    throw new FleetError('PACKAGE_TOO_LARGE', `unpacks to more than ${unpackedMaxBytes} bytes`);
  }
  if (seen.archive !== undefined) seen.archive.take(entry, path, seen.paths);
  seen.paths.add(path);
  if (seen.archive !== undefined || !PLAIN.has(entry.type) || entry.type === 'Directory') return;
  if (path === `${ROOT}/packages/KaiwuDB.tar`) {
    const reader = imageReader();
    seen.image = { reader, sizeBytes: entry.size };
    entry.on('data', (chunk) => reader.write(Buffer.from(chunk)));
  } else keepHead(entry, path, seen);
}

function keepHead(entry: ReadEntry, path: string, seen: Seen): void {
  const wanted = headWanted(path, seen.top);
  if (wanted === 0) return;
  const chunks: Buffer[] = [];
  let size = 0;
  seen.heads.set(path, chunks);
  entry.on('data', (chunk) => {
    if (size >= wanted) return;
    chunks.push(Buffer.from(chunk).subarray(0, wanted - size));
    size += chunk.length;
  });
}

function headWanted(path: string, top = ROOT): number {
  if (path === `${top}/bin/kwbase`) return ELF_HEAD_BYTES;
  if (path === BUILD_FILE || path === `${top}/.version` || path === `${top}/packages/.version`)
    return VERSION_FILE_MAX_BYTES;
  return path.startsWith(`${ROOT}/packages/`) && (isServer(path) || isLibcommon(path)) ? HEAD_BYTES : 0;
}

/** A plain name; what has none is judged, and refused, as if it were the vendor's. */
function topOf(path: string): string {
  const [top = ''] = path.split('/');
  return /^[A-Za-z0-9][\w.-]*$/.test(top) ? top : ROOT;
}

const isServer = (path: string) => /server[^/]*\.(deb|rpm)$/i.test(posix.basename(path));
const isLibcommon = (path: string) => /libcommon[^/]*\.(deb|rpm)$/i.test(posix.basename(path));

async function conclude(seen: Seen, fileName: string): Promise<Omit<Inspection, 'unpackedBytes'>> {
  const need = (present: boolean, what: string) => {
    if (!present) throw new FleetError('PACKAGE_INCOMPLETE', `${ROOT}/${what} is missing`);
  };
  const under = (folder: string) => [...seen.paths].some((path) => path.startsWith(`${ROOT}/${folder}/`));
  need(seen.paths.has(`${ROOT}/deploy.sh`), 'deploy.sh');
  need(seen.paths.has(`${ROOT}/utils`) || under('utils'), 'utils/');
  need(seen.heads.has(`${ROOT}/packages/.version`), 'packages/.version');
  const version = readVersion(Buffer.concat(seen.heads.get(`${ROOT}/packages/.version`) ?? []));
  if (seen.image !== undefined) {
    const { reader, sizeBytes } = seen.image;
    const architecture = known(reader.architecture() ?? architectureOfName(fileName));
    return { version, kind: 'container', architecture, family: 'any', installedBytes: sizeBytes };
  }
  const parts = [...seen.paths].filter((path) => posix.dirname(path) === `${ROOT}/packages`);
  const [server, ...others] = parts.filter(isServer);
  const libcommon = parts.filter(isLibcommon);
  const files = 'packages/: KaiwuDB.tar, or one *server* and one *libcommon* file (.deb or .rpm),';
  if (server === undefined || others.length > 0 || libcommon.length !== 1) {
    throw new FleetError('PACKAGE_INCOMPLETE', `${ROOT}/${files} is what it must hold`);
  }
  const family = /\.deb$/i.test(server) ? 'deb' : 'rpm';
  const head = (path: string | undefined) => Buffer.concat(seen.heads.get(path ?? '') ?? []);
  const needs = family === 'deb' ? await debNeeds([head(server), head(libcommon[0])]) : rpmNeeds(head(server));
  const { architecture = architectureOfName(server), ...rest } = needs;
  return { version, kind: 'bare', architecture: known(architecture), family, ...rest };
}

/** What a build leaves says neither its version nor, where kwbase is no plain executable, what it was built for. */
function concludeTree(top: string, seen: Seen, fileName: string): Omit<Inspection, 'unpackedBytes'> {
  if (top === BUILD_TOP) {
    const head = seen.heads.get(BUILD_FILE);
    const { version, architecture } = readBuild(head === undefined ? undefined : Buffer.concat(head));
    return { version, kind: 'build', architecture: known(architecture), family: 'any' };
  }
  requireTree(top, seen.paths);
  const written = seen.heads.get(`${top}/.version`);
  const named = versionOfName(fileName);
  if (written === undefined && named === undefined) {
    throw new FleetError('PACKAGE_INCOMPLETE', `neither ${top}/.version nor the file's name tells the version`);
  }
  const version = written === undefined ? normalVersion(named ?? '') : readVersion(Buffer.concat(written));
  const told = elfArchitecture(Buffer.concat(seen.heads.get(`${top}/bin/kwbase`) ?? []));
  return { version, kind: 'tree', architecture: known(told ?? architectureOfName(fileName)), family: 'any' };
}

function readVersion(bytes: Buffer): string {
  const [basic = '', extension = ''] = bytes
    .toString('utf8')
    .split('\n')
    .map((line) => line.trim());
  try {
    return normalVersion(`${basic} ${extension}`);
  } catch (cause) {
    const text = JSON.stringify(`${basic}\n${extension}`).slice(0, 100);
    throw new FleetError('PACKAGE_INCOMPLETE', `.version holds no version: ${text}`, { cause });
  }
}

/** Debian's names for what dpkg, rpm and Docker each call their own way. */
const ARCHITECTURES: Readonly<Record<string, string>> = { x86_64: 'amd64', aarch64: 'arm64', 'x86-64': 'amd64' };

function architectureOfName(path: string): string | undefined {
  return /(?:^|[^a-z0-9])(amd64|x86_64|x86-64|arm64|aarch64)(?:[^a-z0-9]|$)/i.exec(posix.basename(path))?.[1];
}

function known(architecture: string | undefined): string {
  if (architecture === undefined || architecture === '') {
    throw new FleetError('PACKAGE_INCOMPLETE', 'neither the package nor its name tells for which architecture it is');
  }
  const name = architecture.toLowerCase();
  return ARCHITECTURES[name] ?? name;
}
