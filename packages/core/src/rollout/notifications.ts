import { bounded, type Notification } from '../notification.ts';
import { type RolloutEvent, type RolloutState, tally } from './state.ts';

export type RolloutInWords = {
  readonly id: string;
  readonly name: string;
  readonly to: string;
  readonly by: string;
  /** As it is after the event. */
  readonly state: RolloutState;
};

/** What an event of a rollout tells people, or undefined when it is none of their business. Its runs tell of themselves. */
export function notificationOfRollout(rollout: RolloutInWords, event: RolloutEvent): Notification | undefined {
  const { id, name, to, by, state } = rollout;
  const what = `rollout ${name} to ${to}`;
  const about = { clusters: Object.keys(state.clusters), rollout: id };
  const tell = (notification: Omit<Notification, 'clusters' | 'rollout'>) => bounded({ ...about, ...notification });
  switch (event.type) {
    case 'approval-asked':
      return tell({
        event: 'needs-approval',
        severity: 'warning',
        title: `The ${what} waits for approval`,
        lines: [`asked for by ${by} (${event.scope})`, `hash ${state.hash}`, `kwfleet rollout approve ${id}`],
      });
    case 'rollout-paused':
      // Whoever paused it knows.
      if (event.code === 'PAUSED_BY_OPERATOR') return undefined;
      return tell({
        event: 'held',
        severity: 'critical',
        title: `The ${what} paused by itself: ${event.code}`,
        lines: [event.message, `now: kwfleet rollout resume ${id}, or kwfleet rollout abort ${id}`],
        code: event.code,
      });
    case 'wave-ended':
      return tell({
        event: 'wave-done',
        severity: 'info',
        title: `The wave "${event.wave}" of the ${what} is done`,
        lines: [tally(state)],
      });
    case 'rollout-ended':
      return tell({
        event: 'rollout-done',
        severity: event.status === 'succeeded' ? 'info' : 'warning',
        title: `The ${what} is ${event.status}`,
        lines: [event.reason, `asked for by ${by}`, `kwfleet rollout show ${id}`],
      });
    default:
      return undefined;
  }
}
