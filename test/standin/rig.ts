/** Clusters of stand-ins on loopback addresses, for tests: each node a root directory, all gone at the end. */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ProcessServices } from '../../packages/agent/src/host/process-services.ts';
import { dpkgOptions, type InstalledNode, type InstallMode, installNode } from './install.ts';
import type { Knobs } from './kwbase.ts';
import { buildPackage, type PackageOptions, unpackPackage } from './package.ts';

export const UNIT = 'kaiwudb';
/** Heartbeats often, and a liveness so long that no busy machine loses a node by itself. */
const QUICK: Knobs = { heartbeatMs: 200, livenessMs: 30_000 };
/** For tests that wait until a node counts as dead. */
export const SHORT_LIVED: Knobs = { livenessMs: 3_000 };
/** So often it is looked whether the output of a deploy.sh that ended is closed: if not, something was left behind. */
const CLOSING_LOOKS = 20;

/** Calls `look` until it gives something else than null, undefined or false; throws after the deadline. */
export async function poll<T>(
  what: string,
  look: () => Promise<T | null | undefined | false>,
  timeoutMs = 120_000,
): Promise<T> {
  const deadline = Date.now() + timeoutMs;
  let last: unknown = 'nothing';
  while (Date.now() < deadline) {
    try {
      const found = await look();
      if (found !== null && found !== undefined && found !== false) return found;
    } catch (error) {
      last = error;
    }
    await sleep(25);
  }
  throw new Error(`not within ${timeoutMs} ms: ${what} (last: ${String(last)})`);
}

export type Finished = { readonly code: number | null; readonly stdout: string; readonly stderr: string };

/** Runs a program to its end, whatever its exit status. */
export function runToEnd(
  file: string,
  args: readonly string[],
  env = process.env,
  timeout = 120_000,
): Promise<Finished> {
  return new Promise((resolve) => {
    execFile(file, [...args], { env, timeout }, (error, stdout, stderr) => {
      const code = error === null ? 0 : typeof error.code === 'number' ? error.code : null;
      resolve({ code, stdout, stderr });
    });
  });
}

async function isFree(host: string, port: number): Promise<boolean> {
  const server = createServer();
  return new Promise((resolve) => {
    server.once('error', () => resolve(false));
    server.listen(port, host, () => server.close(() => resolve(true)));
  });
}

/** A 127.A.B on which nobody listens on these ports yet. */
async function freeNetwork(port: number, httpPort: number): Promise<string> {
  for (let tries = 0; tries < 50; tries++) {
    const network = `127.${10 + Math.floor(Math.random() * 240)}.${Math.floor(Math.random() * 250)}`;
    if ((await isFree(`${network}.1`, port)) && (await isFree(`${network}.1`, httpPort))) return network;
  }
  throw new Error('no free loopback network found');
}

export type RecordLine = {
  readonly atMs: number;
  readonly event: string;
  readonly version: string;
  readonly upgradeComplete: boolean;
};

/** One node of a rig. */
export class Node {
  readonly installed: InstalledNode;
  readonly services: ProcessServices;

  constructor(installed: InstalledNode) {
    this.installed = installed;
    this.services = new ProcessServices(installed.root);
  }

  start(): Promise<void> {
    return this.services.start(UNIT, 5000);
  }

  stop(): Promise<void> {
    return this.services.stop(UNIT, 60_000);
  }

  async kill(): Promise<void> {
    const { mainPid } = await this.services.state(UNIT);
    if (mainPid !== null) process.kill(mainPid, 'SIGKILL');
    await poll('process gone', async () => (await this.services.state(UNIT)).active !== 'active');
  }

  async isReady(): Promise<boolean> {
    return (await fetch(`${this.installed.httpUrl}/health?ready=1`)).ok;
  }

  ready(): Promise<unknown> {
    return poll(`${this.installed.host} ready`, () => this.isReady());
  }

  kwbase(...args: string[]): Promise<Finished> {
    return runToEnd(this.installed.kwbase, [...args, '--insecure', `--host=${this.installed.host}`]);
  }

