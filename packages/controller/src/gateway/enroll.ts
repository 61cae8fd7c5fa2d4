/** Trades a one-time token and a signing request for a client certificate, and that for the next one. */
import * as grpc from '@grpc/grpc-js';
import { FleetError } from '@kwfleet/core';
import { type EnrollRequest, type EnrollResponse, isRenewable, type RenewCertificateRequest } from '@kwfleet/protocol';
import type { Logger } from 'pino';
import { spendEnrollment, succeedCertificate } from '../store/access.ts';
import { audit } from '../store/audit.ts';
import type { Database } from '../store/database.ts';
import { type Authority, newSerial } from './authority.ts';
import type { Call, Caller } from './credentials.ts';

const NODE_NAME = /^[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?$/;

type Parts = { readonly authority: Authority | undefined; readonly database: Database; readonly log: Logger };

/** Answers `Enroll`. */
export function enrollHandler(parts: Parts): grpc.handleUnaryCall<EnrollRequest, EnrollResponse> {
  return (call, callback) => {
    const { node } = call.request;
    const from = { what: 'enrollment', node, peer: call.getPeer() };
    answer(enroll(parts, call.request), callback, from, parts.log);
  };
}

/** Answers `RenewCertificate`, for a caller that `callerOf` knows. */
export function renewHandler(
  parts: Parts,
  callerOf: (call: Call) => Caller | undefined,
): grpc.handleUnaryCall<RenewCertificateRequest, EnrollResponse> {
  return (call, callback) => {
    const caller = callerOf(call);
    const from = { what: 'renewal', node: caller?.node, peer: call.getPeer() };
    answer(renew(parts, caller, call.request), callback, from, parts.log);
  };
}

function answer(
  given: Promise<EnrollResponse>,
  callback: grpc.sendUnaryData<EnrollResponse>,
  from: { what: string; node: string | undefined; peer: string },
  log: Logger,
): void {
  given.then(
    (response) => {
      log.info(from, 'a certificate was given');
      callback(null, response);
    },
    (error: unknown) => {
      const known = error instanceof FleetError;
      log.warn({ err: error, ...from }, 'a certificate was refused');
      callback({
        code: statusOf(error),
        details: known ? `${error.code}: ${error.message}` : 'the controller failed; see its log',
      });
    },
  );
}

async function enroll(
  { authority, database }: Parts,
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

async function renew(
  { authority, database }: Parts,
  caller: Caller | undefined,
  { signingRequest }: RenewCertificateRequest,
): Promise<EnrollResponse> {
  if (authority === undefined || caller === undefined) {
    throw new FleetError('ENROLLMENT_INVALID', 'there is no certificate that could be renewed');
  }
  const { node, serial, validFrom, validTo } = caller;
  if (!isRenewable(validFrom, validTo, Date.now())) {
    throw new FleetError(
      'ENROLLMENT_INVALID',
      `the certificate of ${node} is good until ${validTo}: half of its time is not over`,
    );
  }
  const request = await authority.readRequest(signingRequest, node);
  const next = newSerial();
  const certificate = await authority.issue(request, node, next);
  await database.transaction(async (sql) => {
    await succeedCertificate(sql, node, serial, next);
    await audit(sql, `agent:${node}`, 'node.renew', { node, serial: next, before: serial });
  });
  return { certificate, authority: authority.certificate };
}

function statusOf(error: unknown): grpc.status {
  if (!(error instanceof FleetError)) return grpc.status.INTERNAL;
  return error.code === 'UNAVAILABLE' ? grpc.status.UNAVAILABLE : grpc.status.UNAUTHENTICATED;
}
