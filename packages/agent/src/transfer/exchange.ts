/** The controller's end of a transfer's files, over gRPC: three calls, each of which ends when nothing moves any more. */
import { once } from 'node:events';
import * as grpc from '@grpc/grpc-js';
import { type ErrorCode, FleetError } from '@kwfleet/core';
import { agentGateway, type FileReceipt } from '@kwfleet/protocol';
import { askOnce } from '../controller-client.ts';
import type { FileExchange } from './courier.ts';

/** One piece must follow another within this time. */
const QUIET_MS = 30_000;
/** The controller hashes the whole file before it answers: a gigabyte takes seconds, and disks are slow at times. */
const RECEIPT_MS = 30 * 60_000;

export function fileExchange(client: grpc.Client): FileExchange {
  return {
    offerFile(ref) {
      return askOnce(client, agentGateway.offerFile, ref, QUIET_MS).catch((error: unknown) => {
        throw told(error);
      });
    },

    async putFile(ref, offset, bytes) {
      const { path, requestSerialize, responseDeserialize } = agentGateway.putFile;
      const ended = Promise.withResolvers<FileReceipt>();
      const call = client.makeClientStreamRequest(path, requestSerialize, responseDeserialize, (error, receipt) => {
        if (error !== null) ended.reject(told(error));
        else ended.resolve(receipt as FileReceipt);
      });
      // Told below, or by the write that failed.
      ended.promise.catch(() => {});
      const timer = quiet(() => call.cancel());
      try {
        call.write({ file: ref, offset, data: new Uint8Array() });
        for await (const data of bytes) {
          timer.again(QUIET_MS);
          if (!call.write({ offset: 0, data })) await Promise.race([once(call, 'drain'), ended.promise]);
        }
        call.end();
        timer.again(RECEIPT_MS);
        return (await ended.promise).intact ? 'received' : 'corrupt';
      } finally {
        timer.stop();
        call.cancel();
      }
    },

    async *fetchFile(ref, offset) {
      const { path, requestSerialize, responseDeserialize } = agentGateway.fetchFile;
      const request = { file: ref, offset };
      const call = client.makeServerStreamRequest(path, requestSerialize, responseDeserialize, request);
      const timer = quiet(() => call.cancel());
      try {
        for await (const chunk of call) {
          timer.again(QUIET_MS);
          yield (chunk as { data: Uint8Array }).data;
        }
      } catch (error) {
        throw told(error);
      } finally {
        timer.stop();
        call.cancel();
      }
    },
  };
}

function quiet(end: () => void) {
  let timer = setTimeout(end, QUIET_MS);
  return {
    again(ms: number) {
      clearTimeout(timer);
      timer = setTimeout(end, ms);
    },
    stop: () => clearTimeout(timer),
  };
}

/** Statuses after which trying again is of no use. */
const FINAL: Partial<Record<grpc.status, ErrorCode>> = {
  [grpc.status.NOT_FOUND]: 'FETCH_FAILED',
  [grpc.status.PERMISSION_DENIED]: 'FETCH_FAILED',
  [grpc.status.UNAUTHENTICATED]: 'FETCH_FAILED',
  [grpc.status.INVALID_ARGUMENT]: 'ACTION_INVALID',
  [grpc.status.FAILED_PRECONDITION]: 'TRANSFER_TOO_LARGE',
};

function told(error: unknown): Error {
  const { code, details = '' } = error as Partial<grpc.ServiceError>;
  const final = code === undefined ? undefined : FINAL[code];
  if (final === undefined) return error instanceof Error ? error : new Error(String(error));
  return new FleetError(final, `the controller refused a file of the transfer: ${details}`);
}
