import type { TimedStep } from '@kwfleet/core';
import type { Sql } from './database.ts';

/** Runs that are looked at: those of the cluster first, then the newest of others. */
const RUNS = 50;

/**
 * What the steps of earlier runs took that succeeded; `own` for those of this cluster. A witness without what its plan had
 * it sit out: another plan's soak is another.
 */
export async function timedSteps(sql: Sql, cluster: string): Promise<TimedStep[]> {
  const rows = await sql.query<{ kind: string; own: boolean; ms: string | number; sat_out_ms: string | number }>(
    `SELECT split_part(step.key, ':', 1) AS kind, run.own, run.sat_out_ms,
       (step.value ->> 'endedAtMs')::bigint - (step.value ->> 'startedAtMs')::bigint AS ms
     FROM (SELECT cluster = $1 AS own, state,
               (plan #>> '{options,soakMs}')::bigint + (plan #>> '{options,sampleGapMs}')::bigint AS sat_out_ms
             FROM runs WHERE status = 'succeeded'
             ORDER BY cluster = $1 DESC, created_at_ms DESC LIMIT ${RUNS}) AS run,
       jsonb_each(run.state -> 'steps') AS step
     WHERE step.value ->> 'status' = 'succeeded' AND step.value ? 'endedAtMs' AND step.value ? 'startedAtMs'`,
    [cluster],
  );
  return rows.map(({ kind, own, ms, sat_out_ms: satOutMs }) => ({
    kind,
    own,
    ms: Math.max(0, Number(ms) - (kind === 'witness' ? Number(satOutMs) : 0)),
  }));
}
