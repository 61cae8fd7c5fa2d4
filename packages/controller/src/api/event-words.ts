/** Each event of a run in one sentence. */
import type { Phase, RunEvent } from '@kwfleet/core';

/** A step's id is `KIND:NODE`, or `KIND:NODE:PART`; no node has a colon in its name. */
const nodeOf = (step: string) => step.split(':')[1] ?? step;

/** Step, node and phase an event is about, where it is about one. */
export function stepOfEvent(event: RunEvent): { step?: string; node?: string; phase?: Phase } {
  if (event.type === 'run-held') {
    const { node, step } = event.hold;
    return { ...(step !== undefined && { step }), ...(node !== undefined && { node }) };
  }
  if (!('step' in event)) return {};
  return {
    step: event.step,
    node: nodeOf(event.step),
    ...(event.type === 'step-progressed' && { phase: event.phase }),
  };
}

/** What happened, for a person; the step it is about is told apart from it. */
export function describeEvent(event: RunEvent): string {
  switch (event.type) {
    case 'approval-given':
      return `${event.person} approved ${event.scope === 'start' ? 'the start' : 'what cannot be undone'}.`;
    case 'approval-lapsed':
      return 'Its approval became too old before its time came: people are asked again.';
    case 'run-started':
      return 'The run started.';
    case 'run-scheduled':
      return `The run waits: ${event.wait.message}`;
    case 'window-opened':
      return 'The run goes on: its window is open.';
    case 'window-overrun':
      return event.message;
    case 'step-dispatched':
      return `given to ${event.executor}${event.attempt > 1 ? `, attempt ${event.attempt}` : ''}`;
    case 'step-progressed':
      return event.detail === '' ? event.phase : event.detail;
    case 'step-ended': {
      const { outcome, failure, disposition } = event.result;
      if (outcome === 'succeeded') return 'done';
      return `failed (${failure?.code ?? 'no code'}: ${failure?.message ?? 'no reason'}); node ${disposition}`;
    }
    case 'step-reset':
      return `to be done again: ${event.why}`;
    case 'run-held':
      return `The run holds: ${event.hold.code}: ${event.hold.message}`;
    case 'hold-cleared':
      return `The run goes on: ${event.why}`;
    case 'pause-requested':
      return `${event.by} asked to pause before the next step.`;
    case 'run-paused':
      return 'The run is paused.';
    case 'run-resumed':
      return `${event.by} resumed the run.`;
    case 'retry-requested':
      return `${event.by} asked to try again.`;
    case 'abort-requested':
      return `${event.by} asked to abort.`;
    case 'run-ended':
      return `The run ${event.status === 'succeeded' ? 'succeeded' : `is ${event.status}`}: ${event.reason}`;
    default:
      return event satisfies never;
  }
}
