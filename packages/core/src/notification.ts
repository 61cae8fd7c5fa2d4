/** What people are told of by themselves: what happened, in a few lines, and what to do next. Bounded, whatever hosts say. */
import Type, { type Static } from 'typebox';
import type { RunEvent } from './engine/state.ts';
import { ERRORS } from './errors.ts';
import { kindOf, type Plan } from './plan.ts';

export const NotificationEvent = Type.Union([
  Type.Literal('held'),
  Type.Literal('failed'),
  Type.Literal('aborted'),
  Type.Literal('succeeded'),
  Type.Literal('needs-approval'),
  Type.Literal('wave-done'),
  Type.Literal('rollout-done'),
  Type.Literal('unhealthy'),
  Type.Literal('recovered'),
]);
export type NotificationEvent = Static<typeof NotificationEvent>;

const TITLE_MAX = 200;
const LINE_MAX = 500;
const LINES_MAX = 24;

export const Notification = Type.Object({
  /** `test`: somebody wants to see whether it arrives. */
  event: Type.Union([NotificationEvent, Type.Literal('test')]),
  severity: Type.Union([Type.Literal('info'), Type.Literal('warning'), Type.Literal('critical')]),
  title: Type.String(),
  lines: Type.Array(Type.String()),
  /** Ids of the clusters that it is about; none: about the whole fleet. */
  clusters: Type.Array(Type.String()),
  run: Type.Optional(Type.String()),
  rollout: Type.Optional(Type.String()),
  /** Of a hold; docs/reference/errors.md lists all. */
  code: Type.Optional(Type.String()),
  node: Type.Optional(Type.String()),
  /** Of a hold that may end by itself: it is told only if it lasts. */
  heldSinceMs: Type.Optional(Type.Integer()),
});
export type Notification = Static<typeof Notification>;

const cut = (text: string, most: number): string => {
  const line = text.replaceAll(/[\p{Cc}\p{Cf}\s]+/gu, ' ').trim();
  return line.length <= most ? line : `${line.slice(0, most - 1)}…`;
};

/** Cut to what every receiver takes, each line one line. */
export function bounded(notification: Notification): Notification {
  const { title, lines } = notification;
  const shown = lines.slice(0, LINES_MAX).map((line) => cut(line, LINE_MAX));
  const more = lines.length > LINES_MAX ? [`and ${lines.length - LINES_MAX} more`] : [];
  return { ...notification, title: cut(title, TITLE_MAX), lines: [...shown, ...more].filter((line) => line !== '') };
}

export type RunInWords = {
  readonly id: string;
  readonly plan: Plan;
  readonly clusterName: string;
  readonly by: string;
};

const nameOf = ({ plan, clusterName }: RunInWords): string =>
  kindOf(plan) === 'upgrade' ? `upgrade of ${clusterName} to ${plan.to}` : `${kindOf(plan)} of ${clusterName}`;

const capital = (text: string): string => text.charAt(0).toUpperCase() + text.slice(1);

