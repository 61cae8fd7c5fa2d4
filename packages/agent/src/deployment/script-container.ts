/** KWDB in a container that the vendor's scripts made: one compose file of their own, run by the unit. */
import { realpath } from 'node:fs/promises';
import { join } from 'node:path';
import { type Installation, tellsVersion } from '@kwfleet/core';
import { parse } from 'yaml';
import { isWithin } from '../backup/tree.ts';
import { containerCommand, onHost } from '../docker/command.ts';
import type { ContainerInspect, Engine } from '../docker/engine.ts';
import type { Images, Program } from '../docker/images.ts';
import type { Endpoint } from '../host/http-health.ts';
import { Kwbase, securityArguments } from '../host/kwbase.ts';
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
} from '../host/mode.ts';
import type { ServiceManager, UnitState } from '../host/services.ts';
import { SQL_PORT, storeOf } from '../host/start-command.ts';
import { execRunner } from './container.ts';
import { containerObstacle } from './container-places.ts';
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

export type ScriptContainerFinderOptions = FinderOptions & {
  readonly root: string;
  readonly services: ServiceManager;
  readonly engine: Engine;
  readonly images: Images;
};

/** The vendor's names. Source: KWDB facts, "Files a script installation leaves on a host". */
export const CONTAINER = 'kaiwudb-container';
export const COMPOSE_FILE = '/etc/kaiwudb/script/docker-compose.yml';
/** Inside the container, whatever is published. */
const SQL_ADDRESS = `127.0.0.1:${SQL_PORT}`;
const CERTIFICATES = '/kaiwudb/certs';
const PROGRAM: Program = { kwbase: '/kaiwudb/bin/kwbase', workingDir: '/kaiwudb/bin' };

export class ScriptContainerFinder implements Finder {
  readonly #options: ScriptContainerFinderOptions;

  constructor(options: ScriptContainerFinderOptions) {
    this.#options = options;
  }

  /** Throws as ScriptFinder does, for a MODE that is not as KWDB writes it. */
  async find(): Promise<ScriptContainerDeployment | undefined> {
    const { root } = this.#options;
    const text = await readText(root, `${INFO_DIR}/MODE`);
    if (text === null) return undefined;
    const mode = parseMode(text, await certificateSecurity(root));
    if (mode.method !== 'script-container') return undefined;
    const peers = parsePeers((await readText(root, `${INFO_DIR}/NODE`)) ?? '');
    return this.#describe(mode, peers);
  }

  async #describe(mode: Mode, peers: string[]): Promise<ScriptContainerDeployment> {
    const { engine } = this.#options;
    const [{ root: installDir }, container] = await Promise.all([engine.info(), engine.container(CONTAINER)]);
    const obstacle = await this.#obstacle(mode, container);
    return new ScriptContainerDeployment(this.#options, { mode, peers, installDir, container, obstacle });
  }

  /** The compose file can have been changed: what the container itself says counts, while there is one. */
  async #obstacle({ dataDir }: Mode, container: ContainerInspect | undefined): Promise<string | undefined> {
    const command = container && containerCommand(container);
    if (container === undefined || command === undefined) return undefined;
    const store = storeOf(command, container.Config.WorkingDir);
    const data = onHost(container, store);
    if (data === undefined) return `the data of ${CONTAINER} lie in the container itself`;
    const [real = data, told = dataDir] = await Promise.all(
      [data, dataDir].map((path) => realpath(path).catch(() => path)),
    );
    if (!isWithin(real, told)) return `${CONTAINER} keeps its data in ${data}, while MODE says ${dataDir}`;
    return containerObstacle(this.#options.engine, container, command);
  }
}

type Found = {
  readonly mode: Mode;
  readonly peers: string[];
  readonly installDir: string;
  readonly container: ContainerInspect | undefined;
  readonly obstacle: string | undefined;
};

export class ScriptContainerDeployment implements Deployment {
  readonly site: Deployment['site'];
  readonly kwbase: Kwbase;
  readonly endpoint: Endpoint;
  readonly program = PROGRAM;
  /** The image that MODE names, as it names it. */
  readonly image: string;
  readonly #options: ScriptContainerFinderOptions;
  readonly #container: ContainerInspect | undefined;

