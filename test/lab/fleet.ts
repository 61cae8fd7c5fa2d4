/**
 * A fleet on test hosts: stand-in KWDB nodes installed as the vendor's script leaves them, the agent run by its own
 * systemd unit and enrolled over mutual TLS, and a controller on the lab's network.
 */
import { createReadStream } from 'node:fs';
import { chmod, mkdir, readFile, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { Readable } from 'node:stream';
import type { ReadableStream } from 'node:stream/web';
import type { ClusterSummary, RunView, Topology } from '@kwfleet/core';
import { stringify } from 'yaml';
import { Client } from '../../packages/cli/src/client.ts';
import { MODES } from '../e2e/playground.ts';
import { makeCertificates } from '../standin/certificates.ts';
import type { InstallOptions } from '../standin/install.ts';
import type { Knobs } from '../standin/kwbase.ts';
import { buildPackage, type PackageOptions } from '../standin/package.ts';
import type { RecordLine } from '../standin/rig.ts';
import { createLab, type Lab, type LabHost, type LabProcess, until } from './host.ts';

const TOP = join(import.meta.dirname, '../..');
const KWFLEET = join(TOP, 'packages/cli/bin/kwfleet.mjs');
const RECORD = '/var/lib/standin-record.jsonl';
const KNOBS = '/var/lib/standin.json';
/** Liveness that outlives a restart, as KWDB's does, without its 30 s. */
const QUICK: Knobs = { heartbeatMs: 500, livenessMs: 4_000, catchUpMs: 700 };
const PLAN_OPTIONS = { backup: { policy: 'none' as const, reason: 'lab' }, soakMs: 500, sampleGapMs: 300 };

export type FleetOptions = {
  readonly topology: Topology;
  readonly nodes?: number;
  /** So many of the hosts, the first ones, get an agent; all unless told. */
  readonly agents?: number;
  readonly version?: string;
  readonly knobs?: Knobs;
  readonly smallDisks?: { path: string; megabytes: number }[];
  /** What kind of packages the hosts take: those of their distribution. `deb` unless told. */
  readonly family?: 'deb' | 'rpm';
  readonly secure?: InstallOptions['secure'];
  readonly encrypted?: boolean;
  /** The agent is not root but a user with the sudo rights that come with it. */
  readonly sudo?: boolean;
  /** How KWDB gets onto the hosts; by the vendor's script on bare metal unless told. */
  readonly deploy?: Deploy;
  /** More lines of agent.yaml. */
  readonly agent?: Readonly<Record<string, unknown>>;
};

/** Puts a node on a host and starts it. */
export type Deploy = (host: LabHost, node: DeployedNode) => Promise<void>;
export type DeployedNode = {
  readonly topology: Topology;
  readonly version: string;
  readonly peers: readonly string[];
  readonly knobs: Knobs;
};

export class Fleet {
  readonly lab: Lab;
  readonly hosts: readonly LabHost[];
  client!: Client;
  #controller: LabProcess | undefined;
  #certificates: Promise<Record<string, string>> | undefined;

  private constructor(lab: Lab, hosts: readonly LabHost[]) {
    this.lab = lab;
    this.hosts = hosts;
  }

  /** Boots hosts, installs and starts everything, and waits until the controller shows the cluster healthy. */
  static async create(options: FleetOptions): Promise<Fleet> {
    const lab = await createLab();
    try {
      const count = options.nodes ?? (options.topology === 'standalone' ? 1 : 3);
      const hosts: LabHost[] = [];
      for (let i = 0; i < count; i++) {
        hosts.push(await lab.addHost(options.smallDisks === undefined ? {} : { smallDisks: options.smallDisks }));
      }
      await Promise.all(hosts.map((host) => host.start()));
      const fleet = new Fleet(lab, hosts);
      await fleet.#begin(options).catch(async (error: unknown) => {
        console.error(await fleet.diagnosis());
        throw error;
      });
      return fleet;
    } catch (error) {
      await lab.destroy();
      throw error;
    }
  }

  async #begin(options: FleetOptions): Promise<void> {
    const { hosts } = this;
    await Promise.all(hosts.map((host) => this.#install(host, options)));
    await this.startController();
    const forward = await this.lab.forward(7080, '127.0.0.1');
    this.client = new Client({ server: `http://127.0.0.1:${forward.port}` });
    const withAgent = hosts.slice(0, options.agents);
    await Promise.all(withAgent.map((host) => this.#enroll(host, options)));
    if (withAgent.length === hosts.length) await this.healthy();
    else await until('the cluster is known', async () => (await this.client.clusters()).length > 0);
  }

  async #install(host: LabHost, options: FleetOptions): Promise<void> {
    const { topology, version = '3.0.0' } = options;
    const peers = this.hosts.map(({ address }) => address).filter((address) => address !== host.address);
    const knobs = { ...QUICK, ...options.knobs };
    if (options.deploy !== undefined) await options.deploy(host, { topology, version, peers, knobs });
    else await this.#installByScript(host, options, { topology, version, peers, knobs });
    await host.writeFile('/usr/bin/kwfleet', `#!/bin/sh\nexec '${process.execPath}' '${KWFLEET}' "$@"\n`, 0o755);
    await host.writeFile(
      '/etc/systemd/system/kwfleet-agent.service',
      await readFile(join(TOP, 'systemd/kwfleet-agent.service')),
    );
  }

  async #installByScript(host: LabHost, options: FleetOptions, { topology, ...node }: DeployedNode): Promise<void> {
    if (options.family === 'rpm') await host.exec([process.execPath, join(TOP, 'test/standin/rpm.ts')]);
    const install: InstallOptions = {
      root: '/',
      mode: MODES[topology],
      address: host.address,
      port: 26257,
      httpPort: 8080,
      ...node,
      ...(options.family === undefined ? {} : { family: options.family }),
      ...(options.secure === undefined ? {} : { secure: options.secure }),
      ...(options.encrypted === undefined ? {} : { encrypted: options.encrypted }),
      ...(options.secure === 'tls' ? { certificates: await this.#makeCertificates() } : {}),
    };
    const script = join(TOP, 'test/standin/install.ts');
    await host.exec([process.execPath, script, '--json', JSON.stringify(install)]);
    await host.exec(['systemctl', 'start', 'kaiwudb']);
  }

  /** One authority for the cluster. */
  #makeCertificates(): Promise<Record<string, string>> {
    this.#certificates ??= makeCertificates(this.hosts.map(({ address }) => address));
    return this.#certificates;
  }

  /** The agent as an operator installs it: one-time token, pinned authority, its own unit. */
  async #enroll(host: LabHost, { sudo = false, agent = {} }: FleetOptions): Promise<void> {
    const { stdout } = await this.kwfleet('enrollment', 'create', '--node', host.name, '--json');
    const { token, fingerprint } = JSON.parse(stdout) as { token: string; fingerprint: string };
    const config = {
      node: host.name,
      controller: { address: `${this.lab.controllerAddress}:7090` },
      enrollment: { token_file: '/etc/kwfleet/token', authority_sha256: fingerprint },
      heartbeat_ms: 1000,
      ...agent,
    };
    await host.exec(['mkdir', '-p', '/etc/kwfleet', '/etc/systemd/system/kwfleet-agent.service.d']);
    // The unit has a /tmp of its own, in which a checkout under /tmp would be missing.
    const checkout = `[Service]\nBindReadOnlyPaths=${TOP}\n`;
    await host.writeFile('/etc/systemd/system/kwfleet-agent.service.d/checkout.conf', checkout);
    await host.writeFile('/etc/kwfleet/token', `${token}\n`, 0o600);
    await host.writeFile('/etc/kwfleet/agent.yaml', stringify(config), 0o600);
    if (sudo) await giveSudo(host);
    await host.shell('systemctl daemon-reload; systemctl enable --now kwfleet-agent');
  }

  get controllerProcess(): LabProcess | undefined {
    return this.#controller;
  }

  /** Starts the controller in the lab's network; its data outlives it. */
  async startController(): Promise<void> {
    const directory = join(this.lab.directory, 'controller');
    await mkdir(directory, { recursive: true });
    await chmod(this.lab.directory, 0o711);
    await chmod(directory, 0o711);
    const file = join(directory, 'controller.yaml');
    const settings = {
      data_dir: join(directory, 'data'),
      grpc: { host: this.lab.controllerAddress, port: 7090 },
      heartbeat_ms: 2000,
    };
    await writeFile(file, stringify(settings));
    this.#controller = this.lab.spawnInNetwork([process.execPath, KWFLEET, 'controller', '--config', file]);
    await this.#controller.waitForOutput(/the controller is up/);
  }

  /** `kwfleet …` beside the controller; throws unless it exits with 0 or one of `codes`. */
  async kwfleet(...args: string[]): Promise<{ stdout: string; stderr: string; exitCode: number }> {
    const result = await this.lab.execInNetwork([process.execPath, KWFLEET, ...args], {
      timeoutMs: 600_000,
      allowFailure: true,
      env: { NO_COLOR: '1' },
    });
    return { ...result, exitCode: result.exitCode ?? -1 };
  }

  async healthy(timeoutMs = 240_000): Promise<ClusterSummary> {
    return until(
      'the cluster is healthy',
      async () => {
        const [cluster] = await this.client.clusters().catch(() => []);
        const whole = cluster?.state === 'healthy' && cluster.nodes.length === this.hosts.length;
        return whole ? cluster : undefined;
      },
      timeoutMs,
    );
  }

  async addPackage(options: Omit<PackageOptions, 'outDir'>): Promise<void> {
    await this.addPackageFile(await buildPackage({ ...options, outDir: this.lab.directory }));
  }

  async addPackageFile(file: string): Promise<void> {
    const body = Readable.toWeb(createReadStream(file)) as ReadableStream<Uint8Array>;
    await this.client.addPackage(basename(file), body, AbortSignal.timeout(180_000));
  }

  /** Plans and starts; returns the run's id. */
  async begin(to: string, options: Record<string, unknown> = {}): Promise<string> {
    const cluster = await this.healthy();
    const plan = await this.client.createPlan({ cluster: cluster.id, to, options: { ...PLAN_OPTIONS, ...options } });
    return (await this.client.createRun({ plan: plan.id, hash: plan.hash })).id;
  }

  /** Waits until the run has ended or holds for a person. */
  async settled(run: string, timeoutMs = 600_000): Promise<RunView> {
    return until(
      `run ${run} settles`,
      async () => {
        // The controller may be down on purpose: then it is asked again.
        const view = await this.client.run(run).catch(() => undefined);
        if (view === undefined) return undefined;
        const held = view.status === 'held' && view.hold?.selfClearing === false;
        return held || ['succeeded', 'failed', 'aborted'].includes(view.status) ? view : undefined;
      },
      timeoutMs,
    );
  }

  /** Aborts, and waits until the run has ended. */
  async abort(run: string): Promise<void> {
    await this.client.choose(run, 'abort');
    const ended = async () => ['aborted', 'failed'].includes((await this.client.run(run)).status);
    await until(`run ${run} is aborted`, ended);
  }

  /** Asks for a retry and waits until it is taken: that is at the run's next decision. */
  async retry(run: string): Promise<void> {
    const { hold } = await this.client.run(run);
    await this.client.choose(run, 'retry');
    await until(
      `the retry of run ${run} is taken`,
      async () => (await this.client.run(run)).hold?.sinceMs !== hold?.sinceMs,
      30_000,
    );
  }

  /** The stand-in's own record of its life. */
  async record(host: LabHost): Promise<RecordLine[]> {
    const lines = (await host.readFile(RECORD)).split('\n');
    return lines.filter((line) => line !== '').map((line) => JSON.parse(line) as RecordLine);
  }

  async setKnobs(host: LabHost, knobs: Knobs): Promise<void> {
    await host.writeFile(KNOBS, JSON.stringify({ ...QUICK, ...knobs }));
  }

  /** What to look at when a test fails. */
  async diagnosis(): Promise<string> {
    const agents = await Promise.all(
      this.hosts.map(async (host) => {
        if (!host.running) return `--- ${host.name} is not running`;
        const { stdout } = await host.exec(
          ['journalctl', '-u', 'kwfleet-agent', '-u', 'kaiwudb', '-n', '30', '--no-pager', '-o', 'cat'],
          {
            allowFailure: true,
          },
        );
        return `--- ${host.name}\n${stdout}`;
      }),
    );
    return [
      `--- controller\n${this.#controller?.stdout().slice(-3000)}\n${this.#controller?.stderr().slice(-3000)}`,
      ...agents,
    ].join('\n');
  }

  destroy(): Promise<void> {
    return this.lab.destroy();
  }
}

/** As docs/installation.md says it: a user for the agent, the unit's drop-in, and the sudoers file. */
async function giveSudo(host: LabHost): Promise<void> {
  await host.shell('useradd --system --no-create-home kwfleet; chown -R kwfleet /etc/kwfleet');
  const drop = await readFile(join(TOP, 'systemd/kwfleet-agent-user.conf'));
  await host.writeFile('/etc/systemd/system/kwfleet-agent.service.d/user.conf', drop);
  await host.writeFile(
    '/etc/sudoers.d/kwfleet-agent',
    await readFile(join(TOP, 'systemd/kwfleet-agent.sudoers')),
    0o440,
  );
}
