/** The switch of a source build's tree, on real files; its start and stop are played on test hosts (test/lab/source.test.ts). */
import {
  lstat,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  readlink,
  realpath,
  rename,
  rm,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Action, PackageInfo } from '@kwfleet/core';
import { describe, expect, onTestFinished, test } from 'vitest';
import { SourceDeployment } from '../src/deployment/source.ts';
import { type NodeRecord, SourceRecords } from '../src/deployment/source-record.ts';
import type { Watch } from '../src/driver/driver.ts';
import { SourceDriver } from '../src/driver/source.ts';
import type { ServiceManager } from '../src/host/services.ts';
import { startCommand } from '../src/host/start-command.ts';
import type { Observer } from '../src/observe.ts';
import type { PackageCache } from '../src/packages.ts';

const WATCH: Watch = {
  detail: () => {},
  moved: () => {},
  fence: async () => {},
  output: () => {},
  pause: async () => {},
};

/** A tree whose `kwbase` is a script that tells `version`, or does not run. */
async function layTree(root: string, version: string | undefined): Promise<string> {
  await mkdir(join(root, 'bin'), { recursive: true });
  await mkdir(join(root, 'lib'), { recursive: true });
  const body = version === undefined ? 'echo missing.so >&2; exit 127' : `echo 'KaiwuDB Version:  V${version}'`;
  await writeFile(join(root, 'bin/kwbase'), `#!/bin/sh\n${body}\n`, { mode: 0o755 });
  return root;
}

const packageOfVersion = (version: string, digit = version.at(2) ?? '0'): PackageInfo => ({
  sha256: digit.repeat(64),
  fileName: `kwdb-${version}.tar.gz`,
  sizeBytes: 1,
  unpackedBytes: 1,
  version,
  kind: 'tree',
  architecture: 'amd64',
  family: 'any',
});

const orderOf = (from: string, to: string, pkg = packageOfVersion(to)): Action =>
  ({ id: 'r/s/1', from, to, phases: ['stop', 'install', 'start'], package: pkg }) as unknown as Action;

/** A service manager that runs everything itself; in `log` how it was called. `refusal` is what it says instead. */
async function playSystemd(directory: string): Promise<{ log: string; refusal: string }> {
  const [bin, log, refusal] = ['bin', 'systemd.log', 'refusal'].map((name) => join(directory, name)) as [
    string,
    string,
    string,
  ];
  const script = `#!/bin/sh
printf '%s\\n' "$*" >>'${log}'
if [ -e '${refusal}' ]; then cat '${refusal}' >&2; exit 203; fi
for word; do case "$word" in --property=EnvironmentFile=*) sed 's/^/in it: /' "\${word#--property=EnvironmentFile=}" >>'${log}';; esac; done
while [ "$1" != -- ]; do shift; done
shift
exec "$@"
`;
  await mkdir(bin);
  await writeFile(join(bin, 'systemd-run'), script, { mode: 0o755 });
  const path = process.env.PATH;
  process.env.PATH = `${bin}:${path}`;
  onTestFinished(() => void Object.assign(process.env, { PATH: path }));
  return { log, refusal };
}

/** A host with a stopped 3.0.0 under `install`, and packages of `versions`; `alive` says that the node runs. */
async function host(options: { told?: string | undefined; alive?: boolean; store?: string } = {}) {
  const root = await realpath(await mkdtemp(join(tmpdir(), 'kwfleet-trees-')));
  onTestFinished(() => rm(root, { recursive: true, force: true }));
  const systemd = await playSystemd(root);
  const tree = await layTree(join(root, 'install'), '3.0.0');
  const record: NodeRecord = {
    tree,
    binary: join(tree, 'bin/kwbase'),
    args: ['start-single-node', '--insecure', ...(options.store === undefined ? [] : [`--store=${options.store}`])],
    cwd: root,
    environment: [`LD_LIBRARY_PATH=${tree}/lib:/opt/lib`, 'SECRET=a b'],
    uid: process.getuid?.() ?? 0,
    gid: process.getgid?.() ?? 0,
    umask: '0022',
    limits: [],
    process: { pid: 1, startTicks: 1, bootId: '', startedAtMs: 1 },
  };
  const services = { kind: 'systemd' } as ServiceManager;
  const records = new SourceRecords(join(root, 'state'));
  const command = startCommand(record.args);
  if (command === undefined) throw new Error('no start command');
  const running = options.alive === true ? { ...record, pid: 1, startTicks: 1, argv: [] } : undefined;
  const parts = { records, services, now: Date.now, statusTimeoutMs: 1000, tree: undefined, user: 'x' };
  const deployment = new SourceDeployment({
    ...parts,
    record,
    command,
    running,
    places: { configuration: [] },
    told: { stamp: '', version: undefined },
  });
  const bring = ({ version }: PackageInfo) =>
    layTree(join(root, 'packages', version), 'told' in options ? options.told : version);
  const driver = new SourceDriver({
    services,
    records,
    sudo: false,
    build: undefined,
    observer: { deployment: async () => deployment } as unknown as Observer,
    packages: { ensure: bring, ready: bring } as unknown as PackageCache,
    commands: {} as never,
  });
  const told = async () => /V([\d.]+)/.exec(await readFile(join(tree, 'bin/kwbase'), 'utf8'))?.[1];
  const names = async () => (await readdir(root)).filter((name) => name.startsWith('install')).sort();
  const tell = (version: string) => Object.assign(options, { told: version });
  return { root, tree, driver, records, systemd, told, names, tell };
}

