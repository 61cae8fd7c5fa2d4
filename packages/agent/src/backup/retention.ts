/** How many copies of a node are kept, which of them, and what is told of those that are not. */
import { readdir, readFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { replaceFile, syncDirectory } from '../journal/file-storage.ts';
import { readManifest } from './manifest.ts';
import type { Retention } from './spec.ts';

/** Ends the name of what is not whole: a copy that is being made, or removed. */
export const PART = '.part';
/** The sets that were removed, the latest last. */
const REMOVED = '.removed.json';
const REMEMBERED_MAX = 64;

/**
 * Removes the oldest copies in `home`, beside that of `set`, until there are `others`; never the one that stands, which
 * alone may bring the cluster back while a newer set is not whole. Answers the sets that were removed here, those of
 * earlier calls among them: a power cut may have kept them from being told.
 */
export async function retain(home: string, set: string, others: number, { stands }: Retention): Promise<string[]> {
  const copies = await copiesIn(home);
  const rest = copies.filter(({ name }) => name !== set);
  rest.sort((a, b) => Number(b.name === stands) - Number(a.name === stands) || b.madeAtMs - a.madeAtMs);
  const old = rest.slice(Math.max(others, rest[0]?.name === stands ? 1 : 0)).map(({ name }) => name);
  const left = new Set(copies.map(({ name }) => name).filter((name) => !old.includes(name)));
  const known = (await readRemoved(home)).filter((name) => !left.has(name) && !old.includes(name));
  const removed = [...known, ...old].slice(-REMEMBERED_MAX);
  if (old.length > 0) await replaceFile(join(home, REMOVED), JSON.stringify(removed));
  for (const name of old) {
    // What is removed by half is no copy any more, and goes with the next one that is made.
    await rename(join(home, name), join(home, name + PART));
    await syncDirectory(home);
    await rm(join(home, name + PART), { recursive: true, force: true });
  }
  return removed;
}

async function copiesIn(home: string): Promise<{ name: string; madeAtMs: number }[]> {
  const copies: { name: string; madeAtMs: number }[] = [];
  for (const name of await namesIn(home)) {
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

/** None before the first copy. */
async function namesIn(home: string): Promise<string[]> {
  try {
    return await readdir(home);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
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
