/** Each event of a rollout in one sentence. */
import type { RolloutEvent, RolloutState } from '@kwfleet/core';

/** What happened, for a person. */
export function describeRolloutEvent(event: RolloutEvent, { clusters }: RolloutState): string {
  const named = (id: string) => clusters[id]?.name ?? id;
  switch (event.type) {
    case 'rollout-begun':
      return 'The rollout begins: its clusters are chosen and checked.';
    case 'rollout-checked': {
      const all = Object.values(event.clusters);
      const blocked = all.filter(({ status, code }) => status === 'waiting' && code !== undefined).length;
      return `Checked ${all.length} clusters in ${event.waves.length} waves; checks block ${blocked}.`;
    }
    case 'approval-asked':
      return `Approval is asked for (${event.scope}).`;
    case 'approval-granted':
      return `Approval is granted (${event.scope}).`;
    case 'wave-started':
      return `The wave "${event.wave}" begins.`;
    case 'wave-settled':
      return `Every cluster of the wave "${event.wave}" is through; it soaks.`;
    case 'wave-unwell':
      return `The soak of the wave "${event.wave}" is over. Given a minute to become healthy: ${event.message}`;
    case 'wave-ended':
      return `The wave "${event.wave}" is done.`;
    case 'cluster-started':
      return `${named(event.cluster)}: started, run ${event.run}`;
    case 'cluster-succeeded':
      return `${named(event.cluster)}: is at the target`;
    case 'cluster-skipped':
      return `${named(event.cluster)}: had the target already`;
    case 'cluster-resumed':
      return `${named(event.cluster)}: goes on`;
    case 'cluster-failed':
      return `${named(event.cluster)}: failed: ${event.code}: ${event.message}`;
    case 'cluster-held':
      return `${named(event.cluster)}: is held: ${event.code}: ${event.message}`;
    case 'rollout-paused':
      return `Paused by ${event.by}: ${event.message}`;
    case 'rollout-resumed':
      return `${event.by} let it go on.`;
    case 'abort-requested':
      return `${event.by} asked to abort.`;
    case 'rollout-ended':
      return `The rollout is ${event.status}: ${event.reason}`;
    default:
      return event satisfies never;
  }
}
