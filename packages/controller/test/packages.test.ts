import { execFile } from 'node:child_process';
import { mkdir, readdir, readFile, rm, symlink, utimes, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { Readable } from 'node:stream';
import { promisify } from 'node:util';
import { gunzipSync, gzipSync, zstdCompressSync } from 'node:zlib';
import { create, Header } from 'tar';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { debFields, debNeeds } from '../src/packages/deb.ts';
import { inspectPackage } from '../src/packages/inspect.ts';
import { openRegistry } from '../src/packages/registry.ts';
import { rpmNeeds } from '../src/packages/rpm.ts';
import type { Database } from '../src/store/database.ts';
import { openOnlineKey } from '../src/trust/online-key.ts';
import { openRepository } from '../src/trust/repository.ts';
import { log, temporaryDirectory, usePostgres } from './support.ts';

const run = promisify(execFile);
const MAX_BYTES = 64 * 1024 * 1024;
let directory: string;

beforeEach(async () => {
  directory = await temporaryDirectory();
});
afterEach(() => rm(directory, { recursive: true, force: true }));

type Content = string | Buffer | { link: string };

/** Packs files under `kaiwudb_install/` as a .tar.gz. */
async function pack(files: Record<string, Content>, top = 'kaiwudb_install'): Promise<string> {
  const root = join(directory, 'tree', top);
  await rm(join(directory, 'tree'), { recursive: true, force: true });
  for (const [name, content] of Object.entries(files)) {
    const path = join(root, name);
    await mkdir(join(path, '..'), { recursive: true });
    if (typeof content === 'object' && 'link' in content) await symlink(content.link, path);
    else await writeFile(path, content);
  }
  const file = join(directory, 'package.tar.gz');
  await create({ file, gzip: true, cwd: join(directory, 'tree') }, [top]);
  return file;
}

/** One tar header with nothing behind it, as `tar` itself would refuse to write. */
function evil(path: string, change: Partial<{ type: string; linkpath: string }> = {}): Buffer {
  const block = Buffer.alloc(512);
  const { type = 'File', linkpath = '' } = change;
  new Header({ path, type: type as 'File', linkpath, mode: 0o644, size: 0, mtime: new Date(0) }).encode(block);
  return gzipSync(Buffer.concat([block, Buffer.alloc(1024)]));
}

const member = (name: string, data: Buffer): Buffer => {
  const header = `${name.padEnd(16)}${'0'.padEnd(12)}${'0'.padEnd(6)}${'0'.padEnd(6)}${'100644'.padEnd(8)}${String(data.length).padEnd(10)}\`\n`;
  return Buffer.concat([Buffer.from(header, 'latin1'), data, Buffer.alloc(data.length % 2)]);
};

/** A .deb as dpkg-deb makes it, without dpkg-deb. */
async function deb(architecture: string, compress: (tar: Buffer) => [string, Buffer], more = ''): Promise<Buffer> {
  const tree = join(directory, 'control');
  await mkdir(tree, { recursive: true });
  await writeFile(
    join(tree, 'control'),
    `Package: kaiwudb-server\nVersion: 3.1.0\nArchitecture: ${architecture}\n${more}`,
  );
  await create({ file: join(directory, 'control.tar'), cwd: tree }, ['./control']);
  const [suffix, data] = compress(await readFile(join(directory, 'control.tar')));
  const parts = [member('debian-binary', Buffer.from('2.0\n')), member(`control.tar${suffix}`, data)];
  return Buffer.concat([Buffer.from('!<arch>\n'), ...parts, member('data.tar', Buffer.from('x'))]);
}
const gzip = (tar: Buffer): [string, Buffer] => ['.gz', gzipSync(tar)];

async function bareFiles(): Promise<Record<string, Content>> {
  return {
    'deploy.sh': '#!/bin/bash\n',
    'utils/x.sh': '',
    'packages/.version': '3.1.0\nhotfix1\n',
    'packages/kaiwudb-server.deb': await deb('arm64', gzip),
    'packages/kaiwudb-libcommon.deb': await deb('arm64', gzip),
  };
}

async function containerFiles(): Promise<Record<string, Content>> {
  const tree = join(directory, 'image');
  await mkdir(tree, { recursive: true });
  await writeFile(join(tree, 'config.json'), JSON.stringify({ architecture: 'arm64', rootfs: { type: 'layers' } }));
  await create({ file: join(directory, 'KaiwuDB.tar'), cwd: tree }, ['config.json']);
  const { 'packages/kaiwudb-server.deb': _s, 'packages/kaiwudb-libcommon.deb': _l, ...rest } = await bareFiles();
  return { ...rest, 'packages/KaiwuDB.tar': await readFile(join(directory, 'KaiwuDB.tar')) };
}

const inspect = (file: string) => inspectPackage(file, 'package.tar.gz', MAX_BYTES);
const without = (files: Record<string, Content>, ...names: string[]) =>
  Object.fromEntries(Object.entries(files).filter(([name]) => !names.includes(name)));

describe('a whole package', () => {
  it('tells version, kind, architecture and family', async () => {
    expect(await inspect(await pack(await bareFiles()))).toMatchObject({
      version: '3.1.0-hotfix1',
      kind: 'bare',
      architecture: 'arm64',
      family: 'deb',
    });
    const files = await containerFiles();
    expect(await inspect(await pack(files))).toMatchObject({
      kind: 'container',
      architecture: 'arm64',
      family: 'any',
      installedBytes: Buffer.byteLength(files['packages/KaiwuDB.tar'] as Buffer),
    });
  });

  it('may hold links that stay inside', async () => {
    const files = { ...(await bareFiles()), 'utils/again.sh': { link: '../deploy.sh' } };
    await expect(inspect(await pack(files))).resolves.toBeDefined();
  });
});

describe('refused', () => {
  it.each([
    ['deploy.sh', 'deploy.sh'],
    ['utils/x.sh', 'utils/'],
    ['packages/.version', '.version'],
    ['packages/kaiwudb-server.deb', 'server'],
    ['packages/kaiwudb-libcommon.deb', 'libcommon'],
  ])('a package without %s', async (missing, named) => {
    const file = await pack(without(await bareFiles(), missing));
    const message = expect.stringContaining(named);
    await expect(inspect(file)).rejects.toMatchObject({ code: 'PACKAGE_INCOMPLETE', message });
  });

  it('two server files, a version that is none, and an architecture nobody tells', async () => {
    const files = await bareFiles();
    const refused = { code: 'PACKAGE_INCOMPLETE' };
    const two = { ...files, 'packages/other-server.deb': 'x' };
    await expect(inspect(await pack(two))).rejects.toMatchObject(refused);
    await expect(inspect(await pack({ ...files, 'packages/.version': 'new\n' }))).rejects.toMatchObject(refused);
    await expect(inspect(await pack({ ...files, 'packages/kaiwudb-server.deb': 'x' }))).rejects.toMatchObject(refused);
  });

  it('what is no .tar.gz, or only a part of one', async () => {
    const file = await pack(await bareFiles());
    const bytes = await readFile(file);
    const refused = { code: 'PACKAGE_UNREADABLE' };
    await writeFile(file, bytes.subarray(0, bytes.length - 200));
    await expect(inspect(file)).rejects.toMatchObject(refused);
    await writeFile(file, 'not at all');
    await expect(inspect(file)).rejects.toMatchObject(refused);
    await writeFile(file, gzipSync(Buffer.alloc(4096, 'x')));
    await expect(inspect(file)).rejects.toMatchObject(refused);
  });

  it.each([
    ['a path that climbs', evil('kaiwudb_install/../../etc/passwd')],
    ['an absolute path', evil('/etc/passwd')],
    ['a symbolic link out', evil('kaiwudb_install/x', { type: 'SymbolicLink', linkpath: '../../etc' })],
    ['an absolute link', evil('kaiwudb_install/x', { type: 'SymbolicLink', linkpath: '/etc/shadow' })],
    ['a hard link out', evil('kaiwudb_install/x', { type: 'Link', linkpath: '../etc/shadow' })],
    ['a device', evil('kaiwudb_install/x', { type: 'CharacterDevice' })],
    ['a pipe', evil('kaiwudb_install/x', { type: 'FIFO' })],
  ])('%s', async (_what, bytes) => {
    const file = join(directory, 'evil.tar.gz');
    await writeFile(file, bytes);
    await expect(inspect(file)).rejects.toMatchObject({ code: 'PACKAGE_UNSAFE' });
  });

  it('another folder that is no built tree, and a second folder beside one', async () => {
    const other = await pack(await bareFiles(), 'elsewhere');
    await expect(inspect(other)).rejects.toMatchObject({ code: 'PACKAGE_INCOMPLETE' });
    const mixed = gzipSync(
      Buffer.concat([gunzipSync(evil('install/bin')).subarray(0, 512), gunzipSync(evil('other/x'))]),
    );
    await writeFile(other, mixed);
    await expect(inspect(other)).rejects.toMatchObject({ code: 'PACKAGE_UNSAFE' });
  });

  it('what unpacks to more than it may', async () => {
    const file = await pack({ ...(await bareFiles()), 'utils/zeros': Buffer.alloc(2 * 1024 * 1024) });
    await expect(inspectPackage(file, 'x', 1024 * 1024)).rejects.toMatchObject({ code: 'PACKAGE_TOO_LARGE' });
  });
});

describe("an image's file", () => {
  const config = (more: object = {}) =>
    JSON.stringify({ architecture: 'arm64', os: 'linux', rootfs: { type: 'layers' }, config: {}, ...more });
  const hex = (letter: string) => letter.repeat(64);
  const manifest = (change: object = {}) => ({
    Config: `${hex('c')}.json`,
    RepoTags: ['kwdb/kwdb:3.1.0'],
    Layers: [`${hex('a')}/layer.tar`],
    ...change,
  });
  /** As engines up to 24 write it. */
  const folders = (change: object = {}, told = config()): [string, string | Buffer][] => [
    [`${hex('a')}/VERSION`, '1.0'],
    [`${hex('a')}/json`, '{"id":"x"}'],
    [`${hex('a')}/layer.tar`, Buffer.alloc(3_000_000, 'x')],
    [`${hex('c')}.json`, told],
    ['manifest.json', JSON.stringify([manifest(change)])],
    ['repositories', '{}'],
  ];
  /** As engines from 25 on write it. */
  const blobs = (): [string, string | Buffer][] => [
    [`blobs/sha256/${hex('a')}`, Buffer.alloc(2_000_000, 'x')],
    [`blobs/sha256/${hex('c')}`, config({ architecture: 'amd64' })],
    [`blobs/sha256/${hex('d')}`, '{"schemaVersion":2}'],
    ['index.json', '{"schemaVersion":2,"manifests":[]}'],
    [
      'manifest.json',
      JSON.stringify([manifest({ Config: `blobs/sha256/${hex('c')}`, Layers: [`blobs/sha256/${hex('a')}`] })]),
    ],
    ['oci-layout', '{"imageLayoutVersion":"1.0.0"}'],
  ];

  async function write(
    entries: readonly (readonly [string, string | Buffer])[],
    name = 'KaiwuDB.tar',
  ): Promise<string> {
    const blocks = entries.flatMap(([path, content]) => {
      const data = Buffer.from(content);
      const head = Buffer.alloc(512);
      new Header({ path, type: 'File', mode: 0o644, size: data.length, mtime: new Date(0) }).encode(head);
      return [head, data, Buffer.alloc((512 - (data.length % 512)) % 512)];
    });
    const file = join(directory, name);
    await writeFile(file, Buffer.concat([...blocks, Buffer.alloc(1024)]));
    return file;
  }
  const look = (file: string, given?: string) => inspectPackage(file, basename(file), MAX_BYTES, given);
  const told = (change: object, more?: object, given?: string) =>
    write(folders(change, config(more))).then((file) => look(file, given));

  it.each([
    ['an engine up to 24', folders(), 'arm64'],
    ['an engine from 25 on', blobs(), 'amd64'],
    ['its description first', folders().toReversed(), 'arm64'],
  ] as const)('as written by %s', async (_, entries, architecture) => {
    // What the engine will take for it: its files, however they are packed.
    const installedBytes = entries.reduce((sum, [, text]) => sum + Buffer.byteLength(text), 0);
    const of = { kind: 'image-archive', version: '3.1.0', family: 'any', unpackedBytes: 0 };
    const expected = { ...of, architecture, installedBytes };
    const file = await write(entries);
    expect(await look(file)).toEqual(expected);
    await writeFile(file, gzipSync(await readFile(file)));
    expect(await look(file)).toEqual(expected);
  });

  it('tells its version by what was given, its tag, its label or its name, in this order', async () => {
    const label = { config: { Labels: { 'org.opencontainers.image.version': 'v3.2.0' } } };
    expect(await told({}, label, '3.3.0')).toMatchObject({ version: '3.3.0' });
    expect(await told({ RepoTags: ['kwdb:latest', 'host:5000/kwdb:3.1.1'] }, label)).toMatchObject({
      version: '3.1.1',
    });
    expect(await told({ RepoTags: ['host:5000/kwdb'] }, label)).toMatchObject({ version: '3.2.0' });
    const foreign = { config: { Labels: { 'org.opencontainers.image.version': '22.04' } } };
    const named = await write(folders({ RepoTags: null }, config(foreign)), 'KaiwuDB-3.4.0-beta1.tar');
    expect(await look(named)).toMatchObject({ version: '3.4.0-beta1' });
    await expect(told({ RepoTags: null }, foreign)).rejects.toMatchObject({
      code: 'PACKAGE_INCOMPLETE',
      message: expect.stringContaining('--as'),
    });
    await expect(told({}, {}, 'newest')).rejects.toMatchObject({ code: 'VERSION_INVALID' });
  });

  it('is one image, whole, for linux', async () => {
    const refused = (message: string) => ({ code: 'PACKAGE_INCOMPLETE', message: expect.stringContaining(message) });
    const lacking = (path: string) => write(folders().filter(([name]) => name !== path)).then((file) => look(file));
    await expect(lacking('manifest.json')).rejects.toMatchObject(refused('manifest.json is missing'));
    await expect(lacking(`${hex('a')}/layer.tar`)).rejects.toMatchObject(refused('layer.tar'));
    await expect(lacking(`${hex('c')}.json`)).rejects.toMatchObject(refused(hex('c')));
    const two = folders().map(([name, text]) =>
      name === 'manifest.json' ? ([name, JSON.stringify([manifest(), manifest()])] as const) : ([name, text] as const),
    );
    await expect(look(await write(two))).rejects.toMatchObject(refused('2 images'));
    await expect(told({}, { os: 'windows' })).rejects.toMatchObject(refused('linux'));
    await expect(told({}, { architecture: undefined })).rejects.toMatchObject(refused('not as docker save'));
    await expect(told({ Layers: 'all' })).rejects.toMatchObject(refused('not as docker save'));
    const torn = folders().map(([name, text]) => [name, name === 'manifest.json' ? '[{' : text] as const);
    await expect(look(await write(torn))).rejects.toMatchObject(refused('no JSON'));
  });

  it.each([
    ['a path that climbs', [...folders(), ['../../etc/cron.d/x', 'x']]],
    ['an absolute path', [...folders(), ['/etc/cron.d/x', 'x']]],
    ['a description that is there twice', [...folders(), [`${hex('c')}.json`, config({ architecture: 'amd64' })]]],
  ] as [string, [string, string][]][])('is refused with %s', async (_, entries) => {
    await expect(look(await write(entries))).rejects.toMatchObject({ code: 'PACKAGE_UNSAFE' });
  });

  it('is refused with a link out of it, and taken with one to another layer', async () => {
    const link = (linkpath: string) => {
      const head = Buffer.alloc(512);
      const path = `${hex('b')}/layer.tar`;
      new Header({ path, type: 'SymbolicLink', linkpath, mode: 0o777, size: 0, mtime: new Date(0) }).encode(head);
      return head;
    };
    const file = await write(folders({ Layers: [`${hex('a')}/layer.tar`, `${hex('b')}/layer.tar`] }));
    const bytes = (await readFile(file)).subarray(0, -1024);
    await writeFile(file, Buffer.concat([bytes, link(`../${hex('a')}/layer.tar`), Buffer.alloc(1024)]));
    expect(await look(file)).toMatchObject({ kind: 'image-archive' });
    await writeFile(file, Buffer.concat([bytes, link('../../etc/shadow'), Buffer.alloc(1024)]));
    await expect(look(file)).rejects.toMatchObject({ code: 'PACKAGE_UNSAFE' });
  });

  it('keeps little of what goes by, and is cut off where it ends', async () => {
    const large = Array.from({ length: 20 }, (_, i) => [`${i}.json`, Buffer.alloc(1024 * 1024, '{')] as const);
    const file = await write([...folders(), ...large]);
    await expect(look(file)).rejects.toMatchObject({ code: 'PACKAGE_TOO_LARGE' });
    await expect(inspectPackage(file, 'x', 1_000_000)).rejects.toMatchObject({ code: 'PACKAGE_TOO_LARGE' });
    const whole = await write(folders());
    await writeFile(whole, (await readFile(whole)).subarray(0, 2_000_000));
    await expect(look(whole)).rejects.toMatchObject({ code: 'PACKAGE_UNREADABLE' });
  });

  it('alone may be given a version', async () => {
    const file = await pack(await bareFiles());
    await expect(inspectPackage(file, 'x', MAX_BYTES, '3.1.0')).rejects.toMatchObject({ code: 'BAD_REQUEST' });
    expect(await inspectPackage(file, 'x', MAX_BYTES, '3.1.0-hotfix1')).toMatchObject({ kind: 'bare' });
  });
});

describe('a built tree', () => {
  const elf = (machine: number) => {
    const head = Buffer.alloc(64);
    head.writeUInt32BE(0x7f454c46, 0);
    head.writeUInt16LE(machine, 18);
    return head;
  };
  const tree = { 'bin/kwbase': elf(183), 'lib/libcommon.so': 'x', 'lib/libkwdbts2.so.1': 'x' };

  it('tells its architecture by its executable, its version by .version or its name', async () => {
    const linked = { ...tree, 'lib/libkwdbts2.so': { link: 'libkwdbts2.so.1' } };
    const file = await pack(linked, 'install');
    expect(await inspectPackage(file, 'kwdb-3.1.0-hotfix1-amd64.tar.gz', 1e9)).toMatchObject({
      version: '3.1.0-hotfix1',
      kind: 'tree',
      architecture: 'arm64',
      family: 'any',
    });
    const told = await pack({ ...tree, '.version': '3.2.0\nbeta2\n' }, 'install-3.2.0');
    expect(await inspectPackage(told, 'kwdb-3.1.0.tar.gz', 1e9)).toMatchObject({ version: '3.2.0-beta2' });
    const script = await pack({ ...tree, 'bin/kwbase': '#!/bin/sh\n' }, 'install');
    expect(await inspectPackage(script, 'kwdb-3.1.0.x86_64.tar.gz', 1e9)).toMatchObject({ architecture: 'amd64' });
  });

  it('may be left to the host to build, without a word of how', async () => {
    const text = (more: object) => JSON.stringify({ version: '3.1.0', architecture: 'x86_64', ...more });
    const file = await pack({ 'build.json': text({}) }, 'kwfleet-build');
    expect(await inspect(file)).toMatchObject({
      version: '3.1.0',
      kind: 'build',
      architecture: 'amd64',
      family: 'any',
    });
    const refused = { code: 'PACKAGE_INCOMPLETE' };
    for (const wrong of [text({ steps: ['make'] }), text({ version: 'new' }), '{', '[]']) {
      await expect(inspect(await pack({ 'build.json': wrong }, 'kwfleet-build'))).rejects.toMatchObject(refused);
    }
    await expect(inspect(await pack({ 'x.json': '{}' }, 'kwfleet-build'))).rejects.toMatchObject(refused);
  });

  it('is refused without kwbase, without libraries, or where nothing tells its version', async () => {
    const refused = { code: 'PACKAGE_INCOMPLETE' };
    for (const part of ['bin/kwbase', 'lib/']) {
      const kept = Object.fromEntries(Object.entries(tree).filter(([name]) => !name.startsWith(part)));
      await expect(inspectPackage(await pack(kept, 'install'), 'kwdb-3.1.0.tar.gz', 1e9)).rejects.toMatchObject(
        refused,
      );
    }
    await expect(inspectPackage(await pack(tree, 'install'), 'kwdb.tar.gz', 1e9)).rejects.toMatchObject(refused);
    const out = await pack({ ...tree, 'lib/evil.so': { link: '../../x.so' } }, 'install');
    await expect(inspectPackage(out, 'kwdb-3.1.0.tar.gz', 1e9)).rejects.toMatchObject({ code: 'PACKAGE_UNSAFE' });
  });
});

describe('a .deb', () => {
  it.each([
    ['gzip', gzip],
    ['zstd', (tar: Buffer): [string, Buffer] => ['.zst', zstdCompressSync(tar)]],
    ['nothing', (tar: Buffer): [string, Buffer] => ['', tar]],
  ])('is read when compressed by %s', async (_name, compress) => {
    expect((await debFields(await deb('amd64', compress)))?.get('architecture')).toBe('amd64');
  });

  it('is read when compressed by xz, where the host has it', async (context) => {
    const file = join(directory, 'control.tar');
    await deb('amd64', gzip);
    await run('xz', ['--keep', '--force', file]).catch(() => context.skip('this machine has no xz'));
    const data = await readFile(`${file}.xz`);
    expect((await debFields(await deb('amd64', () => ['.xz', data])))?.get('architecture')).toBe('amd64');
  });

  it.each([
    ['Depends: kaiwudb-libcommon, libc6 (>= 2.31), libgcc-s1 (>= 3.0)\n', '2.31'],
    ['Depends: libc6 (>= 2.4)\nPre-Depends: libc6:amd64 (>= 2.27-3)\n', '2.27'],
    ['Depends: libc6 (>= 2.9), x\n', '2.9'],
    ['Depends: libc6, mylibc6 (>= 9.9)\n', undefined],
    ['', undefined],
  ])('tells the glibc that it needs: %j', async (fields, glibc) => {
    expect((await debNeeds([await deb('amd64', gzip, fields)])).glibc).toBe(glibc);
  });

  it('and others tell the newest glibc and the sum of their sizes, or none when one does not tell', async () => {
    const server = await deb('amd64', gzip, 'Depends: libc6 (>= 2.9)\nInstalled-Size: 300\n');
    const libcommon = await deb('amd64', gzip, 'Depends: libc6 (>= 2.10)\nInstalled-Size: 24\n');
    expect(await debNeeds([server, libcommon])).toEqual({
      architecture: 'amd64',
      glibc: '2.10',
      installedBytes: 324 * 1024,
    });
    expect(await debNeeds([server, await deb('amd64', gzip)])).not.toHaveProperty('installedBytes');
    expect(await debNeeds([server, Buffer.from('?')])).not.toHaveProperty('installedBytes');
  });

  it('that is none tells nothing', async () => {
    expect(await debFields(Buffer.from('!<arch>\nwhatever'))).toBeUndefined();
    expect(await debFields((await deb('amd64', gzip)).subarray(0, 150))).toBeUndefined();
  });
});

it('an .rpm tells its architecture and what it requires in its header', () => {
  const header = (tags: [number, number, number?][], data: Buffer) => {
    const intro = Buffer.alloc(16);
    intro.writeUInt32BE(0x8eade801, 0);
    intro.writeUInt32BE(tags.length, 8);
    intro.writeUInt32BE(data.length, 12);
    const entries = tags.map(([tag, offset, count = 1]) => {
      const entry = Buffer.alloc(16);
      entry.writeUInt32BE(tag, 0);
      entry.writeUInt32BE(6, 4);
      entry.writeUInt32BE(offset, 8);
      entry.writeUInt32BE(count, 12);
      return entry;
    });
    return Buffer.concat([intro, ...entries, data]);
  };
  const lead = Buffer.alloc(96);
  lead.writeUInt32BE(0xedabeedb, 0);
  const signature = header([[1000, 0]], Buffer.from('abc'));
  const padding = Buffer.alloc((8 - ((96 + signature.length) % 8)) % 8);
  const main = header(
    [
      [1000, 0],
      [1022, 8],
      [1049, 16, 3],
    ],
    Buffer.from('kaiwudb\0aarch64\0libc.so.6(GLIBC_2.9)(64bit)\0libm.so.6(GLIBC_2.17)(64bit)\0/bin/sh\0'),
  );
  expect(rpmNeeds(Buffer.concat([lead, signature, padding, main]))).toEqual({ architecture: 'aarch64', glibc: '2.17' });
  expect(rpmNeeds(Buffer.concat([lead, signature, padding, main.subarray(0, -30)]))).toEqual({
    architecture: 'aarch64',
    glibc: '2.9',
  });
  expect(rpmNeeds(Buffer.concat([lead, signature]))).toEqual({});
  expect(rpmNeeds(Buffer.from('short'))).toEqual({});
});

describe('the registry', () => {
  const postgres = usePostgres();
  const repositoryOf = async (database: Database) => openRepository(database, await openOnlineKey(directory), log);

  it('keeps each file once, by its hash, and nothing of what it refuses', async () => {
    const database = await postgres.database();
    const registry = await openRegistry(directory, MAX_BYTES, database, await repositoryOf(database));
    const bytes = await readFile(await pack(await bareFiles()));
    const add = (data: Buffer) => registry.add(Readable.from([data]), { name: '../../Kaiwu\u0007DB.tar.gz' }, 'test');
    const first = await add(bytes);
    expect(first).toMatchObject({ added: true, package: { fileName: 'KaiwuDB.tar.gz', sizeBytes: bytes.length } });
    expect(await add(bytes)).toEqual({ added: false, package: first.package });
    await expect(add(bytes.subarray(0, 300))).rejects.toMatchObject({ code: 'PACKAGE_UNREADABLE' });
    expect(await readdir(join(directory, 'packages'))).toEqual([`${first.package.id}.tar.gz`]);
    expect(registry.pathOf('../../etc/passwd')).toBeUndefined();
    await registry.remove(first.package.id, 'test');
    await expect(registry.remove(first.package.id, 'test')).rejects.toMatchObject({ code: 'PACKAGE_UNKNOWN' });
    expect(await readdir(join(directory, 'packages'))).toEqual([]);
  });

  it('leaves what another controller may be receiving, and removes what nobody is', async () => {
    const database = await postgres.database();
    const folder = join(directory, 'packages');
    await mkdir(folder, { recursive: true });
    const [fresh, old] = ['upload-1.partial', 'upload-2.partial'];
    for (const name of [fresh, old]) await writeFile(join(folder, name), 'half');
    const yesterday = Date.now() / 1000 - 2 * 86_400;
    await utimes(join(folder, old), yesterday, yesterday);
    await openRegistry(directory, MAX_BYTES, database, await repositoryOf(database));
    expect(await readdir(folder)).toEqual([fresh]);
    await rm(join(folder, fresh));
  });

  it('stops an upload that is too large', async () => {
    const database = await postgres.database();
    const registry = await openRegistry(directory, 1000, database, await repositoryOf(database));
    const add = registry.add(Readable.from([Buffer.alloc(600), Buffer.alloc(600)]), { name: 'x' }, 'test');
    await expect(add).rejects.toMatchObject({ code: 'PACKAGE_TOO_LARGE' });
    expect(await readdir(join(directory, 'packages'))).toEqual([]);
  });
});
