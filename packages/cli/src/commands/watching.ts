/** Watching a run in the terminal or file of this command. */
import type { Client } from '../client.ts';
import type { Context } from '../context.ts';
import { jsonView, liveView, plainView } from '../views.ts';
import { watchRun } from '../watch.ts';

export type Watching = {
  readonly json?: true | undefined;
  readonly plain?: true | undefined;
  readonly stay?: true | undefined;
  readonly answeredHoldMs?: number | undefined;
};

/** Follows a run in the way that fits where the output goes; returns the exit code. */
export function watchHere(context: Context, client: Client, run: string, how: Watching): Promise<number> {
  const { terminal } = context;
  const nowMs = () => client.nowMs();
  return context.untilInterrupted((signal) => {
    const isLive = terminal.isTTY && how.plain !== true && how.json !== true;
    const view = how.json ? jsonView(terminal) : isLive ? liveView(terminal, nowMs) : plainView(terminal, nowMs);
    return watchRun({ client, run, view, signal, stay: how.stay, answeredHoldMs: how.answeredHoldMs });
  });
}
