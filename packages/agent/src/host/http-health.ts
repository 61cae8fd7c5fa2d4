import { readFile } from 'node:fs/promises';
import { request as httpRequest } from 'node:http';
import { request as httpsRequest } from 'node:https';

/** Whether the process serves, and whether the node takes clients. */
export type HttpHealth = { readonly serving: boolean; readonly ready: boolean };

const BODY_LIMIT_BYTES = 64 * 1024;

/** Where a node's HTTP is asked; `authority` is the file of the cluster's own certificate authority, where it speaks TLS. */
export type Endpoint = { readonly host: string; readonly port: number; readonly authority?: string };

/**
 * Asks `/health` and `/health?ready=1` on the node's HTTP port. Over TLS the certificate must come from the cluster's own
 * authority; whether it names the address is not asked, since the request never leaves the host. TLCP has no client
 * in Node: there `ready` stays what `node status` proves, see observe.ts.
 */
export async function httpHealth({ host, port, authority }: Endpoint, timeoutMs: number): Promise<HttpHealth> {
  const trusted = authority === undefined ? undefined : await readFile(authority);
  const ask = (path: string) => isOk({ host, port, path, timeoutMs, authority: trusted });
  const [serving, ready] = await Promise.all([ask('/health'), ask('/health?ready=1')]);
  return { serving, ready: serving && ready };
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
    request.once('error', (error: NodeJS.ErrnoException) => {
      // Something answers that speaks no TLS at all: it is asked as it speaks.
      if (authority !== undefined && error.code === 'EPROTO') {
        clearTimeout(timer);
        resolve(isOk({ host, port, path, timeoutMs, authority: undefined }));
      } else done(false);
    });
    request.once('close', () => done(false));
    request.end();
  });
}
