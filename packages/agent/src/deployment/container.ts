/**
 * KWDB in a container that people made themselves: by `docker run`, or by a compose project, which leaves its labels. Found
 * by what the container runs, also when it is stopped, and when an exchange of it was interrupted.
 */
import { networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { FleetError, type Installation, isVersion, type Method, tellsVersion } from '@kwfleet/core';
import { type ContainerCommand, containerCommand, onHost } from '../docker/command.ts';
import { LABELS } from '../docker/compose.ts';
import type { ContainerInspect, Engine } from '../docker/engine.ts';
import type { Restrained } from '../docker/exchange.ts';
import { type Images, type Program, THROW_AWAY } from '../docker/images.ts';
import type { MadeRecord } from '../docker/made-record.ts';
import type { Endpoint } from '../host/http-health.ts';
import { Kwbase, type KwbaseRunner, securityArguments } from '../host/kwbase.ts';
import type { Ended } from '../host/run.ts';
import type { UnitState } from '../host/services.ts';
import { addressOf, HTTP_PORT, SQL_PORT, type StartCommand, securityOf, storeOf } from '../host/start-command.ts';
import { containerPlaces } from './container-places.ts';
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

/** What an agent's own records say of the container that this host's KWDB runs in. */
export type Intent = {
  /** The container that counts now; the others of `theirs` do not. */
  readonly current?: ContainerInspect;
  /** Containers of an exchange: kept ones, and such that are not whole yet. */
  readonly theirs: readonly string[];
  /** What is half done, in words; undefined when nothing is. */
  readonly halfDone?: string;
};

export type ContainerFinderOptions = FinderOptions & {
  readonly engine: Engine;
  readonly images: Images;
  /** The container's name, where more than one on the host runs KWDB. */
  readonly name: string | undefined;
  readonly intent: () => Promise<Intent>;
  readonly restrained: () => Promise<Restrained | undefined>;
  readonly made: MadeRecord;
};

const LABEL_VERSION = 'org.opencontainers.image.version';
const NEVER = '0001-01-01T00:00:00Z';

export class ContainerFinder implements Finder {
  readonly #options: ContainerFinderOptions;
  readonly #told = new Map<string, string>();

  constructor(options: ContainerFinderOptions) {
    this.#options = options;
  }

  /**
   * Of several containers without a choice the one that runs, as unfit. Throws CONTAINER_UNFIT when not just one of them
   * runs; ENGINE_SILENT without an engine.
   */
  async find(): Promise<ContainerDeployment | undefined> {
    const { engine, images, intent, made } = this.#options;
    if (!(await engine.present())) return undefined;
    // An engine that is installed and stopped is nothing to wait for, where it never ran KWDB.
    if (!(await engine.answers()) && !(await images.any())) return undefined;
    const wanted = await intent();
    const restrained = await this.#options.restrained();
    const found = await this.#found(wanted, restrained);
    if (found === undefined) return undefined;
    const { root } = await engine.info();
    const { intent: _, ...options } = this.#options;
    const told = this.#told;
    // Its restart policy is taken away while it is being stopped.
    if (restrained?.container !== found.inspect.Id) await made.keep(found.inspect);
    const places = await containerPlaces(engine, found.inspect, found.command, made.file);
    return new ContainerDeployment({ ...found, ...options, wanted, restrained, engineRoot: root, told, places });
  }

  async #found(wanted: Intent, restrained: Restrained | undefined): Promise<Found | undefined> {
    const { engine, name } = this.#options;
    const command = wanted.current && containerCommand(wanted.current);
    if (wanted.current !== undefined && command !== undefined) return { inspect: wanted.current, command };
    const candidates: Found[] = [];
    for (const { Id, Labels, Names, Command } of await engine.containers()) {
      if (!Command.includes('kwbase') || Labels[THROW_AWAY] !== undefined || Labels[LABELS.oneOff] === 'True') continue;
      if (wanted.theirs.includes(Id) || (name !== undefined && !Names.includes(`/${name}`))) continue;
      const inspect = await engine.container(Id);
      const command = inspect && containerCommand(inspect);
      if (inspect !== undefined && command !== undefined) candidates.push({ inspect, command });
    }
    if (candidates.length < 2) return candidates[0];
    const names = candidates.map(({ inspect }) => nameOf(inspect)).join(', ');
    const doubt = `several containers run KWDB here: ${names}; say in agent.yaml which one is meant (docker.container), or remove the others`;
    const [running, ...more] = candidates.filter(({ inspect }) => inspect.State.Running);
    // This agent stopped it, or starts it: whatever was made meanwhile, it is known which one is meant.
    const meant = candidates.find(({ inspect }) => inspect.Id === restrained?.container);
    if (meant !== undefined && more.length === 0 && (running === undefined || running === meant)) return meant;
    if (running !== undefined && more.length === 0) return { ...running, doubt };
    throw new FleetError('CONTAINER_UNFIT', doubt);
  }
}

