import 'reflect-metadata';
import { createHash, randomBytes, webcrypto } from 'node:crypto';
import { rm, writeFile } from 'node:fs/promises';
import { type AddressInfo, connect, createServer } from 'node:net';
import { join } from 'node:path';
import { pipeline } from 'node:stream';
import { createServer as createTlsServer } from 'node:tls';
import * as grpc from '@grpc/grpc-js';
import type { ActionResult } from '@kwfleet/core';
import { agentGateway, type EnrollResponse, enrollment, type PackageChunk, PROTOCOL } from '@kwfleet/protocol';
import * as x509 from '@peculiar/x509';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { controllerClient, splitAddress } from '../../agent/src/controller-client.ts';
import { pkg } from '../../core/test/builders.ts';
import { collectHeartbeats } from '../src/gateway/heartbeats.ts';
import { type Controller, controllerConfig, startController } from '../src/index.ts';
import { type Database, openDatabase } from '../src/store/database.ts';
import { someNodes, storeReport } from '../src/store/nodes.ts';
import { insertPackage } from '../src/store/packages.ts';
import { Agent, HEARTBEAT_MS } from './fake-agent.ts';
import { freshReport, log, putRun, reportCluster, temporaryDirectory, until, urlOf, usePostgres } from './support.ts';

const postgres = usePostgres();
let controller: Controller;
let database: Database;
let directory: string;
let authority: Buffer;
const open = new Set<{ close(): void }>();

beforeAll(async () => {
  directory = await temporaryDirectory();
  const settings = await postgres.settings().catch(() => undefined);
  if (settings === undefined) return;
  database = openDatabase(settings, log);
  controller = await startController(
    controllerConfig({
      data_dir: directory,
      rest: { port: 0 },
      grpc: { port: 0 },
      database: { url: urlOf(settings) },
      heartbeat_ms: HEARTBEAT_MS,
      log_level: 'silent',
    }),
  );
  authority = Buffer.from((await newEnrollment()).authority);
});
afterEach(() => {
  for (const one of open) one.close();
  open.clear();
});
afterAll(async () => {
  await controller?.close();
  await database?.close();
  await rm(directory, { recursive: true, force: true });
});

async function newEnrollment(node?: string): Promise<{ token: string; authority: string; fingerprint: string }> {
  const answer = await fetch(`${controller.restUrl}/v1/enrollments`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ ...(node && { node }) }),
  });
  return (await answer.json()) as { token: string; authority: string; fingerprint: string };
}

type Keys = { certificate: Buffer; key: Buffer };

async function signingRequest(node: string): Promise<{ key: Buffer; request: string }> {
  const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);
  const request = await x509.Pkcs10CertificateRequestGenerator.create({
    name: [{ CN: [node] }],
    keys,
    signingAlgorithm: algorithm,
  });
  const pkcs8 = await webcrypto.subtle.exportKey('pkcs8', keys.privateKey);
  return { key: Buffer.from(x509.PemConverter.encode(pkcs8, 'PRIVATE KEY')), request: request.toString('pem') };
}

function clientWith(keys?: Keys): grpc.Client {
  const client = controllerClient(controller.grpcAddress, { authority, ...keys });
  open.add(client);
  return client;
}

function callEnroll(token: string, node: string, request: string): Promise<EnrollResponse> {
  const { path, requestSerialize, responseDeserialize } = enrollment.enroll;
  const message = { token, node, signingRequest: request };
  return new Promise((resolve, reject) => {
    clientWith().makeUnaryRequest(path, requestSerialize, responseDeserialize, message, (error, response) =>
      error === null && response !== undefined ? resolve(response) : reject(error),
    );
  });
}

async function enrolled(node: string): Promise<Keys> {
  const { key, request } = await signingRequest(node);
  const { certificate } = await callEnroll((await newEnrollment(node)).token, node, request);
  return { certificate: Buffer.from(certificate), key };
}

/** An agent that is gone when the test is over. */
function agentOn(client: grpc.Client): Agent {
  const agent = new Agent(client);
  open.add(agent);
  return agent;
}

const nodeView = async (node: string, { restUrl } = controller) =>
  (await (await fetch(`${restUrl}/v1/nodes/${node}`)).json()) as { connected: boolean; state: string };

