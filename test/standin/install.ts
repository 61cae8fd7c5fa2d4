/**
 * Lays a script installation of KWDB on a host, or on a directory that plays one: the files, the packages in dpkg's
 * books, the unit. Also a command: `node test/standin/install.ts --json '{...}'`, to run inside a lab host.
 */
import { execFile } from 'node:child_process';
import { chmod, mkdir, mkdtemp, readdir, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir, userInfo } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { makeCertificates } from './certificates.ts';
import type { Knobs } from './kwbase.ts';
import { buildPackage, type PackageOptions, unpackPackage } from './package.ts';

const run = promisify(execFile);

export type InstallMode = 'single' | 'multi-replication' | 'single-replication';

export type InstallOptions = {
  /** `/` for a real host; otherwise a directory in whose tree everything goes (process mode). */
  readonly root: string;
  readonly version: string;
  readonly extension?: string;
  readonly mode: InstallMode;
  /** This node's address, without a port; loopback clusters use 127.A.B.N. */
  readonly address: string;
  readonly port: number;
  readonly httpPort: number;
  /** The other nodes' addresses, without ports: empty for a standalone node. */
  readonly peers: readonly string[];
  /** What kind of packages is built and installed; `deb` unless told. */
  readonly family?: 'deb' | 'rpm';
  /** What to install: an unpacked `kaiwudb_install`, or a .tar.gz; built for `version` when absent. */
  readonly packagePath?: string;
  /** The data root, `/var/lib/kaiwudb` unless told; under `root` in process mode. */
  readonly dataRoot?: string;
  /** Owner of data and process; `kaiwudb` on a real host (created), the caller in process mode. */
  readonly user?: string;
  readonly secure?: 'insecure' | 'tls' | 'tlcp';
  /** For tls: what `makeCertificates` made for the cluster; made for this node alone when absent. */
  readonly certificates?: Readonly<Record<string, string>>;
  /** Written to the host's `standin.json`. */
  readonly knobs?: Knobs;
  /** `Restart=` of the unit; KWDB's own unit has none. */
  readonly restart?: string;
  /** Write line 9 of MODE, as newer installs do. True unless told. */
  readonly encryptedLine?: boolean;
  /** What line 9 says. */
  readonly encrypted?: boolean;
};

/** Where an installed node's things lie on this machine. */
export type InstalledNode = {
  readonly root: string;
  readonly kwbase: string;
  readonly dataRoot: string;
  readonly knobFile: string;
  readonly recordFile: string;
  readonly unitFile: string;
  /** `IP:PORT` for `--host`. */
  readonly host: string;
  /** Base of the node's HTTP addresses. */
  readonly httpUrl: string;
  /** Environment in which deploy.sh and process-systemctl work on this root (empty for a real host). */
  readonly env: Readonly<Record<string, string>>;
};

const START: Readonly<Record<InstallMode, string>> = {
  single: 'start-single-node',
  'multi-replication': 'start',
  'single-replication': 'start-single-replica',
};

/** Installs a node; it is not started. */
export async function installNode(given: InstallOptions): Promise<InstalledNode> {
  // Units and dpkg's books need absolute paths.
  const options = { ...given, root: resolve(given.root) };
  const node = describeNode(options);
  const user = options.user ?? (isRealHost(options) ? 'kaiwudb' : userInfo().username);
  if (isRealHost(options)) await ensureUser(user);
  await layTree(options, node);
  await installPackages(options);
  await writeInfo(options, user);
  await writeUnit(options, node, user);
  await writeWrappers(options, node);
  if (options.knobs !== undefined) await writeFile(node.knobFile, JSON.stringify(options.knobs));
  await writeFile(node.recordFile, '');
  if (isRealHost(options)) {
    await run('chown', ['-R', `${user}:`, node.dataRoot, node.recordFile, '/etc/kaiwudb', '/usr/local/kaiwudb']);
    await run('systemctl', ['daemon-reload']).catch(() => {});
  }
  return node;
}

