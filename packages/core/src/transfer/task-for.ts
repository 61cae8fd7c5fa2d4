/** The task of an order in a transfer, from the plan and from what the steps before brought. */
import type { RunState } from '../engine/state.ts';
import type { Plan, Step } from '../plan.ts';
import { EMPTY_TASK, type TransferOutcome, type TransferTask } from './model.ts';
import { stepPart, unitOf } from './plan-transfer.ts';

/** Undefined for a step of another kind of plan. */
export function taskFor(plan: Plan, state: RunState, step: Step, attempt: number): TransferTask | undefined {
  const { transfer } = plan;
  if (transfer === undefined) return undefined;
  const part = stepPart(step.id) ?? '';
  if (step.kind === 'recreate') {
    const { databases, users, memberships, grants, clusterSettings } = transfer;
    if (part === 'databases') return { ...EMPTY_TASK, databases };
    if (part === 'users') return { ...EMPTY_TASK, users, memberships };
    return part === 'grants' ? { ...EMPTY_TASK, grants } : { ...EMPTY_TASK, clusterSettings };
  }
  const unit = unitOf(transfer, step.id);
  if (unit === undefined) throw new Error(`${step.id} is about no unit of the plan`);
  const exported = exportOf(plan, state, part);
  const prefix = `kwfleet-${safe(state.run)}-${part}-`;
  return {
    ...EMPTY_TASK,
    unit,
    sample: transfer.sample,
    prefix,
    directory: `${prefix}${attempt}`,
    files: step.kind === 'import' ? (exported?.files ?? []) : [],
    digests: step.kind === 'export' ? [] : (exported?.digests ?? []),
    // Only what an earlier attempt of this very step imported, or began to, may be dropped.
    mayReplace: step.kind === 'import' && (state.steps[step.id]?.result?.disposition ?? 'untouched') !== 'untouched',
  };
}

function exportOf({ steps }: Plan, state: RunState, part: string): TransferOutcome | undefined {
  const step = steps.find(({ id, kind }) => kind === 'export' && stepPart(id) === part);
  return step && state.steps[step.id]?.result?.transfer;
}

/** A run's id has letters, digits and signs that mean something elsewhere. */
const safe = (run: string): string =>
  run
    .toLowerCase()
    .replaceAll(/[^a-z0-9]+/g, '-')
    .replaceAll(/^-+|-+$/g, '')
    .slice(-60);