describe('enrollment', () => {
  it('gives a certificate for a one-time token, once', async () => {
    const { token, fingerprint } = await newEnrollment();
    expect(fingerprint).toMatch(/^[0-9a-f]{64}$/);
    const { request } = await signingRequest('once');
    expect((await callEnroll(token, 'once', request)).certificate).toContain('BEGIN CERTIFICATE');
    await expect(callEnroll(token, 'twice', (await signingRequest('twice')).request)).rejects.toMatchObject({
      code: grpc.status.UNAUTHENTICATED,
      details: expect.stringContaining('ENROLLMENT_INVALID'),
    });
  });

  it('refuses a request for another name, a mangled one, and a name that is none', async () => {
    const { token } = await newEnrollment();
    const { request } = await signingRequest('a');
    const refused = { code: grpc.status.UNAUTHENTICATED };
    await expect(callEnroll(token, 'b', request)).rejects.toMatchObject(refused);
    await expect(callEnroll(token, 'a', request.replace(/[A-Z]{4}/, 'AAAA'))).rejects.toMatchObject(refused);
    await expect(callEnroll(token, 'a/b', (await signingRequest('a/b')).request)).rejects.toMatchObject(refused);
    await expect(callEnroll(token, 'a', request)).resolves.toBeDefined();
  });
});

describe('a node that was removed from the fleet', () => {
  const remove = async (node: string) =>
    (await fetch(`${controller.restUrl}/v1/nodes/${node}`, { method: 'DELETE' })).status;
  const isKnown = async (node: string) => (await fetch(`${controller.restUrl}/v1/nodes/${node}`)).status === 200;
  async function connected(node: string, keys: Keys): Promise<Agent> {
    const agent = agentOn(clientWith(keys)).hello(node).beating();
    await agent.got('welcome');
    agent.send({ report: freshReport(`of-${node}`, 1, 1) });
    await until('it is known', () => isKnown(node));
    return agent;
  }

  it('is turned away, whatever it asks for, until it is enrolled anew', async () => {
    const keys = await enrolled('gone');
    const agent = await connected('gone', keys);
    const other = await connected('stays', await enrolled('stays'));
    expect(await remove('gone')).toBe(204);
    expect((await agent.ended())?.details).toContain('removed');
    const again = agentOn(clientWith(keys)).hello('gone');
    expect(await again.ended()).toMatchObject({ code: grpc.status.UNAUTHENTICATED });
    const { path, requestSerialize, responseDeserialize } = agentGateway.findPeers;
    const refused = await new Promise((resolve) => {
      const message = { sha256: 'a'.repeat(64), node: 'gone' };
      clientWith(keys).makeUnaryRequest(path, requestSerialize, responseDeserialize, message, (error) =>
        resolve(error?.code),
      );
    });
    expect(refused).toBe(grpc.status.UNAUTHENTICATED);
    expect(await isKnown('gone')).toBe(false);
    expect(other.status).toBeUndefined();
    await connected('gone', await enrolled('gone'));
    expect(await remove('gone-too')).toBe(404);
  });

  it('stays turned away by a controller that did not hear of it yet', async () => {
    const keys = await enrolled('unheard');
    await database.execute('UPDATE certificates SET revoked_at_ms = now_ms() WHERE node = $1', ['unheard']);
    expect(await agentOn(clientWith(keys)).hello('unheard').ended()).toMatchObject({
      code: grpc.status.UNAUTHENTICATED,
    });
    expect(await database.query('SELECT 1 FROM nodes WHERE node = $1', ['unheard'])).toEqual([]);
  });
});

