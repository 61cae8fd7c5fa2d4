/**
 * What each phase does: look whether it is true already, journal, do, look again. "True" is always asked of the
 * core's judgements over a fresh observation, never of an exit code.
 */
import {
  type Finding,
  FleetError,
  isOlder,
  judgeInstalled,
  judgeRejoined,
  judgeServing,
  judgeSpare,
  judgeStopped,
  type LedgerEntry,
  type NodeReport,
  type Phase,
  type ProcessMark,
  sameVersion,
} from '@kwfleet/core';
import { DeadlineError, Stopping } from '../driver/driver.ts';
import type { Mark } from '../journal/records.ts';
import type { Transfers } from '../transfer/transfers.ts';
import { type ActionRun, installationOf } from './action-run.ts';
import { backUp, checkBackup, discardReplaced, prepareBackup, putDataBack, restore } from './backup-phases.ts';
import { assureHostReady } from './host-ready.ts';

/** An interlock older than this is asked again right before the node is stopped. */
const SPARE_VALID_MS = 5000;
/** A soak tells how long it still takes this often. */
const SOAK_TOLD_EVERY_MS = 5000;
/** So many looks in a row must see the service ended before a start counts as failed. */
const ENDED_LOOKS = 3;
/** So many looks an installation gets to show what deploy.sh left, once it has ended. */
const SETTLE_LOOKS = 3;

export const PHASES: Readonly<Record<Phase, (run: ActionRun) => Promise<void>>> = {
  fetch: (run) => run.parts.driver.fetch(run.action, run.watch),
  check,
  interlock,
  drain,
  stop,
  install,
  'install-online': installOnline,
  start: (run) => start(run, targetOf(run)),
  verify: (run) => verify(run, targetOf(run)),
  witness,
  'put-back': putBack,
  'restore-settings': restoreSettings,
  export: (run) => transfersOf(run).export(run),
  import: (run) => transfersOf(run).import(run),
  compare: (run) => transfersOf(run).compare(run),
  recreate: (run) => transfersOf(run).recreate(run),
  'prepare-backup': prepareBackup,
  'back-up': backUp,
  'check-backup': checkBackup,
  restore,
  'put-data-back': putDataBack,
  'discard-replaced': discardReplaced,
};

function transfersOf({ parts }: ActionRun): Transfers {
  if (parts.transfers === undefined) throw new FleetError('METHOD_UNSUPPORTED', 'this agent transfers nothing');
  return parts.transfers;
}

export const TITLES: Readonly<Record<Phase, string>> = {
  fetch: 'bringing the package to this host',
  check: 'asking the database how the cluster is',
  interlock: 'making sure that the cluster can spare this node',
  drain: 'draining the node',
  stop: 'stopping the database',
  install: 'installing the package',
  'install-online': 'upgrading the running node',
  start: 'starting the database',
  verify: 'waiting for the node to serve',
  witness: 'watching the node come back from here',
  'put-back': 'putting the version before back',
  'restore-settings': 'putting cluster settings back',
  export: 'exporting',
  import: 'importing',
  compare: 'comparing with the source',
  recreate: 'making databases, users, privileges or settings',
  'prepare-backup': 'seeing whether a backup can be made',
  'back-up': 'making the backup',
  'check-backup': 'reading the backup again',
  restore: 'putting the backup in place',
  'put-data-back': 'putting back what was there before the restore',
  'discard-replaced': 'removing what the restore replaced',
};

/** An action that puts back starts and verifies the version before. */
function targetOf(run: ActionRun): string {
  return run.action.phases.includes('put-back') ? run.action.from : run.action.to;
}

export function isActive(report: NodeReport): boolean {
  const active = report.installation?.unit.active;
  return active === 'active' || active === 'activating' || active === 'deactivating' || report.serving;
}

/** Whether the process that ran before the first deed still runs. */
export function isSameProcess(report: NodeReport, mark: Mark | null): boolean {
  const unit = report.installation?.unit;
  if (mark?.pid === undefined || unit === undefined) return false;
  return unit.mainPid === mark.pid && unit.startedAtMs === mark.startedAtMs;
}

