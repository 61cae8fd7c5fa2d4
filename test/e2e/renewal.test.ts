import 'reflect-metadata';
import { createPrivateKey, webcrypto, X509Certificate } from 'node:crypto';
import { copyFile, mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ServiceError } from '@grpc/grpc-js';
import { parseAgentConfig, runAgent } from '@kwfleet/agent';
import { agentGateway } from '@kwfleet/protocol';
import * as x509 from '@peculiar/x509';
import { pino } from 'pino';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { stringify } from 'yaml';
import { askOnce, controllerClient } from '../../packages/agent/src/controller-client.ts';
import { enrolledIdentity, type Identity, renewedIdentity, signingRequest } from '../../packages/agent/src/enroll.ts';
import { type Controller, controllerConfig, startController } from '../../packages/controller/src/index.ts';
import { succeedCertificate } from '../../packages/controller/src/store/access.ts';
import { type Database, openDatabase } from '../../packages/controller/src/store/database.ts';
import { removeNode } from '../../packages/controller/src/store/nodes.ts';
import { until, urlOf, usePostgres } from '../../packages/controller/test/support.ts';
import { post } from './hosts.ts';

/** An agent's certificate is followed by the next when half of its time is over: a real controller, the agent's own life, TLS. */
const postgres = usePostgres();
const log = pino({ level: 'silent' });
const DAY_MS = 86_400_000;
const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };
let directory: string;
let controller: Controller;
let database: Database;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'kwfleet-renewal-'));
  const settings = await postgres.settings();
  database = openDatabase(settings, log);
  controller = await startController(
    controllerConfig({
      data_dir: join(directory, 'controller'),
      rest: { port: 0 },
      grpc: { port: 0 },
      database: { url: urlOf(settings) },
      heartbeat_ms: 20_000,
      log_level: 'silent',
    }),
  );
});
afterAll(async () => {
  await controller?.close();
  await database?.close();
  await rm(directory, { recursive: true, force: true });
});

/** A host with a one-time token, and the agent that it would run. */
async function newHost(node: string) {
  const stateDir = await mkdtemp(join(directory, `${node}-`));
  const tokenFile = join(stateDir, 'token');
  const made = await post<{ token: string; fingerprint: string }>(controller, '/v1/enrollments', { node });
  await writeFile(tokenFile, made.token);
  const security = { kind: 'enrollment', tokenFile, authoritySha256: made.fingerprint } as const;
  const at = (name: string) => join(stateDir, 'tls', name);
  const config = parseAgentConfig(
    stringify({
      node,
      controller: { address: controller.grpcAddress },
      enrollment: { token_file: tokenFile, authority_sha256: made.fingerprint },
      state_dir: stateDir,
      root: join(stateDir, 'root'),
      service_manager: 'process',
      log_level: 'silent',
    }),
  );
  return {
    at,
    stateDir,
    certificate: async () => new X509Certificate(await readFile(at('agent.crt'))),
    identity: () => enrolledIdentity(stateDir, node, controller.grpcAddress, security),
    /** Runs the agent until the returned function is called; what it logs is added to `told`. */
    run(told: string[] = []) {
      const ends = new AbortController();
      const write = (line: string) => void told.push((JSON.parse(line) as { msg: string }).msg);
      const over = runAgent(config, { signal: ends.signal, log: pino({ level: 'info' }, { write }) });
      return async () => {
        ends.abort();
        await over;
      };
    },
  };
}

/** The same certificate, as if it had been given so long ago. */
async function age({ at, certificate }: Awaited<ReturnType<typeof newHost>>, days: number): Promise<void> {
  const pki = (name: string) => readFile(join(directory, 'controller/pki', name), 'utf8');
  const { subtle } = webcrypto;
  const key = x509.PemConverter.decodeFirst(await pki('ca.key'));
  const held = new x509.X509Certificate((await certificate()).toString());
  const aged = await x509.X509CertificateGenerator.create({
    serialNumber: held.serialNumber,
    subject: held.subject,
    issuer: new x509.X509Certificate(await pki('ca.crt')).subject,
    notBefore: new Date(held.notBefore.getTime() - days * DAY_MS),
    notAfter: new Date(held.notAfter.getTime() - days * DAY_MS),
    publicKey: held.publicKey,
    signingKey: await subtle.importKey('pkcs8', key, ALGORITHM, false, ['sign']),
    signingAlgorithm: ALGORITHM,
    extensions: held.extensions,
  });
  await writeFile(at('agent.crt'), aged.toString('pem'));
}

const stream = async (node: string) => {
  const [row] = await database.query<{ stream: string | null }>('SELECT stream FROM nodes WHERE node = $1', [node]);
  return row?.stream ?? undefined;
};
const serials = async (node: string, where = '') =>
  (await database.query(`SELECT 1 FROM certificates WHERE node = $1 ${where}`, [node])).length;

