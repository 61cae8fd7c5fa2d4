import { advance } from './advance.ts';
import { type Loop, startLoop } from './loop.ts';
import type { RunStore } from './run-store.ts';

export type RunnerOptions = {
  readonly store: RunStore;
  /** Who holds the leases: unique to this process's life, so that a restarted controller is a new holder. */
  readonly owner: string;
  readonly onError: (error: unknown, run: string | undefined) => void;
};

/** Walks all active runs. */
export const startRunner = ({ store, owner, onError }: RunnerOptions): Loop =>
  startLoop({ active: () => store.activeRuns(), advance: (run) => advance(store, owner, run), onError });
