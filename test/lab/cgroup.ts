import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, rmdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { until } from './wait.ts';

/** Where cgroup2 is mounted on this machine (alone or beside version 1), undefined when it is not. */
export async function cgroupMount(): Promise<string | undefined> {
  const mounts = (await readFile('/proc/self/mounts', 'utf8')).split('\n').map((line) => line.split(' '));
  return mounts.find(([, , type]) => type === 'cgroup2')?.[1];
}

/** The cgroup of one lab; its hosts and its processes are below. */
export async function labCgroup(labId: string): Promise<string> {
  const mount = await cgroupMount();
  if (mount === undefined) throw new Error('cgroup2 is not mounted');
  return join(mount, `kwfleet-lab-${labId}`);
}

export async function makeCgroup(path: string): Promise<void> {
  await mkdir(path, { recursive: true });
}

/** Kills everything in a cgroup and below it, waits until it is empty, and removes it. */
export async function killCgroup(path: string): Promise<void> {
  if (!existsSync(path)) return;
  await until(`cgroup ${path} empty`, async () => {
    await ignoringGone(killMembers(path));
    return (await members(path)).length === 0;
  });
  await until(`cgroup ${path} removed`, () => removeTree(path));
}

async function killMembers(path: string): Promise<void> {
  // One write kills all, forks included; kernels before 5.14 lack it.
  if (existsSync(join(path, 'cgroup.kill'))) return writeFile(join(path, 'cgroup.kill'), '1');
  for (const pid of await members(path)) {
    try {
      process.kill(pid, 'SIGKILL');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
    }
  }
}

/** Every process in a cgroup and below it. */
export async function members(path: string): Promise<number[]> {
  const below = (await children(path)).map((child) => members(child));
  const own = (await readFile(join(path, 'cgroup.procs'), 'utf8').catch(() => '')).split('\n').filter((line) => line);
  return [...own.map(Number), ...(await Promise.all(below)).flat()];
}

async function removeTree(path: string): Promise<boolean> {
  for (const child of await children(path)) if (!(await removeTree(child))) return false;
  // EBUSY: the last process is a zombie that nobody has reaped yet.
  return rmdir(path).then(
    () => true,
    (error: NodeJS.ErrnoException) => error.code === 'ENOENT',
  );
}

async function children(path: string): Promise<string[]> {
  const entries = await readdir(path, { withFileTypes: true }).catch(() => []);
  return entries.filter((entry) => entry.isDirectory()).map((entry) => join(path, entry.name));
}

async function ignoringGone(done: Promise<void>): Promise<void> {
  await done.catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT' && error.code !== 'ENODEV') throw error;
  });
}
