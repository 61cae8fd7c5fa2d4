/** The controller's own certificate authority: its server certificate, and one client certificate for each agent. */
import 'reflect-metadata';
import { randomBytes, webcrypto, X509Certificate } from 'node:crypto';
import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import { isIP } from 'node:net';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { FleetError } from '@kwfleet/core';
import { peerName } from '@kwfleet/protocol';
import * as x509 from '@peculiar/x509';

export type Authority = {
  /** PEM. What agents pin. */
  readonly certificate: string;
  /** SHA-256 of its DER, hexadecimal. */
  readonly fingerprint: string;
  readonly server: { readonly certificate: string; readonly key: string };
  /** Reads a signing request (PEM). Throws ENROLLMENT_INVALID unless it is whole, signed by its key, and for `node`. */
  readRequest(pem: string, node: string): Promise<x509.Pkcs10CertificateRequest>;
  /** A client certificate (PEM) with the node's name as its common name. */
  issue(request: x509.Pkcs10CertificateRequest, node: string, serial: string): Promise<string>;
};

const { subtle } = webcrypto;
x509.cryptoProvider.set(webcrypto);
const KEY = { name: 'ECDSA', namedCurve: 'P-256' } as const;
const SIGNING = { name: 'ECDSA', hash: 'SHA-256' } as const;
const DAY_MS = 86_400_000;
const AUTHORITY_DAYS = 3_650;
const SERVER_DAYS = 825;
/** An agent asks for its next certificate when half of this is over: a host may be away for the other half. */
const AGENT_DAYS = 825;
/** A server certificate is made anew at a start when less than this is left. */
const RENEW_DAYS = 90;
/** Hosts' clocks differ a little; a certificate must not be from the future. */
const BACKDATE_MS = 3_600_000;

/** Hexadecimal digits of a serial number; it begins with 00, so that it is positive. */
export const SERIAL_DIGITS = 32;
export const newSerial = (): string => `00${randomBytes(SERIAL_DIGITS / 2 - 1).toString('hex')}`;

/** Reads the authority of `<dataDir>/pki`, or makes it at the first start. */
export async function openAuthority(dataDir: string, names: readonly string[]): Promise<Authority> {
  const folder = join(dataDir, 'pki');
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const { certificate, key } = (await readPair(folder, 'ca')) ?? (await makeAuthority(folder));
  const root = new x509.X509Certificate(certificate);
  const rootKey = await importKey(key);
  const serverNames = [...new Set(['localhost', '127.0.0.1', '::1', hostname(), ...names])];
  const kept = await readPair(folder, 'server');
  const server =
    kept !== undefined && isCurrent(kept.certificate, certificate, serverNames)
      ? kept
      : await makeServer(folder, root, rootKey, serverNames);
  return {
    certificate,
    fingerprint: new X509Certificate(certificate).fingerprint256.replaceAll(':', '').toLowerCase(),
    server,
    readRequest,
    issue: (request, node, serial) => issue(root, rootKey, request, node, serial),
  };
}

type Pair = { certificate: string; key: string };

