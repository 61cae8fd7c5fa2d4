import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, readdir, readFile, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { FleetError, type PackageInfo } from '@kwfleet/core';
import * as tar from 'tar';
import { describe, expect, onTestFinished, test } from 'vitest';
import type { Watch } from '../src/driver/driver.ts';
import { unsafeEntry } from '../src/package-archive.ts';
import { PackageCache } from '../src/packages.ts';
import { Busy } from '../src/sources.ts';
import { witnessSyncs } from './sync-witness.ts';

const OFF = { on: false, async verify() {} };
const WATCH: Watch = { detail() {}, moved() {}, async fence() {}, output() {}, async pause() {} };

type Bytes = (sha256: string, offset: number) => AsyncIterable<Uint8Array>;

/** A cache that takes everything from the controller. */
const cacheOf = (directory: string, controller: Bytes, limitBytes = 1024 ** 3): PackageCache =>
  new PackageCache({
    stateDir: join(directory, 'state'),
    trust: OFF,
    limitBytes,
    source: async (sha256, offset) => ({ byPeer: false, chunks: controller(sha256, offset) }),
  });

async function packed(content = '3.1.0\n') {
  const directory = await mkdtemp(join(tmpdir(), 'kwfleet-packages-'));
  onTestFinished(() => rm(directory, { recursive: true, force: true }));
  await mkdir(join(directory, 'kaiwudb_install/packages'), { recursive: true });
  await writeFile(join(directory, 'kaiwudb_install/deploy.sh'), '#!/bin/sh\n');
  await writeFile(join(directory, 'kaiwudb_install/packages/.version'), content);
  const file = join(directory, 'p.tar.gz');
  await tar.c({ gzip: true, file, cwd: directory }, ['kaiwudb_install']);
  const bytes = await readFile(file);
  const info = {
    sha256: createHash('sha256').update(bytes).digest('hex'),
    fileName: 'p.tar.gz',
    sizeBytes: bytes.length,
    unpackedBytes: 0,
    version: '3.1.0',
    kind: 'bare' as const,
    architecture: 'amd64',
    family: 'deb' as const,
  };
  return { directory, bytes, info };
}

test('a transfer that breaks goes on where it was', async () => {
  const { directory, bytes, info } = await packed();
  const offsets: number[] = [];
  const cache = cacheOf(directory, async function* (_sha256, offset) {
    offsets.push(offset);
    yield bytes.subarray(offset, offset + 100);
    if (offset + 100 < bytes.length) throw new Error('the connection broke');
  });
  const found = await cache.ensure(info, WATCH);
  expect(await readFile(join(found, 'packages/.version'), 'utf8')).toBe('3.1.0\n');
  expect(offsets).toEqual(offsets.map((_, index) => index * 100));
  expect(offsets.length).toBeGreaterThan(1);
  const count = offsets.length;
  await cache.ensure(info, WATCH);
  expect(offsets).toHaveLength(count);
});

test('what is unpacked is on disk before it has the name by which it is taken for whole', async () => {
  const { directory, bytes, info } = await packed();
  const cache = cacheOf(directory, async function* (_sha256, offset) {
    yield bytes.subarray(offset);
  });
  const unpacked = join(directory, 'state/packages', info.sha256, 'unpacked');
  const syncs = await witnessSyncs(unpacked);
  await cache.ensure(info, WATCH);
  expect(await syncs()).toEqual([`-f ${unpacked}.new`]);
});

test("an image's file is brought, verified and left as it is", async () => {
  const { directory, bytes, info } = await packed();
  let asked = 0;
  const cache = cacheOf(directory, async function* (_sha256, offset) {
    asked += 1;
    yield bytes.subarray(offset);
  });
  const image: PackageInfo = { ...info, kind: 'image-archive', family: 'any' };
  const file = await cache.ensure(image, WATCH);
  expect(await readFile(file)).toEqual(bytes);
  expect(await readdir(dirname(file))).toEqual([basename(file)]);
  await cache.ensure(image, WATCH);
  expect(asked).toBe(1);
  // A disk that forgot a byte is noticed before the engine is given the file.
  await writeFile(file, Buffer.alloc(bytes.length, 1));
  expect(await readFile(await cache.ensure(image, WATCH))).toEqual(bytes);
  expect(asked).toBe(2);
  expect(await cache.holdings()).toEqual([info.sha256]);
});

