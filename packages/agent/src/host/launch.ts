/** Starts a node of a source build as it was started before, in a unit of its own, which does not end with the agent. */
import { join } from 'node:path';
import { FleetError } from '@kwfleet/core';
import type { NodeRecord } from '../deployment/source-record.ts';
import { replaceFile } from '../journal/file-storage.ts';
import { runShort, wordsOf } from './run.ts';

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

/** Throws START_FAILED with the service manager's own words. */
export async function launchNode(
  record: NodeRecord,
  { directory, sudo }: { readonly directory: string; readonly sudo: boolean },
): Promise<void> {
  // A file, not arguments: everybody can read those, and an environment may hold secrets.
  const environment = join(directory, 'environment');
  await replaceFile(environment, record.environment.map(environmentLine).join(''));
  // systemd replaces $NAME in a command line; two of them are one dollar sign.
  const command = [record.binary, ...record.args].map((word) => word.replaceAll('$', '$$$$'));
  const argv = ['systemd-run', ...propertiesOf(record, environment), '--', ...command];
  const [file, ...args] = [...(sudo ? ['sudo', '-n'] : []), ...argv];
  const ended = await runShort(file as string, args, { timeoutMs: START_TIMEOUT_MS });
  if (ended.exitCode === 0) return;
  throw new FleetError('START_FAILED', 'the service manager could not start the database', { words: wordsOf(ended) });
}

export function propertiesOf(record: NodeRecord, environment: string): string[] {
  const property = (name: string, value: string) => `--property=${name}=${value}`;
  const limits = record.limits.flatMap(({ name, soft, hard }) => {
    const known = LIMITS[name];
    const value = [soft, hard].map((limit) => (limit === 'unlimited' ? 'infinity' : limit)).join(':');
    return known === undefined ? [] : [property(known, value)];
  });
  return [
    `--unit=${UNIT}`,
    '--collect',
    '--quiet',
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
