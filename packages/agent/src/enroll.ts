/** How an agent gets its certificates: a key pair made here and a signing request, for a one-time token or the certificate before. */
import 'reflect-metadata';
import { createHash, createPrivateKey, webcrypto, X509Certificate } from 'node:crypto';
import { mkdir, readFile, rename } from 'node:fs/promises';
import { join } from 'node:path';
import { connect, type DetailedPeerCertificate } from 'node:tls';
import * as grpc from '@grpc/grpc-js';
import { FleetError } from '@kwfleet/core';
import { agentGateway, type EnrollResponse, enrollment, isRenewable } from '@kwfleet/protocol';
import * as x509 from '@peculiar/x509';
import type { LinkSecurity } from './config.ts';
import { askOnce, controllerClient, splitAddress } from './controller-client.ts';
import { replaceFile, syncDirectory } from './journal/file-storage.ts';

export type Identity = { readonly certificate: Buffer; readonly key: Buffer; readonly authority: Buffer };

type Enrollment = Extract<LinkSecurity, { kind: 'enrollment' }>;

const KEY = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };
const CALL_TIMEOUT_MS = 20_000;
const FILES = { certificate: 'agent.crt', key: 'agent.key', authority: 'authority.crt' } as const;
/** Of a certificate that is about to be put in place. */
const NEXT_KEY = 'agent.key.next';

/** The identity kept in `<state_dir>/tls`, or a new one for the token. Throws ENROLLMENT_INVALID or UNAVAILABLE. */
export async function enrolledIdentity(
  stateDir: string,
  node: string,
  address: string,
  security: Enrollment,
): Promise<Identity> {
  const kept = await keptIdentity(stateDir);
  if (kept !== undefined && isCurrent(kept.certificate)) return kept;
  const token = (await readFile(security.tokenFile, 'utf8').catch(missingToken(security.tokenFile))).trim();
  const authority = await presentedAuthority(address, security.authoritySha256);
  return obtain(stateDir, node, authority, (request) =>
    call(controllerClient(address, { authority }), enrollment.enroll, { token, node, signingRequest: request }),
  );
}

/**
 * The identity that follows this one, kept in its place; undefined while half of its time is not over. Throws
 * ENROLLMENT_INVALID or UNAVAILABLE; then the one before is still the one that is kept.
 */
export async function renewedIdentity(
  stateDir: string,
  node: string,
  address: string,
  identity: Identity,
): Promise<Identity | undefined> {
  const { validFrom, validTo } = new X509Certificate(identity.certificate);
  if (!isRenewable(validFrom, validTo, Date.now())) return undefined;
  return obtain(stateDir, node, identity.authority, (request) =>
    call(controllerClient(address, identity), agentGateway.renewCertificate, { signingRequest: request }),
  );
}

/** A key made here, a certificate for it that is checked, and both kept. */
async function obtain(
  stateDir: string,
  node: string,
  authority: Buffer,
  ask: (request: string) => Promise<EnrollResponse>,
): Promise<Identity> {
  const { privateKey, request } = await signingRequest(node);
  const response = await ask(request);
  checkResponse(response, node, authority);
  return keep(stateDir, privateKey, response);
}

/** The key first, beside the one in use; then the certificate; then the key takes its place. At each moment one pair is whole. */
async function keep(stateDir: string, privateKey: string, response: EnrollResponse): Promise<Identity> {
  const directory = join(stateDir, 'tls');
  await mkdir(directory, { recursive: true, mode: 0o700 });
  await replaceFile(join(directory, NEXT_KEY), privateKey);
  await replaceFile(join(directory, FILES.authority), response.authority);
  await replaceFile(join(directory, FILES.certificate), response.certificate);
  await rename(join(directory, NEXT_KEY), join(directory, FILES.key));
  await syncDirectory(directory);
  return {
    certificate: Buffer.from(response.certificate),
    key: Buffer.from(privateKey),
    authority: Buffer.from(response.authority),
  };
}

/** What `keep` left, put right where it was cut off; undefined when there is no whole pair. */
async function keptIdentity(stateDir: string): Promise<Identity | undefined> {
  const file = (name: string) => join(stateDir, 'tls', name);
  const pairWith = (key: string) =>
    readIdentity({ certificate: file(FILES.certificate), key: file(key), authority: file(FILES.authority) })
      .then((found) => (isPair(found) ? found : undefined))
      .catch(() => undefined);
  const whole = await pairWith(FILES.key);
  if (whole !== undefined) return whole;
  const cutOff = await pairWith(NEXT_KEY);
  if (cutOff !== undefined) await rename(file(NEXT_KEY), file(FILES.key));
  return cutOff;
}

