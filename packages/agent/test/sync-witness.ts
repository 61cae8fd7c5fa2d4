/** Sees what is written to disk, and what had its name by then: no test can cut the power. */
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { onTestFinished } from 'vitest';

/** Until the test ends `sync` only notes; one line a call: what was synced, and which of `names` were there already. */
export async function witnessSyncs(...names: string[]): Promise<() => Promise<string[]>> {
  const directory = await mkdtemp(join(tmpdir(), 'kwfleet-sync-'));
  const notes = join(directory, 'notes');
  const looks = names.map((name) => `[ -e '${name}' ] && there="$there ${name}"`).join('\n');
  await mkdir(join(directory, 'bin'));
  const script = `#!/bin/sh\nthere=\n${looks}\necho "$*$there" >>'${notes}'\n`;
  await writeFile(join(directory, 'bin/sync'), script, { mode: 0o755 });
  const path = process.env.PATH;
  process.env.PATH = `${join(directory, 'bin')}:${path}`;
  onTestFinished(async () => {
    process.env.PATH = path;
    await rm(directory, { recursive: true, force: true });
  });
  return async () => (await readFile(notes, 'utf8').catch(() => '')).split('\n').filter((line) => line !== '');
}
