/**
 * What is kept for how long. The audit log and the history of runs that are kept are chains and stay whole: a run goes as a
 * whole, with everything of it, or not at all.
 */
import type { Logger } from 'pino';
import type { Database, Sql } from './store/database.ts';
import { LOCKS } from './store/locks.ts';

export type Retention = {
  /** Runs that ended, with history, output and report; 0: for ever. */
  readonly runsDays: number;
  /** What commands printed. */
  readonly outputDays: number;
  readonly healthDays: number;
  readonly notificationsDays: number;
  /** Plans that were never started. */
  readonly plansDays: number;
};

export const RETENTION: Retention = {
  runsDays: 0,
  outputDays: 180,
  healthDays: 90,
  notificationsDays: 90,
  plansDays: 30,
};

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
/** So much in one transaction: nobody waits for a long one. */
const ROWS_MAX = 1_000;

export type Housekeeping = { stop(): Promise<void> };

export function startHousekeeping(database: Database, retention: Retention, log: Logger): Housekeeping {
  let working: Promise<void> | undefined;
  const round = () => {
    working ??= keepHouse(database, retention)
      .then((removed) => {
        const told = Object.entries(removed).filter(([, count]) => count > 0);
        if (told.length > 0) log.info(Object.fromEntries(told), 'what is older than its time was removed');
      })
      .catch((error: unknown) => log.warn({ err: error }, 'old history could not be removed; trying again'))
      .finally(() => {
        working = undefined;
      });
  };
  const timer = setInterval(round, HOUR_MS);
  round();
  return {
    async stop() {
      clearInterval(timer);
      await working;
    },
  };
}

/** Removes what is older than its time; answers how many rows of each. A batch of each at most: the rest goes next hour. */
export async function keepHouse(database: Database, retention: Retention): Promise<Record<string, number>> {
  const alone = (work: (sql: Sql) => Promise<Record<string, number>>) =>
    database.transaction(async (sql): Promise<Record<string, number>> => {
      const [lock] = await sql.query<{ mine: boolean }>('SELECT pg_try_advisory_xact_lock($1) AS mine', [
        LOCKS.housekeeping,
      ]);
      return lock?.mine === true ? work(sql) : {};
    });
  const removed = await alone(async (sql) => ({
    output: await sql.execute(OLD_OUTPUT, [retention.outputDays * DAY_MS, ROWS_MAX]),
    health: await sql.execute(OLD_HEALTH, [retention.healthDays * DAY_MS, ROWS_MAX]),
    notifications: await sql.execute(OLD_NOTIFICATIONS, [retention.notificationsDays * DAY_MS, ROWS_MAX]),
    plans: await sql.execute(OLD_PLANS, [retention.plansDays * DAY_MS, ROWS_MAX]),
  }));
  if (retention.runsDays === 0) return { ...removed, runs: 0 };
  return {
    ...removed,
    ...(await alone(async (sql) => ({ runs: await removeRuns(sql, retention.runsDays * DAY_MS) }))),
  };
}

const ENDED = `('succeeded', 'failed', 'aborted')`;

const OLD_OUTPUT = `DELETE FROM action_output WHERE (action, position) IN (
  SELECT action, position FROM action_output JOIN runs ON runs.id = action_output.run
  WHERE at_ms < now_ms() - $1 AND status IN ${ENDED} LIMIT $2)`;

/** What was told of each last stays: since when it has been so is asked of it. */
const OLD_HEALTH = `DELETE FROM health_events WHERE seq IN (
  SELECT seq FROM health_events AS old WHERE at_ms < now_ms() - $1
    AND EXISTS (SELECT 1 FROM health_events AS newer WHERE newer.kind = old.kind AND newer.id = old.id AND newer.seq > old.seq)
  LIMIT $2)`;

const OLD_NOTIFICATIONS = `DELETE FROM notifications WHERE id IN (
  SELECT id FROM notifications WHERE at_ms < now_ms() - $1
    AND NOT EXISTS (SELECT 1 FROM deliveries WHERE notification = notifications.id AND status = 'pending') LIMIT $2)`;

const OLD_PLANS = `DELETE FROM plans WHERE id IN (
  SELECT id FROM plans WHERE created_at_ms < now_ms() - $1
    AND NOT EXISTS (SELECT 1 FROM runs WHERE plan_id = plans.id) LIMIT $2)`;

/** A few whole runs, and all that hangs on them; not those whose copies a cluster could be brought back from. */
async function removeRuns(sql: Sql, olderThanMs: number): Promise<number> {
  const rows = await sql.query<{ id: string }>(
    `SELECT id FROM runs WHERE status IN ${ENDED} AND (state ->> 'endedAtMs')::bigint < now_ms() - $1
       AND NOT EXISTS (SELECT 1 FROM backups WHERE backups.run = runs.id AND removed_at_ms IS NULL)
     ORDER BY created_at_ms LIMIT 20 FOR UPDATE SKIP LOCKED`,
    [olderThanMs],
  );
  const ids = rows.map(({ id }) => id);
  if (ids.length === 0) return 0;
  const of = [ids];
  await sql.execute('DELETE FROM action_output WHERE run = ANY ($1)', of);
  await sql.execute('DELETE FROM actions WHERE run = ANY ($1)', of);
  await sql.execute('DELETE FROM run_inputs WHERE run = ANY ($1)', of);
  await sql.execute('DELETE FROM run_events WHERE run = ANY ($1)', of);
  await sql.execute(
    'DELETE FROM approvals WHERE subject IN (SELECT subject FROM approval_requests WHERE run = ANY ($1))',
    of,
  );
  await sql.execute('DELETE FROM approval_requests WHERE run = ANY ($1)', of);
  // Of copies that their hosts removed.
  await sql.execute('DELETE FROM backups WHERE run = ANY ($1)', of);
  return sql.execute('DELETE FROM runs WHERE id = ANY ($1)', of);
}
