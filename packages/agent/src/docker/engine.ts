/**
 * This host's Docker engine, asked through its API on its own socket. Every call is bounded, and rejects with ENGINE_FAILED
 * and the engine's own words, or with ENGINE_SILENT when there is no answer.
 */
import { createReadStream } from 'node:fs';
import { readFile, stat } from 'node:fs/promises';
import { PassThrough } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { FleetError } from '@kwfleet/core';
import Docker from 'dockerode';
import { type Ended, runShort } from '../host/run.ts';
import { failed, isSilent, statusOf, wordsOfError } from './engine-errors.ts';

export type ContainerInspect = Docker.ContainerInspectInfo;
export type ImageInspect = Docker.ImageInspectInfo;
export type VolumeInspect = Docker.VolumeInspectInfo;
export type ContainerSummary = Docker.ContainerInfo;
/** The body of a creation; fields that this version of the types does not know go through as they came. */
export type ContainerSpec = Docker.ContainerCreateOptions & { readonly name: string };
export type RestartPolicy = { readonly Name: string; readonly MaximumRetryCount: number };

/** The newest that docker-compose 1 asks for, whatever the format of its files. */
const COMPOSE_1_API = 'v1.38';
const PING_TIMEOUT_MS = 3000;
const CALL_TIMEOUT_MS = 30_000;
const REMOVE_TIMEOUT_MS = 120_000;
/** An image of some GB is read, unpacked and stored. */
const LOAD_TIMEOUT_MS = 60 * 60_000;
/** While the engine restarts nobody answers on its socket: it is asked again for so long. */
const SILENT_TRIES = 30;
const SILENT_PAUSE_MS = 1000;
/** Bound on what is kept of the output of a command in a container. */
const OUTPUT_BYTES = 8 * 1024 * 1024;
/** Beyond an exec's own limit: for the engine to tell how it ended. */
const EXEC_SLACK_MS = 5000;
const EXIT_LOOKS = 40;
const EXIT_PAUSE_MS = 50;

export class Engine {
  readonly #docker: Docker;
  readonly socket: string;
  readonly #sudo: boolean;
  #info: { readonly root: string; readonly architecture: string } | undefined;

  constructor(options: { readonly socket: string; readonly sudo: boolean }) {
    this.socket = options.socket;
    this.#sudo = options.sudo;
    this.#docker = new Docker({ socketPath: options.socket });
  }

  /** Whether this host has an engine at all: its socket outlives a stop of it. */
  async present(): Promise<boolean> {
    const found = await stat(this.socket).catch(() => null);
    return found?.isSocket() === true;
  }

  /** Whether it answers now. */
  async answers(): Promise<boolean> {
    const signal = AbortSignal.timeout(PING_TIMEOUT_MS);
    return Promise.race([this.#docker.ping(), aborted(signal)]).then(
      () => true,
      () => false,
    );
  }

  /** Where images and volumes lie, and Debian's name of the architecture. */
  async info(): Promise<{ readonly root: string; readonly architecture: string }> {
    if (this.#info !== undefined) return this.#info;
    const info = await this.#call('tell of itself', () => this.#docker.info());
    const root = String(info.DockerRootDir ?? '/var/lib/docker');
    this.#info = { root, architecture: debianName(info.Architecture) };
    return this.#info;
  }

  /** 41 of API 1.41. Asked each time: an engine may be upgraded beneath this agent. */
  async apiMinor(): Promise<number> {
    const { ApiVersion } = await this.#call('tell its version', () => this.#docker.version());
    return Number(/^1\.(\d+)$/.exec(ApiVersion)?.[1] ?? 0);
  }

  /**
   * Whether the engine tells of an image what docker-compose 1 reads when it makes a container anew, in the API that it
   * speaks: `ContainerConfig`. Newer engines leave it out, and those from 29 on do not speak that API any more.
   */
  async suitsCompose1(image: string): Promise<boolean> {
    const older = new Docker({ socketPath: this.socket, version: COMPOSE_1_API });
    try {
      const told = await this.#call(`inspect image ${image}`, () => older.getImage(image).inspect());
      const { ContainerConfig } = told as { ContainerConfig?: unknown };
      return typeof ContainerConfig === 'object' && ContainerConfig !== null;
    } catch (error) {
      if (error instanceof FleetError && statusOf(error.cause) === 400) return false;
      throw error;
    }
  }

  /** All containers, stopped ones too. */
  containers(): Promise<ContainerSummary[]> {
    return this.#call('list containers', (abortSignal) => this.#docker.listContainers({ all: true, abortSignal }));
  }

  /** By id or name; undefined when there is none. */
  container(id: string): Promise<ContainerInspect | undefined> {
    return this.#lookup(() =>
      this.#call(`inspect container ${id}`, (abortSignal) => this.#docker.getContainer(id).inspect({ abortSignal })),
    );
  }

  image(reference: string): Promise<ImageInspect | undefined> {
    return this.#lookup(() =>
      this.#call(`inspect image ${reference}`, () => this.#docker.getImage(reference).inspect()),
    );
  }