const isPair = ({ certificate, key }: Identity): boolean =>
  new X509Certificate(certificate).checkPrivateKey(createPrivateKey(key));

/** Reads the three PEM files. */
export async function readIdentity(files: {
  readonly certificate: string;
  readonly key: string;
  readonly authority: string;
}): Promise<Identity> {
  const [certificate, key, authority] = await Promise.all(
    [files.certificate, files.key, files.authority].map((file) => readFile(file)),
  );
  return { certificate, key, authority } as Identity;
}

function missingToken(file: string): (error: unknown) => never {
  return (error) => {
    throw new FleetError('ENROLLMENT_INVALID', `the one-time token ${file} cannot be read`, { cause: error });
  };
}

function isCurrent(pem: Buffer): boolean {
  return Date.parse(new X509Certificate(pem).validTo) > Date.now();
}

/**
 * The authority that the controller presents with its certificate, checked against the pinned fingerprint before the
 * token is shown to anybody. Without a pin it is trusted on this first use.
 */
async function presentedAuthority(address: string, sha256: string | undefined): Promise<Buffer> {
  const { host, port } = splitAddress(address);
  const chain = await peerChain(host, port);
  const found =
    sha256 === undefined
      ? chain.at(-1)
      : chain.find((certificate) => createHash('sha256').update(certificate.raw).digest('hex') === sha256);
  const authority = found === undefined ? undefined : new X509Certificate(found.raw);
  if (authority === undefined || !authority.ca) {
    throw new FleetError(
      'ENROLLMENT_INVALID',
      `${address} does not present the authority ${sha256 ?? 'of its certificate'}`,
    );
  }
  return Buffer.from(authority.toString());
}

/** Every certificate the server sends. Nothing is verified here: the caller does, and TLS does at the next connection. */
function peerChain(host: string, port: number): Promise<DetailedPeerCertificate[]> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host, port, rejectUnauthorized: false, ALPNProtocols: ['h2'] });
    const failed = (reason: string, cause?: unknown) => {
      socket.destroy();
      reject(new FleetError('UNAVAILABLE', `the controller ${host}:${port} cannot be reached: ${reason}`, { cause }));
    };
    socket.setTimeout(CALL_TIMEOUT_MS, () => failed('no answer'));
    socket.once('error', (error) => failed(error.message, error));
    socket.once('secureConnect', () => {
      const chain: DetailedPeerCertificate[] = [];
      let next: DetailedPeerCertificate | undefined = socket.getPeerCertificate(true);
      while (next?.raw !== undefined && !chain.some((seen) => seen.raw.equals(next?.raw as Buffer))) {
        chain.push(next);
        next = next.issuerCertificate;
      }
      socket.destroy();
      resolve(chain);
    });
  });
}

/** A new key (PEM), and the request (PEM) for a certificate that names the node. */
export async function signingRequest(node: string): Promise<{ privateKey: string; request: string }> {
  x509.cryptoProvider.set(webcrypto as unknown as Parameters<typeof x509.cryptoProvider.set>[0]);
  const keys = await webcrypto.subtle.generateKey(KEY, true, ['sign', 'verify']);
  const request = await x509.Pkcs10CertificateRequestGenerator.create({
    name: [{ CN: [node] }],
    keys,
    signingAlgorithm: KEY,
  });
  const pkcs8 = await webcrypto.subtle.exportKey('pkcs8', keys.privateKey);
  return { privateKey: x509.PemConverter.encode(pkcs8, 'PRIVATE KEY'), request: request.toString('pem') };
}

/** Asks once, and closes the client. */
function call<Request>(
  client: grpc.Client,
  method: grpc.MethodDefinition<Request, EnrollResponse>,
  request: Request,
): Promise<EnrollResponse> {
  return askOnce(client, method, request, CALL_TIMEOUT_MS)
    .catch((error: Partial<grpc.ServiceError>) => {
      const refused = error.code === grpc.status.UNAUTHENTICATED || error.code === grpc.status.PERMISSION_DENIED;
      const code = refused ? 'ENROLLMENT_INVALID' : 'UNAVAILABLE';
      throw new FleetError(code, `no certificate was given: ${error.details ?? 'no answer'}`, { cause: error });
    })
    .finally(() => client.close());
}

function checkResponse(response: EnrollResponse, node: string, authority: Buffer): void {
  const certificate = new X509Certificate(response.certificate);
  const named = certificate.subject.split('\n').includes(`CN=${node}`);
  const issued = certificate.verify(new X509Certificate(authority).publicKey);
  const same = new X509Certificate(response.authority).fingerprint256 === new X509Certificate(authority).fingerprint256;
  if (!named || !issued || !same) {
    throw new FleetError('ENROLLMENT_INVALID', `the certificate is not one of this authority for ${node}`);
  }
}
