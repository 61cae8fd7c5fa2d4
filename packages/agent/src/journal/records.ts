/**
 * What the journal remembers and how its records add up to the agent's state. Pure: the simulator and the tests fold
 * the same records the agent does.
 */
import { type Action, type ActionFailure, type ActionResult, type Phase, sameVersion } from '@kwfleet/core';

/** How the database's process and unit stood before the first deed of an action. */
export type Mark = {
  readonly running: boolean;
  /** Whether the unit was told to have failed; absent in marks of older agents. */
  readonly failed?: boolean;
  readonly pid?: number;
  readonly startedAtMs?: number;
  /** Whether the unit was enabled: deploy.sh and package scripts may change it, and it is put back. */
  readonly enabled: boolean;
};

/** `back` is set for the phases of a back-out, which the controller did not list. */
type At = { readonly action: string; readonly phase: Phase; readonly index: number; readonly atMs: number };

export type JournalRecord =
  | { readonly type: 'accepted'; readonly atMs: number; readonly action: Action }
  /** Of an order that was refused: who gave it is in charge all the same. */
  | { readonly type: 'epoch'; readonly cluster: string; readonly epoch: number }
  | { readonly type: 'mark'; readonly action: string; readonly mark: Mark }
  | ({ readonly type: 'began' } & At)
  /** Written right before the host is changed. */
  | { readonly type: 'deed'; readonly action: string; readonly phase: Phase }
  | ({ readonly type: 'ended' } & At)
  /** This version is about to be started on the data, or was found to run on it. */
  | { readonly type: 'started'; readonly action: string; readonly version: string }
  /** Other data are in place: nothing was started on them yet. */
  | { readonly type: 'data-replaced'; readonly action: string }
  /** The action cannot succeed any more; from here on it is only backed out. */
  | { readonly type: 'failed'; readonly action: string; readonly atMs: number; readonly failure: ActionFailure }
  | { readonly type: 'result'; readonly result: ActionResult }
  | { readonly type: 'acknowledged'; readonly action: string }
  /** Written by compaction in place of what it forgets. */
  | {
      readonly type: 'kept';
      readonly epochs: Readonly<Record<string, number>>;
      readonly startedVersion: string | null;
      readonly finished: readonly string[];
    };

export type PhaseTimes = {
  readonly phase: Phase;
  /** Position in the action's list; BACK_OUT for the phases of a back-out. */
  readonly index: number;
  readonly startedAtMs: number;
  endedAtMs: number | null;
};

export const BACK_OUT = -1;

export type ActionState = {
  readonly action: Action;
  readonly acceptedAtMs: number;
  readonly phases: PhaseTimes[];
  readonly deeds: Phase[];
  mark: Mark | null;
  newVersionStarted: boolean;
  failed: { readonly failure: ActionFailure; readonly atMs: number } | null;
};

export type JournalState = {
  /** The highest epoch seen, by cluster. */
  readonly epochs: Map<string, number>;
  /** The version last started on this node's data, as far as this agent did it. */
  startedVersion: string | null;
  /** Actions without a result, in the order they came. */
  readonly inHand: Map<string, ActionState>;
  /** Results not yet acknowledged, and the last few that are, for orders that are delivered again. */
  readonly results: Map<string, { readonly result: ActionResult; acknowledged: boolean }>;
  /** Ids whose results are forgotten, oldest first. */
  readonly finished: Set<string>;
};

const RESULTS_KEPT = 16;
const IDS_KEPT = 1024;

export function emptyState(): JournalState {
  return { epochs: new Map(), startedVersion: null, inHand: new Map(), results: new Map(), finished: new Set() };
}

/** Adds one record to the state. A record of an action that is no longer in hand changes nothing. */
export function applyRecord(state: JournalState, record: JournalRecord): void {
  switch (record.type) {
    case 'accepted':
      accepted(state, record);
      return;
    case 'epoch':
      raiseEpoch(state, record);
      return;
    case 'result':
      state.inHand.delete(record.result.action);
      state.results.set(record.result.action, { result: record.result, acknowledged: false });
      return;
    case 'acknowledged':
      acknowledged(state, record.action);
      return;
    case 'data-replaced':
      state.startedVersion = null;
      return;
    case 'kept':
      for (const [cluster, epoch] of Object.entries(record.epochs)) state.epochs.set(cluster, epoch);
      state.startedVersion = record.startedVersion;
      for (const id of record.finished) state.finished.add(id);
      return;
    default:
      applyToAction(state, record);
  }
}

