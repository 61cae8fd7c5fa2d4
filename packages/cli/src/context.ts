/** What every command is given: its terminal, its environment, the client, and how it tells its exit code. */
import type { Command } from 'commander';
import { Client, DEFAULT_SERVER } from './client.ts';
import { EXIT, INTERRUPTED } from './exit.ts';
import type { Page } from './render/plan-page.ts';
import { type Output, type Terminal, terminal } from './terminal.ts';

export class Context {
  readonly env: NodeJS.ProcessEnv;
  readonly terminal: Terminal;
  readonly errors: Terminal;
  /** Set by an action; an action that throws leaves it to the error. */
  exitCode: number = EXIT.done;

  constructor(env: NodeJS.ProcessEnv, out: Output, err: Output) {
    this.env = env;
    this.terminal = terminal(out, env);
    this.errors = terminal(err, env);
  }

  /** A client of the controller that the command's options and the environment name. */
  client(command: Command): Client {
    const { server } = command.optsWithGlobals<{ server?: string }>();
    return new Client({ server: server ?? (this.env.KWFLEET_SERVER || DEFAULT_SERVER), token: this.env.KWFLEET_TOKEN });
  }

  page(): Page {
    return { width: this.terminal.width(), theme: this.terminal.theme };
  }

  /** Runs `work` with a signal that Ctrl-C aborts; a second Ctrl-C does not wait for it. */
  async untilInterrupted<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const left = new AbortController();
    const stop = () => {
      if (left.signal.aborted) process.exit(INTERRUPTED);
      left.abort();
    };
    // Not `once`: a listener that is gone by the time others run lets them think that nobody handles the signal.
    process.on('SIGINT', stop);
    process.on('SIGTERM', stop);
    try {
      return await work(left.signal);
    } finally {
      process.off('SIGINT', stop);
      process.off('SIGTERM', stop);
    }
  }
}

/** Examples at the end of a command's help. */
export const examples = (...lines: readonly string[]): string =>
  `\n${lines.length === 1 ? 'Example' : 'Examples'}:\n${lines.map((line) => `  $ ${line}`).join('\n')}\n`;
