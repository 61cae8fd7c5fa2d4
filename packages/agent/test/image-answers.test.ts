/** What an agent tells of images, over an engine that answers as Docker's API does (GET /distribution/{name}/json). */

import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { FleetError, type PackageInfo } from '@kwfleet/core';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { Engine } from '../src/docker/engine.ts';
import { ImageAnswers } from '../src/docker/image-answers.ts';

const sha256 = 'a'.repeat(64);
const reference = (digest: string) => `registry.example.net:5000/kwdb/kwdb@sha256:${digest}`;
const image = (digest = sha256): PackageInfo => ({
  sha256: digest,
  fileName: reference(digest),
  sizeBytes: 0,
  unpackedBytes: 0,
  version: '3.1.0',
  kind: 'image',
  architecture: 'amd64',
  family: 'any',
  image: reference(digest),
});

type Answer = { readonly status: number; readonly body: unknown };
let inEngine: Set<string>;
let registry: () => Answer;
let asked: string[];
let server: Server;
let directory: string;
let nowMs: number;
let confirm: (wanted: PackageInfo) => Promise<void>;

beforeEach(async () => {
  inEngine = new Set();
  asked = [];
  nowMs = 1_000_000;
  confirm = async () => {};
  registry = () => ({ status: 200, body: { Descriptor: {}, Platforms: [{ architecture: 'amd64', os: 'linux' }] } });
  directory = mkdtempSync(join(tmpdir(), 'kw-engine-'));
  server = createServer(({ url = '' }, response) => {
    const { status, body } = answerTo(decodeURIComponent(url));
    response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
  });
  await new Promise<void>((resolve) => server.listen(join(directory, 'docker.sock'), resolve));
});
afterEach(async () => {
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
  rmSync(directory, { recursive: true });
});

function answerTo(url: string): Answer {
  if (url === '/info') return { status: 200, body: { Architecture: 'x86_64', DockerRootDir: '/var/lib/docker' } };
  const name = /^\/(?:images|distribution)\/(.+)\/json$/.exec(url)?.[1] ?? '';
  if (url.startsWith('/images/')) {
    if (inEngine.has(name)) return { status: 200, body: { Id: 'sha256:1' } };
    return { status: 404, body: { message: `No such image: ${name}` } };
  }
  asked.push(name);
  return registry();
}

function answers(): ImageAnswers {
  const engine = new Engine({ socket: join(directory, 'docker.sock'), sudo: false });
  return new ImageAnswers({ engine, packages: { confirm: (wanted) => confirm(wanted) }, now: () => nowMs });
}

describe('an image', () => {
  it('that is in the engine is present, and no registry is asked', async () => {
    inEngine.add(reference(sha256));
    const images = answers();
    images.ask([image()]);
    expect(await images.look()).toEqual([{ digest: sha256, state: 'present', detail: '' }]);
    expect(asked).toEqual([]);
  });

  it('that its registry has is pullable', async () => {
    const images = answers();
    images.ask([image()]);
    expect(await images.look()).toMatchObject([{ digest: sha256, state: 'pullable' }]);
    expect(asked).toEqual([reference(sha256)]);
  });

  it.each([
    ['no such host', { status: 500, body: { message: 'dial tcp: lookup registry.example.net: no such host' } }],
    ['manifest unknown', { status: 404, body: { message: 'manifest unknown' } }],
    ['unauthorized', { status: 401, body: { message: 'unauthorized: authentication required' } }],
  ])('that its registry does not give is unavailable, with its words: %s', async (words, answer) => {
    registry = () => answer;
    const images = answers();
    images.ask([image()]);
    expect(await images.look()).toMatchObject([{ state: 'unavailable', detail: expect.stringContaining(words) }]);
  });

  it('for another architecture alone is unavailable', async () => {
    registry = () => ({ status: 200, body: { Platforms: [{ architecture: 'arm64', os: 'linux' }] } });
    const images = answers();
    images.ask([image()]);
    expect(await images.look()).toMatchObject([
      { state: 'unavailable', detail: expect.stringContaining('linux/arm64') },
    ]);
  });

  it('whose registry does not tell for what it is may be pulled: that is found out before anything is stopped', async () => {
    registry = () => ({ status: 200, body: { Platforms: [{ architecture: '', os: '' }] } });
    const images = answers();
    images.ask([image()]);
    expect(await images.look()).toMatchObject([{ state: 'pullable' }]);
  });

  it('that nobody signed is not asked for at any address', async () => {
    confirm = async () => {
      throw new FleetError('PACKAGE_UNTRUSTED', 'it is on no list that people signed');
    };
    const images = answers();
    images.ask([image()]);
    expect(await images.look()).toMatchObject([{ state: 'unavailable', detail: expect.stringContaining('signed') }]);
    expect(asked).toEqual([]);
  });

  it('is unavailable when the engine is silent', async () => {
    const engine = new Engine({ socket: join(directory, 'nobody.sock'), sudo: false });
    const images = new ImageAnswers({ engine, packages: { confirm }, now: () => nowMs });
    images.ask([image()]);
    expect(await images.look()).toMatchObject([{ state: 'unavailable', detail: expect.stringContaining('engine') }]);
  });
});

describe('a registry', () => {
  it('is asked anew when somebody asks, or when its answer is old', async () => {
    const images = answers();
    images.ask([image()]);
    await images.look();
    await images.look();
    images.note(image());
    await images.look();
    expect(asked).toHaveLength(1);
    images.ask([image()]);
    await images.look();
    expect(asked).toHaveLength(2);
    nowMs += 11 * 60_000;
    await images.look();
    expect(asked).toHaveLength(3);
  });

  it('that fell silent is told of at the next question', async () => {
    const images = answers();
    images.ask([image()]);
    await images.look();
    registry = () => ({ status: 500, body: { message: 'connection refused' } });
    images.ask([image()]);
    expect(await images.look()).toMatchObject([{ state: 'unavailable' }]);
  });
});

it('so many images are told of, the last ones asked for, and for a day', async () => {
  const images = answers();
  const digests = [...'abcdef'].map((letter) => letter.repeat(64));
  for (const digest of digests) images.ask([image(digest), { ...image(digest), kind: 'bare' }]);
  expect((await images.look()).map(({ digest }) => digest)).toEqual(digests.slice(2));
  nowMs += 25 * 3_600_000;
  expect(await images.look()).toEqual([]);
});
