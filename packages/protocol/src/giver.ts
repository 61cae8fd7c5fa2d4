/** Sends files over gRPC streams: so many at once, and so many bytes a second over all of them together. */
import { once } from 'node:events';
import { open } from 'node:fs/promises';
import { setTimeout as pause } from 'node:timers/promises';
import * as grpc from '@grpc/grpc-js';
import type { FetchPackageRequest, PackageChunk } from './wire.ts';

export type GivingLimits = {
  readonly atOnce: number;
  /** Absent: as fast as receivers take it. */
  readonly bytesPerSecond?: number | undefined;
};

export type FetchCall = grpc.ServerWritableStream<FetchPackageRequest, PackageChunk>;

const CHUNK_BYTES = 64 * 1024;
/** A receiver that takes nothing for so long gives its place to another. */
const STUCK_MS = 60_000;

export class PackageGiver {
  readonly #limits: GivingLimits;
  readonly #onError: (error: unknown, sha256: string) => void;
  #count = 0;
  /** When the bytes that were let through so far are paid for. */
  #paidAtMs = 0;
  #sentBytes = 0;

  constructor(limits: GivingLimits, onError: (error: unknown, sha256: string) => void) {
    this.#limits = limits;
    this.#onError = onError;
  }

  /** Bytes sent since the start. */
  get sentBytes(): number {
    return this.#sentBytes;
  }

  /**
   * Sends the file from the call's offset on and ends the call. A file that is not there is NOT_FOUND, an offset behind
   * its end OUT_OF_RANGE, and RESOURCE_EXHAUSTED says to come again: there are as many transfers as may be.
   */
  async send(call: FetchCall, path: string | undefined): Promise<void> {
    if (this.#count >= this.#limits.atOnce) return refuse(call, `${this.#count} transfers are under way`);
    this.#count += 1;
    try {
      await this.#send(call, path);
    } finally {
      this.#count -= 1;
    }
  }

  async #send(call: FetchCall, path: string | undefined): Promise<void> {
    const { sha256, offset } = call.request;
    const cancelled = new AbortController();
    call.on('cancelled', () => cancelled.abort());
    const file = path === undefined ? undefined : await open(path).catch(() => undefined);
    if (file === undefined) return fail(call, grpc.status.NOT_FOUND, `PACKAGE_UNKNOWN: there is no package ${sha256}`);
    try {
      const { size } = await file.stat();
      if (offset > size) return fail(call, grpc.status.OUT_OF_RANGE, `the package has ${size} bytes`);
      for await (const data of file.createReadStream({ start: offset, highWaterMark: CHUNK_BYTES, autoClose: false })) {
        if (cancelled.signal.aborted) return;
        await this.#pace(data.length, cancelled.signal);
        this.#sentBytes += data.length;
        if (call.write({ data })) continue;
        await once(call, 'drain', { signal: AbortSignal.any([cancelled.signal, AbortSignal.timeout(STUCK_MS)]) });
      }
      call.end();
    } catch (error) {
      if (cancelled.signal.aborted) return;
      this.#onError(error, sha256);
      fail(call, grpc.status.INTERNAL, 'the package could not be sent');
    } finally {
      await file.close();
    }
  }

  async #pace(bytes: number, signal: AbortSignal): Promise<void> {
    const { bytesPerSecond } = this.#limits;
    if (bytesPerSecond === undefined) return;
    const nowMs = performance.now();
    const dueMs = Math.max(this.#paidAtMs, nowMs);
    this.#paidAtMs = dueMs + (bytes / bytesPerSecond) * 1000;
    if (dueMs > nowMs) await pause(dueMs - nowMs, undefined, { signal });
  }
}

/** Come again later, or ask another. */
export function refuse(call: FetchCall, why: string): void {
  fail(call, grpc.status.RESOURCE_EXHAUSTED, why);
}

function fail(call: FetchCall, code: grpc.status, details: string): void {
  call.emit('error', { code, details });
}
