/** The agent's driver over a simulated host: the contract of driver.ts, with the host's own latencies and awkwardness. */
import {
  type Action,
  type ClusterHealth,
  type Condition,
  FleetError,
  type Installation,
  type LedgerEntry,
  type NodeReport,
  type Phase,
  packageOf,
} from '@kwfleet/core';
import type { Driver, Watch } from '../../packages/agent/src/driver/driver.ts';
import { CLUSTER_ID } from './database.ts';
import type { CommandKind, DeployCommand } from './deploy.ts';
import type { Host } from './host.ts';
import type { Life, World } from './world.ts';

/** As the real driver: a killed command is started again, a quiet orphan ended. */
const TRIES = 3;
const ORPHAN_QUIET_MS = 60_000;

const UNPACKED_BYTES = 10 * 1024 * 1024 * 1024;

export class SimDriver implements Driver {
  readonly #host: Host;
  readonly #life: Life;
  readonly #world: World;
  /** Whether packages can be fetched: the way to a controller is open. */
  readonly #linked: () => boolean;
  /** The order's id as the store knows it. */
  readonly #trueId: (action: Action) => string;

  constructor(host: Host, life: Life, linked: () => boolean, trueId: (action: Action) => string) {
    this.#host = host;
    this.#life = life;
    this.#world = host.world;
    this.#linked = linked;
    this.#trueId = trueId;
  }

  observe(): Promise<NodeReport> {
    return this.#io(15, () => reportOf(this.#host));
  }

  health(questions: 'ranges' | 'all'): Promise<ClusterHealth> {
    return this.#io(40, () => {
      const host = this.#host;
      if (host.packages.binary === undefined) throw kwbaseFailed('there is no kwbase on this host just now');
      const through = [host, ...host.database.hosts].find(({ process }) => process?.ready === true);
      if (through === undefined) throw kwbaseFailed('Error: cannot dial server.');
      return host.database.health(through, questions);
    });
  }

  async fetch(action: Action, watch: Watch): Promise<void> {
    const host = this.#host;
    if (host.faults.strikes('fetchFails')) throw new FleetError('FETCH_FAILED', 'the package could not be fetched');
    for (let part = 0; part < 2; part++) {
      while (!this.#linked()) {
        watch.detail('waiting: no controller to fetch the package from');
        await watch.pause();
      }
      watch.moved(`part ${part}`);
      await watch.pause(500);
    }
    await this.#io(50, () => host.fetched.add(packageOf(action).sha256));
  }

  async drain(action: Action, watch: Watch): Promise<void> {
    const host = this.#host;
    this.#deed('drain', action);
    const fails = host.faults.strikes('drainFails');
    await this.#io(300, () => {
      if (!fails) host.drain(this.#trueId(action));
    });
    await watch.pause(this.#world.random.int(200, 3_000));
    if (fails) throw new FleetError('DRAIN_FAILED', 'long transactions keep the node from draining');
  }

  async stop(action: Action, watch: Watch): Promise<void> {
    const host = this.#host;
    this.#deed('stop', action);
    await this.#io(30, () => host.stop('system', this.#trueId(action)));
    while (host.process !== null) {
      watch.detail(`the service is ${host.active}`);
      await watch.pause();
    }
  }

  /** An earlier order's command gets the time it needs as long as it moves; then it is ended. */
  async quiesce(action: Action, watch: Watch): Promise<void> {
    const host = this.#host;
    const limitMs = Math.min(ORPHAN_QUIET_MS, action.deadline.idleMs / 2);
    let moved = -1;
    let quietMs = 0;
    while (host.command !== null && host.command.action !== this.#trueId(action)) {
      watch.detail('waiting for a deploy.sh that an earlier order left running');
      quietMs = host.command.moved === moved ? quietMs + 1_000 : 0;
      moved = host.command.moved;
      watch.moved(`orphan ${moved}`);
      if (quietMs >= limitMs) await this.#io(20, () => host.command?.kill());
      else await watch.pause();
    }
    for (const command of host.commands.values()) {
      if (command.action !== this.#trueId(action)) command.kill();
    }
  }

  isAtWork(action: Action): Promise<boolean> {
    const { commands } = this.#host;
    const own = (command: DeployCommand) => command.action === this.#trueId(action) && command.state === 'running';
    return this.#io(20, () => [...commands.values()].some(own));
  }

  async install(action: Action, watch: Watch): Promise<void> {
    const host = this.#host;
    if (host.process !== null) throw new FleetError('DEPLOY_STILL_RUNNING', 'the database runs');
    const { recorded, package: installed, binary, half } = host.packages;
    if (!half && recorded === installed && installed === binary) host.kept = recorded;
    await this.#deploy('install', action, action.to, watch);
  }

  installOnline(action: Action, watch: Watch): Promise<void> {
    this.#host.kept ??= this.#host.packages.recorded;
    return this.#deploy('online', action, action.to, watch);
  }

  async start(action: Action): Promise<void> {
    this.#deed('start', action);
    await this.#io(60, () => this.#host.start('system', this.#trueId(action)));
  }

  async putBack(action: Action, watch: Watch): Promise<void> {
    // On the way back after an abort, the order's `from` is what is put back.
    await this.#deploy('put-back', action, action.from, watch);
  }

  async restoreEnabled(enabled: boolean): Promise<void> {
    await this.#io(30, () => {
      this.#host.unit.enabled = enabled;
    });
  }

  setSetting({ value }: LedgerEntry): Promise<void> {
    return this.#io(60, () => {
      const { database } = this.#host;
      if (!database.hosts.some(({ process }) => process?.ready === true))
        throw kwbaseFailed('Error: cannot dial server.');
      database.set(value, 'put back');
    });
  }

  release(): Promise<void> {
    return Promise.resolve();
  }

  /** Finds its own command when an earlier agent started it, waits for any other, and says how it ended. */
  async #deploy(kind: CommandKind, action: Action, version: string, watch: Watch): Promise<void> {
    const host = this.#host;
    await this.quiesce(action, watch);
    for (let attempt = 1; attempt <= TRIES; attempt++) {
      const id = `${kind} of ${action.id}, ${attempt}`;
      if (!host.commands.has(id)) {
        await watch.fence();
        // deploy.sh refuses the version that is there already, and touches nothing.
        const refused = kind !== 'put-back' && host.packages.recorded === version;
        if (!refused) this.#deed(kind === 'online' ? 'install-online' : kind, action);
        await this.#io(20, () => host.runDeploy(kind, id, version, this.#trueId(action)));
      }
      const command = host.commands.get(id) as DeployCommand;
      while (command.state === 'running') {
        watch.moved(`step ${command.moved}`);
        await watch.pause();
      }
      if (command.state === 'exited') {
        if (command.exitCode === 0) return;
        throw new FleetError('INSTALL_FAILED', 'deploy.sh failed', { words: command.words });
      }
      // Its unit's cgroup is ended whole: what a killed deploy.sh had started goes with it.
      command.kill();
      watch.detail('the command was killed; starting it again');
    }
    throw new FleetError('INSTALL_LOST', `deploy.sh was killed ${TRIES} times`);
  }

  #deed(deed: Phase, action: Action): void {
    // A dead process's last breath changes nothing.
    if (!this.#life.alive) return;
    this.#world.tell({ type: 'deed', node: this.#host.node, deed, action: this.#trueId(action) });
  }

  /** Everything on a host ends with it: a call that was under way never returns. */
  #io<T>(meanMs: number, effect: () => T): Promise<T> {
    return this.#world.io(this.#life, this.#world.random.int(1, meanMs * 2), effect);
  }
}

