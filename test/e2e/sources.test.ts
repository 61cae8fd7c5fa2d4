import { createHash } from 'node:crypto';
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { PackageView, Problem } from '@kwfleet/core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { main } from '../../packages/cli/src/main.ts';
import { type Controller, controllerConfig, startController } from '../../packages/controller/src/index.ts';
import { urlOf, usePostgres } from '../../packages/controller/test/support.ts';
import { buildPackage, unpackPackage } from '../standin/package.ts';
import { post } from './hosts.ts';

/** Packages that the controller takes by itself: from its own disk, over HTTP, and images that never come to it. */
const postgres = usePostgres();
let directory: string;
let controller: Controller;
let web: Server;
let address: string;
let file: string;
let sha256: string;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'kwfleet-sources-'));
  file = await buildPackage({ version: '3.1.0', outDir: join(directory, 'allowed') });
  const bytes = await readFile(file);
  sha256 = createHash('sha256').update(bytes).digest('hex');
  web = createServer((request, response) => {
    if (request.url === '/kwdb/p.tar.gz' || request.url === '/secret/p.tar.gz') return response.end(bytes);
    if (request.url === '/kwdb/moved') return response.writeHead(302, { location: '/secret/p.tar.gz' }).end();
    if (request.url === '/kwdb/cut')
      return response.writeHead(200, { 'content-length': bytes.length }).end('x', () => response.destroy());
    response.writeHead(404).end();
  });
  await new Promise<void>((resolve) => web.listen(0, '127.0.0.1', resolve));
  const bound = web.address();
  address = `http://127.0.0.1:${typeof bound === 'object' ? bound?.port : 0}`;
  const config = {
    data_dir: join(directory, 'controller'),
    rest: { port: 0 },
    grpc: { port: 0, insecure: true },
    database: { url: urlOf(await postgres.settings()) },
    packages: { sources: [join(directory, 'allowed'), `${address}/kwdb/`] },
    log_level: 'silent',
  };
  controller = await startController(controllerConfig(config));
});
afterAll(async () => {
  await controller?.close();
  web?.closeAllConnections();
  web?.close();
  await rm(directory, { recursive: true, force: true });
});

const take = (json: object) => post<PackageView & Problem>(controller, '/v1/packages/import', json);

async function cli(...args: string[]): Promise<{ code: number; out: string; err: string }> {
  let [out, err] = ['', ''];
  const code = await main(args, {
    env: { KWFLEET_SERVER: controller.restUrl, NO_COLOR: '1' },
    out: { write: (text) => (out += text) },
    err: { write: (text) => (err += text) },
  });
  return { code, out, err };
}

describe('a package is taken', () => {
  it('from a directory of the controller, and over HTTP when it is the pinned one', async () => {
    const taken = await take({ path: file });
    expect(taken).toMatchObject({ sha256, version: '3.1.0', signed: true });
    expect(await take({ url: `${address}/kwdb/p.tar.gz`, sha256 })).toMatchObject({ id: taken.id });
    const { code, out } = await cli('package', 'add', '--from', `${address}/kwdb/p.tar.gz`, '--sha256', sha256);
    expect([code, out]).toEqual([0, expect.stringContaining(sha256)]);
  });

  it('as an image, by its digest', async () => {
    const image = `registry.example.net/kwdb/kwdb@sha256:${'ab'.repeat(32)}`;
    const { code, out } = await cli(
      'package',
      'add',
      '--image',
      image,
      '--as',
      '3.1.0',
      '--architecture',
      'amd64',
      '--json',
    );
    expect(code).toBe(0);
    expect(JSON.parse(out)).toMatchObject({
      id: 'ab'.repeat(32),
      kind: 'image',
      version: '3.1.0',
      image,
      signed: true,
    });
    expect((await cli('package', 'add', '--image', image)).code).toBe(2);
    expect(
      await take({ image: 'registry.example.net/kwdb:3.1.0', version: '3.1.0', architecture: 'amd64' }),
    ).toMatchObject({ code: 'BAD_REQUEST' });
  });
});

