/** Trades a one-time token and a signing request for a client certificate, and that for the next one. */
import * as grpc from '@grpc/grpc-js';
import { FleetError } from '@kwfleet/core';
import { type EnrollRequest, type EnrollResponse, isRenewable, type RenewCertificateRequest } from '@kwfleet/protocol';
import type { Logger } from 'pino';
import { spendEnrollment, succeedCertificate } from '../store/access.ts';
import { audit } from '../store/audit.ts';
import type { Database, Sql } from '../store/database.ts';
import { type Authority, newSerial } from './authority.ts';
import type { Caller } from './credentials.ts';

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

/** Answers `RenewCertificate`; `caller`: by the certificate that the call is made with. */
export function renewCertificate(
  call: grpc.ServerUnaryCall<RenewCertificateRequest, EnrollResponse>,
  callback: grpc.sendUnaryData<EnrollResponse>,
  caller: Caller | undefined,
  parts: Parts,
): void {
  const from = { what: 'renewal', node: caller?.node, peer: call.getPeer() };
  answer(renew(parts, caller, call.request), callback, from, parts.log);
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

async function enroll(parts: Parts, { token, node, signingRequest }: EnrollRequest): Promise<EnrollResponse> {
  if (parts.authority === undefined) {
    throw new FleetError('ENROLLMENT_INVALID', 'this controller takes agents without certificates (grpc.insecure)');
  }
  if (!NODE_NAME.test(node)) throw new FleetError('ENROLLMENT_INVALID', 'a node is named by letters, digits and . _ -');
  return certify(parts.authority, parts.database, { node, signingRequest }, async (sql, serial) => {
    const { id } = await spendEnrollment(sql, token, node, serial);
    await audit(sql, `agent:${node}`, 'node.enroll', { node, serial, enrollment: id });
  });
}

async function renew(
  { authority, database }: Parts,
  caller: Caller | undefined,
  { signingRequest }: RenewCertificateRequest,
): Promise<EnrollResponse> {
  if (authority === undefined || caller === undefined) {
    throw new FleetError('ENROLLMENT_INVALID', 'there is no certificate that could be renewed');
  }
  const { node, serial: before, validFrom, validTo } = caller;
  if (!isRenewable(validFrom, validTo, Date.now())) {
    throw new FleetError(
      'ENROLLMENT_INVALID',
      `the certificate of ${node} is good until ${validTo}: half of its time is not over`,
    );
  }
  return certify(authority, database, { node, signingRequest }, async (sql, serial) => {
    await succeedCertificate(sql, node, before, serial);
    await audit(sql, `agent:${node}`, 'node.renew', { node, serial, before });
  });
}

/** Issued before it is stored: when that is refused (a spent token, a revoked certificate), it is simply never given out. */
async function certify(
  authority: Authority,
  database: Database,
  { node, signingRequest }: { readonly node: string; readonly signingRequest: string },
  store: (sql: Sql, serial: string) => Promise<void>,
): Promise<EnrollResponse> {
  const request = await authority.readRequest(signingRequest, node);
  const serial = newSerial();
  const certificate = await authority.issue(request, node, serial);
  await database.transaction((sql) => store(sql, serial));
  return { certificate, authority: authority.certificate };
}

function statusOf(error: unknown): grpc.status {
  if (!(error instanceof FleetError)) return grpc.status.INTERNAL;
  return error.code === 'UNAVAILABLE' ? grpc.status.UNAVAILABLE : grpc.status.UNAUTHENTICATED;
}