  /** By name; undefined when there is none. */
  volume(name: string): Promise<VolumeInspect | undefined> {
    return this.#lookup(() =>
      this.#call(`inspect volume ${name}`, (abortSignal) => this.#docker.getVolume(name).inspect({ abortSignal })),
    );
  }

  /** Which image each name is given to, `kwdb/kwdb:3.1.0` → id. */
  async imageNames(): Promise<Map<string, string>> {
    const images = await this.#call('list images', () => this.#docker.listImages());
    return new Map(images.flatMap(({ Id, RepoTags }) => (RepoTags ?? []).map((name): [string, string] => [name, Id])));
  }

  /** Returns the new container's id. */
  async create(spec: ContainerSpec): Promise<string> {
    const created = await this.#call(`create ${spec.name}`, (abortSignal) =>
      this.#docker.createContainer({ ...spec, abortSignal }),
    );
    return created.id;
  }

  async start(id: string): Promise<void> {
    await this.#call(`start ${id}`, (abortSignal) => this.#docker.getContainer(id).start({ abortSignal }), {
      fine: [304],
    });
  }

  /** Resolves when no process of the container is left. After `graceMs` the engine kills it. */
  async stop(id: string, graceMs: number): Promise<void> {
    const t = Math.ceil(graceMs / 1000);
    await this.#call(`stop ${id}`, (abortSignal) => this.#docker.getContainer(id).stop({ t, abortSignal }), {
      fine: [304, 404],
      timeoutMs: graceMs + CALL_TIMEOUT_MS,
    });
  }

  async rename(id: string, name: string): Promise<void> {
    await this.#call(`rename ${id} to ${name}`, (abortSignal) =>
      this.#docker.getContainer(id).rename({ name, abortSignal }),
    );
  }

  /** Removes a container that is stopped. `volumes`: its anonymous volumes too, which only a throw-away may lose. */
  async remove(id: string, options: { readonly volumes?: boolean; readonly force?: boolean } = {}): Promise<void> {
    const { volumes: v = false, force = false } = options;
    await this.#call(`remove ${id}`, (abortSignal) => this.#docker.getContainer(id).remove({ v, force, abortSignal }), {
      fine: [404],
      timeoutMs: REMOVE_TIMEOUT_MS,
    });
  }

  async setRestartPolicy(id: string, policy: RestartPolicy): Promise<void> {
    await this.#call(`update ${id}`, (abortSignal) =>
      this.#docker.getContainer(id).update({ RestartPolicy: policy, abortSignal }),
    );
  }

  async connect(network: string, container: string, endpoint: Docker.EndpointSettings): Promise<void> {
    await this.#call(`connect ${container} to ${network}`, (abortSignal) =>
      this.#docker
        .getNetwork(network)
        .connect({ Container: container, EndpointConfig: endpoint, abortSignal } as Docker.NetworkConnectOptions),
    );
  }

  /** Gives an image one more name. */
  async tag(image: string, repo: string, tag: string): Promise<void> {
    await this.#call(`tag ${image}`, () => this.#docker.getImage(image).tag({ repo, tag }));
  }

  /** Takes a name from an image, and removes the image with its last one. One in use, or gone, is left as it is. */
  async removeImage(reference: string): Promise<void> {
    await this.#call(`remove image ${reference}`, () => this.#docker.getImage(reference).remove(), {
      fine: [404, 409],
      timeoutMs: REMOVE_TIMEOUT_MS,
    });
  }

  /** Loads what `docker save` wrote; the names and ids that the engine gives to what was in it. */
  async load(file: string, told: (text: string) => void): Promise<string[]> {
    return this.#progress('load the image', told, (abortSignal) =>
      this.#docker.loadImage(createReadStream(file), { quiet: false, abortSignal }),
    );
  }

  /**
   * What an image's registry says of it, asked by the engine as a pull would, without pulling: for which systems it is,
   * `linux/amd64`; empty when it does not tell. Rejects with the registry's own words.
   */
  async platformsInRegistry(reference: string, timeoutMs: number): Promise<string[]> {
    const { Platforms } = await this.#call(
      `find ${reference} in its registry`,
      () => this.#docker.getImage(reference).distribution(),
      { timeoutMs },
    );
    const told = (Platforms ?? []).filter(({ os, architecture }) => os !== '' && architecture !== '');
    return told.map(({ os, architecture }) => `${os}/${architecture}`);
  }

  async pull(reference: string, told: (text: string) => void): Promise<void> {
    await this.#progress(`pull ${reference}`, told, (abortSignal) => this.#docker.pull(reference, { abortSignal }));
  }

  /**
   * Runs a command in a running container, without standard input, for `timeoutMs` at most; then its process is killed.
   * Never rejects: how it ended is the answer.
   */
  async exec(
    container: string,
    argv: readonly string[],
    timeoutMs: number,
    outputBytes: number = OUTPUT_BYTES,
  ): Promise<Ended> {
    const signal = AbortSignal.timeout(timeoutMs + EXEC_SLACK_MS);
    try {
      const exec = await this.#docker.getContainer(container).exec({
        Cmd: [...argv],
        Env: ['LC_ALL=C'],
        AttachStdout: true,
        AttachStderr: true,
        abortSignal: signal,
      });
      const stream = await exec.start({ Detach: false, Tty: false, abortSignal: signal } as Docker.ExecStartOptions);
      const { stdout, stderr, end } = await this.#collect(stream, timeoutMs, outputBytes);
      if (end === 'whole') {
        const exitCode = await exitCodeOf(exec, signal);
        // The engine itself says so on the command's output, with its own exit status.
        const missing = exitCode === 127 || (exitCode === 126 && /no such file|not found/.test(stdout + stderr));
        return { exitCode, stdout, stderr, timedOut: false, missing };
      }
      const { Running, Pid } = await exec.inspect({ abortSignal: signal });
      if (Running) await this.#killProcess(container, Pid);
      const words = end === 'large' ? `more than ${outputBytes} bytes of output` : stderr;
      return { exitCode: undefined, stdout, stderr: words, timedOut: end === 'late', missing: false };
    } catch (error) {
      return { exitCode: undefined, stdout: '', stderr: wordsOfError(error), timedOut: signal.aborted, missing: false };
    }
  }

  /** Runs one command in a fresh container of an image, with no network and nothing mounted, and removes it. */
  async runOnce(spec: ContainerSpec, timeoutMs: number): Promise<Ended> {
    const id = await this.create(spec);
    try {
      const container = this.#docker.getContainer(id);
      await this.start(id);
      const waited = await this.#call('wait', (abortSignal) => container.wait({ abortSignal }), { timeoutMs });
      const logs = await this.#call('read output', (abortSignal) =>
        container.logs({ stdout: true, stderr: true, follow: false, abortSignal }),
      );
      const { stdout, stderr } = demultiplexed(logs as unknown as Buffer);
      return { exitCode: waited.StatusCode, stdout, stderr, timedOut: false, missing: false };
    } catch (error) {
      const words = error instanceof FleetError ? (error.words ?? error.message) : wordsOfError(error);
      return { exitCode: undefined, stdout: '', stderr: words, timedOut: false, missing: false };
    } finally {
      await this.remove(id, { volumes: true, force: true });
    }
  }

  async #lookup<T>(look: () => Promise<T>): Promise<T | undefined> {
    try {
      return await look();
    } catch (error) {
      if (error instanceof FleetError && statusOf(error.cause) === 404) return undefined;
      throw error;
    }
  }

  /** `fine`: HTTP statuses that say it is so already. */
  async #call<T>(
    what: string,
    call: (signal: AbortSignal) => Promise<T>,
    { fine = [], timeoutMs = CALL_TIMEOUT_MS }: { readonly fine?: readonly number[]; readonly timeoutMs?: number } = {},
  ): Promise<T> {
    for (let tries = 1; ; tries++) {
      try {
        const signal = AbortSignal.timeout(timeoutMs);
        return await Promise.race([call(signal), aborted(signal)]);
      } catch (error) {
        if (fine.includes(statusOf(error) ?? 0)) return undefined as T;
        if (!isSilent(error)) throw failed(what, error);
        if (tries >= SILENT_TRIES || !(await this.present())) {
          throw new FleetError('ENGINE_SILENT', `the Docker engine at ${this.socket} does not answer`, {
            words: wordsOfError(error),
            cause: error,
          });
        }
        await sleep(SILENT_PAUSE_MS);
      }
    }
  }

  /** Follows the JSON lines of a load or a pull. Returns the names in `Loaded image: NAME` and `Loaded image ID: ID`. */
  async #progress(
    what: string,
    told: (text: string) => void,
    call: (signal: AbortSignal) => Promise<NodeJS.ReadableStream>,
  ): Promise<string[]> {
    const loaded: string[] = [];
    const stream = await this.#call(what, call, { timeoutMs: LOAD_TIMEOUT_MS });
    let rest = '';
    const take = (line: string): void => {
      const message = parseMessage(line);
      if (message.error !== undefined) throw new Error(message.error);
      const name = /^Loaded image(?: ID)?: (.+)$/.exec(message.stream?.trim() ?? '')?.[1];
      if (name !== undefined) loaded.push(name);
      told(`${message.status ?? message.stream ?? ''} ${message.progress ?? ''}`.trim());
    };
    try {
      for await (const chunk of stream) {
        const lines = (rest + String(chunk)).split('\n');
        rest = (lines.pop() ?? '').slice(-OUTPUT_BYTES);
        for (const line of lines) take(line);
      }
      take(rest);
    } catch (error) {
      throw failed(what, error);
    }
    return loaded;
  }

  async #collect(
    stream: NodeJS.ReadableStream,
    timeoutMs: number,
    limitBytes: number,
  ): Promise<{ stdout: string; stderr: string; end: 'whole' | 'late' | 'large' | 'broken' }> {
    const parts: Record<'stdout' | 'stderr', Buffer[]> = { stdout: [], stderr: [] };
    let size = 0;
    const end = await new Promise<'whole' | 'late' | 'large' | 'broken'>((resolve) => {
      const timer = setTimeout(() => resolve('late'), timeoutMs);
      const done = (how: 'whole' | 'large' | 'broken') => {
        clearTimeout(timer);
        resolve(how);
      };
      const take = (into: Buffer[]) =>
        new PassThrough().on('data', (chunk: Buffer) => {
          size += chunk.length;
          if (size > limitBytes) return done('large');
          into.push(chunk);
        });
      this.#docker.modem.demuxStream(stream, take(parts.stdout), take(parts.stderr));
      stream.on('end', () => setImmediate(() => done('whole')));
      stream.on('error', () => done('broken'));
    });
    (stream as PassThrough).destroy();
    const text = (chunks: Buffer[]) => Buffer.concat(chunks).toString();
    return { stdout: text(parts.stdout), stderr: text(parts.stderr), end };
  }

  /**
   * The API has no end for an exec that hangs; its process is one of this host's. An agent that is not root may not kill
   * it, but whoever may speak to the engine can in the container, where it has a number of its own.
   */
  async #killProcess(container: string, pid: number): Promise<void> {
    const told = (file: string) => readFile(`/proc/${pid}/${file}`, 'utf8').catch(() => '');
    if (pid <= 1 || !(await told('cmdline')).includes('kwbase')) return;
    if (!this.#sudo) return void (await runShort('kill', ['-9', String(pid)], { timeoutMs: EXEC_SLACK_MS }));
    const inside = /^NSpid:.*\s(\d+)$/m.exec(await told('status'))?.[1];
    if (inside === undefined) return;
    const abortSignal = AbortSignal.timeout(EXEC_SLACK_MS);
    const exec = await this.#docker
      .getContainer(container)
      .exec({ Cmd: ['sh', '-c', `kill -9 ${inside}`], User: '0', abortSignal });
    await exec.start({ Detach: true, abortSignal } as Docker.ExecStartOptions);
  }
}

