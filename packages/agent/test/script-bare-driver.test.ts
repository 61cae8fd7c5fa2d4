/** The start arguments of a bare installation, in a real file; deploy.sh is run on test hosts (test/lab). */
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import type { Action } from '@kwfleet/core';
import { expect, onTestFinished, test } from 'vitest';
import type { Watch } from '../src/driver/driver.ts';
import { ScriptBareDriver, type ScriptBareOptions } from '../src/driver/script-bare.ts';

const ENVIRONMENT = 'etc/kaiwudb/script/kaiwudb_env';
const WATCH = { detail: () => {} } as unknown as Watch;

test.each([
  ['a node that is marked, and clears the mark', '', true, '--upgrade-complete --cache=1g'],
  ['one whose mark nobody saw, after an online upgrade', '--upgrade-complete ', false, '--upgrade-complete --cache=1g'],
  ['any other', '', false, '--cache=1g'],
])('%s: no later start has --upgrade-complete', async (_, left, marked, started) => {
  const root = await mkdtemp(join(tmpdir(), 'kwfleet-bare-'));
  onTestFinished(() => rm(root, { recursive: true, force: true }));
  const file = join(root, ENVIRONMENT);
  await mkdir(dirname(file), { recursive: true });
  await writeFile(file, `KAIWUDB_START_ARG="${left}--cache=1g"\n`);
  const starts: string[] = [];
  const services = {
    kind: 'process',
    reload: async () => {},
    start: async () => void starts.push(await readFile(file, 'utf8')),
  };
  const observer = { known: async () => ({ marked }) };
  const driver = new ScriptBareDriver({ root, services, observer, sudo: false } as unknown as ScriptBareOptions);
  await driver.start({} as Action, WATCH);
  expect(starts).toEqual([`KAIWUDB_START_ARG="${started}"\n`]);
  expect(await readFile(file, 'utf8')).toBe('KAIWUDB_START_ARG="--cache=1g"\n');
});
