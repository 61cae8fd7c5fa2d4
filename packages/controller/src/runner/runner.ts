import { advance } from './advance.ts';
import type { RunStore } from './run-store.ts';

/** Without news the runner looks again this often: time itself moves runs (deadlines, soaks, lost agents). */
const TICK_MS = 1_000;

export type RunnerOptions = {
  readonly store: RunStore;
  /** Who holds the leases: unique to this process's life, so that a restarted controller is a new holder. */
  readonly owner: string;
  readonly onError: (error: unknown, run: string | undefined) => void;
};

export type Runner = {
  /** Something changed: look now. */
  wake(): void;
  /** Lets the turn in hand end, then stops. */
  stop(): Promise<void>;
};

/** Walks all active runs, at each wake and each tick, until stopped. A failing run never stops the others. */
export function startRunner({ store, owner, onError }: RunnerOptions): Runner {
  let stopped = false;
  let woken = false;
  let rouse: () => void = () => {};

  async function round(): Promise<void> {
    for (const run of await store.activeRuns()) {
      if (stopped) return;
      await advance(store, owner, run).catch((error: unknown) => onError(error, run));
    }
  }

  async function loop(): Promise<void> {
    while (!stopped) {
      woken = false;
      await round().catch((error: unknown) => onError(error, undefined));
      if (woken || stopped) continue;
      const { promise, resolve } = Promise.withResolvers<void>();
      rouse = resolve;
      const timer = setTimeout(resolve, TICK_MS);
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
