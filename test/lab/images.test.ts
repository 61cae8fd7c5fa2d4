/** Images that hosts pull by their digest from a real registry: refused while it is silent, upgraded with when it is back. */
import type { PackageView, PlanView, RunView } from '@kwfleet/core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { byCompose, byDockerRun, dockerHere, ImageShelf, inspect, RECORD } from './container-deploy.ts';
import { Fleet } from './fleet.ts';
import { type LabHost, labHere } from './host.ts';
import { WHOLE_TABLE } from './methods-table.ts';
import { ImageRegistry, REGISTRY_PROGRAM, withRegistry } from './registry.ts';

const ready = (await labHere()) && dockerHere(REGISTRY_PROGRAM);

const WAYS = [
  { way: 'docker run', container: 'kwdb', deploy: (shelf: ImageShelf) => byDockerRun(shelf) },
  { way: 'compose', container: 'fleet-db_kwdb_1', deploy: (shelf: ImageShelf) => byCompose(shelf, { literal: true }) },
];

describe.skipIf(!ready).each(WAYS.slice(0, WHOLE_TABLE ? 2 : 1))(
  'an image by its digest: $way',
  ({ way, container, deploy }) => {
    let shelf: ImageShelf;
    let fleet: Fleet;
    let host: LabHost;
    let registry: ImageRegistry;
    let reference: string;

    beforeAll(async () => {
      shelf = await ImageShelf.create();
      fleet = await Fleet.create({ topology: 'standalone', deploy: withRegistry(deploy(shelf)) });
      host = fleet.hosts[0] as LabHost;
      registry = await ImageRegistry.create(fleet.lab);
      await registry.start();
      reference = await registry.push(host, await shelf.image('3.1.0'), 'kaiwudb:3.1.0');
      const added = await fleet.kwfleet(
        'package',
        'add',
        ...['--image', reference, '--as', '3.1.0', '--architecture', 'amd64', '--json'],
      );
      expect(added.exitCode, added.stderr).toBe(0);
      expect((JSON.parse(added.stdout) as PackageView).image).toBe(reference);
    });
    afterAll(async () => {
      await fleet?.destroy();
      await shelf?.remove();
    });

    const planned = async () => {
      const { exitCode, stdout, stderr } = await fleet.kwfleet(
        'plan',
        (await fleet.healthy()).name,
        ...['--to', '3.1.0', '--backup', 'none:lab', '--json'],
      );
      expect([0, 2], stderr).toContain(exitCode);
      const { checks } = JSON.parse(stdout) as PlanView;
      return { exitCode, answers: checks.filter(({ code }) => code === 'IMAGE_UNAVAILABLE') };
    };
    const imagesOf = async () => (await host.exec(['docker', 'images', '-q', '--digests'])).stdout;

    /** What a plan must leave as it is. The agent's own questions to the database come and go in the rest of an inspection. */
    const untouched = async () => {
      const { Id, Config, State } = (await inspect(host, container)) ?? {};
      return { images: await imagesOf(), record: await host.readFile(RECORD), Id, image: Config?.Image, State };
    };

    it('is not planned with while its registry is silent, and nothing is touched', async () => {
      await registry.stop();
      const before = await untouched();
      expect(await planned()).toMatchObject({
        exitCode: 2,
        answers: [{ verdict: 'block', node: 'h1', message: expect.stringContaining('connection refused') }],
      });
      expect(await untouched()).toEqual(before);
    });

    it.runIf(way === 'compose')(
      'is brought, and nothing stopped, where compose cannot speak to the engine',
      async () => {
        await registry.start();
        const record = await host.readFile(RECORD);
        const older = `#!/bin/sh
for word; do if [ "$word" = ps ]; then echo 'client version is too old' >&2; exit 1; fi; done
exec /usr/bin/docker-compose "$@"
`;
        await host.writeFile('/usr/local/sbin/docker-compose', older, 0o755);
        const run = await fleet.begin('3.1.0');
        expect((await fleet.settled(run)).hold).toMatchObject({ code: 'COMPOSE_UNFIT' });
        await fleet.abort(run);
        expect(await host.readFile(RECORD)).toBe(record);
        await host.exec(['rm', '/usr/local/sbin/docker-compose']);
        await host.exec(['docker', 'rmi', reference]);
        await registry.stop();
      },
    );

    it('is pulled and run once it can be had; the plan only asks', async () => {
      await registry.start();
      const images = await imagesOf();
      expect(await planned()).toMatchObject({ exitCode: 0, answers: [{ verdict: 'pass' }] });
      expect(await imagesOf()).toBe(images);
      succeeded(await fleet.settled(await fleet.begin('3.1.0')));
      expect((await inspect(host, container))?.Config.Image).toBe(reference);
      expect((await fleet.healthy()).versions).toEqual(['3.1.0']);
    });
  },
);

/** What it is reached by, and checked with, comes from where its container mounts it from. */
it.runIf(ready && WHOLE_TABLE)('a secure node in a container is upgraded with an image file', async () => {
  const shelf = await ImageShelf.create();
  const fleet = await Fleet.create({ topology: 'standalone', deploy: byDockerRun(shelf, { tls: true }) });
  try {
    await fleet.addPackageFile(await shelf.image('3.1.0'));
    const { name } = await fleet.healthy();
    const { stdout } = await fleet.kwfleet('plan', name, '--to', '3.1.0', '--backup', 'none:lab', '--json');
    const { checks } = JSON.parse(stdout) as PlanView;
    const about = (code: string) => checks.filter((check) => check.code === code).map(({ verdict }) => verdict);
    expect([about('CERTIFICATE_EXPIRY'), about('IMAGE_UNAVAILABLE')]).toEqual([['pass'], ['pass']]);
    succeeded(await fleet.settled(await fleet.begin('3.1.0')));
    const { versions, nodes } = await fleet.healthy();
    expect([versions, nodes.length]).toEqual([['3.1.0'], 1]);
    expect((await inspect(fleet.hosts[0] as LabHost, 'kwdb'))?.Config.Image).toBe('kaiwudb:3.1.0');
  } catch (error) {
    console.error(await fleet.diagnosis());
    throw error;
  } finally {
    await fleet.destroy();
    await shelf.remove();
  }
});

const succeeded = (view: RunView) => expect(view.status, JSON.stringify(view.hold)).toBe('succeeded');
