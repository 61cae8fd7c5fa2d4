/**
 * A copy of the installed version, made before it is exchanged and for the case that the registry has no package of
 * it: real .deb files, built again from the installed files and dpkg's own books, as dpkg-repack does.
 */
import { chmod, mkdir, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { FleetError } from '@kwfleet/core';
import { INFO_DIR, readText } from '../host/mode.ts';
import { DPKG_DIR, isServer, type PackageRecord, parseParagraphs } from '../host/package-database.ts';
import { runShort, wordsOf } from '../host/run.ts';
import { syncTree } from '../host/sync.ts';
import { syncDirectory } from '../journal/file-storage.ts';

/** Scripts and lists that dpkg keeps of a package and that belong into its control archive. */
const CONTROL_FILES = [
  'preinst',
  'postinst',
  'prerm',
  'postrm',
  'conffiles',
  'shlibs',
  'symbols',
  'triggers',
  'md5sums',
];
/** Fields that dpkg adds to a package's paragraph. */
const DPKG_FIELDS = new Set(['status', 'conffiles', 'config-version', 'triggers-pending', 'triggers-awaited']);
const BUILD_TIMEOUT_MS = 10 * 60_000;
const COPY_TIMEOUT_MS = 10 * 60_000;
const COPY_BATCH = 500;

export type KeptVersion = {
  /** Paths of the .deb files: the library first, as deploy.sh installs them. */
  readonly packages: readonly string[];
  readonly versionFile: string;
};

/** The copy in `directory`, when it is whole. */
export async function findKept(directory: string): Promise<KeptVersion | undefined> {
  const names: string[] = await readdir(directory).catch(() => []);
  if (!names.includes('.version')) return undefined;
  const debs = names.filter((name) => name.endsWith('.deb'));
  debs.sort((a, b) => Number(a.includes('server')) - Number(b.includes('server')));
  return debs.length === 0
    ? undefined
    : { packages: debs.map((name) => join(directory, name)), versionFile: join(directory, '.version') };
}

/**
 * Builds the copy. `directory` appears whole or not at all. Throws INSTALL_FAILED when the installed packages cannot be
 * packed, DISK_FULL when the copy does not fit.
 */
export async function keepInstalled(root: string, records: readonly PackageRecord[], directory: string): Promise<void> {
  const whole = records.filter((record) => record.state === 'ii');
  const version = await readText(root, `${INFO_DIR}/.version`);
  if (!whole.some(isServer) || version === null) {
    throw new FleetError('INSTALLATION_HALF_DONE', 'the installed version is not whole: no copy of it can be kept');
  }
  const fresh = `${directory}.new`;
  await rm(fresh, { recursive: true, force: true });
  await mkdir(fresh, { recursive: true, mode: 0o700 });
  try {
    const status = parseParagraphs(await readFile(join(root, DPKG_DIR, 'status'), 'utf8'));
    for (const record of whole) await repack(root, record, status, fresh);
    await writeFile(join(fresh, '.version'), version);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOSPC') throw error;
    throw new FleetError('DISK_FULL', `no space for a copy of the installed version in ${directory}`, { cause: error });
  }
  await syncTree(fresh);
  await rm(directory, { recursive: true, force: true });
  await rename(fresh, directory);
  await syncDirectory(dirname(directory));
}

async function repack(
  root: string,
  record: PackageRecord,
  status: readonly Map<string, string>[],
  directory: string,
): Promise<void> {
  const tree = join(directory, record.name);
  await makeReadable(join(tree, 'DEBIAN'));
  const paragraph = status.find((fields) => fields.get('package') === record.name);
  const fields = [...(paragraph ?? new Map<string, string>())].filter(([name]) => !DPKG_FIELDS.has(name));
  await writeFile(join(tree, 'DEBIAN/control'), `${fields.map(([name, value]) => `${name}: ${value}`).join('\n')}\n`);
  for (const name of CONTROL_FILES) {
    const text = await bookOf(root, record, name);
    if (text === null) continue;
    await writeFile(join(tree, 'DEBIAN', name), text);
    await chmod(join(tree, 'DEBIAN', name), /inst$|rm$/.test(name) ? 0o755 : 0o644);
  }
  const listed = ((await bookOf(root, record, 'list')) ?? '')
    .split('\n')
    .filter((path) => path !== '' && path !== '/.');
  await copyFiles(root, listed, tree);
  const deb = join(directory, `${record.name}_${record.version}_${record.architecture}.deb`);
  // Only root can copy files with their owner.
  const owner = process.getuid?.() === 0 ? [] : ['--root-owner-group'];
  const built = await runShort('dpkg-deb', ['-Zgzip', '-z1', ...owner, '--build', tree, deb], {
    timeoutMs: BUILD_TIMEOUT_MS,
  });
  if (built.exitCode !== 0) {
    throw new FleetError('INSTALL_FAILED', `no copy of ${record.name} could be kept`, { words: wordsOf(built) });
  }
  await rm(tree, { recursive: true, force: true });
}

/** dpkg-deb refuses a control directory that others cannot read, and the agent's own umask lets them read nothing. */
async function makeReadable(directory: string): Promise<void> {
  await mkdir(directory, { recursive: true });
  for (const path of [dirname(directory), directory]) await chmod(path, 0o755);
}

/** A file of dpkg's books about one package; multi-arch packages have the architecture in its name. */
async function bookOf(root: string, record: PackageRecord, name: string): Promise<string | null> {
  const info = `${DPKG_DIR}/info`;
  return (
    (await readText(root, `${info}/${record.name}.${name}`)) ??
    (await readText(root, `${info}/${record.name}:${record.architecture}.${name}`))
  );
}

/** Copies files and links with owner, mode and times; directories come with what lies in them. */
async function copyFiles(root: string, listed: readonly string[], tree: string): Promise<void> {
  const files: string[] = [];
  for (const path of listed) {
    const found = await stat(join(root, path)).catch(() => null);
    if (found === null || !found.isDirectory()) files.push(path.replace(/^\//, './'));
  }
  for (let at = 0; at < files.length; at += COPY_BATCH) {
    const batch = files.slice(at, at + COPY_BATCH);
    const copied = await runShort('cp', ['-a', '--parents', '-t', tree, '--', ...batch], {
      timeoutMs: COPY_TIMEOUT_MS,
      cwd: root,
    });
    if (copied.exitCode === 0) continue;
    const code = /No space left/i.test(copied.stderr) ? 'DISK_FULL' : 'INSTALL_FAILED';
    throw new FleetError(code, 'the installed files could not be copied', { words: wordsOf(copied) });
  }
}
