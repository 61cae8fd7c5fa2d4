/** The signed list of packages: what is on it, and how a person extends it without believing the controller. */
import type { PackageInfo, TrustView } from '@kwfleet/core';
import {
  type Metadata,
  newTargets,
  packagesOf,
  type Root,
  readMetadata,
  type SigningKey,
  signersOf,
} from '@kwfleet/protocol/tuf';
import type { Client } from './client.ts';
import { signAndSubmit } from './signing.ts';

const DAY_MS = 86_400_000;
export const LIST_VALID_MS = 365 * DAY_MS;

/** The packages on the published list; undefined when it is not signed by enough of the root's keys. */
export async function publishedList(client: Client, root: Metadata<Root>): Promise<PackageInfo[] | undefined> {
  const text = await client.trustMetadata('targets.json');
  if (text === undefined) return [];
  const list = readMetadata('targets', text);
  return signersOf(root, 'targets', list).enough ? packagesOf(list) : undefined;
}

/** Signs a list of exactly these packages. Its version is newer than the one that is published. */
export async function publishList(
  client: Client,
  packages: readonly PackageInfo[],
  keys: readonly SigningKey[],
  validMs = LIST_VALID_MS,
): Promise<TrustView> {
  const { packages: published, staged } = await client.trust();
  const last = Math.max(published.version, staged.targets?.version ?? 0);
  const version = Math.max(last + 1, Math.floor(client.nowMs() / 1000));
  return signAndSubmit(client, 'targets', newTargets(version, client.nowMs() + validMs, packages), keys);
}
