import { FleetError, judgeHost, type NodeReport } from '@kwfleet/core';
import type { ActionRun } from './action-run.ts';

/**
 * Throws the first thing on this host that would keep the node from coming back as it should, before it is taken down:
 * an expired certificate, a full disk. Between the plan and its last node there may be days. Not asked on the way back,
 * nor once something was touched: then bringing the node back matters more.
 */
export function assureHostReady(run: ActionRun, report: NodeReport): void {
  const { action, entry } = run;
  if (entry.deeds.length > 0 || action.phases.includes('put-back')) return;
  const [first] = judgeHost({ node: action.node, report }, action.package);
  if (first !== undefined) throw new FleetError(first.code, first.message, { node: action.node });
}
