/** A loop over what is active, each item by itself: at each wake and each tick, until stopped. */

/** Without news it looks again this often: time itself moves things (deadlines, soaks, windows, lost agents). */
const TICK_MS = 1_000;

export type LoopOptions = {
  /** Ids of what there is to walk now. */
  readonly active: () => Promise<readonly string[]>;
  /** One turn of one of them. */
  readonly advance: (id: string) => Promise<unknown>;
  readonly onError: (error: unknown, id: string | undefined) => void;
  /** How often it looks without a wake; a second unless said. */
  readonly tickMs?: number;
};

export type Loop = {
  /** Something changed: look now. */
  wake(): void;
  /** Lets the turn in hand end, then stops. */
  stop(): Promise<void>;
};

/** One that fails never stops the others. */
export function startLoop({ active, advance, onError, tickMs = TICK_MS }: LoopOptions): Loop {
  let stopped = false;
  let woken = false;
  let rouse: () => void = () => {};

  async function round(): Promise<void> {
    for (const id of await active()) {
      if (stopped) return;
      await advance(id).catch((error: unknown) => onError(error, id));
    }
  }

  async function loop(): Promise<void> {
    while (!stopped) {
      woken = false;
      await round().catch((error: unknown) => onError(error, undefined));
      if (woken || stopped) continue;
      const { promise, resolve } = Promise.withResolvers<void>();
      rouse = resolve;
      const timer = setTimeout(resolve, tickMs);
      await promise;
      clearTimeout(timer);
    }
  }

  const done = loop();
  return {
    wake() {
      woken = true;
      rouse();
    },
    async stop() {
      stopped = true;
      rouse();
      await done;
    },
  };
}
