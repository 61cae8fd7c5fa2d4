/** The outbox: what people are to be told, for whom it is on its way, and what could not be delivered. */
import type { DeliveryView, Notification, Page } from '@kwfleet/core';
import type { Sql } from './database.ts';
import { newId } from './ids.ts';
import { CHANNELS } from './notices.ts';
import { type PageRequest, pageOf, positionOf, rowsFor } from './page.ts';

/** A hold that may end by itself is told once it has lasted so long. */
const SETTLE_MS = 60_000;
/** When so much waits for one target, something is wrong that more messages would not help: what comes is left out. */
const QUEUE_MAX = 10_000;

/** Puts a notification into the outbox. Call it in the transaction of what happened. */
export async function notify(sql: Sql, content: Notification): Promise<void> {
  const settleMs = content.heldSinceMs === undefined ? 0 : SETTLE_MS;
  await sql.execute(
    `INSERT INTO notifications (id, at_ms, content, run, due_at_ms) VALUES ($1, now_ms(), $2, $3, now_ms() + $4)`,
    [newId('notification'), JSON.stringify(content), content.run ?? null, settleMs],
  );
  await sql.execute('SELECT pg_notify($1, $2)', [CHANNELS.notification, '']);
}

/** What nobody was there to be told of for so long is history by now. */
const STALE_MS = 24 * 3_600_000;

export type Handing = {
  readonly id: string;
  readonly content: Notification;
  /** Of the clusters that it is about. */
  readonly labels: readonly Record<string, string>[];
};

/**
 * Hands what is due to the targets that want it, as `targetsOf` says. A hold that ended before it was due is told nobody.
 * Any number of controllers may do it: each notification is handed once.
 */
export async function handOver(sql: Sql, targetsOf: (handing: Handing) => readonly string[]): Promise<number> {
  const due = await sql.query<{ id: string; content: Notification; stale: boolean }>(
    `SELECT id, content, at_ms < now_ms() - ${STALE_MS} AS stale FROM notifications WHERE handed_at_ms IS NULL AND due_at_ms <= now_ms()
     ORDER BY due_at_ms LIMIT 100 FOR UPDATE SKIP LOCKED`,
  );
  for (const { id, content, stale } of due) {
    const wanted =
      stale || (await isOver(sql, content)) ? [] : targetsOf({ id, content, labels: await labelsOf(sql, content) });
    await sql.execute(
      `INSERT INTO deliveries (id, notification, target, status, due_at_ms, created_at_ms)
       SELECT $1 || '.' || wanted.target, $1, wanted.target, 'pending', now_ms(), now_ms()
       FROM unnest($2::text[]) AS wanted (target)
       WHERE (SELECT count(*) FROM deliveries WHERE status = 'pending' AND deliveries.target = wanted.target) < $3
       ON CONFLICT DO NOTHING`,
      [id, wanted, QUEUE_MAX],
    );
    await sql.execute('UPDATE notifications SET handed_at_ms = now_ms() WHERE id = $1', [id]);
  }
  return due.length;
}

async function isOver(sql: Sql, { run, heldSinceMs }: Notification): Promise<boolean> {
  if (heldSinceMs === undefined) return false;
  const [row] = await sql.query<{ sinceMs: number | null }>(
    `SELECT (state #>> '{hold,sinceMs}')::bigint AS "sinceMs" FROM runs WHERE id = $1`,
    [run],
  );
  return row?.sinceMs !== heldSinceMs;
}

async function labelsOf(sql: Sql, { clusters }: Notification): Promise<Record<string, string>[]> {
  const rows = await sql.query<{ labels: Record<string, string> }>('SELECT labels FROM clusters WHERE id = ANY ($1)', [
    clusters,
  ]);
  return rows.map(({ labels }) => labels);
}

export type Due = {
  readonly id: string;
  readonly target: string;
  readonly attempts: number;
  readonly notification: string;
  readonly atMs: number;
  readonly content: Notification;
};

/** Leases what is due for this target; another controller may take it once `leaseMs` are over. */
export async function leaseDue(sql: Sql, target: string, most: number, leaseMs: number): Promise<Due[]> {
  return sql.query<Due>(
    `UPDATE deliveries SET leased_until_ms = now_ms() + $3, attempts = attempts + 1 FROM notifications
     WHERE notifications.id = deliveries.notification AND deliveries.id IN (
       SELECT id FROM deliveries WHERE status = 'pending' AND due_at_ms <= now_ms() AND leased_until_ms <= now_ms()
         AND target = $1 ORDER BY due_at_ms LIMIT $2 FOR UPDATE SKIP LOCKED)
     RETURNING deliveries.id, target, attempts, notification, notifications.at_ms AS "atMs", content`,
    [target, most, leaseMs],
  );
}

