import { chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { type Deployment, versionIn } from '../src/deployment/deployment.ts';
import { conditionOf, ScriptFinder } from '../src/deployment/script.ts';
import { parseOsRelease } from '../src/host/host-facts.ts';
import { parseMode, parsePeers, parseVersionFile } from '../src/host/mode.ts';
import type { PackageRecord } from '../src/host/package-database.ts';
import { dpkgRecords, familyByTool } from '../src/host/package-database.ts';
import type { ServiceManager, UnitState } from '../src/host/services.ts';
import { Observer } from '../src/observe.ts';
import { lasting } from '../src/reporter.ts';

const MODE =
  'bare\nmulti-replication\n/usr/local/kaiwudb\n/var/lib/kaiwudb\n26257\n8080\nkaiwudb\ntls\nfalse\n10.0.0.1\n';

/** What `kwbase version` and `node status` print, from a script that needs a shell alone. */
const KWBASE = `#!/bin/sh
case "$1" in
version) printf 'KaiwuDB Version:  V3.0.0\\nBuild Time:       now\\n' ;;
node) printf 'warning: old client\\nid,address,sql_address,build,started_at,updated_at,start_mode,is_available,is_live\\n1,127.0.0.1:26257,127.0.0.1:26257,V3.0.0,2026-11-23 06:42:19+00:00,2026-11-23 06:42:20+00:00,start,%s,true\\n2,10.0.0.2:26257,10.0.0.2:26257,V3.0.0,NULL,NULL,start,true,true\\n' "$(cat "$(dirname "$0")/available")" ;;
sql) printf 'kwdb_internal.cluster_id\\n11111111-2222-3333-4444-555555555555\\n' ;;
esac
`;

const STATUS = (server: string) => `Package: kaiwudb-server
Status: ${server}
Architecture: amd64
Version: 3.0.0

Package: kaiwudb-libcommon
Status: install ok installed
Architecture: amd64
Version: 3.0.0

Package: other
Status: install ok installed
Version: 9
`;

async function lay(root: string, files: Readonly<Record<string, string>>): Promise<void> {
  for (const [path, text] of Object.entries(files)) {
    await mkdir(dirname(join(root, path)), { recursive: true });
    await writeFile(join(root, path), text, { mode: 0o755 });
  }
}

const RUNNING: UnitState = {
  exists: true,
  active: 'active',
  enabled: true,
  mainPid: 42,
  startedAtMs: Date.UTC(2026, 10, 23, 6, 42, 19),
};

/** A laid-out root, a database that answers on HTTP, and an observer of both. */
async function host(options: { unit?: UnitState; server?: string; available?: boolean } = {}) {
  const root = await mkdtemp(join(tmpdir(), 'kwfleet-observe-'));
  onTestFinished(() => rm(root, { recursive: true, force: true }));
  const http = createServer((_request, response) => response.end('{}'));
  await new Promise<void>((resolve) => http.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => void http.close());
  const { port } = http.address() as AddressInfo;
  await lay(root, {
    'etc/kaiwudb/info/MODE': `bare\nmulti-replication\n/usr/local/kaiwudb\n/var/lib/kaiwudb\n26257\n${port}\nkaiwudb\ninsecure\nfalse\n127.0.0.1\n`,
    'etc/kaiwudb/info/NODE': '10.0.0.2 10.0.0.3\n22\nroot\n',
    'etc/kaiwudb/info/.version': '3.0.0\n\n',
    'etc/kaiwudb/script/kaiwudb_env': 'KAIWUDB_START_ARG=""\n',
    'etc/os-release': 'ID=ubuntu\nID_LIKE=debian\nVERSION_ID="22.04"\n',
    'var/lib/dpkg/status': STATUS(options.server ?? 'install ok installed'),
    'usr/local/kaiwudb/bin/kwbase': KWBASE,
    'usr/local/kaiwudb/bin/available': `${options.available ?? true}`,
    'state/.keep': '',
  });
  const services: ServiceManager = {
    kind: 'process',
    state: async () => options.unit ?? RUNNING,
    start: async () => {},
    stop: async () => {},
    reload: async () => {},
  };
  const finder = new ScriptFinder({ root, services, now: () => 5, statusTimeoutMs: 10_000, sudo: false });
  const make = (change: Partial<Deployment> = {}) =>
    new Observer({
      root,
      stateDir: join(root, 'state'),
      now: () => 5,
      agentVersion: '0',
      finders: [{ find: () => finder.find().then((found) => found && Object.assign(found, change)) }],
    });
  return { root, make, http };
}

describe('a laid-out root', () => {
  test('a running node', async () => {
    const { make } = await host();
    const report = await make().observe();
    expect(report).toMatchObject({
      host: { distribution: { id: 'ubuntu', versionId: '22.04', family: 'deb' }, privileges: 'root' },
      installation: {
        method: 'script-bare',
        topology: 'multi-replica',
        peers: ['10.0.0.2', '10.0.0.3'],
        unit: { active: 'active', mainPid: 42 },
        versions: { recorded: '3.0.0', package: '3.0.0', binary: 'V3.0.0', running: 'V3.0.0' },
        condition: 'clean',
      },
      serving: true,
      ready: true,
      identity: { clusterId: '11111111-2222-3333-4444-555555555555', kwdbId: 1 },
    });
    expect(report.view?.nodes).toHaveLength(2);
  });

  test('what cannot be exchanged says so', async () => {
    const { make } = await host();
    expect((await make().observe()).installation).not.toHaveProperty('unfit');
    expect((await make({ unfit: 'its data go with it' }).observe()).installation?.unfit).toBe('its data go with it');
  });

  test('a stopped node still knows who it is', async () => {
    const { make, http } = await host();
    await make().observe();
    await new Promise((resolve) => http.close(resolve));
    const report = await make().observe();
    expect(report).toMatchObject({ serving: false, identity: { kwdbId: 1 } });
    expect(report).not.toHaveProperty('view');
    expect(report.installation?.versions).not.toHaveProperty('running');
  });

  test('a record that the process before wrote is not this process', async () => {
    const { make } = await host({ unit: { ...RUNNING, startedAtMs: Date.UTC(2026, 10, 23, 7) } });
    expect((await make().observe()).installation?.versions).not.toHaveProperty('running');
  });

  test('half-done states', async () => {
    const half = await host({ server: 'install ok half-configured' });
    expect((await half.make().observe()).installation).toMatchObject({
      condition: 'package-half-installed',
      conditionDetail: 'kaiwudb-server 3.0.0 is iF',
    });
    const marked = await host({ available: false });
    expect((await marked.make().observe()).installation?.condition).toBe('marked-upgrading');
    const left = await host();
    await lay(left.root, { 'etc/kaiwudb/script/kaiwudb_env': 'KAIWUDB_START_ARG="--upgrade-complete "\n' });
    expect((await left.make().observe()).installation?.condition).toBe('marked-upgrading');
    await lay(left.root, { 'etc/kaiwudb/info/.version': '2.9.0\n' });
    expect((await left.make().observe()).installation?.condition).toBe('version-file-behind');
    await rm(join(left.root, 'usr'), { recursive: true });
    expect((await left.make().observe()).installation?.condition).toBe('binary-missing');
  });

  test('a host without KWDB', async () => {
    const { root, make } = await host();
    await rm(join(root, 'etc/kaiwudb'), { recursive: true });
    const report = await make().observe();
    expect(report).toMatchObject({ serving: false });
    expect(report).not.toHaveProperty('installation');
  });

  test("what dpkg was doing when it died is read over its books, and what it forgot isn't", async () => {
    const { root } = await host();
    await lay(root, {
      'var/lib/dpkg/updates/0001':
        'Package: kaiwudb-server\nStatus: install reinstreq half-installed\nVersion: 3.1.0\n',
      'var/lib/dpkg/updates/0002': 'Package: kaiwudb-libcommon\nStatus: deinstall ok config-files\nVersion: 3.0.0\n',
    });
    expect(await dpkgRecords(root)).toEqual([
      { name: 'kaiwudb-server', version: '3.1.0', architecture: '', state: 'iHR' },
    ]);
  });

  test('two looks at an unchanged node are one report', async () => {
    const { make } = await host();
    const observer = make();
    const [a, b] = [await observer.observe(), await observer.observe()];
    expect(lasting({ ...a, observedAtMs: 9, host: { ...a.host, clockMs: 9 } })).toBe(lasting(b));
  });
});

describe('files of an installation', () => {
  test('MODE, whole and old', () => {
    expect(parseMode(MODE, 'insecure')).toMatchObject({
      topology: 'multi-replica',
      security: 'tls',
      encrypted: false,
      address: '10.0.0.1',
    });
    const old = 'bare\nsingle\n/usr/local/kaiwudb\n/data\n26258\n8081\nkaiwudb\n10.0.0.9\n';
    expect(parseMode(old, 'tlcp')).toMatchObject({
      security: 'tlcp',
      dataDir: '/data',
      port: 26258,
      address: '10.0.0.9',
    });
    expect(() => parseMode('bare\nnonsense\n', 'insecure')).toThrow(/topology/);
  });

  test('.version and NODE', () => {
    expect(parseVersionFile('3.1.0\nhotfix1beta2\n')).toBe('3.1.0 hotfix1beta2');
    expect(parseVersionFile('3.1.0\n')).toBe('3.1.0');
    expect(parseVersionFile('')).toBeUndefined();
    expect(parsePeers(' a  b \n22\nroot\n')).toEqual(['a', 'b']);
  });

  test('package versions', () => {
    expect([versionIn('3.1.0'), versionIn('1:3.1.0-1~deb12'), versionIn('weird')]).toEqual([
      '3.1.0',
      '3.1.0',
      undefined,
    ]);
  });

  test('distributions', () => {
    expect(parseOsRelease('ID="kylin"\nVERSION_ID="V10"\n').family).toBe('rpm');
    expect(parseOsRelease('').family).toBe('unknown');
  });
});

test('which package tool deploy.sh would take', async () => {
  const root = await mkdtemp(join(tmpdir(), 'kwfleet-tools-'));
  onTestFinished(() => rm(root, { recursive: true, force: true }));
  const path = `${root}/a:${root}/b`;
  expect(await familyByTool(path)).toBeUndefined();
  await lay(root, { 'b/rpm': '' });
  expect(await familyByTool(path)).toBe('rpm');
  await lay(root, { 'a/dpkg': '' });
  await chmod(join(root, 'a/dpkg'), 0o644);
  expect(await familyByTool(path)).toBe('rpm');
  await chmod(join(root, 'a/dpkg'), 0o755);
  expect(await familyByTool(path)).toBe('deb');
});

test('conditions of an installation', () => {
  const whole = (state = 'ii'): PackageRecord[] => [
    { name: 'kaiwudb-server', version: '3.1.0', architecture: 'amd64', state },
  ];
  expect(conditionOf({ recorded: '3.1.0', binary: 'V3.1.0' }, [])).toMatchObject({ condition: 'binary-missing' });
  const twice = [...whole(), { name: 'kaiwudb-server', version: '3.0.0', architecture: 'amd64', state: 'ii' }];
  expect(conditionOf({ recorded: '3.1.0', binary: 'V3.1.0' }, twice)).toEqual({
    condition: 'package-half-installed',
    conditionDetail: 'kaiwudb-server is there as 3.1.0 and 3.0.0',
  });
  expect(conditionOf({ recorded: '3.1.0', binary: 'V3.1.0' }, whole('iU')).condition).toBe('package-half-installed');
  expect(conditionOf({ recorded: '3.0.0', binary: 'V3.1.0' }, whole()).condition).toBe('version-file-behind');
  expect(conditionOf({ recorded: '3.1.0', binary: 'V3.1.0', running: 'V3.0.0' }, whole()).condition).toBe(
    'process-behind',
  );
  expect(conditionOf({ recorded: '3.1.0', binary: 'V3.1.0', running: 'V3.1.0' }, whole()).condition).toBe('clean');
});
