/** Links between agents and controllers: late, doubled, reordered, lost, cut one way. A stream that lost something breaks in the end. */
import type { AgentMessage, ControllerMessage } from '@kwfleet/protocol';
import type { Faults } from './faults.ts';
import type { Life, World } from './world.ts';

/** The way between one host and the controllers. */
export class Wire {
  /** From the agent up, and from a controller down. */
  readonly cut = { up: false, down: false };

  get open(): boolean {
    return !this.cut.up && !this.cut.down;
  }
}

type Direction = 'up' | 'down';
type End<M> = { readonly life: Life; readonly receive: (message: M) => void; readonly closed: () => void };

export class Connection {
  readonly #world: World;
  readonly #faults: Faults;
  readonly #wire: Wire;
  /** Nothing that is sent from now on comes before. */
  readonly #first = { up: 0, down: 0 };
  readonly #broken = { up: false, down: false };
  #doomed = false;
  open = true;
  agent: End<ControllerMessage> | undefined;
  controller: End<AgentMessage> | undefined;

  constructor(world: World, faults: Faults, wire: Wire) {
    this.#world = world;
    this.#faults = faults;
    this.#wire = wire;
  }

  toController(message: AgentMessage): void {
    this.#send('up', () => this.controller, message);
  }

  toAgent(message: ControllerMessage): void {
    this.#send('down', () => this.agent, message);
  }

  #send<M>(direction: Direction, end: () => End<M> | undefined, message: M): void {
    if (!this.open || this.#broken[direction]) return;
    if (this.#wire.cut[direction]) {
      this.#break(direction, 10_000, 20_000);
      return;
    }
    if (this.#faults.strikes('messageLost')) {
      this.#break(direction, 500, 15_000);
      return;
    }
    this.#carry(direction, end, message);
    if (this.#faults.strikes('messageDoubled')) this.#carry(direction, end, message);
  }

  #carry<M>(direction: Direction, end: () => End<M> | undefined, message: M): void {
    const { random } = this.#world;
    let atMs = this.#world.nowMs + random.int(1, 25);
    if (this.#faults.strikes('messageLate')) {
      const veryLate = random.chance(0.1);
      atMs += veryLate ? random.int(8_000, 120_000) : random.int(200, 8_000);
      // A stream that stands still that long is given up; what was in it may come out much later all the same.
      if (veryLate) this.#doom(5_000, 15_000);
    }
    // A stream begins with its hello and its welcome, and what is true now stays ahead of what is told after it; the rest may
    // overtake.
    atMs = Math.max(atMs, this.#first[direction]);
    const isFirst =
      typeof message === 'object' && message !== null && ['report', 'hello', 'welcome'].some((kind) => kind in message);
    if (isFirst) this.#first[direction] = atMs;
    this.#world.after(atMs - this.#world.nowMs, () => {
      // What was on its way when a stream broke may still come out of a buffer at the other side.
      if (this.#wire.cut[direction]) {
        this.#break(direction, 10_000, 20_000);
        return;
      }
      const receiver = end();
      if (receiver !== undefined) this.#world.reach(receiver.life, () => receiver.receive(message));
    });
  }

  /** A stream loses nothing without breaking: what comes after is lost as well. */
  #break(direction: Direction, fromMs: number, toMs: number): void {
    this.#broken[direction] = true;
    this.#doom(fromMs, toMs);
  }

  #doom(fromMs: number, toMs: number): void {
    if (this.#doomed) return;
    this.#doomed = true;
    this.#world.after(this.#world.random.int(fromMs, toMs), () => this.close());
  }

  /** Both ends learn of it, a frozen one when it thaws. */
  close(): void {
    if (!this.open) return;
    this.open = false;
    for (const end of [this.agent, this.controller]) {
      if (end !== undefined) this.#world.reach(end.life, end.closed);
    }
  }
}
