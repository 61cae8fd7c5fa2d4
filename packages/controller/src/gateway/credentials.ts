/** Who is at the other end of a gRPC call. */
import * as grpc from '@grpc/grpc-js';
import { type Authority, SERIAL_DIGITS } from './authority.ts';

/**
 * One port for all: a client certificate is asked for and, where one is given, checked against our authority by TLS
 * itself; whether a call needs one is decided call by call, since enrolling agents have none yet.
 */
export function serverCredentials(authority: Authority | undefined): grpc.ServerCredentials {
  if (authority === undefined) return grpc.ServerCredentials.createInsecure();
  const ca = { caCertificate: Buffer.from(authority.certificate) };
  const identity = {
    // The authority goes along: an agent that pins its fingerprint finds it before it trusts anybody.
    certificate: Buffer.from(`${authority.server.certificate}\n${authority.certificate}`),
    privateKey: Buffer.from(authority.server.key),
  };
  // grpc-js adds the one who waits for news only after it asked for them: they must come a moment later.
  const provider: grpc.experimental.CertificateProvider = {
    addCaCertificateListener: (listener) => queueMicrotask(() => listener(ca)),
    removeCaCertificateListener: () => {},
    addIdentityCertificateListener: (listener) => queueMicrotask(() => listener(identity)),
    removeIdentityCertificateListener: () => {},
  };
  return grpc.experimental.createCertificateProviderServerCredentials(provider, provider, false);
}

export type Call = Pick<grpc.ServerUnaryCall<unknown, unknown>, 'getAuthContext'>;

/** By the caller's certificate: the node, which of its certificates, and how long that is good. */
export type Caller = {
  readonly node: string;
  readonly serial: string;
  /** As OpenSSL writes dates. */
  readonly validFrom: string;
  readonly validTo: string;
};

/**
 * By the caller's certificate, which is of our authority; undefined when it has none. grpc-js hands out a certificate
 * only when TLS found it authorised.
 */
export function callerOf(call: Call): Caller | undefined {
  const certificate = call.getAuthContext().sslPeerCertificate;
  const node = certificate?.subject?.CN;
  if (certificate === undefined || typeof node !== 'string' || node === '') return undefined;
  const { serialNumber, valid_from: validFrom, valid_to: validTo } = certificate;
  return { node, serial: serialAsIssued(serialNumber), validFrom, validTo };
}

/** OpenSSL shows the number, `newSerial` writes all of its bytes. */
const serialAsIssued = (shown: string): string => shown.toLowerCase().padStart(SERIAL_DIGITS, '0');
