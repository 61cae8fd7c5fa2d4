/** The files of a compose project, on a real disk; compose and an engine are played on test hosts (test/lab/containers.test.ts). */
import { spawnSync } from 'node:child_process';
import { chmod, chown, mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Action } from '@kwfleet/core';
import { describe, expect, onTestFinished, test } from 'vitest';
import { parse } from 'yaml';
import { ContainerFinder } from '../src/deployment/container.ts';
import { type Compose, LABELS } from '../src/docker/compose.ts';
import { type ComposeExchange, ContainerRecords } from '../src/docker/exchange.ts';
import type { Images } from '../src/docker/images.ts';
import { MadeRecord } from '../src/docker/made-record.ts';
import { ComposeDriver, type ComposeOptions } from '../src/driver/compose.ts';
import type { Watch } from '../src/driver/driver.ts';
import { DetachedProcesses } from '../src/host/long-commands.ts';
import { PlayedEngine } from './played-engine.ts';

const WATCH = {
  detail: () => {},
  moved: () => {},
  output: () => {},
  fence: async () => {},
  pause: async () => {},
} as unknown as Watch;
const ORDER = {
  id: 'r/install:h1/1',
  from: '3.0.0',
  to: '3.1.0',
  phases: ['install'],
  deadline: { idleMs: 60_000, ceilingMs: 60_000 },
  package: { sha256: 'a', version: '3.1.0' },
} as unknown as Action;
const TEXT = 'services:\n  kwdb:\n    image: kwdb:3.0.0\n';
const EDITED = TEXT.replace('3.0.0', '3.1.0');

/** A project whose container is `running`, and whose compose leaves it as it is. */
async function host({ running = false, file = 'compose.yml' } = {}) {
  const directory = await mkdtemp(join(tmpdir(), 'kwfleet-compose-'));
  const commands = new DetachedProcesses(join(directory, 'commands'));
  onTestFinished(async () => {
    for (const id of await commands.list()) await commands.remove(id);
    await rm(directory, { recursive: true, force: true });
  });
  const project = join(directory, 'project');
  const path = join(project, file);
  await mkdir(project);
  await writeFile(path, TEXT);
  const played = new PlayedEngine();
  const named = { project: 'db', service: 'kwdb', workingDir: project, files: path, version: '2.1.0' } as const;
  const labels = Object.fromEntries(Object.entries(named).map(([name, value]) => [LABELS[name as 'hash'], value]));
  played.make('kwdb', { running, policy: 'always', labels });
  const { engine } = played;
  const records = new ContainerRecords(join(directory, 'state'), engine);
  const bring = async () => ({ id: 'sha256:new', reference: 'kwdb:3.1.0' });
  const images = { any: async () => true, ensure: bring, ready: bring } as unknown as Images;
  const compose = {
    environment: {},
    program: async () => ({ argv: ['/bin/true'], major: '2' }),
    hash: async () => undefined,
    reach: async () => {},
    config: async (_: unknown, args: string[]) => parse(await readFile(args[args.indexOf('--file') + 1] ?? '', 'utf8')),
  } as unknown as Compose;
  const finder = new ContainerFinder({
    engine,
    images,
    name: undefined,
    now: Date.now,
    statusTimeoutMs: 1000,
    intent: () => records.intent(),
    restrained: () => records.restrained.read(),
    made: new MadeRecord(join(directory, 'state')),
  });
  const options = { engine, images, records, finder, compose, commands, removeOldImage: false };
  const driver = new ComposeDriver(options as unknown as ComposeOptions);
  const exchange: ComposeExchange = {
    kind: 'compose',
    project: { name: 'db', service: 'kwdb', directory: project, files: [path], version: '2.1.0' },
    compatibility: false,
    file: path,
    keptAs: `${path}.kwfleet-3.0.0`,
    from: '3.0.0',
    to: '3.1.0',
    oldImage: 'sha256:old',
    image: 'sha256:new',
    edited: EDITED,
    snapshot: { ...played.containers.get('kwdb'), Id: 'id-kwdb' },
  };
  return { directory, project, path, played, records, finder, driver, exchange };
}