describe('the tree in use', () => {
  test('is untouched by a fetch, then a link to the new one, and the old one is the way back', async () => {
    const { tree, driver, told, names } = await host();
    const order = orderOf('3.0.0', '3.1.0');
    await driver.fetch(order, WATCH);
    expect((await lstat(tree)).isDirectory()).toBe(true);
    expect(await told()).toBe('3.0.0');
    await driver.install(order, WATCH);
    expect(await readlink(tree)).toBe('install-3.1.0');
    expect(await told()).toBe('3.1.0');
    await driver.install(order, WATCH);
    await driver.putBack(order, WATCH);
    expect(await told()).toBe('3.0.0');
    await driver.putBack(order, WATCH);
    await driver.install(order, WATCH);
    expect([await told(), await names()]).toEqual(['3.1.0', ['install', 'install-3.0.0', 'install-3.1.0']]);
  });

  test("goes back to a package of the version before, beside people's own tree of that version, which stays", async () => {
    const { root, tree, driver, told, names } = await host();
    const up = orderOf('3.0.0', '3.1.0');
    await driver.fetch(up, WATCH);
    await driver.install(up, WATCH);
    await writeFile(join(root, 'install-3.0.0/theirs'), '');
    const down = orderOf('3.1.0', '3.0.0');
    await driver.fetch(down, WATCH);
    await driver.install(down, WATCH);
    await driver.release({ ...down, id: 'r/s/2' });
    expect([await told(), await readlink(tree)]).toEqual(['3.0.0', `install-3.0.0-${'0'.repeat(12)}`]);
    expect(await readdir(join(root, 'install-3.0.0'))).toContain('theirs');
    await driver.putBack(down, WATCH);
    expect([await told(), await readlink(tree)]).toEqual(['3.1.0', 'install-3.1.0']);
    expect(await names()).toEqual(['install', 'install-3.0.0', `install-3.0.0-${'0'.repeat(12)}`, 'install-3.1.0']);
  });

  test('is not exchanged when the data lie in it: the new version would begin with none', async () => {
    const { driver, names } = await host({ store: 'install/bin/kwbase-data' });
    await expect(driver.fetch(orderOf('3.0.0', '3.1.0'), WATCH)).rejects.toMatchObject({ code: 'METHOD_UNSUPPORTED' });
    expect(await names()).toEqual(['install']);
  });

  test('is found again by an attempt that follows one which died between moving it away and the link', async () => {
    const { tree, driver, records, told } = await host();
    const order = orderOf('3.0.0', '3.1.0');
    await driver.fetch(order, WATCH);
    await records.keepTree({ version: '3.0.0', path: `${tree}-3.0.0`, made: false });
    await rename(tree, `${tree}-3.0.0`);
    await driver.putBack(order, WATCH);
    expect(await told()).toBe('3.0.0');
    await rm(tree);
    await driver.install(order, WATCH);
    expect(await told()).toBe('3.1.0');
  });

  test('may be a link of somebody else from the start', async () => {
    const { root, tree, driver, told } = await host();
    await rename(tree, join(root, 'build-a'));
    await symlink('build-a', tree);
    const order = orderOf('3.0.0', '3.1.0');
    await driver.install(order, WATCH);
    await driver.putBack(order, WATCH);
    expect([await told(), await readlink(tree)]).toEqual(['3.0.0', 'build-a']);
  });

  test('is not moved over what somebody else laid there', async () => {
    const { tree, driver, told } = await host();
    await mkdir(`${tree}-3.0.0`);
    const order = orderOf('3.0.0', '3.1.0');
    await expect(driver.install(order, WATCH)).rejects.toMatchObject({ code: 'INSTALL_FAILED' });
    expect(await told()).toBe('3.0.0');
    await rm(`${tree}-3.0.0`, { recursive: true });
    await rm(`${tree}-3.1.0`, { recursive: true });
    await mkdir(`${tree}-3.1.0`);
    await expect(driver.fetch(order, WATCH)).rejects.toMatchObject({ code: 'INSTALL_FAILED' });
    expect(await readdir(`${tree}-3.1.0`)).toEqual([]);
  });

  test('is not switched while the node runs', async () => {
    const { driver, told } = await host({ alive: true });
    const order = orderOf('3.0.0', '3.1.0');
    await expect(driver.install(order, WATCH)).rejects.toMatchObject({ code: 'DEPLOY_STILL_RUNNING' });
    await expect(driver.putBack(order, WATCH)).rejects.toMatchObject({ code: 'DEPLOY_STILL_RUNNING' });
    expect(await told()).toBe('3.0.0');
  });
});

