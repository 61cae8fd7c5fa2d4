import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { ContainerFinder } from '../src/deployment/container.ts';
import { Engine } from '../src/docker/engine.ts';
import { Images } from '../src/docker/images.ts';
import { MadeRecord } from '../src/docker/made-record.ts';
import type { PackageCache } from '../src/packages.ts';

let directory: string;
let server: Server | undefined;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'kw-finder-'));
});
afterEach(async () => {
  server?.close();
  server = undefined;
  await rm(directory, { recursive: true, force: true });
});

/** A finder for the engine whose socket lies in the directory. */
function finder(): { finder: ContainerFinder; images: Images } {
  const engine = new Engine({ socket: join(directory, 'docker.sock'), sudo: false });
  const images = new Images({ engine, packages: {} as PackageCache, stateDir: directory, now: Date.now });
  const options = { engine, images, now: Date.now, statusTimeoutMs: 1000, name: undefined };
  const intent = async () => ({ theirs: [] });
  const made = new MadeRecord(directory);
  return { images, finder: new ContainerFinder({ ...options, intent, restrained: async () => undefined, made }) };
}

/** An engine that takes connections, and answers with what it is given, or never. */
async function engineAnswering(answer: string | undefined): Promise<void> {
  const opened = createServer((socket) => {
    socket.on('error', () => {});
    if (answer !== undefined) socket.on('data', () => socket.end(answer));
  });
  server = opened;
  await new Promise<void>((resolve) => opened.listen(join(directory, 'docker.sock'), resolve));
}

it('finds nothing on a host without an engine', async () => {
  expect(await finder().finder.find()).toBeUndefined();
});

it('does not wait for a mute engine that never ran KWDB: other ways of deployment are looked for', async () => {
  await engineAnswering(undefined);
  expect(await finder().finder.find()).toBeUndefined();
});

it('tells of an engine that refuses, where it ran KWDB before: not that there is no KWDB', async () => {
  const body = '{"message":"going down"}';
  await engineAnswering(`HTTP/1.1 503 Service Unavailable\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
  const { finder: found, images } = finder();
  await images.remember('sha256:abc', '3.0.0');
  await expect(found.find()).rejects.toMatchObject({ code: 'ENGINE_FAILED', words: 'going down' });
});
