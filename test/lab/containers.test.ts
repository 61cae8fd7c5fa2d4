/** KWDB in containers on real engines: each method on each topology, upgraded, refused, backed out, and killed in the middle. */
import type { Method, RunView, Topology } from '@kwfleet/core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { RecordLine } from '../standin/rig.ts';
import {
  byCompose,
  byDockerRun,
  byScript,
  containersOn,
  dockerHere,
  ImageShelf,
  inspect,
  killInTheMiddle,
  PROJECT,
  RECORD,
  savedBy,
} from './container-deploy.ts';
import { type Deploy, Fleet } from './fleet.ts';
import { type LabHost, labHere, until } from './host.ts';
import { cell, renderMethods, WHOLE_TABLE } from './methods-table.ts';
import { askBy, copyFirst, goBack, madeOf, type Sql, sameFiles } from './way-back.ts';

const TOPOLOGIES: readonly Topology[] = ['standalone', 'multi-replica', 'single-replica'];
const TIMEOUT_MS = 40 * 60_000;

type Way = {
  readonly method: Method;
  /** The topology it is played on without KWFLEET_LAB. */
  readonly slice: Topology;
  readonly deploy: (shelf: ImageShelf) => Deploy;
  /** True as soon as an exchange has begun: a shell condition. */
  readonly moment: string;
  /** Makes the next installation on this host fail after the stop, and undoes that. */
  readonly spoil: (host: LabHost) => Promise<() => Promise<void>>;
  /** The image that the node's container runs. */
  readonly image: (host: LabHost) => Promise<string | undefined>;
  /** The name of the node's container. */
  readonly container: (host: LabHost) => Promise<string>;
  /** The package of the last upgrade, in one of the forms that people have it in. */
  readonly lastPackage: (version: string, host: LabHost) => Promise<string>;
  /** What must not be left on a host after an upgrade. */
  readonly leftovers: (host: LabHost) => Promise<string[]>;
};

const WAYS: readonly Way[] = [
  {
    method: 'docker-run',
    slice: 'multi-replica',
    deploy: byDockerRun,
    moment: '[ -e /var/lib/kwfleet/docker/exchange.json ]',
    spoil: async (host) => {
      // Somebody else takes the name under which the old container would be kept, once the node is being stopped; and for a
      // container that would run KWDB too.
      const script = `until [ -e /var/lib/kwfleet/docker/restrained.json ]; do sleep 0.02; done
        docker create --name kwdb-kwfleet-3.0.0 kaiwudb:3.0.0 ./kwbase start-single-node --insecure`;
      const taker = host.spawn(['sh', '-c', script]);
      return async () => {
        await taker.exited;
        await host.exec(['docker', 'rm', 'kwdb-kwfleet-3.0.0']);
      };
    },
    image: async (host) => (await inspect(host, 'kwdb'))?.Config.Image,
    container: async () => 'kwdb',
    lastPackage: (version, host) => savedBy(host, shelf, version),
    leftovers: async (host) => (await containersOn(host)).filter((name) => name !== 'kwdb'),
  },
  {
    method: 'compose',
    slice: 'standalone',
    deploy: byCompose,
    moment: '[ -e /var/lib/kwfleet/docker/exchange.json ]',
    spoil: async (host) => {
      // Compose fails to make the new container, and is itself again for the way back.
      const compose = `#!/bin/sh
case "$*" in *--no-start*) if mkdir /run/compose-failed 2>/dev/null; then echo 'told to fail' >&2; exit 1; fi ;; esac
exec /usr/bin/docker-compose "$@"
`;
      await host.writeFile('/usr/local/sbin/docker-compose', compose, 0o755);
      return async () => void (await host.exec(['rm', '/usr/local/sbin/docker-compose']));
    },
    image: async (host) => (await inspect(host, await composeContainer(host)))?.Config.Image,
    container: composeContainer,
    lastPackage: (version) => shelf.layout(version),
    leftovers: async (host) => {
      const files = (await host.exec(['ls', '-A', PROJECT])).stdout
        .split('\n')
        .filter((name) => name.includes('kwfleet'));
      return [...files, ...(await containersOn(host)).filter((name) => !/^fleet-db_(kwdb|sidecar)_1$/.test(name))];
    },
  },
  {
    method: 'script-container',
    slice: 'single-replica',
    deploy: byScript,
    moment: '[ -n "$(systemctl list-units --plain --no-legend --state=active "kwfleet-cmd-*")" ]',
    spoil: async (host) => {
      // deploy.sh cannot take its last step, with the old image and the old names gone.
      const sudo = '#!/bin/sh\n[ "$1" = cp ] && exit 1\nexec /usr/bin/sudo "$@"\n';
      await host.writeFile('/usr/local/sbin/sudo', sudo, 0o755);
      return async () => void (await host.exec(['rm', '/usr/local/sbin/sudo']));
    },
    image: async (host) => (await inspect(host, 'kaiwudb-container'))?.Config.Image,
    container: async () => 'kaiwudb-container',
    lastPackage: (version) => shelf.package(version),
    leftovers: async (host) => {
      const images = (await host.exec(['docker', 'images', '--format', '{{.Repository}}'])).stdout.split('\n');
      const containers = (await containersOn(host)).filter((name) => name !== 'kaiwudb-container');
      return [...containers, ...images.filter((name) => name.includes('kwfleet'))];
    },
  },
];