/** What an event of a run tells people, or undefined when it is none of their business. */
export function notificationOfEvent(run: RunInWords, event: RunEvent): Notification | undefined {
  const about = { clusters: [run.plan.cluster], run: run.id };
  if (event.type === 'run-held') {
    const { code, message, remedy, node, words, choices, selfClearing, sinceMs } = event.hold;
    const needsApproval = code === 'APPROVAL_NEEDED';
    const what = needsApproval ? 'waits for approval' : `is held${node === undefined ? '' : ` on ${node}`}: ${code}`;
    return bounded({
      ...about,
      event: needsApproval ? 'needs-approval' : 'held',
      severity: needsApproval ? 'warning' : 'critical',
      title: capital(`${nameOf(run)} ${what}`),
      lines: [message, ...(words === undefined ? [] : [`it said: ${words}`]), remedy, ...choiceLines(run.id, choices)],
      code,
      ...(node !== undefined && { node }),
      ...(selfClearing && !needsApproval && { heldSinceMs: sinceMs }),
    });
  }
  if (event.type === 'approval-lapsed') {
    return bounded({
      ...about,
      event: 'needs-approval',
      severity: 'warning',
      title: capital(`${nameOf(run)} waits for approval again`),
      lines: ['what was approved became too old before its time came', `kwfleet run approve ${run.id}`],
    });
  }
  // Any other wait has an end; nodes of two versions may stand beside each other in this one.
  if (event.type === 'run-scheduled' && event.wait.code === 'WINDOW_NEVER') {
    const { code, message } = event.wait;
    return bounded({
      ...about,
      event: 'held',
      severity: 'critical',
      title: capital(`${nameOf(run)} waits for a window that does not come`),
      lines: [message, ERRORS[code].remedy, ...choiceLines(run.id, ['abort'])],
      code,
    });
  }
  if (event.type !== 'run-ended') return undefined;
  const { status, reason } = event;
  return bounded({
    ...about,
    event: status,
    severity: status === 'succeeded' ? 'info' : status === 'aborted' ? 'warning' : 'critical',
    title: capital(`${nameOf(run)} ${status === 'aborted' ? 'was aborted' : status}`),
    lines: [reason, `asked for by ${run.by}`, `kwfleet run report ${run.id}`],
  });
}

const choiceLines = (run: string, choices: readonly string[]): string[] => {
  const commands = choices.filter((choice) => choice !== 'wait').map((choice) => `kwfleet run ${choice} ${run}`);
  return commands.length === 0 ? [] : [`now: ${commands.join(', or ')}`];
};

/** A run was made that waits for people. */
export function notificationOfWaitingRun(run: RunInWords, approvers: number, hash: string): Notification {
  const people = approvers === 1 ? 'one person' : `${approvers} people`;
  return bounded({
    event: 'needs-approval',
    severity: 'warning',
    title: capital(`${nameOf(run)} waits for approval`),
    lines: [
      `${people} must approve it; ${run.by} asked for it`,
      `plan hash ${hash}`,
      `kwfleet run show ${run.id}, then kwfleet run approve ${run.id}`,
    ],
    clusters: [run.plan.cluster],
    run: run.id,
  });
}

export type NodeInWords = {
  readonly cluster: string;
  readonly clusterName: string;
  readonly node: string;
  readonly was: string;
  readonly state: string;
  readonly detail: string;
};

/** What is told of nodes that got unwell, or well again, at one look: one message, however many they are. */
export function notificationsOfHealth(changes: readonly NodeInWords[]): Notification[] {
  const [recovered, unwell] = [true, false].map((well) =>
    changes.filter(({ state }) => (state === 'healthy') === well),
  );
  return [tellNodes('unhealthy', unwell ?? []), tellNodes('recovered', recovered ?? [])].flatMap((one) => one ?? []);
}

function tellNodes(event: 'unhealthy' | 'recovered', changes: readonly NodeInWords[]): Notification | undefined {
  const [first] = changes;
  if (first === undefined) return undefined;
  const names = [...new Set(changes.map(({ clusterName }) => clusterName))];
  const where = names.length === 1 ? names[0] : `${names.length} clusters`;
  const what = event === 'recovered' ? 'healthy again' : changes.length === 1 ? first.state : 'unhealthy';
  const nodes = changes.length === 1 ? `${first.node} of ${where} is` : `${changes.length} nodes of ${where} are`;
  return bounded({
    event,
    severity: event === 'recovered' ? 'info' : 'warning',
    title: `${nodes} ${what}`,
    lines: changes.map(({ clusterName, node, was, state, detail }) =>
      [`${clusterName}, ${node}: ${was} before, ${state} now`, detail].filter((text) => text !== '').join('; '),
    ),
    clusters: [...new Set(changes.map(({ cluster }) => cluster))].slice(0, 500),
    ...(changes.length === 1 && { node: first.node }),
  });
}
