/** A thread that simulates the seeds it is given, and says what came of each. */
import { parentPort } from 'node:worker_threads';
import type { Topology } from '@kwfleet/core';
import { fromEventLoop, withoutRealTime } from './determinism.ts';
import { simulate } from './run.ts';
import type { Safeguard } from './safeguards.ts';

export type Batch = {
  readonly from: number;
  readonly to: number;
  readonly topology: Topology | undefined;
  readonly without: Safeguard | undefined;
};

export type BatchResult = {
  readonly from: number;
  readonly events: number;
  readonly virtualMs: number;
  /** `TOPOLOGY STATUS` to how many. */
  readonly outcomes: Readonly<Record<string, number>>;
  readonly failures: readonly { readonly seed: number; readonly messages: readonly string[] }[];
};

/** Simulates one batch; also called without a thread. */
export async function simulateBatch({ from, to, topology, without }: Batch): Promise<BatchResult> {
  const outcomes: Record<string, number> = {};
  const failures: { seed: number; messages: string[] }[] = [];
  let events = 0;
  let virtualMs = 0;
  const stray: string[] = [];
  const onStray = (error: unknown) => stray.push(`a promise was rejected and nobody listened: ${String(error)}`);
  process.on('unhandledRejection', onStray);
  for (let seed = from; seed <= to; seed++) {
    stray.length = 0;
    const outcome = await fromEventLoop(() => withoutRealTime(() => simulate({ seed, topology, without })));
    const key = `${outcome.topology} ${outcome.status.split(':')[0]}`;
    outcomes[key] = (outcomes[key] ?? 0) + 1;
    events += outcome.events;
    virtualMs += outcome.tookMs;
    const messages = [...outcome.violations.map(({ invariant, message }) => `${invariant}: ${message}`), ...stray];
    if (messages.length > 0) failures.push({ seed, messages });
  }
  process.off('unhandledRejection', onStray);
  return { from, events, virtualMs, outcomes, failures };
}

// A simulated world throws a great many errors, and nobody reads where from.
if (parentPort !== null) Error.stackTraceLimit = 0;

parentPort?.on('message', (batch: Batch) => {
  void simulateBatch(batch).then((result) => parentPort?.postMessage(result));
});
