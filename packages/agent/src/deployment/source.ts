/** KWDB built from source: found by the process that runs its `kwbase`, and remembered for when it is stopped. */
import { readFile, realpath, stat } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join, resolve } from 'node:path';
import { FleetError, type Installation, tellsVersion } from '@kwfleet/core';
import { isWithin } from '../backup/tree.ts';
import { bootId, packageFamily } from '../host/host-facts.ts';
import type { Endpoint } from '../host/http-health.ts';
import { Kwbase, localRunner, securityArguments } from '../host/kwbase.ts';
import { parseVersionFile } from '../host/mode.ts';
import {
  librariesOf,
  type NodeProcess,
  nodeProcesses,
  startedAtMs,
  surroundings,
  treeOf,
  userName,
} from '../host/node-processes.ts';
import { isServer, packageRecords } from '../host/package-database.ts';
import type { ServiceManager, UnitState } from '../host/services.ts';
import {
  addressOf,
  HTTP_PORT,
  SQL_PORT,
  type StartCommand,
  securityOf,
  startCommand,
  storeObstacle,
  storeOf,
} from '../host/start-command.ts';
import {
  type Deployment,
  type Finder,
  type FinderOptions,
  type HostedVersions,
  type Judged,
  known,
  processBehind,
  versionIn,
} from './deployment.ts';
import { DEFAULT_INSTALL_DIR } from './script.ts';
import type { NodeRecord, SourceRecords } from './source-record.ts';

export type SourceFinderOptions = FinderOptions & {
  readonly records: SourceRecords;
  readonly services: ServiceManager;
  /** The tree in use, where the host runs nodes of several, or where processes are called by another path. */
  readonly tree: string | undefined;
};

/** Units of the agent's own making do not outlive the process in them. */
const OWN_UNITS = 'kwfleet-';

type Told = { stamp: string; version: string | undefined };

export class SourceFinder implements Finder {
  readonly #options: SourceFinderOptions;
  readonly #told: Told = { stamp: '', version: undefined };
  #turn: Promise<void> = Promise.resolve();

  constructor(options: SourceFinderOptions) {
    this.#options = options;
  }

  /** Throws METHOD_UNSUPPORTED where several nodes run and none is chosen. */
  find(): Promise<SourceDeployment | undefined> {
    // Reports and orders ask at any time: a process is taken down once, and all are told the same of it.
    const turn = this.#turn.then(() => this.#find());
    this.#turn = turn.then(
      () => {},
      () => {},
    );
    return turn;
  }

  async #find(): Promise<SourceDeployment | undefined> {
    const kept = await this.#options.records.node();
    const running = await this.#chosen();
    const record = running === undefined ? kept : await this.#take(running, kept);
    const command = record && startCommand(record.args);
    if (record === undefined || command === undefined || (await isPackaged(record.tree))) return undefined;
    const user = await userName(record.uid);
    const places = await this.#places(record, command);
    return new SourceDeployment({ ...this.#options, record, command, running, user, places, told: this.#told });
  }

  /** The record of how it was started is not put back: it is of the tree, or the unit, that is in use now. */
  async #places({ cwd, tree, unit }: NodeRecord, command: StartCommand): Promise<Places> {
    const { records, services } = this.#options;
    const [named, data] = [command.flags.get('certs-dir'), storeOf(command, cwd)];
    const certificates = securityOf(command) === 'insecure' || named === undefined ? undefined : resolve(cwd, named);
    const obstacle =
      storeObstacle(command) ?? (await inTree(tree, [data, ...(certificates === undefined ? [] : [certificates])]));
    return {
      ...(certificates === undefined || isWithin(certificates, data) ? {} : { certificates }),
      configuration: unit === undefined ? [] : [...((await services.files?.(unit)) ?? [])],
      definition: [records.nodeFile],
      ...(obstacle === undefined ? {} : { obstacle }),
    };
  }

  async #chosen(): Promise<Running | undefined> {
    const { tree } = this.#options;
    const found: Running[] = [];
    for (const one of await nodeProcesses()) {
      const own = treeOf(one.binary);
      if (tree === undefined) found.push({ ...one, tree: own });
      else if (own === tree || (await isSame(own, tree))) {
        found.push({ ...one, tree, binary: join(tree, 'bin/kwbase') });
      }
    }
    if (found.length < 2) return found[0];
    const names = found.map(({ pid, binary }) => `${binary} (${pid})`).join(', ');
    throw new FleetError('METHOD_UNSUPPORTED', `several nodes run here: ${names}; one agent looks after one of them`);
  }

  /** Takes down how a process was started, once; it is on disk before anybody is told of the process. */
  async #take(running: Running, kept: NodeRecord | undefined): Promise<NodeRecord> {
    const { pid, startTicks, argv, cwd, binary, tree } = running;
    const boot = await bootId();
    const before = kept?.process;
    if (kept !== undefined && before?.pid === pid && before.startTicks === startTicks && before.bootId === boot) {
      return kept;
    }
    const around = await surroundings(running);
    const unit = await this.#unitOf(running);
    const record: NodeRecord = {
      tree,
      binary,
      args: argv.slice(1),
      cwd,
      ...(unit === undefined ? {} : { unit }),
      ...around,
      limits: [...around.limits],
      environment: await withLibraries(around.environment, tree),
      process: { pid, startTicks, bootId: boot, startedAtMs: await startedAtMs(running) },
    };
    await this.#options.records.keepNode(record);
    return record;
  }

  /** The unit counts when the process is its main one, or that one is a script that speaks of kwbase: not cron's. */
  async #unitOf({ unit, pid }: NodeProcess): Promise<string | undefined> {
    if (unit === undefined || unit.startsWith(OWN_UNITS)) return undefined;
    const { mainPid } = await this.#options.services.state(unit);
    if (mainPid === pid) return unit;
    const command = mainPid === null ? '' : await readFile(`/proc/${mainPid}/cmdline`, 'utf8').catch(() => '');
    return /kwbase/.test(command) ? unit : undefined;
  }
}

