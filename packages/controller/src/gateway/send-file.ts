/** The bytes of a file of a transfer, from an offset on, as fast as the agent takes them. */
import { once } from 'node:events';
import { open } from 'node:fs/promises';
import * as grpc from '@grpc/grpc-js';
import type { PackageChunk } from '@kwfleet/protocol';
import type { Logger } from 'pino';

const CHUNK_BYTES = 64 * 1024;

type SendCall = grpc.ServerWritableStream<unknown, PackageChunk>;

export type WantedFile = {
  readonly path: string | undefined;
  readonly offset: number;
  /** For messages: what it is, and the code of its absence. */
  readonly what: string;
  readonly code: string;
};

/** Sends the file and ends the call; a file that is not there is NOT_FOUND, an offset behind its end OUT_OF_RANGE. */
export async function sendFile(call: SendCall, wanted: WantedFile, log: Logger): Promise<void> {
  const { path, offset, what, code } = wanted;
  const cancelled = new AbortController();
  call.on('cancelled', () => cancelled.abort());
  const file = path === undefined ? undefined : await open(path).catch(() => undefined);
  if (file === undefined) return fail(call, grpc.status.NOT_FOUND, `${code}: there is no ${what}`);
  try {
    const { size } = await file.stat();
    if (offset > size) return fail(call, grpc.status.OUT_OF_RANGE, `the ${what} has ${size} bytes`);
    for await (const data of file.createReadStream({ start: offset, highWaterMark: CHUNK_BYTES, autoClose: false })) {
      if (cancelled.signal.aborted) return;
      if (!call.write({ data })) await once(call, 'drain', { signal: cancelled.signal });
    }
    call.end();
  } catch (error) {
    if (cancelled.signal.aborted) return;
    log.error({ err: error, what }, 'a file could not be sent');
    fail(call, grpc.status.INTERNAL, 'the file could not be read');
  } finally {
    await file.close();
  }
}

function fail(call: SendCall, code: grpc.status, details: string): void {
  call.emit('error', { code, details });
}
