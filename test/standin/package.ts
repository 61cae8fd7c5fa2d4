/** Builds KWDB installation packages out of the stand-ins: real .debs or .rpms, the stand-in deploy.sh, one .tar.gz. */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { chmod, cp, mkdir, mkdtemp, open, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { stripTypeScriptTypes } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { BuildInfo, Knobs } from './kwbase.ts';
import { buildRpm, RPM_ARCHITECTURES } from './rpm.ts';

const run = promisify(execFile);
const here = import.meta.dirname;

/** What can be wrong with a package; the rest goes to the binary in it, see `Knobs`. */
export type PackageFaults = Knobs & {
  /**
   * The server package's postinst fails: its files are on the host, dpkg calls it half-configured. In an rpm package it
   * is `%pre` that fails, since rpm takes no notice of a failing `%post`: then the server is not installed.
   */
  readonly maintainerScriptFails?: boolean;
  /** The server package is cut short. */
  readonly corrupt?: boolean;
  /** deploy.sh sleeps so many seconds before its checks. */
  readonly deployHangsSeconds?: number;
  /** So many seconds between the removal of the old packages and the installation of the new. */
  readonly installDelaySeconds?: number;
  /** Sleeps so many seconds in the server's postinst: files exchanged, `.version` not yet. */
  readonly postinstSeconds?: number;
  /** The scripts of V3.0.0: an online upgrade that does not look whether the node came back. */
  readonly blindRestart?: boolean;
  /** The package claims this version in `.version`, whatever it carries. */
  readonly versionFile?: string;
  /** Left out of `packages/`. */
  readonly missing?: 'server' | 'libcommon';
};

export type PackageOptions = {
  /** The basic version, `3.1.0`. */
  readonly version: string;
  /** `hotfix1`, `beta2`, ...; none for a release. */
  readonly extension?: string;
  readonly method?: 'bare' | 'container';
  /** Of a bare package; `deb` unless told. */
  readonly family?: 'deb' | 'rpm';
  /** Debian's name; this machine's unless told. */
  readonly architecture?: string;
  readonly outDir: string;
  readonly faults?: PackageFaults;
  /** For a container package: a tar with bash and Node to lie under the binary, see `buildBaseLayer`. */
  readonly baseLayer?: string;
};

const PACKAGE_FAULTS = [
  'maintainerScriptFails',
  'corrupt',
  'deployHangsSeconds',
  'installDelaySeconds',
  'postinstSeconds',
  'blindRestart',
  'versionFile',
  'missing',
] as const;

/**
 * Builds `kaiwudb_install/` as a .tar.gz in `outDir` and returns its path. The binary inside runs on the Node that
 * runs this.
 */
export async function buildPackage(options: PackageOptions): Promise<string> {
  const work = await mkdtemp(join(tmpdir(), 'kw-package-'));
  try {
    const root = join(work, 'kaiwudb_install');
    await mkdir(join(root, 'packages'), { recursive: true });
    await writeScripts(root, options);
    if (options.method === 'container') await writeImage(root, options);
    else await writePackages(work, join(root, 'packages'), options);
    await mkdir(options.outDir, { recursive: true });
    const file = join(options.outDir, `KaiwuDB-${fullVersion(options)}-${await uniqueName(options)}.tar.gz`);
    await run('tar', ['-C', work, '--owner=0', '--group=0', '-I', 'gzip -1', '-cf', file, 'kaiwudb_install']);
    return file;
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

/**
 * Builds a tree as a build from source leaves it, `install/` as a .tar.gz in `outDir`, and returns its path. Its processes
 * are called in /proc exactly as they were started, as those of a real binary are.
 */
export async function buildTree(options: PackageOptions): Promise<string> {
  const work = await mkdtemp(join(tmpdir(), 'kw-tree-'));
  try {
    const root = join(work, 'install');
    await writeBinary(root, options);
    await writeFile(join(root, 'bin/kwbase'), exactLauncher(), { mode: 0o755 });
    await writeFile(join(root, 'lib/libcommon.so'), `stand-in ${fullVersion(options)}\n`);
    // As a library of another host would do: it does not even tell its version.
    if (options.faults?.corrupt === true) await writeFile(join(root, 'lib/kwbase.mjs'), 'no program\n');
    await mkdir(options.outDir, { recursive: true });
    const architecture = options.architecture ?? machineArchitecture();
    const file = join(options.outDir, `kwdb-${fullVersion(options)}-tree-${architecture}.tar.gz`);
    await run('tar', ['-C', work, '--owner=0', '--group=0', '-I', 'gzip -1', '-cf', file, 'install']);
    return file;
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

/** Unpacks a package into `directory` and returns the path of its `kaiwudb_install`. */
export async function unpackPackage(file: string, directory: string): Promise<string> {
  await mkdir(directory, { recursive: true });
  await run('tar', ['-C', directory, '-xf', file]);
  return join(directory, 'kaiwudb_install');
}

function fullVersion({ version, extension }: PackageOptions): string {
  return extension === undefined ? version : `${version}-${extension}`;
}

/** Packages of one version with different faults lie in one directory under different names. */
async function uniqueName(options: PackageOptions): Promise<string> {
  const architecture = options.architecture ?? machineArchitecture();
  const digest = createHash('sha256')
    .update(JSON.stringify(options.faults ?? {}))
    .digest('hex')
    .slice(0, 6);
  const kind = options.method ?? (options.family === 'rpm' ? 'rpm' : 'bare');
  return `${kind}-${architecture}${options.faults === undefined ? '' : `-${digest}`}`;
}

const ARCHITECTURES: Readonly<Record<string, string>> = { x64: 'amd64', arm64: 'arm64' };

function machineArchitecture(): string {
  return ARCHITECTURES[process.arch] ?? process.arch;
}

async function writeScripts(root: string, options: PackageOptions): Promise<void> {
  const faults = options.faults ?? {};
  await mkdir(join(root, 'utils'));
  await cp(join(here, 'deploy.sh'), join(root, 'deploy.sh'));
  await chmod(join(root, 'deploy.sh'), 0o755);
  await writeFile(join(root, 'deploy.cfg'), '[global]\nsecure_mode=insecure\nmanagement_user=kaiwudb\n');
  await writeFile(join(root, 'add_user.sh'), '#! /bin/bash\nexit 0\n', { mode: 0o755 });
  const config = [
    ['hangs', faults.deployHangsSeconds],
    ['install_delay', faults.installDelaySeconds],
    ['blind_restart', faults.blindRestart],
  ].filter(([, value]) => value !== undefined && value !== false);
  await writeFile(join(root, 'utils', 'standin.cfg'), config.map(([name, value]) => `${name}=${value}\n`).join(''));
  const version = faults.versionFile ?? `${options.version}\n${options.extension ?? ''}\n`;
  await writeFile(join(root, 'packages', '.version'), version);
}

async function writePackages(work: string, packages: string, options: PackageOptions): Promise<void> {
  const faults = options.faults ?? {};
  const architecture = options.architecture ?? machineArchitecture();
  const libcommon = join(work, 'libcommon');
  await mkdir(join(libcommon, 'usr/local/kaiwudb/lib'), { recursive: true });
  await writeFile(join(libcommon, 'usr/local/kaiwudb/lib/libcommon.so'), `stand-in ${fullVersion(options)}\n`);
  const server = join(work, 'server');
  await writeBinary(join(server, 'usr/local/kaiwudb'), options);
  const write = options.family === 'rpm' ? writeRpms : writeDebs;
  const file = await write({ libcommon, server, packages, architecture, options });
  if (faults.corrupt === true) await cutShort(file);
}

type Trees = {
  readonly libcommon: string;
  readonly server: string;
  readonly packages: string;
  readonly architecture: string;
  readonly options: PackageOptions;
};

/** Returns the file of the server. */
async function writeDebs({ libcommon, server, packages, architecture, options }: Trees): Promise<string> {
  const faults = options.faults ?? {};
  await Promise.all([
    writeControl(libcommon, 'kaiwudb-libcommon', architecture, options),
    writeControl(server, 'kaiwudb-server', architecture, options),
  ]);
  await writePostinst(server, faults);
  const name = (part: string): string => join(packages, `kaiwudb-${part}_${fullVersion(options)}_${architecture}.deb`);
  const build = (tree: string, file: string): Promise<unknown> =>
    run('dpkg-deb', ['-Zgzip', '-z1', '--root-owner-group', '--build', tree, file]);
  if (faults.missing !== 'libcommon') await build(libcommon, name('libcommon'));
  if (faults.missing !== 'server') await build(server, name('server'));
  return name('server');
}

async function writeRpms({ libcommon, server, packages, architecture, options }: Trees): Promise<string> {
  const faults = options.faults ?? {};
  const version = fullVersion(options);
  const rpmName = RPM_ARCHITECTURES[architecture] ?? architecture;
  const file = (part: string): string => join(packages, `kaiwudb-${part}-${version}-1.${rpmName}.rpm`);
  const pre = faults.maintainerScriptFails === true ? ['echo "pre: told to fail" >&2', 'exit 1'] : [];
  const post = faults.postinstSeconds === undefined ? [] : [`sleep ${faults.postinstSeconds}`];
  const common = { version, architecture };
  if (faults.missing !== 'libcommon') {
    await buildRpm({ ...common, name: 'kaiwudb-libcommon', tree: libcommon, file: file('libcommon') });
  }
  if (faults.missing !== 'server') {
    const requires = [`kaiwudb-libcommon = ${version.replaceAll('-', '_')}`];
    await buildRpm({ ...common, name: 'kaiwudb-server', requires, tree: server, pre, post, file: file('server') });
  }
  return file('server');
}

async function writeControl(tree: string, name: string, architecture: string, options: PackageOptions): Promise<void> {
  await mkdir(join(tree, 'DEBIAN'), { recursive: true });
  const depends = name === 'kaiwudb-server' ? 'Depends: kaiwudb-libcommon\n' : '';
  await writeFile(
    join(tree, 'DEBIAN/control'),
    `Package: ${name}\nVersion: ${fullVersion(options)}\nArchitecture: ${architecture}\n${depends}Maintainer: nobody <nobody@example.org>\nDescription: stand-in\n`,
  );
}

async function writePostinst(tree: string, faults: PackageFaults): Promise<void> {
  if (faults.maintainerScriptFails !== true && faults.postinstSeconds === undefined) return;
  const lines = ['#! /bin/sh'];
  if (faults.postinstSeconds !== undefined) lines.push(`sleep ${faults.postinstSeconds}`);
  if (faults.maintainerScriptFails === true) lines.push('echo "postinst: told to fail" >&2', 'exit 1');
  await writeFile(join(tree, 'DEBIAN/postinst'), `${lines.join('\n')}\n`, { mode: 0o755 });
}

/** The tail of a package is its files: without it the package manager knows what it should install, and cannot. */
async function cutShort(file: string): Promise<void> {
  const { size } = await stat(file);
  const handle = await open(file, 'r+');
  await handle.truncate(Math.floor(size * 0.6));
  await handle.close();
}

/** What makes up the binary; the first is its entry. */
const SOURCES = ['kwbase', 'tables', 'transfer-files'] as const;

/** Lays `bin/` and `lib/` of an installation into `directory`. */
export async function writeBinary(directory: string, options: PackageOptions): Promise<void> {
  await mkdir(join(directory, 'bin'), { recursive: true });
  await mkdir(join(directory, 'lib'), { recursive: true });
  const faults = Object.entries(options.faults ?? {}).filter(
    ([name]) => !PACKAGE_FAULTS.some((packageFault) => packageFault === name),
  );
  const tag = `V${options.version}${options.extension === undefined ? '' : `_${options.extension}`}`;
  const info: BuildInfo = { version: options.version, buildTag: tag, faults: Object.fromEntries(faults) };
  await writeFile(join(directory, 'bin/kwbase.json'), JSON.stringify(info));
  await writeFile(join(directory, 'bin/kwbase'), launcher(tag), { mode: 0o755 });
  for (const name of SOURCES) {
    const source = withoutTypes(await readFile(join(here, `${name}.ts`), 'utf8'));
    await writeFile(join(directory, `lib/${name}.mjs`), source.replaceAll(/(from '\.\/[\w-]+)\.ts'/g, "$1.mjs'"));
  }
}

/** Node warns once that stripping types is experimental; who builds a package cannot do anything about it. */
function withoutTypes(source: string): string {
  const emitWarning = process.emitWarning;
  process.emitWarning = () => {};
  try {
    return stripTypeScriptTypes(source);
  } finally {
    process.emitWarning = emitWarning;
  }
}

/** Named after its version, so that two versions differ in their hash as binaries do. */
function launcher(tag: string): string {
  return `#! /bin/bash
# KWDB stand-in ${tag}
home=$(cd "\${BASH_SOURCE[0]%/*}/.." && pwd)
node=\${KW_STANDIN_NODE:-${process.execPath}}
# In an image without Node, which is mounted into containers that serve, this much still answers.
if [ ! -e "$node" ] && [ "$1" = version ]; then printf 'KaiwuDB Version:  %s\n' '${tag}'; exit; fi
exec -a "$home/bin/kwbase" "$node" "$home/lib/kwbase.mjs" "$@"
`;
}

/** Node takes the words behind its name for its own; so the program comes in by the side door. */
function exactLauncher(): string {
  return `#! /bin/bash
home=$(cd "\${BASH_SOURCE[0]%/*}/.." && pwd)
NODE_OPTIONS="--import=file://$home/lib/kwbase.mjs" KW_STANDIN_IMPORTED=1 exec -a "$0" "\${KW_STANDIN_NODE:-${process.execPath}}" "$@"
`;
}

/**
 * `packages/KaiwuDB.tar` as `docker save` writes it. Its own layer holds the binary alone; to run, it needs a base
 * layer with bash and Node.
 */
async function writeImage(root: string, options: PackageOptions): Promise<void> {
  const image = join(root, '..', 'image');
  const tree = join(root, '..', 'layer-tree');
  await mkdir(image, { recursive: true });
  await writeBinary(join(tree, 'kaiwudb'), options);
  await run('tar', ['-C', tree, '--owner=0', '--group=0', '-cf', join(image, 'kaiwudb.tar'), 'kaiwudb']);
  if (options.baseLayer !== undefined) await cp(options.baseLayer, join(image, 'base.tar'));
  const layers = options.baseLayer === undefined ? ['kaiwudb.tar'] : ['base.tar', 'kaiwudb.tar'];
  const digests = await Promise.all(layers.map(async (layer) => sha256(await readFile(join(image, layer)))));
  const config = JSON.stringify({
    architecture: options.architecture ?? machineArchitecture(),
    os: 'linux',
    config: { WorkingDir: '/kaiwudb/bin', Env: ['PATH=/usr/local/bin:/usr/bin:/bin'] },
    rootfs: { type: 'layers', diff_ids: digests.map((digest) => `sha256:${digest}`) },
  });
  const name = `${sha256(config)}.json`;
  await writeFile(join(image, name), config);
  const manifest = [{ Config: name, RepoTags: [`kaiwudb:${fullVersion(options)}`], Layers: layers }];
  await writeFile(join(image, 'manifest.json'), JSON.stringify(manifest));
  const file = join(root, 'packages/KaiwuDB.tar');
  await run('tar', ['-C', image, '-cf', file, 'manifest.json', name, ...layers]);
  if (options.faults?.corrupt === true) await cutShort(file);
}

function sha256(data: string | Buffer): string {
  return createHash('sha256').update(data).digest('hex');
}

/**
 * Writes a tar with this machine's bash and the Node that runs this, with their libraries, to `file`: about as big as
 * Node is, so build it once and share it between packages. `node: false` leaves Node itself out, for containers that
 * get it by a mount: then an image is a few MB.
 */
export async function buildBaseLayer(file: string, options: { readonly node?: boolean } = {}): Promise<string> {
  const programs = [process.execPath, '/bin/bash', '/bin/sh', '/bin/sleep', '/bin/cat'];
  const files = new Set(options.node === false ? programs.slice(1) : programs);
  for (const program of programs) {
    const { stdout } = await run('ldd', [program]).catch(() => ({ stdout: '' }));
    for (const [, library] of stdout.matchAll(/(\/\S+) \(0x/g)) files.add(library ?? '');
  }
  const names = [...files].map((name) => name.slice(1));
  await run('tar', ['-C', '/', '--owner=0', '--group=0', '--dereference', '-cf', file, ...names]);
  return file;
}

if (import.meta.main) {
  const index = process.argv.indexOf('--json');
  process.stdout.write(`${await buildPackage(JSON.parse(process.argv[index + 1] ?? '{}') as PackageOptions)}\n`);
}
