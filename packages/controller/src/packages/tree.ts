/**
 * What installations from source take: a tree that was built, `bin/kwbase` and its libraries in one folder of any name; or
 * the word that the host shall build a version itself, `kwfleet-build/build.json`.
 */
import { posix } from 'node:path';
import { FleetError, normalVersion } from '@kwfleet/core';
import Type from 'typebox';
import Value from 'typebox/value';

/** Enough for the head of an executable. */
export const ELF_HEAD_BYTES = 64;
const ELF_MAGIC = 0x7f454c46;
const MACHINE_OFFSET = 18;
/** The ELF machines that KWDB is built for. */
const MACHINES: Readonly<Record<number, string>> = { 62: 'amd64', 183: 'arm64' };
/** `kwdb-3.1.0-hotfix1-amd64.tar.gz`. */
const NAMED = /(?:^|[^0-9.])(\d+\.\d+\.\d+(?:[-_.]?(?:alpha|beta|hotfix|enhance|patch)\d+)*)/i;

/** The top folder of a package that says what to build. */
export const BUILD_TOP = 'kwfleet-build';
export const BUILD_FILE = `${BUILD_TOP}/build.json`;
const Build = Type.Object({ version: Type.String(), architecture: Type.String() }, { additionalProperties: false });

/** Throws PACKAGE_INCOMPLETE unless it names a version and an architecture, and nothing else: no command comes in here. */
export function readBuild(bytes: Buffer | undefined): { version: string; architecture: string } {
  const wrong = (why: string, cause?: unknown) =>
    new FleetError('PACKAGE_INCOMPLETE', `${BUILD_FILE} ${why}`, { cause });
  if (bytes === undefined) throw wrong('is missing');
  let told: unknown;
  try {
    told = JSON.parse(bytes.toString('utf8'));
  } catch (cause) {
    throw wrong('is no JSON', cause);
  }
  if (!Value.Check(Build, told)) throw wrong('must hold version and architecture, and nothing else');
  try {
    return { version: normalVersion(told.version), architecture: told.architecture };
  } catch (cause) {
    throw wrong(`names no version: ${JSON.stringify(told.version).slice(0, 80)}`, cause);
  }
}

/** The architecture an executable is built for; undefined when its head does not tell. */
export function elfArchitecture(head: Buffer): string | undefined {
  if (head.length < MACHINE_OFFSET + 2 || head.readUInt32BE(0) !== ELF_MAGIC) return undefined;
  return MACHINES[head.readUInt16LE(MACHINE_OFFSET)];
}

/** The version that the tree's file is named after: a build writes none into the tree. */
export function versionOfName(fileName: string): string | undefined {
  return NAMED.exec(posix.basename(fileName))?.[1];
}

/** Throws PACKAGE_INCOMPLETE unless `paths` are those of a built tree under `top`. */
export function requireTree(top: string, paths: ReadonlySet<string>): void {
  if (!paths.has(`${top}/bin/kwbase`)) {
    throw new FleetError(
      'PACKAGE_INCOMPLETE',
      `it is neither the vendor's kaiwudb_install nor a built tree: ${top}/bin/kwbase is missing`,
    );
  }
  if (![...paths].some((path) => path.startsWith(`${top}/lib/`))) {
    throw new FleetError('PACKAGE_INCOMPLETE', `${top}/lib, the libraries of the built tree, is missing`);
  }
}
