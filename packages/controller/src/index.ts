/** The controller, put together. Read this first: every part has a folder or file of its own name. */
import { randomUUID } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { hostname } from 'node:os';
import { FleetError } from '@kwfleet/core';
import { type Logger, pino } from 'pino';
import { startRest } from './api/server.ts';
import type { ControllerConfig } from './config.ts';
import { eventually } from './deadline.ts';
import { makeFirstToken } from './first-token.ts';
import { openAuthority } from './gateway/authority.ts';
import { startGateway } from './gateway/gateway.ts';
import { watchHealth } from './health/watch-health.ts';
import { startHousekeeping } from './housekeeping.ts';
import { isLoopback } from './network.ts';
import { startDeliverer } from './notifications/deliver.ts';
import { notifyOfHealth } from './notifications/tell-health.ts';
import { openRegistry } from './packages/registry.ts';
import { startEmbeddedPostgres } from './postgres/embedded.ts';
import { startRollouts } from './rollouts/walk.ts';
import { startRunner } from './runner/runner.ts';
import { type ConnectionSettings, type Database, openDatabase } from './store/database.ts';
import { migrate } from './store/migrate.ts';
import { listen } from './store/notices.ts';
import { pgRunStore } from './store/run-store.ts';
import { openTransferFiles } from './transfers/files.ts';
import { openOnlineKey } from './trust/online-key.ts';
import { openRepository } from './trust/repository.ts';

export { type ControllerConfig, type ControllerSettings, controllerConfig, loadControllerConfig } from './config.ts';
export { inspectPackage } from './packages/inspect.ts';

export type Controller = {
  /** `http://127.0.0.1:7080`. */
  readonly restUrl: string;
  /** `127.0.0.1:7090`. */
  readonly grpcAddress: string;
  /** Ends everything in order; an embedded PostgreSQL last. Bounded. */
  close(): Promise<void>;
};

/** A database that is still starting is waited for this long. */
const DATABASE_MS = 60_000;

/** Starts a controller. When a part does not start, those before it are closed again and its FleetError is thrown. */
export async function startController(config: ControllerConfig): Promise<Controller> {
  const log = pino({ name: 'kwfleet-controller', level: config.logLevel });
  const closers: Closer[] = [];
  try {
    return await startParts(config, log, closers);
  } catch (error) {
    await closeAll(closers, log);
    throw error;
  }
}

type Closer = { readonly what: string; readonly close: () => Promise<void> };

async function startParts(config: ControllerConfig, log: Logger, closers: Closer[]): Promise<Controller> {
  const opened = (what: string, close: () => Promise<void>) => closers.unshift({ what, close });
  await mkdir(config.dataDir, { recursive: true, mode: 0o711 });

  const connection = await connectionSettings(config, log, opened);
  const database = openDatabase(connection, log);
  opened('database', () => database.close());
  await migrateWhenUp(database, log);
  if (!isLoopback(config.rest.host)) await makeFirstToken(database, config.dataDir, log);

  const notices = listen(connection, log);
  opened('notices', () => notices.close());
  const repository = await openRepository(database, await openOnlineKey(config.dataDir), log);
  const registry = await openRegistry(config.dataDir, config.packageMaxBytes, database, repository);
  const transfers = await openTransferFiles(config.dataDir, config.transfersMaxBytes, database, log);
  opened('transfers', () => transfers.close());
  const authority = config.grpc.insecure
    ? undefined
    : await openAuthority(config.dataDir, [...namedHosts(config), ...config.grpc.names]);

  const housekeeping = startHousekeeping(database, config.retention, log);
  opened('housekeeping', () => housekeeping.stop());
  const deliverer = startDeliverer(database, notices, config.targets, log);
  opened('notifications', () => deliverer.stop());
  const health = watchHealth(database, config.health, notifyOfHealth, log);
  opened('health', () => health.stop());

  const shared = { database, notices, registry, repository, authority };
  const gateway = await startGateway({ ...shared, config, transfers, log });
  opened('gateway', () => gateway.close());
  // Not before agents can connect, and not after they were sent away: one that is not there is one that is lost.
  const owner = `${hostname()}/${process.pid}/${randomUUID()}`;
  const runner = startRunner({
    store: pgRunStore(database),
    owner,
    onError: (error, run) => log.error({ err: error, run }, 'a turn of a run failed; it is tried again'),
  });
  opened('runner', () => runner.stop());
  notices.on('run', () => runner.wake());
  const rollouts = startRollouts(database, owner, log);
  opened('rollouts', () => rollouts.stop());

  const { targets } = config;
  const told = {
    agentsConnected: gateway.connected,
    packageBytesSent: gateway.sentBytes,
    packageSources: config.packageSources,
  };
  const rest = await startRest(config.rest, { ...shared, ...told, targets }, log);
  opened('REST', () => rest.close());

  log.info({ rest: rest.url, grpc: gateway.address, dataDir: config.dataDir }, 'the controller is up');
  return { restUrl: rest.url, grpcAddress: gateway.address, close: once(() => closeAll(closers, log)) };
}

async function connectionSettings(
  config: ControllerConfig,
  log: Logger,
  opened: (what: string, close: () => Promise<void>) => void,
): Promise<ConnectionSettings> {
  if (config.databaseUrl !== undefined) return { connectionString: config.databaseUrl };
  const embedded = await startEmbeddedPostgres(config.dataDir, log);
  opened('PostgreSQL', () => embedded.stop());
  log.info({ pid: embedded.pid, reused: embedded.reused }, 'PostgreSQL is up');
  return embedded.connection;
}

async function migrateWhenUp(database: Database, log: Logger): Promise<void> {
  let last: unknown;
  const applied = await eventually(
    () =>
      migrate(database).catch((error: unknown) => {
        // With a cause it is a connection that failed; without one, a schema that is not ours to touch.
        if (!(error instanceof FleetError) || error.code !== 'UNAVAILABLE' || error.cause === undefined) throw error;
        last = error;
        return undefined;
      }),
    { withinMs: DATABASE_MS, everyMs: 500 },
  );
  if (applied === undefined) throw last;
  if (applied.length > 0) log.info({ applied }, 'the schema was brought up to date');
}

const namedHosts = ({ grpc }: ControllerConfig) => (['0.0.0.0', '::'].includes(grpc.host) ? [] : [grpc.host]);

/** The newest first; one that does not close does not keep the others from it. */
async function closeAll(closers: readonly Closer[], log: Logger): Promise<void> {
  for (const { what, close } of closers) {
    await close().catch((error: unknown) => log.error({ err: error, what }, 'a part did not close'));
  }
}

function once(close: () => Promise<void>): () => Promise<void> {
  let closing: Promise<void> | undefined;
  return () => {
    closing ??= close();
    return closing;
  };
}
