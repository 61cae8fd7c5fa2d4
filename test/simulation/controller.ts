/** A controller process: the real turn of a run, and a gateway that does what the real one does with its streams. */
import { FleetError } from '@kwfleet/core';
import type { AgentMessage } from '@kwfleet/protocol';
import { advance } from '../../packages/controller/src/runner/advance.ts';
import type { RunStore } from '../../packages/controller/src/runner/run-store.ts';
import type { Connection } from './network.ts';
import type { Simulation } from './simulation.ts';
import type { Notice } from './store.ts';
import { cutLink } from './troubles.ts';
import { Life } from './world.ts';

/** The real ones look each second; notices wake them sooner anyway, and twice the time is half the events. */
const TICK_MS = 2_000;
export const HEARTBEAT_MS = 5_000;
const LINK_MS = 3 * HEARTBEAT_MS;

export class Controller {
  readonly life: Life;
  readonly #sim: Simulation;
  readonly #runStore: RunStore;
  readonly #sessions = new Map<string, Session>();
  readonly #connections = new Set<Connection>();
  #walking = false;
  #walkAgain = false;
  #looking = false;
  #lookAgain = false;

  constructor(sim: Simulation, name: string) {
    this.#sim = sim;
    this.life = new Life(name);
    this.life.hazard = () => {
      if (!sim.faults.strikes('processCrash')) return false;
      sim.world.tell({ type: 'fault', text: `${name} crashes at an await` });
      sim.crashController(this);
      return true;
    };
    this.#runStore = sim.store.runStore(this.life);
    const listener = (notice: Notice) => this.#noticed(notice);
    sim.store.listeners.add(listener);
    this.stopListening = () => sim.store.listeners.delete(listener);
    sim.world.every(TICK_MS, this.life, () => {
      // A look that finds nothing changes nothing, and half of all looks by the clock would find nothing.
      if (sim.store.activeRun !== undefined) void this.#walk();
      if ([...this.#sessions.values()].some((session) => session.isDue)) void this.#look();
    });
  }

  readonly stopListening: () => void;

  /** A stream of an agent's comes in. */
  open(connection: Connection): void {
    const session = new Session(this.#sim, this, connection);
    connection.controller = {
      life: this.life,
      receive: (message) => session.take(message),
      closed: () => this.#ended(session),
    };
    this.#connections.add(connection);
  }

  die(): void {
    this.life.alive = false;
    this.stopListening();
    for (const connection of this.#connections) connection.close();
  }

  attached(session: Session): void {
    this.#sessions.get(session.node)?.connection.close();
    this.#sessions.set(session.node, session);
    void this.#look();
  }

  #ended(session: Session): void {
    this.#connections.delete(session.connection);
    if (this.#sessions.get(session.node) === session) this.#sessions.delete(session.node);
    if (session.node === '') return;
    const { store } = this.#sim;
    void store.transaction(this.life, () => store.detach(session.node, session.stream)).catch(() => {});
  }

  #noticed(notice: Notice): void {
    const { world } = this.#sim;
    if (notice === 'run' && this.#walkAgain) return;
    if (notice !== 'run' && this.#lookAgain) return;
    if (notice === 'run') this.#walkAgain = true;
    else this.#lookAgain = true;
    world.after(world.random.int(5, 60), () =>
      world.reach(this.life, () => void (notice === 'run' ? this.#walk() : this.#look())),
    );
  }

  /** Walks all active runs once; again when something came meanwhile. */
  async #walk(): Promise<void> {
    if (this.#walking) return;
    this.#walking = true;
    this.#walkAgain = false;
    try {
      for (const run of await this.#runStore.activeRuns()) await advance(this.#runStore, this.life.name, run);
    } catch (error) {
      if (!isUnavailable(error)) this.#sim.violate('ENGINE', `the runner threw: ${String(error)}`);
    } finally {
      this.#walking = false;
    }
  }

  /** Brings what is due to the agents connected here. */
  async #look(): Promise<void> {
    if (this.#looking || this.#sessions.size === 0) {
      this.#lookAgain = false;
      return;
    }
    this.#looking = true;
    this.#lookAgain = false;
    const { store } = this.#sim;
    try {
      const due = await store.transaction(this.life, () =>
        [...this.#sessions].map(([node, session]) => ({
          session,
          superseded: session.isSuperseded,
          actions: store.pending(node),
        })),
      );
      for (const { session, superseded, actions } of due) {
        if (superseded) session.connection.close();
        else session.deliver(actions);
      }
    } catch (error) {
      if (!isUnavailable(error)) throw error;
    } finally {
      this.#looking = false;
    }
  }
}

/** One agent's stream: what comes is stored in the order it came. */
class Session {
  readonly connection: Connection;
  readonly stream: string;
  node = '';
  readonly #sim: Simulation;
  readonly #controller: Controller;
  readonly #queue: AgentMessage[] = [];
  readonly #sent = new Set<string>();
  #working = false;
  #over = false;
  #heardAtMs: number;

  constructor(sim: Simulation, controller: Controller, connection: Connection) {
    this.#heardAtMs = sim.world.nowMs;
    this.#sim = sim;
    this.#controller = controller;
    this.connection = connection;
    this.stream = sim.newStream();
  }

  /** The agent has another stream by now, possibly to another controller. */
  get isSuperseded(): boolean {
    const current = this.#sim.store.nodes.get(this.node)?.stream;
    return current !== undefined && current !== this.stream;
  }

  /** Whether a look would do anything for this stream. */
  get isDue(): boolean {
    return this.isSuperseded || this.#sim.store.pending(this.node).some(({ id }) => !this.#sent.has(id));
  }

  deliver(actions: readonly { id: string }[]): void {
    for (const action of actions) {
      if (this.#sent.has(action.id)) continue;
      this.#sent.add(action.id);
      const row = this.#sim.store.orders.get(action.id);
      if (row === undefined) continue;
      if (row.action.beginByMs !== undefined && this.#sim.faults.strikes('orderStranded')) {
        cutLink(this.#sim, this.node, this.#sim.world.random.int(20_000, 600_000));
      }
      this.connection.toAgent({ action: row.action });
    }
  }

  take(message: AgentMessage): void {
    if (this.#over) return;
    // The real one looks for silence as soon as it thaws, before it reads what waited in its sockets.
    const { nowMs } = this.#sim.world;
    if (nowMs - this.#heardAtMs > LINK_MS) {
      this.#end();
      return;
    }
    this.#heardAtMs = nowMs;
    this.#queue.push(message);
    if (!this.#working) void this.#work();
  }

  async #work(): Promise<void> {
    this.#working = true;
    try {
      for (let message = this.#queue.shift(); message !== undefined; message = this.#queue.shift()) {
        await this.#handle(message);
      }
    } catch {
      // Not stored, so not acknowledged: the agent says it again on its next stream.
      this.#end();
    } finally {
      this.#working = false;
    }
  }

  async #handle(message: AgentMessage): Promise<void> {
    const { store } = this.#sim;
    const { life } = this.#controller;
    const { node, stream } = this;
    if ('hello' in message) return this.#hello(message.hello);
    if (node === '') return this.#end();
    if ('heartbeat' in message)
      return store.transaction(life, () => store.beat(node, stream, LINK_MS, message.heartbeat));
    store.beat(node, stream, LINK_MS);
    if ('report' in message) return store.transaction(life, () => store.storeReport(node, message.report, stream));
    if ('progress' in message) return store.transaction(life, () => store.storeProgress(node, message.progress));
    if (!('result' in message)) return;
    const { result } = message;
    await store.transaction(life, () => store.storeResult(node, result));
    this.#sent.add(result.action);
    this.connection.toAgent({ resultStored: { action: result.action } });
  }

  /** What comes later on this stream is not heard. */
  #end(): void {
    this.#over = true;
    this.#queue.length = 0;
    this.connection.close();
  }

  async #hello({ node, inHand }: { node: string; inHand: readonly string[] }): Promise<void> {
    if (this.node !== '') return;
    const { store } = this.#sim;
    await store.transaction(this.#controller.life, () => store.attach(node, this.stream, LINK_MS));
    this.node = node;
    for (const action of inHand) this.#sent.add(action);
    this.connection.toAgent({ welcome: { clockMs: this.#sim.world.nowMs, protocol: 1, heartbeatMs: HEARTBEAT_MS } });
    this.#controller.attached(this);
  }
}

const isUnavailable = (error: unknown): boolean => error instanceof FleetError && error.code === 'UNAVAILABLE';