describe('a controller at an IP address', () => {
  /** Carries bytes from another address of this machine to the controller. */
  async function relayOn(host: string): Promise<string> {
    const server = createServer((socket) => {
      const onward = connect(splitAddress(controller.grpcAddress));
      pipeline(socket, onward, socket, () => {});
    });
    await new Promise<void>((resolve) => server.listen(0, host, resolve));
    open.add(server);
    return `${host}:${(server.address() as AddressInfo).port}`;
  }

  it('must have a certificate for that very address', async () => {
    const ready = (address: string) => {
      const client = controllerClient(address, { authority });
      open.add(client);
      return new Promise<string>((resolve) => {
        client.waitForReady(Date.now() + 60_000, (error) => resolve(error?.message ?? 'ready'));
        const { path, requestSerialize, responseDeserialize } = agentGateway.fetchMetadata;
        client.makeUnaryRequest(path, requestSerialize, responseDeserialize, { name: 'root.json' }, (error) => {
          if (error?.code === grpc.status.UNAVAILABLE) resolve(error.details);
        });
      });
    };
    expect(await ready(controller.grpcAddress)).toBe('ready');
    expect(await ready(await relayOn('127.0.0.1'))).toBe('ready');
    expect(await ready(await relayOn('127.0.0.2'))).toMatch(/127\.0\.0\.2/);
  });

  it('is not named by it in the handshake, where only DNS names may stand', async () => {
    const names: string[] = [];
    const SNICallback = (name: string, done: (error: null) => void) => {
      names.push(name);
      done(null);
    };
    const server = createTlsServer({ SNICallback });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    open.add(server);
    const told: string[] = [];
    const warned = ({ message }: Error) => told.push(message);
    process.on('warning', warned);
    const client = controllerClient(`127.0.0.1:${(server.address() as AddressInfo).port}`, { authority });
    open.add(client);
    client.waitForReady(Date.now() + 60_000, () => {});
    await until('the client says hello', async () => names.length > 0);
    process.off('warning', warned);
    expect(names[0]).toBe('controller.kwfleet.invalid');
    expect(told).toEqual([]);
  });
});

describe('the stream of an agent', () => {
  it('needs a certificate of this authority, and of the node it speaks for', async () => {
    expect(await agentOn(clientWith()).hello('n').ended()).toMatchObject({ code: grpc.status.UNAUTHENTICATED });
    const keys = await enrolled('mine');
    const wrong = await agentOn(clientWith(keys)).hello('yours').ended();
    expect(wrong).toMatchObject({ code: grpc.status.PERMISSION_DENIED, details: expect.stringContaining('mine') });
    const foreign = await foreignKeys('mine');
    expect(await agentOn(clientWith(foreign)).hello('mine').ended()).toMatchObject({
      code: grpc.status.UNAUTHENTICATED,
    });
    expect(await agentOn(clientWith(keys)).hello('mine').got('welcome')).toMatchObject({
      welcome: { protocol: PROTOCOL, heartbeatMs: HEARTBEAT_MS },
    });
  });

  it('must begin with hello, in our protocol', async () => {
    const client = clientWith(await enrolled('rude'));
    const rude = agentOn(client);
    rude.send({ heartbeat: { clockMs: 0, serving: true, ready: true } });
    expect(await rude.ended()).toMatchObject({ code: grpc.status.FAILED_PRECONDITION });
    const old = await agentOn(client).hello('rude', { protocol: 99 }).ended();
    expect(old).toMatchObject({ code: grpc.status.FAILED_PRECONDITION, details: expect.stringContaining('99') });
  });

  it('ends when nothing is heard for three heartbeats, and its node is unknown from then on', async () => {
    const settings = await postgres.settings();
    const impatient = await startController(
      controllerConfig({
        data_dir: join(directory, 'impatient'),
        rest: { port: 0 },
        grpc: { port: 0, insecure: true },
        database: { url: urlOf(settings) },
        heartbeat_ms: 500,
        log_level: 'silent',
      }),
    );
    const its = openDatabase(settings, log);
    const client = new grpc.Client(impatient.grpcAddress, grpc.credentials.createInsecure());
    try {
      const [node = ''] = await reportCluster(its, 'quiet', 1);
      const silent = agentOn(client).hello(node);
      await silent.got('welcome');
      expect(await silent.ended()).toMatchObject({ code: grpc.status.DEADLINE_EXCEEDED });
      await until('it is unknown', async () => (await nodeView(node, impatient)).state === 'unknown');
    } finally {
      client.close();
      await impatient.close();
      await its.close();
    }
  });

  it('is the newest one of its node: an agent that comes back takes its own place', async () => {
    const client = clientWith(await enrolled('double'));
    const first = agentOn(client).hello('double').beating();
    await first.got('welcome');
    const second = agentOn(client).hello('double').beating();
    expect(await first.ended()).toMatchObject({ code: grpc.status.ABORTED });
    await second.got('welcome');
    second.send({ report: freshReport('double', 1, 1, 'standalone') });
    await until('it is connected', async () => (await nodeView('double')).connected);
    expect(second.status).toBeUndefined();
  });
});

