/** One simulated world and what lives in it: hosts with agents, controllers, the store, the troubles. */
import type { Topology } from '@kwfleet/core';
import { Agent } from './agent.ts';
import { Approvers } from './approvers.ts';
import { Chronicle } from './chronicle.ts';
import { Controller } from './controller.ts';
import { Database } from './database.ts';
import { drawFaults, Faults } from './faults.ts';
import { Host } from './host.ts';
import { Wire } from './network.ts';
import { Random } from './random.ts';
import { OLD } from './releases.ts';
import { Guard, type Safeguard } from './safeguards.ts';
import { Store } from './store.ts';
import { Windows } from './windows.ts';
import { World } from './world.ts';

export type Violation = { readonly invariant: string; readonly message: string; readonly atMs: number };

export class Simulation {
  readonly world: World;
  readonly faults: Faults;
  readonly database: Database;
  readonly hosts: readonly Host[];
  readonly store: Store;
  readonly guard: Guard;
  readonly chronicle: Chronicle;
  readonly approvers: Approvers;
  readonly windows: Windows;
  readonly violations: Violation[] = [];
  readonly controllers: Controller[] = [];
  /** By node; absent while its process is down. */
  readonly agents = new Map<string, Agent>();
  readonly #wires = new Map<string, Wire>();
  #names = 0;

  constructor(seed: number, topology: Topology, without: Safeguard | undefined) {
    const random = new Random(seed);
    this.world = new World(random);
    this.faults = new Faults(drawFaults(random), random);
    this.guard = new Guard(without);
    this.database = new Database(this.world, topology);
    const count =
      topology === 'standalone' ? 1 : topology === 'single-replica' ? random.int(2, 3) : random.pick([3, 3, 3, 4, 5]);
    this.hosts = Array.from(
      { length: count },
      (_, index) => new Host(this.world, this.faults, this.database, index, OLD),
    );
    this.database.hosts.push(...this.hosts);
    this.database.layOut();
    for (const host of this.hosts) host.beginServing();
    this.store = new Store(this.world, this.faults);
    this.chronicle = new Chronicle(this);
    this.approvers = new Approvers(this, seed);
    this.windows = new Windows(seed);
    if (this.windows.window !== undefined) this.store.windows.set(this.windows.window.name, this.windows.window);
    this.world.onEvidence((evidence) => this.chronicle.note(evidence));
    for (const host of this.hosts) {
      this.#wires.set(host.node, new Wire());
      this.startAgent(host);
    }
    const controllers = random.chance(0.35) ? 2 : 1;
    for (let i = 0; i < controllers; i++) this.startController();
  }

  violate(invariant: string, message: string): void {
    // The first of a kind tells; the same thing seen again at each event does not.
    if (this.violations.some((known) => known.invariant === invariant)) return;
    this.violations.push({ invariant, message, atMs: this.world.nowMs });
  }

  host(node: string): Host {
    const host = this.hosts.find((candidate) => candidate.node === node);
    if (host === undefined) throw new Error(`there is no host ${node}`);
    return host;
  }

  wire(node: string): Wire {
    return this.#wires.get(node) as Wire;
  }

  newStream(): string {
    return `stream${++this.#names}`;
  }

  startAgent(host: Host): void {
    if (!host.up || this.agents.get(host.node)?.life.alive) return;
    this.agents.set(host.node, new Agent(this, host, this.wire(host.node)));
  }

  /** The process is gone at once; its unit starts it again after a while. */
  crashAgent(agent: Agent, forMs?: number): void {
    if (!agent.life.alive) return;
    agent.life.alive = false;
    agent.hangUp();
    const { random } = this.world;
    const delayMs = random.chance(0.65) ? random.int(500, 5_000) : random.int(5_000, 120_000);
    this.world.after(forMs ?? delayMs, () => this.startAgent(agent.host));
  }

  crashHost(host: Host, downMs: number): void {
    if (!host.up) return;
    const agent = this.agents.get(host.node);
    if (agent !== undefined) {
      agent.life.alive = false;
      agent.hangUp();
    }
    host.powerOff();
    this.world.after(downMs, () => {
      host.powerOn();
      this.world.after(this.world.random.int(500, 3_000), () => this.startAgent(host));
    });
  }

  startController(): void {
    this.controllers.push(new Controller(this, `controller${++this.#names}`));
  }

  /** Another one, with a name of its own, comes up in its place. */
  crashController(controller: Controller): void {
    if (!controller.life.alive) return;
    controller.die();
    this.controllers.splice(this.controllers.indexOf(controller), 1);
    this.world.after(this.world.random.int(500, 20_000), () => this.startController());
  }

  someController(): Controller | undefined {
    return this.controllers.length === 0 ? undefined : this.world.random.pick(this.controllers);
  }
}
