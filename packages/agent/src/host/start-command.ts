/** What the command of a node says of it. Source: KWDB facts, "Topologies", "Containers by hand", "Source builds". */
import { posix } from 'node:path';
import type { Security, Topology } from '@kwfleet/core';

export type StartCommand = {
  readonly topology: Topology;
  /** Without the dashes; a flag without a value is empty. */
  readonly flags: ReadonlyMap<string, string>;
};

/** Where a node listens whose command and MODE do not say. Source: KWDB facts, "Files a script installation leaves". */
export const SQL_PORT = 26257;
export const HTTP_PORT = 8080;

const TOPOLOGIES: Readonly<Record<string, Topology>> = {
  'start-single-node': 'standalone',
  start: 'multi-replica',
  'start-single-replica': 'single-replica',
};
/** Flags that take no value: the word after one is not theirs. */
const SWITCHES: ReadonlySet<string> = new Set(['insecure', 'tlcp', 'upgrade-complete', 'background', 'logtostderr']);

/** The start of a node; undefined when these arguments of `kwbase` do something else. */
export function startCommand(args: readonly string[]): StartCommand | undefined {
  const topology = TOPOLOGIES[args.find((word) => !word.startsWith('-')) ?? ''];
  return topology === undefined ? undefined : { topology, flags: flagsOf(args) };
}

function flagsOf(words: readonly string[]): Map<string, string> {
  const flags = new Map<string, string>();
  for (const [at, word] of words.entries()) {
    const [, name, value] = /^--?([\w-]+)(?:=([\s\S]*))?$/.exec(word) ?? [];
    if (name === undefined) continue;
    const next = words[at + 1];
    const takesNext = value === undefined && !SWITCHES.has(name) && next !== undefined && !next.startsWith('-');
    flags.set(name, value ?? (takesNext ? next : ''));
  }
  return flags;
}

export function securityOf({ flags }: StartCommand): Security {
  if (flags.has('insecure')) return 'insecure';
  return flags.has('tlcp') ? 'tlcp' : 'tls';
}

/** `HOST:PORT`, either of which may be missing. */
export function addressOf(text: string | undefined, fallbackPort: number): { host: string; port: number } {
  const [, bracketed, plain = '', port] = /^(?:\[([^\]]*)\]|([^:]*))(?::(\d+))?$/.exec(text ?? '') ?? [];
  return { host: bracketed ?? plain, port: port === undefined ? fallbackPort : Number(port) };
}

/** The directory of the (first) store: `--store=DIR`, or `--store=path=DIR,...`. */
export function storeOf({ flags }: StartCommand, workingDir: string): string {
  const fields = (flags.get('store') ?? flags.get('s') ?? '').split(',');
  const named = fields.find((field) => field.startsWith('path='))?.slice('path='.length);
  const directory = named ?? fields.find((field) => field !== '' && !field.includes('=')) ?? 'kwbase-data';
  return posix.resolve(workingDir === '' ? '/' : workingDir, directory);
}