test('other bytes are refused and forgotten', async () => {
  const { directory, bytes, info } = await packed();
  const wrong = Buffer.from(bytes);
  wrong[50] = (wrong[50] as number) ^ 1;
  let given = wrong;
  const cache = cacheOf(directory, async function* (_sha256, offset) {
    yield given.subarray(offset);
  });
  await expect(cache.ensure(info, WATCH)).rejects.toMatchObject({ code: 'PACKAGE_CORRUPT' });
  given = bytes;
  await cache.ensure(info, WATCH);
});

test('a package that does not fit is refused before it is brought', async () => {
  const { directory, info } = await packed();
  const cache = cacheOf(directory, async function* () {});
  const huge = { ...info, unpackedBytes: Number.MAX_SAFE_INTEGER / 2 };
  await expect(cache.ensure(huge, WATCH)).rejects.toMatchObject({ code: 'DISK_FULL' });
});

test('a peer that gives other bytes wastes time, and nothing else', async () => {
  const { directory, bytes, info } = await packed();
  const wrong = Buffer.alloc(bytes.length, 1);
  const asked: boolean[] = [];
  const cache = new PackageCache({
    stateDir: join(directory, 'state'),
    trust: OFF,
    limitBytes: 1024 ** 3,
    async source(_sha256, offset, peers) {
      asked.push(peers);
      const given = peers ? wrong : bytes;
      return {
        byPeer: peers,
        chunks: (async function* () {
          yield given.subarray(offset);
        })(),
      };
    },
  });
  await cache.ensure(info, WATCH);
  expect(asked).toEqual([true, false]);
  expect(await cache.holdings()).toEqual([info.sha256]);
});

test('waiting in line is no stall, and ends when there is a place', async () => {
  const { directory, bytes, info } = await packed();
  const signs: string[] = [];
  let tries = 0;
  const cache = cacheOf(directory, async function* (_sha256, offset) {
    tries += 1;
    if (tries < 3) throw new Busy('many others');
    yield bytes.subarray(offset);
  });
  await cache.ensure(info, { ...WATCH, moved: (sign) => signs.push(sign) });
  expect(signs.filter((sign) => sign.startsWith('waiting'))).toEqual(['waiting 0', 'waiting 1']);
});

test('those used longest ago go first, and none that an order needs', async () => {
  const { directory, ...first } = await packed('1\n');
  const others = [await packed('2\n'), await packed('3\n'), await packed('4\n')];
  const all = [first, ...others];
  const bytesOf = async function* (sha256: string, offset: number) {
    yield all.find(({ info }) => info.sha256 === sha256)?.bytes.subarray(offset) ?? Buffer.alloc(0);
  };
  // Each takes its archive and some 13 bytes unpacked: two fit, three do not.
  const two = first.bytes.length * 2 + 60;
  const cache = cacheOf(directory, bytesOf, two);
  const [a, b, c, d] = all.map(({ info }) => info) as [PackageInfo, PackageInfo, PackageInfo, PackageInfo];
  const usedAt = (info: PackageInfo, seconds: number) =>
    utimes(join(directory, 'state/packages', info.sha256), seconds, seconds);
  await cache.ensure(a, WATCH);
  await usedAt(a, 1000);
  await cache.prefetch(b, WATCH);
  await usedAt(b, 2000);
  await cache.prefetch(c, WATCH);
  expect(new Set(await cache.holdings())).toEqual(new Set([a.sha256, c.sha256]));
  // The next agent process knows what the order needs.
  const next = cacheOf(directory, bytesOf, two);
  const huge = { ...d, unpackedBytes: 10 * two };
  await expect(next.prefetch(huge, WATCH)).rejects.toMatchObject({ code: 'CACHE_FULL' });
  expect(await next.holdings()).toEqual([a.sha256]);
  // An order takes the room it needs.
  await next.ensure(huge, WATCH);
  expect(new Set(await next.holdings())).toEqual(new Set([a.sha256, d.sha256]));
});