/** The one container of the service, whatever it is called just now. */
async function composeContainer(host: LabHost): Promise<string> {
  const filters = ['label=com.docker.compose.project=fleet-db', 'label=com.docker.compose.service=kwdb'];
  const { stdout } = await host.exec(['docker', 'ps', '-aq', ...filters.flatMap((filter) => ['--filter', filter])]);
  const ids = stdout.trim().split('\n');
  expect(ids).toHaveLength(1);
  return ids[0] ?? '';
}

let shelf: ImageShelf;

async function eventsOf(host: LabHost): Promise<RecordLine[]> {
  const lines = (await host.readFile(RECORD)).split('\n');
  return lines.filter((line) => line !== '').map((line) => JSON.parse(line) as RecordLine);
}

const succeeded = (view: RunView) => expect(view.status, JSON.stringify(view.hold)).toBe('succeeded');

describe.skipIf(!(await labHere()) || !dockerHere())('KWDB in containers', () => {
  beforeAll(async () => {
    shelf = await ImageShelf.create();
  });
  afterAll(async () => {
    await shelf?.remove();
    console.info(`\n${renderMethods()}\n`);
  });

  describe.each(WAYS)('$method', (way) => {
    it.for(WHOLE_TABLE ? TOPOLOGIES : [way.slice])('%s', { timeout: TIMEOUT_MS }, (topology) => play(way, topology));
  });
});

async function play(way: Way, topology: Topology): Promise<void> {
  const fleet = await Fleet.create({ topology, deploy: way.deploy(shelf) });
  const at = { method: way.method, topology };
  try {
    const before = await imagesOf(fleet, way);
    expect(new Set(before)).toEqual(new Set(['kaiwudb:3.0.0']));
    await toldSizes(fleet);
    await cell({ ...at, case: 'wrong package' }, () => wrongPackage(fleet));
    if (way.method === 'docker-run') await refuseSecond(fleet);
    await cell({ ...at, case: 'failed install' }, () => failedInstall(fleet, way));
    expect(await imagesOf(fleet, way)).toEqual(before);
    // The way back is a cluster that stops twice: in a short run on the smallest alone.
    const goesBack = WHOLE_TABLE || topology === 'standalone';
    let backup = '';
    await cell({ ...at, case: 'upgrade' }, async () => {
      backup = await upgrade(fleet, way, goesBack);
      return 'succeeded';
    });
    if (goesBack) await cell({ ...at, case: 'downgrade' }, () => downgrade(fleet, way, backup));
    await cell({ ...at, case: 'killed in the middle' }, () => killed(fleet, way));
    for (const host of fleet.hosts) await tidied(host, way);
  } catch (error) {
    console.error(await fleet.diagnosis());
    throw error;
  } finally {
    await fleet.destroy();
  }
}

/** What is kept for a way back goes when the agent has told that none is needed. */
async function tidied(host: LabHost, way: Way): Promise<void> {
  let left: string[] = [];
  const none = async () => {
    left = await way.leftovers(host);
    return left.length === 0;
  };
  await until(`nothing is left on ${host.name}`, none).catch((error: Error) => {
    throw new Error(`${error.message}: ${left.join(', ')}`);
  });
}

const imagesOf = (fleet: Fleet, way: Way) => Promise.all(fleet.hosts.map((host) => way.image(host)));

/** What is installed is an image, and not all that its engine keeps: data and what others run among it. */
async function toldSizes(fleet: Fleet): Promise<void> {
  const { nodes } = await fleet.healthy();
  for (const host of fleet.hosts) {
    const asked = await host.exec(['docker', 'image', 'inspect', '--format', '{{.Size}}', 'kaiwudb:3.0.0']);
    const told = nodes.find(({ id }) => id === host.name)?.report?.host.surroundings?.installedBytes;
    expect(`${told}`).toBe(asked.stdout.trim());
  }
}

async function wrongPackage(fleet: Fleet): Promise<string> {
  await fleet.addPackage({ version: '3.5.0' });
  const { name } = await fleet.healthy();
  const plan = async (...more: string[]) => fleet.kwfleet('plan', name, '--backup', 'none:lab', ...more);
  const { exitCode, stdout, stderr } = await plan('--to', '3.5.0');
  expect(exitCode, stdout + stderr).toBe(2);
  expect(stdout + stderr).toContain('METHOD_MISMATCH');
  return 'refused in the plan';
}

