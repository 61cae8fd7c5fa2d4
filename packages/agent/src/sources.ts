/** Where a package's bytes come from: peers that have it, when the controller names some, else the controller. */
import * as grpc from '@grpc/grpc-js';
import { FleetError } from '@kwfleet/core';
import { agentGateway, type FetchPackageRequest, type Peer } from '@kwfleet/protocol';
import type { Logger } from 'pino';
import type { Identity } from './enroll.ts';
import { peerClient } from './peers.ts';

/** The bytes of a package from an offset on, and whether anybody but the controller gives them. */
export type OpenPackage = { readonly byPeer: boolean; readonly chunks: AsyncIterable<Uint8Array> };

/** Opens a package at an offset; `peers` says whether others than the controller may give it. */
export type PackageSource = (sha256: string, offset: number, peers: boolean) => Promise<OpenPackage>;

/** As many give packages as may just now: the same is asked again a moment later, perhaps of another. */
export class Busy extends Error {
  override readonly name = 'Busy';
}

export type SourcesOptions = {
  readonly controller: (sha256: string, offset: number) => AsyncIterable<Uint8Array>;
  readonly findPeers: (sha256: string) => Promise<readonly Peer[]>;
  readonly identity: Identity | undefined;
  readonly log: Logger;
  readonly now: () => number;
};

/** A peer must begin, and go on, within this time; the controller is given more. */
const PEER_QUIET_MS = 5000;
/** A peer that gives less over a while only keeps us from asking another. */
const SLOW_BYTES_PER_SECOND = 128 * 1024;
const SLOW_AFTER_MS = 15_000;
/** One that failed is left alone for a while. */
const SHUN_MS = 10 * 60_000;
const TRIED_PEERS = 3;

export function packageSources(options: SourcesOptions): PackageSource {
  const shunned = new Map<string, number>();
  const { controller, findPeers, log, now } = options;

  async function fromPeers(sha256: string, offset: number): Promise<AsyncIterable<Uint8Array> | undefined> {
    const named = await findPeers(sha256).catch((): readonly Peer[] => []);
    const willing = named.filter(({ node }) => (shunned.get(node) ?? 0) < now()).slice(0, TRIED_PEERS);
    for (const peer of willing) {
      const stream = readPeer(peer, sha256, offset, options);
      try {
        const first = await stream.next();
        if (first.done !== true) return watched(peer, first.value, stream);
      } catch (error) {
        if (error instanceof Busy) continue;
        shun(peer, error);
      }
    }
    return undefined;
  }

  async function* watched(peer: Peer, first: Uint8Array, rest: AsyncGenerator<Uint8Array>) {
    try {
      yield first;
      yield* rest;
    } catch (error) {
      shun(peer, error);
      throw error;
    } finally {
      await rest.return(undefined);
    }
  }

  function shun(peer: Peer, error: unknown): void {
    shunned.set(peer.node, now() + SHUN_MS);
    log.info(
      { peer: peer.node, reason: (error as Error).message },
      'a peer does not give the package; another is asked',
    );
  }

  return async (sha256, offset, peers) => {
    const stream = peers ? await fromPeers(sha256, offset) : undefined;
    return stream === undefined
      ? { byPeer: false, chunks: controller(sha256, offset) }
      : { byPeer: true, chunks: stream };
  };
}

async function* readPeer(
  peer: Peer,
  sha256: string,
  offset: number,
  { identity, now }: SourcesOptions,
): AsyncGenerator<Uint8Array> {
  const client = peerClient(peer, identity);
  const startedAtMs = now();
  let bytes = 0;
  try {
    for await (const data of readPackage(client, { sha256, offset }, PEER_QUIET_MS)) {
      yield data;
      bytes += data.length;
      const tookMs = now() - startedAtMs;
      if (tookMs > SLOW_AFTER_MS && bytes / (tookMs / 1000) < SLOW_BYTES_PER_SECOND) throw new Error('it is too slow');
    }
  } finally {
    client.close();
  }
}

/** The chunks of a package from one server. Rejects with Busy, FETCH_FAILED when it is not to be had there, or as it broke. */
export async function* readPackage(
  client: grpc.Client,
  request: FetchPackageRequest,
  quietMs: number,
): AsyncGenerator<Uint8Array> {
  const { path, requestSerialize, responseDeserialize } = agentGateway.fetchPackage;
  const call = client.makeServerStreamRequest(path, requestSerialize, responseDeserialize, request);
  let timer = setTimeout(() => call.cancel(), quietMs);
  try {
    for await (const chunk of call) {
      clearTimeout(timer);
      yield (chunk as { data: Uint8Array }).data;
      timer = setTimeout(() => call.cancel(), quietMs);
    }
  } catch (error) {
    const { code, details = '' } = error as Partial<grpc.ServiceError>;
    if (code === grpc.status.RESOURCE_EXHAUSTED) throw new Busy(details);
    const final = [grpc.status.NOT_FOUND, grpc.status.UNAUTHENTICATED, grpc.status.PERMISSION_DENIED];
    if (code === undefined || !final.includes(code)) throw error;
    throw new FleetError('FETCH_FAILED', `the package ${request.sha256} is not given`, { words: details });
  } finally {
    clearTimeout(timer);
    call.cancel();
  }
}