async function readPair(folder: string, name: string): Promise<Pair | undefined> {
  try {
    const [certificate, key] = await Promise.all([
      readFile(join(folder, `${name}.crt`), 'utf8'),
      readFile(join(folder, `${name}.key`), 'utf8'),
    ]);
    return { certificate, key };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

/** The certificate is written last: a pair is whole once it is there. */
async function writePair(folder: string, name: string, { certificate, key }: Pair): Promise<void> {
  for (const [file, text] of [
    [`${name}.key`, key],
    [`${name}.crt`, certificate],
  ] as const) {
    const partial = join(folder, `${file}.partial`);
    await writeFile(partial, text, { mode: 0o600, flush: true });
    await rename(partial, join(folder, file));
  }
}

async function makeAuthority(folder: string): Promise<Pair> {
  const keys = await subtle.generateKey(KEY, true, ['sign', 'verify']);
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: newSerial(),
    name: `CN=kwfleet authority ${randomBytes(4).toString('hex')}`,
    ...validity(AUTHORITY_DAYS),
    keys,
    signingAlgorithm: SIGNING,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  const pair = { certificate: certificate.toString('pem'), key: await exportKey(keys.privateKey) };
  await writePair(folder, 'ca', pair);
  return pair;
}

async function makeServer(
  folder: string,
  root: x509.X509Certificate,
  rootKey: webcrypto.CryptoKey,
  names: readonly string[],
): Promise<Pair> {
  const keys = await subtle.generateKey(KEY, true, ['sign', 'verify']);
  const certificate = await x509.X509CertificateGenerator.create({
    serialNumber: newSerial(),
    subject: 'CN=kwfleet controller',
    issuer: root.subject,
    ...validity(SERVER_DAYS),
    publicKey: keys.publicKey,
    signingKey: rootKey,
    signingAlgorithm: SIGNING,
    extensions: [
      ...(await leafExtensions(root, keys.publicKey, x509.ExtendedKeyUsage.serverAuth)),
      new x509.SubjectAlternativeNameExtension(
        names.map((value) => ({ type: isIP(value) === 0 ? ('dns' as const) : ('ip' as const), value })),
      ),
    ],
  });
  const pair = { certificate: certificate.toString('pem'), key: await exportKey(keys.privateKey) };
  await writePair(folder, 'server', pair);
  return pair;
}

function isCurrent(certificate: string, authority: string, names: readonly string[]): boolean {
  const held = new X509Certificate(certificate);
  const covers = (name: string) => (isIP(name) === 0 ? held.checkHost(name) : held.checkIP(name)) !== undefined;
  return (
    held.checkIssued(new X509Certificate(authority)) &&
    Date.parse(held.validTo) - Date.now() > RENEW_DAYS * DAY_MS &&
    names.every(covers)
  );
}

async function readRequest(pem: string, node: string): Promise<x509.Pkcs10CertificateRequest> {
  let request: x509.Pkcs10CertificateRequest;
  try {
    request = new x509.Pkcs10CertificateRequest(pem);
    if (!(await request.verify())) throw new TypeError('it is not signed by its own key');
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new FleetError('ENROLLMENT_INVALID', `the signing request cannot be used: ${reason}`, { cause });
  }
  const [name, ...others] = request.subjectName.getField('CN');
  if (name !== node || others.length > 0) {
    throw new FleetError('ENROLLMENT_INVALID', `the signing request is for "${name ?? ''}", not for ${node}`);
  }
  return request;
}

/** Only the key is taken from the request; what the certificate may be used for is ours to say. */
async function issue(
  root: x509.X509Certificate,
  rootKey: webcrypto.CryptoKey,
  request: x509.Pkcs10CertificateRequest,
  node: string,
  serial: string,
): Promise<string> {
  const certificate = await x509.X509CertificateGenerator.create({
    serialNumber: serial,
    // As parts, not as text: a name must not be able to write further fields.
    subject: [{ CN: [node] }],
    issuer: root.subject,
    ...validity(AGENT_DAYS),
    publicKey: request.publicKey,
    signingKey: rootKey,
    signingAlgorithm: SIGNING,
    extensions: [
      ...(await leafExtensions(
        root,
        request.publicKey,
        x509.ExtendedKeyUsage.clientAuth,
        x509.ExtendedKeyUsage.serverAuth,
      )),
      // By this name, and no other, it is a server: to its peers.
      new x509.SubjectAlternativeNameExtension([{ type: 'dns', value: peerName(node) }]),
    ],
  });
  return certificate.toString('pem');
}

async function leafExtensions(
  root: x509.X509Certificate,
  publicKey: x509.PublicKeyType,
  ...usages: x509.ExtendedKeyUsage[]
): Promise<x509.Extension[]> {
  return [
    new x509.BasicConstraintsExtension(false, undefined, true),
    new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
    new x509.ExtendedKeyUsageExtension(usages),
    await x509.SubjectKeyIdentifierExtension.create(publicKey),
    await x509.AuthorityKeyIdentifierExtension.create(root),
  ];
}

const validity = (days: number) => ({
  notBefore: new Date(Date.now() - BACKDATE_MS),
  notAfter: new Date(Date.now() + days * DAY_MS),
});

async function exportKey(key: webcrypto.CryptoKey): Promise<string> {
  return x509.PemConverter.encode(await subtle.exportKey('pkcs8', key), 'PRIVATE KEY');
}

async function importKey(pem: string): Promise<webcrypto.CryptoKey> {
  return subtle.importKey('pkcs8', x509.PemConverter.decodeFirst(pem), KEY, false, ['sign']);
}
