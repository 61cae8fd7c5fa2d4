import type { Action, ClusterHealth, LedgerEntry, NodeReport, PackageInfo } from '@kwfleet/core';

/** What a driver is told about the time it has, and where it says how it goes. */
export interface Watch {
  /** For a person: what is going on. A changed text counts as progress. */
  detail(text: string): void;
  /** A sign of life that is not worth telling (bytes, a package's state); a changed one counts as progress. */
  moved(sign: string): void;
  /**
   * Asked before a command that changes the host is started, also once more by the driver itself. Rejects when a later
   * controller is in charge, or the cluster cannot spare the node now.
   */
  fence(): Promise<void>;
  /** Cleaned output of a long command; `offset` counts cleaned bytes from its start. */
  output(offset: number, text: string): void;
  /**
   * Waits until it is time to look again. Rejects with DeadlineError when nothing moved for the idle limit or the
   * ceiling is reached, and with Stopping when the agent goes down: drivers let both pass.
   */
  pause(ms?: number): Promise<void>;
}

/**
 * One deployment method's way of doing the phases. Every method is safe to repeat, finds long commands that an
 * earlier agent process left running, and rejects with a FleetError whose code says what went wrong. None of them
 * decides whether it may: that is the executor's, which looks first, fences and judges afterwards.
 */
export interface MethodDriver {
  /** The package lies unpacked on this host afterwards, and what its way back needs. */
  fetch(action: Action, watch: Watch): Promise<void>;
  stop(action: Action, watch: Watch): Promise<void>;
  /** Keeps the installed version for `putBack`, then exchanges the packages. Refuses while the database runs. */
  install(action: Action, watch: Watch): Promise<void>;
  installOnline(action: Action, watch: Watch): Promise<void>;
  start(action: Action, watch: Watch): Promise<void>;
  /** Installs the version before again; legal only while the new one never started on the data. */
  putBack(action: Action, watch: Watch): Promise<void>;
  /** Whether the database starts with the host: put back as it was, after package scripts may have changed it. */
  restoreEnabled(enabled: boolean): Promise<void>;
  /** A backup's files are in place: whatever they name that this host has under another name. Absent where they name nothing. */
  restored?(action: Action, watch: Watch): Promise<void>;
  /** The action has its result: what this method kept for it alone may go. */
  release(action: Action): Promise<void>;
}

/** All that the executor does to its host. */
export interface Driver extends MethodDriver {
  /**
   * Everything this agent can see of its node now, and of the image of the package that is wanted. Bounded; a database
   * that does not answer is absent from it.
   */
  observe(wanted?: PackageInfo): Promise<NodeReport>;
  /**
   * Asks the database the questions of a cluster check, through this node, or through another it knows when this one
   * does not answer. `ranges` asks only what decides whether a node can be spared. Rejects with KWBASE_FAILED.
   */
  health(questions: 'ranges' | 'all'): Promise<ClusterHealth>;
  drain(action: Action, watch: Watch): Promise<void>;
  /** No long command of an earlier order is at work on this host afterwards: it was waited for, or ended. */
  quiesce(action: Action, watch: Watch): Promise<void>;
  /** Whether a long command of this very order still runs. Rejects when that cannot be seen. */
  isAtWork(action: Action): Promise<boolean>;
  /** Sets one cluster setting, through any node that answers. Rejects with KWBASE_FAILED. */
  setSetting(entry: LedgerEntry): Promise<void>;
}

/** Nothing moved for the idle limit, or the ceiling is reached. */
export class DeadlineError extends Error {
  override readonly name = 'DeadlineError';
  readonly kind: 'idle' | 'ceiling';

  constructor(kind: 'idle' | 'ceiling', afterMs: number, detail: string) {
    const why = kind === 'idle' ? `nothing moved for ${afterMs / 1000} s` : `not done within ${afterMs / 1000} s`;
    super(detail === '' ? why : `${why}; last: ${detail}`);
    this.kind = kind;
  }
}

/** The agent is going down: the action stays in hand and goes on when an agent is back. */
export class Stopping extends Error {
  override readonly name = 'Stopping';
}