type OfAction = Extract<JournalRecord, { type: 'mark' | 'began' | 'deed' | 'ended' | 'started' | 'failed' }>;

function applyToAction(state: JournalState, record: OfAction): void {
  if (record.type === 'started') state.startedVersion = record.version;
  const entry = state.inHand.get(record.action);
  if (entry === undefined) return;
  switch (record.type) {
    case 'mark':
      entry.mark ??= record.mark;
      return;
    case 'began':
      if (!entry.phases.some((times) => times.endedAtMs === null && sameStep(times, record))) {
        entry.phases.push({ phase: record.phase, index: record.index, startedAtMs: record.atMs, endedAtMs: null });
      }
      return;
    case 'deed':
      if (!entry.deeds.includes(record.phase)) entry.deeds.push(record.phase);
      return;
    case 'ended': {
      const times = entry.phases.findLast((candidate) => sameStep(candidate, record));
      if (times !== undefined) times.endedAtMs = record.atMs;
      return;
    }
    case 'started':
      entry.newVersionStarted ||= sameVersion(record.version, entry.action.to);
      return;
    case 'failed':
      entry.failed ??= { failure: record.failure, atMs: record.atMs };
      return;
    default:
      record satisfies never;
  }
}

const sameStep = (a: { phase: Phase; index: number }, b: { phase: Phase; index: number }): boolean =>
  a.phase === b.phase && a.index === b.index;

function raiseEpoch({ epochs }: JournalState, { cluster, epoch }: { cluster: string; epoch: number }): void {
  epochs.set(cluster, Math.max(epoch, epochs.get(cluster) ?? 0));
}

function accepted(state: JournalState, { action, atMs }: Extract<JournalRecord, { type: 'accepted' }>): void {
  raiseEpoch(state, action);
  if (state.inHand.has(action.id) || state.results.has(action.id)) return;
  state.inHand.set(action.id, {
    action,
    acceptedAtMs: atMs,
    phases: [],
    deeds: [],
    mark: null,
    newVersionStarted: false,
    failed: null,
  });
}

function acknowledged(state: JournalState, id: string): void {
  const entry = state.results.get(id);
  if (entry === undefined) return;
  entry.acknowledged = true;
  const old = [...state.results].filter(([, kept]) => kept.acknowledged).slice(0, -RESULTS_KEPT);
  for (const [forgotten] of old) {
    state.results.delete(forgotten);
    state.finished.add(forgotten);
  }
  for (const forgotten of [...state.finished].slice(0, -IDS_KEPT)) state.finished.delete(forgotten);
}

/** The shortest list of records that adds up to this state. */
export function snapshotRecords(state: JournalState): JournalRecord[] {
  const records: JournalRecord[] = [
    {
      type: 'kept',
      epochs: Object.fromEntries(state.epochs),
      startedVersion: state.startedVersion,
      finished: [...state.finished],
    },
  ];
  for (const { result, acknowledged: done } of state.results.values()) {
    records.push({ type: 'result', result });
    if (done) records.push({ type: 'acknowledged', action: result.action });
  }
  for (const entry of state.inHand.values()) records.push(...actionRecords(entry));
  return records;
}

function actionRecords(entry: ActionState): JournalRecord[] {
  const action = entry.action.id;
  const records: JournalRecord[] = [{ type: 'accepted', atMs: entry.acceptedAtMs, action: entry.action }];
  if (entry.mark !== null) records.push({ type: 'mark', action, mark: entry.mark });
  for (const { phase, index, startedAtMs, endedAtMs } of entry.phases) {
    records.push({ type: 'began', action, phase, index, atMs: startedAtMs });
    if (endedAtMs !== null) records.push({ type: 'ended', action, phase, index, atMs: endedAtMs });
  }
  for (const phase of entry.deeds) records.push({ type: 'deed', action, phase });
  if (entry.newVersionStarted) records.push({ type: 'started', action, version: entry.action.to });
  if (entry.failed !== null) {
    records.push({ type: 'failed', action, atMs: entry.failed.atMs, failure: entry.failed.failure });
  }
  return records;
}
