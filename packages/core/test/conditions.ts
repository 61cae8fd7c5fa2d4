/** What people may lay down for a run before it begins: when it may work, and who must agree. */
import { DEFAULT_STEP_TIMES, hashPlan, type Plan, type RunApproval } from '@kwfleet/core';
import { NOW } from './builders.ts';
import { HOUR, MINUTE, type Schedule } from './model.ts';

const quick = Object.fromEntries(Object.keys(DEFAULT_STEP_TIMES).map((kind) => [kind, 2 * MINUTE]));
const open = ['00:00', '06:00', '12:00', '18:00'].map((time) => ({
  weekly: ['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'] as const,
  at: time,
  for: '4h',
}));
/** Open for four hours of every six. */
export const WINDOWS: Schedule = {
  timing: { windows: ['w'], prefetchMs: HOUR },
  windows: [{ name: 'w', zone: 'UTC', open: open.map((rule) => ({ ...rule, weekly: [...rule.weekly] })) }],
  isOpen: (ms) => ms % (6 * HOUR) < 4 * HOUR,
  stepTimes: quick as typeof DEFAULT_STEP_TIMES,
};

/** What a policy asks of ann's upgrade. Nobody lets its start run out here; that has a test of its own. */
export function approvalFor(plan: Plan, [start = 0, irreversible = 0]: readonly number[]): RunApproval {
  const needs = (approvers: number, validForMs: number) => ({
    policies: ['p'],
    approvers,
    requesterMayApprove: false,
    validForMs,
  });
  return {
    hash: hashPlan(plan),
    requester: 'ann',
    requestedAtMs: NOW,
    ...(start > 0 && { start: needs(start, 1_000 * HOUR) }),
    ...(irreversible > 0 && { irreversible: needs(irreversible, HOUR) }),
    given: [],
  };
}
