/** Runs as people see them: made, listed, asked to pause. What the runner does to them is in run-store.ts. */
import {
  chainedRecord,
  FleetError,
  firstBroken,
  type Hold,
  type Page,
  type Plan,
  type RunEvent,
  type RunState,
  readState,
  type StepTimes,
} from '@kwfleet/core';
import type { ApprovalInput, RunRequestKind } from '../runner/run-store.ts';
import { type Sql, violates } from './database.ts';
import { CHANNELS } from './notices.ts';
import { type PageRequest, pageOf, positionOf, rowsFor } from './page.ts';

export type RunRow = {
  readonly id: string;
  readonly cluster: string;
  readonly clusterName: string;
  readonly planId: string;
  readonly planHash: string;
  readonly plan: Plan;
  readonly state: RunState;
  readonly eventSeq: number;
  /** Of the last event of its history. */
  readonly eventHash: string;
  readonly outputSeq: number;
  readonly createdAtMs: number;
  readonly createdBy: string;
};

export type RunEventRow = {
  readonly seq: number;
  readonly atMs: number;
  readonly event: RunEvent;
  readonly prevHash: string;
  readonly hash: string;
};

export type OutputRow = {
  readonly seq: number;
  readonly atMs: number;
  readonly action: string;
  readonly step: string;
  readonly node: string;
  readonly position: number;
  readonly text: string;
};

const SELECT = `SELECT runs.id, runs.cluster, clusters.name AS "clusterName", plan_id AS "planId", plan_hash AS "planHash",
  plan, state, event_seq AS "eventSeq", event_hash AS "eventHash", output_seq AS "outputSeq", created_at_ms AS "createdAtMs",
  created_by AS "createdBy" FROM runs JOIN clusters ON clusters.id = runs.cluster`;

/**
 * Throws RUN_ACTIVE when the cluster has a run that is not ended, when a transfer reads it, or when the run is a
 * transfer and its source has a run. Call it in a transaction.
 */
export async function insertRun(
  sql: Sql,
  run: {
    id: string;
    planId: string;
    planHash: string;
    plan: Plan;
    state: RunState;
    /** Where windows reckon with what earlier runs took. */
    stepTimes?: StepTimes | undefined;
    by: string;
    rollout?: string | undefined;
  },
): Promise<void> {
  const source = run.plan.transfer?.source.cluster;
  await refuseBusy(sql, run.plan.cluster, source);
  try {
    await sql.execute(
      `INSERT INTO runs (id, cluster, plan_id, plan, plan_hash, state, status, created_at_ms, created_by, source, rollout, step_times)
       VALUES ($1, $2, $3, $4, $5, $6, $7, now_ms(), $8, $9, $10, $11)`,
      [
        run.id,
        run.plan.cluster,
        run.planId,
        JSON.stringify(run.plan),
        run.planHash,
        JSON.stringify(run.state),
        run.state.status,
        run.by,
        source ?? null,
        run.rollout ?? null,
        run.stepTimes === undefined ? null : JSON.stringify(run.stepTimes),
      ],
    );
  } catch (error) {
    if (!violates(error, 'runs_one_active')) throw error;
    throw new FleetError('RUN_ACTIVE', `cluster ${run.plan.cluster} has a run that is not ended`, { cause: error });
  }
  await sql.execute('SELECT pg_notify($1, $2)', [CHANNELS.run, run.id]);
}

/** Under the locks of both clusters, so that of two runs begun at once the second sees the first. */
async function refuseBusy(sql: Sql, cluster: string, source: string | undefined): Promise<void> {
  const clusters = source === undefined ? [cluster] : [cluster, source];
  await sql.execute('SELECT 1 FROM clusters WHERE id = ANY ($1) ORDER BY id FOR UPDATE', [clusters]);
  const [busy] = await sql.query<{ id: string; cluster: string }>(
    `SELECT id, CASE WHEN source = $1 THEN source ELSE cluster END AS cluster FROM runs
     WHERE status NOT IN ('succeeded', 'failed', 'aborted') AND (source = $1 OR cluster = $2) LIMIT 1`,
    [cluster, source ?? null],
  );
  if (busy === undefined) return;
  const what = busy.cluster === cluster ? 'reads it, and is not ended' : 'of it is not ended';
  throw new FleetError('RUN_ACTIVE', `cluster ${busy.cluster}: run ${busy.id} ${what}`);
}

export async function findRun(sql: Sql, id: string): Promise<RunRow | undefined> {
  const [row] = await sql.query<RunRow>(`${SELECT} WHERE runs.id = $1`, [id]);
  return row && current(row);
}

export async function listRuns(
  sql: Sql,
  request: PageRequest & { cluster?: string | undefined },
): Promise<Page<RunRow>> {
  const rows = await sql.query<RunRow>(
    `${SELECT} WHERE (created_at_ms, runs.id) < ($1, $2) AND ($3::text IS NULL OR runs.cluster = $3)
     ORDER BY created_at_ms DESC, runs.id DESC LIMIT $4`,
    [...positionOf(request.cursor), request.cluster ?? null, rowsFor(request)],
  );
  return pageOf(rows, request, (row) => [row.createdAtMs, row.id], current);
}