/** What lies in the tree goes out of sight with it, when another takes its place. */
export async function inTree(tree: string, paths: readonly string[]): Promise<string | undefined> {
  const [top = tree, ...real] = await Promise.all([tree, ...paths].map((path) => realpath(path).catch(() => path)));
  const at = real.findIndex((path) => isWithin(path, top));
  const inside = paths.find((path, index) => index === at || isWithin(path, tree));
  return inside === undefined ? undefined : `${inside} lies within ${tree}, which an upgrade exchanges`;
}

type Places = NonNullable<Deployment['site']['places']>;
type Running = NodeProcess & { readonly tree: string };

async function isSame(a: string, b: string): Promise<boolean> {
  const [first, second] = await Promise.all([a, b].map((path) => realpath(path).catch(() => undefined)));
  return first !== undefined && first === second;
}

/** A script installation that lost its MODE is none of a source build. */
async function isPackaged(tree: string): Promise<boolean> {
  if (tree !== DEFAULT_INSTALL_DIR) return false;
  return (await packageRecords('/', await packageFamily('/'))).some(isServer);
}

/** With the tree's libraries first, by the path that a switch of the tree leads to the new ones. */
async function withLibraries(environment: readonly string[], tree: string): Promise<string[]> {
  const name = 'LD_LIBRARY_PATH=';
  const before = environment.find((line) => line.startsWith(name))?.slice(name.length) ?? '';
  const own = librariesOf(tree);
  const others: string[] = [];
  for (const path of before.split(':').filter((entry) => entry !== '' && entry !== own)) {
    if (!(await isSame(path, own))) others.push(path);
  }
  return [...environment.filter((line) => !line.startsWith(name)), name + [own, ...others].join(':')];
}

type Parts = SourceFinderOptions & {
  readonly record: NodeRecord;
  readonly command: StartCommand;
  readonly running: NodeProcess | undefined;
  readonly user: string;
  readonly places: Places;
  readonly told: Told;
};

export class SourceDeployment implements Deployment {
  readonly site: Deployment['site'];
  readonly kwbase: Kwbase;
  readonly endpoint: Endpoint;
  readonly record: NodeRecord;
  readonly running: NodeProcess | undefined;
  readonly #services: ServiceManager;
  readonly #told: Told;

