import { readFile } from 'node:fs/promises';
import { request as httpRequest } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { connect } from 'node:net';

/** Whether the process serves, and whether the node takes clients. */
export type HttpHealth = { readonly serving: boolean; readonly ready: boolean };

const BODY_LIMIT_BYTES = 64 * 1024;

/** Where a node's HTTP is asked; `authority` is the file of the cluster's own certificate authority, where it speaks TLS. */
export type Endpoint = { readonly host: string; readonly port: number; readonly authority?: string };

/**
 * Asks `/health` and `/health?ready=1` on the node's HTTP port. Over TLS the certificate must come from the cluster's own
 * authority; whether it names the address is not asked, since the request never leaves the host. TLCP has no client
 * in Node: see isListening.
 */
export async function httpHealth({ host, port, authority }: Endpoint, timeoutMs: number): Promise<HttpHealth> {
  const trusted = authority === undefined ? undefined : await readFile(authority);
  const ask = (path: string) => isOk({ host, port, path, timeoutMs, authority: trusted });
  const [serving, ready] = await Promise.all([ask('/health'), ask('/health?ready=1')]);
  return { serving, ready: serving && ready };
}

/** Whether anybody takes connections there: all that can be asked of a port on which TLCP is spoken. */
export function isListening({ host, port }: Endpoint, timeoutMs: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host, port });
    const done = (answer: boolean) => {
      clearTimeout(timer);
      socket.destroy();
      resolve(answer);
    };
    const timer = setTimeout(() => done(false), timeoutMs);
    socket.once('connect', () => done(true));
    socket.once('error', () => done(false));
  });
}

type Question = {
  readonly host: string;
  readonly port: number;
  readonly path: string;
  readonly timeoutMs: number;
  readonly authority: Buffer | undefined;
};

/** Anything but a 200 in time is a no: that nobody listens, a wrong certificate, a hanging process. */
function isOk({ host, port, path, timeoutMs, authority }: Question): Promise<boolean> {
  return new Promise((resolve) => {
    const options = { host, port, path, agent: false, headers: { connection: 'close' } };
    const request =
      authority === undefined
        ? httpRequest(options)
        : httpsRequest({ ...options, ca: authority, checkServerIdentity: () => undefined });
    const timer = setTimeout(() => request.destroy(), timeoutMs);
    const done = (answer: boolean) => {
      clearTimeout(timer);
      resolve(answer);
      request.destroy();
    };
    request.once('response', (response) => {
      let size = 0;
      response.on('data', (chunk: Buffer) => {
        size += chunk.length;
        if (size > BODY_LIMIT_BYTES) done(false);
      });
      response.once('end', () => done(response.statusCode === 200));
      response.once('error', () => done(false));
    });
    request.once('error', () => done(false));
    request.once('close', () => done(false));
    request.end();
  });
}
