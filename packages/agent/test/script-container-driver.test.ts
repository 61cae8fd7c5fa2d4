import type { Action } from '@kwfleet/core';
import { expect, test } from 'vitest';
import type { ScriptContainerFinder } from '../src/deployment/script-container.ts';
import type { Engine } from '../src/docker/engine.ts';
import type { Images } from '../src/docker/images.ts';
import type { Watch } from '../src/driver/driver.ts';
import { ScriptContainerDriver, type ScriptContainerOptions } from '../src/driver/script-container.ts';

const WATCH = { detail: () => {} } as unknown as Watch;
const DOWNGRADE = { to: '3.0.0', package: { version: '3.0.0' } } as unknown as Action;
const RESTORE = { to: '3.0.0' } as unknown as Action;

/** A host whose restored files name `named`; `known` are the images it has, `made` the image of its container. */
function host({ named, known, made }: { named: string; known: string[]; made?: string }) {
  const tags: string[][] = [];
  const engine = {
    image: async (reference: string) => (known.includes(reference) ? { Id: reference } : undefined),
    container: async () => (made === undefined ? undefined : { Image: made }),
    tag: async (...given: string[]) => void tags.push(given),
  };
  const driver = new ScriptContainerDriver({
    engine: engine as unknown as Engine,
    finder: { find: async () => ({ image: named, program: {} }) } as unknown as ScriptContainerFinder,
    images: { ready: async () => ({ id: 'sha256:package' }) } as unknown as Images,
  } as unknown as ScriptContainerOptions);
  return { driver, tags };
}

test('an image that restored files name, and that is there, is left alone', async () => {
  const { driver, tags } = host({ named: 'kaiwudb:3.0.0', known: ['kaiwudb:3.0.0'] });
  await driver.restored(DOWNGRADE, WATCH);
  expect(tags).toEqual([]);
});

test.each([
  ['of the package, after a downgrade', DOWNGRADE, undefined, 'sha256:package'],
  ['of the container that is there', RESTORE, 'sha256:made', 'sha256:made'],
])('a name that is gone is given to the image %s', async (_, action, made, image) => {
  const { driver, tags } = host({
    named: 'reg:5000/kw/kwdb:3.0.0',
    known: [],
    ...(made === undefined ? {} : { made }),
  });
  await driver.restored(action, WATCH);
  expect(tags).toEqual([[image, 'reg:5000/kw/kwdb', '3.0.0']]);
});

test.each([
  ['no image of the version is known', 'kaiwudb:3.0.0'],
  ['a digest is no name that can be given', `kaiwudb@sha256:${'0'.repeat(64)}`],
])('it is refused when %s', async (_, named) => {
  const { driver, tags } = host({ named, known: [], ...(named.includes('@') ? { made: 'sha256:made' } : {}) });
  await expect(driver.restored(RESTORE, WATCH)).rejects.toMatchObject({ code: 'RESTORE_FAILED' });
  expect(tags).toEqual([]);
});
