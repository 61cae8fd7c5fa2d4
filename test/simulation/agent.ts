/** An agent process on a host: the real Executor and Journal, over a simulated driver, disk, clock and link. */
import type { Action, ClusterHealth, NodeReport } from '@kwfleet/core';
import { FleetError } from '@kwfleet/core';
import type { AgentMessage, ControllerMessage } from '@kwfleet/protocol';
import type { Clock } from '../../packages/agent/src/clock.ts';
import { Executor } from '../../packages/agent/src/executor/executor.ts';
import { Journal, type JournalStorage } from '../../packages/agent/src/journal/journal.ts';
import { HEARTBEAT_MS } from './controller.ts';
import type { Host } from './host.ts';
import { Connection, type Wire } from './network.ts';
import { SimBackups } from './sim-backups.ts';
import { SimDriver } from './sim-driver.ts';
import type { Simulation } from './simulation.ts';
import { Life } from './world.ts';

const REPORT_LOOK_MS = 5_000;
const HEALTH_EVERY_MS = 60_000;
const RESEND_BEATS = 2;

export class Agent {
  readonly life: Life;
  readonly host: Host;
  readonly wire: Wire;
  readonly #sim: Simulation;
  readonly driver: SimDriver;
  executor: Executor | undefined;
  #connection: Connection | undefined;
  #health: ClusterHealth | undefined;
  #healthAtMs = Number.NEGATIVE_INFINITY;
  #told = '';
  #beats = 0;
  #edition = 0;
  /** The stream speaks for the node: until then, only its hello was sent. */
  #welcomed = false;
  #latest: NodeReport | undefined;

  constructor(sim: Simulation, host: Host, wire: Wire) {
    this.#sim = sim;
    this.host = host;
    this.wire = wire;
    this.life = new Life(`agent of ${host.node}`);
    this.life.hazard = () => {
      if (!sim.faults.strikes('processCrash')) return false;
      sim.world.tell({ type: 'fault', text: `${this.life.name} crashes at an await` });
      sim.crashAgent(this);
      return true;
    };
    this.driver = new SimDriver(
      host,
      this.life,
      () => this.#connection?.open === true,
      ({ id }) => sim.guard.trueId(id),
    );
    void this.#begin();
  }

  async #begin(): Promise<void> {
    const { world, guard } = this.#sim;
    const { node } = this.host;
    let journal: Journal;
    try {
      journal = await Journal.open(this.#storage());
    } catch (error) {
      // An agent that cannot read its journal, or cut its torn tail, ends; its unit starts it again.
      if (!this.host.disk.full)
        this.#sim.violate('I9', `the agent of ${node} cannot open its journal: ${String(error)}`);
      return this.#sim.crashAgent(this);
    }
    const driver = guard.driver(this.driver, this.host);
    this.executor = new Executor({
      node,
      driver,
      backups: new SimBackups(this.host, this.life, ({ id }) => guard.trueId(id)),
      journal,
      clock: this.#clock(),
      send: (message) => {
        if ('report' in message) this.#tellsNow(message.report);
        this.#send(message);
      },
    });
    this.executor.resume();
    await this.#look();
    this.#connect();
    world.every(HEARTBEAT_MS, this.life, () => this.#beat());
    world.every(REPORT_LOOK_MS, this.life, () => void this.#look());
  }

  /** Whoever talked to it notices that the process is gone. */
  hangUp(): void {
    const connection = this.#connection;
    this.#connection = undefined;
    connection?.close();
  }

  get connected(): boolean {
    return this.#connection?.open === true;
  }

  #clock(): Clock {
    const { world } = this.#sim;
    return {
      now: () => this.host.clock(),
      elapsed: () => world.nowMs,
      sleep: (ms) => world.io(this.life, ms, () => {}),
    };
  }

  /** The disk as this process sees it: it can be full, and a crash leaves any prefix of a write. */
  #storage(): JournalStorage {
    const { world, guard, faults } = this.#sim;
    const { disk } = this.host;
    const write = (effect: () => void) => world.io(this.life, world.random.int(1, 12), effect);
    return {
      read: () => world.io(this.life, 5, () => guard.readJournal(disk)),
      append: (bytes) =>
        write(() => {
          if (disk.full) {
            disk.append(bytes, world.random.int(0, bytes.length - 1));
            throw Object.assign(new Error('no space left on device'), { code: 'ENOSPC' });
          }
          if (faults.strikes('processCrash')) {
            disk.append(bytes, world.random.int(0, bytes.length));
            world.tell({ type: 'fault', text: `${this.life.name} crashes in a journal write` });
            return this.#sim.crashAgent(this);
          }
          disk.append(bytes);
        }),
      replace: (bytes) =>
        write(() => {
          if (disk.full) throw Object.assign(new Error('no space left on device'), { code: 'ENOSPC' });
          disk.replace(bytes);
        }),
    };
  }

