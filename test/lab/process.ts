import { type ChildProcess, type StdioOptions, spawn } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { StringDecoder } from 'node:string_decoder';
import { deadline } from './wait.ts';

export interface ProcessOptions {
  /** Added to the environment (the test's own, or the clean one of a host); undefined takes a variable away. */
  env?: NodeJS.ProcessEnv;
  cwd?: string;
  /** Written to standard input, which is then closed. */
  input?: string | Uint8Array;
}

export interface CommandOptions extends ProcessOptions {
  timeoutMs?: number;
  /** Return a non-zero exit code instead of throwing. */
  allowFailure?: boolean;
}

export interface CommandResult {
  stdout: string;
  stderr: string;
  /** 128 when a signal ended it. */
  exitCode: number;
}

/** How a process is started, for the harness itself. */
export interface Launch {
  /** Opens a channel for `child.send`. */
  ipc?: boolean;
  /**
   * The first process only waits for the one it started in a host (nsenter). It must outlive it and reap it: a zombie
   * of a host left to the machine's PID 1, which may never reap it, keeps the host from dying.
   */
  leaderReaps?: boolean;
}

export interface ProcessExit {
  exitCode: number | null;
  signal: NodeJS.Signals | null;
}

const COMMAND_TIMEOUT_MS = 180_000;
const KILL_TIMEOUT_MS = 60_000;
// A chatty controller must not fill the test's memory; the end of its output is what a failing test needs.
const CAPTURE_LIMIT_CHARS = 8 * 1024 * 1024;
const SYSTEM_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** A command that failed, with all it said. */
export class CommandError extends Error {
  readonly result: CommandResult;
  constructor(argv: readonly string[], result: CommandResult) {
    super(`${argv.join(' ')}: exit code ${result.exitCode}\n${result.stderr}${result.stdout}`.trimEnd());
    this.name = 'CommandError';
    this.result = result;
  }
}

/** A running process whose output is captured. It leads a process group of its own, so that `kill` reaches all of it. */
export class LabProcess {
  readonly child: ChildProcess;
  readonly argv: readonly string[];
  /** Settles when the process is gone and its output is complete; rejects when it could not be started. */
  readonly exited: Promise<ProcessExit>;
  #stdout = '';
  #stderr = '';
  #listeners = new Set<() => void>();
  readonly #leaderReaps: boolean;
  #complete = false;

  constructor(argv: readonly string[], options: ProcessOptions = {}, launch: Launch = {}) {
    const [file, ...args] = argv;
    if (file === undefined) throw new Error('a process needs a command');
    this.argv = argv;
    this.#leaderReaps = launch.leaderReaps ?? false;
    const env = { ...process.env, PATH: `${process.env.PATH ?? ''}:${SYSTEM_PATH}`, ...options.env };
    // /dev/null when there is no input: bash takes the socket Node would give for a remote shell and reads ~/.bashrc.
    const stdin = options.input === undefined ? 'ignore' : 'pipe';
    const stdio: StdioOptions = launch.ipc ? [stdin, 'pipe', 'pipe', 'ipc'] : [stdin, 'pipe', 'pipe'];
    this.child = spawn(file, args, { stdio, env, cwd: options.cwd, detached: true });
    this.#capture();
    this.exited = new Promise((resolve, reject) => {
      this.child.once('error', reject);
      this.child.once('close', (exitCode, signal) => resolve({ exitCode, signal }));
    });
    // Who awaits `exited` gets the error all the same; who does not must not be ended by it.
    this.exited
      .catch(() => {})
      .finally(() => {
        this.#complete = true;
        this.#notify();
      });
    // The command may end without reading its input (EPIPE): its exit code tells the story.
    this.child.stdin?.on('error', () => {});
    this.child.stdin?.end(options.input);
  }

  get pid(): number {
    if (this.child.pid === undefined) throw new Error(`${this.argv.join(' ')}: could not be started`);
    return this.child.pid;
  }

  get running(): boolean {
    return this.child.pid !== undefined && this.child.exitCode === null && this.child.signalCode === null;
  }

  /** What it wrote so far (the last 8 MiB of it). */
  stdout(): string {
    return this.#stdout;
  }

  stderr(): string {
    return this.#stderr;
  }

  /** Signals the whole process group and waits until the process is gone. */
  async kill(signal: NodeJS.Signals = 'SIGKILL', timeoutMs = KILL_TIMEOUT_MS): Promise<ProcessExit> {
    if (this.running) this.#signal(signal);
    return deadline(this.exited, timeoutMs, () => `${this.argv.join(' ')} is still there after ${signal}`);
  }

  /** Resolves with the match as soon as the captured output (stdout, then stderr) matches. */
  async waitForOutput(pattern: RegExp, timeoutMs = COMMAND_TIMEOUT_MS): Promise<RegExpMatchArray> {
    const said = () => `${this.#stdout}\n${this.#stderr}`;
    let listener = () => {};
    const found = new Promise<RegExpMatchArray>((resolve, reject) => {
      listener = () => {
        const match = said().match(pattern);
        if (match) resolve(match);
        else if (this.#complete) reject(new Error(`${this.argv.join(' ')} ended without ${pattern}:\n${said()}`));
      };
      this.#listeners.add(listener);
      listener();
    });
    const late = () => `${this.argv.join(' ')} did not say ${pattern}:\n${said().slice(-4000)}`;
    return deadline(found, timeoutMs, late).finally(() => this.#listeners.delete(listener));
  }

  #signal(signal: NodeJS.Signals): void {
    const led = this.#leaderReaps ? groupMembers(this.pid).filter((pid) => pid !== this.pid) : [];
    // Minus: the whole group.
    for (const pid of led.length > 0 ? led : [-this.pid]) sendSignal(pid, signal);
  }

  #capture(): void {
    const [out, err] = [new StringDecoder(), new StringDecoder()];
    this.child.stdout?.on('data', (chunk: Buffer) => {
      this.#stdout = (this.#stdout + out.write(chunk)).slice(-CAPTURE_LIMIT_CHARS);
      this.#notify();
    });
    this.child.stderr?.on('data', (chunk: Buffer) => {
      this.#stderr = (this.#stderr + err.write(chunk)).slice(-CAPTURE_LIMIT_CHARS);
      this.#notify();
    });
  }

  #notify(): void {
    for (const listener of this.#listeners) listener();
  }
}

function sendSignal(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

function groupMembers(group: number): number[] {
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  return pids.filter((pid) => processGroup(pid) === group).map(Number);
}

function processGroup(pid: string): number | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // Behind the command's name, which may hold anything, come state, parent and group.
    return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[2]);
  } catch {
    return undefined;
  }
}

/** Runs a command to its end, at most `timeoutMs`; throws CommandError when it fails, unless `allowFailure`. */
export async function run(
  argv: readonly string[],
  options: CommandOptions = {},
  launch: Launch = {},
): Promise<CommandResult> {
  const timeoutMs = options.timeoutMs ?? COMMAND_TIMEOUT_MS;
  const running = new LabProcess(argv, options, launch);
  const late = () => `${argv.join(' ')}: not done after ${timeoutMs} ms\n${running.stderr()}${running.stdout()}`;
  const exit = await deadline(running.exited, timeoutMs, late).catch(async (error: unknown) => {
    // The command that was late is the news, not a grandchild that keeps its output open.
    if (running.running) await running.kill().catch(() => {});
    throw error;
  });
  const result = { stdout: running.stdout(), stderr: running.stderr(), exitCode: exit.exitCode ?? 128 };
  if (result.exitCode !== 0 && options.allowFailure !== true) throw new CommandError(argv, result);
  return result;
}
