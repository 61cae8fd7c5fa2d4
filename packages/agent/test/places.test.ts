/** What each way of deployment says that makes up its node, and what it says when a plain copy would not hold it. */
import { mkdir, mkdtemp, readFile, realpath, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { ContainerFinder } from '../src/deployment/container.ts';
import { ScriptFinder, unitCommand } from '../src/deployment/script.ts';
import { ScriptContainerFinder } from '../src/deployment/script-container.ts';
import { SourceFinder } from '../src/deployment/source.ts';
import { SourceRecords } from '../src/deployment/source-record.ts';
import { Engine } from '../src/docker/engine.ts';
import { Images } from '../src/docker/images.ts';
import { MadeRecord } from '../src/docker/made-record.ts';
import type { ServiceManager } from '../src/host/services.ts';
import { startCommand, storeObstacle } from '../src/host/start-command.ts';
import { unitFiles } from '../src/host/systemd.ts';
import type { PackageCache } from '../src/packages.ts';

const SERVICES = { kind: 'systemd' } as ServiceManager;
const ASKED = { now: Date.now, statusTimeoutMs: 1000 };
const STORE = '/kaiwudb/deploy/kwdb-container';

async function directory(): Promise<string> {
  const made = await realpath(await mkdtemp(join(tmpdir(), 'kw-places-')));
  onTestFinished(() => rm(made, { recursive: true, force: true }));
  return made;
}

async function lay(root: string, files: Readonly<Record<string, string>>): Promise<void> {
  for (const [path, text] of Object.entries(files)) {
    await mkdir(dirname(join(root, path)), { recursive: true });
    await writeFile(join(root, path), text);
  }
}

type Container = {
  readonly name?: string;
  readonly args?: readonly string[];
  readonly labels?: Readonly<Record<string, string>>;
  readonly mounts: readonly Readonly<Record<string, string>>[];
  readonly autoRemove?: boolean;
  readonly running?: boolean;
};
const bind = (Source: string, Destination: string) => ({ Type: 'bind', Source, Destination });
const volume = (Name: string, Destination: string, Driver = 'local') => ({
  Type: 'volume',
  Name,
  Driver,
  Destination,
  Source: `/var/lib/docker/volumes/${Name}/_data`,
});
/** Options of a volume that the engine mounts itself. */
const DEVICE = { type: 'none', device: '/srv/x' };

/** An engine that has one stopped container, in the form in which Docker's API tells of it. */
async function engineWith(
  root: string,
  {
    name = 'kwdb',
    args = [`--store=${STORE}`, '--insecure'],
    labels = {},
    mounts,
    autoRemove = false,
    running = false,
  }: Container,
  options: Readonly<Record<string, string>> | null = null,
): Promise<Engine> {
  const inspect = {
    Id: 'c0ffee',
    Name: `/${name}`,
    Path: './kwbase',
    Args: ['start-single-node', ...args],
    Image: 'sha256:1',
    State: { Status: running ? 'running' : 'exited', Running: running, StartedAt: '', ExitCode: 0, Pid: 0 },
    HostConfig: { AutoRemove: autoRemove, RestartPolicy: { Name: 'no' } },
    Config: { Image: 'kaiwudb:3.0.0', WorkingDir: '/kaiwudb/bin', User: '', Env: [], Labels: labels, Hostname: 'h' },
    NetworkSettings: { Networks: {}, Ports: {} },
    Mounts: mounts,
  };
  const summary = { Id: inspect.Id, Names: [inspect.Name], Labels: labels, Command: './kwbase start' };
  const answers: Readonly<Record<string, unknown>> = {
    '/_ping': 'OK',
    '/info': { DockerRootDir: '/var/lib/docker', Architecture: 'x86_64' },
    '/containers/json?all=true': [summary],
    [`/containers/${inspect.Id}/json`]: inspect,
    [`/containers/${name}/json`]: inspect,
    '/volumes/data': { Name: 'data', Driver: 'local', Mountpoint: '', Labels: {}, Scope: 'local', Options: options },
  };
  const server = createServer((request, response) => {
    const answer = answers[request.url ?? ''];
    response.statusCode = answer === undefined ? 404 : 200;
    response.end(JSON.stringify(answer ?? { message: `no ${request.url}` }));
  });
  const socket = join(root, 'docker.sock');
  await new Promise<void>((resolve) => server.listen(socket, resolve));
  onTestFinished(() => void server.close());
  return new Engine({ socket, sudo: false });
}

/** `restrained`: its restart policy is taken away just now. */
async function containerSite(container: Container, options?: Readonly<Record<string, string>>, isRestrained = false) {
  const root = await directory();
  const engine = await engineWith(root, container, options);
  const images = new Images({ engine, packages: {} as PackageCache, stateDir: root, now: Date.now });
  const intent = async () => ({ theirs: [] });
  const policy = { Name: 'always', MaximumRetryCount: 0 };
  const restrained = async () => (isRestrained ? { container: 'c0ffee', policy } : undefined);
  const made = new MadeRecord(root);
  const finder = new ContainerFinder({ ...ASKED, engine, images, name: undefined, intent, restrained, made });
  const [found] = await Promise.all([finder.find(), finder.find()]);
  if (found === undefined) throw new Error('no container was found');
  expect(found.site.places?.definition?.at(-1)).toBe(made.file);
  const { definition = [], ...places } = found.site.places ?? { configuration: [] };
  return { ...found.site, places, definition: definition.slice(0, -1), made: made.file };
}

describe('docker run', () => {
  it('is the data on the host, with a record of how the container that runs was made', async () => {
    const mounts = [bind('/var/lib/kaiwudb', STORE)];
    const { made } = await containerSite({ mounts, running: true });
    expect(JSON.parse(await readFile(made, 'utf8'))).toMatchObject({ Name: '/kwdb', Mounts: mounts });
    expect((await stat(made)).mode & 0o077).toBe(0);
    // What is told of it then lacks its restart policy.
    for (const other of [
      await containerSite({ mounts }),
      await containerSite({ mounts, running: true }, undefined, true),
    ]) {
      await expect(stat(other.made)).rejects.toMatchObject({ code: 'ENOENT' });
    }
  });

  it('has its data where the mount lies on the host', async () => {
    const site = await containerSite({ mounts: [bind('/var/lib/kaiwudb', STORE)] });
    expect(site).toMatchObject({ method: 'docker-run', dataDir: '/var/lib/kaiwudb', places: { configuration: [] } });
    expect(site.places).toEqual({ configuration: [] });
    const inVolume = await containerSite({ mounts: [volume('data', STORE)] });
    expect(inVolume).toMatchObject({ dataDir: '/var/lib/docker/volumes/data/_data', places: { configuration: [] } });
    expect(inVolume.places?.obstacle).toBeUndefined();
  });

  it('has its certificates where they lie on the host, unless they lie in the data', async () => {
    const args = [`--store=${STORE}`, '--certs-dir=/kaiwudb/certs'];
    const data = bind('/var/lib/kaiwudb', STORE);
    const beside = await containerSite({ args, mounts: [data, bind('/srv/certs', '/kaiwudb/certs')] });
    expect(beside.places).toEqual({ certificates: '/srv/certs', configuration: [] });
    const within = await containerSite({ args: [`--store=${STORE}`, `--certs-dir=${STORE}/certs`], mounts: [data] });
    expect(within.places).toEqual({ configuration: [] });
  });

  it.each<[string, Container, Readonly<Record<string, string>>?]>([
    ['the data of /kwdb lie in the container itself', { mounts: [] }],
    ['removes itself', { mounts: [bind('/d', STORE)], autoRemove: true }],
    ['2 stores (/a and /b)', { args: ['--store=/a', '--store=/b', '--insecure'], mounts: [bind('/a', '/a')] }],
    ['in memory', { args: ['--store=type=mem,size=1GB', '--insecure'], mounts: [bind('/d', '/')] }],
    [`${STORE}/wal is mounted within the store`, { mounts: [bind('/d', STORE), bind('/w', `${STORE}/wal`)] }],
    ['driver is nfs', { mounts: [volume('data', STORE, 'nfs')] }],
    ['only while the container runs (type=none device=/srv/x)', { mounts: [volume('data', STORE)] }, DEVICE],
  ])('is not copied where a copy would not hold it: %s', async (obstacle, container, options) => {
    expect((await containerSite(container, options)).places?.obstacle).toContain(obstacle);
  });
});

describe('compose', () => {
  it('has its files, overrides and env file copied, and none of them put back', async () => {
    const project = await directory();
    await lay(project, { 'base.yml': '', 'override.yml': '', '.env': 'TAG=3.0.0\n' });
    const labels = {
      'com.docker.compose.project': 'db',
      'com.docker.compose.service': 'kwdb',
      'com.docker.compose.project.working_dir': project,
      'com.docker.compose.project.config_files': 'base.yml,override.yml',
    };
    const site = await containerSite({ labels, mounts: [bind('/var/lib/kaiwudb', STORE)] });
    expect(site.method).toBe('compose');
    const definition = ['base.yml', 'override.yml', '.env'].map((name) => join(project, name));
    expect(site).toMatchObject({ places: { configuration: [] }, definition });
    await rm(join(project, 'base.yml'));
    // Nothing is lost by a copy without a file that is gone; the upgrade says that it is.
    expect((await containerSite({ labels, mounts: [bind('/d', STORE)] })).definition).toEqual([]);
  });
});

const SCRIPT = {
  certificates: '/etc/kaiwudb/certs',
  configuration: ['/etc/kaiwudb/info', '/etc/kaiwudb/script', '/etc/systemd/system/kaiwudb.service'],
};
const mode = (kind: string, data: string) =>
  `${kind}\nsingle\nkaiwudb:3.0.0\n${data}\n26257\n8080\nroot\ninsecure\nfalse\n10.0.0.1\n`;

describe('script, container', () => {
  async function site(mounted: string, told: string) {
    const root = await directory();
    await lay(root, { 'etc/kaiwudb/info/MODE': mode('container', told) });
    const container = { name: 'kaiwudb-container', mounts: [bind(mounted, STORE)] };
    const engine = await engineWith(root, container);
    const images = new Images({ engine, packages: {} as PackageCache, stateDir: root, now: Date.now });
    return (await new ScriptContainerFinder({ ...ASKED, root, services: SERVICES, engine, images }).find())?.site;
  }

  it("is what the vendor's script left, its compose file among it", async () => {
    expect(await site('/var/lib/kaiwudb', '/var/lib/kaiwudb')).toMatchObject({ method: 'script-container' });
    expect((await site('/var/lib/kaiwudb', '/var/lib/kaiwudb'))?.places).toEqual(SCRIPT);
  });

  it('is not copied when its container keeps the data elsewhere than MODE says', async () => {
    expect((await site('/mnt/data', '/var/lib/kaiwudb'))?.places?.obstacle).toContain('keeps its data in /mnt/data');
  });
});

describe('script, bare metal', () => {
  async function places(start: string, environment = 'KAIWUDB_START_ARG=""\n') {
    const root = await directory();
    await lay(root, {
      'etc/kaiwudb/info/MODE': mode('bare', '/var/lib/kaiwudb'),
      'etc/kaiwudb/script/kaiwudb_env': environment,
      'etc/systemd/system/kaiwudb.service': `[Service]\nType=simple\nExecStart=${start}\nExecStop=/bin/kill $MAINPID\n`,
    });
    const finder = new ScriptFinder({ ...ASKED, root, services: SERVICES, sudo: false });
    return (await finder.find())?.site.places;
  }
  const START = '/usr/local/kaiwudb/bin/kwbase start $KAIWUDB_START_ARG --insecure';

  it("is what the vendor's script left", async () => {
    expect(await places(`${START} --store=/var/lib/kaiwudb`)).toEqual(SCRIPT);
    expect(await places('/opt/wrapper')).toEqual(SCRIPT);
  });

  it('is not copied when its unit keeps data elsewhere, or in several stores', async () => {
    expect((await places(`${START} --store=/mnt/x`))?.obstacle).toContain('keeps the data in /mnt/x');
    const second = 'KAIWUDB_START_ARG="--store=path=/mnt/y,size=1GB"\n';
    const twice = `${START} \\\n  --store=/var/lib/kaiwudb`;
    expect((await places(twice, second))?.obstacle).toContain('/mnt/y');
    expect(unitCommand(`ExecStart=${twice}`, second)?.stores).toEqual(['path=/mnt/y,size=1GB', '/var/lib/kaiwudb']);
  });
});

describe('a source build', () => {
  async function places(args: readonly string[], unit?: string) {
    const root = await directory();
    await lay(root, { 'install-3.0.0/bin/kwbase': '' });
    await symlink('install-3.0.0', join(root, 'install'));
    const records = new SourceRecords(join(root, 'state'));
    const tree = join(root, 'install');
    await records.keepNode({
      tree,
      binary: join(tree, 'bin/kwbase'),
      args: ['start-single-node', ...args],
      cwd: join(tree, 'bin'),
      ...(unit === undefined ? {} : { unit }),
      environment: [],
      uid: 0,
      gid: 0,
      umask: '0022',
      limits: [],
      process: { pid: 1, startTicks: 1, bootId: 'b', startedAtMs: 1 },
    });
    const services = { ...SERVICES, files: async (name: string) => [`/etc/systemd/system/${name}.service`] };
    // No process of this tree runs, so what is remembered of it counts.
    const found = await new SourceFinder({ ...ASKED, records, services, tree }).find();
    return { root, places: found?.site.places, dataDir: found?.site.dataDir };
  }

  it('is the record of its start, which is not put back, and its unit where it has one', async () => {
    const byHand = await places(['--store=/var/lib/kaiwudb', '--insecure']);
    const definition = [join(byHand.root, 'state/source/node.json')];
    expect(byHand.places).toEqual({ configuration: [], definition });
    const byUnit = await places(['--store=/var/lib/kaiwudb', '--certs-dir=/etc/certs'], 'kwdb');
    expect(byUnit.places).toMatchObject({
      certificates: '/etc/certs',
      configuration: ['/etc/systemd/system/kwdb.service'],
    });
  });

  it('is not copied when data or certificates lie in the tree that is exchanged', async () => {
    expect((await places(['--insecure'])).places?.obstacle).toContain('install/bin/kwbase-data lies within');
    const certificates = await places(['--store=/var/lib/kaiwudb', '--certs-dir=certs']);
    expect(certificates.places?.obstacle).toContain('install/bin/certs lies within');
  });
});

it('the files of a unit are those that people wrote of it, not of all services, nor of this boot alone', () => {
  const told = `FragmentPath=/etc/systemd/system/kwdb.service
DropInPaths=/etc/systemd/system/service.d/all.conf /etc/systemd/system/kwdb.service.d/a.conf /etc/systemd/system/kwdb.service.d/b.conf /run/systemd/system.control/kwdb.service.d/c.conf
`;
  expect(unitFiles('kwdb', told)).toEqual(['/etc/systemd/system/kwdb.service', '/etc/systemd/system/kwdb.service.d']);
  expect(unitFiles('kwdb', 'FragmentPath=/run/systemd/transient/kwdb.service\nDropInPaths=\n')).toEqual([]);
  expect(unitFiles('kwdb', 'FragmentPath=\nDropInPaths=\n')).toEqual([]);
});

it('the obstacle of a command is told of all its stores', () => {
  const of = (...args: string[]) => storeObstacle(startCommand(['start', ...args]) ?? { stores: [] });
  expect(of('--store=/a')).toBeUndefined();
  expect(of()).toBeUndefined();
  expect(of('--store', 'path=/a', '-s', '/b')).toContain('2 stores');
});
