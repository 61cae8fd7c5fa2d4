import Schema from 'typebox/schema';
import { type Action, type ActionResult, DESTRUCTIVE, isLate, LedgerEntry, type Phase } from '../action.ts';
import { judgeGate } from '../checks.ts';
import { type Plan, previousPackagesOf, type Step, stepOf } from '../plan.ts';
import { taskFor } from '../transfer/task-for.ts';
import { sameVersion } from '../version.ts';
import { GATE_FRESH_MS } from './decision.ts';
import type { RunEvent, RunState } from './state.ts';
import { leadsUp } from './timing.ts';

/** An order that came too late is given again, on facts of then; so many in one step are a person's to look into. */
const LATE_MAX = 3;

/** `RUN/STEP/ATTEMPT`, and back. */
export const actionId = (run: string, step: string, attempt: number): string => `${run}/${step}/${attempt}`;

/** The step and attempt that an action id names, or undefined when it is not one of this run. */
export function parseActionId(run: string, id: string): { step: string; attempt: number } | undefined {
  const match = /^(.+)\/([1-9]\d{0,8})$/.exec(id.startsWith(`${run}/`) ? id.slice(run.length + 1) : '');
  return match?.[1] === undefined ? undefined : { step: match[1], attempt: Number(match[2]) };
}

/** The order for the next attempt of a step, under the epoch of the lease that decided it now. */
export function actionFor(
  plan: Plan,
  state: RunState,
  step: Step,
  { executor, epoch, nowMs }: { readonly executor: string; readonly epoch: number; readonly nowMs: number },
): Action {
  const attempt = (state.steps[step.id]?.attempt ?? 0) + 1;
  const about = plan.nodes.find(({ node }) => node === step.node);
  const carrier = plan.nodes.find(({ node }) => node === executor);
  if (about === undefined || carrier === undefined) throw new Error(`${step.id} is about a node that the plan lacks`);
  const previous = previousPackagesOf(plan).find(({ version }) => sameVersion(version, about.from));
  const transfer = taskFor(plan, state, step, attempt);
  const baseline = state.steps[`gate:${step.node}`]?.baselineStartedAtMs;
  // On the way back the version before is what is started and verified.
  const [from, to] = step.kind === 'return' ? [plan.to, about.from] : [about.from, plan.to];
  return {
    id: actionId(state.run, step.id, attempt),
    run: state.run,
    cluster: plan.cluster,
    step: step.id,
    node: executor,
    attempt,
    epoch,
    phases: step.phases,
    topology: plan.topology,
    from,
    to,
    ...(plan.package === undefined ? {} : { package: plan.package }),
    ...(previous === undefined ? {} : { previousPackage: previous }),
    bypassVersionCheck: plan.options.bypassVersionCheck,
    kwdbId: carrier.kwdbId,
    others: plan.nodes.filter(({ node }) => node !== executor).map(({ kwdbId }) => kwdbId),
    ...(step.kind === 'witness' ? { subject: { kwdbId: about.kwdbId, startedAfterMs: baseline ?? 0 } } : {}),
    ledger: step.phases.includes('restore-settings') ? ledgerOf(plan, state) : [],
    ...(transfer === undefined ? {} : { transfer }),
    ...backupOf(plan, step),
    ...restoreOf(plan, step),
    ...beginBy(plan, state, step, nowMs),
    soakMs: plan.options.soakMs,
    sampleGapMs: plan.options.sampleGapMs,
    deadline: step.deadline,
  };
}

/** What takes down what was not touched yet is begun while the answer of a gate is good, or not at all. */
function beginBy(plan: Plan, state: RunState, step: Step, nowMs: number): Pick<Action, 'beginByMs'> {
  const takesDown = leadsUp(plan, state, step) && step.phases.some((phase) => DESTRUCTIVE.has(phase));
  return takesDown ? { beginByMs: nowMs + GATE_FRESH_MS } : {};
}