  #send(message: AgentMessage): void {
    if (this.life.alive && this.#welcomed) this.#connection?.toController(this.#sim.guard.upward(message));
  }

  #connect(): void {
    const { world, faults } = this.#sim;
    if (!this.life.alive) return;
    const again = () => world.after(world.random.int(500, 3_000), () => world.reach(this.life, () => this.#connect()));
    const controller = this.#sim.someController();
    if (controller === undefined || !this.wire.open) return void again();
    const connection = new Connection(world, faults, this.wire);
    this.#connection = connection;
    this.#welcomed = false;
    connection.agent = {
      life: this.life,
      receive: (message) => this.#receive(message, connection),
      closed: () => {
        if (this.#connection !== connection) return;
        this.#connection = undefined;
        again();
      },
    };
    controller.open(connection);
    const inHand = this.#sim.guard.inHand(this.executor?.inHand() ?? []);
    connection.toController({ hello: { node: this.host.node, agentVersion: '0.1.0', protocol: 1, inHand } });
  }

  /** What is true now goes first: a result that waited in the journal tells of a time that may be long past. */
  #welcome(connection: Connection): void {
    if (this.#connection !== connection) return;
    this.#welcomed = true;
    if (this.#latest !== undefined) this.#send({ report: this.#latest });
    this.#resend();
  }

  #receive(message: ControllerMessage, connection: Connection): void {
    const { executor } = this;
    if (executor === undefined) return;
    if ('welcome' in message) {
      executor.welcomed(message.welcome.clockMs);
      this.#welcome(connection);
    }
    if ('resultStored' in message) {
      for (const action of this.#sim.guard.acknowledgements(message.resultStored.action)) {
        // A full disk: the result is sent again, and acknowledged again.
        executor.acknowledge(action).catch(() => {});
      }
    }
    if (!('action' in message)) return;
    const trueAction = message.action;
    const action: Action = this.#sim.guard.order(trueAction);
    executor.accept(action).then(
      () => {
        // What was refused has its result already.
        const refused = executor.unacknowledged().some((result) => result.action === action.id);
        if (refused || !executor.inHand().includes(action.id)) return;
        this.#sim.world.tell({ type: 'accepted', node: this.host.node, action: trueAction.id });
      },
      (error: unknown) => {
        if (!(error instanceof FleetError)) this.#sim.violate('ENGINE', `accept threw ${String(error)}`);
        // Not accepted: only a new stream brings the order again.
        connection.close();
      },
    );
  }

  #resend(): void {
    for (const result of this.executor?.unacknowledged() ?? []) this.#send({ result });
  }

  #beat(): void {
    this.#beats++;
    if (this.#beats % RESEND_BEATS === 0) this.#resend();
    const { process } = this.host;
    const pulse = { serving: process?.joined === true, ready: process?.ready === true };
    this.#send({ heartbeat: { clockMs: this.host.clock(), ...pulse } });
  }

  /** As the real reporter: a look that began before tells of an older time. */
  #tellsNow(report: NodeReport): void {
    this.#edition++;
    this.#latest = report;
    this.#told = signOf(report);
  }

  /** Looks at the node, also while nobody listens; tells what changed, and the cluster's health when it is due again. */
  async #look(): Promise<void> {
    const { world, faults } = this.#sim;
    const due = world.nowMs - this.#healthAtMs >= HEALTH_EVERY_MS;
    if (due) {
      this.#healthAtMs = world.nowMs;
      this.#health = await this.driver.health('all').catch(() => this.#health);
    }
    const edition = this.#edition;
    const report = await this.driver.observe();
    void this.executor?.saw(report);
    if (faults.strikes('reportLate')) await world.io(this.life, world.random.int(1_000, 20_000), () => {});
    if (edition !== this.#edition) return;
    this.#latest = this.#health === undefined ? report : { ...report, health: this.#health };
    const sign = signOf(report);
    if (this.#connection === undefined || (!due && sign === this.#told)) return;
    this.#told = sign;
    this.#send({ report: this.#latest });
  }
}

/** What is worth a new report: all but clocks. */
function signOf({ installation, serving, ready }: NodeReport): string {
  const { unit, versions, condition } = installation ?? {};
  return `${serving}${ready}${condition}${unit?.active}${unit?.mainPid}${unit?.enabled}${versions?.recorded}${versions?.binary}${versions?.running}`;
}
