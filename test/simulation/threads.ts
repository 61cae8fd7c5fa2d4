/** Many seeds, in batches, on as many threads as one likes. */
import { Worker } from 'node:worker_threads';
import type { Topology } from '@kwfleet/core';
import type { Safeguard } from './safeguards.ts';
import type { BatchResult } from './worker.ts';

/** So many seeds a thread is given at a time. */
export const BATCH = 50;

export type Range = {
  readonly from: number;
  readonly to: number;
  readonly topology: Topology | undefined;
  readonly without: Safeguard | undefined;
  readonly threads: number;
  /** Whether seeds are played on after one was violated. */
  readonly keepGoing: boolean;
};

export type Totals = {
  runs: number;
  events: number;
  virtualMs: number;
  /** In real time, the start of the threads included. */
  tookMs: number;
  outcomes: Map<string, number>;
  failures: BatchResult['failures'][number][];
};

/** Gives batches to threads until all seeds are done, or one was violated. */
export async function simulateRange(range: Range, onBatch: (soFar: Totals) => void = () => {}): Promise<Totals> {
  const { from: first, to: last, topology, without, threads, keepGoing } = range;
  const totals: Totals = { runs: 0, events: 0, virtualMs: 0, tookMs: 0, outcomes: new Map(), failures: [] };
  const beganMs = performance.now();
  let next = first;
  const work = async (): Promise<void> => {
    const worker = new Worker(new URL('./worker.ts', import.meta.url));
    try {
      while (next <= last && (keepGoing || totals.failures.length === 0)) {
        const from = next;
        const to = Math.min(last, from + BATCH - 1);
        next = to + 1;
        const result = await ask(worker, { from, to, topology, without });
        add(totals, result, to - from + 1);
        totals.tookMs = performance.now() - beganMs;
        onBatch(totals);
      }
    } finally {
      await worker.terminate();
    }
  };
  await Promise.all(Array.from({ length: threads }, work));
  return totals;
}

/** Runs a second. */
export const rate = ({ runs, tookMs }: Totals): number => Math.round(runs / (tookMs / 1000));

function ask(worker: Worker, batch: object): Promise<BatchResult> {
  return new Promise((resolve, reject) => {
    const onError = (error: unknown) => reject(error);
    worker.once('error', onError);
    worker.once('message', (result: BatchResult) => {
      worker.off('error', onError);
      resolve(result);
    });
    worker.postMessage(batch);
  });
}

function add(totals: Totals, { events, virtualMs, outcomes, failures }: BatchResult, runs: number): void {
  totals.runs += runs;
  totals.events += events;
  totals.virtualMs += virtualMs;
  for (const [key, count] of Object.entries(outcomes))
    totals.outcomes.set(key, (totals.outcomes.get(key) ?? 0) + count);
  totals.failures.push(...failures);
}
