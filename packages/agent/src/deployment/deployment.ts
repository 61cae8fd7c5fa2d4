/** How KWDB was deployed on a host, as far as looking at it and asking it differ from method to method. */
import type { Condition, Installation } from '@kwfleet/core';
import { isVersion, tellsVersion } from '@kwfleet/core';
import type { Endpoint } from '../host/http-health.ts';
import type { Kwbase } from '../host/kwbase.ts';
import type { UnitState } from '../host/services.ts';

/** What does not change while the node is only stopped and started. */
export type Site = Pick<
  Installation,
  | 'method'
  | 'topology'
  | 'installDir'
  | 'dataDir'
  | 'places'
  | 'address'
  | 'port'
  | 'httpPort'
  | 'user'
  | 'security'
  | 'encrypted'
  | 'peers'
>;

/** The versions that a host tells without its database. Which of them a method keeps: core's `judgeInstalled`. */
export type HostedVersions = Pick<Installation['versions'], 'recorded' | 'package' | 'binary'>;

export type Judged = { readonly condition: Condition; readonly conditionDetail: string };
export const CLEAN: Judged = { condition: 'clean', conditionDetail: '' };

/** One deployment that was found. Everything it tells is asked anew at each call, bounded, and changes nothing. */
export interface Deployment {
  readonly site: Site;
  /** `kwbase` as this method can run it, asking this node's own database. */
  readonly kwbase: Kwbase;
  /** Where `/health` is asked. */
  readonly endpoint: Endpoint;
  /** `HOST:PORT` by which the database lists this node, where that is not the site's address and port. */
  readonly listedAs?: string;
  /** Why it cannot be exchanged without a loss; absent, or undefined, when it can. */
  readonly unfit?: string | undefined;
  /** What runs the database: a unit, a container, a process. */
  state(): Promise<UnitState>;
  versions(): Promise<HostedVersions>;
  /** The half-done states of this method; `versions` has also the version that runs, when the database told it. */
  judge(versions: Installation['versions']): Promise<Judged>;
  /** Bytes that the installed version occupies; absent: as many as the files below the install directory. */
  installedBytes?(): Promise<number | undefined>;
  /** The arguments with which the database would be started next, as one text; empty when they cannot be read. */
  startArguments(): Promise<string>;
}

/** What every finder is given: the clock, and how long one question to the database may take. */
export type FinderOptions = { readonly now: () => number; readonly statusTimeoutMs: number };

/** Looks whether this host's KWDB was deployed by the finder's method. Also finds one that is stopped or half exchanged. */
export interface Finder {
  find(): Promise<Deployment | undefined>;
}

/** Leaves out what is not known. */
export function known<T extends Record<string, string | undefined>>(versions: T): HostedVersions {
  return Object.fromEntries(Object.entries(versions).filter(([, version]) => version !== undefined));
}

/** A version that can be compared, or none. A package's own revision (`3.1.0-1`) is left out. */
export function versionIn(text: string | undefined): string | undefined {
  if (text === undefined) return undefined;
  if (isVersion(text)) return text;
  return /^(?:\d+:)?(\d+\.\d+\.\d+)(?=[-+~])/.exec(text)?.[1];
}

/** The running process is another version than what is installed: it was not restarted since. */
export function processBehind({ running, binary }: Installation['versions']): Judged {
  if (running === undefined || binary === undefined) return CLEAN;
  if (tellsVersion(running, binary) || tellsVersion(binary, running)) return CLEAN;
  return { condition: 'process-behind', conditionDetail: `the process is ${running}, the installed kwbase ${binary}` };
}
