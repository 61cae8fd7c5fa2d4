/** What becomes of a node whose action failed: left alone, put back to the version before, or handed to a person. */
import {
  type ActionFailure,
  type Disposition,
  type ErrorCode,
  FleetError,
  judgeInstalled,
  judgeServing,
  type Phase,
} from '@kwfleet/core';
import { DeadlineError, Stopping } from '../driver/driver.ts';
import { BACK_OUT } from '../journal/records.ts';
import type { ActionRun } from './action-run.ts';
import { putDataBack } from './backup-phases.ts';
import {
  assureSpare,
  hasTargetStarted,
  isActive,
  isSameProcess,
  noteStarted,
  putBack,
  start,
  stop,
  verify,
} from './phases.ts';

export type Settlement = { readonly disposition: Disposition; readonly failure: ActionFailure };

const DEADLINE_CODES: Readonly<Record<Phase, ErrorCode>> = {
  fetch: 'FETCH_FAILED',
  check: 'HEALTH_UNKNOWN',
  interlock: 'INTERLOCK_REFUSED',
  drain: 'DRAIN_FAILED',
  stop: 'STOP_FAILED',
  install: 'INSTALL_TIMEOUT',
  'install-online': 'INSTALL_TIMEOUT',
  start: 'START_FAILED',
  verify: 'VERIFY_TIMEOUT',
  witness: 'VERIFY_TIMEOUT',
  'put-back': 'ROLLBACK_FAILED',
  'restore-settings': 'KWBASE_FAILED',
  export: 'TRANSFER_EXPORT_FAILED',
  import: 'TRANSFER_IMPORT_FAILED',
  compare: 'KWBASE_FAILED',
  recreate: 'KWBASE_FAILED',
  'prepare-backup': 'BACKUP_FAILED',
  'back-up': 'BACKUP_FAILED',
  'check-backup': 'BACKUP_DAMAGED',
  restore: 'RESTORE_FAILED',
  'put-data-back': 'RESTORE_FAILED',
  'discard-replaced': 'RESTORE_FAILED',
};

/** The failure an error of a phase stands for. Stopping is no failure: it must not come here. */
export function failureOf(error: unknown, phase: Phase, run: ActionRun): ActionFailure {
  if (error instanceof FleetError) {
    const words = error.words === undefined ? {} : { words: error.words };
    return { code: error.code, message: error.message, phase, ...words };
  }
  if (error instanceof DeadlineError) {
    const wrong = run.lastFinding?.code === 'VERIFY_WRONG_VERSION' && (phase === 'verify' || phase === 'witness');
    return { code: wrong ? 'VERIFY_WRONG_VERSION' : DEADLINE_CODES[phase], message: error.message, phase };
  }
  if ((error as NodeJS.ErrnoException).code === 'ENOSPC') {
    return { code: 'DISK_FULL', message: `no space left on this host: ${(error as Error).message}`, phase };
  }
  return { code: 'INTERNAL', message: error instanceof Error ? error.message : String(error), phase };
}

/** Failures after which nobody touches the host again without a person's decision. */
function needsPerson(run: ActionRun, failure: ActionFailure): boolean {
  const { entry, action } = run;
  if (entry.newVersionStarted || action.phases.includes('put-back')) return true;
  // deploy.sh may still be at work: it is not killed in the hope that the other way works better.
  return failure.code === 'EPOCH_STALE' || failure.code === 'INSTALL_TIMEOUT';
}

/**
 * Brings a failed action to an end. The version before is installed and started again only while the new one never
 * started on the data, and only what this action itself took down is started.
 */
