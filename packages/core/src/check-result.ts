import type { CheckCode } from './checks/catalog.ts';
import { ERRORS } from './errors.ts';
import type { CheckResult } from './plan.ts';

export type Verdict = CheckResult['verdict'];

/** One answer of a check; the remedy of its code goes with all but a pass. */
export function result(verdict: Verdict, code: CheckCode, message: string, node?: string): CheckResult {
  return {
    code,
    verdict,
    message,
    ...(node === undefined ? {} : { node }),
    ...(verdict === 'pass' ? {} : { remedy: ERRORS[code].remedy }),
  };
}

export const block = (code: CheckCode, message: string, node?: string): CheckResult =>
  result('block', code, message, node);
export const pass = (code: CheckCode, message: string, node?: string): CheckResult =>
  result('pass', code, message, node);
