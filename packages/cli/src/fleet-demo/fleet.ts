/** A fleet on this machine: a real controller with its PostgreSQL, real agents, light hosts, a package, three people. */
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Controller, controllerConfig, startController } from '@kwfleet/controller';
import type { Topology } from '@kwfleet/core';
import { pino } from 'pino';
import { create } from 'tar';
import { Client } from '../client.ts';
import { type LightAgent, startLightAgent } from './light-agent.ts';
import { type HostEvent, LightCluster } from './light-host.ts';

export const FROM = '3.0.0';
export const TO = '3.1.0';
/** As on real hosts: one process that plays hundreds is busier than any of them, and must not seem dead for it. */
const HEARTBEAT_MS = 5_000;
const SITES = ['north', 'south', 'west'] as const;

/** Of each six clusters: two standalone, three multi-replica, one single-replica; fifteen nodes. */
const KINDS: readonly { readonly topology: Topology; readonly nodes: number }[] = [
  { topology: 'multi-replica', nodes: 3 },
  { topology: 'standalone', nodes: 1 },
  { topology: 'multi-replica', nodes: 3 },
  { topology: 'single-replica', nodes: 4 },
  { topology: 'multi-replica', nodes: 3 },
  { topology: 'standalone', nodes: 1 },
];

export type Person = 'ann' | 'bo' | 'cai';

export class Fleet {
  readonly directory: string;
  readonly controller: Controller;
  readonly clusters: readonly LightCluster[];
  /** What the hosts wrote down, in the order in which it happened. */
  readonly events: HostEvent[];
  readonly #agents: Map<string, LightAgent>;
  readonly #tokens: ReadonlyMap<Person, string>;

  private constructor(
    directory: string,
    controller: Controller,
    clusters: readonly LightCluster[],
    events: HostEvent[],
    agents: Map<string, LightAgent>,
    tokens: ReadonlyMap<Person, string>,
  ) {
    this.directory = directory;
    this.controller = controller;
    this.clusters = clusters;
    this.events = events;
    this.#agents = agents;
    this.#tokens = tokens;
  }

  /** `failing`: the place of the cluster whose installations fail. */
  static async create(options: {
    readonly clusters: number;
    readonly failing: number;
    readonly ports: readonly [number, number];
  }): Promise<Fleet> {
    const directory = await mkdtemp(join(tmpdir(), 'kwfleet-fleet-'));
    // PostgreSQL does not run as root: its own user must get through.
    await chmod(directory, 0o711);
    const [restPort, grpcPort] = options.ports;
    const controller = await startController(
      controllerConfig({
        data_dir: join(directory, 'controller'),
        rest: { port: restPort },
        grpc: { port: grpcPort, insecure: true },
        heartbeat_ms: HEARTBEAT_MS,
        log_level: 'error',
      }),
    ).catch(async (error: unknown) => {
      await rm(directory, { recursive: true, force: true });
      throw error;
    });
    const agents = new Map<string, LightAgent>();
    try {
      const events: HostEvent[] = [];
      const clusters = layOut(options.clusters, options.failing, (event) => events.push(event));
      const log = pino({ level: 'silent' });
      for (const host of clusters.flatMap(({ hosts }) => hosts)) {
        const stateDir = join(directory, 'agents');
        agents.set(host.node, await startLightAgent(host, { address: controller.grpcAddress, stateDir, log }));
      }
      const client = new Client({ server: controller.restUrl });
      const tokens = new Map<Person, string>();
      for (const [name, role] of [
        ['ann', 'operator'],
        ['bo', 'approver'],
        ['cai', 'approver'],
      ] as const) {
        tokens.set(name, (await client.createToken({ role, name })).token);
      }
      return new Fleet(directory, controller, clusters, events, agents, tokens);
    } catch (error) {
      await Promise.all([...agents.values()].map((agent) => agent.stop()));
      await controller.close();
      await rm(directory, { recursive: true, force: true });
      throw error;
    }
  }

  /** The REST API as this person uses it; without one, as whoever sits at the machine. */
  as(person?: Person): Client {
    return new Client({ server: this.controller.restUrl, token: person && this.#tokens.get(person) });
  }

  tokenOf(person: Person): string {
    return this.#tokens.get(person) ?? '';
  }

  /** Gives every cluster its name and labels, once all are known. */
  async introduce(until: (what: string, look: () => Promise<boolean>) => Promise<void>): Promise<void> {
    const client = this.as();
    await until('every cluster reports', async () => {
      const known = new Map((await client.clusters()).map((cluster) => [cluster.id, cluster]));
      return this.clusters.every(({ id, hosts }) => {
        const { state, nodes } = known.get(id) ?? {};
        return state === 'healthy' && nodes?.length === hosts.length;
      });
    });
    for (const [i, { id, options }] of this.clusters.entries()) {
      const site = SITES[i % SITES.length] as string;
      const ring = i % 5 === 1 ? 'early' : 'later';
      await client.describeCluster(id, { name: options.name, labels: { site, ring } });
    }
  }

  /** A package as small as one can be that the controller takes; no host here ever runs what is in it. */
  async addPackage(version: string): Promise<void> {
    const root = join(this.directory, `package-${version}`);
    const folder = join(root, 'kaiwudb_install');
    await mkdir(join(folder, 'packages'), { recursive: true });
    await mkdir(join(folder, 'utils'), { recursive: true });
    const files = {
      'deploy.sh': '#! /bin/bash\necho "this package is one of a demo, and installs nothing"\nexit 1\n',
      'utils/readme': 'of a demo\n',
      'packages/.version': `${version}\n`,
      'packages/kaiwudb-server_amd64.deb': 'of a demo\n',
      'packages/kaiwudb-libcommon_amd64.deb': 'of a demo\n',
    };
    for (const [name, text] of Object.entries(files)) await writeFile(join(folder, name), text);
    const file = join(root, `KaiwuDB-${version}-amd64.tar.gz`);
    await create({ gzip: true, file, cwd: root, portable: true }, ['kaiwudb_install']);
    const bytes = await readFile(file);
    const body = new Blob([bytes]).stream() as ReadableStream<Uint8Array>;
    await this.as().addPackage(`KaiwuDB-${version}-amd64.tar.gz`, body, AbortSignal.timeout(30_000));
  }

  /** All agents of this cluster fall silent, as when its network is gone. */
  async cutOff(cluster: LightCluster): Promise<void> {
    await Promise.all(cluster.hosts.map(({ node }) => this.#agents.get(node)?.stop()));
    for (const { node } of cluster.hosts) this.#agents.delete(node);
  }

  async close(): Promise<void> {
    await Promise.all([...this.#agents.values()].map((agent) => agent.stop()));
    await this.controller.close();
    await rm(this.directory, { recursive: true, force: true });
  }
}

function layOut(count: number, failing: number, record: (event: HostEvent) => void): LightCluster[] {
  return Array.from({ length: count }, (_, i) => {
    const kind = KINDS[i % KINDS.length] as (typeof KINDS)[number];
    const name = `c${String(i + 1).padStart(String(count).length, '0')}`;
    return new LightCluster(`00000000-0000-4000-8000-${String(i + 1).padStart(12, '0')}`, {
      ...kind,
      name,
      version: FROM,
      installFails: i === failing,
      record,
    });
  });
}
