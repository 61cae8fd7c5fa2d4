import type { MethodDefinition } from '@grpc/grpc-js';
import {
  type AgentMessage,
  agentMessage,
  type Codec,
  type ControllerMessage,
  controllerMessage,
  type EnrollRequest,
  type EnrollResponse,
  enrollRequest,
  enrollResponse,
  type FetchFileRequest,
  type FetchMetadataRequest,
  type FetchPackageRequest,
  type FilePart,
  type FileReceipt,
  type FileRef,
  type FileState,
  type FindPeersRequest,
  type FindPeersResponse,
  fetchFileRequest,
  fetchMetadataRequest,
  fetchPackageRequest,
  filePart,
  fileReceipt,
  fileRef,
  fileState,
  findPeersRequest,
  findPeersResponse,
  type MetadataFile,
  metadataFile,
  type PackageChunk,
  packageChunk,
  type RenewCertificateRequest,
  renewCertificateRequest,
} from './wire.ts';

function method<Request, Response>(
  path: string,
  request: Codec<Request>,
  response: Codec<Response>,
  streams: { requestStream: boolean; responseStream: boolean },
): MethodDefinition<Request, Response> {
  return {
    path,
    ...streams,
    requestSerialize: request.encode,
    requestDeserialize: request.decode,
    responseSerialize: response.encode,
    responseDeserialize: response.decode,
  };
}

/** `kwfleet.v1.AgentGateway`, as grpc-js takes it. */
export const agentGateway = {
  connect: method<AgentMessage, ControllerMessage>(
    '/kwfleet.v1.AgentGateway/Connect',
    agentMessage,
    controllerMessage,
    {
      requestStream: true,
      responseStream: true,
    },
  ),
  fetchPackage: method<FetchPackageRequest, PackageChunk>(
    '/kwfleet.v1.AgentGateway/FetchPackage',
    fetchPackageRequest,
    packageChunk,
    { requestStream: false, responseStream: true },
  ),
  findPeers: method<FindPeersRequest, FindPeersResponse>(
    '/kwfleet.v1.AgentGateway/FindPeers',
    findPeersRequest,
    findPeersResponse,
    { requestStream: false, responseStream: false },
  ),
  fetchMetadata: method<FetchMetadataRequest, MetadataFile>(
    '/kwfleet.v1.AgentGateway/FetchMetadata',
    fetchMetadataRequest,
    metadataFile,
    { requestStream: false, responseStream: false },
  ),
  offerFile: method<FileRef, FileState>('/kwfleet.v1.AgentGateway/OfferFile', fileRef, fileState, {
    requestStream: false,
    responseStream: false,
  }),
  putFile: method<FilePart, FileReceipt>('/kwfleet.v1.AgentGateway/PutFile', filePart, fileReceipt, {
    requestStream: true,
    responseStream: false,
  }),
  fetchFile: method<FetchFileRequest, PackageChunk>(
    '/kwfleet.v1.AgentGateway/FetchFile',
    fetchFileRequest,
    packageChunk,
    { requestStream: false, responseStream: true },
  ),
  renewCertificate: method<RenewCertificateRequest, EnrollResponse>(
    '/kwfleet.v1.AgentGateway/RenewCertificate',
    renewCertificateRequest,
    enrollResponse,
    { requestStream: false, responseStream: false },
  ),
};

/** `kwfleet.v1.Enrollment`, the only service open to a caller without a client certificate. */
export const enrollment = {
  enroll: method<EnrollRequest, EnrollResponse>('/kwfleet.v1.Enrollment/Enroll', enrollRequest, enrollResponse, {
    requestStream: false,
    responseStream: false,
  }),
};
