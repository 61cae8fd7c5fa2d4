import { type Choice, ENDED, type RunEvent, type RunState } from './state.ts';

/** What a person may ask of a run as it stands. */
export function legalChoices(state: RunState): Choice[] {
  if (ENDED.has(state.status)) return [];
  if (state.status === 'held') return state.hold?.choices ?? ['abort'];
  if (state.abortRequested) return [];
  if (state.status === 'awaiting_approval') return state.abortRequested ? [] : ['approve', 'abort'];
  if (state.status === 'paused') return ['resume', 'abort'];
  if (state.pauseRequested) return ['resume', 'abort'];
  return state.status === 'running' ? ['pause', 'abort'] : ['abort'];
}

/** The event that a person's request makes, or none when it is not legal (any more). */
export function eventOfRequest(
  state: RunState,
  request: 'pause' | 'resume' | 'retry' | 'abort',
  by: string,
  atMs: number,
): RunEvent | undefined {
  if (!legalChoices(state).includes(request)) return undefined;
  const types = {
    pause: 'pause-requested',
    resume: 'run-resumed',
    retry: 'retry-requested',
    abort: 'abort-requested',
  } as const;
  return { type: types[request], by, atMs };
}
