/** Trades a one-time token and a signing request for a client certificate. */
import * as grpc from '@grpc/grpc-js';
import { FleetError } from '@kwfleet/core';
import type { EnrollRequest, EnrollResponse } from '@kwfleet/protocol';
import type { Logger } from 'pino';
import { spendEnrollment } from '../store/access.ts';
import { audit } from '../store/audit.ts';
import type { Database } from '../store/database.ts';
import { type Authority, newSerial } from './authority.ts';

const NODE_NAME = /^[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?$/;

export function enrollHandler(
  authority: Authority | undefined,
  database: Database,
  log: Logger,
): grpc.handleUnaryCall<EnrollRequest, EnrollResponse> {
  return (call, callback) => {
    const { node } = call.request;
    enroll(authority, database, call.request).then(
      (response) => {
        log.info({ node }, 'agent enrolled');
        callback(null, response);
      },
      (error: unknown) => {
        const known = error instanceof FleetError;
        log.warn({ err: error, node, peer: call.getPeer() }, 'enrollment refused');
        callback({
          code: statusOf(error),
          details: known ? `${error.code}: ${error.message}` : 'the controller failed; see its log',
        });
      },
    );
  };
}

async function enroll(
  authority: Authority | undefined,
  database: Database,
  { token, node, signingRequest }: EnrollRequest,
): Promise<EnrollResponse> {
  if (authority === undefined) {
    throw new FleetError('ENROLLMENT_INVALID', 'this controller takes agents without certificates (grpc.insecure)');
  }
  if (!NODE_NAME.test(node)) throw new FleetError('ENROLLMENT_INVALID', 'a node is named by letters, digits and . _ -');
  const request = await authority.readRequest(signingRequest, node);
  const serial = newSerial();
  // Issued first: when the token turns out to be spent, the certificate is simply never given out.
  const certificate = await authority.issue(request, node, serial);
  await database.transaction(async (sql) => {
    const { id } = await spendEnrollment(sql, token, node, serial);
    await audit(sql, `agent:${node}`, 'node.enroll', { node, serial, enrollment: id });
  });
  return { certificate, authority: authority.certificate };
}

function statusOf(error: unknown): grpc.status {
  if (!(error instanceof FleetError)) return grpc.status.INTERNAL;
  return error.code === 'UNAVAILABLE' ? grpc.status.UNAVAILABLE : grpc.status.UNAUTHENTICATED;
}
