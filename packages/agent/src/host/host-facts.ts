/** What a host is, whatever runs on it. */
import { readFile, statfs } from 'node:fs/promises';
import { hostname } from 'node:os';
import { dirname, join } from 'node:path';
import type { HostFacts } from '@kwfleet/core';
import { readText } from './mode.ts';
import { familyByTool } from './package-database.ts';
import { runShort } from './run.ts';

const ARCHITECTURES: Readonly<Record<string, string>> = { x64: 'amd64', arm64: 'arm64' };

export type HostOptions = {
  readonly root: string;
  readonly stateDir: string;
  readonly agentVersion: string;
  readonly now: () => number;
  /** Where copies go, and the operator's backup command. */
  readonly backup?: { readonly directory: string; readonly command: string | undefined };
};

/** `directories`: where KWDB is installed and where its data lies, below `root`. */
export async function hostFacts(
  { root, stateDir, agentVersion, now, backup }: HostOptions,
  directories: { readonly installDir: string; readonly dataDir: string },
): Promise<HostFacts> {
  const [agent, install, data] = await Promise.all([
    freeBytes(stateDir),
    freeBytes(join(root, directories.installDir)),
    freeBytes(join(root, directories.dataDir)),
  ]);
  return {
    hostname: hostname(),
    architecture: ARCHITECTURES[process.arch] ?? process.arch,
    distribution: await distribution(root),
    bootId: await bootId(),
    agentVersion,
    privileges: await privileges(root),
    clockMs: now(),
    freeBytes: { agent, install, data },
    ...(backup === undefined
      ? {}
      : {
          backup: {
            directory: backup.directory,
            freeBytes: await freeBytes(backup.directory),
            command: backup.command !== undefined,
          },
        }),
  };
}

export async function packageFamily(root: string): Promise<HostFacts['distribution']['family']> {
  return (await distribution(root)).family;
}

async function distribution(root: string): Promise<HostFacts['distribution']> {
  const text = (await readText(root, '/etc/os-release')) ?? (await readText('/', '/etc/os-release')) ?? '';
  const named = parseOsRelease(text);
  return { ...named, family: (await familyByTool()) ?? named.family };
}

async function privileges(root: string): Promise<HostFacts['privileges']> {
  // Under a root of its own the agent touches nothing that is not its user's.
  if (process.getuid?.() === 0 || root !== '/') return 'root';
  const ended = await runShort('sudo', ['-n', 'true'], { timeoutMs: 5000 });
  return ended.exitCode === 0 ? 'sudo' : 'none';
}

/** Free bytes where `path` lies, or would lie once it is made. */
export async function freeBytes(path: string): Promise<number> {
  for (let at = path; ; at = dirname(at)) {
    try {
      const { bavail, bsize } = await statfs(at);
      return bavail * bsize;
    } catch (error) {
      if (at === dirname(at)) throw error;
    }
  }
}

export function parseOsRelease(text: string): HostFacts['distribution'] {
  const values = new Map(
    [...text.matchAll(/^([A-Z_]+)=(.*)$/gm)].map(([, name = '', value = '']) => [name, value.replace(/^"|"$/g, '')]),
  );
  const kin = `${values.get('ID') ?? ''} ${values.get('ID_LIKE') ?? ''}`;
  const family = /debian|ubuntu|uos|deepin/.test(kin)
    ? 'deb'
    : /rhel|fedora|centos|suse|openeuler|kylin|anolis|rocky/i.test(kin)
      ? 'rpm'
      : 'unknown';
  return { id: values.get('ID') ?? 'unknown', versionId: values.get('VERSION_ID') ?? '', family };
}

/** The kernel's boot id, and the start of PID 1: a container reboots without its kernel. */
export async function bootId(): Promise<string> {
  try {
    const kernel = (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
    const first = await readFile('/proc/1/stat', 'utf8');
    return `${kernel}/${first.slice(first.lastIndexOf(')') + 2).split(' ')[19] ?? ''}`;
  } catch {
    return 'unknown';
  }
}
