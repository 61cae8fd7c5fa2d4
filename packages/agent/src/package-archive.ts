/** Packages as archives: looked through before anything is written, unpacked whole or not at all. */
import { chmod, mkdir, readdir, rename, rm, stat } from 'node:fs/promises';
import { dirname, join, normalize, posix } from 'node:path';
import { FleetError, type PackageInfo } from '@kwfleet/core';
import * as tar from 'tar';
import { syncTree } from './host/sync.ts';
import { syncDirectory } from './journal/file-storage.ts';

const ENTRIES_LIMIT = 50_000;
/** What a package may unpack to when the controller did not count it. */
const UNPACKED_LIMIT_BYTES = 64 * 1024 ** 3;
/** Left free on the disk, so that journal and database can go on writing. */
export const SPARE_BYTES = 64 * 1024 ** 2;

/** Unpacks beside `target` and moves it there whole. Throws PACKAGE_UNSAFE before anything is written. */
export async function unpack(file: string, target: string, wanted: PackageInfo): Promise<void> {
  await checkEntries(file, wanted);
  const fresh = `${target}.new`;
  await rm(fresh, { recursive: true, force: true });
  await rm(target, { recursive: true, force: true });
  await mkdir(fresh, { recursive: true, mode: 0o700 });
  await tar.x({ file, cwd: fresh, strict: true, preserveOwner: false, preservePaths: false });
  const deploy = await findTop(fresh, wanted);
  if (deploy !== undefined && landmarkOf(wanted) === 'deploy.sh') {
    await chmod(join(deploy, 'deploy.sh'), 0o755);
    // deploy.sh logs there as root; the agent, which may be another, must be able to remove it again.
    await mkdir(join(deploy, 'log'), { recursive: true });
  }
  // Whatever has its name afterwards is taken for whole, also by an agent that comes up after a power cut.
  await syncTree(fresh);
  await rename(fresh, target);
  await syncDirectory(dirname(target));
}

/** Why an entry of an archive must not be unpacked; undefined when it may. */
export function unsafeEntry(entry: {
  readonly path: string;
  readonly type: string;
  readonly linkpath?: string | undefined;
}): string | undefined {
  if (leaves(entry.path)) return `${entry.path} leaves the package`;
  switch (entry.type) {
    case 'File':
    case 'OldFile':
    case 'ContiguousFile':
    case 'Directory':
      return undefined;
    case 'SymbolicLink':
      return leaves(posix.join(posix.dirname(entry.path), entry.linkpath ?? '/')) || isAbsolute(entry.linkpath)
        ? `${entry.path} is a link out of the package`
        : undefined;
    case 'Link':
      return leaves(entry.linkpath ?? '/') ? `${entry.path} is a link out of the package` : undefined;
    default:
      return `${entry.path} is a ${entry.type}`;
  }
}

const isAbsolute = (path: string | undefined): boolean => path === undefined || path.startsWith('/');

function leaves(path: string): boolean {
  const plain = normalize(path);
  return isAbsolute(plain) || plain === '..' || plain.startsWith('../') || path.includes('\0');
}

async function checkEntries(file: string, wanted: PackageInfo): Promise<void> {
  const limitBytes = wanted.unpackedBytes > 0 ? wanted.unpackedBytes + SPARE_BYTES : UNPACKED_LIMIT_BYTES;
  let count = 0;
  let bytes = 0;
  let unsafe: string | undefined;
  const onReadEntry = (entry: tar.ReadEntry): void => {
    count += 1;
    bytes += entry.size;
    unsafe ??= unsafeEntry(entry);
    if (count > ENTRIES_LIMIT) unsafe ??= `more than ${ENTRIES_LIMIT} files`;
    if (bytes > limitBytes) unsafe ??= `more than ${limitBytes} bytes unpacked`;
  };
  try {
    await tar.t({ file, strict: true, onReadEntry });
  } catch (error) {
    throw new FleetError('PACKAGE_UNREADABLE', `${wanted.fileName} is no whole .tar.gz`, { cause: error });
  }
  if (unsafe !== undefined) throw new FleetError('PACKAGE_UNSAFE', `${wanted.fileName}: ${unsafe}`);
}

/** What is found at the top of a package that is unpacked, by its kind. */
export function landmarkOf({ kind }: Pick<PackageInfo, 'kind'>): string {
  if (kind === 'tree') return 'bin/kwbase';
  return kind === 'build' ? 'build.json' : 'deploy.sh';
}

/** `kaiwudb_install` as a rule, or that of a built tree; any one top directory with what belongs there will do. */
export async function findTop(unpacked: string, wanted: Pick<PackageInfo, 'kind'>): Promise<string | undefined> {
  for (const name of ['.', ...(await readdir(unpacked).catch(() => []))]) {
    const directory = join(unpacked, name);
    const found = await stat(join(directory, landmarkOf(wanted))).catch(() => null);
    if (found?.isFile() === true) return directory;
  }
  return undefined;
}