async function check(run: ActionRun): Promise<void> {
  await run.until(async () => (await run.askHealth('all')).findings);
}

async function interlock(run: ActionRun): Promise<void> {
  const { kwdbId, others, attempt } = run.action;
  const report = await run.observe();
  // A node that an earlier attempt took down can only be brought back by going on: nothing is taken down by it.
  if (!isActive(report) && (attempt > 1 || run.entry.deeds.length > 0)) return;
  await run.until(async () => {
    const { health, findings } = await run.askHealth('ranges');
    if (health === undefined) return findings;
    if (health.view.kwdbId !== kwdbId) return [unknown(`this node does not answer as node ${kwdbId}`)];
    return judgeSpare(health, [kwdbId, ...others]);
  });
  run.sparedAtMs = run.parts.clock.elapsed();
}

/**
 * The interlock again, right before the node goes down: a drain, or an agent's outage, may lie between. This node's
 * own row is left out: it may be drained already.
 */
export async function assureSpare(run: ActionRun): Promise<void> {
  const { kwdbId, others, phases } = run.action;
  if (!phases.includes('interlock')) return;
  const fresh = run.sparedAtMs !== undefined && run.parts.clock.elapsed() - run.sparedAtMs <= SPARE_VALID_MS;
  if (fresh) return;
  try {
    await run.until(async () => {
      const { health, findings } = await run.askHealth('ranges');
      if (health === undefined) return findings;
      const nodes = health.view.nodes.filter((row) => row.kwdbId !== kwdbId);
      return judgeSpare({ ...health, view: { ...health.view, nodes } }, others);
    });
  } catch (error) {
    if (error instanceof DeadlineError) throw new FleetError('INTERLOCK_REFUSED', error.message);
    throw error;
  }
  run.sparedAtMs = run.parts.clock.elapsed();
}

async function drain(run: ActionRun): Promise<void> {
  const report = await run.observe();
  if (!isActive(report)) return;
  assureHostReady(run, report);
  await assureSpare(run);
  await run.deed('drain', report);
  await run.parts.driver.drain(run.action, run.watch);
}

export async function stop(run: ActionRun): Promise<void> {
  const report = await run.observe();
  installationOf(report);
  if (judgeStopped(report).length === 0) return;
  assureHostReady(run, report);
  await assureSpare(run);
  // Once it is stopped nobody can tell any more that it was the new version which a reboot had started on the data.
  if (isConverted(run, report)) await run.recordTargetStarted();
  await run.deed('stop', report);
  await run.parts.driver.stop(run.action, run.watch);
  await run.until(async () => judgeStopped(await run.observe()));
}

async function install(run: ActionRun): Promise<void> {
  const { action, parts } = run;
  // What is true now is not what an earlier order's deploy.sh, still at work, will make of it.
  await parts.driver.quiesce(action, run.watch);
  const report = await run.observe();
  if (judgeInstalled(report, action.to).length > 0) {
    refuseWhileRunning(report);
    await run.deed('install', report);
    await whileStopped(run, () => finishedOrThrow(run, action.to, () => parts.driver.install(action, run.watch)));
    await settleInstalled(run, action.to, 'INSTALL_FAILED');
  }
  await restoreEnabled(run);
}

function refuseWhileRunning(report: NodeReport): void {
  const running = judgeStopped(report)[0];
  if (running === undefined) return;
  throw new FleetError('DEPLOY_STILL_RUNNING', `nothing is installed while the database runs: ${running.message}`);
}

/** A command that was killed is started again: not beside a database that came up meanwhile. */
const whileStopped = (run: ActionRun, work: () => Promise<void>): Promise<void> =>
  beforeEachCommand(run, async () => refuseWhileRunning(await run.observe()), work);

/** Each command of the work, also one that is started again, is begun only after `look`. */
async function beforeEachCommand(run: ActionRun, look: () => Promise<void>, work: () => Promise<void>): Promise<void> {
  run.beforeCommand = look;
  try {
    await work();
  } finally {
    run.beforeCommand = undefined;
  }
}