/** The output of an exec can end a moment before the engine knows how it ended. */
async function exitCodeOf(exec: Docker.Exec, signal: AbortSignal): Promise<number | undefined> {
  for (let look = 0; ; look++) {
    const { Running, ExitCode } = await exec.inspect({ abortSignal: signal });
    if (!Running || look >= EXIT_LOOKS) return Running ? undefined : (ExitCode ?? undefined);
    await sleep(EXIT_PAUSE_MS);
  }
}

/** Output of a container without a terminal: frames of a stream's number, three zeroes, a length, and so many bytes. */
export function demultiplexed(bytes: Buffer): { readonly stdout: string; readonly stderr: string } {
  const parts: [Buffer[], Buffer[]] = [[], []];
  for (let at = 0; at + 8 <= bytes.length; ) {
    const size = bytes.readUInt32BE(at + 4);
    parts[bytes[at] === 2 ? 1 : 0].push(bytes.subarray(at + 8, at + 8 + size));
    at += 8 + size;
  }
  return { stdout: Buffer.concat(parts[0]).toString(), stderr: Buffer.concat(parts[1]).toString() };
}

/** Docker says `x86_64` of a host and `amd64` of an image. */
export function debianName(architecture: unknown): string {
  const names: Readonly<Record<string, string>> = { x86_64: 'amd64', aarch64: 'arm64' };
  return names[String(architecture)] ?? String(architecture);
}

type ProgressMessage = { stream?: string; status?: string; progress?: string; error?: string };

function parseMessage(line: string): ProgressMessage {
  if (line.trim() === '') return {};
  try {
    return JSON.parse(line) as ProgressMessage;
  } catch {
    // A line of a version to come: not worth failing for.
    return {};
  }
}

/** For the calls that take no signal. */
function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason), { once: true }));
}
