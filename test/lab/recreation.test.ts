/**
 * Containers with every option that this engine takes are replaced by the driver itself, and the two inspections are compared
 * field by field; and the driver is cut off after each of its deeds. The engine is one of a test host.
 */
import { createHash } from 'node:crypto';
import { createReadStream, existsSync } from 'node:fs';
import { mkdtemp, readFile, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { Action, PackageInfo } from '@kwfleet/core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ContainerFinder } from '../../packages/agent/src/deployment/container.ts';
import { Engine } from '../../packages/agent/src/docker/engine.ts';
import { ContainerRecords } from '../../packages/agent/src/docker/exchange.ts';
import { Images } from '../../packages/agent/src/docker/images.ts';
import { MadeRecord } from '../../packages/agent/src/docker/made-record.ts';
import { DockerRunDriver } from '../../packages/agent/src/driver/docker-run.ts';
import type { Watch } from '../../packages/agent/src/driver/driver.ts';
import type { Observer } from '../../packages/agent/src/observe.ts';
import { PackageCache } from '../../packages/agent/src/packages.ts';
import { dockerHere, ImageShelf, type Inspected, inspect, STORE } from './container-deploy.ts';
import { createLab, type Lab, type LabHost, labHere } from './host.ts';

const START = ['./kwbase', 'start-single-node', '--insecure', `--store=${STORE}`];
const COMMON = ['-v', `/var/lib/kaiwudb:${STORE}`];

/** Each is one container; `docker create` takes also what this engine could not run (privileged, memlock). */
const OPTIONS: Readonly<Record<string, readonly string[]>> = {
  'the manual’s': [
    ...['--privileged', '--ulimit', 'memlock=-1', '--ulimit', 'nofile=1048576', '-p', '26257:26257', '-p', '8080:8080'],
    ...['--ipc', 'shareable', '-w', '/kaiwudb/bin', '--restart', 'unless-stopped'],
  ],
  identity: [
    ...[
      '--hostname',
      'db-1',
      '--domainname',
      'example.org',
      '--user',
      '1000:1000',
      '--mac-address',
      '02:42:ac:11:00:99',
    ],
    ...['--dns', '10.0.0.2', '--dns-search', 'example.org', '--dns-option', 'ndots:2', '--add-host', 'peer:10.0.0.3'],
    ...['--env', 'A=1', '--env', 'EMPTY=', '--label', 'owner=dba', '--label', 'org.example=x y', '-w', '/kaiwudb/bin'],
  ],
  volumes: [
    ...['-v', '/anonymous', '-v', 'named:/named', '-v', 'named:/named-ro:ro', '-v', '/var/lib/kaiwudb:/again:ro'],
    ...['--mount', 'type=volume,dst=/mounted', '--mount', 'type=volume,src=mine,dst=/mine,volume-nocopy'],
    ...['--mount', 'type=bind,src=/var/lib/kaiwudb,dst=/bound,readonly', '--mount', 'type=tmpfs,dst=/t,tmpfs-size=1m'],
    ...['--tmpfs', '/run:size=64k,mode=700', '--volume-driver', 'local', '--read-only', '--shm-size', '128m'],
  ],
  networks: [
    ...[
      '--network',
      'front',
      '--ip',
      '10.91.0.5',
      '--ip6',
      'fd91::5',
      '--network-alias',
      'db',
      '--network-alias',
      'kw',
    ],
    ...['--link', 'friend:buddy', '-p', '127.0.0.1:26257:26257', '-p', '18080-18081:18080-18081/tcp', '-p', '9/udp'],
  ],
  'links on the old bridge': ['--link', 'friend:buddy', '--expose', '4000', '-P'],
  'the host’s network': [
    '--network',
    'host',
    '--uts',
    'host',
    '--pid',
    'host',
    '--cgroupns',
    'host',
    '--userns',
    'host',
  ],
  rights: [
    ...[
      '--cap-add',
      'SYS_NICE',
      '--cap-drop',
      'MKNOD',
      '--security-opt',
      'no-new-privileges',
      '--security-opt',
      'seccomp=unconfined',
    ],
    ...[
      '--device',
      '/dev/null:/dev/kw:r',
      '--device-cgroup-rule',
      'c 1:3 r',
      '--group-add',
      '44',
      '--cgroup-parent',
      'kw.slice',
    ],
    ...[
      '--sysctl',
      'net.ipv4.ip_local_port_range=1024 65000',
      '--init',
      '--oom-score-adj',
      '100',
      '--pid',
      'container:friend',
    ],
  ],
  limits: [
    ...['--memory', '512m', '--memory-reservation', '256m', '--cpu-shares', '512', '--cpuset-cpus', '0'],
    ...[
      '--pids-limit',
      '900',
      '--blkio-weight',
      '300',
      '--ulimit',
      'core=0',
      '--oom-kill-disable',
      '--memory-swappiness',
      '10',
    ],
  ],
  life: [
    ...['--restart', 'on-failure:5', '--stop-signal', 'SIGINT', '--stop-timeout', '90', '-t', '-i'],
    ...['--health-cmd', 'true', '--health-interval', '7s', '--health-retries', '2', '--health-start-period', '3s'],
    ...['--log-driver', 'json-file', '--log-opt', 'max-size=3m', '--log-opt', 'max-file=2', '--runtime', 'runc'],
  ],
  'an entrypoint of its own': ['--entrypoint', './kwbase', '-w', '/kaiwudb/bin'],
};

/** What differs between any two containers, by its path; a number stands for `*`. */
const MAY_DIFFER = [
  /^Id$/,
  /^Created$/,
  // Another image is the purpose.
  /^Image$/,
  /^Config\.Image$/,
  // Files and layers of the engine's own, in a directory named by the id.
  /^(ResolvConfPath|HostnamePath|HostsPath|LogPath)$/,
  /^GraphDriver\.Data\./,
  // Without --hostname it is the id.
  /^Config\.Hostname$/,
  /^State\.(StartedAt|FinishedAt|Pid|ExitCode|Status)$/,
  // An anonymous volume is the same one, and has a name now.
  /^HostConfig\.Binds/,
  /^HostConfig\.Mounts\.\d+\.Source$/,
  /^Mounts\.\d+\.Mode$/,
];

const PACKAGE_OF = { kind: 'container', family: 'any', unpackedBytes: 0 } as const;
const QUIET: Watch = {
  detail: () => {},
  moved: () => {},
  fence: async () => {},
  output: () => {},
  pause: async () => {},
};

let lab: Lab | undefined;
let shelf: ImageShelf;
let host: LabHost;
let next: { readonly file: string; readonly info: PackageInfo };

describe.skipIf(!(await labHere()) || !dockerHere())('a container is made again', () => {
  beforeAll(async () => {
    shelf = await ImageShelf.create();
    lab = await createLab();
    host = await lab.addHost();
    await host.start();
    const file = await shelf.package('3.1.0');
    const bytes = await readFile(file);
    const sha256 = createHash('sha256').update(bytes).digest('hex');
    const architecture = process.arch === 'arm64' ? 'arm64' : 'amd64';
    const { size } = await stat(file);
    next = {
      file,
      info: { ...PACKAGE_OF, sha256, architecture, fileName: basename(file), sizeBytes: size, version: '3.1.0' },
    };
    await host.exec(['systemctl', 'start', 'docker']);
    await host.exec(['docker', 'load', '-i', await shelf.image('3.0.0')]);
    await host.shell(`mkdir -p /var/lib/kaiwudb
      docker network create --subnet 10.91.0.0/24 --ipv6 --subnet fd91::/64 front
      docker network create --subnet 10.92.0.0/24 back
      docker create --name friend kaiwudb:3.0.0 sleep 600
      docker network connect front friend; docker start friend`);
  });
  afterAll(async () => {
    await lab?.destroy();
    await shelf?.remove();
  });

  it.each(Object.entries(OPTIONS))('with %s options: nothing differs that may not', async (_name, options) => {
    const rig = await Rig.create();
    try {
      await rig.createContainer(options);
      if (options.includes('front')) {
        await host.exec(['docker', 'network', 'connect', '--ip', '10.92.0.7', '--alias', 'second', 'back', 'kwdb']);
      }
      const before = (await inspect(host, 'kwdb')) as Inspected;
      await rig.driver().install(rig.action, QUIET);
      const after = (await inspect(host, 'kwdb')) as Inspected;
      expect(after.Id).not.toBe(before.Id);
      expect(after.Config.Image).toBe('kaiwudb:3.1.0');
      expect(differences(before, after)).toEqual([]);
      expect(volumesOf(after)).toEqual(volumesOf(before));
      const kept = await inspect(host, 'kwdb-kwfleet-3.0.0');
      expect(kept?.Id).toBe(before.Id);
      expect(kept?.HostConfig.RestartPolicy.Name).toBe('no');
      // And back: the very container, under its name, as it was.
      await rig.driver().putBack(rig.action, QUIET);
      const back = (await inspect(host, 'kwdb')) as Inspected;
      expect(back.Id).toBe(before.Id);
      expect(volumesOf(back)).toEqual(volumesOf(before));
    } finally {
      await rig.clear();
    }
  });

  it('whatever deed was its last: done again it is whole, and so is the way back', async () => {
    const options = OPTIONS.networks as readonly string[];
    for (let deeds = 0, cut = true; cut; deeds++) {
      const rig = await Rig.create();
      try {
        await rig.createContainer([...options, '--restart', 'always']);
        await host.exec(['docker', 'network', 'connect', 'back', 'kwdb']);
        const before = (await inspect(host, 'kwdb')) as Inspected;
        cut = await rig.cutOffAfter(deeds, (driver) => driver.install(rig.action, QUIET));
        const found = await rig.finder().find();
        expect(found, `after ${deeds} deeds the node is found`).toBeDefined();
        if (deeds % 2 === 0) await rig.driver().install(rig.action, QUIET);
        if (deeds % 2 === 0) expect(differences(before, (await inspect(host, 'kwdb')) as Inspected)).toEqual([]);
        else if (existsSync(rig.record)) {
          for (let more = 0, again = true; again; more++) {
            again = await rig.cutOffAfter(more, (driver) => driver.putBack(rig.action, QUIET));
            if (!existsSync(rig.record)) break;
          }
          expect((await inspect(host, 'kwdb'))?.Id).toBe(before.Id);
        }
        const names = (await host.exec(['docker', 'ps', '-a', '--format', '{{.Names}}'])).stdout.trim().split('\n');
        const expected = existsSync(rig.record) ? ['kwdb', 'kwdb-kwfleet-3.0.0', 'friend'] : ['kwdb', 'friend'];
        expect(names.sort(), `after ${deeds} deeds`).toEqual(expected.sort());
      } finally {
        await rig.clear();
      }
      expect(deeds).toBeLessThan(30);
    }
  });

  it.each([
    ['data in the container itself', [], 'CONTAINER_UNFIT'],
    ['a container that removes itself', [...COMMON, '--rm'], 'CONTAINER_UNFIT'],
  ])('refuses %s before anything is touched', async (_what, options, code) => {
    const rig = await Rig.create();
    try {
      await host.exec([
        '/usr/bin/docker',
        'create',
        '--name',
        'kwdb',
        '-w',
        '/kaiwudb/bin',
        ...options,
        'kaiwudb:3.0.0',
        ...START,
      ]);
      await expect(rig.driver().fetch(rig.action, QUIET)).rejects.toMatchObject({ code });
    } finally {
      await rig.clear();
    }
  });
});

/** The driver on the host's engine, with a state directory of its own. */
class Rig {
  readonly #directory: string;
  readonly #engine: Engine;
  readonly action: Action;

  private constructor(directory: string) {
    this.#directory = directory;
    this.#engine = new Engine({ socket: `/proc/${host.initPid}/root/run/docker.sock`, sudo: false });
    this.action = {
      id: 'r1/install:h1/1',
      from: '3.0.0',
      to: '3.1.0',
      phases: ['install'],
      package: next.info,
      deadline: { idleMs: 60_000, ceilingMs: 60_000 },
    } as unknown as Action;
  }

  static async create(): Promise<Rig> {
    return new Rig(await mkdtemp(join(shelf.directory, 'state-')));
  }

  get record(): string {
    return join(this.#directory, 'docker/exchange.json');
  }

  async createContainer(options: readonly string[]): Promise<void> {
    const own = options.includes('--entrypoint');
    const where = options.includes('-w') ? [] : ['-w', '/kaiwudb/bin'];
    const command = own ? START.slice(1) : START;
    await host.exec([
      '/usr/bin/docker',
      'create',
      '--name',
      'kwdb',
      ...COMMON,
      ...where,
      ...options,
      'kaiwudb:3.0.0',
      ...command,
    ]);
  }

  driver(engine = this.#engine): DockerRunDriver {
    const parts = this.#parts(engine);
    return new DockerRunDriver({
      ...parts,
      observer: {} as Observer,
      removeOldImage: false,
    });
  }

  finder(): ContainerFinder {
    return this.#parts(this.#engine).finder;
  }

  #parts(engine: Engine) {
    const source = async (_sha256: string, start: number) => ({
      byPeer: false,
      chunks: createReadStream(next.file, { start }),
    });
    const trust = { on: false, verify: async () => {} };
    const packages = new PackageCache({ stateDir: this.#directory, source, trust, limitBytes: 1024 ** 3 });
    const images = new Images({ engine, packages, stateDir: this.#directory, now: Date.now });
    const records = new ContainerRecords(this.#directory, engine);
    const finder = new ContainerFinder({
      engine,
      images,
      now: Date.now,
      statusTimeoutMs: 5_000,
      name: undefined,
      intent: () => records.intent(),
      restrained: () => records.restrained.read(),
      made: new MadeRecord(this.#directory),
    });
    return { engine, images, records, finder };
  }

  /** Whether the work was cut off: after so many deeds the engine is gone for it. */
  async cutOffAfter(deeds: number, work: (driver: DockerRunDriver) => Promise<void>): Promise<boolean> {
    let left = deeds;
    const mortal = new Proxy(this.#engine, {
      get: (engine, name: keyof Engine) => {
        const member = engine[name];
        if (typeof member !== 'function') return member;
        const isDeed = ['create', 'rename', 'remove', 'connect', 'setRestartPolicy'].includes(name);
        return (...args: never[]) => {
          if (isDeed && left-- <= 0) throw new Error('cut off');
          return (member as (...args: never[]) => unknown).apply(engine, args);
        };
      },
    });
    try {
      await work(this.driver(mortal));
      return false;
    } catch (error) {
      if ((error as Error).message !== 'cut off') throw error;
      return true;
    }
  }

  async clear(): Promise<void> {
    const script = 'docker rm -fv $(docker ps -aq --filter name=kwdb) >/dev/null 2>&1 || :';
    await host.exec(['sh', '-c', script]);
  }
}

const volumesOf = ({ Mounts }: Inspected): unknown =>
  (Mounts as { Destination: string; Name?: string; Source: string; RW: boolean }[])
    .map(({ Destination, Name, Source, RW }) => ({ Destination, Name, Source, RW }))
    .sort((a, b) => a.Destination.localeCompare(b.Destination));

/** `path: before → after` of every leaf that differs and may not. */
function differences(before: Inspected, after: Inspected): string[] {
  const [a, b] = [leaves(before), leaves(after)];
  return [...new Set([...a.keys(), ...b.keys()])]
    .filter((path) => !MAY_DIFFER.some((allowed) => allowed.test(path)))
    .map((path) => ({ path, was: known(a.get(path), before), is: known(b.get(path), after) }))
    .filter(({ was, is }) => was !== is)
    .map(({ path, was, is }) => `${path}: ${was} → ${is}`);
}

/** A container's own id, and its beginning, stand in several places. */
const known = (text: string | undefined, { Id }: Inspected): string | undefined =>
  text?.replaceAll(Id, 'ID').replaceAll(Id.slice(0, 12), 'ID').replaceAll('kwdb-kwfleet-3.0.0', 'kwdb');

function leaves(value: unknown, path = ''): Map<string, string> {
  if (typeof value !== 'object' || value === null) return new Map([[path, JSON.stringify(value) ?? 'undefined']]);
  const list = Array.isArray(value) && path.endsWith('Mounts') ? sorted(value) : value;
  const entries = Object.entries(list);
  if (entries.length === 0) return new Map([[path, JSON.stringify(value)]]);
  return new Map(entries.flatMap(([key, inner]) => [...leaves(inner, path === '' ? key : `${path}.${key}`)]));
}

/** Mounts come in the order of a map. */
const sorted = (mounts: readonly unknown[]): unknown[] =>
  mounts.toSorted((a, b) => targetOf(a).localeCompare(targetOf(b)));

function targetOf(mount: unknown): string {
  const { Target, Destination } = mount as { Target?: string; Destination?: string };
  return Target ?? Destination ?? '';
}