describe('where several packages could go', () => {
  async function fleetOf(count: number) {
    const made: Awaited<ReturnType<typeof packed>>[] = [];
    for (let at = 0; at < count; at++) made.push(await packed(`${at}\n`));
    const directory = made[0]?.directory as string;
    const sizeBytes = made[0]?.bytes.length as number;
    const bytesOf = (sha256: string) => made.find(({ info }) => info.sha256 === sha256)?.bytes ?? Buffer.alloc(0);
    const usedAt = (info: PackageInfo, seconds: number) =>
      utimes(join(directory, 'state/packages', info.sha256), seconds, seconds);
    return { directory, infos: made.map(({ info }) => info) as PackageInfo[], sizeBytes, bytesOf, usedAt };
  }

  test('as many go as must, the one used longest ago first, and what came of a broken transfer is not counted twice', async () => {
    const { directory, infos, sizeBytes, bytesOf, usedAt } = await fleetOf(4);
    let broken = true;
    const source = async function* (sha256: string, offset: number): AsyncGenerator<Uint8Array> {
      if (sha256 !== infos[3]?.sha256 || !broken) return yield bytesOf(sha256).subarray(offset);
      yield bytesOf(sha256).subarray(offset, offset + 100);
      throw new FleetError('FETCH_FAILED', 'gone');
    };
    const cache = cacheOf(directory, source, sizeBytes * 3 + 60);
    const [a, b, c, d] = infos as [PackageInfo, PackageInfo, PackageInfo, PackageInfo];
    for (const [info, at] of [
      [a, 1000],
      [b, 3000],
      [c, 2000],
    ] as const) {
      await cache.prefetch(info, WATCH);
      await usedAt(info, at);
    }
    await expect(cache.prefetch(d, WATCH)).rejects.toMatchObject({ code: 'FETCH_FAILED' });
    expect(new Set(await cache.holdings())).toEqual(new Set([b.sha256, c.sha256]));
    broken = false;
    await cache.prefetch(d, WATCH);
    expect(new Set(await cache.holdings())).toEqual(new Set([b.sha256, c.sha256, d.sha256]));
  });

  test('one that is on its way does not go', async () => {
    const { directory, infos, sizeBytes, bytesOf, usedAt } = await fleetOf(2);
    const [slow, other] = infos as [PackageInfo, PackageInfo];
    const begun = Promise.withResolvers<void>();
    const goOn = Promise.withResolvers<void>();
    const source = async function* (sha256: string, offset: number): AsyncGenerator<Uint8Array> {
      if (sha256 !== slow.sha256) return yield bytesOf(sha256).subarray(offset);
      yield bytesOf(sha256).subarray(offset, offset + 100);
      begun.resolve();
      await goOn.promise;
      yield bytesOf(sha256).subarray(offset + 100);
    };
    const cache = cacheOf(directory, source, sizeBytes + 60);
    const coming = cache.prefetch(slow, WATCH);
    await begun.promise;
    await usedAt(slow, 1);
    await expect(cache.prefetch(other, WATCH)).rejects.toMatchObject({ code: 'CACHE_FULL' });
    goOn.resolve();
    await coming;
    expect(await cache.holdings()).toEqual([slow.sha256]);
  });
});

test.each([
  [{ path: 'kaiwudb_install/deploy.sh', type: 'File' }, true],
  [{ path: 'a/link', type: 'SymbolicLink', linkpath: '../b' }, true],
  [{ path: '/etc/passwd', type: 'File' }, false],
  [{ path: 'a/../../x', type: 'File' }, false],
  [{ path: 'a/link', type: 'SymbolicLink', linkpath: '../../b' }, false],
  [{ path: 'a/link', type: 'SymbolicLink', linkpath: '/etc' }, false],
  [{ path: 'a/hard', type: 'Link', linkpath: '../etc/shadow' }, false],
  [{ path: 'a/dev', type: 'BlockDevice' }, false],
])('an entry %j is safe: %s', (entry, safe) => {
  expect(unsafeEntry(entry) === undefined).toBe(safe);
});
