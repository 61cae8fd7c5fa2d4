/**
 * Brings notifications to their targets. Any number of controllers do it: each delivery is leased by one of them, and free
 * again when it dies. So a receiver gets each at least once, and knows by the id what it has already.
 */
import type { Logger } from 'pino';
import { startLoop } from '../runner/loop.ts';
import type { Database } from '../store/database.ts';
import type { Notices } from '../store/notices.ts';
import { type Due, giveUpOrphans, handOver, leaseDue, markDelivered, markFailed } from '../store/notifications.ts';
import { SEND_MS, type Sent, send } from './send.ts';
import { type Target, wants } from './targets.ts';

export type Deliverer = { stop(): Promise<void> };

/** A notice may be lost, and retries fall due by themselves. */
const TICK_MS = 2_000;
const AT_ONCE = 8;
const LEASE_MS = 4 * SEND_MS;
const ORPHAN_MS = 24 * 3_600_000;
export const ATTEMPTS_MAX = 12;

/** 5 s, 15 s, 45 s, ... at most an hour: together most of a night. */
export function backoffMs(attempt: number): number {
  return Math.min(5_000 * 3 ** Math.min(attempt - 1, 10), 3_600_000);
}

/** After how long to try again, or undefined when it is a dead letter now. */
export function retryInMs(attempt: number, sent: Extract<Sent, { ok: false }>): number | undefined {
  if (sent.final || attempt >= ATTEMPTS_MAX) return undefined;
  return Math.max(backoffMs(attempt), sent.retryAfterMs ?? 0);
}

export function startDeliverer(
  database: Database,
  notices: Notices,
  targets: readonly Target[],
  log: Logger,
): Deliverer {
  let stopped = false;
  const loop = (name: string, work: () => Promise<void>) =>
    startLoop({
      active: async () => [name],
      advance: work,
      onError: (error) => log.warn({ err: error }, 'notifications could not be looked at; trying again'),
      tickMs: TICK_MS,
    });
  // One that does not answer must keep nobody else waiting: each target has a loop of its own.
  const lanes = targets.map((target) => loop(target.name, () => deliverTo(database, target, log, () => stopped)));
  const handing = loop('outbox', async () => {
    await handOverDue(database, targets);
    for (const lane of lanes) lane.wake();
  });
  const silence = notices.on('notification', () => handing.wake());
  return {
    async stop() {
      stopped = true;
      silence();
      await Promise.all([handing, ...lanes].map((one) => one.stop()));
    },
  };
}

/** Hands over what is new and tries all that is due, once. */
export async function deliverDue(database: Database, targets: readonly Target[], log: Logger): Promise<void> {
  await handOverDue(database, targets);
  await Promise.all(targets.map((target) => deliverTo(database, target, log, () => false)));
}

async function handOverDue(database: Database, targets: readonly Target[]): Promise<void> {
  const wanting = ({ content, labels }: Parameters<Parameters<typeof handOver>[1]>[0]) => {
    const { event } = content;
    return event === 'test' ? [] : targets.filter((target) => wants(target, event, labels)).map(({ name }) => name);
  };
  // Where this controller has nobody to tell, another may.
  if (targets.length === 0) return;
  while ((await database.transaction((sql) => handOver(sql, wanting))) > 0);
  await giveUpOrphans(database, ORPHAN_MS);
}

/** Tries all that is due for one target; `stopping` ends it after what is in hand. */
async function deliverTo(database: Database, target: Target, log: Logger, stopping: () => boolean): Promise<void> {
  while (!stopping()) {
    const due = await database.transaction((sql) => leaseDue(sql, target.name, AT_ONCE, LEASE_MS));
    if (due.length === 0) return;
    await Promise.all(due.map((one) => deliver(database, target, one, log)));
  }
}

async function deliver(database: Database, target: Target, due: Due, log: Logger): Promise<void> {
  const sent = await send(target, { id: due.id, atMs: due.atMs, content: due.content });
  if (sent.ok) return markDelivered(database, due.id);
  const retry = retryInMs(due.attempts, sent);
  log.warn(
    { target: due.target, id: due.id, reason: sent.reason, retryInMs: retry },
    'a notification was not delivered',
  );
  await markFailed(database, due.id, sent.reason, retry);
}