describe('heartbeats', () => {
  /** What is written to this database waits for `held`; `begun` tells that it does. */
  function slowDatabase() {
    const [begun, held] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    const slow: Database = {
      ...database,
      query: async (text, values) => {
        begun.resolve();
        await held.promise;
        return database.query(text, values);
      },
    };
    return { slow, begun, held };
  }

  it('that are not written yet change nothing of a later report', async () => {
    const [node = ''] = await reportCluster(database, 'started', 1);
    const { slow, held } = slowDatabase();
    const heartbeats = collectHeartbeats(slow, 10, 60_000, log);
    const stream = `stream-${node}`;
    // By its clock one sees that the heartbeat was written.
    heartbeats.heard({ node, stream, clockMs: Date.now() + 3_600_000, serving: false, ready: false });
    await heartbeats.reported({ node, stream });
    await storeReport(database, node, freshReport('started', 1, 1), stream);
    held.resolve();
    const written = await until('the heartbeat is written', async () =>
      (await someNodes(database, [node])).find(({ clockSkewMs }) => clockSkewMs > 1_800_000),
    );
    await heartbeats.close();
    expect(written.report).toMatchObject({ serving: true, ready: true });
  });

  it('that are being written are waited for by a report', async () => {
    const [node = ''] = await reportCluster(database, 'overtaken', 1);
    const { slow, begun, held } = slowDatabase();
    const heartbeats = collectHeartbeats(slow, 10, 60_000, log);
    const stream = `stream-${node}`;
    heartbeats.heard({ node, stream, serving: false, ready: false });
    await begun.promise;
    let isWritten = false;
    const reported = heartbeats.reported({ node, stream }).then(async () => {
      await storeReport(database, node, freshReport('overtaken', 1, 1), stream);
      isWritten = true;
    });
    await expect.poll(async () => (await database.query('SELECT 1')).length).toBe(1);
    expect(isWritten).toBe(false);
    held.resolve();
    await reported;
    await heartbeats.close();
    const [facts] = await someNodes(database, [node]);
    expect(facts?.report.serving).toBe(true);
  });
});

describe('an action', () => {
  it('is delivered until its result is stored, which is said', async () => {
    const keys = await Promise.all([1, 2, 3].map((i) => enrolled(`n${i}`)));
    const agents = keys.map((pair, i) =>
      agentOn(clientWith(pair))
        .hello(`n${i + 1}`)
        .beating(),
    );
    for (const [i, agent] of agents.entries()) {
      await agent.got('welcome');
      agent.send({ report: freshReport('c1', i + 1) });
    }
    await until('the cluster is known', async () => (await nodeView('n3')).state === 'healthy');
    await putRun(database, 'c1');
    const [one] = agents as [Agent];
    const { action } = await one.got('action');
    expect(action).toMatchObject({ node: 'n1', attempt: 1 });

    const again = agentOn(clientWith(keys[0])).hello('n1').beating();
    expect((await again.got('action')).action.id).toBe(action.id);
    const result: ActionResult = {
      action: action.id,
      outcome: 'succeeded',
      disposition: 'done',
      newVersionStarted: false,
      phases: [],
      report: freshReport('c1', 1),
    };
    again.send({ result });
    again.send({ result });
    await until('both are acknowledged', () => again.received.filter((m) => 'resultStored' in m).length === 2);
    const rows = await database.query(`SELECT 1 FROM run_inputs WHERE action = $1 AND type = 'result'`, [action.id]);
    expect(rows).toHaveLength(1);
    await until('the step is done', async () => {
      const { steps } = (await (await fetch(`${controller.restUrl}/v1/runs/${action.run}`)).json()) as {
        steps: Record<string, { status: string }>;
      };
      return steps[action.step]?.status === 'succeeded';
    });
  });
});

