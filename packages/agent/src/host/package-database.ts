/** What the host's package manager says of KWDB's packages. */
import { access, constants, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { FleetError } from '@kwfleet/core';
import { listDirectory, readText } from './mode.ts';
import { runShort, wordsOf } from './run.ts';

export type PackageRecord = {
  readonly name: string;
  readonly version: string;
  readonly architecture: string;
  /** dpkg's two letters, `ii` when whole; for rpm always `ii`. */
  readonly state: string;
};

/** Names the server and library packages had and have. */
export const PACKAGE_NAMES = ['kaiwudb-server', 'kwdb-server', 'kaiwudb-libcommon', 'kwdb-libcommon'] as const;
export const DPKG_DIR = '/var/lib/dpkg';
/** Where rpm keeps its books, on older and on newer distributions. */
const RPM_DIRS = ['/var/lib/rpm', '/usr/lib/sysimage/rpm'] as const;
/** Where deploy.sh looks for programs. */
export const SYSTEM_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

export type PackageFamily = 'deb' | 'rpm';

/**
 * What kind of packages deploy.sh will try to install here: it takes dpkg where it finds it, else rpm, whatever the
 * distribution is called. Undefined where neither is found.
 */
export async function familyByTool(path = SYSTEM_PATH): Promise<PackageFamily | undefined> {
  const has = async (tool: string) =>
    (await Promise.all(path.split(':').map((at) => isProgram(join(at, tool))))).some(Boolean);
  if (await has('dpkg')) return 'deb';
  return (await has('rpm')) ? 'rpm' : undefined;
}

async function isProgram(file: string): Promise<boolean> {
  try {
    await access(file, constants.X_OK);
    return (await stat(file)).isFile();
  } catch {
    return false;
  }
}

export function packageRecords(root: string, family: PackageFamily | 'unknown'): Promise<PackageRecord[]> {
  return family === 'rpm' ? rpmRecords(root) : dpkgRecords(root);
}

/** Something that moves while the package manager works; cheap enough to be asked several times a second. */
export async function packageSign(root: string, family: PackageFamily | 'unknown'): Promise<string> {
  if (family !== 'rpm') {
    return (await dpkgRecords(root)).map(({ name, version, state }) => `${name} ${version} ${state}`).join();
  }
  const signs: string[] = [];
  for (const directory of RPM_DIRS) {
    for (const name of await listDirectory(join(root, directory))) {
      const found = await stat(join(root, directory, name)).catch(() => null);
      if (found !== null) signs.push(`${name} ${found.size} ${found.mtimeMs}`);
    }
  }
  return signs.join();
}

export const isServer = (record: PackageRecord): boolean => record.name.endsWith('-server');

const WANTED: Readonly<Record<string, string>> = { install: 'i', hold: 'h', deinstall: 'r', purge: 'p', unknown: 'u' };
const STATES: Readonly<Record<string, string>> = {
  'not-installed': 'n',
  'config-files': 'c',
  'half-installed': 'H',
  unpacked: 'U',
  'half-configured': 'F',
  'triggers-awaited': 'W',
  'triggers-pending': 't',
  installed: 'i',
};

/** Paragraphs of dpkg's books, field names in lower case; continuation lines are joined as they stand. */
export function parseParagraphs(text: string): Map<string, string>[] {
  return text
    .split(/\n\n+/)
    .filter((paragraph) => paragraph.trim() !== '')
    .map((paragraph) => {
      const fields = new Map<string, string>();
      let last = '';
      for (const line of paragraph.split('\n')) {
        const match = /^([A-Za-z][\w-]*):\s?(.*)$/.exec(line);
        if (match !== null) {
          last = (match[1] as string).toLowerCase();
          fields.set(last, match[2] as string);
        } else if (last !== '' && /^\s/.test(line)) fields.set(last, `${fields.get(last)}\n${line}`);
      }
      return fields;
    });
}

function recordOf(fields: Map<string, string>): PackageRecord | undefined {
  const name = PACKAGE_NAMES.find((candidate) => candidate === fields.get('package'));
  if (name === undefined) return undefined;
  const [want = '', flag = '', state = ''] = (fields.get('status') ?? '').split(' ');
  const letters = `${WANTED[want] ?? '?'}${STATES[state] ?? '?'}${flag === 'reinstreq' ? 'R' : ''}`;
  return {
    name,
    version: fields.get('version') ?? '',
    architecture: fields.get('architecture') ?? '',
    state: letters,
  };
}

/**
 * Reads dpkg's books themselves: `status`, and over it `updates/`, where dpkg keeps what it was doing when it was
 * killed. No dpkg needs to run for it, so nothing waits for its lock.
 */
export async function dpkgRecords(root: string): Promise<PackageRecord[]> {
  const books = [(await readText(root, `${DPKG_DIR}/status`)) ?? ''];
  for (const name of (await listDirectory(join(root, DPKG_DIR, 'updates')))
    .filter((file) => /^\d+$/.test(file))
    .sort()) {
    books.push((await readText(root, `${DPKG_DIR}/updates/${name}`)) ?? '');
  }
  const found = new Map<string, PackageRecord>();
  for (const record of books.flatMap(parseParagraphs).map(recordOf)) {
    if (record !== undefined) found.set(record.name, record);
  }
  // `rc` and `un` are names that dpkg remembers of packages that are gone.
  return [...found.values()].filter(({ state }) => !/^[rpu][nc]/.test(state));
}

/**
 * Asks rpm; a package it does not know is simply not in the answer. Its states are those of dpkg as far as it has them:
 * a package is in its books or it is not. Throws INSTALLATION_HALF_DONE when its books cannot be read.
 */
export async function rpmRecords(root: string): Promise<PackageRecord[]> {
  const format = '%{NAME}\\t%{VERSION}\\t%{ARCH}\\n';
  const rooted = root === '/' ? [] : ['--root', root];
  const ended = await runShort('rpm', [...rooted, '-q', '--qf', format, ...PACKAGE_NAMES], { timeoutMs: 15_000 });
  // It exits with the number of packages that are not there, and says so on its output; errors are on the other.
  if (ended.exitCode === undefined || /^error:/m.test(ended.stderr)) {
    throw new FleetError('INSTALLATION_HALF_DONE', `rpm does not tell what is installed: ${wordsOf(ended)}`);
  }
  return ended.stdout
    .split('\n')
    .map((line) => line.split('\t'))
    .filter((parts) => parts.length === 3)
    .map(([name = '', version = '', architecture = '']) => ({ name, version, architecture, state: 'ii' }));
}
