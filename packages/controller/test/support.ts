/** A PostgreSQL for a file of tests, a fresh database for each test, and what agents would report. */
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { FleetError, initialState, type NodeReport, type Topology } from '@kwfleet/core';
import pg from 'pg';
import { pino } from 'pino';
import { afterAll, beforeAll, beforeEach } from 'vitest';
import { planFor, report } from '../../core/test/builders.ts';
import { eventually } from '../src/deadline.ts';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '../src/postgres/embedded.ts';
import { type ConnectionSettings, type Database, openDatabase } from '../src/store/database.ts';
import { newId } from '../src/store/ids.ts';
import { migrate } from '../src/store/migrate.ts';
import { attachStream, storeReport } from '../src/store/nodes.ts';
import { insertPlan } from '../src/store/plans.ts';
import { insertRun } from '../src/store/runs.ts';

export const log = pino({ level: 'silent' });

/** Waits until `look` gives something; throws after the deadline. */
export async function until<T>(
  what: string,
  look: () => Promise<T | undefined | false> | T | undefined | false,
  withinMs = 60_000,
): Promise<T> {
  const found = await eventually(look, { withinMs, everyMs: 10 });
  if (found === undefined) throw new Error(`not within ${withinMs} ms: ${what}`);
  return found;
}

export async function temporaryDirectory(): Promise<string> {
  return mkdtemp(join(tmpdir(), 'kwfleet-controller-'));
}

/** One PostgreSQL for the tests of a file; where none can be had, they are skipped with the reason. */
export function usePostgres() {
  let server: EmbeddedPostgres | undefined;
  let unavailable: string | undefined;
  let directory = '';
  const cleanups: (() => Promise<unknown>)[] = [];

  beforeAll(async () => {
    directory = await temporaryDirectory();
    try {
      server = await startEmbeddedPostgres(directory, log);
    } catch (error) {
      if (!(error instanceof FleetError) || !error.message.includes('was not found')) throw error;
      unavailable = error.message;
    }
  });
  beforeEach((context) => {
    if (unavailable !== undefined) context.skip(`no PostgreSQL on this machine: ${unavailable}`);
  });
  afterAll(async () => {
    for (const cleanup of cleanups.reverse()) await cleanup();
    await server?.stop();
    await rm(directory, { recursive: true, force: true });
  });

  return {
    /** A new, empty database. */
    async settings(): Promise<ConnectionSettings> {
      if (server === undefined) throw new Error('PostgreSQL is not up');
      const database = `test_${randomBytes(6).toString('hex')}`;
      const client = new pg.Client(server.connection);
      await client.connect();
      await client.query(`CREATE DATABASE ${database}`);
      // No test that uses it loses the server: to wait for the disk at each commit would prove nothing.
      await client.query(`ALTER DATABASE ${database} SET synchronous_commit = off`);
      await client.end();
      return { ...server.connection, database };
    },
    /** A new database with the schema in it. */
    async database(): Promise<Database> {
      const database = openDatabase(await this.settings(), log);
      cleanups.push(() => database.close());
      await migrate(database);
      return database;
    },
    cleanUp(cleanup: () => Promise<unknown>): void {
      cleanups.push(cleanup);
    },
  };
}

export const urlOf = ({ host, user, database }: ConnectionSettings): string =>
  `postgresql://${user}@${encodeURIComponent(host ?? '')}/${database}`;

/** A healthy node's report as of now. */
export function freshReport(
  clusterId: string,
  kwdbId: number,
  size = 3,
  topology: Topology = 'multi-replica',
): NodeReport {
  const nowMs = Date.now();
  const made = report(kwdbId, [topology, size]);
  const view = made.view && { ...made.view, clusterId, observedAtMs: nowMs };
  return {
    ...made,
    host: { ...made.host, clockMs: nowMs },
    identity: { clusterId, kwdbId },
    ...(view && { view }),
    ...(made.health && view && { health: { ...made.health, view } }),
    observedAtMs: nowMs,
  };
}

/** Reports of a whole cluster, as if agents `<cluster>-n1`, ... had streams, on which they are heard for an hour. */
export async function reportCluster(database: Database, clusterId: string, size = 3): Promise<string[]> {
  const nodes = Array.from({ length: size }, (_, i) => `${clusterId}-n${i + 1}`);
  for (const [i, node] of nodes.entries()) {
    await database.transaction(async (sql) => {
      await attachStream(sql, node, `stream-${node}`, 3_600_000);
      await storeReport(sql, node, freshReport(clusterId, i + 1, size));
      await sql.execute('UPDATE nodes SET last_seen_ms = now_ms() + 3600000 WHERE node = $1', [node]);
    });
  }
  return nodes;
}

/** A run of a multi-replica plan, put in without REST. */
export async function putRun(database: Database, clusterId: string): Promise<string> {
  const { plan, planId } = await putPlan(database, clusterId);
  const id = newId('run');
  const run = { id, planId, planHash: 'hash', plan, state: initialState(id, plan), by: 'test' };
  await database.transaction((sql) => insertRun(sql, run));
  return id;
}

async function putPlan(database: Database, clusterId: string) {
  const plan = { ...planFor('multi-replica', 3), cluster: clusterId };
  const planId = newId('plan');
  const request = { cluster: clusterId, to: plan.to };
  const rest = { checks: [], blocked: false, request, createdAtMs: Date.now(), createdBy: 'test' };
  await insertPlan(database, { id: planId, cluster: clusterId, hash: 'hash', plan, ...rest });
  return { plan, planId };
}