const current = (row: RunRow): RunRow => ({ ...row, state: readState(row.state, row.plan) });

/** The runs that are not ended, by cluster: its own, or one that reads it. */
export async function activeRunsByCluster(sql: Sql): Promise<Map<string, string>> {
  const rows = await sql.query<{ cluster: string; id: string }>(
    `SELECT source AS cluster, id FROM runs WHERE source IS NOT NULL AND status NOT IN ('succeeded', 'failed', 'aborted')
     UNION ALL SELECT cluster, id FROM runs WHERE status NOT IN ('succeeded', 'failed', 'aborted')`,
  );
  return new Map(rows.map(({ cluster, id }) => [cluster, id]));
}

export async function countRuns(sql: Sql): Promise<{ status: string; count: number }[]> {
  return sql.query<{ status: string; count: number }>('SELECT status, count(*) AS count FROM runs GROUP BY status');
}

export async function statusOfRuns(sql: Sql, runs: readonly string[]): Promise<Map<string, string>> {
  if (runs.length === 0) return new Map();
  const rows = await sql.query<{ id: string; status: string }>('SELECT id, status FROM runs WHERE id = ANY ($1)', [
    runs,
  ]);
  return new Map(rows.map(({ id, status }) => [id, status]));
}

export type ActiveRun = {
  readonly hold: Hold | null;
  readonly approvalSinceMs: number | null;
  /** How many steps have each status. */
  readonly steps: Readonly<Record<string, number>>;
};

/** Of the runs that are not ended: why they are held, since when they wait for approval, and how far they are. */
export async function holdsAndWaits(sql: Sql): Promise<ActiveRun[]> {
  return sql.query<ActiveRun>(
    `SELECT state -> 'hold' AS hold,
       CASE WHEN status = 'awaiting_approval' THEN coalesce((state #>> '{approval,requestedAtMs}')::bigint, created_at_ms) END AS "approvalSinceMs",
       (SELECT jsonb_object_agg(status, count) FROM (
          SELECT step.value ->> 'status' AS status, count(*) AS count FROM jsonb_each(state -> 'steps') AS step GROUP BY 1
        ) AS counted) AS steps
     FROM runs WHERE status NOT IN ('succeeded', 'failed', 'aborted')`,
  );
}

type NewInput =
  | {
      readonly type: 'request';
      readonly body: { readonly request: RunRequestKind; readonly by: string } | ApprovalInput;
    }
  | { readonly type: 'result' | 'progress'; readonly action: string; readonly body: object };

/** Stores what reaches a run from outside, numbered under the run's own lock, and wakes whoever runs it. */
export async function insertInput(sql: Sql, run: string, input: NewInput): Promise<void> {
  await sql.execute(
    `WITH counted AS (UPDATE runs SET input_seq = input_seq + 1 WHERE id = $1 RETURNING input_seq)
     INSERT INTO run_inputs (run, seq, at_ms, type, action, body) SELECT $1, input_seq, now_ms(), $2, $3, $4 FROM counted`,
    [run, input.type, 'action' in input ? input.action : null, JSON.stringify(input.body)],
  );
  await sql.execute('SELECT pg_notify($1, $2)', [CHANNELS.run, run]);
}

export async function eventsAfter(sql: Sql, run: string, seq: number, limit: number): Promise<RunEventRow[]> {
  return sql.query<RunEventRow>(
    `SELECT seq, at_ms AS "atMs", event, prev_hash AS "prevHash", hash FROM run_events
     WHERE run = $1 AND seq > $2 ORDER BY seq LIMIT $3`,
    [run, seq, limit],
  );
}

export async function outputAfter(sql: Sql, run: string, seq: number, limit: number): Promise<OutputRow[]> {
  return sql.query<OutputRow>(
    `SELECT seq, at_ms AS "atMs", action_output.action, step, node, position, text
     FROM action_output JOIN actions ON actions.id = action_output.action
     WHERE action_output.run = $1 AND seq > $2 ORDER BY seq LIMIT $3`,
    [run, seq, limit],
  );
}

/** How much output was stored before the event `seq` was: where to resume when only the event is known. */
export async function outputSeqAt(sql: Sql, run: string, seq: number): Promise<number> {
  const [row] = await sql.query<{ seq: number }>(
    `SELECT coalesce(max(seq), 0) AS seq FROM action_output
     WHERE run = $1 AND at_ms <= (SELECT at_ms FROM run_events WHERE run = $1 AND seq = $2)`,
    [run, seq],
  );
  return row?.seq ?? 0;
}

/** The seq of the first event that was altered, left out or put in; undefined when the history is whole. */
export async function verifyHistory(sql: Sql, run: string): Promise<number | undefined> {
  const events = await eventsAfter(sql, run, 0, Number.MAX_SAFE_INTEGER);
  const [row] = await sql.query<{ seq: number; hash: string }>(
    'SELECT event_seq AS seq, event_hash AS hash FROM runs WHERE id = $1',
    [run],
  );
  const broken = firstBroken(events, chainedRecord(run));
  // The run's own row knows the end: a history that lacks its last events is not whole either.
  if (broken === undefined && (events.at(-1)?.hash ?? '') !== row?.hash) return (events.at(-1)?.seq ?? 0) + 1;
  return broken;
}
