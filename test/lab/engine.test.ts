/** Commands in containers, by a real engine on a test host. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Engine } from '../../packages/agent/src/docker/engine.ts';
import { dockerHere, ImageShelf } from './container-deploy.ts';
import { createLab, type Lab, labHere } from './host.ts';

describe.skipIf(!(await labHere()) || !dockerHere())('a command in a container', () => {
  let shelf: ImageShelf;
  let lab: Lab | undefined;
  let engine: Engine;

  beforeAll(async () => {
    shelf = await ImageShelf.create();
    lab = await createLab();
    const host = await lab.addHost();
    await host.start();
    await host.exec(['systemctl', 'start', 'docker'], { timeoutMs: 60_000 });
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

  it('tells its two outputs and its exit status, every time', async () => {
    for (let i = 0; i < 20; i++) {
      const ended = { exitCode: 3, stdout: 'out\n', stderr: 'err\n', timedOut: false, missing: false };
      expect(await bash('echo out; echo err >&2; exit 3')).toEqual(ended);
    }
  });

  it('is bounded in time and in size, and a program that is not there is told', async () => {
    expect(await bash('sleep 30', 500)).toMatchObject({ exitCode: undefined, timedOut: true });
    const large = { exitCode: undefined, timedOut: false, stderr: 'more than 10000 bytes of output' };
    expect(await bash('while :; do echo aaaaaaaaaaaaaaaa; done', 20_000, 10_000)).toMatchObject(large);
    expect(await engine.exec('friend', ['/nothing'], 5_000)).toMatchObject({ missing: true });
    expect(await engine.exec('nobody', ['/bin/true'], 5_000)).toMatchObject({ exitCode: undefined, timedOut: false });
  });
});
