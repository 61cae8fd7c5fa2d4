/** What the database tells its controllers at once (LISTEN/NOTIFY). A notice may be lost: whoever listens also looks on a tick. */
import { EventEmitter } from 'node:events';
import { setTimeout as pause } from 'node:timers/promises';
import pg from 'pg';
import type { Logger } from 'pino';
import { type ConnectionSettings, clientConfig } from './database.ts';

/** Payloads: a run's id; a node's name; a run's id; `NODE STREAM`, or `NODE ` of one that was removed; `NODE SHA256...`; `NODE REQUEST`. */
export const CHANNELS = {
  /** A run was made, or got an input, or facts changed (empty payload). */
  run: 'kwfleet_run',
  /** A node has a new action. */
  action: 'kwfleet_action',
  /** A run has new events or output. */
  history: 'kwfleet_history',
  /** A new stream speaks for a node. */
  stream: 'kwfleet_stream',
  /** There is something to tell people. */
  notification: 'kwfleet_notification',
  /** A node is to report now, also of the images of these packages. */
  ask: 'kwfleet_ask',
  /** A node is to tell what its cluster holds. */
  inventory: 'kwfleet_inventory',
} as const;
export type Channel = keyof typeof CHANNELS;

export interface Notices {
  on(channel: Channel, listener: (payload: string) => void): () => void;
  close(): Promise<void>;
}

const RECONNECT_MS = 500;
/** A connection that hears nothing is asked now and then whether it still lives. */
const PROBE_MS = 10_000;

/** Listens on a connection of its own, made anew whenever it breaks; after that every listener is told once, with ''. */
export function listen(settings: ConnectionSettings, log: Logger): Notices {
  const emitter = new EventEmitter();
  emitter.setMaxListeners(0);
  const stopping = new AbortController();
  const stopped = keepListening(settings, emitter, stopping.signal, log);
  return {
    on(channel, listener) {
      emitter.on(channel, listener);
      return () => emitter.off(channel, listener);
    },
    async close() {
      stopping.abort();
      await stopped;
    },
  };
}

async function keepListening(
  settings: ConnectionSettings,
  emitter: EventEmitter,
  signal: AbortSignal,
  log: Logger,
): Promise<void> {
  while (!signal.aborted) {
    try {
      await listenOnce(settings, emitter, signal);
    } catch (error) {
      if (!signal.aborted) log.warn({ err: error }, 'not listening to the database; trying again');
    }
    await pause(RECONNECT_MS, undefined, { signal }).catch(() => {});
  }
}

async function listenOnce(settings: ConnectionSettings, emitter: EventEmitter, signal: AbortSignal): Promise<void> {
  const client = new pg.Client(clientConfig(settings));
  const lost = new AbortController();
  client.on('error', () => lost.abort());
  client.on('end', () => lost.abort());
  client.on('notification', ({ channel, payload }) => {
    const name = Object.entries(CHANNELS).find(([, full]) => full === channel)?.[0];
    if (name !== undefined) emitter.emit(name, payload ?? '');
  });
  const ended = AbortSignal.any([signal, lost.signal]);
  try {
    await client.connect();
    for (const channel of Object.values(CHANNELS)) await client.query(`LISTEN ${channel}`);
    for (const name of Object.keys(CHANNELS)) emitter.emit(name, '');
    while (!ended.aborted) {
      await pause(PROBE_MS, undefined, { signal: ended }).catch(() => {});
      if (!ended.aborted) await client.query('SELECT 1');
    }
  } finally {
    await client.end().catch(() => {});
  }
}