const kwbaseFailed = (words: string) => new FleetError('KWBASE_FAILED', 'the database could not be asked', { words });

const HOST_BASICS = {
  architecture: 'amd64',
  distribution: { id: 'debian', versionId: '12', family: 'deb' },
  agentVersion: '0.1.0',
  privileges: 'root',
  freeBytes: { agent: UNPACKED_BYTES, install: UNPACKED_BYTES, data: UNPACKED_BYTES },
  backup: { directory: '/backups', freeBytes: UNPACKED_BYTES, command: false },
} as const;

/** What an honest observer sees of the host now. */
export function reportOf(host: Host): NodeReport {
  const { process, database } = host;
  const view = process?.ready === true ? database.view(host) : undefined;
  return {
    host: { hostname: host.node, ...HOST_BASICS, bootId: `${host.node}-${host.boot}`, clockMs: host.clock() },
    installation: installationOf(host),
    serving: process?.joined === true,
    ready: process?.ready === true,
    ...(host.record === null ? {} : { identity: { clusterId: CLUSTER_ID, kwdbId: host.kwdbId } }),
    ...(view === undefined ? {} : { view }),
    observedAtMs: host.clock(),
  };
}

function installationOf(host: Host): Installation {
  const { packages, process } = host;
  const { recorded, package: installed, binary } = packages;
  return {
    method: 'script-bare',
    topology: host.database.topology,
    installDir: '/usr/local/kaiwudb',
    dataDir: '/var/lib/kaiwudb',
    places: { certificates: '/etc/kaiwudb/certs', configuration: ['/etc/kaiwudb/info'] },
    address: host.address.split(':')[0] as string,
    port: 26257,
    httpPort: 8080,
    user: 'kaiwudb',
    security: 'insecure',
    encrypted: false,
    peers: [],
    unit: {
      exists: true,
      active: host.active,
      enabled: host.unit.enabled,
      ...(process === null ? {} : { mainPid: process.pid, startedAtMs: process.startedHostMs }),
    },
    versions: {
      ...(recorded === undefined ? {} : { recorded }),
      ...(installed === undefined ? {} : { package: installed }),
      ...(binary === undefined ? {} : { binary }),
      ...(process?.ready === true ? { running: process.version } : {}),
    },
    ...conditionOf(host),
  };
}

function conditionOf(host: Host): { condition: Condition; conditionDetail: string } {
  const { recorded, binary, half } = host.packages;
  if (binary === undefined) return { condition: 'binary-missing', conditionDetail: 'there is no kwbase' };
  if (half) return { condition: 'package-half-installed', conditionDetail: 'dpkg says iF' };
  if (recorded !== binary) {
    return { condition: 'version-file-behind', conditionDetail: `.version ${recorded}, binary ${binary}` };
  }
  if (host.process?.ready === true && host.process.version !== binary) {
    return { condition: 'process-behind', conditionDetail: `runs ${host.process.version}, installed ${binary}` };
  }
  if (host.marked || host.completesUpgrade) {
    return { condition: 'marked-upgrading', conditionDetail: 'the database lists this node as being upgraded' };
  }
  return { condition: 'clean', conditionDetail: '' };
}
