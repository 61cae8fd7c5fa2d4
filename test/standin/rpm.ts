/** Packs a tree as a real .rpm with rpmbuild, as a vendor's spec file would. */
import { execFile } from 'node:child_process';
import { copyFile, mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** RPM's names of the architectures that Debian calls so. */
export const RPM_ARCHITECTURES: Readonly<Record<string, string>> = { amd64: 'x86_64', arm64: 'aarch64', all: 'noarch' };

export type RpmOptions = {
  readonly name: string;
  /** As KWDB writes it; what RPM takes for the start of a release (`-`) becomes `_`. */
  readonly version: string;
  /** Debian's name of the architecture. */
  readonly architecture: string;
  readonly requires?: readonly string[];
  readonly provides?: readonly string[];
  /** Files to pack, as a tree of the host; moved from there. */
  readonly tree: string;
  /** Shell lines of `%pre`: when they fail, rpm installs nothing. A failing `%post` is only a warning to rpm. */
  readonly pre?: readonly string[];
  readonly post?: readonly string[];
  readonly file: string;
};

/** Builds `options.file`. */
export async function buildRpm(options: RpmOptions): Promise<void> {
  const work = await mkdtemp(join(tmpdir(), 'kw-rpm-'));
  try {
    const spec = join(work, 'package.spec');
    await writeFile(spec, specOf(options));
    await mkdir(options.tree, { recursive: true });
    const defines = {
      _topdir: join(work, 'top'),
      _rpmdir: join(work, 'out'),
      _dbpath: join(work, 'db'),
      _build_id_links: 'none',
      // Neither stripped nor searched for what it needs; quick to compress.
      __os_install_post: '%{nil}',
      _binary_payload: 'w1.gzdio',
    };
    const target = RPM_ARCHITECTURES[options.architecture] ?? options.architecture;
    const macros = Object.entries(defines).flatMap(([name, value]) => ['--define', `${name} ${value}`]);
    await run('rpmbuild', ['-bb', '--quiet', '--target', target, '--buildroot', options.tree, ...macros, spec]);
    const [built] = await readdir(join(work, 'out', target));
    if (built === undefined) throw new Error(`rpmbuild made nothing of ${options.name}`);
    await copyFile(join(work, 'out', target, built), options.file);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

function specOf(options: RpmOptions): string {
  const script = (section: string, lines: readonly string[] | undefined): string[] =>
    lines === undefined || lines.length === 0 ? [] : [`%${section}`, ...lines];
  return [
    `Name: ${options.name}`,
    `Version: ${options.version.replaceAll('-', '_')}`,
    'Release: 1',
    'Summary: stand-in',
    'License: none',
    'AutoReqProv: no',
    ...(options.requires ?? []).map((name) => `Requires: ${name}`),
    ...(options.provides ?? []).map((name) => `Provides: ${name}`),
    '%description',
    'stand-in',
    ...script('pre', options.pre),
    ...script('post', options.post),
    '%files',
    '%defattr(-,root,root)',
    ...(options.provides === undefined ? ['/usr/local/kaiwudb/*/*'] : []),
    '',
  ].join('\n');
}

/**
 * Makes this host one of an rpm distribution, as far as deploy.sh and the agent can see: no dpkg in its path, another
 * os-release, an rpm database that holds the shell. Debian's rpm refuses to install where it sees Debian.
 */
export async function becomeRpmHost(): Promise<void> {
  for (const name of ['dpkg', 'dpkg-deb', 'dpkg-query']) await rm(join('/usr/bin', name), { force: true });
  await rm('/etc/debian_version', { force: true });
  await rm('/etc/os-release', { force: true });
  await writeFile('/etc/os-release', 'NAME="openEuler"\nID="openEuler"\nVERSION_ID="24.03"\n');
  await mkdir('/etc/rpm', { recursive: true });
  // Debian's rpm keeps its books in the caller's home.
  await writeFile('/etc/rpm/macros', '%_dbpath /var/lib/rpm\n');
  await run('rpm', ['--initdb']);
  const work = await mkdtemp(join(tmpdir(), 'kw-shell-'));
  const file = join(work, 'shell.rpm');
  const provides = ['/bin/sh'];
  await buildRpm({ name: 'shell', version: '1', architecture: 'all', provides, tree: join(work, 'tree'), file });
  await run('rpm', ['-i', file]);
  await rm(work, { recursive: true });
}

if (import.meta.main) await becomeRpmHost();
