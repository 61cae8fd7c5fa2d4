/** An agent whose every action takes a fixed time: the real wire, nothing behind it. For benchmarks only. */
import { Client, credentials } from '@grpc/grpc-js';
import type { Action, ActionResult, ClusterView, NodeReport, NodeRow } from '@kwfleet/core';
import { type AgentMessage, agentGateway, PROTOCOL } from '@kwfleet/protocol';

export type TimedAgentOptions = {
  readonly address: string;
  readonly node: string;
  readonly kwdbId: number;
  readonly kwdbIds: readonly number[];
  readonly clusterId: string;
  readonly actionMs: number;
};

const FREE_BYTES = 100 * 1024 ** 3;

export class TimedAgent {
  /** Time spent in actions, by step kind. */
  readonly spent: { step: string; startedAtMs: number; endedAtMs: number }[] = [];
  readonly #options: TimedAgentOptions;
  readonly #client: Client;
  readonly #stream;
  readonly #seen = new Set<string>();
  readonly #heartbeat: NodeJS.Timeout;
  #version = '3.0.0';
  #startedAtMs = Date.now() - 60_000;

  constructor(options: TimedAgentOptions) {
    this.#options = options;
    this.#client = new Client(options.address, credentials.createInsecure());
    const { path, requestSerialize, responseDeserialize } = agentGateway.connect;
    this.#stream = this.#client.makeBidiStreamRequest(path, requestSerialize, responseDeserialize);
    this.#stream.on('data', (message) => {
      if ('action' in message) void this.#act(message.action);
      if ('reportRequest' in message) this.#report();
    });
    // The stream ends with the controller; a benchmark that loses it fails by its own deadline.
    this.#stream.on('error', () => {});
    this.#send({ hello: { node: options.node, agentVersion: '0.1.0', protocol: PROTOCOL, inHand: [] } });
    this.#report();
    this.#heartbeat = setInterval(
      () => this.#send({ heartbeat: { clockMs: Date.now(), serving: true, ready: true } }),
      1000,
    );
  }

  close(): void {
    clearInterval(this.#heartbeat);
    this.#stream.cancel();
    this.#client.close();
  }

  #send(message: AgentMessage): void {
    this.#stream.write(message);
  }

  #report(): void {
    this.#send({ report: this.#describe() });
  }

  async #act(action: Action): Promise<void> {
    if (this.#seen.has(action.id)) return;
    this.#seen.add(action.id);
    const startedAtMs = Date.now();
    await new Promise((resolve) => setTimeout(resolve, this.#options.actionMs));
    if (action.phases.includes('install')) {
      this.#version = action.to;
      this.#startedAtMs = Date.now();
    }
    const endedAtMs = Date.now();
    this.spent.push({ step: action.step, startedAtMs, endedAtMs });
    const report = this.#describe();
    const result: ActionResult = {
      action: action.id,
      outcome: 'succeeded',
      disposition: 'done',
      newVersionStarted: action.phases.includes('start'),
      phases: action.phases.map((phase) => ({ phase, startedAtMs, endedAtMs })),
      report,
      ...(report.health === undefined ? {} : { health: report.health }),
    };
    this.#send({ report });
    this.#send({ result });
  }

  #describe(): NodeReport {
    const { kwdbId, kwdbIds, clusterId, node } = this.#options;
    const now = Date.now();
    const row = (id: number): NodeRow => ({
      kwdbId: id,
      address: `10.0.0.${id}:26257`,
      build: `V${this.#version}`,
      startedAtMs: this.#startedAtMs,
      updatedAtMs: now,
      startMode: 'start',
      isAvailable: true,
      isLive: true,
      isDecommissioning: false,
      isDraining: false,
    });
    const view: ClusterView = { clusterId, kwdbId, observedAtMs: now, nodes: kwdbIds.map(row) };
    return {
      host: {
        hostname: node,
        architecture: process.arch === 'arm64' ? 'arm64' : 'amd64',
        distribution: { id: 'debian', versionId: '12', family: 'deb' },
        bootId: 'bench',
        agentVersion: '0.1.0',
        privileges: 'root',
        clockMs: now,
        freeBytes: { agent: FREE_BYTES, install: FREE_BYTES, data: FREE_BYTES },
      },
      installation: {
        method: 'script-bare',
        topology: 'multi-replica',
        installDir: '/usr/local/kaiwudb',
        dataDir: '/var/lib/kaiwudb',
        address: `10.0.0.${kwdbId}`,
        port: 26257,
        httpPort: 8080,
        user: 'kaiwudb',
        security: 'insecure',
        encrypted: false,
        peers: [],
        unit: { exists: true, active: 'active', enabled: true, mainPid: 1000 + kwdbId, startedAtMs: this.#startedAtMs },
        versions: { recorded: this.#version, package: this.#version, binary: this.#version, running: this.#version },
        condition: 'clean',
        conditionDetail: '',
      },
      serving: true,
      ready: true,
      identity: { clusterId, kwdbId },
      view,
      health: {
        view,
        rangesUnavailable: 0,
        rangesUnderreplicated: 0,
        jobs: [],
        leases: [],
        sessions: [],
        settings: [],
      },
      observedAtMs: now,
    };
  }
}
