/** Certificates of a secure cluster under KWDB's names: one authority, one node certificate for all, one for root. */
import 'reflect-metadata';
import { webcrypto } from 'node:crypto';
import { isIP } from 'node:net';
import * as x509 from '@peculiar/x509';

x509.cryptoProvider.set(webcrypto);
const KEY = { name: 'ECDSA', namedCurve: 'P-256' } as const;
const SIGNING = { name: 'ECDSA', hash: 'SHA-256' } as const;
const DAY_MS = 86_400_000;

/** File names in `--certs-dir` and their contents (PEM). `addresses`: what the node certificate is good for. */
export async function makeCertificates(addresses: readonly string[]): Promise<Record<string, string>> {
  const authorityKeys = await webcrypto.subtle.generateKey(KEY, true, ['sign', 'verify']);
  const authority = await x509.X509CertificateGenerator.createSelfSigned({
    name: 'CN=stand-in authority',
    ...validity(),
    keys: authorityKeys,
    signingAlgorithm: SIGNING,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign, true),
    ],
  });
  const names = [...new Set([...addresses, '127.0.0.1', 'localhost'])];
  const alternatives = new x509.SubjectAlternativeNameExtension(
    names.map((value) => ({ type: isIP(value) === 0 ? ('dns' as const) : ('ip' as const), value })),
  );
  const leaf = async (subject: string, extensions: x509.Extension[]) => {
    const keys = await webcrypto.subtle.generateKey(KEY, true, ['sign', 'verify']);
    const certificate = await x509.X509CertificateGenerator.create({
      subject,
      issuer: authority.subject,
      ...validity(),
      publicKey: keys.publicKey,
      signingKey: authorityKeys.privateKey,
      signingAlgorithm: SIGNING,
      extensions,
    });
    return { certificate: certificate.toString('pem'), key: await pem(keys.privateKey) };
  };
  const [node, root] = await Promise.all([leaf('CN=node', [alternatives]), leaf('CN=root', [])]);
  return {
    'ca.crt': authority.toString('pem'),
    'node.crt': node.certificate,
    'node.key': node.key,
    'client.root.crt': root.certificate,
    'client.root.key': root.key,
  };
}

function validity(): { notBefore: Date; notAfter: Date } {
  return { notBefore: new Date(Date.now() - DAY_MS), notAfter: new Date(Date.now() + 365 * DAY_MS) };
}

async function pem(key: webcrypto.CryptoKey): Promise<string> {
  const der = Buffer.from(await webcrypto.subtle.exportKey('pkcs8', key));
  const lines = der.toString('base64').replace(/(.{64})(?=.)/g, '$1\n');
  return `-----BEGIN PRIVATE KEY-----\n${lines}\n-----END PRIVATE KEY-----\n`;
}
