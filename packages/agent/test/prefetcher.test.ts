import { FleetError, type PackageInfo } from '@kwfleet/core';
import type { Prefetched } from '@kwfleet/protocol';
import { pino } from 'pino';
import { expect, test } from 'vitest';
import { systemClock } from '../src/clock.ts';
import { Stopping, type Watch } from '../src/driver/driver.ts';
import { Prefetcher } from '../src/prefetcher.ts';

const info = (sha256: string): PackageInfo => ({
  sha256: sha256.repeat(64),
  fileName: 'p.tar.gz',
  sizeBytes: 1,
  unpackedBytes: 0,
  version: '3.1.0',
  kind: 'bare',
  architecture: 'amd64',
  family: 'deb',
});

function prefetcher(bring: (wanted: PackageInfo, watch: Watch) => Promise<void>) {
  const told: Prefetched[] = [];
  const log = pino({ level: 'silent' });
  return { told, prefetcher: new Prefetcher({ bring, tell: (one) => told.push(one), clock: systemClock, log }) };
}

test('brings one after the other, tells each, and a package wanted twice once', async () => {
  const brought: string[] = [];
  let atOnce = 0;
  const { prefetcher: one, told } = prefetcher(async ({ sha256 }) => {
    atOnce += 1;
    expect(atOnce).toBe(1);
    await new Promise((resolve) => setImmediate(resolve));
    atOnce -= 1;
    brought.push(sha256);
    if (sha256.startsWith('b')) throw new FleetError('PACKAGE_CORRUPT', 'other bytes');
  });
  for (const name of ['a', 'b', 'a', 'c']) one.want(info(name));
  await expect.poll(() => told.length).toBe(3);
  expect(brought.map((sha256) => sha256[0])).toEqual(['a', 'b', 'c']);
  expect(told[1]).toEqual({ sha256: 'b'.repeat(64), code: 'PACKAGE_CORRUPT', message: 'other bytes' });
  one.want(info('a'));
  await expect.poll(() => told.length).toBe(4);
});

test('stops in the middle, and tells nothing of what it did not finish', async () => {
  let paused = 0;
  const { prefetcher: one, told } = prefetcher(async (_wanted, watch) => {
    for (;;) {
      paused += 1;
      await watch.pause(1).catch((error: unknown) => {
        expect(error).toBeInstanceOf(Stopping);
        throw error;
      });
    }
  });
  one.want(info('a'));
  one.want(info('b'));
  await expect.poll(() => paused).toBeGreaterThan(1);
  await one.stop();
  expect(told).toEqual([]);
});
