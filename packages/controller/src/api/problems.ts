/** Every error leaves as an RFC 9457 problem document with a stable code. */
import {
  type CheckResult,
  ERRORS,
  type ErrorCode,
  FleetError,
  type Mistake,
  mistakeLine,
  type Problem,
  type Written,
} from '@kwfleet/core';
import type { FastifyError, FastifyReply, FastifyRequest } from 'fastify';

/** PLAN_BLOCKED, with the checks that block. */
export class BlockedPlan extends FleetError {
  readonly checks: readonly CheckResult[];

  constructor(message: string, checks: readonly CheckResult[]) {
    super('PLAN_BLOCKED', message);
    this.checks = checks.filter(({ verdict }) => verdict === 'block' || verdict === 'unknown');
  }
}

/** FILE_INVALID, with every mistake and its place. */
export class BadFile extends FleetError {
  readonly mistakes: readonly Mistake[];

  constructor(mistakes: readonly Mistake[]) {
    super('FILE_INVALID', mistakes.map((mistake) => mistakeLine('file', mistake)).join('\n'));
    this.mistakes = mistakes;
  }
}

/** What was found in a file that was sent. Throws FILE_INVALID. */
export function valueOrRefuse<T>(written: Written<T>): T {
  if ('mistakes' in written) throw new BadFile(written.mistakes);
  return written.value;
}

/** As fastify's error handler. What is not ours to explain is logged whole and told as INTERNAL. */
export function answerWithProblem(
  error: FastifyError | FleetError,
  request: FastifyRequest,
  reply: FastifyReply,
): void {
  const problem = toProblem(error, request.id);
  if (problem.status >= 500) request.log.error({ err: error }, 'a request failed');
  if (problem.code === 'UNAVAILABLE') reply.header('retry-after', '2');
  if (problem.code === 'UNAUTHORIZED') reply.header('www-authenticate', 'Bearer');
  reply.code(problem.status).type('application/problem+json; charset=utf-8').send(JSON.stringify(problem));
}

function toProblem(error: FastifyError | FleetError, requestId: string): Problem {
  if (error instanceof FleetError) {
    return {
      ...problemOf(error.code, error.message, requestId),
      ...(error.node !== undefined && { node: error.node }),
      ...(error.words !== undefined && { words: error.words }),
      ...(error instanceof BlockedPlan && { checks: [...error.checks] }),
      ...(error instanceof BadFile && { mistakes: [...error.mistakes] }),
    };
  }
  if (error.validation !== undefined) return problemOf('BAD_REQUEST', validationMessage(error), requestId);
  // Fastify's own refusals: malformed JSON (400), a body too large (413), an unknown content type (415).
  const { statusCode = 500 } = error;
  if (statusCode >= 400 && statusCode < 500) {
    return { ...problemOf('BAD_REQUEST', error.message, requestId), status: statusCode };
  }
  return problemOf('INTERNAL', 'the controller failed', requestId);
}

export function problemOf(code: ErrorCode, detail: string, requestId: string): Problem {
  const { status, remedy } = ERRORS[code];
  const title = code.charAt(0) + code.slice(1).toLowerCase().replaceAll('_', ' ');
  return { type: `urn:kwfleet:error:${code}`, title, status, detail, code, remedy, requestId };
}

/** `body.options.soakMs: must be >= 0`. */
function validationMessage({ validation, validationContext }: FastifyError): string {
  const first = validation?.[0];
  const path = (first?.instancePath ?? '').split('/').filter((part) => part !== '');
  const params = (first?.params ?? {}) as { requiredProperties?: string[]; additionalProperties?: string[] };
  const named = params.requiredProperties ?? params.additionalProperties ?? [];
  const field = [validationContext ?? 'request', ...path, ...named.slice(0, 1)].join('.');
  return `${field}: ${first?.message ?? 'is not valid'}`;
}
