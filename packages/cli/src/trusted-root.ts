/**
 * The root of trust as the owner of a key knows it. The controller may be stolen: what a person extends and signs must
 * follow from what that person has seen before, kept beside the key in `FILE.root.json`.
 */
import { open, readFile, rename } from 'node:fs/promises';
import { FleetError } from '@kwfleet/core';
import { type Metadata, type Root, readMetadata, signersOf, writeMetadata } from '@kwfleet/protocol/tuf';
import type { Client } from './client.ts';

export type FollowedRoot = {
  readonly root: Metadata<Root>;
  /** Nothing was kept beside this key before: the controller's root was taken as it is. */
  readonly firstContact: boolean;
};

/** More changes of root than anybody makes. */
const ROOTS_LIMIT = 256;

/** The newest root that follows, signature by signature, from the one kept beside the key. Throws TRUST_INVALID. */
export async function followRoot(client: Client, keyFile: string): Promise<FollowedRoot> {
  const kept = await readFile(`${keyFile}.root.json`, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return undefined;
    throw error;
  });
  let root = readMetadata('root', kept ?? (await client.trustMetadata('root.json')) ?? '');
  for (let count = 0; count < ROOTS_LIMIT; count += 1) {
    const version = root.signed.version + 1;
    const text = await client.trustMetadata(`${version}.root.json`);
    if (text === undefined) break;
    const next = readMetadata('root', text);
    const follows = signersOf(root, 'root', next).enough && signersOf(next, 'root', next).enough;
    if (!follows || next.signed.version !== version) {
      throw new FleetError('TRUST_INVALID', `root ${version} of the controller does not follow from the one you know`);
    }
    root = next;
  }
  if (kept === undefined && !signersOf(root, 'root', root).enough) {
    throw new FleetError('TRUST_INVALID', 'the root of the controller is not signed by its own keys');
  }
  await keepRoot(keyFile, root);
  return { root, firstContact: kept === undefined };
}

/** Keeps the root beside the key, for the next time. */
export async function keepRoot(keyFile: string, root: Metadata<Root>): Promise<void> {
  const file = `${keyFile}.root.json`;
  const handle = await open(`${file}.new`, 'w', 0o600);
  try {
    await handle.writeFile(writeMetadata(root));
    await handle.sync();
  } finally {
    await handle.close();
  }
  await rename(`${file}.new`, file);
}
