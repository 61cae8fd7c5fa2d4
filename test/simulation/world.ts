/**
 * Virtual time: a queue of events, each followed by everything that promises make of it, so that ordinary async code
 * runs in a world whose only clock is the queue. One thread, no real timers: the order is a function of the seed.
 */
import v8 from 'node:v8';
import type { Evidence } from './evidence.ts';
import type { Random } from './random.ts';

// Ten times cheaper than a turn of the event loop an event, and as thorough: it returns when no promise job is left.
v8.setFlagsFromString('--allow-natives-syntax');
const drainMicrotasks = new Function('%PerformMicrotaskCheckpoint()') as () => void;
v8.setFlagsFromString('--no-allow-natives-syntax');

/**
 * Promise jobs cannot be drained from within one: whoever simulates comes from an event of the real loop. Proven rather
 * than believed, since a world whose promises never resolve would find nothing wrong.
 */
export function assertDrains(): void {
  let drained = false;
  void Promise.resolve().then(() => {
    drained = true;
  });
  drainMicrotasks();
  if (!drained) throw new Error('simulate from a callback of the event loop (setImmediate), not from a promise job');
}

/** When virtual time begins: some morning in 2026. */
export const BEGIN_MS = 1_790_000_000_000;

type Event = { readonly atMs: number; readonly order: number; readonly run: () => void };

/** One life of a process: what it awaits never comes once it is over. */
export class Life {
  readonly name: string;
  alive = true;
  /** A frozen process (a stopped VM, a long GC) gets nothing until then, and does not know. */
  frozenUntilMs = 0;
  /** Asked around each effect on the outside; ends this life and says so when it is time to crash. */
  hazard: (() => boolean) | undefined;

  constructor(name: string) {
    this.name = name;
  }
}

export class World {
  readonly random: Random;
  readonly beganMs = BEGIN_MS;
  nowMs = BEGIN_MS;
  /** Folded over every event: two runs of a seed are the same when it is. */
  hash = 0x811c9dc5;
  readonly #heap: Event[] = [];
  #order = 0;
  readonly #witnesses: ((evidence: Evidence) => void)[] = [];

  constructor(random: Random) {
    this.random = random;
  }

  onEvidence(witness: (evidence: Evidence) => void): void {
    this.#witnesses.push(witness);
  }

  /** Something true happened in the world: checkers judge it, the trace shows it. */
  tell(evidence: Evidence): void {
    this.#fold(evidence.type.length + evidence.type.charCodeAt(0));
    for (const witness of this.#witnesses) witness(evidence);
  }

  after(delayMs: number, run: () => void): void {
    this.#push({ atMs: this.nowMs + Math.max(0, Math.round(delayMs)), order: this.#order++, run });
  }

  /** Every `everyMs` as long as `life` lasts; the first time after a random part of it. */
  every(everyMs: number, life: Life, run: () => void): void {
    const beat = () => {
      if (!life.alive) return;
      if (this.nowMs < life.frozenUntilMs) return this.after(life.frozenUntilMs - this.nowMs, beat);
      run();
      this.after(everyMs, beat);
    };
    this.after(this.random.int(0, everyMs), beat);
  }

  /** Runs `then` for a process: not when it is dead, and not before it thaws. */
  reach(life: Life, then: () => void): void {
    if (!life.alive) return;
    if (this.nowMs >= life.frozenUntilMs) {
      then();
      return;
    }
    this.after(life.frozenUntilMs - this.nowMs, () => this.reach(life, then));
  }

  /** A process does something outside itself: it may crash before the effect, or between the effect and its return. */
  io<T>(life: Life, delayMs: number, effect: () => T): Promise<T> {
    return new Promise((resolve, reject) => {
      this.after(delayMs, () => {
        if (!life.alive || life.hazard?.()) return;
        let settle: () => void;
        try {
          const value = effect();
          settle = () => resolve(value);
        } catch (error) {
          settle = () => reject(error);
        }
        if (life.hazard?.()) return;
        this.reach(life, settle);
      });
    });
  }

  /** Runs the next event and all promise jobs it sets off. */
  step(): boolean {
    const event = this.#pop();
    if (event === undefined) return false;
    this.nowMs = event.atMs;
    this.#fold(event.atMs ^ event.order);
    event.run();
    drainMicrotasks();
    return true;
  }

  #fold(value: number): void {
    this.hash = Math.imul(this.hash ^ (value | 0), 0x01000193);
  }

  #push(event: Event): void {
    const heap = this.#heap;
    let at = heap.push(event) - 1;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!isBefore(event, heap[parent] as Event)) break;
      heap[at] = heap[parent] as Event;
      at = parent;
    }
    heap[at] = event;
  }

  #pop(): Event | undefined {
    const heap = this.#heap;
    const first = heap[0];
    const last = heap.pop();
    if (first === undefined || last === undefined || heap.length === 0) return first;
    let at = 0;
    for (;;) {
      let child = at * 2 + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && isBefore(heap[child + 1] as Event, heap[child] as Event)) child++;
      if (!isBefore(heap[child] as Event, last)) break;
      heap[at] = heap[child] as Event;
      at = child;
    }
    heap[at] = last;
    return first;
  }
}

const isBefore = (a: Event, b: Event): boolean => a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order);
