import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as tar from 'tar';
import { expect, onTestFinished, test } from 'vitest';
import type { Watch } from '../src/driver/driver.ts';
import { PackageCache, unsafeEntry } from '../src/packages.ts';

const OFF = { on: false, async verify() {} };
const WATCH: Watch = { detail() {}, moved() {}, async fence() {}, output() {}, async pause() {} };

async function packed() {
  const directory = await mkdtemp(join(tmpdir(), 'kwfleet-packages-'));
  onTestFinished(() => rm(directory, { recursive: true, force: true }));
  await mkdir(join(directory, 'kaiwudb_install/packages'), { recursive: true });
  await writeFile(join(directory, 'kaiwudb_install/deploy.sh'), '#!/bin/sh\n');
  await writeFile(join(directory, 'kaiwudb_install/packages/.version'), '3.1.0\n');
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
  const cache = new PackageCache(
    join(directory, 'state'),
    async function* (_sha256, offset) {
      offsets.push(offset);
      yield bytes.subarray(offset, offset + 100);
      if (offset + 100 < bytes.length) throw new Error('the connection broke');
    },
    OFF,
  );
  const found = await cache.ensure(info, WATCH);
  expect(await readFile(join(found, 'packages/.version'), 'utf8')).toBe('3.1.0\n');
  expect(offsets).toEqual(offsets.map((_, index) => index * 100));
  expect(offsets.length).toBeGreaterThan(1);
  const count = offsets.length;
  await cache.ensure(info, WATCH);
  expect(offsets).toHaveLength(count);
});

test('other bytes are refused and forgotten', async () => {
  const { directory, bytes, info } = await packed();
  const wrong = Buffer.from(bytes);
  wrong[50] = (wrong[50] as number) ^ 1;
  let given = wrong;
  const cache = new PackageCache(
    join(directory, 'state'),
    async function* (_sha256, offset) {
      yield given.subarray(offset);
    },
    OFF,
  );
  await expect(cache.ensure(info, WATCH)).rejects.toMatchObject({ code: 'PACKAGE_CORRUPT' });
  given = bytes;
  await cache.ensure(info, WATCH);
});

test('a package that does not fit is refused before it is brought', async () => {
  const { directory, info } = await packed();
  const cache = new PackageCache(join(directory, 'state'), async function* () {}, OFF);
  const huge = { ...info, unpackedBytes: Number.MAX_SAFE_INTEGER / 2 };
  await expect(cache.ensure(huge, WATCH)).rejects.toMatchObject({ code: 'DISK_FULL' });
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