export async function markDelivered(sql: Sql, id: string): Promise<void> {
  await sql.execute(
    `UPDATE deliveries SET status = 'delivered', ended_at_ms = now_ms(), leased_until_ms = 0, last_error = NULL
     WHERE id = $1 AND status = 'pending'`,
    [id],
  );
}

/** `retryInMs` undefined: it is given up, and lies with the dead letters. */
export async function markFailed(sql: Sql, id: string, error: string, retryInMs: number | undefined): Promise<void> {
  await sql.execute(
    `UPDATE deliveries SET last_error = $2, leased_until_ms = 0, due_at_ms = now_ms() + coalesce($3, 0),
       status = CASE WHEN $3::bigint IS NULL THEN 'dead' ELSE 'pending' END,
       ended_at_ms = CASE WHEN $3::bigint IS NULL THEN now_ms() END
     WHERE id = $1 AND status = 'pending'`,
    [id, error.slice(0, 1_000), retryInMs ?? null],
  );
}

/** What waits for a target that no controller has had for so long is given up, so that somebody sees it. */
export async function giveUpOrphans(sql: Sql, olderThanMs: number): Promise<void> {
  await sql.execute(
    `UPDATE deliveries SET status = 'dead', ended_at_ms = now_ms(),
       last_error = coalesce(last_error, 'no controller has this target in its configuration')
     WHERE status = 'pending' AND created_at_ms < now_ms() - $1`,
    [olderThanMs],
  );
}

/** Tries a dead letter again, from the beginning. False when there is none of this id. */
export async function resend(sql: Sql, id: string): Promise<boolean> {
  const changed = await sql.execute(
    `UPDATE deliveries SET status = 'pending', attempts = 0, due_at_ms = now_ms(), created_at_ms = now_ms(), ended_at_ms = NULL
     WHERE id = $1 AND status = 'dead'`,
    [id],
  );
  if (changed > 0) await sql.execute('SELECT pg_notify($1, $2)', [CHANNELS.notification, '']);
  return changed > 0;
}

export async function countDeliveries(sql: Sql): Promise<{ status: string; count: number }[]> {
  return sql.query<{ status: string; count: number }>(
    'SELECT status, count(*) AS count FROM deliveries GROUP BY status',
  );
}

type Row = Omit<DeliveryView, 'lastError' | 'endedAtMs'> & { lastError: string | null; endedAtMs: number | null };
const SELECT = `SELECT deliveries.id, notification, target, status, attempts, last_error AS "lastError",
  created_at_ms AS "createdAtMs", ended_at_ms AS "endedAtMs", content ->> 'event' AS event, content ->> 'title' AS title
  FROM deliveries JOIN notifications ON notifications.id = deliveries.notification`;
const view = ({ lastError, endedAtMs, ...row }: Row): DeliveryView => ({
  ...row,
  ...(lastError !== null && { lastError }),
  ...(endedAtMs !== null && { endedAtMs }),
});

/** Newest first; of one status, or all. */
export async function listDeliveries(
  sql: Sql,
  request: PageRequest & { status?: DeliveryView['status'] | undefined },
): Promise<Page<DeliveryView>> {
  const rows = await sql.query<Row>(
    `${SELECT} WHERE (created_at_ms, deliveries.id) < ($1, $2) AND ($4::text IS NULL OR status = $4)
     ORDER BY created_at_ms DESC, deliveries.id DESC LIMIT $3`,
    [...positionOf(request.cursor), rowsFor(request), request.status ?? null],
  );
  return pageOf(rows, request, (row) => [row.createdAtMs, row.id], view);
}

/** What was sent about a run, for its report. */
export async function deliveriesOfRun(sql: Sql, run: string): Promise<DeliveryView[]> {
  const rows = await sql.query<Row>(`${SELECT} WHERE run = $1 ORDER BY created_at_ms, deliveries.id LIMIT 1000`, [run]);
  return rows.map(view);
}

/** What was sent about a rollout itself; its runs have their own. */
export async function deliveriesOfRollout(sql: Sql, rollout: string): Promise<DeliveryView[]> {
  const rows = await sql.query<Row>(
    `${SELECT} WHERE content ->> 'rollout' = $1 ORDER BY created_at_ms, deliveries.id LIMIT 1000`,
    [rollout],
  );
  return rows.map(view);
}