type Found = {
  readonly inspect: ContainerInspect;
  readonly command: ContainerCommand;
  /** Why it is not sure that this one is meant: stopped, it could not be told from the others. */
  readonly doubt?: string;
};

type Parts = Found &
  Omit<ContainerFinderOptions, 'intent' | 'restrained' | 'made'> & {
    readonly wanted: Intent;
    readonly restrained: Restrained | undefined;
    readonly engineRoot: string;
    readonly told: Map<string, string>;
    readonly places: NonNullable<Deployment['site']['places']>;
  };

export const nameOf = ({ Name }: Pick<ContainerInspect, 'Name'>): string => Name.replace(/^\//, '');

export const wasStarted = ({ State }: ContainerInspect): boolean => State.StartedAt !== NEVER && State.StartedAt !== '';

export class ContainerDeployment implements Deployment {
  readonly site: Deployment['site'];
  readonly kwbase: Kwbase;
  readonly endpoint: Endpoint;
  readonly listedAs: string;
  readonly inspect: ContainerInspect;
  readonly program: Program;
  /** Why this container cannot be replaced without a loss; undefined when it can. */
  readonly unfit: string | undefined;
  readonly #parts: Parts;

  constructor(parts: Parts) {
    const { inspect, command, engine, now, statusTimeoutMs } = parts;
    this.#parts = parts;
    this.inspect = inspect;
    const workingDir = inspect.Config.WorkingDir;
    this.program = { kwbase: command.kwbase, workingDir };
    const listen = addressOf(command.flags.get('listen-addr'), SQL_PORT);
    const http = addressOf(command.flags.get('http-addr'), HTTP_PORT);
    const advertised = addressOf(command.flags.get('advertise-addr'), listen.port);
    const data = onHost(inspect, storeOf(command, workingDir));
    const certificates = onHost(inspect, command.flags.get('certs-dir') ?? '');
    this.unfit = parts.doubt ?? unfitness(inspect, data, securityOf(command) === 'insecure' ? '/' : certificates);
    this.endpoint = this.#endpoint(http);
    this.listedAs = `${advertised.host || inspect.Config.Hostname}:${advertised.port}`;
    this.site = {
      method: methodOf(inspect),
      topology: command.topology,
      installDir: parts.engineRoot,
      dataDir: data ?? parts.engineRoot,
      places: this.unfit === undefined ? parts.places : { ...parts.places, obstacle: this.unfit },
      address: advertised.host || hostAddress(),
      port: published(inspect, listen.port)?.port ?? listen.port,
      httpPort: this.endpoint.port,
      user: inspect.Config.User || 'root',
      security: securityOf(command),
      encrypted: command.flags.has('store-encryption'),
      peers: peersOf(command, this.listedAs),
    };
    this.kwbase = new Kwbase({
      run: execRunner(engine, inspect, command.kwbase),
      host: `${listen.host === '' || listen.host === '0.0.0.0' ? '127.0.0.1' : listen.host}:${listen.port}`,
      security: securityArguments(this.site.security, command.flags.get('certs-dir') ?? ''),
      clock: now,
      timeoutMs: statusTimeoutMs,
    });
  }

  async state(): Promise<UnitState> {
    const { engine, restrained } = this.#parts;
    const { State, HostConfig } = (await engine.container(this.inspect.Id)) ?? this.inspect;
    const policy = restrained?.container === this.inspect.Id ? restrained.policy : HostConfig.RestartPolicy;
    const startedAtMs = Date.parse(State.StartedAt);
    return {
      exists: true,
      active: activityOf(State),
      enabled: policy !== undefined && policy.Name !== '' && policy.Name !== 'no',
      mainPid: State.Running && State.Pid > 0 ? State.Pid : null,
      startedAtMs: State.Running && Number.isFinite(startedAtMs) ? startedAtMs : null,
    };
  }

  async versions(): Promise<HostedVersions> {
    const binary = versionIn(await this.#binary());
    const tag = versionIn(tagOf(this.inspect.Config.Image));
    const label = this.inspect.Config.Labels?.[LABEL_VERSION];
    // A tag, or the label of the image below, can be of other things: kwbase itself must agree.
    const fits = (told: string | undefined) =>
      told !== undefined && isVersion(told) && (binary === undefined || tellsVersion(binary, told));
    return known({ package: [tag, label].find(fits), binary });
  }

  async installedBytes(): Promise<number | undefined> {
    return (await this.#parts.engine.image(this.inspect.Image))?.Size;
  }

  async judge(versions: Installation['versions']): Promise<Judged> {
    const { halfDone } = this.#parts.wanted;
    if (halfDone !== undefined) return { condition: 'package-half-installed', conditionDetail: halfDone };
    if (versions.binary === undefined) {
      return { condition: 'binary-missing', conditionDetail: 'kwbase in the image tells no version' };
    }
    return processBehind(versions);
  }

  async startArguments(): Promise<string> {
    return [this.#parts.command.text, ...(this.inspect.Config.Env ?? []).filter(isStartArgument)].join(' ');
  }

  async #binary(): Promise<string | undefined> {
    const { images, told } = this.#parts;
    const { Id, Image, State } = this.inspect;
    const run = `${Id} ${State.StartedAt}`;
    if (!State.Running) return images.versionOf(Image, this.program);
    const before = told.get(run);
    if (before !== undefined) return before;
    const version = await this.kwbase.version();
    if (version === undefined) return images.versionOf(Image, this.program);
    told.clear();
    told.set(run, version);
    const plain = versionIn(version);
    if (plain !== undefined) await images.remember(Image, plain);
    return version;
  }

  #endpoint(http: { host: string; port: number }): Endpoint {
    const { inspect, command } = this.#parts;
    const onNetwork = Object.values(inspect.NetworkSettings.Networks ?? {}).find(({ IPAddress }) => IPAddress !== '');
    const reached = published(inspect, http.port) ?? { host: onNetwork?.IPAddress ?? '127.0.0.1', port: http.port };
    const certificates = onHost(inspect, command.flags.get('certs-dir') ?? '');
    const isTls = securityOf(command) === 'tls' && certificates !== undefined;
    return { ...reached, ...(isTls ? { authority: join(certificates, 'ca.crt') } : {}) };
  }
}

/** Found by its project's labels, as both generations of compose leave them. */
function methodOf({ Config }: ContainerInspect): Method {
  return Config.Labels?.[LABELS.service] === undefined ? 'docker-run' : 'compose';
}

function unfitness(
  { HostConfig, Name }: ContainerInspect,
  data: string | undefined,
  certificates: string | undefined,
): string | undefined {
  if (data === undefined) return `the data of ${Name} lie in the container itself and would go with it`;
  if (HostConfig.AutoRemove) return `${Name} removes itself when it is stopped (--rm)`;
  if (certificates === undefined) return `the certificates of ${Name} lie in the container itself and would go with it`;
  return undefined;
}

/** `kwbase` inside a container, when there is one that runs. */
export function execRunner(engine: Engine, inspect: ContainerInspect | undefined, program: string): KwbaseRunner {
  return async (args, timeoutMs, outputBytes): Promise<Ended> => {
    if (inspect?.State.Running !== true) {
      const stderr = 'the container of the database does not run';
      return { exitCode: undefined, stdout: '', stderr, timedOut: false, missing: false };
    }
    return engine.exec(inspect.Id, [program, ...args], timeoutMs, outputBytes);
  };
}

type Activity = UnitState['active'];

function activityOf({ Status, ExitCode }: ContainerInspect['State']): Activity {
  switch (Status) {
    case 'running':
    case 'paused':
      return 'active';
    case 'restarting':
      return 'activating';
    case 'removing':
      return 'deactivating';
    case 'exited':
    case 'dead':
      // What SIGTERM and SIGKILL leave is how a stop ends.
      return [0, 137, 143].includes(ExitCode) ? 'inactive' : 'failed';
    default:
      return 'inactive';
  }
}

/** Where the host itself reaches a port of the container; undefined when it is not published. */
function published(
  { HostConfig, NetworkSettings }: ContainerInspect,
  port: number,
): { host: string; port: number } | undefined {
  if (HostConfig.NetworkMode === 'host') return { host: '127.0.0.1', port };
  const asked = (HostConfig.PortBindings ?? {}) as Record<string, { HostIp?: string; HostPort?: string }[]>;
  const given = (NetworkSettings.Ports ?? {}) as Record<string, { HostIp?: string; HostPort?: string }[] | null>;
  const [binding] = given[`${port}/tcp`] ?? asked[`${port}/tcp`] ?? [];
  if (binding === undefined || !(Number(binding.HostPort) > 0)) return undefined;
  const host = binding.HostIp ?? '';
  return {
    host: host === '' || host === '0.0.0.0' || host === '::' ? '127.0.0.1' : host,
    port: Number(binding.HostPort),
  };
}

function peersOf({ flags }: StartCommand, own: string): string[] {
  const joined = (flags.get('join') ?? '').split(',').filter((peer) => peer !== '');
  return joined.filter((peer) => peer !== own).map((peer) => addressOf(peer, SQL_PORT).host);
}

/** The first address of this host that others can reach. */
function hostAddress(): string {
  const all = Object.values(networkInterfaces()).flatMap((found) => found ?? []);
  return all.find(({ internal, family }) => !internal && family === 'IPv4')?.address ?? '127.0.0.1';
}

const isStartArgument = (line: string): boolean => line.startsWith('KAIWUDB_START_ARG=');

/** The tag of `registry:5000/kwdb/kwdb:3.1.0`; of a reference by digest there is none. */
function tagOf(reference: string): string | undefined {
  const [name = ''] = reference.split('@');
  return /:([\w][\w.-]*)$/.exec(name)?.[1];
}
