/** What the command of a node says of it. Source: KWDB facts, "Topologies", "Containers by hand", "Source builds". */
import { posix } from 'node:path';
import type { Security, Topology } from '@kwfleet/core';

export type StartCommand = {
  readonly topology: Topology;
  /** Without the dashes; a flag without a value is empty. */
  readonly flags: ReadonlyMap<string, string>;
  /** The value of each `--store`, in order: none when the default is taken. */
  readonly stores: readonly string[];
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
  if (topology === undefined) return undefined;
  const flags = flagsOf(args);
  const stores = flags.filter(([name]) => name === 'store' || name === 's').map(([, value]) => value);
  return { topology, flags: new Map(flags), stores };
}

function flagsOf(words: readonly string[]): [string, string][] {
  const flags: [string, string][] = [];
  for (const [at, word] of words.entries()) {
    const [, name, value] = /^--?([\w-]+)(?:=([\s\S]*))?$/.exec(word) ?? [];
    if (name === undefined) continue;
    const next = words[at + 1];
    const takesNext = value === undefined && !SWITCHES.has(name) && next !== undefined && !next.startsWith('-');
    flags.push([name, value ?? (takesNext ? next : '')]);
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

/** The directory of the first store: `--store=DIR`, or `--store=path=DIR,...`. */
export function storeOf({ stores }: Pick<StartCommand, 'stores'>, workingDir: string): string {
  const fields = (stores[0] ?? '').split(',');
  const named = fields.find((field) => field.startsWith('path='))?.slice('path='.length);
  const directory = named ?? fields.find((field) => field !== '' && !field.includes('=')) ?? 'kwbase-data';
  return posix.resolve(workingDir === '' ? '/' : workingDir, directory);
}

/** Why a copy of one directory would not hold all the data of the node; undefined when it would. */
export function storeObstacle({ stores }: Pick<StartCommand, 'stores'>): string | undefined {
  if (stores.length > 1) return `the node has ${stores.length} stores (${stores.join(' and ')}), and a copy holds one`;
  if (stores[0]?.split(',').includes('type=mem') === true) return 'the store of the node is in memory';
  return undefined;
}