/** Runs an installation; an error counts only when the version is not there: a refusal may mean "already done". */
async function finishedOrThrow(run: ActionRun, version: string, work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    if (error instanceof Stopping || error instanceof DeadlineError) throw error;
    if (judgeInstalled(await run.observe(), version).length > 0) throw error;
  }
}

async function settleInstalled(
  run: ActionRun,
  version: string,
  code: 'INSTALL_FAILED' | 'ROLLBACK_FAILED',
): Promise<void> {
  let findings: Finding[] = [];
  for (let look = 0; look < SETTLE_LOOKS; look++) {
    if (look > 0) await run.watch.pause();
    findings = judgeInstalled(await run.observe(), version);
    if (findings.length === 0) return;
  }
  const seen = findings.map((finding) => finding.message).join('; ');
  throw new FleetError(code, `${version} is not installed whole: ${seen}`);
}

async function restoreEnabled(run: ActionRun): Promise<void> {
  const { mark } = run.entry;
  if (mark === null) return;
  const unit = (await run.observe()).installation?.unit;
  if (unit !== undefined && unit.enabled !== mark.enabled) await run.parts.driver.restoreEnabled(mark.enabled);
}

async function installOnline(run: ActionRun): Promise<void> {
  const { action, parts, entry } = run;
  const report = await run.observe();
  const running = report.installation?.versions.running;
  const upgraded = running !== undefined && sameVersion(running, action.to);
  if (!upgraded || judgeInstalled(report, action.to).length > 0 || isSameProcess(report, entry.mark)) {
    if (!isActive(report) && !entry.deeds.includes('install-online')) {
      throw new FleetError('NODE_NOT_RUNNING', 'an online upgrade needs the node running');
    }
    assureHostReady(run, report);
    await assureSpareOnce(run);
    await run.deed('install-online', report);
    const spareWhileItRuns = async () => {
      if (isActive(await run.observe())) await assureSpare(run);
    };
    const work = () => finishedOrThrow(run, action.to, () => parts.driver.installOnline(action, run.watch));
    await beforeEachCommand(run, spareWhileItRuns, work);
  }
  await run.recordTargetStarted();
  await settleInstalled(run, action.to, 'INSTALL_FAILED');
  await restoreEnabled(run);
}

async function assureSpareOnce(run: ActionRun): Promise<void> {
  if (!run.entry.deeds.includes('install-online')) await assureSpare(run);
}

/**
 * After a failed online upgrade: anything but the old process, seen to run still, counts as the new version's start. Also
 * when nobody can look: what made the upgrade fail may have made the host mute.
 */
export async function noteStarted(run: ActionRun): Promise<void> {
  const report = await run.observe().catch((error: unknown) => {
    if (error instanceof Stopping) throw error;
    return undefined;
  });
  if (report === undefined || !isSameProcess(report, run.entry.mark)) await run.recordTargetStarted('for-ever');
}

/** Starts what is installed, which must be `version`. */
export async function start(run: ActionRun, version: string): Promise<void> {
  const { action } = run;
  let report = await run.observe();
  const installed = judgeInstalled(report, version)[0];
  if (installed !== undefined) throw new FleetError('START_FAILED', `${version} is not started: ${installed.message}`);
  refuseOlder(run, version);
  const active = isActive(report);
  if (!active) await run.deed('start', report);
  if (sameVersion(version, action.to)) await run.recordTargetStarted();
  if (!active) await run.parts.driver.start(action, run.watch);
  const ended = new EndedLooks();
  await run.until(async () => {
    report = await run.observe();
    ended.look(report);
    const unit = installationOf(report).unit;
    if (unit.active === 'active' && unit.mainPid !== undefined) return [];
    return [{ code: 'START_FAILED', severity: 'block', message: `the service is ${unit.active}` }];
  });
  await restoreEnabled(run);
}

/** KWDB is never downgraded in place: what a newer version has opened is not given to an older one. */
function refuseOlder({ started }: ActionRun, version: string): void {
  if (started === null || !isOlder(version, started)) return;
  throw new FleetError('VERSION_OLDER', `${started} was started on the data: ${version} is not started on them`);
}

/** Recognises a service that ended for good, so that nobody waits a whole deadline for it. */
class EndedLooks {
  #inARow = 0;

