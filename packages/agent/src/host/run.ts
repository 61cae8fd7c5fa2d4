import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';

/** How a short command ended. `exitCode` is undefined when it was killed by a signal or by the time limit. */
export type Ended = {
  readonly exitCode: number | undefined;
  readonly stdout: string;
  readonly stderr: string;
  readonly timedOut: boolean;
  /** The program is not there. */
  readonly missing: boolean;
};

/** Bound on what is kept of a short command's output. */
const OUTPUT_BYTES = 8 * 1024 * 1024;
/** So long a killed process may take to be gone, and its output to end. */
const GRACE_MS = 1_000;

/**
 * Runs a short command without a shell, with no standard input, for `timeoutMs` at most; then the process is killed.
 * Never rejects: how it ended is the answer. It comes in time even where the kill is of no use: a process of another
 * user's (behind sudo) cannot be killed, and one that was begun by it can hold its output open.
 */
export async function runShort(
  file: string,
  args: readonly string[],
  options: {
    readonly timeoutMs: number;
    readonly env?: Readonly<Record<string, string>>;
    readonly cwd?: string;
    readonly outputBytes?: number;
    /** Whom it runs as; only root may choose. */
    readonly user?: { readonly uid: number; readonly gid: number };
  },
): Promise<Ended> {
  const outputBytes = options.outputBytes ?? OUTPUT_BYTES;
  const child = execa(file, args, {
    reject: false,
    stdin: 'ignore',
    timeout: options.timeoutMs,
    killSignal: 'SIGKILL',
    maxBuffer: outputBytes,
    env: { LC_ALL: 'C', ...options.env },
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    ...options.user,
  });
  const end = new AbortController();
  const late = sleep(options.timeoutMs + GRACE_MS, undefined, { signal: end.signal }).catch(() => undefined);
  const done = await Promise.race([child, late]);
  end.abort();
  if (done === undefined) {
    child.stdout.destroy();
    child.stderr.destroy();
    child.nodeChildProcess.unref();
    return { exitCode: undefined, stdout: '', stderr: '', timedOut: true, missing: false };
  }
  const { stdout, timedOut } = done;
  // A process that wrote all of it into the pipe and ended well knows nothing of the limit: its status says 0.
  if (done.isMaxBuffer) {
    return {
      exitCode: undefined,
      stdout,
      stderr: `more than ${outputBytes} bytes of output`,
      timedOut,
      missing: false,
    };
  }
  const missing = 'code' in done && done.code === 'ENOENT';
  return { exitCode: done.exitCode, stdout, stderr: done.stderr, timedOut, missing };
}

/** What a command said on failing, for a person. */
export function wordsOf(ended: Ended): string {
  if (ended.missing) return 'the program is not there';
  if (ended.timedOut) return 'no answer within the time limit';
  return (ended.stderr.trim() || ended.stdout.trim() || `exit status ${ended.exitCode}`).slice(-2000);
}