describe('the way back', () => {
  test('leaves a file alone that nothing was done to yet, and ends the exchange', async () => {
    const { path, project, records, finder, driver, exchange } = await host();
    await records.exchange.write(exchange);
    expect((await (await finder.find())?.judge({ binary: '3.0.0' }))?.condition).toBe('package-half-installed');
    const before = await stat(path);
    await driver.putBack(ORDER, WATCH);
    expect([await readFile(path, 'utf8'), (await stat(path)).ino]).toEqual([TEXT, before.ino]);
    expect([await records.exchange.read(), await readdir(project)]).toEqual([undefined, ['compose.yml']]);
    expect((await (await finder.find())?.judge({ binary: '3.0.0' }))?.condition).toBe('clean');
    expect((await records.restrained.read())?.container).toBe('id-kwdb');
  });

  test('needs no room on the disk for what is written down already', async () => {
    const { directory, records, driver, exchange } = await host();
    await records.exchange.write(exchange);
    await records.restrained.write({ container: 'id-kwdb', policy: { Name: 'always', MaximumRetryCount: 0 } });
    // Nobody, root neither, writes a file where a directory is.
    await mkdir(join(directory, 'state/docker/exchange.json.new'));
    await mkdir(join(directory, 'state/docker/restrained.json.new'));
    await driver.putBack(ORDER, WATCH);
    expect(await records.exchange.read()).toBeUndefined();
  });

  test('writes the text from before over the edited one', async () => {
    const { path, project, records, driver, exchange } = await host();
    await records.exchange.write(exchange);
    await writeFile(exchange.keptAs, TEXT);
    await writeFile(path, EDITED);
    await driver.putBack(ORDER, WATCH);
    expect([await readFile(path, 'utf8'), await readdir(project)]).toEqual([TEXT, ['compose.yml']]);
  });

  test('is refused where the file is edited and its copy was taken away', async () => {
    const { path, records, driver, exchange } = await host();
    await records.exchange.write(exchange);
    await writeFile(path, EDITED);
    await expect(driver.putBack(ORDER, WATCH)).rejects.toMatchObject({ code: 'ROLLBACK_FAILED' });
    expect(await records.exchange.read()).toBeDefined();
  });
});

describe('fetch', () => {
  test('leaves nothing of what it tries', async () => {
    const { path, project, driver } = await host({ running: true });
    await driver.fetch(ORDER, WATCH);
    expect([await readFile(path, 'utf8'), await readdir(project)]).toEqual([TEXT, ['compose.yml']]);
  });

  test('refuses where the file could not be copied under the name of its copy', async () => {
    const file = `${'a'.repeat(230)}.yml`;
    const { project, driver, played } = await host({ running: true, file });
    await expect(driver.fetch(ORDER, WATCH)).rejects.toMatchObject({ code: 'ENAMETOOLONG' });
    expect([await readdir(project), played.policyOf('kwdb')]).toEqual([[file], 'always']);
  });

  /** What `replace-file.ts` does as another user; how it ended. */
  const asNobody = (call: string) => {
    const module = join(import.meta.dirname, '../src/docker/replace-file.ts');
    const script = `const m = await import(${JSON.stringify(module)}); try { await m.${call}; console.log('done'); }
      catch (error) { console.log(error.code + ': ' + error.message); }`;
    const ids = { uid: 65534, gid: 65534 };
    const { stdout, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', script], ids);
    return `${stdout}${stderr}`.trim();
  };

  test.skipIf(process.getuid?.() !== 0)('tries whether owner and group of a file can be kept', async () => {
    const { directory, project, path } = await host();
    for (const open of [directory, project]) await chmod(open, 0o777);
    const call = `tryExchange(${JSON.stringify(path)}, ${JSON.stringify(`${path}.kwfleet-3.0.0`)})`;
    await chown(path, 0, 65534);
    await chmod(path, 0o664);
    expect(asNobody(call)).toMatch(/^PRIVILEGES_MISSING: .*compose\.yml.* the owner 0:65534/);
    expect(await readdir(project)).toEqual(['compose.yml']);
    await chown(path, 65534, 65534);
    expect(asNobody(call)).toBe('done');
    expect(asNobody(`replaceFile(${JSON.stringify(path)}, 'new')`)).toBe('done');
    const { uid, gid, mode } = await stat(path);
    expect([await readFile(path, 'utf8'), uid, gid, mode & 0o777]).toEqual(['new', 65534, 65534, 0o664]);
  });
});
