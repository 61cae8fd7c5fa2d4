import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as grpc from '@grpc/grpc-js';
import { expect, onTestFinished, test } from 'vitest';
import { agentGateway, type FetchCall, type GivingLimits, type PackageChunk, PackageGiver } from '../src/index.ts';

const BYTES = 2 * 1024 ** 2;

/** A server that gives one file, and a client that takes it. */
async function giving(limits: GivingLimits) {
  const directory = await mkdtemp(join(tmpdir(), 'kwfleet-giver-'));
  const path = join(directory, 'file');
  await writeFile(path, Buffer.alloc(BYTES, 7));
  const giver = new PackageGiver(limits, () => {});
  const server = new grpc.Server();
  const { fetchPackage } = agentGateway;
  server.addService({ fetchPackage }, { fetchPackage: (call: FetchCall) => void giver.send(call, path) });
  const port = await new Promise<number>((resolve, reject) =>
    server.bindAsync('127.0.0.1:0', grpc.ServerCredentials.createInsecure(), (error, bound) =>
      error === null ? resolve(bound) : reject(error),
    ),
  );
  const client = new grpc.Client(`127.0.0.1:${port}`, grpc.credentials.createInsecure());
  onTestFinished(async () => {
    client.close();
    server.forceShutdown();
    await rm(directory, { recursive: true, force: true });
  });
  const take = (offset = 0) => {
    const { path: method, requestSerialize, responseDeserialize } = fetchPackage;
    const call = client.makeServerStreamRequest(method, requestSerialize, responseDeserialize, { sha256: 'x', offset });
    let bytes = 0;
    const ended = new Promise<number>((resolve, reject) => {
      call.on('data', ({ data }: PackageChunk) => {
        bytes += data.length;
      });
      call.on('end', () => resolve(bytes));
      call.on('error', reject);
    });
    return { call, ended };
  };
  return { giver, take };
}

test('so many at once: the next is told to come again, and gets a place when one is free', async () => {
  const { giver, take } = await giving({ atOnce: 1, bytesPerSecond: 4 * BYTES });
  const first = take();
  await expect.poll(() => giver.sentBytes).toBeGreaterThan(0);
  await expect(take().ended).rejects.toMatchObject({ code: grpc.status.RESOURCE_EXHAUSTED });
  expect(await first.ended).toBe(BYTES);
  // The end reaches the client before the giver knows that it did.
  await expect.poll(() => take(BYTES - 10).ended.catch(() => 'busy')).toBe(10);
});

test('one who goes away leaves a place', async () => {
  const { giver, take } = await giving({ atOnce: 1, bytesPerSecond: BYTES });
  const first = take();
  await expect.poll(() => giver.sentBytes).toBeGreaterThan(0);
  first.call.cancel();
  await expect(first.ended).rejects.toMatchObject({ code: grpc.status.CANCELLED });
  await expect.poll(() => take(BYTES).ended.catch(() => 'busy')).toBe(0);
});

test('no faster than it may, over all of them together', async () => {
  const { take } = await giving({ atOnce: 4, bytesPerSecond: 8 * BYTES });
  const startedMs = performance.now();
  await Promise.all([take().ended, take().ended, take().ended, take().ended]);
  // Four files at eight a second, but for the first chunk, which waits for nothing.
  expect(performance.now() - startedMs).toBeGreaterThan(450);
});
