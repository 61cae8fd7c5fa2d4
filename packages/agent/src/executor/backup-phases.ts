/** The phases about backups: look whether the database is as the phase needs it, then do. */
import { FleetError, judgeStopped, type NodeReport } from '@kwfleet/core';
import type { ActionRun } from './action-run.ts';
import { isConverted } from './phases.ts';

export async function prepareBackup(run: ActionRun): Promise<void> {
  await run.parts.backups.prepare(run.action, await run.observe(), run.watch);
}

/** A copy of a running database would be of no moment at all; the operator's command is run while it serves. */
export async function backUp(run: ActionRun): Promise<void> {
  await run.parts.driver.quiesce(run.action, run.watch);
  const report = await run.observe();
  if (run.action.backup !== 'command') {
    requireStopped(report, 'copied');
    // A copy of what the new version has opened would bring nothing back.
    if (isConverted(run, report)) {
      run.watch.detail(`${run.action.to} has run on the data: the copy that was made before stands`);
      return;
    }
  }
  await run.parts.backups.make(run.action, report, run.watch);
}

export async function checkBackup(run: ActionRun): Promise<void> {
  await run.parts.backups.check(run.action, await run.observe(), run.watch);
}

export async function restore(run: ActionRun): Promise<void> {
  await run.parts.driver.quiesce(run.action, run.watch);
  const before = await run.observe();
  requireStopped(before, 'restored');
  await run.parts.backups.stage(run.action, before, run.watch);
  // Staging takes as long as the data are large: somebody, or something, may have started the database meanwhile.
  const report = await run.observe();
  requireStopped(report, 'restored');
  await run.deed('restore', report);
  await run.parts.backups.restore(run.action, report, run.watch);
  await run.record({ type: 'data-replaced', action: run.action.id });
  await run.parts.driver.restored?.(run.action, run.watch);
  requireStopped(await run.observe(), 'restored');
}

export async function putDataBack(run: ActionRun): Promise<void> {
  await run.parts.driver.quiesce(run.action, run.watch);
  const report = await run.observe();
  requireStopped(report, 'put back');
  run.fence('put-data-back');
  await run.parts.backups.putBack(run.action, report, run.watch);
  await run.record({ type: 'data-replaced', action: run.action.id });
}

export async function discardReplaced(run: ActionRun): Promise<void> {
  await run.parts.backups.discard(run.action, await run.observe(), run.watch);
}

function requireStopped(report: NodeReport, what: string): void {
  const running = judgeStopped(report)[0];
  if (running === undefined) return;
  throw new FleetError('DEPLOY_STILL_RUNNING', `nothing is ${what} while the database runs: ${running.message}`);
}