describe('a prefetch', () => {
  it('reaches the agents of the clusters chosen until they answer, also those that were away', async () => {
    const keys = await Promise.all([1, 2].map((i) => enrolled(`pre${i}`)));
    const agents = keys.map((pair, i) =>
      agentOn(clientWith(pair))
        .hello(`pre${i + 1}`)
        .beating(),
    );
    for (const [i, agent] of agents.entries()) {
      await agent.got('welcome');
      agent.send({ report: freshReport('ahead', i + 1, 2) });
    }
    await until('the cluster is known', async () => (await nodeView('pre2')).state === 'healthy');
    const [one, two] = agents as [Agent, Agent];
    two.close();
    await insertPackage(database, pkg(), 'test');
    const { sha256 } = pkg();
    const url = `${controller.restUrl}/v1/packages/${sha256}/prefetch`;
    const ask = (json: object) =>
      fetch(url, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(json) });
    const states = async () => {
      const { items } = (await (await fetch(url)).json()) as { items: { node: string; state: string }[] };
      return Object.fromEntries(items.map(({ node, state }) => [node, state]));
    };
    expect(await (await ask({})).json()).toMatchObject({ code: 'BAD_REQUEST' });
    expect(await (await ask({ clusters: ['nowhere'] })).json()).toMatchObject({ code: 'CLUSTER_UNKNOWN' });
    expect(await (await ask({ labels: { site: 'none' } })).json()).toEqual({ nodes: 0 });
    expect(await (await ask({ clusters: ['ahead'] })).json()).toEqual({ nodes: 2 });
    expect((await one.got('prefetch')).prefetch.package).toEqual(pkg());
    one.send({ prefetched: { sha256, code: 'DISK_FULL', message: 'no room' } });
    await until('the failure is known', async () => (await states()).pre1 === 'failed');
    const back = agentOn(clientWith(keys[1])).hello('pre2').beating();
    await back.got('prefetch');
    back.send({ prefetched: { sha256 } });
    await until('it is done', async () => (await states()).pre2 === 'done');
    // Asked anew, the one that failed is told anew.
    one.received.length = 0;
    await ask({ clusters: ['ahead'] });
    await one.got('prefetch');
  });
});

describe('a package', () => {
  function fetchPackage(keys: Keys | undefined, sha256: string, offset: number): Promise<Buffer> {
    const { path, requestSerialize, responseDeserialize } = agentGateway.fetchPackage;
    const call = clientWith(keys).makeServerStreamRequest(path, requestSerialize, responseDeserialize, {
      sha256,
      offset,
    });
    const chunks: Uint8Array[] = [];
    return new Promise((resolve, reject) => {
      call.on('data', ({ data }: PackageChunk) => chunks.push(data));
      call.on('end', () => resolve(Buffer.concat(chunks)));
      call.on('error', reject);
    });
  }

  it('is sent from any offset, to enrolled agents only', async () => {
    const bytes = randomBytes(1_000_000);
    const sha256 = createHash('sha256').update(bytes).digest('hex');
    await writeFile(join(directory, 'packages', `${sha256}.tar.gz`), bytes);
    const keys = await enrolled('fetcher');
    expect((await fetchPackage(keys, sha256, 0)).equals(bytes)).toBe(true);
    expect((await fetchPackage(keys, sha256, 999_000)).equals(bytes.subarray(999_000))).toBe(true);
    expect(await fetchPackage(keys, sha256, 1_000_000)).toHaveLength(0);
    await expect(fetchPackage(keys, sha256, 1_000_001)).rejects.toMatchObject({ code: grpc.status.OUT_OF_RANGE });
    await expect(fetchPackage(keys, '../../pki/ca.key', 0)).rejects.toMatchObject({ code: grpc.status.NOT_FOUND });
    await expect(fetchPackage(undefined, sha256, 0)).rejects.toMatchObject({ code: grpc.status.UNAUTHENTICATED });
  });
});

/** A certificate with the right name, of an authority that is not ours. */
async function foreignKeys(node: string): Promise<Keys> {
  const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    name: `CN=${node}`,
    keys,
    signingAlgorithm: algorithm,
  });
  const pkcs8 = await webcrypto.subtle.exportKey('pkcs8', keys.privateKey);
  return {
    certificate: Buffer.from(certificate.toString('pem')),
    key: Buffer.from(x509.PemConverter.encode(pkcs8, 'PRIVATE KEY')),
  };
}
