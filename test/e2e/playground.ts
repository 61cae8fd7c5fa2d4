/**
 * A whole fleet on this machine, for the demo and the end-to-end tests: stand-in KWDB nodes, an agent process beside
 * each, and a controller process, all under one temporary directory and on loopback addresses of their own.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, createReadStream, openSync, readFileSync } from 'node:fs';
import { chmod, mkdir, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { Readable } from 'node:stream';
import type { ReadableStream } from 'node:stream/web';
import type { ClusterSummary, Topology } from '@kwfleet/core';
import { stringify } from 'yaml';
import { Client } from '../../packages/cli/src/client.ts';
import type { InstallMode } from '../standin/install.ts';
import type { Knobs } from '../standin/kwbase.ts';
import { buildPackage, type PackageFaults } from '../standin/package.ts';
import { type Node, poll, Rig } from '../standin/rig.ts';

const KWFLEET = join(import.meta.dirname, '../../packages/cli/bin/kwfleet.mjs');

/** Everything starts at once: on a busy machine that takes its time. */
const STARTED_MS = 240_000;

export const MODES: Readonly<Record<Topology, InstallMode>> = {
  standalone: 'single',
  'multi-replica': 'multi-replication',
  'single-replica': 'single-replication',
};

export type PlaygroundOptions = {
  readonly topology: Topology;
  readonly nodes?: number;
  readonly version?: string;
  readonly knobs?: Knobs;
  /** REST and gRPC ports on 127.0.0.1; unless told, the controller has an address of its own. */
  readonly ports?: readonly [number, number];
  readonly heartbeatMs?: number;
};

/** One process of ours: its output goes to a file, and it can be killed and started again. */
export class Daemon {
  readonly name: string;
  readonly logFile: string;
  readonly #args: readonly string[];
  readonly #env: NodeJS.ProcessEnv;
  #child: ChildProcess | undefined;

  constructor(name: string, directory: string, args: readonly string[], env: NodeJS.ProcessEnv = {}) {
    this.name = name;
    this.logFile = join(directory, `${name}.log`);
    this.#args = args;
    this.#env = env;
  }

  get running(): boolean {
    return this.#child !== undefined && this.#child.exitCode === null && this.#child.signalCode === null;
  }

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  start(): void {
    const log = openSync(this.logFile, 'a', 0o600);
    this.#child = spawn(process.execPath, [KWFLEET, ...this.#args], {
      env: { ...process.env, ...this.#env },
      stdio: ['ignore', log, log],
    });
    closeSync(log);
  }

  /** Sends the signal and waits until the process is gone; SIGKILL after 60 s. */
  async end(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    const child = this.#child;
    if (child === undefined || !this.running) return;
    const gone = new Promise<void>((resolve) => child.once('exit', () => resolve()));
    child.kill(signal);
    const timer = setTimeout(() => child.kill('SIGKILL'), 60_000);
    await gone;
    clearTimeout(timer);
  }

  log(): string {
    return readFileSync(this.logFile, 'utf8');
  }
}

/** Where the controller listens. */
type Ports = { readonly host: string; readonly rest: number; readonly grpc: number };

/** Beside the nodes, in the network of the rig: nobody else takes a port there. */
const besideNodes = (rig: Rig): Ports => ({
  host: rig.node(1).installed.host.replace(/\.\d+(:\d+)?$/, '.254'),
  rest: 7080,
  grpc: 7090,
});

export type OtherCluster = { readonly rig: Rig; readonly agents: readonly Daemon[] };

export class Playground {
  readonly rig: Rig;
  readonly controller: Daemon;
  readonly agents: readonly Daemon[];
  readonly url: string;
  readonly client: Client;
  readonly #at: Ports;
  readonly #heartbeatMs: number;
  readonly #others: OtherCluster[] = [];

  private constructor(rig: Rig, controller: Daemon, agents: readonly Daemon[], at: Ports, heartbeatMs: number) {
    this.rig = rig;
    this.controller = controller;
    this.agents = agents;
    this.url = `http://${at.host}:${at.rest}`;
    this.#at = at;
    this.#heartbeatMs = heartbeatMs;
    this.client = new Client({ server: this.url });
  }

  /** Starts everything and waits until the controller shows the cluster healthy. */
  static async create(options: PlaygroundOptions): Promise<Playground> {
    const { topology, version = '3.0.0', heartbeatMs = 500 } = options;
    const rigOptions = {
      mode: MODES[topology],
      version,
      ...(options.nodes === undefined ? {} : { nodes: options.nodes }),
      ...(options.knobs === undefined ? {} : { knobs: options.knobs }),
    };
    // The rig ends with the playground, after those who use its nodes.
    const ends: (() => Promise<void>)[] = [];
    const rig = await Rig.create(rigOptions, { onTestFinished: (end) => ends.push(end) }).catch(async (error) => {
      for (const end of ends) await end();
      throw error;
    });
    await chmod(rig.directory, 0o711);
    const [rest, grpc] = options.ports ?? [];
    const at = rest === undefined || grpc === undefined ? besideNodes(rig) : { host: '127.0.0.1', rest, grpc };
    const controller = await controllerDaemon(rig, at, heartbeatMs);
    const agents = await Promise.all(rig.nodes.map((node, i) => agentDaemon(rig, node, `n${i + 1}`, at, heartbeatMs)));
    const playground = new Playground(rig, controller, agents, at, heartbeatMs);
    try {
      controller.start();
      await poll('the controller is ready', async () => (await fetch(`${playground.url}/readyz`)).ok, STARTED_MS);
      for (const agent of agents) agent.start();
      await playground.healthy();
    } catch (error) {
      // They lie in a directory that goes.
      const logs = playground.logs();
      await playground.close();
      throw new Error(`the playground did not come up\n${logs}`, { cause: error });
    }
    return playground;
  }