  constructor(options: ScriptContainerFinderOptions, { mode, peers, installDir, container, obstacle }: Found) {
    const { root, engine, now, statusTimeoutMs } = options;
    const { place, ...rest } = mode;
    // The compose file among them: the unit makes the container of it at each start.
    const places = { ...SCRIPT_PLACES, ...(obstacle === undefined ? {} : { obstacle }) };
    this.site = { ...rest, installDir, peers, places };
    this.image = place;
    this.#options = options;
    this.#container = container;
    this.kwbase = new Kwbase({
      run: execRunner(engine, container, PROGRAM.kwbase),
      host: SQL_ADDRESS,
      security: securityArguments(mode.security, CERTIFICATES),
      clock: now,
      timeoutMs: statusTimeoutMs,
    });
    this.endpoint = {
      host: '127.0.0.1',
      port: mode.httpPort,
      ...(mode.security === 'tls' ? { authority: join(root, CERTS_DIR, 'ca.crt') } : {}),
    };
  }

  /** The process is the container's; the unit's own is docker-compose. */
  async state(): Promise<UnitState> {
    const unit = await this.#options.services.state(UNIT);
    const State = this.#container?.State;
    if (State?.Running === true && !State.Restarting) {
      return { ...unit, active: 'active', mainPid: State.Pid, startedAtMs: Date.parse(State.StartedAt) };
    }
    const moving = unit.active === 'active' || State?.Restarting === true;
    return { ...unit, active: moving ? 'activating' : unit.active, mainPid: null, startedAtMs: null };
  }

  async versions(): Promise<HostedVersions> {
    const recorded = parseVersionFile((await readText(this.#options.root, `${INFO_DIR}/.version`)) ?? '');
    return known({ recorded: versionIn(recorded), binary: versionIn(await this.#binary()) });
  }

  /** The half-done states an interrupted deploy.sh leaves: it names the image in MODE, then in its compose file, then copies `.version`. */
  async judge(versions: Installation['versions']): Promise<Judged> {
    const named = await this.#composeImage();
    if (named !== this.image) {
      const conditionDetail = `MODE names the image ${this.image}, the compose file ${named ?? 'none'}`;
      return { condition: 'package-half-installed', conditionDetail };
    }
    const { recorded, binary } = versions;
    if (binary === undefined) {
      return { condition: 'binary-missing', conditionDetail: `the image ${this.image} is gone, or tells no version` };
    }
    if (recorded !== undefined && !tellsVersion(binary, recorded)) {
      return { condition: 'version-file-behind', conditionDetail: `.version says ${recorded}, kwbase says ${binary}` };
    }
    return processBehind(versions);
  }

  async startArguments(): Promise<string> {
    const command = (await this.#service())?.command;
    const environment = (await readText(this.#options.root, ENV_FILE)) ?? '';
    const own = /^KAIWUDB_START_ARG=(.*)$/m.exec(environment)?.[1] ?? '';
    return [JSON.stringify(command ?? ''), own].join(' ');
  }

  async installedBytes(): Promise<number | undefined> {
    return (await this.#options.engine.image(this.image))?.Size;
  }

  /** Of what runs; else of what would be started. */
  async #binary(): Promise<string | undefined> {
    const { engine, images } = this.#options;
    const running = this.#container?.State.Running === true ? this.#container.Image : undefined;
    const image = running ?? (await engine.image(this.image))?.Id;
    return image === undefined ? undefined : images.versionOf(image, PROGRAM);
  }

  async #composeImage(): Promise<string | undefined> {
    const image = (await this.#service())?.image;
    return typeof image === 'string' ? image : undefined;
  }

  async #service(): Promise<{ image?: unknown; command?: unknown } | undefined> {
    const text = (await readText(this.#options.root, COMPOSE_FILE)) ?? '';
    try {
      const content = parse(text) as { services?: Record<string, { image?: unknown; command?: unknown }> } | null;
      return content?.services?.[CONTAINER];
    } catch {
      // Half written by somebody: it names no image, and that is what is told of it.
      return undefined;
    }
  }
}
