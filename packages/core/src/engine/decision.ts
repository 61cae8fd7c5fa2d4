/** What the engine decides by, and what it can decide. */
import { ERRORS, type ErrorCode } from '../errors.ts';
import type { NodeFacts } from '../facts.ts';
import type { Step } from '../plan.ts';
import { LOST_AFTER_MS } from '../topology.ts';
import type { StepTimes } from '../windows/estimate.ts';
import type { Window } from '../windows/window.ts';
import type { Hold, RunEvent } from './state.ts';

export type EngineFacts = {
  readonly nodes: ReadonlyMap<string, NodeFacts>;
  /** Those that the run's timing names, as they are now. */
  readonly windows?: ReadonlyMap<string, Window>;
  /** How long steps take in this cluster, where that is known better than by default. */
  readonly stepTimes?: StepTimes | undefined;
};

export type Decision =
  | { readonly do: 'record'; readonly event: RunEvent }
  | { readonly do: 'dispatch'; readonly step: Step; readonly executor: string };

/** Without a word from an agent for this long, a run that needs it is held. Before, it is waited for. */
export const HOLD_LOST_AFTER_MS = 30_000;
/** A gate that says no is asked again this often, and the run is held when it said no for this long. */
export const GATE_AGAIN_MS = 5_000;
export const GATE_PATIENCE_MS = 120_000;
/** A gate's yes is good for this long; a stop that would come later asks again. */
export const GATE_FRESH_MS = 60_000;
/** How long reports may lag behind what a step observed before the run is held over it. */
export const REPORT_LAG_MS = 60_000;

/** Codes come from hosts: one that this version does not know has no remedy. */
export const isCode = (code: string): code is ErrorCode => Object.hasOwn(ERRORS, code);

export const record = (event: RunEvent): Decision => ({ do: 'record', event });

/** Whether a node's agent is there, may be on its way back, or is to be held for. */
export function heard(facts: EngineFacts, node: string | undefined, nowMs: number): 'now' | 'late' | 'lost' {
  const known = node === undefined ? undefined : facts.nodes.get(node);
  if (known === undefined) return 'lost';
  const silentMs = nowMs - known.lastSeenMs;
  if (known.connected && silentMs <= LOST_AFTER_MS) return 'now';
  return silentMs <= HOLD_LOST_AFTER_MS ? 'late' : 'lost';
}

/** The run waits for a person, or for what ends the hold by itself. */
export function hold(
  code: ErrorCode,
  message: string,
  nowMs: number,
  more: {
    node?: string;
    step?: string;
    words?: string | undefined;
    selfClearing?: boolean;
    choices?: Hold['choices'];
  } = {},
): Decision {
  const { selfClearing = false, words, choices, ...where } = more;
  const full: Hold = {
    code,
    message,
    remedy: ERRORS[code].remedy,
    ...where,
    ...(words === undefined ? {} : { words }),
    choices: choices ?? (selfClearing ? ['wait', 'abort'] : ['retry', 'abort']),
    selfClearing,
    sinceMs: nowMs,
  };
  return record({ type: 'run-held', hold: full, atMs: nowMs });
}