  constructor({ record, command, running, user, places, told, services, now, statusTimeoutMs }: Parts) {
    this.record = record;
    this.running = running;
    this.#services = services;
    this.#told = told;
    const { flags } = command;
    const listen = addressOf(flags.get('listen-addr'), SQL_PORT);
    const http = addressOf(flags.get('http-addr'), HTTP_PORT);
    const advertised = addressOf(flags.get('advertise-addr'), listen.port);
    const address = [advertised.host, listen.host].find((host) => !isEverywhere(host)) ?? hostname();
    const certificates = resolve(record.cwd, flags.get('certs-dir') ?? '');
    const security = securityOf(command);
    this.site = {
      method: 'source',
      topology: command.topology,
      installDir: record.tree,
      dataDir: storeOf(command, record.cwd),
      places,
      address,
      port: advertised.port,
      httpPort: http.port,
      user,
      security,
      encrypted: flags.has('store-encryption'),
      peers: peersOf(command, address),
    };
    this.kwbase = new Kwbase({
      run: runnerOf(record, record.tree),
      host: `${isEverywhere(listen.host) ? '127.0.0.1' : listen.host}:${listen.port}`,
      security: securityArguments(security, certificates),
      clock: now,
      timeoutMs: statusTimeoutMs,
    });
    this.endpoint = {
      host: isEverywhere(http.host) ? '127.0.0.1' : http.host,
      port: http.port,
      ...(security === 'tls' ? { authority: join(certificates, 'ca.crt') } : {}),
    };
  }

  async state(): Promise<UnitState> {
    const { unit, process } = this.record;
    if (unit !== undefined) return this.#services.state(unit);
    if (this.running === undefined) {
      return { exists: true, active: 'inactive', enabled: false, mainPid: null, startedAtMs: null };
    }
    return { exists: true, active: 'active', enabled: false, mainPid: process.pid, startedAtMs: process.startedAtMs };
  }

  async versions(): Promise<HostedVersions> {
    const binary = versionIn(await this.#binaryVersion());
    const written = await readFile(join(this.record.tree, '.version'), 'utf8').catch(() => '');
    const told = versionIn(parseVersionFile(written));
    // Only the file has the extension, where the one who built it wrote one; kwbase itself must agree.
    return known({ package: told !== undefined && tellsVersion(binary ?? '', told) ? told : undefined, binary });
  }

  async judge(versions: Installation['versions']): Promise<Judged> {
    if (versions.binary === undefined) {
      return { condition: 'binary-missing', conditionDetail: `${this.record.binary} is gone, or tells no version` };
    }
    return processBehind(versions);
  }

  async startArguments(): Promise<string> {
    return this.record.args.join(' ');
  }

  async #binaryVersion(): Promise<string | undefined> {
    const found = await stat(this.record.binary, { bigint: true }).catch(() => null);
    if (found === null) return undefined;
    const stamp = `${found.ino} ${found.size} ${found.mtimeNs} ${found.ctimeNs}`;
    if (this.#told.stamp !== stamp || this.#told.version === undefined) {
      this.#told.version = await this.kwbase.version();
      this.#told.stamp = stamp;
    }
    return this.#told.version;
  }
}

/** Runs the `kwbase` of a tree as the database's own user: what others can write, root does not run. */
export function runnerOf({ uid, gid }: Pick<NodeRecord, 'uid' | 'gid'>, tree: string) {
  const isRoot = process.getuid?.() === 0;
  return localRunner({
    file: join(tree, 'bin/kwbase'),
    libraries: librariesOf(tree),
    ...(isRoot ? { user: { uid, gid } } : {}),
  });
}

const isEverywhere = (host: string): boolean => ['', '0.0.0.0', '::'].includes(host);

function peersOf({ flags }: StartCommand, own: string): string[] {
  const joined = (flags.get('join') ?? '').split(',').filter((peer) => peer !== '');
  return joined.map((peer) => addressOf(peer, SQL_PORT).host).filter((host) => host !== own);
}