function isRealHost({ root }: InstallOptions): boolean {
  return root === '/';
}

/** Where `installNode` puts things, without touching anything. */
export function describeNode(options: InstallOptions): InstalledNode {
  const at = (path: string): string => join(options.root, path);
  const dataRoot = at(options.dataRoot ?? '/var/lib/kaiwudb');
  return {
    root: options.root,
    kwbase: at('/usr/local/kaiwudb/bin/kwbase'),
    dataRoot,
    knobFile: join(dirname(dataRoot), 'standin.json'),
    recordFile: join(dirname(dataRoot), 'standin-record.jsonl'),
    unitFile: at('/etc/systemd/system/kaiwudb.service'),
    host: `${options.address}:${options.port}`,
    httpUrl: `${options.secure === 'tls' ? 'https' : 'http'}://${options.address}:${options.httpPort}`,
    env: isRealHost(options) ? {} : { KW_STANDIN_ROOT: options.root, PATH: `${at('/usr/bin')}:${process.env.PATH}` },
  };
}

async function ensureUser(user: string): Promise<void> {
  await run('id', [user]).catch(() => run('useradd', ['--system', '--user-group', '--no-create-home', user]));
}

async function layTree(options: InstallOptions, node: InstalledNode): Promise<void> {
  const folders = ['etc/kaiwudb/certs', 'etc/kaiwudb/script', 'etc/kaiwudb/info', 'etc/systemd/system', 'usr/bin'];
  for (const folder of folders) await mkdir(join(options.root, folder), { recursive: true });
  await mkdir(node.dataRoot, { recursive: true });
  if (isRealHost(options)) return;
  const books = join(options.root, 'var/lib/dpkg');
  for (const folder of ['info', 'updates', 'triggers']) await mkdir(join(books, folder), { recursive: true });
  for (const file of ['status', 'available']) await writeFile(join(books, file), '', { flag: 'a' });
  await writeSystemctl(options.root);
}

/** `systemctl` for deploy.sh on a root that has no systemd. */
async function writeSystemctl(root: string): Promise<void> {
  const cli = join(import.meta.dirname, '../../packages/agent/bin/process-systemctl.mjs');
  const file = join(root, 'usr/bin/systemctl');
  await writeFile(file, `#! /bin/sh\nexec "${process.execPath}" "${cli}" "$@"\n`);
  await chmod(file, 0o755);
}

