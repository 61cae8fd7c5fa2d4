import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer as createHttpServer, type RequestListener } from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import { type AddressInfo, createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { makeCertificates } from '../../../test/standin/certificates.ts';
import { httpHealth, isListening } from '../src/host/http-health.ts';

const NOT = { serving: false, ready: false };
const starting: RequestListener = (request, response) =>
  void response.writeHead(request.url?.includes('ready') === true ? 503 : 200).end('{}');

async function listening(server: Server): Promise<{ host: string; port: number }> {
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  onTestFinished(() => void server.close());
  return { host: '127.0.0.1', port: (server.address() as AddressInfo).port };
}

async function authorityFile(certificates: Record<string, string>): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'kwfleet-health-'));
  onTestFinished(() => rm(directory, { recursive: true, force: true }));
  await writeFile(join(directory, 'ca.crt'), certificates['ca.crt'] ?? '');
  return join(directory, 'ca.crt');
}

test('over TLS only a certificate of the own authority counts, and nothing that speaks in the clear', async () => {
  const [own, other] = [await makeCertificates(['db1']), await makeCertificates(['127.0.0.1'])];
  const authority = await authorityFile(own);
  const serve = (certificates: Record<string, string>) => {
    const [cert, key] = [certificates['node.crt'] ?? '', certificates['node.key'] ?? ''];
    return listening(createHttpsServer({ cert, key }, (_request, response) => response.end('{}')));
  };
  // It need not name the address: the question never leaves the host.
  expect(await httpHealth({ ...(await serve(own)), authority }, 2000)).toEqual({ serving: true, ready: true });
  expect(await httpHealth({ ...(await serve(other)), authority }, 2000)).toEqual(NOT);
  const clear = await listening(createHttpServer((_request, response) => response.end('{}')));
  expect(await httpHealth({ ...clear, authority }, 2000)).toEqual(NOT);
  expect(await httpHealth(clear, 2000)).toEqual({ serving: true, ready: true });
});

test('a process that serves and takes no clients yet, one that hangs, and nobody', async () => {
  expect(await httpHealth(await listening(createHttpServer(starting)), 2000)).toEqual({ serving: true, ready: false });
  const mute = await listening(createServer(() => {}));
  expect(await httpHealth(mute, 200)).toEqual(NOT);
  expect(await isListening(mute, 200)).toBe(true);
  const closed = createServer();
  const at = await listening(closed);
  await new Promise((resolve) => closed.close(resolve));
  expect(await isListening(at, 200)).toBe(false);
});