export async function settle(
  run: ActionRun,
  failure: ActionFailure,
  step: (phase: Phase, work: (run: ActionRun) => Promise<void>) => Promise<void>,
): Promise<Settlement> {
  if (run.entry.deeds.length === 0) return { disposition: 'untouched', failure };
  // A transfer never touches the installation; what it left in the target is this run's to drop, when it is retried.
  if (run.action.transfer !== undefined) return { disposition: 'broken', failure };
  if (!hasBegun(run)) {
    if (run.entry.deeds.includes('install-online')) await noteStarted(run);
    if (await isStillAtWork(run, failure)) {
      return {
        disposition: 'broken',
        failure: told(failure, 'a command of the order is still at work, and left alone'),
      };
    }
  }
  const restored = run.entry.deeds.includes('restore') && failure.code !== 'EPOCH_STALE';
  if (!restored && needsPerson(run, failure)) return { disposition: 'broken', failure };
  try {
    if (restored) return await undoRestore(failure, step);
    return await backOut(run, failure, step);
  } catch (error) {
    if (error instanceof Stopping) throw error;
    const second = failureOf(error, 'put-back', run);
    const what = restored ? 'what was there before the restore' : run.action.from;
    const message = `${failure.message}; and ${what} could not be put back: ${second.message}`;
    const words = [failure.words, second.words].filter((text) => text !== undefined).join('\n');
    return {
      disposition: 'broken',
      failure: { code: 'ROLLBACK_FAILED', message, phase: failure.phase, ...(words === '' ? {} : { words }) },
    };
  }
}

/** Whether an earlier agent process was on the way back already: what runs, or not, is its own work since. */
function hasBegun({ entry }: ActionRun): boolean {
  return entry.phases.some(({ index }) => index === BACK_OUT);
}

/** A copy that does not end only reads: nothing is exchanged beside it, and the database is wanted back. */
const ONLY_READ: ReadonlySet<Phase> = new Set(['prepare-backup', 'back-up', 'check-backup']);

/**
 * Whether what the order began may still be changing the host: what is not known counts as yes. The way back is not
 * gone beside it, nor is it killed in the hope that the other way works better.
 */
async function isStillAtWork({ parts, action }: ActionRun, { phase }: ActionFailure): Promise<boolean> {
  if (ONLY_READ.has(phase)) return false;
  return parts.driver.isAtWork(action).catch(() => true);
}

/** A restore that failed leaves the node as it found it: stopped, with its own data. */
async function undoRestore(
  failure: ActionFailure,
  step: (phase: Phase, work: (run: ActionRun) => Promise<void>) => Promise<void>,
): Promise<Settlement> {
  await step('put-data-back', putDataBack);
  return {
    disposition: 'backed-out',
    failure: told(failure, 'what was there before the restore is in its place again'),
  };
}

async function backOut(
  run: ActionRun,
  failure: ActionFailure,
  step: (phase: Phase, work: (run: ActionRun) => Promise<void>) => Promise<void>,
): Promise<Settlement> {
  const { action, entry } = run;
  const report = await run.observe();
  if (hasTargetStarted(run, report)) {
    await run.recordTargetStarted();
    return { disposition: 'broken', failure };
  }
  const installed = judgeInstalled(report, action.from).length === 0;
  const serving = judgeServing(report, action.from, {}).length === 0;
  if (serving && isSameProcess(report, entry.mark)) return { disposition: 'untouched', failure };
  if (isActive(report) && !serving) {
    await step('stop', async () => {
      await assureSpare(run);
      await stop(run);
    });
  }
  if (!installed) await step('put-back', putBack);
  if (!startsAgain(run)) return { disposition: 'backed-out', failure: told(failure, `${action.from} is installed`) };
  await step('start', () => start(run, action.from));
  // The process from before may be the one that serves: a stop that failed left it alone.
  await step('verify', () => verify(run, action.from, {}));
  return { disposition: 'backed-out', failure: told(failure, `${action.from} is installed and serves again`) };
}

/** An action that was not to start the database leaves that to the controller: a single-replica cluster's barriers. */
function startsAgain({ action }: ActionRun): boolean {
  return action.phases.includes('start') || action.phases.includes('install-online');
}

function told(failure: ActionFailure, what: string): ActionFailure {
  return { ...failure, message: `${failure.message.replace(/[:;,.\s]+$/, '')}; ${what}` };
}
