/** What a new run must be approved for, by the policies as they are when it is made. */
import { type Demand, demandOf, notificationOfWaitingRun, type Plan, personOf, type RunApproval } from '@kwfleet/core';
import { allPolicies, requestApproval } from '../store/approvals.ts';
import type { Sql } from '../store/database.ts';
import { notify } from '../store/notifications.ts';

/** What the policies ask of a cluster with these labels now. */
export const demandFor = async (sql: Sql, labels: Record<string, string>): Promise<Demand> =>
  demandOf(await allPolicies(sql), labels);

/** What a run of this plan must be approved for, or undefined when nothing is asked. */
export function approvalOfRun(
  plan: Plan,
  hash: string,
  demand: Demand,
  actor: string,
  nowMs: number,
): RunApproval | undefined {
  const { start } = demand;
  const irreversible = plan.steps.some((step) => step.irreversible === true) ? demand.irreversible : undefined;
  if (start === undefined && irreversible === undefined) return undefined;
  const asked = { ...(start && { start }), ...(irreversible && { irreversible }) };
  return { hash, requester: personOf(actor), requestedAtMs: nowMs, ...asked, given: [] };
}

/** Puts what a new run waits for on the list. */
export async function askForApproval(
  sql: Sql,
  run: string,
  clusterName: string,
  plan: Plan,
  approval: RunApproval,
): Promise<void> {
  const { hash, requester: by, start, irreversible } = approval;
  if (start !== undefined) {
    await notify(sql, notificationOfWaitingRun({ id: run, plan, clusterName, by }, start.approvers, hash));
  }
  const what = `${clusterName} to ${plan.to}`;
  if (start !== undefined) {
    await requestApproval(sql, {
      subject: subjectOf(run, 'start'),
      run,
      title: `upgrade ${what}`,
      hash,
      requirement: start,
      by,
    });
  }
  if (irreversible !== undefined) {
    const title = `first step that cannot be undone of ${what}`;
    await requestApproval(sql, {
      subject: subjectOf(run, 'irreversible'),
      run,
      title,
      hash,
      requirement: irreversible,
      by,
    });
  }
}

export const subjectOf = (run: string, scope: 'start' | 'irreversible') =>
  scope === 'start' ? `run:${run}` : `run:${run}/irreversible`;
