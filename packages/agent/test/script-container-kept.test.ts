/** What is kept of a container installation for its way back, on real files; deploy.sh is run on test hosts (test/lab). */
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import type { Action, NodeReport, Phase } from '@kwfleet/core';
import { expect, onTestFinished, test } from 'vitest';
import type { Images } from '../src/docker/images.ts';
import type { Watch } from '../src/driver/driver.ts';
import { ScriptContainerDriver, type ScriptContainerOptions } from '../src/driver/script-container.ts';
import { PlayedEngine } from './played-engine.ts';
import { witnessSyncs } from './sync-witness.ts';

const WATCH = { detail: () => {}, fence: async () => {} } as unknown as Watch;
const COMPOSE = 'etc/kaiwudb/script/docker-compose.yml';
const VERSIONS = new Map([
  ['sha256:old', '3.0.0'],
  ['sha256:new', '3.1.0'],
  ['sha256:newer', '3.2.0'],
]);

const orderOf = (to: string, ...phases: Phase[]): Action =>
  ({ from: '3.0.0', to, phases, package: { version: to } }) as unknown as Action;

async function host() {
  const root = await mkdtemp(join(tmpdir(), 'kwfleet-script-container-'));
  onTestFinished(() => rm(root, { recursive: true, force: true }));
  const write = async (file: string, text: string) => {
    await mkdir(dirname(join(root, file)), { recursive: true });
    await writeFile(join(root, file), text);
  };
  const played = new PlayedEngine();
  const { engine } = played;
  const state = { version: '3.0.0', whole: true, image: 'kwdb:3.0.0' };
  /** As deploy.sh leaves the host, or somebody else. */
  const turn = async (version: string, change: { readonly whole?: boolean; readonly memory?: string } = {}) => {
    Object.assign(state, { version, whole: change.whole ?? true, image: `kwdb:${version}` });
    await write(COMPOSE, `image: kwdb:${version}\nmem_limit: ${change.memory ?? '1g'}\n`);
    await write('etc/kaiwudb/info/MODE', `container\nsingle\nkwdb:${version}\n`);
    await write('etc/kaiwudb/info/.version', `${version}\n`);
  };
  await turn('3.0.0');
  const observe = async (): Promise<NodeReport> => {
    const { version, whole } = state;
    const versions = { recorded: version, binary: version, running: version };
    const condition = whole ? 'clean' : 'package-half-installed';
    const unit = { exists: true, active: 'active', enabled: true, mainPid: 7 };
    const installation = { method: 'script-container', versions, condition, conditionDetail: '', unit };
    return { installation, serving: true, ready: true } as unknown as NodeReport;
  };
  const driver = new ScriptContainerDriver({
    root,
    engine,
    stateDir: join(root, 'state'),
    sudo: false,
    environment: {},
    observer: { observe },
    finder: { find: async () => ({ image: state.image, program: {} }) },
    images: { ensure: async () => {}, versionOf: async (id: string) => VERSIONS.get(id) } as unknown as Images,
    services: { kind: 'process', state: async () => ({ active: 'inactive', mainPid: null }) },
  } as unknown as ScriptContainerOptions);
  const keptTags = () => [...played.images.keys()].filter((name) => name.startsWith('kwfleet-kept')).sort();
  const keptDirectories = () => readdir(join(root, 'state/kept-container')).catch(() => []);
  return {
    root,
    driver,
    played,
    state,
    turn,
    keptTags,
    keptDirectories,
    text: () => readFile(join(root, COMPOSE), 'utf8'),
  };
}

test('a later try puts back what was there right before it, not before an earlier one', async () => {
  const { root, driver, turn, text } = await host();
  await driver.fetch(orderOf('3.1.0', 'fetch'), WATCH);
  await turn('3.0.0', { memory: '8g' });
  const directory = join(root, 'state/kept-container/3.0.0');
  const syncs = await witnessSyncs();
  await driver.fetch(orderOf('3.1.0', 'fetch'), WATCH);
  expect(await syncs()).toEqual([`-f ${directory}.new`]);
  await turn('3.1.0', { whole: false });
  await driver.putBack(orderOf('3.1.0', 'install'), WATCH);
  expect(await text()).toContain('mem_limit: 8g');
});

test.each([
  ['the host is half exchanged', { whole: false }],
  ['its files are whole, and the image under their name is the new one', { whole: true }],
])('the copy of an exchange in hand stays when %s', async (_, change) => {
  const { driver, played, state, turn, text } = await host();
  await driver.fetch(orderOf('3.1.0', 'fetch'), WATCH);
  await turn('3.0.0', { ...change, memory: 'of deploy.sh' });
  if (change.whole) played.images.set(state.image, 'sha256:new');
  await driver.fetch(orderOf('3.1.0', 'fetch'), WATCH);
  await driver.putBack(orderOf('3.1.0', 'install'), WATCH);
  expect(await text()).toContain('mem_limit: 1g');
  expect(played.images.get('kwdb:3.0.0')).toBe('sha256:old');
});

test('what is kept goes once the version before is whole again, and not before an exchange', async () => {
  const { driver, turn, keptTags, keptDirectories } = await host();
  await driver.fetch(orderOf('3.1.0', 'fetch'), WATCH);
  for (const phase of ['fetch', 'stop', 'start'] as const) await driver.release(orderOf('3.1.0', phase));
  expect(await keptDirectories()).toEqual(['3.0.0']);
  await turn('3.1.0', { whole: false });
  await driver.release(orderOf('3.1.0', 'stop', 'install', 'start'));
  expect([await keptDirectories(), keptTags()]).toEqual([['3.0.0'], ['kwfleet-kept:3.0.0']]);
  await turn('3.0.0');
  await driver.release(orderOf('3.1.0', 'stop', 'install', 'start'));
  expect([await keptDirectories(), keptTags()]).toEqual([[], []]);
});

test('what is kept goes after an upgrade to another version than that of the first try', async () => {
  const { driver, played, turn, keptTags, keptDirectories } = await host();
  await driver.fetch(orderOf('3.1.0', 'fetch'), WATCH);
  played.images.set('kwfleet-kept:3.1.0', 'sha256:new');
  await turn('3.1.0', { whole: false });
  await driver.fetch(orderOf('3.2.0', 'fetch'), WATCH);
  expect(keptTags()).toEqual(['kwfleet-kept:3.0.0']);
  await turn('3.2.0');
  await driver.release(orderOf('3.2.0', 'install', 'verify'));
  expect([await keptDirectories(), keptTags()]).toEqual([[], []]);
});