  /** `node status` with every column, a row a node, by column name. */
  async status(...flags: string[]): Promise<Record<string, string>[]> {
    const { stdout, stderr, code } = await this.kwbase(
      'node',
      'status',
      '--format=csv',
      ...(flags.length > 0 ? flags : ['--all']),
    );
    if (code !== 0) throw new Error(stderr);
    const [head = '', ...lines] = stdout.trim().split('\n');
    const names = head.split(',');
    return lines.map((line) => Object.fromEntries(line.split(',').map((value, i) => [names[i] ?? '', value])));
  }

  async sql(text: string): Promise<string> {
    const { stdout, stderr, code } = await this.kwbase('sql', '--format=csv', '-e', text);
    if (code !== 0) throw new Error(stderr);
    return stdout.trim();
  }

  setKnobs(knobs: Knobs): void {
    writeFileSync(this.installed.knobFile, JSON.stringify({ ...QUICK, ...knobs }));
  }

  record(): RecordLine[] {
    const lines = readFileSync(this.installed.recordFile, 'utf8').split('\n');
    return lines.filter((line) => line !== '').map((line) => JSON.parse(line) as RecordLine);
  }

  read(path: string): string {
    return readFileSync(join(this.installed.root, path), 'utf8');
  }

  versionFile(): string {
    return this.read('etc/kaiwudb/info/.version').split('\n')[0] ?? '';
  }

  async installedVersion(): Promise<string> {
    const { stdout } = await runToEnd(this.installed.kwbase, ['version']);
    return /Version:\s+V(\S+)/.exec(stdout)?.[1] ?? 'none';
  }

  /** dpkg's two letters for a package: `ii`, `iF`, `in`; `--` when it does not know the name. */
  async packageState(name: string): Promise<string> {
    const options = dpkgOptions({ root: this.installed.root });
    const { stdout } = await runToEnd('dpkg', [...options, '-l', name]);
    return /^([a-zA-Z]{2}) /m.exec(stdout.split('\n').slice(5).join('\n'))?.[1] ?? '--';
  }
}

export type DeployRun = {
  readonly code: number | null;
  readonly output: string;
  readonly ms: number;
  /** Whether something that deploy.sh left behind still holds its standard output open. */
  readonly barLeft: boolean;
};

/** A deploy.sh under way, in a process group of its own. */
export class Deploy {
  readonly child: ChildProcess;
  readonly #startedMs = Date.now();
  readonly #exit: Promise<number | null>;
  readonly #closed: Promise<void>;
  output = '';

  constructor(directory: string, args: readonly string[], env: NodeJS.ProcessEnv) {
    this.child = spawn(join(directory, 'deploy.sh'), args, { env, detached: true, stdio: ['ignore', 'pipe', 'pipe'] });
    for (const stream of [this.child.stdout, this.child.stderr]) {
      stream?.setEncoding('utf8').on('data', (text: string) => {
        this.output += text;
      });
    }
    this.#exit = new Promise((resolve) => this.child.once('exit', (code) => resolve(code)));
    this.#closed = new Promise((resolve) => this.child.once('close', () => resolve()));
  }

  get running(): boolean {
    return this.child.exitCode === null && this.child.signalCode === null;
  }

  /** Waits for the process, not for the end of its output, then sees who still holds that. */
  async finished(): Promise<DeployRun> {
    const code = await this.#exit;
    const ms = Date.now() - this.#startedMs;
    let barLeft = true;
    void this.#closed.then(() => {
      barLeft = false;
    });
    // Looks, not a time: while this process stands still it hears of no end.
    for (let look = 0; barLeft && look < CLOSING_LOOKS; look++) await sleep(25);
    this.killGroup();
    return { code, output: this.output, ms, barLeft };
  }

  killGroup(): void {
    try {
      process.kill(-(this.child.pid ?? 0), 'SIGKILL');
    } catch {
      // Nothing of it is left.
    }
  }
}

