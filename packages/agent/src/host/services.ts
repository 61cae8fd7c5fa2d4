/** What the service manager says of one unit. */
export type UnitState = {
  /** Whether a unit file is there: what deploy.sh takes for "installed". */
  readonly exists: boolean;
  readonly active: 'active' | 'inactive' | 'failed' | 'activating' | 'deactivating';
  readonly enabled: boolean;
  readonly mainPid: number | null;
  /** When the main process started, milliseconds since the epoch; null when there is none. */
  readonly startedAtMs: number | null;
};

/**
 * The host's service manager: systemd, or plain processes where there is no systemd (the demo, tests).
 * Every call is bounded by `timeoutMs` and rejects with an Error that carries the manager's own words.
 */
export interface ServiceManager {
  readonly kind: 'systemd' | 'process';
  state(unit: string): Promise<UnitState>;
  /** Starts the unit; resolves when the manager says it started, which does not prove that it serves. */
  start(unit: string, timeoutMs: number): Promise<void>;
  /** Stops the unit; resolves when no process of it is left. */
  stop(unit: string, timeoutMs: number): Promise<void>;
  /** Makes the manager read changed unit files (deploy.sh edits the unit). */
  reload(): Promise<void>;
  /** What people wrote of the unit: its file, and the directory of what adds to it. Absent for plain processes. */
  files?(unit: string): Promise<readonly string[]>;
  /** Whether the unit starts with the host; absent where there is no such thing (plain processes). */
  setEnabled?(unit: string, enabled: boolean): Promise<void>;
}

/** A command that may outlive the agent: deploy.sh, a backup, a build. */
export type LongCommandSpec = {
  /** Absolute path of the program and its arguments; never a shell line. */
  readonly argv: readonly [string, ...string[]];
  readonly cwd: string;
  readonly env: Readonly<Record<string, string>>;
};

export type LongCommandState =
  | { readonly status: 'absent' }
  | { readonly status: 'running' }
  | { readonly status: 'exited'; readonly exitCode: number }
  /** It is not running and left no exit status: it was killed, or the host went down. */
  | { readonly status: 'lost' };

/**
 * Runs commands outside the agent's own cgroup, with output and exit status kept on disk under their id, so that
 * an agent that was restarted finds them again. Ids are made of [a-z0-9-].
 */
export interface LongCommands {
  /** Starts the command; does nothing when the id was started before. Standard input is /dev/null. */
  start(id: string, spec: LongCommandSpec): Promise<void>;
  state(id: string): Promise<LongCommandState>;
  /** Output (standard output and error together) from byte `offset`, at most 64 KiB at a time. */
  output(id: string, offset: number): Promise<Uint8Array>;
  /** Ends whatever is left of the command's whole process group or cgroup. */
  kill(id: string): Promise<void>;
  /** Forgets the id and removes its files; kills it first. */
  remove(id: string): Promise<void>;
  /** The ids that have files on disk. */
  list(): Promise<string[]>;
}
