/** A controller on free ports with its REST API in reach, and clusters of agents that report to it. */
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import * as grpc from '@grpc/grpc-js';
import type { NodeReport, PlanView } from '@kwfleet/core';
import { pkg } from '../../core/test/builders.ts';
import { type Controller, type ControllerSettings, controllerConfig, startController } from '../src/index.ts';
import { type ConnectionSettings, type Database, openDatabase } from '../src/store/database.ts';
import { insertPackage } from '../src/store/packages.ts';
import { Agent, HEARTBEAT_MS } from './fake-agent.ts';
import { freshReport, log, temporaryDirectory, until, urlOf } from './support.ts';

export const BACKUP = { policy: 'none', reason: 'a test' };

type Asking = RequestInit & { json?: unknown; token?: string | undefined };

export class RestRig {
  readonly controller: Controller;
  readonly database: Database;
  readonly directory: string;
  readonly #client: grpc.Client;
  readonly #agents = new Set<Agent>();

  private constructor(controller: Controller, database: Database, directory: string) {
    this.controller = controller;
    this.database = database;
    this.directory = directory;
    this.#client = new grpc.Client(controller.grpcAddress, grpc.credentials.createInsecure());
  }

  /** With tokens needed: `admin` is the first one. */
  static async open(settings: ConnectionSettings, change: ControllerSettings = {}): Promise<RestRig> {
    const directory = await temporaryDirectory();
    const config = controllerConfig({
      data_dir: directory,
      rest: { host: '0.0.0.0', port: 0, plaintext: true },
      grpc: { port: 0, insecure: true },
      database: { url: urlOf(settings) },
      heartbeat_ms: HEARTBEAT_MS,
      log_level: 'silent',
      ...change,
    });
    const controller = await startController(config);
    const database = openDatabase(settings, log);
    await insertPackage(database, pkg(), 'test');
    return new RestRig(controller, database, directory);
  }

  async close(): Promise<void> {
    for (const agent of this.#agents) agent.close();
    this.#client.close();
    await this.database.close();
    await this.controller.close();
    await rm(this.directory, { recursive: true, force: true });
  }

  admin = async () => (await readFile(join(this.directory, 'admin-token'), 'utf8')).trim();

  ask = async (path: string, { json, token, headers, ...rest }: Asking = {}): Promise<Response> =>
    fetch(`${this.controller.restUrl.replace('0.0.0.0', '127.0.0.1')}${path}`, {
      signal: AbortSignal.timeout(60_000),
      ...(json !== undefined && { method: 'POST', body: JSON.stringify(json) }),
      ...rest,
      headers: {
        ...(json !== undefined && { 'content-type': 'application/json' }),
        authorization: `Bearer ${token ?? (await this.admin())}`,
        ...(headers as Record<string, string>),
      },
    });

  get = async <T>(path: string, asking: Asking = {}): Promise<T> => (await (await this.ask(path, asking)).json()) as T;

  /** A token of this person. */
  person = async (name: string, role: string): Promise<string> =>
    (await this.get<{ token: string }>('/v1/tokens', { json: { name, role } })).token;

  /** Three agents of one healthy cluster; what they report may be changed. */
  async cluster(id: string, change: (report: NodeReport, kwdbId: number) => NodeReport = (report) => report) {
    const agents: Agent[] = [];
    for (const i of [1, 2, 3]) {
      const agent = new Agent(this.#client).hello(`${id}-n${i}`).beating();
      agents.push(agent);
      this.#agents.add(agent);
      await agent.got('welcome');
      agent.reporting(() => change(freshReport(id, i), i));
    }
    await until('the cluster is known', async () => {
      const { nodes = [] } = await this.get<{ nodes?: { state: string }[] }>(`/v1/clusters/${id}`);
      return nodes.filter(({ state }) => state === 'healthy').length === 3;
    });
    return agents;
  }

  plan = (cluster: string, token?: string): Promise<PlanView> =>
    this.get('/v1/plans', { token, json: { cluster, to: '3.1.0', options: { backup: BACKUP } } });
}
