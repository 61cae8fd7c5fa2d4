/** How many copies of a node are kept, which of them, and what is told of those that are not. */
import { readFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { listDirectory } from '../host/mode.ts';
import { replaceFile, syncDirectory } from '../journal/file-storage.ts';
import { readManifest } from './manifest.ts';
import type { Retention } from './spec.ts';

/** Ends the name of what is not whole: a copy that is being made, or removed. */
export const PART = '.part';
/** The sets that were removed, the latest last. */
const REMOVED = '.removed.json';
const REMEMBERED_MAX = 64;

type Copy = { readonly name: string; readonly madeAtMs: number };

/**
 * Removes, once a copy of `set` is made in `home`, the oldest of the others beyond those kept; never the one that stands,
 * which alone may bring the cluster back while a newer set is not whole. Answers the sets that were removed here, those of
 * earlier calls among them: a power cut may have kept them from being told.
 */
export async function retain(home: string, set: string, { keep, stands }: Retention): Promise<string[]> {
  const copies = await copiesIn(home);
  const others = inOrder(copies, set, stands);
  const old = others.slice(Math.max(keep - 1, others[0]?.name === stands ? 1 : 0));
  return remove(home, copies, old);
}

/**
 * Before a copy of `set` is made, removes what was kept beside the last one and is older than what stands by now. What is
 * newer stays until the copy is made: it may stand by then, for all that an order knows that comes late.
 */
export async function makeWay(home: string, set: string, { keep, stands }: Retention): Promise<void> {
  const copies = await copiesIn(home);
  const [standing, ...others] = inOrder(copies, set, stands);
  if (standing === undefined || standing.name !== stands) return;
  const old = others.slice(keep - 1).filter(({ madeAtMs }) => madeAtMs < standing.madeAtMs);
  await remove(home, copies, old);
}

/** All but that of `set`: the one that stands, then the newest first. */
const inOrder = (copies: readonly Copy[], set: string, stands: string | undefined): Copy[] =>
  copies
    .filter(({ name }) => name !== set)
    .sort((a, b) => Number(b.name === stands) - Number(a.name === stands) || b.madeAtMs - a.madeAtMs);

async function remove(home: string, copies: readonly Copy[], old: readonly Copy[]): Promise<string[]> {
  const gone = old.map(({ name }) => name);
  const present = new Set(copies.map(({ name }) => name));
  const known = (await readRemoved(home)).filter((name) => !present.has(name));
  const removed = [...known, ...gone].slice(-REMEMBERED_MAX);
  if (gone.length > 0) await replaceFile(join(home, REMOVED), JSON.stringify(removed));
  for (const name of gone) {
    // What is removed by half is no copy any more, and goes with the next one that is made.
    await rename(join(home, name), join(home, name + PART));
    await syncDirectory(home);
    await rm(join(home, name + PART), { recursive: true, force: true });
  }
  return removed;
}

async function copiesIn(home: string): Promise<Copy[]> {
  const copies: Copy[] = [];
  for (const name of await listDirectory(home)) {
    if (name.endsWith(PART)) continue;
    const madeAtMs = await readManifest(join(home, name)).then(
      ({ manifest }) => manifest.madeAtMs,
      () => undefined,
    );
    // What is no backup of ours is not ours to remove.
    if (madeAtMs !== undefined) copies.push({ name, madeAtMs });
  }
  return copies;
}

/** Only told, so what cannot be read is not told. */
async function readRemoved(home: string): Promise<string[]> {
  const text = await readFile(join(home, REMOVED), 'utf8').catch(() => '[]');
  try {
    const names: unknown = JSON.parse(text);
    return Array.isArray(names) ? names.filter((name) => typeof name === 'string') : [];
  } catch {
    return [];
  }
}