async function installPackages(options: InstallOptions): Promise<void> {
  const work = await mkdtemp(join(tmpdir(), 'kw-install-'));
  try {
    const source = options.packagePath ?? (await buildPackage({ ...versionOf(options), outDir: work }));
    const directory = (await stat(source)).isDirectory() ? source : await unpackPackage(source, work);
    const names = await readdir(join(directory, 'packages'));
    for (const part of ['libcommon', 'server']) {
      const file = names.find((name) => name.includes(part));
      if (file === undefined) throw new Error(`${source} has no ${part} package`);
      const path = join(directory, 'packages', file);
      if (file.endsWith('.rpm')) await run('rpm', ['-ivh', path]);
      else await run('dpkg', [...dpkgOptions(options), '-i', path]);
    }
    await run('cp', [join(directory, 'packages/.version'), join(options.root, 'etc/kaiwudb/info/.version')]);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

function versionOf({ version, extension, family = 'deb' }: InstallOptions): Omit<PackageOptions, 'outDir'> {
  return { version, family, ...(extension === undefined ? {} : { extension }) };
}

/** How dpkg is told to keep its books under a directory, without being root. */
export function dpkgOptions({ root }: { readonly root: string }): string[] {
  return root === '/' ? [] : [`--root=${root}`, '--force-not-root', '--force-script-chrootless', '--force-bad-path'];
}

async function writeInfo(options: InstallOptions, user: string): Promise<void> {
  const at = (path: string): string => join(options.root, 'etc/kaiwudb', path);
  const secure = options.secure ?? 'insecure';
  const lines = ['bare', options.mode, '/usr/local/kaiwudb', options.dataRoot ?? '/var/lib/kaiwudb'];
  lines.push(String(options.port), String(options.httpPort), user, secure);
  if (options.encryptedLine !== false) lines.push(String(options.encrypted === true));
  await writeFile(at('info/MODE'), `${[...lines, options.address].join('\n')}\n`);
  if (options.mode !== 'single') await writeFile(at('info/NODE'), `${options.peers.join(' ')}\n22\nroot\n`);
  await writeFile(at('script/kaiwudb_env'), 'KAIWUDB_START_ARG=""\n');
  if (secure === 'tls') {
    const certificates = options.certificates ?? (await makeCertificates([options.address]));
    for (const [name, text] of Object.entries(certificates)) {
      await writeFile(at(`certs/${name}`), text, { mode: name.endsWith('.key') ? 0o700 : 0o644 });
    }
  }
  // One authority for all: two installations with TLCP trust each other.
  if (secure === 'tlcp') await writeFile(at('certs/tlcp_ca.crt'), 'stand-in authority\n');
}

async function writeUnit(options: InstallOptions, node: InstalledNode, user: string): Promise<void> {
  const real = isRealHost(options);
  const listen = real ? '0.0.0.0' : options.address;
  const join_ = [options.address, ...options.peers].map((address) => `${address}:${options.port}`).join(',');
  const command = [
    node.kwbase,
    START[options.mode],
    '$KAIWUDB_START_ARG',
    secureFlags(options),
    `--listen-addr=${listen}:${options.port}`,
    `--advertise-addr=${options.address}:${options.port}`,
    `--http-addr=${listen}:${options.httpPort}`,
    `--store=${node.dataRoot}`,
    ...(options.mode === 'single' ? [] : [`--join ${join_}`]),
  ].join(' ');
  await writeFile(
    node.unitFile,
    `[Unit]
Description=KaiwuDB Service
After=network.target
Wants=network.target
[Service]
${real ? `User=${user}\nGroup=${user}\n` : ''}Type=simple
WorkingDirectory=${join(options.root, 'usr/local/kaiwudb/bin')}
EnvironmentFile=${join(options.root, 'etc/kaiwudb/script/kaiwudb_env')}
Environment=LANG=C
ExecStart=${command}
ExecStop=/bin/kill $MAINPID
KillMode=control-group
Restart=${options.restart ?? 'no'}
RestartPreventExitStatus=INVALIDARGUMENT
[Install]
WantedBy=multi-user.target
`,
  );
}

function secureFlags(options: InstallOptions): string {
  const certs = `--certs-dir=${join(options.root, 'etc/kaiwudb/certs')}`;
  if (options.secure === 'tls') return certs;
  return options.secure === 'tlcp' ? `${certs} --tlcp` : '--insecure';
}

/** `kw-status` and `kw-sql`; their scripts lie beside the binary, so that its directory survives the packages. */
async function writeWrappers(options: InstallOptions, node: InstalledNode): Promise<void> {
  for (const [name, command] of [
    ['kw-status', 'node status'],
    ['kw-sql', 'sql'],
  ] as const) {
    const script = join(dirname(node.kwbase), `${name}.sh`);
    await writeFile(
      script,
      `#!/bin/bash\n"${node.kwbase}" ${command} ${secureFlags(options)} --host=${node.host} "$@"\n`,
    );
    await chmod(script, 0o755);
    await rm(join(options.root, 'usr/bin', name), { force: true });
    await symlink(script, join(options.root, 'usr/bin', name));
  }
}

if (import.meta.main) {
  const index = process.argv.indexOf('--json');
  const node = await installNode(JSON.parse(process.argv[index + 1] ?? '{}') as InstallOptions);
  process.stdout.write(`${JSON.stringify(node)}\n`);
}