/** More clusters at once than this slow one another down until nodes miss their heartbeats. */
const MAX_RIGS = 3;
let openRigs = 0;
const waiting: (() => void)[] = [];

async function takeSlot(): Promise<void> {
  if (openRigs >= MAX_RIGS) await new Promise<void>((resolve) => waiting.push(resolve));
  else openRigs += 1;
}

function freeSlot(): void {
  const next = waiting.shift();
  if (next === undefined) openRigs -= 1;
  else next();
}

/** What a rig needs of a test's context, to end with the test. */
export type Ending = { readonly onTestFinished: (end: () => Promise<void>) => void };

/** A rig that lasts as long as the test; waits while too many others are open. */
export async function cluster(test: Ending, options: RigOptions = {}): Promise<Rig> {
  await takeSlot();
  test.onTestFinished(async () => freeSlot());
  return Rig.create(options, test);
}

export type RigOptions = {
  readonly mode?: InstallMode;
  readonly nodes?: number;
  readonly version?: string;
  readonly knobs?: Knobs;
  readonly start?: boolean;
};

/** A temporary directory with nodes and packages in it. */
export class Rig {
  readonly directory = mkdtempSync(join(tmpdir(), 'kw-rig-'));
  readonly nodes: Node[] = [];
  readonly #deploys: Deploy[] = [];
  #packages = 0;

  /** Installs nodes of one cluster and, unless told otherwise, starts them and waits until all are ready. */
  static async create(options: RigOptions, test: Ending): Promise<Rig> {
    const rig = new Rig();
    test.onTestFinished(() => rig.close());
    const [port, httpPort] = [26257, 8080];
    const mode = options.mode ?? 'multi-replication';
    const count = options.nodes ?? (mode === 'single' ? 1 : 3);
    const network = await freeNetwork(port, httpPort);
    const addresses = Array.from({ length: count }, (_, i) => `${network}.${i + 1}`);
    const version = options.version ?? '3.0.0';
    const packagePath = await rig.package({ version });
    await Promise.all(
      addresses.map(async (address, i) => {
        const peers = addresses.filter((other) => other !== address);
        const root = join(rig.directory, `host${i + 1}`);
        const knobs = { ...QUICK, ...options.knobs };
        rig.nodes[i] = new Node(
          await installNode({ root, version, mode, address, port, httpPort, peers, packagePath, knobs }),
        );
      }),
    );
    if (options.start !== false) await rig.startAll();
    return rig;
  }

  async startAll(): Promise<void> {
    await Promise.all(this.nodes.map((node) => node.start()));
    await Promise.all(this.nodes.map((node) => node.ready()));
  }

  /** By its number, from 1. */
  readonly node = (number: number): Node => {
    const node = this.nodes[number - 1];
    if (node === undefined) throw new Error(`no node ${number}`);
    return node;
  };

  /** Builds and unpacks a package; returns its `kaiwudb_install`. */
  async package(options: Omit<PackageOptions, 'outDir'>): Promise<string> {
    const outDir = join(this.directory, `package${++this.#packages}`);
    return unpackPackage(await buildPackage({ ...options, outDir }), outDir);
  }

  begin(
    node: Node,
    directory: string,
    args: readonly string[] = ['upgrade', '-l'],
    env: NodeJS.ProcessEnv = {},
  ): Deploy {
    const deploy = new Deploy(directory, args, { ...process.env, ...node.installed.env, ...env });
    this.#deploys.push(deploy);
    return deploy;
  }

  deploy(node: Node, directory: string, args?: readonly string[], env?: NodeJS.ProcessEnv): Promise<DeployRun> {
    return this.begin(node, directory, args, env).finished();
  }

  /** Ends every process and removes every file. */
  async close(): Promise<void> {
    for (const deploy of this.#deploys) deploy.killGroup();
    await Promise.all(this.nodes.map((node) => node.services.stop(UNIT, 300)));
    await rm(this.directory, { recursive: true, force: true });
  }
}
