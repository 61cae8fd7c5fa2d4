/** `/v1/runs/{id}/events`: a run's history and its commands' output, as server-sent events that can be resumed. */
import { once } from 'node:events';
import type { ServerResponse } from 'node:http';
import { ENDED, FleetError, type RunEvent, type RunEventView } from '@kwfleet/core';
import Type from 'typebox';
import type { Database } from '../store/database.ts';
import type { Notices } from '../store/notices.ts';
import { eventsAfter, findRun, type OutputRow, outputAfter, outputSeqAt, type RunEventRow } from '../store/runs.ts';
import { type Api, type ApiParts, IdParams } from './api.ts';
import { describeEvent, stepOfEvent } from './event-words.ts';
import { needRun } from './runs.ts';

/** How far a listener is: history and output are numbered apart, since output is not in the chain. */
type Place = { event: number; output: number };
type Message = { readonly place: Place; readonly view: RunEventView };

const BATCH = 200;
/** A notice may be lost: the history is looked at this often all the same. */
const TICK_MS = 1_000;
/** Proxies and clients take a silent stream for dead. */
const PING_MS = 15_000;
/** A listener that takes nothing for so long is gone. */
const DRAIN_MS = 30_000;

export function runEventRoutes(app: Api, { database, notices }: ApiParts): void {
  app.get(
    '/v1/runs/:id/events',
    {
      schema: {
        tags: ['runs'],
        description:
          'Server-sent events (RunEventView); `output` events carry what commands print. Resumes after `Last-Event-ID`, ' +
          'or `?after=`. Ends when the run has ended; then 204 says that there is nothing more to come.',
        produces: ['text/event-stream'],
        params: IdParams,
        querystring: Type.Object({ after: Type.Optional(Type.String({ maxLength: 40 })) }),
      },
    },
    async (request, reply) => {
      const { id } = request.params;
      const run = await needRun(database, id);
      const header = request.headers['last-event-id'];
      const place = await placeOf(database, id, String(header ?? request.query.after ?? '0.0'));
      const isOver = ENDED.has(run.state.status) && (await nextMessages(database, id, place)).length === 0;
      if (isOver) return reply.code(204).send();
      reply.hijack();
      const listener = reply.raw;
      listener.writeHead(200, {
        'content-type': 'text/event-stream; charset=utf-8',
        'cache-control': 'no-store',
        'x-accel-buffering': 'no',
      });
      listener.flushHeaders();
      try {
        await stream(listener, database, notices, id, place);
      } catch (error) {
        // The listener comes back to where it was.
        request.log.warn({ err: error, run: id }, 'a stream of events ended early');
      } finally {
        listener.end();
      }
    },
  );
}

/** `12.40`: after event 12 and piece 40 of the output; `12`: after event 12, and the output stored by then. */
async function placeOf(database: Database, run: string, id: string): Promise<Place> {
  const match = /^(\d{1,15})(?:\.(\d{1,15}))?$/.exec(id);
  if (match === null) throw new FleetError('BAD_REQUEST', 'Last-Event-ID: not one that this stream gave');
  const event = Number(match[1]);
  return { event, output: match[2] === undefined ? await outputSeqAt(database, run, event) : Number(match[2]) };
}

async function stream(
  listener: ServerResponse,
  database: Database,
  notices: Notices,
  id: string,
  from: Place,
): Promise<void> {
  const gone = new AbortController();
  listener.once('close', () => gone.abort());
  const bell = newBell(gone.signal);
  const silence = notices.on('history', (run) => (run === id || run === '') && bell.ring());
  let place = from;
  let quietSinceMs = performance.now();
  try {
    while (!gone.signal.aborted) {
      bell.reset();
      // The run is read first: what it counts is there when its history is read.
      const run = await findRun(database, id);
      const messages = await nextMessages(database, id, place);
      for (const message of messages) {
        await send(listener, message, gone.signal);
        place = message.place;
        quietSinceMs = performance.now();
      }
      if (messages.length > 0) continue;
      // An ended run adds nothing more, and some of its output may be forgotten by now.
      if (run === undefined || ENDED.has(run.state.status)) return;
      if (performance.now() - quietSinceMs > PING_MS) {
        listener.write(': still here\n\n');
        quietSinceMs = performance.now();
      }
      await bell.rungWithin(TICK_MS);
    }
  } finally {
    silence();
  }
}

/** Rings once for any number of notices; also when the listener is gone. */
function newBell(signal: AbortSignal) {
  let { promise, resolve } = Promise.withResolvers<void>();
  signal.addEventListener('abort', () => resolve());
  return {
    ring: () => resolve(),
    reset() {
      if (!signal.aborted) ({ promise, resolve } = Promise.withResolvers<void>());
    },
    async rungWithin(ms: number) {
      const timer = setTimeout(() => resolve(), ms);
      await promise;
      clearTimeout(timer);
    },
  };
}

/** What comes after a place, history and output put together by when they were stored. */
async function nextMessages(database: Database, run: string, from: Place): Promise<Message[]> {
  const [events, output] = await Promise.all([
    eventsAfter(database, run, from.event, BATCH),
    outputAfter(database, run, from.output, BATCH),
  ]);
  const messages: Message[] = [];
  let place = from;
  while (events.length + output.length > 0) {
    const [event, piece] = [events[0], output[0]];
    // When one of both has more than a batch, nothing behind its end may pass it: the next batch goes on from there.
    if (event !== undefined && (piece === undefined || event.atMs <= piece.atMs)) {
      events.shift();
      place = { ...place, event: event.seq };
      messages.push({ place, view: eventView(event) });
    } else if (piece !== undefined) {
      output.shift();
      place = { ...place, output: piece.seq };
      messages.push({ place, view: outputView(piece, place.event) });
    }
    if (messages.length >= BATCH) break;
  }
  return messages;
}

async function send(listener: ServerResponse, { place, view }: Message, signal: AbortSignal): Promise<void> {
  const text = `id: ${place.event}.${place.output}\nevent: ${view.type}\ndata: ${JSON.stringify(view)}\n\n`;
  if (listener.write(text) || signal.aborted) return;
  await once(listener, 'drain', { signal: AbortSignal.any([signal, AbortSignal.timeout(DRAIN_MS)]) });
}

/** One line of a run's history, for people and scripts. */
export function eventView({ seq, atMs, event }: RunEventRow): RunEventView {
  return { seq, atMs, type: event.type, ...stepOfEvent(event), message: describeEvent(event), event: shown(event) };
}

/** A result's report is long and is in the report of the run; what it says of the step stays. */
function shown(event: RunEvent): unknown {
  if (event.type !== 'step-ended') return event;
  const { report: _report, health: _health, ...result } = event.result;
  return { ...event, result };
}

function outputView({ atMs, action, step, node, position, text }: OutputRow, seq: number): RunEventView {
  return { seq, atMs, type: 'output', step, node, message: text.trimEnd(), event: { action, position, text } };
}