describe("an image's file", () => {
  it('is taken as it is, with the version that it tells or that is said, and signed only as what it is', async () => {
    const packed = await buildPackage({ version: '3.1.0', method: 'container', outDir: directory });
    const image = join(await unpackPackage(packed, join(directory, 'allowed/image')), 'packages/KaiwuDB.tar');
    const { code, out } = await cli('package', 'add', image, '--json');
    expect(code).toBe(0);
    expect(JSON.parse(out)).toMatchObject({ kind: 'image-archive', version: '3.1.0', family: 'any', unpackedBytes: 0 });
    expect((await cli('package', 'add', image, '--architecture', 'amd64')).code).toBe(2);
    const other = join(directory, 'allowed/other.tar');
    // Bytes behind the end of an archive: another package, as much as the same image.
    await writeFile(other, Buffer.concat([await readFile(image), Buffer.alloc(10_240)]));
    expect(await take({ path: other, version: '3.2.0' })).toMatchObject({ kind: 'image-archive', version: '3.2.0' });
    const key = join(directory, 'mine.key');
    const phrase = join(directory, 'phrase');
    await writeFile(phrase, 'correct horse battery staple\n', { mode: 0o600 });
    const signing = ['--key', key, '--passphrase-file', phrase];
    expect((await cli('key', 'create', key, '--passphrase-file', phrase)).code).toBe(0);
    expect((await cli('root', 'init', ...signing, '--yes')).code).toBe(0);
    // Whoever signs looks into the file: it says 3.1.0, and the registry something else.
    const { code: refused, err } = await cli('package', 'sign', other, ...signing, '--yes');
    expect([refused, err]).toEqual([2, expect.stringContaining('version')]);
    expect((await cli('package', 'sign', other, '--as', '3.2.0', ...signing, '--yes')).code).toBe(0);
  });

  it('alone is given a version', async () => {
    expect(await take({ path: file, version: '3.2.0' })).toMatchObject({ code: 'BAD_REQUEST' });
    expect(await take({ path: file, version: '3.1.0' })).toMatchObject({ sha256, kind: 'bare' });
  });

  it('is not another version the second time, nor is an image by its digest', async () => {
    const path = join(directory, 'allowed/other.tar');
    expect(await take({ path, version: '3.3.0' })).toMatchObject({ code: 'BAD_REQUEST' });
    const image = `registry.example.net/kwdb/kwdb@sha256:${'cd'.repeat(32)}`;
    expect(await take({ image, version: '3.1.0', architecture: 'amd64' })).toMatchObject({ version: '3.1.0' });
    expect(await take({ image, version: '3.2.0', architecture: 'amd64' })).toMatchObject({ code: 'BAD_REQUEST' });
  });
});

describe('refused', () => {
  it('is a path outside of what is allowed, also by a link or two dots', async () => {
    await writeFile(join(directory, 'outside.tar.gz'), await readFile(file));
    await symlink(join(directory, 'outside.tar.gz'), join(directory, 'allowed/link.tar.gz'));
    await mkdir(join(directory, 'allowed-not'));
    await writeFile(join(directory, 'allowed-not/p.tar.gz'), '');
    for (const path of [
      join(directory, 'outside.tar.gz'),
      join(directory, 'allowed/link.tar.gz'),
      `${directory}/allowed/../outside.tar.gz`,
      join(directory, 'allowed-not/p.tar.gz'),
      'allowed/p.tar.gz',
    ]) {
      expect(await take({ path }), path).toMatchObject({ code: 'SOURCE_REFUSED' });
    }
    expect(await take({ path: join(directory, 'allowed/none.tar.gz') })).toMatchObject({ code: 'SOURCE_FAILED' });
    expect(await take({ path: join(directory, 'allowed') })).toMatchObject({ code: 'SOURCE_REFUSED' });
  });

  it('is an address outside of what is allowed, one that leads elsewhere, and other bytes', async () => {
    for (const path of [
      '/secret/p.tar.gz',
      '/kwdb/../secret/p.tar.gz',
      '/kwdb/%2e%2e/secret/p.tar.gz',
      '/kwdbx/p.tar.gz',
    ]) {
      expect(await take({ url: `${address}${path}`, sha256 }), path).toMatchObject({ code: 'SOURCE_REFUSED' });
    }
    expect(await take({ url: 'file:///etc/passwd', sha256 })).toMatchObject({ code: 'SOURCE_REFUSED' });
    expect(await take({ url: `${address}/kwdb/moved`, sha256 })).toMatchObject({ code: 'SOURCE_FAILED' });
    expect(await take({ url: `${address}/kwdb/none`, sha256 })).toMatchObject({ code: 'SOURCE_FAILED' });
    expect(await take({ url: `${address}/kwdb/cut`, sha256 })).toMatchObject({ code: 'SOURCE_FAILED' });
    expect(await take({ url: `${address}/kwdb/p.tar.gz`, sha256: 'f'.repeat(64) })).toMatchObject({
      code: 'PACKAGE_CORRUPT',
    });
    expect(await take({ url: `${address}/kwdb/p.tar.gz` })).toMatchObject({ code: 'BAD_REQUEST' });
    expect((await cli('package', 'add', '--from', `${address}/kwdb/p.tar.gz`)).code).toBe(2);
  });
});
