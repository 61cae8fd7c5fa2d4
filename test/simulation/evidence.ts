/** What really happened, as the world saw it. Checkers judge this, never what the program says of itself. */
import type { Hold, Phase, Plan, RunStatus } from '@kwfleet/core';

/** `system`: because of kwfleet. `own`: by itself (a crash, a reboot). `person`: somebody mended it by hand. */
export type Cause = 'system' | 'own' | 'person';

export type Evidence =
  /** An agent does something to its host; `action` is the order's true id, whatever the agent was told. */
  | { readonly type: 'deed'; readonly node: string; readonly deed: Phase; readonly action: string }
  /** An agent took an order on: from here on it knows its epoch. */
  | { readonly type: 'accepted'; readonly node: string; readonly action: string }
  /** deploy.sh begins or ends; what it does in between is in the host. */
  | {
      readonly type: 'command-began';
      readonly node: string;
      readonly kind: string;
      readonly version: string;
      readonly action: string;
    }
  | {
      readonly type: 'command-ended';
      readonly node: string;
      readonly kind: string;
      readonly how: string;
      readonly action: string;
    }
  | {
      readonly type: 'started';
      readonly node: string;
      readonly version: string;
      readonly cause: Cause;
      readonly action: string | undefined;
      readonly dataVersion: string;
    }
  /** The database counts it in, whether it takes clients or not; and no more. */
  | { readonly type: 'joined' | 'left'; readonly node: string }
  | { readonly type: 'ready'; readonly node: string; readonly version: string }
  | {
      readonly type: 'unready';
      readonly node: string;
      readonly cause: Cause;
      readonly why: string;
      readonly action: string | undefined;
    }
  | { readonly type: 'stopped'; readonly node: string; readonly cause: Cause; readonly action: string | undefined }
  /** A copy of the stopped node's data is whole. */
  | { readonly type: 'copied'; readonly node: string; readonly version: string; readonly action: string }
  /** The data are others now, or what they replaced is gone. */
  | {
      readonly type: 'data-changed';
      readonly node: string;
      readonly how: 'restored' | 'put back' | 'discarded';
      readonly version: string;
      readonly action: string;
    }
  | { readonly type: 'setting'; readonly value: string; readonly cause: string }
  | { readonly type: 'run-created'; readonly run: string; readonly plan: Plan }
  | {
      readonly type: 'run-changed';
      readonly run: string;
      readonly status: RunStatus;
      readonly hold: Hold | undefined;
      readonly reason: string | undefined;
    }
  | { readonly type: 'ordered'; readonly action: string; readonly epoch: number; readonly owner: string }
  | {
      readonly type: 'result';
      readonly action: string;
      readonly outcome: string;
      readonly disposition: string;
      readonly why: string;
    }
  | { readonly type: 'event'; readonly run: string; readonly text: string }
  | { readonly type: 'fault'; readonly text: string }
  | { readonly type: 'person'; readonly text: string };

/** One line of a trace. */
export function describeEvidence(evidence: Evidence): string {
  const { type, ...rest } = evidence;
  if (evidence.type === 'run-created') return `run-created ${evidence.run}`;
  if (evidence.type === 'run-changed') {
    const { hold, reason, run, status } = evidence;
    return `run-changed ${run} ${status} ${hold === undefined ? (reason ?? '') : `${hold.code}: ${hold.message}`}`;
  }
  const fields = Object.values(rest).filter((value) => value !== undefined);
  return `${type} ${fields.join(' ')}`;
}
