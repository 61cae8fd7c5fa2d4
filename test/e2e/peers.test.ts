import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as grpc from '@grpc/grpc-js';
import type { PackageInfo } from '@kwfleet/core';
import { agentGateway, peerName } from '@kwfleet/protocol';
import { pino } from 'pino';
import { afterAll, afterEach, beforeAll, expect, it } from 'vitest';
import { controllerClient } from '../../packages/agent/src/controller-client.ts';
import { readPackage } from '../../packages/agent/src/sources.ts';
import { type Controller, controllerConfig, startController } from '../../packages/controller/src/index.ts';
import { type Database, openDatabase } from '../../packages/controller/src/store/database.ts';
import { until, urlOf, usePostgres } from '../../packages/controller/test/support.ts';
import { addLargePackage, type Host, PATIENT, post, sentBytes, startHost } from './hosts.ts';

/** Hosts of a cluster or site give packages to each other: a real controller, agents' own code, TLS, one package of 2 MiB. */
const postgres = usePostgres();
let directory: string;
let controller: Controller;
let database: Database;
let info: PackageInfo;
const hosts: Host[] = [];
let clusters = 0;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'kwfleet-peers-'));
  const settings = await postgres.settings();
  database = openDatabase(settings, pino({ level: 'silent' }));
  const config = {
    data_dir: join(directory, 'controller'),
    rest: { port: 0 },
    grpc: { port: 0 },
    database: { url: urlOf(settings) },
    packages: { max_transfers: 4, max_bytes_per_second: 64 * 1024 ** 2 },
    heartbeat_ms: 20_000,
    log_level: 'silent',
  };
  controller = await startController(controllerConfig(config));
  info = await addLargePackage(controller, directory, 2 * 1024 ** 2);
});
afterEach(async () => {
  await Promise.all(hosts.splice(0).map((host) => host.close()));
});
afterAll(async () => {
  await controller?.close();
  await database?.close();
  await rm(directory, { recursive: true, force: true });
});

/** Hosts of a new cluster. */
async function cluster(size: number, peers = true): Promise<Host[]> {
  clusters += 1;
  const id = `c${clusters}`;
  const made: Host[] = [];
  for (let i = 1; i <= size; i += 1) {
    const options = { controller, directory, node: `${id}-n${i}`, cluster: id, kwdbId: i, size, peers };
    made.push(await startHost(options));
  }
  hosts.push(...made);
  await until('the controller knows them', async () => {
    const rows = await database.query(`SELECT 1 FROM nodes WHERE report IS NOT NULL AND node LIKE $1`, [`${id}-%`]);
    return rows.length === size;
  });
  return made;
}

const fetched = (host: Host) => host.supply.packages.ensure(info, PATIENT);
const holds = ({ node }: Host) =>
  until(`${node} tells what it holds`, async () => {
    const rows = await database.query('SELECT 1 FROM peers WHERE node = $1 AND $2 = ANY (packages)', [
      node,
      info.sha256,
    ]);
    return rows.length === 1;
  });

/** Bytes that the controller sent while `work` was done. */
async function cost(work: () => Promise<unknown>): Promise<number> {
  const before = await sentBytes(controller);
  await work();
  return (await sentBytes(controller)) - before;
}

it('a package is fetched from the controller once, and from there on from peers', async () => {
  const [one, two, three] = (await cluster(3)) as [Host, Host, Host];
  expect(await cost(() => fetched(one))).toBe(info.sizeBytes);
  await holds(one);
  expect(await cost(() => fetched(two))).toBe(0);
  await holds(two);
  expect(await cost(() => fetched(three))).toBe(0);
  expect(existsSync(join(await fetched(three), 'deploy.sh'))).toBe(true);
});

it('many at once: a few are seeds, the others wait for them', async () => {
  const made = await cluster(6);
  const bytes = await cost(() => Promise.all(made.map(fetched)));
  expect(bytes).toBeGreaterThan(0);
  // Two as a rule; more when a seed was away for so long that its place was given to another.
  expect(bytes).toBeLessThan(made.length * info.sizeBytes);
});

it('only those of the cluster, or of a site, are peers', async () => {
  const [giver] = (await cluster(1)) as [Host];
  await fetched(giver);
  await holds(giver);
  const [stranger] = (await cluster(1)) as [Host];
  expect(await cost(() => fetched(stranger))).toBe(info.sizeBytes);
  const [near] = (await cluster(1)) as [Host];
  for (const { node } of [giver, near]) {
    await post(controller, `/v1/clusters/${node.split('-')[0]}`, { labels: { site: 'berlin' } }, 'PATCH');
  }
  expect(await cost(() => fetched(near))).toBe(0);
});

it('a peer whose bytes are others wastes time, and nothing else', async () => {
  const [bad, good] = (await cluster(2)) as [Host, Host];
  await fetched(bad);
  await holds(bad);
  const file = join(bad.stateDir, 'packages', info.sha256, 'package.tar.gz');
  const bytes = await readFile(file);
  bytes[1000] = (bytes[1000] as number) ^ 1;
  await writeFile(file, bytes);
  expect(await cost(() => fetched(good))).toBe(info.sizeBytes);
  expect(existsSync(join(await fetched(good), 'deploy.sh'))).toBe(true);
});

it('a peer must be the one that was named, and gives nothing to strangers', async () => {
  const [one, two] = (await cluster(2)) as [Host, Host];
  await fetched(one);
  await holds(one);
  const [peer] = await database.query<{ address: string }>('SELECT address FROM peers WHERE node = $1', [one.node]);
  const { address } = peer as { address: string };
  // Without a certificate of this fleet nobody gets a byte.
  const client = new grpc.Client(address, grpc.credentials.createSsl(one.identity.authority), {
    'grpc.ssl_target_name_override': peerName(one.node),
  });
  const stolen = readPackage(client, { sha256: info.sha256, offset: 0 }, 5000);
  await expect(stolen.next()).rejects.toMatchObject({ code: grpc.status.UNAVAILABLE });
  client.close();
  // Another's address under this one's name: TLS finds it out, and the controller is asked.
  await database.execute(
    `INSERT INTO peers (node, address, packages, told_at_ms) SELECT 'liar', address, packages, 0 FROM peers WHERE node = $1`,
    [one.node],
  );
  await database.execute(`DELETE FROM peers WHERE node = $1`, [one.node]);
  await database.execute(
    `INSERT INTO nodes (node, report, first_seen_ms, last_seen_ms, stream, connected_until_ms)
     SELECT 'liar', report, 0, 0, 'x', 9e15 FROM nodes WHERE node = $1`,
    [one.node],
  );
  expect(await cost(() => fetched(two))).toBe(info.sizeBytes);
  // A peer's certificate is no controller's: nobody enrolls, or takes orders, there.
  const fake = controllerClient(address, two.identity);
  const { path, requestSerialize, responseDeserialize } = agentGateway.fetchMetadata;
  const answered = new Promise((resolve, reject) =>
    fake.makeUnaryRequest(
      path,
      requestSerialize,
      responseDeserialize,
      { name: 'root.json' },
      { deadline: Date.now() + 60_000 } as never,
      (error, value) => (error === null ? resolve(value) : reject(error)),
    ),
  );
  await expect(answered).rejects.toMatchObject({ code: grpc.status.UNAVAILABLE });
  fake.close();
});
