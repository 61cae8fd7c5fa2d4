/** What differs between engines, at the level of their API: shapes as its documentation has them, over a socket. */
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { Engine } from '../src/docker/engine.ts';

type Answer = { readonly status: number; readonly body: unknown };

let server: Server | undefined;
let directory: string;

afterEach(async () => {
  server?.closeAllConnections();
  await new Promise((resolve) => server?.close(resolve));
  rmSync(directory, { recursive: true });
});

/** An engine with these answers by path; everything else it does not know. */
async function engineWith(answers: Readonly<Record<string, Answer>>): Promise<Engine> {
  directory = mkdtempSync(join(tmpdir(), 'kw-engine-'));
  const made = createServer(({ url = '' }, response) => {
    const { status, body } = answers[decodeURIComponent(url)] ?? { status: 404, body: { message: 'page not found' } };
    response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
  });
  server = made;
  const socket = join(directory, 'docker.sock');
  await new Promise<void>((resolve) => made.listen(socket, resolve));
  return new Engine({ socket, sudo: false });
}

it.each([
  ['1.41', 41],
  ['1.52', 52],
  ['2.0', 0],
])('API %s has the minor version %d', async (ApiVersion, minor) => {
  const engine = await engineWith({ '/version': { status: 200, body: { Version: 'x', ApiVersion } } });
  expect(await engine.apiMinor()).toBe(minor);
});

describe('docker-compose 1 can make a container anew', () => {
  const image = 'sha256:1';
  const path = `/v1.38/images/${image}/json`;
  const tooOld = 'client version 1.38 is too old. Minimum supported API version is 1.44, please upgrade your client';
  it.each([
    ['on an engine that tells how an image was made', { status: 200, body: { Id: image, ContainerConfig: {} } }, true],
    ['not where that is left out', { status: 200, body: { Id: image, Config: {} } }, false],
    ['not where it is empty', { status: 200, body: { Id: image, ContainerConfig: null } }, false],
    ['not where its API is not spoken any more', { status: 400, body: { message: tooOld } }, false],
  ])('%s', async (_, answer, suits) => {
    expect(await (await engineWith({ [path]: answer })).suitsCompose1(image)).toBe(suits);
  });

  it('or that is not known', async () => {
    const engine = await engineWith({ [path]: { status: 500, body: { message: 'server error' } } });
    await expect(engine.suitsCompose1(image)).rejects.toMatchObject({ code: 'ENGINE_FAILED' });
  });
});