it('an agent gets its next certificate, connects anew with it, and leaves the fleet with all of them', async () => {
  const host = await newHost('db1');
  const endsFirst = host.run();
  await until('it is connected', () => stream('db1'));
  await endsFirst();
  const before = await host.certificate();
  await age(host, 420);
  const told: string[] = [];
  const ends = host.run(told);
  await until('it has another', async () => (await host.certificate()).serialNumber !== before.serialNumber);
  const next = await host.certificate();
  expect(Date.parse(next.validTo) - Date.now()).toBeGreaterThan(800 * DAY_MS);
  expect(next.subject).toBe(before.subject);
  expect(next.checkPrivateKey(createPrivateKey(await readFile(host.at('agent.key'))))).toBe(true);
  const written = await database.query<{ actor: string; detail: object }>(
    `SELECT actor, detail FROM audit WHERE what = 'node.renew'`,
  );
  expect(written).toMatchObject([{ actor: 'agent:db1' }]);
  const lives = () => told.join('\n').split('agent started').slice(1);
  await until('it is connected anew', async () => lives()[1]?.includes('connected to the controller'));
  await until('it has a stream', () => stream('db1'));
  expect(await serials('db1')).toBe(2);
  await database.transaction((sql) => removeNode(sql, 'db1'));
  expect(await serials('db1', 'AND revoked_at_ms IS NULL')).toBe(0);
  await ends();
});

it('it is given to whose certificate it follows, when half of the time is over, and for the same name', async () => {
  const host = await newHost('db5');
  const fresh = await host.identity();
  await age(host, 420);
  const aged = await host.identity();
  const ask = async (keys: Partial<Identity>, name: string) => {
    const { request } = await signingRequest(name);
    const client = controllerClient(controller.grpcAddress, { authority: fresh.authority, ...keys });
    return askOnce(client, agentGateway.renewCertificate, { signingRequest: request }, 20_000)
      .then(
        ({ certificate }) => certificate,
        ({ details }: ServiceError) => details,
      )
      .finally(() => client.close());
  };
  expect(await ask({}, 'db5')).toContain('no client certificate');
  expect(await ask(fresh, 'db5')).toContain('half of its time is not over');
  expect(await ask(aged, 'db6')).toContain('not for db5');
  expect(await ask(aged, 'db5')).toContain('BEGIN CERTIFICATE');
  await database.transaction((sql) => removeNode(sql, 'db5'));
  expect(await ask(aged, 'db5')).toMatch(/no client certificate|was revoked/);
});

it('one of which half the time is left is not followed by another', async () => {
  const host = await newHost('db2');
  const identity = await host.identity();
  await age(host, 400);
  expect(await renewedIdentity(host.stateDir, 'db2', controller.grpcAddress, await host.identity())).toBeUndefined();
  expect((await host.identity()).key).toEqual(identity.key);
  expect(await serials('db2')).toBe(1);
});

it('one that is cut off at any write leaves a pair that is whole, and needs no token', async () => {
  const host = await newHost('db3');
  const old = await host.identity();
  await copyFile(host.at('agent.key'), host.at('old.key'));
  await copyFile(host.at('agent.crt'), host.at('old.crt'));
  await age(host, 420);
  const next = await renewedIdentity(host.stateDir, 'db3', controller.grpcAddress, await host.identity());
  await rm(join(host.stateDir, 'token'));
  expect(await host.identity()).toEqual(next);
  // The next key lies beside the old pair, or a half of it.
  await copyFile(host.at('agent.key'), host.at('agent.key.next'));
  await copyFile(host.at('agent.crt'), host.at('next.crt'));
  await rename(host.at('old.key'), host.at('agent.key'));
  await rename(host.at('old.crt'), host.at('agent.crt'));
  expect(await host.identity()).toEqual(old);
  await writeFile(host.at('agent.key.next.new'), 'half');
  expect(await host.identity()).toEqual(old);
  // The certificate is in place, and its key still beside it: put right before anything else is begun.
  await rename(host.at('next.crt'), host.at('agent.crt'));
  expect(await host.identity()).toEqual(next);
  await rm(host.at('agent.key.next'), { force: true });
  expect(await host.identity()).toEqual(next);
});

it('one that is given while its node is removed is revoked with the others', async () => {
  const host = await newHost('db4');
  const { certificate } = await host.identity();
  const serial = new X509Certificate(certificate).serialNumber.toLowerCase().padStart(32, '0');
  const [row] = await database.query<{ serial: string }>('SELECT serial FROM certificates WHERE node = $1', ['db4']);
  expect(row?.serial).toBe(serial);
  let removed: Promise<boolean> = Promise.resolve(false);
  await database.transaction(async (sql) => {
    await succeedCertificate(sql, 'db4', serial, '00'.repeat(16));
    removed = database.transaction((other) => removeNode(other, 'db4'));
    await until('the removal waits', async () => {
      const waiting = await database.query(`SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'`);
      return waiting.length > 0;
    });
  });
  expect(await removed).toBe(true);
  expect(await serials('db4', 'AND revoked_at_ms IS NULL')).toBe(0);
  await expect(
    database.transaction((sql) => succeedCertificate(sql, 'db4', serial, '01'.repeat(16))),
  ).rejects.toMatchObject({ code: 'ENROLLMENT_INVALID' });
});
