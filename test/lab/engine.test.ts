/** Commands in containers, by a real engine on a test host. */

import { mkdtemp } from 'node:fs/promises';
import { join } from 'node:path';
import type { PackageInfo } from '@kwfleet/core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Engine } from '../../packages/agent/src/docker/engine.ts';
import { Images } from '../../packages/agent/src/docker/images.ts';
import type { Watch } from '../../packages/agent/src/driver/driver.ts';
import type { PackageCache } from '../../packages/agent/src/packages.ts';
import { dockerHere, ImageShelf } from './container-deploy.ts';
import { createLab, type Lab, type LabHost, labHere } from './host.ts';

describe.skipIf(!(await labHere()) || !dockerHere())('an engine', () => {
  let shelf: ImageShelf;
  let lab: Lab | undefined;
  let engine: Engine;
  let host: LabHost;

  beforeAll(async () => {
    shelf = await ImageShelf.create();
    lab = await createLab();
    host = await lab.addHost();
    await host.start();
    await host.exec(['systemctl', 'start', 'docker']);
    await host.exec(['docker', 'load', '-i', await shelf.image('3.0.0')]);
    await host.exec(['docker', 'run', '-d', '--name', 'friend', 'kaiwudb:3.0.0', 'sleep', '600']);
    engine = new Engine({ socket: `/proc/${host.initPid}/root/run/docker.sock`, sudo: false });
  });
  afterAll(async () => {
    await lab?.destroy();
    await shelf?.remove();
  });

  const bash = (script: string, timeoutMs = 5_000, outputBytes?: number) =>
    engine.exec('friend', ['/bin/bash', '-c', script], timeoutMs, outputBytes);

  it('tells the two outputs of a command and its exit status, every time', async () => {
    for (let i = 0; i < 20; i++) {
      const ended = { exitCode: 3, stdout: 'out\n', stderr: 'err\n', timedOut: false, missing: false };
      expect(await bash('echo out; echo err >&2; exit 3')).toEqual(ended);
    }
  });

  it('bounds a command in time and in size, and a program that is not there is told', async () => {
    expect(await bash('sleep 30', 500)).toMatchObject({ exitCode: undefined, timedOut: true });
    const large = { exitCode: undefined, timedOut: false, stderr: 'more than 10000 bytes of output' };
    expect(await bash('while :; do echo aaaaaaaaaaaaaaaa; done', 20_000, 10_000)).toMatchObject(large);
    expect(await engine.exec('friend', ['/nothing'], 5_000)).toMatchObject({ missing: true });
    expect(await engine.exec('nobody', ['/bin/true'], 5_000)).toMatchObject({ exitCode: undefined, timedOut: false });
  });

  it('ends a question that hangs for an agent, too, that may not kill its process', async () => {
    const module = join(import.meta.dirname, '../../packages/agent/src/docker/engine.ts');
    const script = `import { Engine } from ${JSON.stringify(module)};
      const engine = new Engine({ socket: '/run/docker.sock', sudo: true });
      const argv = ['/bin/bash', '-c', 'exec -a kwbase-that-hangs sleep 300'];
      console.log(JSON.stringify(await engine.exec('friend', argv, 1000)));`;
    await host.writeFile('/opt/ask.mjs', script, 0o644);
    const group = '"$(getent group docker | cut -d: -f3)"';
    const asked = await host.shell(
      `setpriv --reuid 65534 --regid 65534 --groups ${group} ${process.execPath} /opt/ask.mjs`,
    );
    expect(JSON.parse(asked.stdout)).toMatchObject({ timedOut: true });
    const processes = async () => (await host.exec(['docker', 'top', 'friend'])).stdout;
    expect(await processes()).toContain('sleep 600');
    await expect.poll(processes).not.toContain('kwbase-that-hangs');
  });

  /** Loads an image's file as an order's package. */
  async function brought(file: string, version: string) {
    const watch: Watch = { detail() {}, moved() {}, async fence() {}, output() {}, async pause() {} };
    const packages = { ensure: async () => file } as unknown as PackageCache;
    const stateDir = await mkdtemp(join(shelf.directory, 'state-'));
    const images = new Images({ engine, packages, stateDir, now: Date.now });
    const wanted = { kind: 'image-archive', sha256: 'a'.repeat(64), fileName: file, version } as PackageInfo;
    return images.ensure(wanted, { kwbase: './kwbase', workingDir: '/kaiwudb/bin' }, watch);
  }

  it('keeps the name of an image that a container is of when another is loaded under it', async () => {
    const before = await engine.image('kaiwudb:3.0.0');
    // The same version and the same name, from another build: as `latest` is for people.
    const ready = await brought(await shelf.image('3.0.0', { catchUpMs: 1 }), '3.0.0');
    expect((await engine.image('kaiwudb:3.0.0'))?.Id).toBe(before?.Id);
    expect(ready.id).not.toBe(before?.Id);
    expect(ready.reference).toBe(ready.id);
    expect((await engine.image(ready.id))?.Id).toBe(ready.id);
  });

  it('gives the name to the new image where nothing runs the old one, or nobody had it', async () => {
    const first = await brought(await shelf.image('3.1.0'), '3.1.0');
    expect(first.reference).toBe('kaiwudb:3.1.0');
    const second = await brought(await shelf.image('3.1.0', { catchUpMs: 1 }), '3.1.0');
    expect(second.reference).toBe('kaiwudb:3.1.0');
    expect((await engine.image('kaiwudb:3.1.0'))?.Id).toBe(second.id);
    expect(second.id).not.toBe(first.id);
  });
});
