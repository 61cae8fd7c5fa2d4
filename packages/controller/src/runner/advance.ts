import {
  type Action,
  actionFor,
  apply,
  decide,
  eventOfApproval,
  eventOfRequest,
  eventOfResult,
  parseActionId,
  personOf,
  type RunEvent,
  type RunState,
} from '@kwfleet/core';
import type { RunInput, RunSnapshot, RunStore, RunWrite } from './run-store.ts';

/** More decisions than this in one turn mean that the engine goes round in circles: a bug, and better loud. */
const MAX_DECISIONS = 10_000;

/** A lease outlives several turns, so that a slow one does not lose it; another controller waits this long at most. */
export const LEASE_MS = 10_000;

/**
 * One turn of one run: take the lease, load, apply what came in, decide, write, all or nothing. Safe to call at any
 * moment, from any number of controllers: whoever lacks the lease does nothing, and a write under an old epoch is refused.
 *
 * @returns whether anything was written.
 */
export async function advance(store: RunStore, owner: string, run: string): Promise<boolean> {
  const epoch = await store.lease(run, owner, LEASE_MS);
  if (epoch === null) return false;
  const snapshot = await store.load(run);
  const write = turn(snapshot, epoch);
  return write === undefined ? false : store.commit(run, epoch, write);
}

/** The whole of a turn, without I/O: what a snapshot leads to, or undefined when nothing changes. */
export function turn(snapshot: RunSnapshot, epoch: number): RunWrite | undefined {
  const { plan, inputs, nodes, windows, stepTimes, nowMs } = snapshot;
  const events: RunEvent[] = [];
  const actions: Action[] = [];
  let state = snapshot.state;
  const put = (event: RunEvent) => {
    events.push(event);
    state = apply(plan, state, event);
  };
  for (const input of inputs) {
    const event = eventOf(snapshot, state, input);
    if (event !== undefined) put(event);
  }
  for (let made = 0; ; made++) {
    if (made > MAX_DECISIONS) throw new Error(`run ${state.run} makes no end of deciding`);
    // What is decided at once is ordered at once: no order is told that another of them has begun.
    const decided = state;
    const decisions = decide(plan, decided, { nodes, windows, stepTimes }, nowMs);
    for (const decision of decisions) {
      if (decision.do === 'record') {
        put(decision.event);
        continue;
      }
      const action = actionFor(plan, decided, decision.step, { executor: decision.executor, epoch, nowMs });
      actions.push(action);
      put({ type: 'step-dispatched', step: action.step, attempt: action.attempt, executor: action.node, atMs: nowMs });
    }
    if (decisions.length === 0) break;
  }
  const appliedSeq = inputs.at(-1)?.seq;
  if (events.length === 0 && appliedSeq === undefined) return undefined;
  return { state, events, actions, appliedSeq: appliedSeq ?? 0 };
}

function eventOf({ plan }: RunSnapshot, state: RunState, input: RunInput): RunEvent | undefined {
  switch (input.type) {
    case 'result':
      return eventOfResult(plan, state, input.result, input.atMs);
    case 'request':
      if (input.request === 'approve') {
        const { scope, hash, by } = input;
        return eventOfApproval(plan, state, { scope, hash, person: personOf(by) }, input.atMs);
      }
      return eventOfRequest(state, input.request, input.by, input.atMs);
    case 'progress': {
      const named = parseActionId(state.run, input.progress.action);
      const current = named === undefined ? undefined : state.steps[named.step];
      if (named === undefined || current?.status !== 'running' || current.attempt !== named.attempt) return undefined;
      const { phase, detail } = input.progress;
      return { type: 'step-progressed', ...named, phase, detail, atMs: input.atMs };
    }
    default:
      return input satisfies never;
  }
}
