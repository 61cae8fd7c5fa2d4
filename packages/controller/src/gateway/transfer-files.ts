/** The three calls by which agents bring the files of a transfer and fetch them. */
import * as grpc from '@grpc/grpc-js';
import { FleetError } from '@kwfleet/core';
import type { FetchFileRequest, FilePart, FileReceipt, FileRef, FileState, PackageChunk } from '@kwfleet/protocol';
import type { Logger } from 'pino';
import type { TransferFiles } from '../transfers/files.ts';
import { type Callers, REFUSED } from './callers.ts';
import { sendFile } from './send-file.ts';

/** Another part must follow within this time. */
const QUIET_MS = 30_000;

export function transferFileCalls(files: TransferFiles, callers: Callers, log: Logger) {
  return {
    offerFile(call: grpc.ServerUnaryCall<FileRef, FileState>, done: grpc.sendUnaryData<FileState>) {
      if (callers.refuses(call)) return done(REFUSED);
      files.offer(call.request, callers.of(call)?.node).then(
        (state) => done(null, state),
        (error: unknown) => done(statusOf(error, log)),
      );
    },
    putFile(call: grpc.ServerReadableStream<FilePart, FileReceipt>, done: grpc.sendUnaryData<FileReceipt>) {
      if (callers.refuses(call)) return done(REFUSED);
      receive(call, files, callers.of(call)?.node).then(
        (intact) => done(null, { intact }),
        (error: unknown) => done(statusOf(error, log)),
      );
    },
    fetchFile(call: grpc.ServerWritableStream<FetchFileRequest, PackageChunk>) {
      if (callers.refuses(call)) return void call.emit('error', REFUSED);
      const { file, offset } = call.request;
      files.find(file, callers.of(call)?.node).then(
        (path) => sendFile(call, { path, offset, what: `file ${file.sha256}`, code: 'NOT_FOUND' }, log),
        (error: unknown) => call.emit('error', statusOf(error, log)),
      );
    },
  };
}

async function receive(
  call: grpc.ServerReadableStream<FilePart, FileReceipt>,
  files: TransferFiles,
  caller: string | undefined,
): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const parts = call[Symbol.asyncIterator]() as AsyncIterator<FilePart>;
  const next = async () => {
    timer = setTimeout(() => call.destroy(new Error('nothing came any more')), QUIET_MS);
    try {
      return await parts.next();
    } finally {
      clearTimeout(timer);
    }
  };
  const first = await next();
  if (first.done === true || first.value.file === undefined) {
    throw new FleetError('BAD_REQUEST', 'the first part must name the file');
  }
  const { file, offset } = first.value;
  async function* bytes() {
    for (let part = await next(); part.done !== true; part = await next()) yield part.value.data;
  }
  return files.put(file, offset, bytes(), caller);
}

const STATUS: Partial<Record<FleetError['code'], grpc.status>> = {
  RUN_UNKNOWN: grpc.status.NOT_FOUND,
  FORBIDDEN: grpc.status.PERMISSION_DENIED,
  TRANSFER_TOO_LARGE: grpc.status.FAILED_PRECONDITION,
  BAD_REQUEST: grpc.status.INVALID_ARGUMENT,
  UNAVAILABLE: grpc.status.UNAVAILABLE,
};

function statusOf(error: unknown, log: Logger): Partial<grpc.StatusObject> {
  const code = error instanceof FleetError ? STATUS[error.code] : undefined;
  if (code !== undefined) return { code, details: (error as FleetError).message };
  log.warn({ err: error }, 'a file of a transfer could not be taken or given');
  return { code: grpc.status.INTERNAL, details: 'the controller failed; see its log' };
}
