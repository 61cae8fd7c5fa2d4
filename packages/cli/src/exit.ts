/** Exit codes, and the errors that a command ends with: what happened, where, in whose words, and what to do next. */
import { type CheckResult, ERRORS, FleetError, type Hold, type Problem, type RunStatus } from '@kwfleet/core';
import { clean, wrap } from './render/text.ts';

/** Binding for scripts: see the command reference. */
export const EXIT = { done: 0, error: 1, refused: 2, held: 3, failed: 4 } as const;
export type ExitCode = (typeof EXIT)[keyof typeof EXIT];

/** Ctrl-C is no outcome of what was asked for; shells show it so. */
export const INTERRUPTED = 130;

/** Problem statuses that say the request was refused as it stands: asking again without a change will not help. */
const REFUSED: ReadonlySet<number> = new Set([400, 404, 409, 413, 422]);

type Where = {
  readonly code?: string | undefined;
  readonly node?: string | undefined;
  readonly words?: string | undefined;
  readonly remedy?: string | undefined;
  readonly requestId?: string | undefined;
  readonly checks?: readonly CheckResult[] | undefined;
};

/** An error for a person at a terminal. Everything but the message is optional. */
export class CliError extends Error {
  override readonly name = 'CliError';
  readonly exitCode: ExitCode;
  readonly where: Where;

  constructor(exitCode: ExitCode, message: string, where: Where = {}) {
    super(message);
    this.exitCode = exitCode;
    this.where = where;
  }
}

/** The error a problem document stands for. */
export function problemError(problem: Problem): CliError {
  const { code, node, words, remedy, requestId, checks } = problem;
  const exitCode = REFUSED.has(problem.status) ? EXIT.refused : EXIT.error;
  return new CliError(exitCode, problem.detail || problem.title, { code, node, words, remedy, requestId, checks });
}

/** Bad input that the command line sees by itself. */
export const badInput = (message: string, remedy?: string): CliError => new CliError(EXIT.refused, message, { remedy });

/** The lines of an error, for standard error; wrapped where there is a width. */
export function errorLines(error: unknown, width = Number.POSITIVE_INFINITY): string[] {
  const { message, where } = error instanceof CliError ? error : unexpected(error);
  const { code, node, words, remedy, requestId, checks = [] } = where;
  const lines = wrapped(`kwfleet: ${clean(message)}`, width, '', '  ');
  const add = (label: string, text: string | undefined) => {
    if (text !== undefined && text !== '')
      lines.push(...wrapped(clean(text), width, `  ${label.padEnd(8)}`, ' '.repeat(10)));
  };
  add('where', node);
  for (const line of (words ?? '').split('\n').filter((text) => text.trim() !== '')) add('said', line);
  for (const check of checks) {
    add(check.verdict, `${check.code}${check.node === undefined ? '' : ` on ${check.node}`}: ${check.message}`);
    add('', check.remedy);
  }
  add('code', code);
  // By this it is found in the controller's log; a refusal has told everything already.
  if (exitOfError(error) === EXIT.error) add('request', requestId);
  add('next', remedy);
  return lines;
}

function wrapped(text: string, width: number, first: string, rest: string): string[] {
  if (!Number.isFinite(width)) return [`${first}${text}`];
  const [head = '', ...more] = wrap(text, width, rest);
  return [`${first}${head.slice(rest.length)}`, ...more];
}

/** Not an error for a person yet: one of a controller or agent that runs in this process, or a bug. */
function unexpected(error: unknown): Pick<CliError, 'message' | 'where'> {
  if (!(error instanceof Error)) return { message: String(error), where: {} };
  if (!(error instanceof FleetError)) return { message: error.message, where: {} };
  const { message, code, node, words, remedy } = error;
  return { message, where: { code, node, words, remedy } };
}

/** The exit code that an error ends the command with. */
export function exitOfError(error: unknown): ExitCode {
  if (error instanceof CliError) return error.exitCode;
  const isRefusal = error instanceof FleetError && REFUSED.has(ERRORS[error.code].status);
  return isRefusal ? EXIT.refused : EXIT.error;
}

/** How a followed run leaves the command: undefined while it goes on. */
export function exitOfRun(status: RunStatus, hold: Hold | undefined): ExitCode | undefined {
  switch (status) {
    case 'succeeded':
      return EXIT.done;
    case 'failed':
    case 'aborted':
      return EXIT.failed;
    case 'held':
      // A hold that clears itself (an agent that comes back) does not wait for a person.
      return hold?.selfClearing === true ? undefined : EXIT.held;
    case 'planned':
    case 'awaiting_approval':
    case 'scheduled':
    case 'running':
    case 'paused':
      return undefined;
    default:
      return status satisfies never;
  }
}
