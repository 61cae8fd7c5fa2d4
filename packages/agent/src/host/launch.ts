/** Starts a node of a source build as it was started before, in a unit of its own, which does not end with the agent. */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { FleetError } from '@kwfleet/core';
import type { NodeRecord } from '../deployment/source-record.ts';
import { replaceFile } from '../journal/file-storage.ts';
import { librariesOf } from './node-processes.ts';
import { shortUnit } from './rights.ts';
import { type Ended, runShort, wordsOf } from './run.ts';

const UNIT = 'kwfleet-database';
const START_TIMEOUT_MS = 60_000;

/** Names of `/proc/PID/limits` and of systemd's properties; the others cannot be set on a unit. */
const LIMITS: Readonly<Record<string, string>> = {
  'Max cpu time': 'LimitCPU',
  'Max file size': 'LimitFSIZE',
  'Max data size': 'LimitDATA',
  'Max stack size': 'LimitSTACK',
  'Max core file size': 'LimitCORE',
  'Max resident set': 'LimitRSS',
  'Max processes': 'LimitNPROC',
  'Max open files': 'LimitNOFILE',
  'Max locked memory': 'LimitMEMLOCK',
  'Max address space': 'LimitAS',
  'Max file locks': 'LimitLOCKS',
  'Max pending signals': 'LimitSIGPENDING',
  'Max msgqueue size': 'LimitMSGQUEUE',
};

type LaunchOptions = { readonly directory: string; readonly sudo: boolean };

/** Throws START_FAILED with the service manager's own words. */
export async function launchNode(record: NodeRecord, options: LaunchOptions): Promise<void> {
  // A file, not arguments: everybody can read those, and an environment may hold secrets.
  const environment = join(options.directory, 'environment');
  const ended = await runUnit(record, UNIT, environment, ['--quiet'], options);
  if (ended.exitCode === 0) return;
  throw new FleetError('START_FAILED', 'the service manager could not start the database', { words: wordsOf(ended) });
}

/**
 * Has the service manager run `kwbase version` of the tree at `place` with all that `launchNode` gives the node, while that
 * serves: rights, rules of the host's security modules, limits and files stand in the way of this as of a start. What it says
 * goes where the database's own output goes. Throws START_FAILED with the service manager's words.
 */
export async function tryLaunch(record: NodeRecord, place: string, options: LaunchOptions): Promise<void> {
  const own = librariesOf(record.tree);
  const libraries = (line: string) =>
    line
      .split(':')
      .map((path) => (path === own ? librariesOf(place) : path))
      .join(':');
  const tried: NodeRecord = {
    ...record,
    binary: join(place, 'bin/kwbase'),
    args: ['version'],
    environment: record.environment.map((line) => {
      const [, name, value] = /^(LD_LIBRARY_PATH=)(.*)$/s.exec(line) ?? [];
      return name === undefined || value === undefined ? line : name + libraries(value);
    }),
  };
  const environment = join(options.directory, 'environment-tried');
  const bounds = ['RuntimeMaxSec=20', 'TimeoutStopSec=5'].map((bound) => `--property=${bound}`);
  try {
    const ended = await runUnit(tried, shortUnit(), environment, ['--wait', ...bounds], options);
    if (ended.exitCode === 0) return;
    const message = `the service manager could not run ${tried.binary} as it would have to start the database`;
    throw new FleetError('START_FAILED', message, { words: wordsOf(ended) });
  } finally {
    await rm(environment, { force: true });
  }
}

async function runUnit(
  record: NodeRecord,
  unit: string,
  environment: string,
  more: readonly string[],
  { sudo }: LaunchOptions,
): Promise<Ended> {
  await replaceFile(environment, record.environment.map(environmentLine).join(''));
  // systemd replaces $NAME in a command line; two of them are one dollar sign.
  const command = [record.binary, ...record.args].map((word) => word.replaceAll('$', '$$$$'));
  // The unit's name comes first: by it sudo knows the command.
  const argv = ['systemd-run', `--unit=${unit}`, ...propertiesOf(record, environment), ...more, '--', ...command];
  const [file, ...args] = [...(sudo ? ['sudo', '-n'] : []), ...argv];
  return runShort(file as string, args, { timeoutMs: START_TIMEOUT_MS });
}

export function propertiesOf(record: NodeRecord, environment: string): string[] {
  const property = (name: string, value: string) => `--property=${name}=${value}`;
  const limits = record.limits.flatMap(({ name, soft, hard }) => {
    const known = LIMITS[name];
    const value = [soft, hard].map((limit) => (limit === 'unlimited' ? 'infinity' : limit)).join(':');
    return known === undefined ? [] : [property(known, value)];
  });
  return [
    '--collect',
    '--no-ask-password',
    '--description=KWDB, started by kwfleet as it was started before',
    `--working-directory=${record.cwd}`,
    `--uid=${record.uid}`,
    `--gid=${record.gid}`,
    property('EnvironmentFile', environment),
    property('UMask', record.umask),
    // It is ended by its own signal alone, as it always was; a stop takes as long as it takes.
    property('TimeoutStopSec', 'infinity'),
    ...limits,
    ...(record.stdout === undefined ? [] : [property('StandardOutput', `append:${record.stdout}`)]),
    ...(record.stderr === undefined ? [] : [property('StandardError', `append:${record.stderr}`)]),
  ];
}

/** A line of systemd's environment files: in double quotes, with what means something in them escaped. */
export function environmentLine(line: string): string {
  const at = line.indexOf('=');
  const value = line.slice(at + 1).replace(/[\\"$`]/g, '\\$&');
  return `${line.slice(0, at)}="${value}"\n`;
}
