/** KWDB deployed by the vendor's scripts on bare metal: found by what deploy.sh wrote under /etc/kaiwudb. */
import { realpath, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { FleetError, type Installation, tellsVersion } from '@kwfleet/core';
import { isWithin } from '../backup/tree.ts';
import { packageFamily } from '../host/host-facts.ts';
import type { Endpoint } from '../host/http-health.ts';
import { Kwbase, localRunner, securityArguments } from '../host/kwbase.ts';
import {
  CERTS_DIR,
  certificateSecurity,
  ENV_FILE,
  INFO_DIR,
  type Mode,
  parseMode,
  parsePeers,
  parseVersionFile,
  readText,
  SCRIPT_PLACES,
  UNIT,
  UNIT_FILE,
} from '../host/mode.ts';
import { isServer, type PackageRecord, packageRecords } from '../host/package-database.ts';
import type { ServiceManager, UnitState } from '../host/services.ts';
import { type StartCommand, startCommand, storeObstacle, storeOf } from '../host/start-command.ts';
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

export type ScriptFinderOptions = FinderOptions & {
  readonly root: string;
  readonly services: ServiceManager;
  /** Whether commands that need root go through `sudo -n`. */
  readonly sudo: boolean;
};

export const DEFAULT_INSTALL_DIR = '/usr/local/kaiwudb';

/** A binary that told its version, by its file's identity: it is asked again only when the file changed. */
type ToldBinary = { readonly stamp: string; readonly version: string | undefined };

export class ScriptFinder implements Finder {
  readonly #options: ScriptFinderOptions;
  readonly #told: { binary: ToldBinary | undefined } = { binary: undefined };

  constructor(options: ScriptFinderOptions) {
    this.#options = options;
  }

  /** Throws TOPOLOGY_UNKNOWN or METHOD_UNSUPPORTED for a MODE that is not as KWDB writes it. */
  async find(): Promise<Deployment | undefined> {
    const { root } = this.#options;
    const text = await readText(root, `${INFO_DIR}/MODE`);
    if (text === null) return undefined;
    const mode = parseMode(text, await certificateSecurity(root));
    if (mode.method !== 'script-bare') return undefined;
    const peers = parsePeers((await readText(root, `${INFO_DIR}/NODE`)) ?? '');
    const obstacle = await this.#obstacle(mode);
    return new ScriptDeployment(this.#options, { mode, peers, obstacle }, this.#told);
  }

  /** The unit can have been changed: the stores are those that it starts the database with. */
  async #obstacle({ dataDir }: Mode): Promise<string | undefined> {
    const { root } = this.#options;
    const [unit, environment] = await Promise.all([readText(root, UNIT_FILE), readText(root, ENV_FILE)]);
    const command = unitCommand(unit ?? '', environment ?? '');
    if (command === undefined || command.stores.length === 0) return undefined;
    const store = storeOf(command, '/');
    const [real, ...told] = await Promise.all(
      [store, dataDir, join(root, dataDir)].map((path) => realpath(path).catch(() => path)),
    );
    if (!told.some((path) => isWithin(real ?? store, path)))
      return `${UNIT_FILE} keeps the data in ${store}, while MODE says ${dataDir}`;
    return storeObstacle(command);
  }
}

/** The start command in a unit's text, with what its environment file adds; undefined when it starts something else. */
export function unitCommand(unit: string, environment: string): StartCommand | undefined {
  const [, line = ''] = /^ExecStart=((?:\\\n|.)*)/m.exec(unit) ?? [];
  const [, added = ''] = /^KAIWUDB_START_ARG=(.*)$/m.exec(environment) ?? [];
  const words = line
    .replace(/\$\{?KAIWUDB_START_ARG\}?/g, () => added)
    .replace(/["'\\]/g, ' ')
    .split(/\s+/)
    .filter((word) => word !== '');
  const at = words.findIndex((word) => basename(word) === 'kwbase');
  return at === -1 ? undefined : startCommand(words.slice(at + 1));
}

type Found = { readonly mode: Mode; readonly peers: string[]; readonly obstacle: string | undefined };

class ScriptDeployment implements Deployment {
  readonly site: Deployment['site'];
  readonly kwbase: Kwbase;
  readonly endpoint: Endpoint;
  readonly #options: ScriptFinderOptions;
  readonly #told: { binary: ToldBinary | undefined };
  readonly #binary: string;

  constructor(
    options: ScriptFinderOptions,
    { mode, peers, obstacle }: Found,
    told: { binary: ToldBinary | undefined },
  ) {
    const { root, now, statusTimeoutMs, sudo } = options;
    const { place: _, ...rest } = mode;
    const installDir = mode.place === '' ? DEFAULT_INSTALL_DIR : mode.place;
    // Several nodes that share a machine have an address each; a real host listens on all of its own.
    const host = root === '/' ? '127.0.0.1' : mode.address;
    const certificates = join(root, CERTS_DIR);
    const places = { ...SCRIPT_PLACES, ...(obstacle === undefined ? {} : { obstacle }) };
    this.site = { ...rest, installDir, peers, places };
    this.#options = options;
    this.#told = told;
    this.#binary = join(root, installDir, 'bin/kwbase');
    this.kwbase = new Kwbase({
      run: localRunner({
        file: this.#binary,
        libraries: join(root, installDir, 'lib'),
        ...(sudo ? { asUser: mode.user } : {}),
      }),
      host: `${host}:${mode.port}`,
      security: securityArguments(mode.security, certificates),
      clock: now,
      timeoutMs: statusTimeoutMs,
    });
    this.endpoint = {
      host,
      port: mode.httpPort,
      ...(mode.security === 'tls' ? { authority: join(certificates, 'ca.crt') } : {}),
    };
  }

  state(): Promise<UnitState> {
    return this.#options.services.state(UNIT);
  }

  async versions(): Promise<HostedVersions> {
    const recorded = parseVersionFile((await readText(this.#options.root, `${INFO_DIR}/.version`)) ?? '');
    return known({
      recorded: versionIn(recorded),
      package: versionIn(await this.#packagedVersion()),
      binary: versionIn(await this.#binaryVersion()),
    });
  }

  async judge(versions: Installation['versions']): Promise<Judged> {
    try {
      return conditionOf(versions, await this.#packages());
    } catch (error) {
      if (!(error instanceof FleetError)) throw error;
      return { condition: 'package-half-installed', conditionDetail: error.message };
    }
  }

  /** None when the package manager does not tell it: `judge` says why. */
  async #packagedVersion(): Promise<string | undefined> {
    try {
      return (await this.#packages()).find(isServer)?.version;
    } catch (error) {
      if (error instanceof FleetError) return undefined;
      throw error;
    }
  }

  async startArguments(): Promise<string> {
    const environment = (await readText(this.#options.root, ENV_FILE)) ?? '';
    return /^KAIWUDB_START_ARG=(.*)$/m.exec(environment)?.[1] ?? '';
  }

  async #packages(): Promise<PackageRecord[]> {
    const { root } = this.#options;
    return packageRecords(root, await packageFamily(root));
  }

  async #binaryVersion(): Promise<string | undefined> {
    const found = await stat(this.#binary, { bigint: true }).catch(() => null);
    if (found === null) return undefined;
    const stamp = `${found.ino} ${found.size} ${found.mtimeNs} ${found.ctimeNs}`;
    if (this.#told.binary?.stamp !== stamp || this.#told.binary.version === undefined) {
      this.#told.binary = { stamp, version: await this.kwbase.version() };
    }
    return this.#told.binary.version;
  }
}

/** The half-done states an interrupted deploy.sh leaves. Source: KWDB facts, "what is left where". */
export function conditionOf(versions: Installation['versions'], records: readonly PackageRecord[]): Judged {
  const half = records.filter((record) => record.state !== 'ii');
  if (half.length > 0) {
    const detail = half.map(({ name, version, state }) => `${name} ${version} is ${state}`).join(', ');
    return { condition: 'package-half-installed', conditionDetail: detail };
  }
  // rpm can hold two of one name, where an exchange was forced or cut short.
  const twice = records.find((record, at) => records.findIndex(({ name }) => name === record.name) !== at);
  if (twice !== undefined) {
    const versions = records.filter(({ name }) => name === twice.name).map(({ version }) => version);
    return {
      condition: 'package-half-installed',
      conditionDetail: `${twice.name} is there as ${versions.join(' and ')}`,
    };
  }
  if (!records.some(isServer)) {
    return { condition: 'binary-missing', conditionDetail: 'the package manager holds no server package' };
  }
  const { recorded, binary } = versions;
  if (binary === undefined)
    return { condition: 'binary-missing', conditionDetail: 'kwbase is gone, or tells no version' };
  if (recorded !== undefined && !tellsVersion(binary, recorded)) {
    return { condition: 'version-file-behind', conditionDetail: `.version says ${recorded}, kwbase says ${binary}` };
  }
  return processBehind(versions);
}
