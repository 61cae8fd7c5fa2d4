/** The bytes of a package, from an offset on, as fast as the agent takes them. */
import { once } from 'node:events';
import { open } from 'node:fs/promises';
import * as grpc from '@grpc/grpc-js';
import type { FetchPackageRequest, PackageChunk } from '@kwfleet/protocol';
import type { Logger } from 'pino';
import type { PackageRegistry } from '../packages/registry.ts';

const CHUNK_BYTES = 64 * 1024;

export type FetchCall = grpc.ServerWritableStream<FetchPackageRequest, PackageChunk>;

/** Sends the file and ends the call; a file that is not there is NOT_FOUND, an offset behind its end OUT_OF_RANGE. */
export async function sendPackage(call: FetchCall, registry: PackageRegistry, log: Logger): Promise<void> {
  const { sha256, offset } = call.request;
  const cancelled = new AbortController();
  call.on('cancelled', () => cancelled.abort());
  const path = registry.pathOf(sha256);
  const file = path === undefined ? undefined : await open(path).catch(() => undefined);
  if (file === undefined) return fail(call, grpc.status.NOT_FOUND, `PACKAGE_UNKNOWN: there is no package ${sha256}`);
  try {
    const { size } = await file.stat();
    if (offset > size) return fail(call, grpc.status.OUT_OF_RANGE, `the package has ${size} bytes`);
    for await (const data of file.createReadStream({ start: offset, highWaterMark: CHUNK_BYTES, autoClose: false })) {
      if (cancelled.signal.aborted) return;
      if (!call.write({ data })) await once(call, 'drain', { signal: cancelled.signal });
    }
    call.end();
  } catch (error) {
    if (cancelled.signal.aborted) return;
    log.error({ err: error, sha256 }, 'a package could not be sent');
    fail(call, grpc.status.INTERNAL, 'the package could not be read');
  } finally {
    await file.close();
  }
}

function fail(call: FetchCall, code: grpc.status, details: string): void {
  call.emit('error', { code, details });
}
