import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { type AddressInfo, createServer } from 'node:net';
import { join } from 'node:path';
import { killCgroup, labCgroup, makeCgroup } from './cgroup.ts';
import { type HostOptions, LabHost } from './machine.ts';
import { CONTROLLER_ADDRESS, deleteNamespaces, hostAddress, namespacePath, type Plug, Switch } from './network.ts';
import { labBase, makeLabDirectory, staleLabDirectories } from './place.ts';
import { type CommandOptions, type CommandResult, LabProcess, type ProcessOptions, run } from './process.ts';
import { deadline } from './wait.ts';

const REPOSITORY = join(import.meta.dirname, '..', '..');
const RELAY_TIMEOUT_MS = 60_000;

/** A listening port of the machine's loopback that leads into the lab. */
export interface Forward {
  port: number;
  close(): Promise<void>;
}

/** Some hosts on one switch, and a place on it for the test's own processes. */
export class Lab {
  readonly id: string;
  /** Scratch space of this lab, gone after `destroy`. */
  readonly directory: string;
  /** The network namespace (see `ip netns`) in which controller and workload run. */
  readonly controllerNamespace: string;
  readonly controllerAddress = CONTROLLER_ADDRESS;
  readonly hosts: LabHost[] = [];
  readonly #cgroup: string;
  readonly #switch: Switch;
  readonly #controller: Plug;
  #destroyed: Promise<void> | undefined;

  constructor(id: string, directory: string, cgroup: string) {
    this.id = id;
    this.directory = directory;
    this.#cgroup = cgroup;
    this.#switch = new Switch(id);
    this.#controller = this.#switch.plug('ctl', CONTROLLER_ADDRESS);
    this.controllerNamespace = this.#controller.namespace;
  }

  /** Lays the network; called by createLab. */
  async open(): Promise<void> {
    await makeCgroup(join(this.#cgroup, 'ctl'));
    await this.#writeHostsFile();
    await this.#switch.create();
    await this.#switch.allowDrops();
    await this.#controller.attach();
  }

  /** A new host, not yet booted: `start` it. */
  async addHost(options: HostOptions = {}): Promise<LabHost> {
    if (this.#destroyed) throw new Error(`lab ${this.id} is destroyed`);
    const index = this.hosts.length;
    const { name = `h${index + 1}`, address = hostAddress(index), smallDisks = [], share = [] } = options;
    const directory = join(this.directory, name);
    const [cgroup, hostsFile] = [join(this.#cgroup, name), this.#hostsFile];
    const plug = this.#switch.plug(name, address);
    const host = new LabHost({ name, directory, cgroup, hostsFile, plug, smallDisks, share: [REPOSITORY, ...share] });
    this.hosts.push(host);
    await mkdir(directory);
    await this.#writeHostsFile();
    return host;
  }

  /**
   * Starts a command of the machine (its files, its node) in the lab's network at `controllerAddress`. Names of hosts
   * resolve. It ends by `kill`, or with the lab.
   */
  spawnInNetwork(argv: readonly string[], options: ProcessOptions = {}): LabProcess {
    return new LabProcess(this.#inNetwork(argv), options);
  }

  /** Runs a command in the lab's network to its end. */
  async execInNetwork(argv: readonly string[], options: CommandOptions = {}): Promise<CommandResult> {
    return run(this.#inNetwork(argv), options);
  }

  /** Opens a port on the machine's loopback that leads to a port in the lab, for the test process or a browser. */
  async forward(port: number, address: string = CONTROLLER_ADDRESS): Promise<Forward> {
    const server = createServer();
    await once(server.listen(0, '127.0.0.1'), 'listening');
    const argv = [process.execPath, join(import.meta.dirname, 'relay.ts'), address, String(port)];
    const relay = new LabProcess(this.#inNetwork(argv), {}, { ipc: true });
    const ready = once(relay.child, 'message');
    relay.child.send('listen', server);
    const outer = (server.address() as AddressInfo).port;
    await deadline(ready, RELAY_TIMEOUT_MS, () => `the relay did not start:\n${relay.stderr()}`);
    // Only the relay may take connections: it is the one inside.
    server.close();
    return { port: outer, close: async () => void (await relay.kill()) };
  }

  /** Ends every process of the lab and removes all it has on the machine, also in the middle of a boot. */
  destroy(): Promise<void> {
    this.#destroyed ??= this.#destroy();
    return this.#destroyed;
  }

  async #destroy(): Promise<void> {
    // A host whose boot is under way dies of this; once the boot has failed, nothing more is being made.
    await killCgroup(this.#cgroup).catch(() => {});
    await Promise.all(this.hosts.map((host) => host.settled));
    await removeLab(this.id, this.directory, this.#cgroup);
  }

  get #hostsFile(): string {
    return join(this.directory, 'hosts');
  }

  /** In place: running hosts have this very file mounted on /etc/hosts. */
  async #writeHostsFile(): Promise<void> {
    const lines = this.hosts.map((host) => `${host.address} ${host.name}`);
    await writeFile(this.#hostsFile, ['127.0.0.1 localhost', `${CONTROLLER_ADDRESS} ctl`, ...lines, ''].join('\n'));
  }

  #inNetwork(argv: readonly string[]): string[] {
    const script = 'echo 0 >"$1/cgroup.procs" && mount --bind "$2" /etc/hosts && shift 2 && exec "$@"';
    const net = `--net=${namespacePath(this.controllerNamespace)}`;
    const spaces = ['unshare', '--mount', '--propagation', 'slave'];
    return ['nsenter', net, ...spaces, 'sh', '-c', script, 'sh', join(this.#cgroup, 'ctl'), this.#hostsFile, ...argv];
  }
}

let swept: Promise<void> | undefined;

/** Makes a lab. Leftovers of killed runs are removed first. */
export async function createLab(options: { name?: string } = {}): Promise<Lab> {
  const base = await labBase();
  if (base === undefined) throw new Error('no directory can be the upper layer of an overlay; see probeLab');
  swept ??= cleanStaleLabs();
  await swept;
  const id = `${options.name === undefined ? '' : `${options.name}-`}${randomBytes(4).toString('hex')}`;
  if (!/^[a-z0-9-]{1,40}$/.test(id)) throw new Error(`lab name ${options.name}: lower case letters, digits and dashes`);
  const { path } = await makeLabDirectory(base, id);
  const lab = new Lab(id, path, await labCgroup(id));
  try {
    await lab.open();
  } catch (error) {
    await lab.destroy();
    throw error;
  }
  return lab;
}

/** Removes labs whose owner died without destroying them. */
export async function cleanStaleLabs(): Promise<void> {
  for (const { id, path } of staleLabDirectories()) await removeLab(id, path, await labCgroup(id));
}

async function removeLab(id: string, directory: string, cgroup: string): Promise<void> {
  const errors: unknown[] = [];
  // The directory goes last: as long as it is there, cleanStaleLabs finds what is left.
  for (const step of [() => killCgroup(cgroup), () => deleteNamespaces(id)]) {
    await step().catch((error: unknown) => errors.push(error));
  }
  if (errors.length > 0) throw new AggregateError(errors, `lab ${id} is not wholly removed`);
  await rm(directory, { recursive: true, force: true, maxRetries: 5 });
}
