/**
 * Gives packages that lie here, whole and verified, to other agents of the cluster or site, so that not every host
 * fetches them from the controller. Both sides show the certificates of their enrollment; what comes is verified by its
 * hash and its signers, so that a bad peer can waste time and nothing else.
 */
import * as grpc from '@grpc/grpc-js';
import { FleetError } from '@kwfleet/core';
import { agentGateway, type FetchCall, PackageGiver, peerName } from '@kwfleet/protocol';
import type { Logger } from 'pino';
import type { PeerConfig } from './config.ts';
import type { Identity } from './enroll.ts';

export type PeerServer = {
  /** `HOST:PORT` as others reach it. */
  readonly address: string;
  readonly sentBytes: () => number;
  close(): void;
};

export type PeerServerOptions = {
  readonly config: PeerConfig;
  /** Undefined: plaintext, on loopback only. */
  readonly identity: Identity | undefined;
  /** Where a package lies; undefined when it is not here whole. */
  readonly pathOf: (sha256: string) => string | undefined;
  readonly log: Logger;
};

/** Listens. Throws CONFIG_INVALID when the address cannot be had. */
export async function servePeers({ config, identity, pathOf, log }: PeerServerOptions): Promise<PeerServer> {
  const { maxTransfers: atOnce, maxBytesPerSecond: bytesPerSecond } = config;
  const giver = new PackageGiver({ atOnce, bytesPerSecond }, (error, sha256) =>
    log.warn({ err: error, sha256 }, 'a package could not be given to a peer'),
  );
  const server = new grpc.Server({ 'grpc.keepalive_time_ms': 20_000, 'grpc.keepalive_timeout_ms': 10_000 });
  const { fetchPackage } = agentGateway;
  server.addService(
    { fetchPackage },
    { fetchPackage: (call: FetchCall) => void giver.send(call, pathOf(call.request.sha256)) },
  );
  const credentials =
    identity === undefined
      ? grpc.ServerCredentials.createInsecure()
      : grpc.ServerCredentials.createSsl(
          identity.authority,
          [{ private_key: identity.key, cert_chain: identity.certificate }],
          true,
        );
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync(config.listen, credentials, (cause, bound) => {
      if (cause === null) return resolve(bound);
      reject(new FleetError('CONFIG_INVALID', `peers.listen ${config.listen}: ${cause.message}`, { cause }));
    });
  });
  const address = config.address ?? config.listen.replace(/:\d+$/, `:${port}`);
  log.info({ address }, 'packages that lie here are given to peers');
  return { address, sentBytes: () => giver.sentBytes, close: () => server.forceShutdown() };
}

/** How to reach a peer, and be sure that it is the one that the controller named. */
export function peerClient(peer: { node: string; address: string }, identity: Identity | undefined): grpc.Client {
  if (identity === undefined) return new grpc.Client(peer.address, grpc.credentials.createInsecure());
  const name = peerName(peer.node);
  const { authority, key, certificate } = identity;
  return new grpc.Client(peer.address, grpc.credentials.createSsl(authority, key, certificate), {
    'grpc.ssl_target_name_override': name,
    'grpc.default_authority': name,
  });
}
