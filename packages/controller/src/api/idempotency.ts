/** `Idempotency-Key`: a POST that is sent twice is carried out once, and answered alike for a day. */
import { createHash } from 'node:crypto';
import { FleetError } from '@kwfleet/core';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { Database } from '../store/database.ts';
import { answerKey, claimKey, releaseKey } from '../store/idempotency.ts';

const KEY_MAX_CHARACTERS = 255;

const hash = (...parts: string[]) => createHash('sha256').update(JSON.stringify(parts)).digest('hex');

export function honourIdempotencyKeys(app: FastifyInstance, database: Database): void {
  /** Requests that hold their key. */
  const held = new WeakMap<FastifyRequest, string>();

  app.addHook('preHandler', async (request, reply) => {
    const given = request.headers['idempotency-key'];
    if (request.method !== 'POST' || given === undefined) return;
    if (typeof given !== 'string' || given === '' || given.length > KEY_MAX_CHARACTERS) {
      throw new FleetError('BAD_REQUEST', `Idempotency-Key: 1 to ${KEY_MAX_CHARACTERS} characters`);
    }
    const key = hash(request.actor, given);
    const claim = await claimKey(database, key, requestHash(request));
    switch (claim.state) {
      case 'mine':
        held.set(request, key);
        return;
      case 'in-progress':
        throw new FleetError(
          'IDEMPOTENCY_IN_PROGRESS',
          'the first request with this Idempotency-Key is not answered yet',
        );
      case 'other-request':
        throw new FleetError('IDEMPOTENCY_MISMATCH', 'this Idempotency-Key came with another request before');
      case 'answered':
        return replay(reply, claim.status, claim.response);
      default:
        return claim satisfies never;
    }
  });

  app.addHook('onSend', async (request, reply, payload) => {
    const key = held.get(request);
    if (key === undefined) return payload;
    held.delete(request);
    const failed = reply.statusCode >= 500;
    const text = request.routeOptions.config.secret === true && reply.statusCode < 400 ? null : String(payload ?? '');
    const kept = failed ? releaseKey(database, key) : answerKey(database, key, reply.statusCode, text);
    // The deed is done and answered either way; only a repetition of it would not be recognised.
    await kept.catch((error: unknown) => request.log.warn({ err: error }, 'an idempotency key could not be kept'));
    return payload;
  });
}

function replay(reply: FastifyReply, status: number, response: string | null): FastifyReply {
  if (response === null) {
    throw new FleetError('IDEMPOTENCY_SPENT', 'this was made by the first request, and its secret was shown only then');
  }
  const type = status >= 400 ? 'application/problem+json' : 'application/json';
  return reply.code(status).header('idempotency-replayed', 'true').type(`${type}; charset=utf-8`).send(response);
}

/** A body that streams is told by its length: its bytes are not here yet. */
function requestHash(request: FastifyRequest): string {
  const streamed = request.body !== null && typeof request.body === 'object' && 'pipe' in request.body;
  const body = streamed ? `stream ${request.headers['content-length'] ?? ''}` : JSON.stringify(request.body ?? null);
  return hash(request.method, request.url, body);
}
