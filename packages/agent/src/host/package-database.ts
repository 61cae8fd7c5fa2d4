/** What the host's package manager says of KWDB's packages. */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { readText } from './mode.ts';
import { runShort } from './run.ts';

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

async function listDirectory(directory: string): Promise<string[]> {
  try {
    return await readdir(directory);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
}

/** Asks rpm; a package it does not know is simply not in the answer. */
export async function rpmRecords(root: string): Promise<PackageRecord[]> {
  const format = '%{NAME}\\t%{VERSION}\\t%{ARCH}\\n';
  const ended = await runShort('rpm', ['--root', root, '-q', '--qf', format, ...PACKAGE_NAMES], { timeoutMs: 15_000 });
  return ended.stdout
    .split('\n')
    .map((line) => line.split('\t'))
    .filter((parts) => parts.length === 3)
    .map(([name = '', version = '', architecture = '']) => ({ name, version, architecture, state: 'ii' }));
}