describe('a new tree', () => {
  test('must run and tell its version before anything is stopped', async () => {
    const order = orderOf('3.0.0', '3.1.0');
    const broken = await host({ told: undefined });
    await expect(broken.driver.fetch(order, WATCH)).rejects.toMatchObject({
      code: 'INSTALL_FAILED',
      words: expect.stringContaining('missing.so'),
    });
    const other = await host({ told: '3.0.9' });
    await expect(other.driver.fetch(order, WATCH)).rejects.toMatchObject({ code: 'VERIFY_WRONG_VERSION' });
    expect(await other.names()).toEqual(['install']);
    // The same package, after what it is made of was mended: a build that the host repeats.
    other.tell('3.1.0');
    await other.driver.fetch(order, WATCH);
    expect(await other.names()).toEqual(['install', 'install-3.1.0']);
  });

  test('is run as the node will be started, before anything is stopped', async () => {
    const { root, tree, driver, systemd } = await host();
    await driver.fetch(orderOf('3.0.0', '3.1.0'), WATCH);
    const [call, ...environment] = (await readFile(systemd.log, 'utf8')).trim().split('\n');
    expect(call).toMatch(
      /^--unit=kwfleet-short-\d+-\d+ .*--uid=\d+ .*--wait .* -- \S+\/install-3\.1\.0\/bin\/kwbase version$/,
    );
    expect(environment).toEqual([`in it: LD_LIBRARY_PATH="${tree}-3.1.0/lib:/opt/lib"`, 'in it: SECRET="a b"']);
    // It holds secrets, and is of no more use.
    expect(await readdir(join(root, 'state/source'))).toEqual(['trees.json']);
    await writeFile(systemd.refusal, 'Main processes terminated with: code=exited/status=203\n');
    await expect(driver.fetch(orderOf('3.0.0', '3.1.0'), WATCH)).rejects.toMatchObject({
      code: 'START_FAILED',
      words: expect.stringContaining('status=203'),
    });
  });

  test('of a mended package of the same version takes the place of the one before', async () => {
    const { driver, tree } = await host();
    await driver.fetch(orderOf('3.0.0', '3.1.0'), WATCH);
    await writeFile(join(`${tree}-3.1.0`, 'lib/old'), '');
    await driver.fetch(orderOf('3.0.0', '3.1.0', packageOfVersion('3.1.0', 'f')), WATCH);
    expect(await readdir(join(`${tree}-3.1.0`, 'lib'))).toEqual([]);
  });

  test('stays with the one before it; older ones go when the agent laid them', async () => {
    const { driver, names } = await host();
    for (const [from, to] of [
      ['3.0.0', '3.1.0'],
      ['3.1.0', '3.2.0'],
      ['3.2.0', '3.3.0'],
    ] as const) {
      await driver.install(orderOf(from, to), WATCH);
      await driver.release({ ...orderOf(from, to), phases: ['check'] });
      await driver.release(orderOf(from, to));
    }
    expect(await names()).toEqual(['install', 'install-3.0.0', 'install-3.2.0', 'install-3.3.0']);
  });
});