/** One that was kept of an upgrade by hand: which of the two is meant could not be told once the node is stopped. */
async function refuseSecond(fleet: Fleet): Promise<void> {
  const [host] = fleet.hosts;
  if (host === undefined) throw new Error('no host');
  await fleet.addPackageFile(await shelf.package('3.1.0'));
  const { name } = await fleet.healthy();
  await host.exec(['docker', 'create', '--name', 'kwdb-old', 'kaiwudb:3.0.0', './kwbase', 'start', '--insecure']);
  const unfit = async () => {
    const node = (await fleet.client.nodes()).find(({ id }) => id === host.name);
    return node?.report?.installation?.unfit !== undefined;
  };
  await until('the host tells of two', unfit, 60_000);
  const { exitCode, stdout } = await fleet.kwfleet('plan', name, '--to', '3.1.0', '--backup', 'none:lab');
  expect(exitCode, stdout).toBe(2);
  expect(stdout).toMatch(/CONTAINER_UNFIT\s.*kwdb-old/s);
  await host.exec(['docker', 'rm', 'kwdb-old']);
  await until('the host tells of one', async () => !(await unfit()), 60_000);
}

/** A damaged image is found before anything is stopped; what fails after the stop is undone. */
async function failedInstall(fleet: Fleet, way: Way): Promise<string> {
  const [host] = fleet.hosts;
  if (host === undefined) throw new Error('no host');
  // The same for every topology: played on the smallest.
  if (fleet.hosts.length === 1) await refuseDamaged(fleet);
  await fleet.addPackageFile(await shelf.package('3.1.0'));
  const mend = await way.spoil(host);
  const run = await fleet.begin('3.1.0');
  const failed = await fleet.settled(run);
  expect(failed.hold, failed.status).toMatchObject({ code: 'INSTALL_FAILED', node: host.name });
  await fleet.abort(run);
  await fleet.healthy();
  const versions = (await eventsOf(host)).map(({ version }) => version);
  expect(new Set(versions)).toEqual(new Set(['3.0.0']));
  await mend();
  return 'backed out';
}

async function refuseDamaged(fleet: Fleet): Promise<void> {
  const events = await Promise.all(fleet.hosts.map(eventsOf));
  await fleet.addPackageFile(await shelf.package('3.1.1', { corrupt: true }));
  const run = await fleet.begin('3.1.1');
  const held = await fleet.settled(run);
  expect(held.hold).toMatchObject({ code: 'PACKAGE_CORRUPT' });
  await fleet.abort(run);
  expect(await Promise.all(fleet.hosts.map(eventsOf))).toEqual(events);
}

const sqlOf =
  (way: Way): Sql =>
  async (host, statement) =>
    askBy(host, ['docker', 'exec', await way.container(host), '/kaiwudb/bin/kwbase'], statement);

/** Answers the backup's id, where one is made. */
async function upgrade(fleet: Fleet, way: Way, copied: boolean): Promise<string> {
  const copy = copied ? await copyFirst(fleet, sqlOf(way)) : undefined;
  const run = await fleet.begin('3.1.0', copy?.options);
  succeeded(await fleet.settled(run));
  expect(new Set(await imagesOf(fleet, way))).toEqual(new Set(['kaiwudb:3.1.0']));
  expect((await fleet.healthy()).versions).toEqual(['3.1.0']);
  return copy?.backupOf(run) ?? '';
}

/** The data are those of the copy, the container is of the older image, and so says whatever it is made from. */
async function downgrade(fleet: Fleet, way: Way, backup: string): Promise<string> {
  await fleet.addPackageFile(await shelf.package('3.0.0'));
  await goBack(fleet, backup, '3.0.0', sqlOf(way));
  expect(new Set(await imagesOf(fleet, way))).toEqual(new Set(['kaiwudb:3.0.0']));
  // An image that came through a merged base has a line of its own since the upgrade.
  const but = way.method === 'compose' && fleet.hosts.length > 1 ? ' image: ' : undefined;
  for (const host of fleet.hosts) {
    await sameFiles(host, backup, but);
    if (way.method === 'script-container') continue;
    const { Config, HostConfig } = await madeOf(host, backup);
    expect([Config.Image, HostConfig.RestartPolicy.Name]).toEqual(['kaiwudb:3.0.0', 'always']);
  }
  return 'the data of the copy are back';
}

async function killed(fleet: Fleet, way: Way): Promise<string> {
  const [host] = fleet.hosts;
  if (host === undefined) throw new Error('no host');
  await fleet.addPackageFile(await way.lastPackage('3.2.0', host));
  const run = await fleet.begin('3.2.0');
  await killInTheMiddle(host, way.moment);
  const view = await fleet.settled(run);
  if (view.status === 'held') await fleet.retry(run);
  succeeded(await fleet.settled(run));
  expect(new Set(await imagesOf(fleet, way))).toEqual(new Set(['kaiwudb:3.2.0']));
  return view.status === 'held' ? `held (${view.hold?.code}), a retry went on` : 'went on by itself';
}
