import { run } from './process.ts';

const SUBNET = '10.77.0';
const PREFIX_LENGTH = 24;
const BRIDGE = 'br0';
const FIRST_HOST = 11;

export const CONTROLLER_ADDRESS = `${SUBNET}.1`;

/** The address a lab gives its n-th host (from 0) when the test does not choose one. */
export function hostAddress(index: number): string {
  return `${SUBNET}.${FIRST_HOST + index}`;
}

/** Network namespaces of labs all begin so; the lab's id follows. */
export const NAMESPACE_PREFIX = 'kwlab-';

/** The path of a named network namespace, for nsenter. */
export function namespacePath(namespace: string): string {
  return `/run/netns/${namespace}`;
}

/** A bridge in a network namespace of its own: what the hosts of one lab are plugged into. */
export class Switch {
  readonly namespace: string;
  readonly #labId: string;

  constructor(labId: string) {
    this.#labId = labId;
    this.namespace = `${NAMESPACE_PREFIX}${labId}-switch`;
  }

  async create(): Promise<void> {
    await addNamespace(this.namespace);
    const bridge = ['link', 'add', BRIDGE, 'type', 'bridge', 'stp_state', '0', 'forward_delay', '0'];
    await run(['ip', '-n', this.namespace, ...bridge]);
    await run(['ip', '-n', this.namespace, 'link', 'set', BRIDGE, 'up']);
  }

  plug(name: string, address: string): Plug {
    return new Plug(this.namespace, `${NAMESPACE_PREFIX}${this.#labId}-${name}`, name, address);
  }

  /** Drops frames on the bridge, so silently: the sender's own firewall would tell the sender (EPERM). */
  async allowDrops(): Promise<void> {
    const rules = [
      'add table bridge lab',
      'add chain bridge lab forward { type filter hook forward priority 0; }',
      'add set bridge lab dropped { type ifname . ipv4_addr; }',
      'flush chain bridge lab forward',
      'add rule bridge lab forward iifname . ip daddr @dropped drop',
    ];
    await nft(this.namespace, rules);
  }
}

/** One cable: a network namespace with an address on eth0, and its port on the switch. */
export class Plug {
  readonly namespace: string;
  readonly address: string;
  readonly #switchNamespace: string;
  readonly #port: string;
  #cut = false;
  #attached = false;

  constructor(switchNamespace: string, namespace: string, name: string, address: string) {
    this.#switchNamespace = switchNamespace;
    this.namespace = namespace;
    this.address = address;
    // Ports of one switch share its namespace, so a name is enough; the kernel allows 15 characters.
    this.#port = `p-${name}`;
    if (this.#port.length > 15)
      throw new Error(`host name ${name}: at most 13 characters, an interface is named after it`);
  }

  async attach(): Promise<void> {
    const { namespace } = this;
    await addNamespace(namespace);
    this.#attached = true;
    const pair = ['link', 'add', this.#port, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', namespace];
    await run(['ip', '-n', this.#switchNamespace, ...pair]);
    await run(['ip', '-n', this.#switchNamespace, 'link', 'set', this.#port, 'master', BRIDGE]);
    await run(['ip', '-n', namespace, 'link', 'set', 'lo', 'up']);
    await run(['ip', '-n', namespace, 'address', 'add', `${this.address}/${PREFIX_LENGTH}`, 'dev', 'eth0']);
    await run(['ip', '-n', namespace, 'link', 'set', 'eth0', 'up']);
    if (!this.#cut) await this.#setPort('up');
  }

  /**
   * Pulls the cable and takes the namespace away with it. The sockets in it say no goodbye then: peers see a host that
   * lost its power, not one whose kernel closes connections.
   */
  async detach(): Promise<void> {
    if (!this.#attached) return;
    await run(['ip', '-n', this.#switchNamespace, 'link', 'delete', this.#port]);
    await run(['ip', 'netns', 'delete', this.namespace]);
    this.#attached = false;
  }

  /** Takes the port down but keeps all else: what is sent now is lost. */
  async pull(): Promise<void> {
    if (this.#attached) await this.#setPort('down');
  }

  async cutOff(): Promise<void> {
    this.#cut = true;
    await this.pull();
  }

  async heal(): Promise<void> {
    this.#cut = false;
    if (this.#attached) await this.#setPort('up');
  }

  async drop(address: string): Promise<void> {
    await nft(this.#switchNamespace, [`add element bridge lab dropped { "${this.#port}" . ${address} }`]);
  }

  async undrop(address: string): Promise<void> {
    await nft(this.#switchNamespace, [`delete element bridge lab dropped { "${this.#port}" . ${address} }`]);
  }

  async #setPort(state: 'up' | 'down'): Promise<void> {
    await run(['ip', '-n', this.#switchNamespace, 'link', 'set', this.#port, state]);
  }
}

/** Deletes every network namespace of one lab. */
export async function deleteNamespaces(labId: string): Promise<void> {
  const { stdout } = await run(['ip', 'netns', 'list']);
  const names = stdout.split('\n').map((line) => line.split(' ')[0] ?? '');
  for (const name of names.filter((name) => name.startsWith(`${NAMESPACE_PREFIX}${labId}-`))) {
    // Two cleaners may meet at one killed run; gone is gone.
    await run(['ip', 'netns', 'delete', name], { allowFailure: true });
  }
}

async function addNamespace(namespace: string): Promise<void> {
  await run(['ip', 'netns', 'add', namespace]);
}

async function nft(namespace: string, rules: string[]): Promise<void> {
  const argv = ['nsenter', `--net=${namespacePath(namespace)}`, 'nft', '-f', '-'];
  await run(argv, { input: `${rules.join('\n')}\n` });
}
