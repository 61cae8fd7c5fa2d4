import type {
  Action,
  ActionProgress,
  ActionResult,
  ApprovalScope,
  NodeFacts,
  Plan,
  RunEvent,
  RunState,
  StepTimes,
  Window,
} from '@kwfleet/core';

/** What a person, or a schedule on their behalf, asks of a run. */
export type RunRequestKind = 'pause' | 'resume' | 'retry' | 'abort';

/** What reaches a run from outside, in the order it was stored. */
export type RunInput = { readonly seq: number; readonly atMs: number } & (
  | { readonly type: 'result'; readonly result: ActionResult }
  | { readonly type: 'progress'; readonly progress: ActionProgress }
  | { readonly type: 'request'; readonly request: RunRequestKind; readonly by: string }
  | ({ readonly type: 'request' } & ApprovalInput)
);

/** A person agrees to what the run waits for. */
export type ApprovalInput = {
  readonly request: 'approve';
  readonly scope: ApprovalScope;
  readonly hash: string;
  readonly by: string;
};

/** Everything one decision is made from, read in one transaction. */
export type RunSnapshot = {
  readonly plan: Plan;
  readonly state: RunState;
  /** Stored and not yet applied. */
  readonly inputs: readonly RunInput[];
  /** Every node of the fleet that ever reported, by name. */
  readonly nodes: ReadonlyMap<string, NodeFacts>;
  /** The windows that the run's timing names, as they are now. */
  readonly windows: ReadonlyMap<string, Window>;
  /** How long steps take here, where that is known better than by default. */
  readonly stepTimes?: StepTimes;
  /** The database's clock: the only one that decisions use. */
  readonly nowMs: number;
};

export type RunWrite = {
  readonly state: RunState;
  /** Appended to the run's hash-chained history. */
  readonly events: readonly RunEvent[];
  /** To be delivered by whichever controller holds the node's stream. */
  readonly actions: readonly Action[];
  /** Inputs up to this seq are applied. */
  readonly appliedSeq: number;
};

/**
 * The store as the runner sees it. PostgreSQL implements it; so does the simulator, which crashes at every call.
 */
export interface RunStore {
  /** Ids of runs that have not ended. */
  activeRuns(): Promise<string[]>;
  /**
   * Takes or renews the lease of a run for `ttlMs`. Answers the epoch, which rises each time the holder changes or a
   * holder comes back after its lease ran out; null while another holds it.
   */
  lease(run: string, owner: string, ttlMs: number): Promise<number | null>;
  load(run: string): Promise<RunSnapshot>;
  /** Writes all of it in one transaction, or nothing: false when `epoch` is no longer the run's. */
  commit(run: string, epoch: number, write: RunWrite): Promise<boolean>;
}
