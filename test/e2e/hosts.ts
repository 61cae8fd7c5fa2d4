/**
 * Hosts that take and give packages, and no more: the agent's own link, trust, cache and peers, enrolled at a real
 * controller, in this process. For what concerns packages alone, so that twenty of them cost little.
 */
import { randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { NodeReport, PackageInfo, PackageView } from '@kwfleet/core';
import { pino } from 'pino';
import { create } from 'tar';
import type { Watch } from '../../packages/agent/src/driver/driver.ts';
import { enrolledIdentity, type Identity } from '../../packages/agent/src/enroll.ts';
import { Link } from '../../packages/agent/src/link.ts';
import { Supply } from '../../packages/agent/src/supply.ts';
import type { Controller } from '../../packages/controller/src/index.ts';
import { report } from '../../packages/core/test/builders.ts';
import { buildPackage, unpackPackage } from '../standin/package.ts';

const log = pino({ level: 'silent' });

/** Waits as long as it takes; the test has a deadline. */
export const PATIENT: Watch = {
  detail() {},
  moved() {},
  async fence() {},
  output() {},
  pause: (ms = 50) => new Promise((resolve) => setTimeout(resolve, Math.min(ms, 50))),
};

export type Host = {
  readonly node: string;
  readonly supply: Supply;
  readonly stateDir: string;
  readonly identity: Identity;
  close(): Promise<void>;
};

export type HostOptions = {
  readonly controller: Controller;
  readonly directory: string;
  readonly node: string;
  /** The cluster it reports, and which of how many nodes it is. */
  readonly cluster: string;
  readonly kwdbId: number;
  readonly size: number;
  /** Gives packages to peers. */
  readonly peers: boolean;
};

/** Enrolls a new host and connects it. */
export async function startHost(options: HostOptions): Promise<Host> {
  const { controller, node, cluster, kwdbId, size, peers } = options;
  const stateDir = await mkdtemp(join(options.directory, `${node}-`));
  const made = await post<{ token: string; fingerprint: string }>(controller, '/v1/enrollments', { node });
  const tokenFile = join(stateDir, 'token');
  await writeFile(tokenFile, made.token);
  const security = { kind: 'enrollment', tokenFile, authoritySha256: made.fingerprint } as const;
  const identity = await enrolledIdentity(stateDir, node, controller.grpcAddress, security);
  const ended = new AbortController();
  const supply: Supply = new Supply({
    config: {
      stateDir,
      trust: { kind: 'first-contact' },
      cacheMaxBytes: 1024 ** 3,
      ...(peers && { peers: { listen: '127.0.0.1:0', maxTransfers: 4 } }),
    },
    identity,
    link: () => link,
    log,
  });
  const link: Link = new Link({
    address: controller.grpcAddress,
    identity,
    node,
    agentVersion: '0',
    log,
    opening: () => [{ report: reportOf(cluster, kwdbId, size) }],
    inHand: () => [],
    onAction: async () => {},
    onResultStored: async () => {},
    onReportRequest: () => {},
    onPrefetch: (wanted) => supply.prefetch(wanted),
    onInventoryRequest: () => {},
  });
  await supply.open();
  const welcomed = new Promise<void>((resolve) => {
    link.whenWelcomed(() => {
      supply.welcomed();
      resolve();
    });
  });
  const running = link.run(ended.signal);
  const beat = setInterval(() => link.send({ heartbeat: { clockMs: Date.now(), serving: true, ready: true } }), 500);
  await welcomed;
  return {
    node,
    supply,
    stateDir,
    identity,
    async close() {
      clearInterval(beat);
      ended.abort();
      await supply.close();
      await running;
    },
  };
}

/** What a host of the cluster would report: all that matters here is where it belongs. */
function reportOf(clusterId: string, kwdbId: number, size: number): NodeReport {
  const made = report(kwdbId, ['multi-replica', size]);
  return { ...made, identity: { clusterId, kwdbId }, observedAtMs: Date.now() };
}

/** Adds a package with so many incompressible bytes in it. */
export async function addLargePackage(controller: Controller, directory: string, bytes: number): Promise<PackageInfo> {
  const tree = await mkdtemp(join(directory, 'large-'));
  await unpackPackage(await buildPackage({ version: '3.1.0', outDir: tree }), tree);
  await mkdir(join(tree, 'kaiwudb_install/utils'), { recursive: true });
  await writeFile(join(tree, 'kaiwudb_install/utils/filler'), randomBytes(bytes));
  const file = join(tree, 'large.tar.gz');
  await create({ file, gzip: true, cwd: tree }, ['kaiwudb_install']);
  const answer = await fetch(`${controller.restUrl}/v1/packages?filename=large.tar.gz`, {
    method: 'POST',
    headers: { 'content-type': 'application/gzip' },
    body: await readFile(file),
  });
  const { id: _id, addedAtMs: _at, signed: _signed, ...info } = (await answer.json()) as PackageView;
  return info;
}

/** Bytes of packages that the controller has sent, by its own metrics. */
export async function sentBytes({ restUrl }: Controller): Promise<number> {
  const text = await (await fetch(`${restUrl}/metrics`)).text();
  return Number(/^kwfleet_package_bytes_sent_total (\d+)/m.exec(text)?.[1] ?? Number.NaN);
}

export async function post<T>({ restUrl }: Controller, path: string, json: object, method = 'POST'): Promise<T> {
  const headers = { 'content-type': 'application/json' };
  const answer = await fetch(`${restUrl}${path}`, { method, headers, body: JSON.stringify(json) });
  return (await answer.json()) as T;
}
