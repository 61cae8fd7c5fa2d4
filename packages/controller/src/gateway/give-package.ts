/** Gives a package to an agent, or sends it to its peers: not every host of a site needs to fetch from here. */
import type * as grpc from '@grpc/grpc-js';
import {
  type FetchCall,
  type FindPeersRequest,
  type FindPeersResponse,
  type PackageGiver,
  refuse,
} from '@kwfleet/protocol';
import type { Logger } from 'pino';
import type { PackageRegistry } from '../packages/registry.ts';
import type { Database } from '../store/database.ts';
import { findPeers, neighbourhoodOf } from '../store/peers.ts';

export type GivingParts = {
  readonly database: Database;
  readonly registry: PackageRegistry;
  readonly giver: PackageGiver;
  readonly seeds: Seeds;
  readonly log: Logger;
};

/** Where hosts give packages to each other, so many of them get one from here at once; the others wait for those. */
const SEEDS = 2;
/** One that has got it all needs a moment to verify it, and to say that it has it. */
const LINGER_MS = 3000;
const NAMED_PEERS = 8;

/** `node`: who asks, where that is known. */
export async function givePackage(call: FetchCall, node: string | undefined, parts: GivingParts): Promise<void> {
  const { database, registry, giver, seeds } = parts;
  const { sha256 } = call.request;
  // Without a database nobody is told of peers: then everybody is given it from here.
  const around = node === undefined ? undefined : await neighbourhoodOf(database, node).catch(() => undefined);
  const group = around === undefined ? undefined : `${sha256} ${around}`;
  const path = registry.pathOf(sha256);
  if (group === undefined) return giver.send(call, path);
  if (!seeds.begin(group)) {
    return refuse(call, `${SEEDS} hosts of ${around} are fetching it, and will give it to their peers`);
  }
  await giver.send(call, path).finally(() => seeds.end(group));
}

/** The hosts of each neighbourhood that are given a package from here. */
export class Seeds {
  readonly #counts = new Map<string, number>();

  /** False when there are enough already. */
  begin(group: string): boolean {
    const count = this.#counts.get(group) ?? 0;
    if (count >= SEEDS) return false;
    this.#counts.set(group, count + 1);
    return true;
  }

  end(group: string): void {
    setTimeout(() => {
      const left = (this.#counts.get(group) ?? 1) - 1;
      if (left > 0) this.#counts.set(group, left);
      else this.#counts.delete(group);
    }, LINGER_MS).unref();
  }
}

/** Names peers that hold the package. What cannot be told is no error: the agent fetches from here. */
export async function namePeers(
  call: grpc.ServerUnaryCall<FindPeersRequest, FindPeersResponse>,
  answer: grpc.sendUnaryData<FindPeersResponse>,
  node: string | undefined,
  { database, log }: GivingParts,
): Promise<void> {
  try {
    const { sha256 } = call.request;
    answer(null, { peers: node === undefined ? [] : await findPeers(database, node, sha256, NAMED_PEERS) });
  } catch (error) {
    log.warn({ err: error }, 'peers could not be looked for');
    answer(null, { peers: [] });
  }
}
