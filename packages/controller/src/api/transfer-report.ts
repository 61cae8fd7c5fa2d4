/** The part of a run's report that only a transfer has: every table, and how it was compared. */
import { stepPart, type TableDigest, unitOf } from '@kwfleet/core';
import type { RunRow } from '../store/runs.ts';

export const TABLE_HEAD = ['Table', 'Rows', 'Compared', 'SHA-256 of the samples', 'Result'] as const;

/** A row a table, in the plan's order; none for another kind of plan. */
export function tableRows({ plan, steps }: { plan: RunRow['plan']; steps: RunRow['state']['steps'] }): string[][] {
  const { transfer } = plan;
  if (transfer === undefined) return [];
  return plan.steps
    .filter(({ kind }) => kind === 'compare')
    .flatMap((step) => {
      const part = stepPart(step.id);
      const unit = unitOf(transfer, step.id);
      const exported = plan.steps.find(({ id, kind }) => kind === 'export' && stepPart(id) === part);
      const counted = exported === undefined ? undefined : steps[exported.id]?.result?.transfer;
      const status = steps[step.id]?.status;
      return (unit?.tables ?? []).map(({ schema, table }) => {
        const digest = counted?.digests.find((one) => one.schema === schema && one.table === table);
        return [
          `${unit?.database}.${schema}.${table}`,
          ...numbers(digest),
          status === 'succeeded' ? 'equal' : `not yet: ${status}`,
        ];
      });
    });
}

const numbers = (digest: TableDigest | undefined): string[] =>
  digest === undefined ? ['', '', ''] : [String(digest.rows), `${digest.sampledRows} rows`, digest.sha256];