function backupOf({ options: { backup } }: Plan, { phases }: Step): Pick<Action, 'backup'> {
  if (!phases.includes('prepare-backup') && !phases.includes('back-up')) return {};
  return backup?.policy === 'copy' || backup?.policy === 'command' ? { backup: backup.policy } : {};
}

const RESTORING: readonly Phase[] = ['check-backup', 'restore', 'put-data-back', 'discard-replaced'];

function restoreOf({ restore }: Plan, { node, phases }: Step): Pick<Action, 'restore'> {
  const part = restore?.parts.find((candidate) => candidate.node === node);
  if (restore === undefined || part === undefined || !phases.some((phase) => RESTORING.includes(phase))) return {};
  return { restore: { set: restore.backup, version: restore.version, manifestSha256: part.manifestSha256 } };
}

/** The settings as the run's first gate found them, before anything was changed. */
function ledgerOf(plan: Plan, state: RunState): LedgerEntry[] {
  const first = plan.steps.find(({ id }) => state.steps[id]?.ledger !== undefined);
  return (first && state.steps[first.id]?.ledger) ?? [];
}

/**
 * The event that a result makes, or none when it is of an attempt that no longer matters. A gate that could not be
 * asked, or whose answer speaks against going on, is no failure yet: it is reset, waits, and is asked again. Nor is an
 * order that came too late: whether it is given again is decided anew.
 */
export function eventOfResult(plan: Plan, state: RunState, result: ActionResult, atMs: number): RunEvent | undefined {
  const named = parseActionId(state.run, result.action);
  if (named === undefined || state.steps[named.step] === undefined) return undefined;
  const current = state.steps[named.step];
  if (current?.status !== 'running' || current.attempt !== named.attempt) return undefined;
  const step = stepOf(plan, named.step);
  if (isLate(result) && (current.late ?? 0) + 1 < LATE_MAX) {
    return { type: 'step-reset', step: step.id, late: true, why: result.failure?.message ?? 'it came too late', atMs };
  }
  if (step.kind === 'gate' && result.outcome === 'failed') {
    const { code = 'HEALTH_UNKNOWN', message = 'the database could not be asked' } = result.failure ?? {};
    return { type: 'step-reset', step: step.id, code, why: message, atMs };
  }
  if (step.kind === 'gate') {
    const expected = plan.nodes.map(({ kwdbId }) => kwdbId);
    const against =
      result.health === undefined
        ? { code: 'HEALTH_UNKNOWN', message: 'the database did not answer' }
        : judgeGate(plan.topology, result.health, expected).find(({ severity }) => severity === 'block');
    if (against === undefined && plan.options.route === 'online' && !hasLedger(result)) {
      const why = 'the database does not tell server.time_until_store_dead, which the online route changes';
      return { type: 'step-reset', step: step.id, code: 'HEALTH_UNKNOWN', why, atMs };
    }
    if (against === undefined && plan.topology === 'multi-replica' && !tellsStart(plan, step, result)) {
      const why = `the database does not tell when ${step.node} was started, so its return could not be told`;
      return { type: 'step-reset', step: step.id, code: 'HEALTH_UNKNOWN', why, atMs };
    }
    if (against !== undefined) {
      return { type: 'step-reset', step: step.id, code: against.code, why: against.message, atMs };
    }
  }
  return { type: 'step-ended', ...named, result, atMs };
}

function tellsStart(plan: Plan, { node }: Step, { health }: ActionResult): boolean {
  const about = plan.nodes.find((candidate) => candidate.node === node);
  return health?.view.nodes.find(({ kwdbId }) => kwdbId === about?.kwdbId)?.startedAtMs !== undefined;
}

const hasLedger = ({ health }: ActionResult): boolean =>
  health?.settings?.some((entry) => isLedgerEntry.Check(entry)) === true;
const isLedgerEntry = Schema.Compile(LedgerEntry);
