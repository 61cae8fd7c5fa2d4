/** Everything the agent can see of its node, as one report. Looks only; nothing here changes the host. */
import { readFile, rename, stat, statfs, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { dirname, join } from 'node:path';
import {
  type ClusterHealth,
  type ClusterView,
  type Condition,
  FleetError,
  type HostFacts,
  type Installation,
  isVersion,
  type LedgerEntry,
  type NodeReport,
  tellsVersion,
} from '@kwfleet/core';
import Type, { type Static } from 'typebox';
import Value from 'typebox/value';
import { type HttpHealth, httpHealth } from './host/http-health.ts';
import { Kwbase, ownId } from './host/kwbase.ts';
import {
  certificateSecurity,
  ENV_FILE,
  INFO_DIR,
  type Mode,
  parseMode,
  parsePeers,
  parseVersionFile,
  readText,
  UNIT,
} from './host/mode.ts';
import { dpkgRecords, isServer, type PackageRecord, rpmRecords } from './host/package-database.ts';
import { runShort } from './host/run.ts';
import type { ServiceManager, UnitState } from './host/services.ts';

/** What the database last said of this node: a stopped node still knows who it is and whom to ask. */
const Known = Type.Object({
  clusterId: Type.String(),
  kwdbId: Type.Integer(),
  /** SQL addresses of the other nodes. */
  peers: Type.Array(Type.String()),
  /** Whether the database listed this node as being upgraded when it was last seen. */
  marked: Type.Boolean(),
});
export type Known = Static<typeof Known>;

export type ObserverOptions = {
  readonly root: string;
  readonly stateDir: string;
  readonly services: ServiceManager;
  readonly now: () => number;
  readonly statusTimeoutMs: number;
  readonly agentVersion: string;
  /** Whether commands that need root go through `sudo -n`. */
  readonly sudo: boolean;
};

const HTTP_TIMEOUT_MS = 2000;
const PEERS_ASKED = 3;
const DEFAULT_INSTALL_DIR = '/usr/local/kaiwudb';

export class Observer {
  readonly #options: ObserverOptions;
  #known: Known | null | undefined;
  #askedOf = '';
  /** The binary that told its version, by its file's identity: it is asked again only when the file changed. */
  #binary: { readonly stamp: string; readonly version: string | undefined } | undefined;

  constructor(options: ObserverOptions) {
    this.#options = options;
  }

  /** Never takes longer than its bounded questions; what does not answer is absent. */
  async observe(): Promise<NodeReport> {
    const { now } = this.#options;
    const mode = await this.mode();
    const host = await this.#host(mode);
    if (mode === undefined)
      return { host, serving: false, ready: false, ...(await this.#identity()), observedAtMs: now() };
    const unit = await this.#options.services.state(UNIT);
    const http = await this.#http(mode);
    const view =
      http.serving || (mode.security === 'tlcp' && unit.mainPid !== null) ? await this.#view(mode, unit) : undefined;
    const installation = await this.#installation(mode, unit, view);
    const answers = mode.security === 'tlcp' && !http.serving ? provenByStatus(view, unit) : http;
    return {
      host,
      installation,
      ...answers,
      ...(await this.#identity()),
      ...(view === undefined ? {} : { view }),
      observedAtMs: now(),
    };
  }

  /** `/health` alone: cheap enough for every heartbeat. */
  async pulse(): Promise<HttpHealth> {
    const mode = await this.mode();
    return mode === undefined ? { serving: false, ready: false } : this.#http(mode);
  }

  /** What MODE says; undefined when there is no script installation. */
  async mode(): Promise<Mode | undefined> {
    const { root } = this.#options;
    const text = await readText(root, `${INFO_DIR}/MODE`);
    return text === null ? undefined : parseMode(text, await certificateSecurity(root));
  }

  async known(): Promise<Known | null> {
    if (this.#known !== undefined) return this.#known;
    try {
      const kept: unknown = JSON.parse(await readFile(this.#knownFile, 'utf8'));
      this.#known = Value.Check(Known, kept) ? kept : null;
    } catch {
      // Missing, or torn by a power cut: the database tells it again.
      this.#known = null;
    }
    return this.#known;
  }

  /** The client of this node's database. Throws NOT_INSTALLED. */
  async kwbase(): Promise<Kwbase> {
    const mode = await this.mode();
    if (mode === undefined) throw new FleetError('NOT_INSTALLED', 'there is no MODE: KWDB is not installed by script');
    return this.#client(mode);
  }

  /** The questions of a cluster check, through this node or, when it does not answer, through one of the others. */
  async health(questions: 'ranges' | 'all'): Promise<ClusterHealth> {
    const known = await this.known();
    return this.#throughAny((kwbase, asked) => askHealth(kwbase, asked, known, questions));
  }

  setSetting(entry: LedgerEntry): Promise<void> {
    return this.#throughAny((kwbase, asked) => kwbase.setSetting(entry, asked.host));
  }

  /** The first answer of this node and, when it has none, of the others it knows; else this node's error. */
  async #throughAny<T>(question: (kwbase: Kwbase, asked: Asked) => Promise<T>): Promise<T> {
    const mode = await this.mode();
    if (mode === undefined) throw new FleetError('NOT_INSTALLED', 'there is no MODE: KWDB is not installed by script');
    const kwbase = this.#client(mode);
    const peers = ((await this.known())?.peers ?? []).slice(0, PEERS_ASKED);
    const own: Asked = { host: kwbase.host, address: `${mode.address}:${mode.port}` };
    let first: unknown;
    for (const asked of [own, ...peers.map((address) => ({ host: address, address }))]) {
      try {
        return await question(kwbase, asked);
      } catch (error) {
        first ??= error;
      }
    }
    throw first;
  }

  #client(mode: Mode): Kwbase {
    const { root, now, statusTimeoutMs, sudo } = this.#options;
    const installDir = installDirOf(mode);
    return new Kwbase({ root, installDir, mode, clock: now, timeoutMs: statusTimeoutMs, sudo });
  }

  async #http(mode: Mode): Promise<HttpHealth> {
    try {
      return await httpHealth(this.#options.root, mode, HTTP_TIMEOUT_MS);
    } catch {
      // The authority's certificate cannot be read: nothing that answers could be trusted.
      return { serving: false, ready: false };
    }
  }

  async #view(mode: Mode, unit: UnitState): Promise<ClusterView | undefined> {
    const kwbase = this.#client(mode);
    try {
      const clusterId = await this.#clusterId(kwbase, unit);
      const rows = await kwbase.nodeStatus();
      const kwdbId = ownId(rows, `${mode.address}:${mode.port}`);
      if (kwdbId === undefined) return undefined;
      const own = rows.find((row) => row.kwdbId === kwdbId);
      const peers = rows.filter((row) => row.kwdbId !== kwdbId && row.isLive);
      await this.#keep({
        clusterId,
        kwdbId,
        peers: peers.map((row) => row.sqlAddress ?? row.address).filter((address) => address !== undefined),
        marked: own?.isLive === true && !own.isAvailable && !own.isDecommissioning,
      });
      const nodes = rows.map(({ sqlAddress: _, ...row }) => row);
      return { clusterId, kwdbId, observedAtMs: this.#options.now(), nodes };
    } catch (error) {
      if (error instanceof FleetError) return undefined;
      throw error;
    }
  }

  /** Asked once a database process: a node can have been made anew in another cluster. */
  async #clusterId(kwbase: Kwbase, unit: UnitState): Promise<string> {
    const process = `${unit.mainPid} ${unit.startedAtMs}`;
    const known = await this.known();
    if (known !== null && this.#askedOf === process) return known.clusterId;
    const clusterId = await kwbase.clusterId();
    this.#askedOf = process;
    return clusterId;
  }

  async #identity(): Promise<Pick<NodeReport, 'identity'>> {
    const known = await this.known();
    return known === null ? {} : { identity: { clusterId: known.clusterId, kwdbId: known.kwdbId } };
  }

  get #knownFile(): string {
    return join(this.#options.stateDir, 'identity.json');
  }

  async #keep(known: Known): Promise<void> {
    if (JSON.stringify(known) === JSON.stringify(this.#known)) return;
    await writeFile(`${this.#knownFile}.new`, JSON.stringify(known), { mode: 0o600 });
    await rename(`${this.#knownFile}.new`, this.#knownFile);
    this.#known = known;
  }

  async #installation(mode: Mode, unit: UnitState, view: ClusterView | undefined): Promise<Installation> {
    const { root } = this.#options;
    const records = mode.method === 'script-bare' ? await this.#packages() : [];
    const own = view?.nodes.find((row) => row.kwdbId === view.kwdbId);
    const recorded = parseVersionFile((await readText(root, `${INFO_DIR}/.version`)) ?? '');
    const versions = known({
      recorded: versionIn(recorded),
      package: versionIn(records.find(isServer)?.version),
      binary: versionIn(mode.method === 'script-bare' ? await this.#binaryVersion(mode) : undefined),
      running: isOfThisProcess(own?.startedAtMs, unit) ? own?.build : undefined,
    });
    const environment = (await readText(root, ENV_FILE)) ?? '';
    const judged = mode.method === 'script-bare' ? conditionOf(versions, records) : CLEAN;
    const marked = own?.isLive === true && !own.isAvailable && !own.isDecommissioning;
    const { condition, conditionDetail } = judged.condition === 'clean' ? markOf(marked, environment) : judged;
    return {
      method: mode.method,
      topology: mode.topology,
      installDir: installDirOf(mode),
      dataDir: mode.dataDir,
      address: mode.address,
      port: mode.port,
      httpPort: mode.httpPort,
      user: mode.user,
      security: mode.security,
      encrypted: mode.encrypted,
      peers: parsePeers((await readText(root, `${INFO_DIR}/NODE`)) ?? ''),
      unit: unitOf(unit),
      versions,
      condition,
      conditionDetail,
    };
  }

  async #packages(): Promise<PackageRecord[]> {
    const { root } = this.#options;
    return (await this.#distribution()).family === 'rpm' ? rpmRecords(root) : dpkgRecords(root);
  }

  async #binaryVersion(mode: Mode): Promise<string | undefined> {
    const kwbase = this.#client(mode);
    const found = await stat(kwbase.file, { bigint: true }).catch(() => null);
    if (found === null) return undefined;
    const stamp = `${found.ino} ${found.size} ${found.mtimeNs} ${found.ctimeNs}`;
    if (this.#binary?.stamp !== stamp || this.#binary.version === undefined) {
      this.#binary = { stamp, version: await kwbase.version() };
    }
    return this.#binary.version;
  }

  async #host(mode: Mode | undefined): Promise<HostFacts> {
    const { root, stateDir, agentVersion, now } = this.#options;
    const installDir = mode === undefined ? DEFAULT_INSTALL_DIR : installDirOf(mode);
    const [agent, install, data] = await Promise.all([
      freeBytes(stateDir),
      freeBytes(join(root, installDir)),
      freeBytes(join(root, mode?.dataDir ?? '/var/lib/kaiwudb')),
    ]);
    return {
      hostname: hostname(),
      architecture: ARCHITECTURES[process.arch] ?? process.arch,
      distribution: await this.#distribution(),
      bootId: await bootId(),
      agentVersion,
      privileges: await this.#privileges(),
      clockMs: now(),
      freeBytes: { agent, install, data },
    };
  }

  async #distribution(): Promise<HostFacts['distribution']> {
    const text =
      (await readText(this.#options.root, '/etc/os-release')) ?? (await readText('/', '/etc/os-release')) ?? '';
    return parseOsRelease(text);
  }

  async #privileges(): Promise<HostFacts['privileges']> {
    // Under a root of its own the agent touches nothing that is not its user's.
    if (process.getuid?.() === 0 || this.#options.root !== '/') return 'root';
    const ended = await runShort('sudo', ['-n', 'true'], { timeoutMs: 5000 });
    return ended.exitCode === 0 ? 'sudo' : 'none';
  }
}

const ARCHITECTURES: Readonly<Record<string, string>> = { x64: 'amd64', arm64: 'arm64' };

/** Where a node is asked, and the address by which it is found among those it lists. */
type Asked = { readonly host: string; readonly address: string };

async function askHealth(
  kwbase: Kwbase,
  asked: Asked,
  known: Known | null,
  questions: 'ranges' | 'all',
): Promise<ClusterHealth> {
  const clusterId = known?.clusterId ?? (await kwbase.clusterId(asked.host));
  const [view, ranges, details] = await Promise.all([
    kwbase.view(clusterId, asked.address, asked.host),
    kwbase.ranges(asked.host),
    questions === 'all' ? kwbase.details(asked.host) : {},
  ]);
  return { view, ...ranges, ...details };
}

export function installDirOf(mode: Mode): string {
  return mode.method === 'script-bare' && mode.place !== '' ? mode.place : DEFAULT_INSTALL_DIR;
}

function unitOf(unit: UnitState): Installation['unit'] {
  const { exists, active, enabled, mainPid, startedAtMs } = unit;
  return {
    exists,
    active,
    enabled,
    ...(mainPid === null ? {} : { mainPid }),
    ...(startedAtMs === null ? {} : { startedAtMs }),
  };
}

function known(versions: Record<string, string | undefined>): Installation['versions'] {
  return Object.fromEntries(Object.entries(versions).filter(([, version]) => version !== undefined));
}

/** A version that can be compared, or none. A package's own revision (`3.1.0-1`) is left out. */
export function versionIn(text: string | undefined): string | undefined {
  if (text === undefined) return undefined;
  if (isVersion(text)) return text;
  return /^(?:\d+:)?(\d+\.\d+\.\d+)(?=[-+~])/.exec(text)?.[1];
}

/** Right after a restart the database still lists what the process before wrote. */
function isOfThisProcess(startedAtMs: number | undefined, unit: UnitState): boolean {
  if (startedAtMs === undefined || unit.mainPid === null) return false;
  // systemd tells whole seconds.
  return unit.startedAtMs === null || startedAtMs + 1000 >= unit.startedAtMs;
}

/** For TLCP, which Node does not speak: the node's own record, renewed after its process started. */
function provenByStatus(view: ClusterView | undefined, unit: UnitState): HttpHealth {
  const own = view?.nodes.find((row) => row.kwdbId === view.kwdbId);
  if (own === undefined) return { serving: false, ready: false };
  const renewed = (own.updatedAtMs ?? 0) > (unit.startedAtMs ?? Number.MAX_SAFE_INTEGER);
  return { serving: true, ready: renewed && own.isLive && own.isAvailable && !own.isDraining };
}

type Judged = { readonly condition: Condition; readonly conditionDetail: string };
const CLEAN: Judged = { condition: 'clean', conditionDetail: '' };

/** The half-done states an interrupted deploy.sh leaves. Source: KWDB facts, "what is left where". */
export function conditionOf(versions: Installation['versions'], records: readonly PackageRecord[]): Judged {
  const half = records.filter((record) => record.state !== 'ii');
  if (half.length > 0) {
    const detail = half.map(({ name, version, state }) => `${name} ${version} is ${state}`).join(', ');
    return { condition: 'package-half-installed', conditionDetail: detail };
  }
  if (!records.some(isServer)) {
    return { condition: 'binary-missing', conditionDetail: 'the package manager holds no server package' };
  }
  const { recorded, binary, running } = versions;
  if (binary === undefined)
    return { condition: 'binary-missing', conditionDetail: 'kwbase is gone, or tells no version' };
  if (recorded !== undefined && !tellsVersion(binary, recorded)) {
    return { condition: 'version-file-behind', conditionDetail: `.version says ${recorded}, kwbase says ${binary}` };
  }
  if (running !== undefined && !tellsVersion(running, binary) && !tellsVersion(binary, running)) {
    return {
      condition: 'process-behind',
      conditionDetail: `the process is ${running}, the installed kwbase ${binary}`,
    };
  }
  return CLEAN;
}

function markOf(marked: boolean, environment: string): Judged {
  if (marked)
    return { condition: 'marked-upgrading', conditionDetail: 'the database lists this node as being upgraded' };
  if (/^KAIWUDB_START_ARG=.*--upgrade-complete/m.test(environment)) {
    return { condition: 'marked-upgrading', conditionDetail: '--upgrade-complete is left in the start arguments' };
  }
  return CLEAN;
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
async function bootId(): Promise<string> {
  try {
    const kernel = (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
    const first = await readFile('/proc/1/stat', 'utf8');
    return `${kernel}/${first.slice(first.lastIndexOf(')') + 2).split(' ')[19] ?? ''}`;
  } catch {
    return 'unknown';
  }
}