  look(report: NodeReport): void {
    const active = report.installation?.unit.active;
    this.#inARow = active === 'failed' || active === 'inactive' ? this.#inARow + 1 : 0;
    if (this.#inARow < ENDED_LOOKS) return;
    throw new FleetError('START_FAILED', `the database ended after its start: the service is ${active}`);
  }
}

/** Waits until the node serves `version` in another process than before the first deed, unless `sameProcessWill do`. */
export async function verify(run: ActionRun, version: string, before?: ProcessMark): Promise<void> {
  const ended = new EndedLooks();
  await run.until(async () => {
    const report = await run.observe();
    ended.look(report);
    const sign = report.view?.nodes.map((row) => `${row.kwdbId}${row.isLive}${row.isAvailable}`).join();
    run.watch.moved(sign ?? '');
    return judgeServing(report, version, before ?? run.entry.mark ?? {});
  });
}

async function witness(run: ActionRun): Promise<void> {
  const { soakMs, sampleGapMs } = run.action;
  const { clock } = run.parts;
  for (;;) {
    await run.until(() => witnessFindings(run));
    const process = subjectStart(run);
    const cleanSinceMs = clock.elapsed();
    const wholeMs = sampleGapMs + soakMs;
    if (await staysClean(run, cleanSinceMs, wholeMs, process)) return;
  }
}

/** The second sample after the gap, then every sample of the soak: a bad one starts the witness anew. */
async function staysClean(
  run: ActionRun,
  sinceMs: number,
  wholeMs: number,
  process: number | undefined,
): Promise<boolean> {
  const { clock } = run.parts;
  const { sampleGapMs } = run.action;
  let samples = 1;
  for (;;) {
    const leftMs = sinceMs + wholeMs - clock.elapsed();
    if (leftMs <= 0 && samples >= 2) return true;
    const stage = clock.elapsed() - sinceMs < sampleGapMs ? 'first sample is clean' : 'soaking';
    // Told in steps: each tale is a row of the run's history.
    const stepsLeft = Math.ceil(Math.max(0, leftMs) / SOAK_TOLD_EVERY_MS);
    run.watch.detail(`${stage}, ${(stepsLeft * SOAK_TOLD_EVERY_MS) / 1000} s to go`);
    run.watch.moved(`sample ${samples} since ${sinceMs}`);
    await run.watch.pause(Math.max(1, Math.min(1000, leftMs > 0 ? leftMs : 1)));
    if (samples === 1 && clock.elapsed() - sinceMs < sampleGapMs) continue;
    const findings = await witnessFindings(run);
    run.lastFinding = findings[0];
    // A node that fell and came back was live by its record all the time.
    if (findings.length > 0 || subjectStart(run) !== process) return false;
    samples += 1;
  }
}

/** `started_at` of the node looked at, as the last answer has it. */
function subjectStart({ action, health }: ActionRun): number | undefined {
  return health?.view.nodes.find(({ kwdbId }) => kwdbId === action.subject?.kwdbId)?.startedAtMs;
}

async function witnessFindings(run: ActionRun): Promise<readonly Finding[]> {
  const { kwdbId, others, subject, to } = run.action;
  const { health, findings } = await run.askHealth('ranges');
  if (health === undefined) return findings;
  const expected = [...new Set([kwdbId, ...others, ...(subject === undefined ? [] : [subject.kwdbId])])];
  return subject === undefined ? judgeSpare(health, expected) : judgeRejoined(health, subject, expected, to);
}

/** Puts the version before back. Throws VERSION_OLDER once the target was started on the data: that has no way back. */
export async function putBack(run: ActionRun): Promise<void> {
  const { action, parts } = run;
  await parts.driver.quiesce(action, run.watch);
  const report = await run.observe();
  if (judgeInstalled(report, action.from).length === 0) return;
  if (hasTargetStarted(run, report)) {
    throw new FleetError('VERSION_OLDER', `${action.to} was started on the data: ${action.from} is not put back`);
  }
  refuseWhileRunning(report);
  await run.deed('put-back', report);
  await whileStopped(run, () => finishedOrThrow(run, action.from, () => parts.driver.putBack(action, run.watch)));
  await settleInstalled(run, action.from, 'ROLLBACK_FAILED');
  await refuseIntruder(run);
  await restoreEnabled(run);
}

/**
 * A reboot, or somebody, may have started the database while it was exchanged: what began then may be the target, and is
 * taken for it unless it says that it is not.
 */
async function refuseIntruder(run: ActionRun): Promise<void> {
  const report = await run.observe();
  const { from, to } = run.action;
  const running = report.installation?.versions.running;
  if (!isActive(report) && !fellMeanwhile(run, report)) return;
  if (running !== undefined && sameVersion(running, from)) return;
  await run.recordTargetStarted();
  throw new FleetError(
    'VERSION_OLDER',
    `the database came up while ${from} was put back: ${to} may have opened the data`,
  );
}

/**
 * Gives the settings of the ledger their values from before the run, and sees that they have them. It changes nothing
 * on the host, so it is no deed of which the node would have to be backed out.
 */
async function restoreSettings(run: ActionRun): Promise<void> {
  const { ledger } = run.action;
  await run.until(async () => {
    const { health, findings } = await run.askHealth('all');
    if (health === undefined) return findings;
    if (health.settings === undefined) return [unknown('the database did not tell its settings')];
    const values = new Map(health.settings.map(({ name, value }) => [name, value]));
    const wrong = ledger.filter(({ name, value }) => !sameDuration(values.get(name), value));
    for (const entry of wrong) {
      run.fence('restore-settings');
      await trySetting(run, entry);
    }
    return wrong.map(({ name, value }) => unknown(`${name} is ${values.get(name) ?? 'unknown'}, to be ${value}`));
  });
}

/** A statement that failed is tried again with the next look. */
async function trySetting(run: ActionRun, entry: LedgerEntry): Promise<void> {
  try {
    await run.parts.driver.setSetting(entry);
  } catch (error) {
    if (!(error instanceof FleetError) || error.code !== 'KWBASE_FAILED') throw error;
    run.watch.detail(error.words ?? error.message);
  }
}

const UNIT_MS: Readonly<Record<string, number>> = { h: 3_600_000, m: 60_000, s: 1000, ms: 1 };

/** `30m` and `30m0s` are one duration in two spellings. */
function sameDuration(a: string | undefined, b: string): boolean {
  if (a === undefined) return false;
  const inMs = (text: string) =>
    [...text.matchAll(/([0-9.]+)(ms|h|m|s)/g)].reduce(
      (sum, [, count, unit]) => sum + Number(count) * (UNIT_MS[unit ?? ''] ?? Number.NaN),
      0,
    );
  return a === b || inMs(a) === inMs(b);
}

/** Whether the target version ever ran on this node's data, by the journal or by what is seen. */
export function hasTargetStarted(run: ActionRun, report: NodeReport): boolean {
  const { from, to } = run.action;
  if (run.entry.newVersionStarted) return true;
  if (run.started !== null && sameVersion(run.started, to)) return true;
  const versions = report.installation?.versions;
  if (versions?.running !== undefined) return sameVersion(versions.running, to);
  if (fellMeanwhile(run, report)) return true;
  // A process that is mute and not the one from before runs what was installed when it began: after a reboot in the
  // middle of the exchange that may be the target, though its binary is gone by now.
  const oldBinary = versions?.binary !== undefined && sameVersion(versions.binary, from);
  return !oldBinary && isActive(report) && !isSameProcess(report, run.entry.mark);
}

/** What the new version has opened is no data of the version before any more; a restore has no other version. */
export function isConverted(run: ActionRun, report: NodeReport): boolean {
  const { from, to } = run.action;
  return !sameVersion(from, to) && hasTargetStarted(run, report);
}

/** Nothing ran when this order began to act, and the unit has failed since: somebody, or a reboot, started what was there. */
function fellMeanwhile({ entry: { mark } }: ActionRun, report: NodeReport): boolean {
  return mark?.running === false && mark.failed === false && report.installation?.unit.active === 'failed';
}

function unknown(message: string): Finding {
  return { code: 'HEALTH_UNKNOWN', severity: 'block', message };
}