  /** Another cluster under the same controller; its agents are named `<prefix>1`, ... */
  async addCluster(options: PlaygroundOptions & { readonly prefix: string }): Promise<OtherCluster> {
    const { topology, version = '3.0.0', prefix, nodes, knobs } = options;
    const ends: (() => Promise<void>)[] = [];
    const rig = await Rig.create(
      { mode: MODES[topology], version, ...(nodes && { nodes }), ...(knobs && { knobs }) },
      { onTestFinished: (end) => ends.push(end) },
    ).catch(async (error) => {
      for (const end of ends) await end();
      throw error;
    });
    await chmod(rig.directory, 0o711);
    const agents = await Promise.all(
      rig.nodes.map((node, i) => agentDaemon(rig, node, `${prefix}${i + 1}`, this.#at, this.#heartbeatMs)),
    );
    const other: OtherCluster = { rig, agents };
    this.#others.push(other);
    for (const agent of agents) agent.start();
    return other;
  }

  /** Waits until the one cluster is healthy and complete, and returns it. */
  healthy(timeoutMs = STARTED_MS): Promise<ClusterSummary> {
    return poll(
      'the cluster is healthy',
      async () => {
        const [cluster] = await this.client.clusters();
        return cluster?.state === 'healthy' && cluster.nodes.length === this.rig.nodes.length && cluster;
      },
      timeoutMs,
    );
  }

  /** Builds a package of the stand-in and adds it to the registry. */
  async addPackage(options: {
    version: string;
    extension?: string;
    faults?: PackageFaults;
    architecture?: string;
  }): Promise<void> {
    const file = await this.buildPackage(options);
    const body = Readable.toWeb(createReadStream(file)) as ReadableStream<Uint8Array>;
    await this.client.addPackage(basename(file), body, AbortSignal.timeout(180_000));
  }

  buildPackage(options: {
    version: string;
    extension?: string;
    faults?: PackageFaults;
    architecture?: string;
  }): Promise<string> {
    return buildPackage({ ...options, outDir: this.rig.directory });
  }

  /** Runs the command line against this controller; output and exit status as a shell would see them. */
  async kwfleet(...args: string[]): Promise<{ code: number | null; stdout: string; stderr: string }> {
    const child = spawn(process.execPath, [KWFLEET, ...args], {
      env: { ...process.env, KWFLEET_SERVER: this.url, NO_COLOR: '1' },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const output = { stdout: '', stderr: '' };
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      output.stdout += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      output.stderr += text;
    });
    const timer = setTimeout(() => child.kill('SIGKILL'), 600_000);
    const code = await new Promise<number | null>((resolve) => child.once('close', resolve));
    clearTimeout(timer);
    return { code, ...output };
  }

  logs(): string {
    return [this.controller, ...this.agents, ...this.#others.flatMap(({ agents }) => agents)]
      .map((daemon) => `--- ${daemon.name}\n${daemon.log().split('\n').slice(-30).join('\n')}`)
      .join('\n');
  }

  async close(): Promise<void> {
    await Promise.all([...this.agents, ...this.#others.flatMap(({ agents }) => agents)].map((agent) => agent.end()));
    await this.controller.end();
    for (const { rig } of this.#others) await rig.close();
    await this.rig.close();
  }
}

async function controllerDaemon(rig: Rig, { host, rest, grpc }: Ports, heartbeatMs: number): Promise<Daemon> {
  const file = join(rig.directory, 'controller.yaml');
  const dataDir = join(rig.directory, 'controller');
  await mkdir(dataDir, { mode: 0o711 });
  const settings = {
    data_dir: dataDir,
    rest: { host, port: rest },
    // Everything of the demo stays on this machine; a real installation has mutual TLS, see docs/installation.md.
    grpc: { host, port: grpc, insecure: true },
    // Agents beat faster than that; a busy machine must not make a living agent seem lost.
    heartbeat_ms: 5 * heartbeatMs,
  };
  await writeFile(file, stringify(settings));
  return new Daemon('controller', rig.directory, ['controller', '--config', file]);
}

async function agentDaemon(rig: Rig, node: Node, name: string, at: Ports, heartbeatMs: number): Promise<Daemon> {
  const file = join(rig.directory, `${name}.yaml`);
  const settings = {
    node: name,
    controller: { address: `${at.host}:${at.grpc}` },
    insecure: true,
    state_dir: join(rig.directory, `${name}-agent`),
    root: node.installed.root,
    service_manager: 'process',
    heartbeat_ms: heartbeatMs,
  };
  await writeFile(file, stringify(settings));
  return new Daemon(name, rig.directory, ['agent', '--config', file], { ...node.installed.env });
}
