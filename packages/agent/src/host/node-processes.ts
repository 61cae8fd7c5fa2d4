/** Processes of this host that run a node of KWDB, as /proc tells them: how they were started, to start them so again. */
import { readdir, readFile, readlink, realpath, stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { processStat } from './process-stat.ts';
import { startCommand } from './start-command.ts';

/** USER_HZ: what /proc counts in, on every architecture of Linux that KWDB is built for. */
const TICKS_PER_SECOND = 100;
/** Cgroups of containers that were given the host's process space. */
const CONTAINERS = /docker|containerd|libpod|kubepods|crio|lxc/;

export type NodeProcess = {
  readonly pid: number;
  /** Ticks from the host's boot to its start: with the pid and the boot, one process for good. */
  readonly startTicks: number;
  /** The words it was started with; the first is `kwbase` as it was called. */
  readonly argv: readonly string[];
  readonly cwd: string;
  /** `kwbase`, absolute, by the way it was called: links in it are kept. */
  readonly binary: string;
  /** The last unit of the service manager in whose cgroup it runs. */
  readonly unit?: string;
};

/** How a process was started, as far as it is not in its command. */
export type Surroundings = {
  /** `NAME=VALUE`, as they were at its start. */
  readonly environment: readonly string[];
  readonly uid: number;
  readonly gid: number;
  /** Octal. */
  readonly umask: string;
  /** Of `/proc/PID/limits`: soft and hard, `unlimited` where they are. */
  readonly limits: readonly { readonly name: string; readonly soft: string; readonly hard: string }[];
  /** Files that its output goes to. */
  readonly stdout?: string;
  readonly stderr?: string;
};

/** All of them that share the agent's own process space; containers have theirs. */
export async function nodeProcesses(): Promise<NodeProcess[]> {
  const [space, cgroup] = await Promise.all([readlink('/proc/self/ns/pid'), readFile('/proc/self/cgroup', 'utf8')]);
  // Where the whole host is a container, all cgroups are called so.
  const own = { space, isContainer: CONTAINERS.test(cgroup) };
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  const found = await Promise.all(pids.map((pid) => nodeProcess(Number(pid), own)));
  return found.filter((one) => one !== undefined);
}

type Own = { readonly space: string; readonly isContainer: boolean };

async function nodeProcess(pid: number, own: Own): Promise<NodeProcess | undefined> {
  try {
    const argv = (await readFile(`/proc/${pid}/cmdline`, 'utf8')).replace(/\0$/, '').split('\0');
    if (startCommand(argv.slice(1)) === undefined) return undefined;
    if (basename(argv[0] ?? '') !== 'kwbase') return undefined;
    if ((await readlink(`/proc/${pid}/ns/pid`)) !== own.space) return undefined;
    const cgroup = await readFile(`/proc/${pid}/cgroup`, 'utf8');
    if (!own.isContainer && CONTAINERS.test(cgroup)) return undefined;
    const cwd = await logicalDirectory(pid);
    const unit = unitOf(cgroup);
    const told = processStat(pid);
    if (told === null) return undefined;
    return {
      pid,
      startTicks: Number(told.startTicks),
      argv,
      cwd,
      binary: await binaryOf(pid, argv[0] ?? '', cwd),
      ...(unit === undefined ? {} : { unit }),
    };
  } catch {
    // Gone meanwhile, or not for this agent to see.
    return undefined;
  }
}

/** Its working directory by the links its shell went through, where the environment still tells them. */
async function logicalDirectory(pid: number): Promise<string> {
  const cwd = await readlink(`/proc/${pid}/cwd`);
  const named = (await environmentOf(pid)).find((line) => line.startsWith('PWD='))?.slice('PWD='.length);
  if (named === undefined || !named.startsWith('/')) return cwd;
  return (await realpath(named).catch(() => undefined)) === cwd ? named : cwd;
}

/** A name without a slash was found on its PATH: then only the executable itself tells where. */
async function binaryOf(pid: number, called: string, cwd: string): Promise<string> {
  if (called.includes('/')) return resolve(cwd, called);
  return (await readlink(`/proc/${pid}/exe`)).replace(/ \(deleted\)$/, '');
}

async function environmentOf(pid: number): Promise<string[]> {
  return (await readFile(`/proc/${pid}/environ`, 'utf8')).split('\0').filter((line) => line.includes('='));
}

/** The innermost service of the system's manager; scopes of logins and the users' own managers are none. */
function unitOf(cgroup: string): string | undefined {
  // Of both generations; where both are mounted the manager uses one of them.
  const paths = [/^0::(.*)$/m, /^\d+:name=systemd:(.*)$/m].flatMap((pattern) => pattern.exec(cgroup)?.[1] ?? []);
  const path = paths.find((candidate) => candidate.includes('.service')) ?? '';
  if (path.includes('/user@')) return undefined;
  const service = path.split('/').findLast((name) => name.endsWith('.service'));
  return service?.replace(/\.service$/, '');
}

/** When it started, milliseconds since the epoch. The host's clock may be set meanwhile: ask once a process. */
export async function startedAtMs({ startTicks }: Pick<NodeProcess, 'startTicks'>): Promise<number> {
  const seconds = Number(/^btime (\d+)$/m.exec(await readFile('/proc/stat', 'utf8'))?.[1] ?? 0);
  return Math.round((seconds + startTicks / TICKS_PER_SECOND) * 1000);
}

/** Rejects when it is gone, or another user's whom the agent may not look at. */
export async function surroundings({ pid }: Pick<NodeProcess, 'pid'>): Promise<Surroundings> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8');
  const id = (name: string) => Number(new RegExp(`^${name}:\\t\\d+\\t(\\d+)`, 'm').exec(status)?.[1]);
  const [stdout, stderr] = await Promise.all([outputOf(pid, 1), outputOf(pid, 2)]);
  return {
    environment: await environmentOf(pid),
    uid: id('Uid'),
    gid: id('Gid'),
    umask: /^Umask:\t(\d+)$/m.exec(status)?.[1] ?? '0022',
    limits: parseLimits(await readFile(`/proc/${pid}/limits`, 'utf8')),
    ...(stdout === undefined ? {} : { stdout }),
    ...(stderr === undefined ? {} : { stderr }),
  };
}

/** Lines like `Max open files            1024                 1048576              files`. */
export function parseLimits(text: string): Surroundings['limits'] {
  return text.split('\n').flatMap((line) => {
    const [, name, soft, hard] = /^(Max [a-z ]+?)\s{2,}(\S+)\s+(\S+)/.exec(line) ?? [];
    return name === undefined || soft === undefined || hard === undefined ? [] : [{ name, soft, hard }];
  });
}

async function outputOf(pid: number, descriptor: number): Promise<string | undefined> {
  const file = await readlink(`/proc/${pid}/fd/${descriptor}`);
  const found = file.startsWith('/') ? await stat(file).catch(() => null) : null;
  return found?.isFile() === true ? file : undefined;
}

/** The tree that a binary belongs to: `/opt/kwdb/install` of `/opt/kwdb/install/bin/kwbase`. */
export const treeOf = (binary: string): string => dirname(dirname(binary));

/** The name of a user; the number itself where the host has no name for it. */
export async function userName(uid: number): Promise<string> {
  const lines = (await readFile('/etc/passwd', 'utf8').catch(() => '')).split('\n');
  return lines.map((line) => line.split(':')).find(([, , id]) => id === String(uid))?.[0] ?? String(uid);
}

/** Where a tree's libraries are. */
export const librariesOf = (tree: string): string => join(tree, 'lib');
