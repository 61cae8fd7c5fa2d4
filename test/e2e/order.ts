/** What the nodes' own records prove about the order in which they were stopped and started. */
import type { RecordLine } from '../standin/rig.ts';

export type Absence = {
  readonly stoppedAtMs: number;
  readonly fromVersion: string;
  readonly startedAtMs: number;
  readonly readyAtMs: number;
  readonly toVersion: string;
};

/** The one time a node was away, by its own record. Throws when it was away never, or more than once. */
export function absence(record: readonly RecordLine[]): Absence {
  const stops = record.filter(({ event }) => event === 'stop');
  const [stop] = stops;
  if (stop === undefined || stops.length > 1) throw new Error(`stopped ${stops.length} times, not once`);
  const after = record.filter(({ atMs }) => atMs >= stop.atMs);
  const start = after.find(({ event }) => event === 'start');
  const ready = after.find(({ event }) => event === 'ready');
  if (start === undefined || ready === undefined) throw new Error('never came back');
  return {
    stoppedAtMs: stop.atMs,
    fromVersion: stop.version,
    startedAtMs: start.atMs,
    readyAtMs: ready.atMs,
    toVersion: ready.version,
  };
}

/** Pairs of absences that overlap in time: for a multi-replica cluster there must be none. */
export function overlaps(absences: readonly Absence[]): [number, number][] {
  return absences.flatMap((a, i) =>
    absences.flatMap((b, j): [number, number][] =>
      i < j && a.stoppedAtMs < b.readyAtMs && b.stoppedAtMs < a.readyAtMs ? [[i, j]] : [],
    ),
  );
}
