/** Plans: made once, never changed. */
import type { CheckResult, Page, Plan, PlanRequest, TransferRequest } from '@kwfleet/core';
import type { Sql } from './database.ts';
import { type PageRequest, pageOfRows, positionOf, rowsFor } from './page.ts';

export type PlanRow = {
  readonly id: string;
  readonly cluster: string;
  /** Empty when the checks did not get far enough to make a plan. */
  readonly hash: string;
  readonly plan: Plan | null;
  readonly checks: readonly CheckResult[];
  readonly blocked: boolean;
  /** What was asked for: the same question is put again before a run starts. */
  readonly request: PlanRequest | TransferRequest;
  readonly createdAtMs: number;
  readonly createdBy: string;
};

const SELECT = `SELECT id, cluster, hash, plan, checks, blocked, request, created_at_ms AS "createdAtMs",
  created_by AS "createdBy" FROM plans`;

export async function insertPlan(sql: Sql, row: PlanRow): Promise<void> {
  await sql.execute(
    `INSERT INTO plans (id, cluster, hash, plan, checks, blocked, request, created_at_ms, created_by)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
    [
      row.id,
      row.cluster,
      row.hash,
      row.plan && JSON.stringify(row.plan),
      JSON.stringify(row.checks),
      row.blocked,
      JSON.stringify(row.request),
      row.createdAtMs,
      row.createdBy,
    ],
  );
}

export async function findPlan(sql: Sql, id: string): Promise<PlanRow | undefined> {
  return (await sql.query<PlanRow>(`${SELECT} WHERE id = $1`, [id]))[0];
}

export async function listPlans(sql: Sql, request: PageRequest): Promise<Page<PlanRow>> {
  const rows = await sql.query<PlanRow>(
    `${SELECT} WHERE (created_at_ms, id) < ($1, $2) ORDER BY created_at_ms DESC, id DESC LIMIT $3`,
    [...positionOf(request.cursor), rowsFor(request)],
  );
  return pageOfRows(rows, request);
}
