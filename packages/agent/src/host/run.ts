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

/**
 * Runs a short command without a shell, with no standard input, for `timeoutMs` at most; then the process is killed.
 * Never rejects: how it ended is the answer.
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
  const done = await execa(file, args, {
    reject: false,
    stdin: 'ignore',
    timeout: options.timeoutMs,
    killSignal: 'SIGKILL',
    maxBuffer: options.outputBytes ?? OUTPUT_BYTES,
    env: { LC_ALL: 'C', ...options.env },
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    ...options.user,
  });
  return {
    exitCode: done.exitCode,
    stdout: done.stdout,
    stderr: done.stderr,
    timedOut: done.timedOut,
    missing: 'code' in done && done.code === 'ENOENT',
  };
}

/** What a command said on failing, for a person. */
export function wordsOf(ended: Ended): string {
  if (ended.missing) return 'the program is not there';
  if (ended.timedOut) return 'no answer within the time limit';
  return (ended.stderr.trim() || ended.stdout.trim() || `exit status ${ended.exitCode}`).slice(-2000);
}
