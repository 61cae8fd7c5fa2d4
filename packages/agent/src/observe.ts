/** Everything the agent can see of its node, as one report. Looks only; nothing here changes the host. */
import { readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import {
  type ClusterHealth,
  type ClusterView,
  FleetError,
  type Installation,
  type LedgerEntry,
  type NodeReport,
  type PackageInfo,
} from '@kwfleet/core';
import Type, { type Static } from 'typebox';
import Value from 'typebox/value';
import { CLEAN, type Deployment, type Finder, type Judged } from './deployment/deployment.ts';
import type { ImageAnswers } from './docker/image-answers.ts';
import { type HostOptions, hostFacts } from './host/host-facts.ts';
import { type HttpHealth, httpHealth, isListening } from './host/http-health.ts';
import { type Kwbase, ownId } from './host/kwbase.ts';
import type { UnitState } from './host/services.ts';
import { placeOf, SurroundingsLook } from './host/surroundings.ts';

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

export type ObserverOptions = HostOptions & {
  /** Asked in this order; the first that finds something is taken. */
  readonly finders: readonly Finder[];
  /** Who tells of images; absent where no container engine is looked for. */
  readonly images?: ImageAnswers;
};

const HTTP_TIMEOUT_MS = 2000;
const PEERS_ASKED = 3;
const SILENT: HttpHealth = { serving: false, ready: false };
/** Where KWDB would be installed by its scripts: what is free there is told before anything is. */
const DEFAULT_DIRECTORIES = { installDir: '/usr/local/kaiwudb', dataDir: '/var/lib/kaiwudb' };

export class Observer {
  readonly #options: ObserverOptions;
  readonly #surroundings: SurroundingsLook;
  #known: Known | null | undefined;
  #askedOf = '';
  /** What was last proven of a node whose HTTP cannot be asked. */
  #proven: HttpHealth = SILENT;

  constructor(options: ObserverOptions) {
    this.#options = options;
    this.#surroundings = new SurroundingsLook(options);
  }

  /**
   * Never takes longer than its bounded questions; what does not answer is absent. `wanted`: the package of the order in
   * hand, of whose image the report tells too.
   */
  async observe(wanted?: PackageInfo): Promise<NodeReport> {
    this.#options.images?.note(wanted);
    const { now } = this.#options;
    const deployment = await this.deployment();
    const host = await hostFacts(this.#options, deployment?.site ?? DEFAULT_DIRECTORIES);
    if (deployment === undefined)
      return { host, serving: false, ready: false, ...(await this.#identity()), observedAtMs: now() };
    const { security } = deployment.site;
    const unit = await deployment.state();
    const http = security === 'tlcp' ? undefined : await this.#http(deployment);
    const view = (http?.serving ?? unit.mainPid !== null) ? await this.#view(deployment, unit) : undefined;
    const installation = await this.#installation(deployment, unit, view);
    const answers = http ?? provenByStatus(view, unit);
    this.#proven = answers;
    const surroundings = await this.#surroundings.look(
      placeOf(deployment, this.#options.root),
      unit.mainPid === null,
      deployment.installedBytes?.bind(deployment),
    );
    return {
      host: { ...host, surroundings },
      installation,
      ...answers,
      ...(await this.#identity()),
      ...(view === undefined ? {} : { view }),
      observedAtMs: now(),
    };
  }

  /** `/health` alone: cheap enough for every heartbeat. */
  async pulse(): Promise<HttpHealth> {
    const deployment = await this.deployment();
    if (deployment === undefined) return SILENT;
    if (deployment.site.security !== 'tlcp') return this.#http(deployment);
    return (await isListening(deployment.endpoint, HTTP_TIMEOUT_MS)) ? this.#proven : SILENT;
  }

  /** How KWDB is deployed here; undefined when none of the finders finds it. */
  async deployment(): Promise<Deployment | undefined> {
    for (const finder of this.#options.finders) {
      const found = await finder.find();
      if (found !== undefined) return found;
    }
    return undefined;
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
    return (await this.#installed()).kwbase;
  }

  async #installed(): Promise<Deployment> {
    const deployment = await this.deployment();
    if (deployment === undefined) throw new FleetError('NOT_INSTALLED', 'KWDB is not installed on this host');
    return deployment;
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
    const deployment = await this.#installed();
    const { kwbase } = deployment;
    const peers = ((await this.known())?.peers ?? []).slice(0, PEERS_ASKED);
    const own: Asked = { host: kwbase.host, address: listedAs(deployment) };
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

  async #http({ endpoint }: Deployment): Promise<HttpHealth> {
    try {
      return await httpHealth(endpoint, HTTP_TIMEOUT_MS);
    } catch {
      // The authority's certificate cannot be read: nothing that answers could be trusted.
      return SILENT;
    }
  }

  async #view(deployment: Deployment, unit: UnitState): Promise<ClusterView | undefined> {
    const { kwbase } = deployment;
    try {
      const clusterId = await this.#clusterId(kwbase, unit);
      const rows = await kwbase.nodeStatus();
      const kwdbId = ownId(rows, listedAs(deployment));
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

  async #installation(deployment: Deployment, unit: UnitState, view: ClusterView | undefined): Promise<Installation> {
    const own = view?.nodes.find((row) => row.kwdbId === view.kwdbId);
    const running = isOfThisProcess(own?.startedAtMs, unit) ? own?.build : undefined;
    const versions = { ...(await deployment.versions()), ...(running === undefined ? {} : { running }) };
    const judged = await deployment.judge(versions);
    const marked = own?.isLive === true && !own.isAvailable && !own.isDecommissioning;
    const { condition, conditionDetail } =
      judged.condition === 'clean' ? markOf(marked, await deployment.startArguments()) : judged;
    const unfit = deployment.unfit === undefined ? {} : { unfit: deployment.unfit };
    return { ...deployment.site, unit: unitOf(unit), versions, condition, conditionDetail, ...unfit };
  }
}

const listedAs = ({ listedAs: told, site }: Deployment): string => told ?? `${site.address}:${site.port}`;

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

/** Right after a restart the database still lists what the process before wrote. */
function isOfThisProcess(startedAtMs: number | undefined, unit: UnitState): boolean {
  if (startedAtMs === undefined || unit.mainPid === null) return false;
  // systemd tells whole seconds.
  return unit.startedAtMs === null || startedAtMs + 1000 >= unit.startedAtMs;
}

/** For TLCP, which Node does not speak: the node's own record, renewed after its process started. */
function provenByStatus(view: ClusterView | undefined, unit: UnitState): HttpHealth {
  const own = view?.nodes.find((row) => row.kwdbId === view.kwdbId);
  if (own === undefined) return SILENT;
  const renewed = (own.updatedAtMs ?? 0) > (unit.startedAtMs ?? Number.MAX_SAFE_INTEGER);
  return { serving: true, ready: renewed && own.isLive && own.isAvailable && !own.isDraining };
}

function markOf(marked: boolean, startArguments: string): Judged {
  if (marked)
    return { condition: 'marked-upgrading', conditionDetail: 'the database lists this node as being upgraded' };
  if (startArguments.includes('--upgrade-complete')) {
    return { condition: 'marked-upgrading', conditionDetail: '--upgrade-complete is left in the start arguments' };
  }
  return CLEAN;
}
