import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { run } from './process.ts';

const PREFIX = 'kwfleet-lab';

/** Directories that may hold labs, best first. KWFLEET_LAB_DIR goes before all. */
function candidates(): string[] {
  const chosen = process.env.KWFLEET_LAB_DIR;
  const all = [...(chosen === undefined ? [] : [chosen]), tmpdir(), '/var/tmp', '/dev/shm'];
  return [...new Set(all)].filter((directory) => existsSync(directory));
}

let found: Promise<string | undefined> | undefined;

/**
 * The first directory that can be the upper layer of an overlay over `/`; undefined when there is none.
 * In a container `/tmp` is often an overlay itself, and an overlay cannot be an upper layer.
 */
export function labBase(): Promise<string | undefined> {
  found ??= (async () => {
    for (const directory of candidates()) if (await carriesOverlay(directory)) return directory;
    return undefined;
  })();
  return found;
}

async function carriesOverlay(base: string): Promise<boolean> {
  const directory = await mkdtemp(join(base, `${PREFIX}-probe-`));
  try {
    for (const name of ['upper', 'work', 'root']) await mkdir(join(directory, name));
    const script = `mount -t overlay -o lowerdir=/,upperdir="$1"/upper,workdir="$1"/work,redirect_dir=on overlay "$1"/root &&
      mkdir "$1"/root/probe && mv "$1"/root/etc "$1"/root/probe/etc`;
    const argv = ['unshare', '--mount', '--propagation', 'private', 'sh', '-c', script, 'sh', directory];
    return (await run(argv, { allowFailure: true })).exitCode === 0;
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

export interface LabDirectory {
  path: string;
  id: string;
}

/**
 * A directory for a new lab. Its name says who owns it (pid and start time), so it is never without an owner, not even
 * when its maker is killed right after making it.
 */
export async function makeLabDirectory(base: string, id: string): Promise<LabDirectory> {
  const path = join(base, `${PREFIX}.${process.pid}.${startTicks(process.pid)}.${id}`);
  await mkdir(path, { mode: 0o755 });
  return { path, id };
}

/** Directories of labs whose owner is dead. */
export function staleLabDirectories(): LabDirectory[] {
  return candidates().flatMap((base) =>
    readdirSync(base).flatMap((name) => {
      const [prefix, pid, ticks, id, ...rest] = name.split('.');
      if (prefix !== PREFIX || pid === undefined || ticks === undefined || id === undefined || rest.length > 0)
        return [];
      return startTicks(Number(pid)) === ticks ? [] : [{ path: join(base, name), id }];
    }),
  );
}

/** When a process started, in ticks since the machine's boot: with the pid it names one process for good. */
function startTicks(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The command's name may hold spaces and parentheses: count from the last one. starttime is field 22.
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19];
  } catch {
    return undefined;
  }
}
