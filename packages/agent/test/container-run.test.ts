import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Action } from '@kwfleet/core';
import { describe, expect, onTestFinished, test } from 'vitest';
import { ContainerFinder } from '../src/deployment/container.ts';
import { ContainerRecords } from '../src/docker/exchange.ts';
import type { Images } from '../src/docker/images.ts';
import { MadeRecord } from '../src/docker/made-record.ts';
import type { ContainerOptions } from '../src/driver/container-run.ts';
import { DockerRunDriver } from '../src/driver/docker-run.ts';
import type { Watch } from '../src/driver/driver.ts';
import { PlayedEngine } from './played-engine.ts';

const WATCH = { detail: () => {}, fence: async () => {} } as unknown as Watch;
const ORDER = { from: '3.0.0', to: '3.1.0', phases: ['stop'], deadline: { ceilingMs: 1000 } } as unknown as Action;

async function host(name?: string) {
  const stateDir = await mkdtemp(join(tmpdir(), 'kwfleet-run-'));
  onTestFinished(() => rm(stateDir, { recursive: true, force: true }));
  const played = new PlayedEngine();
  const { engine } = played;
  const records = new ContainerRecords(stateDir, engine);
  const brought: string[] = [];
  const bring = async () => {
    brought.push('image');
    return { id: 'sha256:new', reference: 'kwdb:3.1.0' };
  };
  const images = { any: async () => true, ensure: bring, ready: bring } as unknown as Images;
  const finder = new ContainerFinder({
    engine,
    images,
    name,
    now: Date.now,
    statusTimeoutMs: 1000,
    intent: () => records.intent(),
    restrained: () => records.restrained.read(),
    made: new MadeRecord(stateDir),
  });
  const options = { engine, images, records, finder, removeOldImage: false } as unknown as ContainerOptions;
  return { played, finder, records, brought, driver: new DockerRunDriver(options) };
}

describe('a stopped container of KWDB beside the one that runs', () => {
  test('is refused before anything is brought or stopped, while the node is seen as ever', async () => {
    const { played, finder, driver, brought } = await host();
    played.make('kwdb', { running: true, policy: 'always' });
    played.make('kwdb-old', { running: false });
    const found = await finder.find();
    expect(found?.inspect.Name).toBe('/kwdb');
    expect([found?.unfit, found?.site.places?.obstacle]).toEqual(
      Array(2).fill(expect.stringContaining('docker.container')),
    );
    const order = { ...ORDER, package: {} } as unknown as Action;
    const refusal = { code: 'CONTAINER_UNFIT', message: expect.stringContaining('kwdb, kwdb-old') };
    await expect(driver.fetch(order, WATCH)).rejects.toMatchObject(refusal);
    await expect(driver.stop(order, WATCH)).rejects.toMatchObject(refusal);
    expect([brought, played.policyOf('kwdb'), played.containers.get('kwdb')?.State.Running]).toEqual([
      [],
      'always',
      true,
    ]);
  });

  test('is no matter where agent.yaml says which one is meant', async () => {
    const { played, finder, driver } = await host('kwdb');
    played.make('kwdb', { running: true });
    played.make('kwdb-old', { running: false });
    await driver.stop(ORDER, WATCH);
    expect(await finder.find()).toMatchObject({ inspect: { Name: '/kwdb' }, unfit: undefined });
  });

  test.each(['no', 'always'])('made after the stop of one with policy %s takes nobody in', async (policy) => {
    const { played, finder, driver } = await host();
    played.make('kwdb', { running: true, policy });
    await driver.stop(ORDER, WATCH);
    played.make('another', { running: false });
    expect(await finder.find()).toMatchObject({ inspect: { Name: '/kwdb' }, unfit: undefined });
    await driver.start(ORDER, WATCH);
    expect(await finder.find()).toMatchObject({ inspect: { Name: '/kwdb' }, unfit: undefined });
    await driver.release(ORDER);
    expect(await finder.find()).toMatchObject({ unfit: expect.stringContaining('kwdb, another') });
  });

  test('that runs in the place of the one that was stopped is not taken for it', async () => {
    const { played, finder, driver } = await host();
    played.make('kwdb', { running: true });
    await driver.stop(ORDER, WATCH);
    played.make('another', { running: true });
    expect(await finder.find()).toMatchObject({ unfit: expect.stringContaining('docker.container') });
  });

  test('that an exchange keeps does not count', async () => {
    const { played, finder, records } = await host();
    played.make('kwdb', { running: false });
    played.make('kwdb-kwfleet-3.0.0', { running: false });
    const policy = { Name: 'no', MaximumRetryCount: 0 };
    const kept = { old: 'id-kwdb-kwfleet-3.0.0', keptAs: 'kwdb-kwfleet-3.0.0', new: 'id-kwdb', policy };
    await records.exchange.write({
      kind: 'run',
      name: 'kwdb',
      image: 'sha256:new',
      from: '3.0.0',
      to: '3.1.0',
      ...kept,
    });
    expect(await finder.find()).toMatchObject({ inspect: { Name: '/kwdb' }, unfit: undefined });
  });
});

describe('the restart policy', () => {
  test('comes back to a container that the engine would not stop', async () => {
    const { played, driver, finder } = await host();
    played.make('kwdb', { running: true, policy: 'unless-stopped' });
    played.refusal = 'permission denied';
    await expect(driver.stop(ORDER, WATCH)).rejects.toMatchObject({ code: 'STOP_FAILED', words: 'permission denied' });
    await driver.release(ORDER);
    expect(played.policyOf('kwdb')).toBe('unless-stopped');
    expect((await (await finder.find())?.state())?.enabled).toBe(true);
  });

  test('stays away from one that is stopped, also through an attempt that begins anew, until it is started', async () => {
    const { played, driver, records, finder } = await host();
    played.make('kwdb', { running: true, policy: 'always' });
    await driver.stop(ORDER, WATCH);
    await driver.release(ORDER);
    expect([played.policyOf('kwdb'), (await records.restrained.read())?.policy.Name]).toEqual(['no', 'always']);
    expect((await (await finder.find())?.state())?.enabled).toBe(true);
    await driver.stop(ORDER, WATCH);
    await driver.start(ORDER, WATCH);
    await driver.release(ORDER);
    expect([played.policyOf('kwdb'), await records.restrained.read()]).toEqual(['always', undefined]);
  });
});
