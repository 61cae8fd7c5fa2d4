/** The signed metadata of the package repository, file by file, as agents ask for it. */
import * as grpc from '@grpc/grpc-js';
import type { FetchMetadataRequest, MetadataFile } from '@kwfleet/protocol';
import type { Logger } from 'pino';
import type { Repository } from '../trust/repository.ts';

export type MetadataCall = grpc.ServerUnaryCall<FetchMetadataRequest, MetadataFile>;

/** Answers with the file; one that is not there is NOT_FOUND, which to a client of TUF is an answer too. */
export async function sendMetadata(
  call: MetadataCall,
  answer: grpc.sendUnaryData<MetadataFile>,
  repository: Repository,
  log: Logger,
): Promise<void> {
  const { name } = call.request;
  try {
    const text = await repository.metadata(name);
    if (text === undefined) return answer({ code: grpc.status.NOT_FOUND, details: `there is no ${name}` });
    answer(null, { data: Buffer.from(text) });
  } catch (error) {
    log.warn({ err: error, name }, 'metadata could not be read');
    answer({ code: grpc.status.UNAVAILABLE, details: 'the metadata could not be read now' });
  }
}
