/** Heartbeats of thousands of agents, written together: one statement a moment, not one a message. */
import type { Logger } from 'pino';
import type { Database } from '../store/database.ts';
import { type Beat, storeBeats } from '../store/nodes.ts';

export type Heartbeats = {
  /** Notes that the stream was heard just now; with a heartbeat's contents where it was one. */
  heard(beat: Omit<Beat, 'ageMs'>): void;
  /** A report came over the stream. What heartbeats said before is older: resolves once none of it can be written any more. */
  reported(stream: Pick<Beat, 'node' | 'stream'>): Promise<void>;
  close(): Promise<void>;
};

type Heard = Omit<Beat, 'ageMs'> & { readonly atMs: number };

/** `linkMs`: for how long a node counts as connected after it was last heard. */
export function collectHeartbeats(database: Database, everyMs: number, linkMs: number, log: Logger): Heartbeats {
  const waiting = new Map<string, Heard>();
  let writing: Promise<void> | undefined;

  async function flush(): Promise<void> {
    const batch = [...waiting.values()];
    waiting.clear();
    const nowMs = performance.now();
    const beats = batch.map(({ atMs, ...beat }) => ({ ...beat, ageMs: nowMs - atMs }));
    await storeBeats(database, beats, linkMs).catch((error: unknown) => {
      // The next heartbeats say the same again: nothing is kept for later.
      log.warn({ err: error, count: beats.length }, 'heartbeats could not be stored');
    });
  }

  const timer = setInterval(() => {
    if (writing !== undefined || waiting.size === 0) return;
    writing = flush().finally(() => {
      writing = undefined;
    });
  }, everyMs);

  function heard(beat: Omit<Beat, 'ageMs'>): void {
    const atMs = performance.now();
    const before = waiting.get(beat.node);
    if (before?.stream !== beat.stream) return void waiting.set(beat.node, { ...beat, atMs });
    // The host's clock went on since it was told.
    const clockMs = before.clockMs === undefined ? undefined : before.clockMs + (atMs - before.atMs);
    waiting.set(beat.node, {
      ...before,
      ...(clockMs !== undefined && { clockMs: Math.round(clockMs) }),
      ...beat,
      atMs,
    });
  }

  return {
    heard,
    async reported(stream) {
      heard({ ...stream, serving: undefined, ready: undefined });
      await writing;
    },
    async close() {
      clearInterval(timer);
      await writing;
    },
  };
}
