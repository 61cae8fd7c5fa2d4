/**
 * Watching a run to its end. Events say that something happened; what is true is then asked anew, so that a missed
 * event can hide nothing. Watching never changes the run.
 */
import type { RunEventView, RunView } from '@kwfleet/core';
import type { Client } from './client.ts';
import { EXIT, type ExitCode, exitOfRun, INTERRUPTED } from './exit.ts';
import { type Followed, type FollowOptions, follow } from './follow.ts';

/** What shows a run: in place on a terminal, as lines in a file, or as JSON. */
export type View = {
  state(view: RunView): void;
  event(event: RunEventView): void;
  /** The controller cannot be heard (a sentence), or can again (undefined). */
  trouble(sentence: string | undefined, attempt: number): void;
  end(view: RunView, outcome: ExitCode | 'left'): void;
  /** Gives the terminal back, however the watch went; the last call. */
  close(): void;
};

export type WatchOptions = {
  readonly client: Client;
  readonly run: string;
  readonly view: View;
  /** Aborted when the person stops watching. */
  readonly signal: AbortSignal;
  /** Stay when the run is held for a person, until it ends. */
  readonly stay?: boolean | undefined;
  /** A hold that began then was just answered: it is not the end of this watch. */
  readonly answeredHoldMs?: number | undefined;
  readonly graceMs?: number;
  readonly gapMs?: number;
  readonly wait?: FollowOptions['wait'];
};

/** Follows the run until it ends or is held for a person; returns the exit code. */
export async function watchRun(options: WatchOptions): Promise<ExitCode | typeof INTERRUPTED> {
  const { client, run, view, signal } = options;
  try {
    const asker = new Asker(options, await client.run(run));
    await asker.follow();
    const outcome = signal.aborted ? undefined : asker.outcome();
    view.end(asker.latest, outcome ?? 'left');
    return outcome ?? INTERRUPTED;
  } finally {
    view.close();
  }
}

/** Asks for the run's state when events say it may have changed, at most every `gapMs`; notices when it has settled. */
class Asker {
  latest: RunView;
  readonly #options: WatchOptions;
  readonly #settled = new AbortController();
  #asking: Promise<void> | undefined;
  #askAgain: NodeJS.Timeout | undefined;
  #grace: NodeJS.Timeout | undefined;

  constructor(options: WatchOptions, first: RunView) {
    this.#options = options;
    this.latest = first;
    this.#accept(first);
  }

  /** Takes events until the run has settled or the person leaves. */
  async follow(): Promise<void> {
    const { client, run, wait } = this.#options;
    const signal = AbortSignal.any([this.#options.signal, this.#settled.signal]);
    try {
      for await (const item of follow({ client, run, signal, ...(wait === undefined ? {} : { wait }) })) {
        await this.#take(item);
      }
      // When the controller had nothing more to tell, the run has ended: how is asked once more.
      if (!signal.aborted) await this.#ask();
    } finally {
      clearTimeout(this.#askAgain);
      clearTimeout(this.#grace);
    }
  }

  /** The exit code, where the run has come to one. */
  outcome(): ExitCode | undefined {
    const { status, hold } = this.latest;
    const code = exitOfRun(status, hold);
    if (code !== EXIT.held) return code;
    const isAnswered = hold !== undefined && hold.sinceMs === this.#options.answeredHoldMs;
    return this.#options.stay === true || isAnswered ? undefined : code;
  }

  async #take(item: Followed): Promise<void> {
    switch (item.kind) {
      case 'open':
        this.#options.view.trouble(undefined, 0);
        return this.#soon();
      case 'lost':
        // A controller that ends the stream of an ended run is no trouble.
        await this.#ask();
        if (this.outcome() !== undefined) return this.#settle();
        return this.#options.view.trouble(troubleSentence(this.#options.client.server, item), item.attempt);
      case 'event':
        this.#options.view.event(item.event);
        if (this.outcome() !== undefined) this.#startGrace();
        if (item.event.type === 'output') return;
        if (item.event.type !== 'run-ended' && item.event.type !== 'run-held') return this.#soon();
        await this.#ask();
        if (this.outcome() !== undefined && this.#isLast(item.event)) this.#settle();
        return;
      default:
        return item satisfies never;
    }
  }

  /** Whether this event made the state we know, and not an earlier hold that is told again from the history. */
  #isLast({ type, event }: RunEventView): boolean {
    if (type === 'run-ended') return true;
    const since = (event as { hold?: { sinceMs?: unknown } } | null | undefined)?.hold?.sinceMs;
    return since === undefined || since === this.latest.hold?.sinceMs;
  }

  #soon(): void {
    if (this.#askAgain !== undefined) return;
    this.#askAgain = setTimeout(() => {
      this.#askAgain = undefined;
      void this.#ask();
    }, this.#options.gapMs ?? 250);
  }

  /** One question at a time; a failure is left to the event stream, which reports and repeats. */
  async #ask(): Promise<void> {
    await this.#asking;
    this.#asking = this.#options.client
      .run(this.#options.run)
      .then((view) => this.#accept(view))
      .catch(() => undefined);
    await this.#asking;
  }

  #accept(view: RunView): void {
    this.latest = view;
    this.#options.view.state(view);
    if (this.outcome() === undefined) clearTimeout(this.#grace);
    else this.#startGrace();
  }

  /** Once settled, what is left of the history still comes through; when nothing more comes, the watch is over. */
  #startGrace(): void {
    clearTimeout(this.#grace);
    this.#grace = setTimeout(() => this.#settle(), this.#options.graceMs ?? 1_500);
  }

  #settle(): void {
    this.#settled.abort();
  }
}

function troubleSentence(server: string, { why, attempt, retryMs }: Extract<Followed, { kind: 'lost' }>): string {
  const next = retryMs >= 1000 ? `in ${Math.round(retryMs / 1000)}s` : 'at once';
  const reason = why.startsWith('The controller') ? why : `The connection to ${server} broke (${why}).`;
  return `${reason} Trying again ${next} (attempt ${attempt}); agents finish what they have begun meanwhile.`;
}
