/** Follows a run's events over server-sent events, across broken connections, until the caller stops. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { RunEventView } from '@kwfleet/core';
import { EventSourceParserStream } from 'eventsource-parser/stream';
import type { Client } from './client.ts';
import { CliError, EXIT } from './exit.ts';

export type Followed =
  | { readonly kind: 'event'; readonly event: RunEventView }
  | { readonly kind: 'open' }
  /** The connection is gone; the next attempt comes in `retryMs`. */
  | { readonly kind: 'lost'; readonly why: string; readonly attempt: number; readonly retryMs: number };

export type FollowOptions = {
  readonly client: Pick<Client, 'openEvents'>;
  readonly run: string;
  readonly signal: AbortSignal;
  readonly connectTimeoutMs?: number;
  /** A connection without a byte for so long is given up: it may be half open. The controller sends heartbeats. */
  readonly silenceMs?: number;
  readonly wait?: (ms: number, signal: AbortSignal) => Promise<unknown>;
};

const FIRST_RETRY_MS = 500;
const LONGEST_RETRY_MS = 15_000;

/** Retries grow from half a second to a quarter of a minute and stay there: a night's outage is no reason to give up. */
export const retryDelayMs = (attempt: number): number =>
  Math.min(LONGEST_RETRY_MS, FIRST_RETRY_MS * 2 ** Math.min(attempt - 1, 10));

/**
 * Yields events in order, each once, from the start of the run. Ends when `signal` aborts, or
 * the controller says that there is nothing more to come of an ended run. Throws what asking again
 * will not change (no such run, no access).
 */
export async function* follow(options: FollowOptions): AsyncGenerator<Followed, void, void> {
  const { signal, wait = (ms, s) => sleep(ms, undefined, { signal: s }) } = options;
  const place: Place = { lastSeq: -1 };
  let attempt = 0;
  while (!signal.aborted) {
    let why = 'the controller ended the stream';
    try {
      for await (const item of connection(options, place)) {
        attempt = 0;
        yield item;
      }
    } catch (error) {
      if (signal.aborted) return;
      if (isFinal(error)) throw error;
      why = error instanceof Error ? error.message : String(error);
    }
    if (signal.aborted || place.isEnd) return;
    attempt += 1;
    const retryMs = retryDelayMs(attempt);
    yield { kind: 'lost', why, attempt, retryMs };
    await wait(retryMs, signal).catch(() => undefined);
  }
}

/** Where the next connection takes up again. */
type Place = { lastEventId?: string; lastSeq: number; isEnd?: boolean };

async function* connection(options: FollowOptions, place: Place): AsyncGenerator<Followed, void, void> {
  const { client, run, signal, connectTimeoutMs = 15_000, silenceMs = 60_000 } = options;
  const silence = new AbortController();
  const stop = AbortSignal.any([signal, silence.signal]);
  const tooQuiet = () => silence.abort(new Error('nothing was heard from the controller for too long'));
  let timer = setTimeout(tooQuiet, connectTimeoutMs);
  try {
    const response = await client.openEvents(run, place.lastEventId, stop);
    place.isEnd = response.status === 204;
    if (place.isEnd) return;
    yield { kind: 'open' };
    const heard = new TransformStream<Uint8Array, Uint8Array>({
      transform(chunk, controller) {
        clearTimeout(timer);
        timer = setTimeout(tooQuiet, silenceMs);
        controller.enqueue(chunk);
      },
    });
    clearTimeout(timer);
    timer = setTimeout(tooQuiet, silenceMs);
    const body = response.body as ReadableStream<Uint8Array> | null;
    if (body === null) return;
    const messages = body
      .pipeThrough(heard)
      .pipeThrough(new TextDecoderStream() as unknown as TransformStream<Uint8Array, string>)
      .pipeThrough(new EventSourceParserStream({ maxBufferSize: 4 * 1024 * 1024 }));
    for await (const message of messages) {
      if (message.id !== undefined) place.lastEventId = message.id;
      const event = parseEvent(message.data);
      if (event === undefined || repeated(event, place)) continue;
      yield { kind: 'event', event };
    }
  } finally {
    clearTimeout(timer);
    silence.abort();
  }
}

/** After a break the controller may begin a little earlier than asked. Output has no place in the chain, so no number. */
function repeated(event: RunEventView, place: Place): boolean {
  if (event.type === 'output') return false;
  if (event.seq <= place.lastSeq) return true;
  place.lastSeq = event.seq;
  return false;
}

function parseEvent(data: string): RunEventView | undefined {
  try {
    const value = JSON.parse(data) as RunEventView;
    return typeof value.type === 'string' && typeof value.message === 'string' ? value : undefined;
  } catch {
    return undefined;
  }
}

/** What a command printed: the piece as it came, or, of a controller that tells lines only, the line. */
export function outputOf({ event, message }: RunEventView): string {
  const text = (event as { text?: unknown } | null | undefined)?.text;
  return typeof text === 'string' ? text : `${message}\n`;
}

/** A refusal that stays one. Everything with another cause (the controller restarts, a proxy hiccups) may pass. */
function isFinal(error: unknown): boolean {
  if (!(error instanceof CliError)) return false;
  if (error.exitCode === EXIT.refused) return true;
  return error.where.code === 'UNAUTHORIZED' || error.where.code === 'FORBIDDEN';
}
