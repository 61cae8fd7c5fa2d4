/**
 * A PostgreSQL of the controller's own, for when none is given. It listens on a unix socket in a directory that only
 * its account (and root) may enter, on no TCP port. A controller that is killed leaves it running; the next one takes it over.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { chmod, chown, lstat, mkdir, open, readFile, rename, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { FleetError } from '@kwfleet/core';
import { execa } from 'execa';
import pg from 'pg';
import type { Logger } from 'pino';
import { eventually } from '../deadline.ts';
import { LOCKS } from '../store/locks.ts';
import { type Account, blockedBy, postgresAccount } from './account.ts';
import { findBinaries } from './binaries.ts';

export type EmbeddedPostgres = {
  /** For a `pg` client. */
  readonly connection: {
    readonly host: string;
    readonly port: number;
    readonly user: string;
    readonly database: string;
  };
  readonly pid: number;
  /** Whether a running server of an earlier controller was taken over. */
  readonly reused: boolean;
  /** Fast shutdown: transactions are rolled back, everything committed is on disk. */
  stop(): Promise<void>;
};

const USER = 'kwfleet';
const DATABASE = 'kwfleet';
/** Only a name inside the socket's file; nothing listens on it. */
const PORT = 5432;
/** The kernel's limit for a socket's path, less what PostgreSQL appends (`/.s.PGSQL.5432.lock`). */
const SOCKET_DIR_MAX_BYTES = 107 - 20;
const INITDB_MS = 120_000;
/** Recovery after a crash may take long with much data. */
const START_MS = 120_000;
const STOP_MS = 30_000;
/** A controller that was killed lets go by itself: on a busy machine not at once. */
const OWNER_MS = 20_000;
/** For one answer of a server that runs. */
const ANSWER_MS = 30_000;
const WATCH_MS = 1_000;

type Place = { readonly root: string; readonly data: string; readonly log: string; readonly socket: string };

/** What is up now; another after the server had to be started again. */
type Server = { pid: number; owner: pg.Client };

/**
 * Starts or takes over the server of `<dataDir>/postgres`, and starts it again should it die. Throws UNAVAILABLE with
 * the server's own last words, or when another controller still holds the directory after `ownerMs`.
 */
export async function startEmbeddedPostgres(
  dataDir: string,
  log: Logger,
  ownerMs = OWNER_MS,
): Promise<EmbeddedPostgres> {
  const account = postgresAccount();
  const place = await prepare(dataDir, account);
  const connection = { host: place.socket, port: PORT, user: USER, database: DATABASE };
  const running = await runningServer(place);
  const up = (pid: number | undefined) => bringUp(place, account, pid, () => takeOwnership(connection, ownerMs));
  const server = await up(running);
  const stopping = new AbortController();
  const watched = keepUp(server, () => up(undefined), place, stopping.signal, log);
  return {
    connection,
    pid: server.pid,
    reused: running !== undefined,
    async stop() {
      stopping.abort();
      await watched;
      await server.owner.end();
      await stopServer(place, server.pid);
    },
  };
}

async function bringUp(
  place: Place,
  account: Account | undefined,
  running: number | undefined,
  owned: () => Promise<pg.Client>,
): Promise<Server> {
  const pid = running ?? (await startServer(place, account));
  try {
    await awaitReady(place, pid);
    return { pid, owner: await owned() };
  } catch (error) {
    // One that was found running may be another controller's.
    if (running === undefined) await stopServer(place, pid);
    throw error;
  }
}

/** The controller outlives its database: requests answer 503 meanwhile. */
async function keepUp(
  server: Server,
  startAgain: () => Promise<Server>,
  place: Place,
  signal: AbortSignal,
  log: Logger,
): Promise<void> {
  while (!signal.aborted) {
    await pause(WATCH_MS, undefined, { signal }).catch(() => {});
    if (signal.aborted || isServer(server.pid, place)) continue;
    log.error({ pid: server.pid, words: await tail(place) }, 'PostgreSQL died; starting it again');
    try {
      await server.owner.end().catch(() => {});
      Object.assign(server, await startAgain());
      log.info({ pid: server.pid }, 'PostgreSQL is up again');
    } catch (error) {
      log.error({ err: error }, 'PostgreSQL did not come up; trying again');
    }
  }
}

async function prepare(dataDir: string, account: Account | undefined): Promise<Place> {
  const root = join(dataDir, 'postgres');
  await mkdir(root, { recursive: true, mode: 0o700 });
  // Other things in it have modes of their own; the database's account must pass through.
  if (account) await chmod(dataDir, 0o711);
  const wall = blockedBy(root, account);
  if (wall !== undefined) {
    const message = `data_dir: PostgreSQL runs as ${account?.name}, which may not enter ${wall}; choose another data_dir`;
    throw new FleetError('CONFIG_INVALID', message);
  }
  await own(root, account);
  const socket = await socketDirectory(root, account);
  return { root, data: join(root, 'data'), log: join(root, 'postgres.log'), socket };
}

async function own(path: string, account: Account | undefined): Promise<void> {
  if (account) await chown(path, account.uid, account.gid);
  await chmod(path, 0o700);
}

/** Beside the data where that path is short enough, else under the temporary directory, by a name made from the path. */
async function socketDirectory(root: string, account: Account | undefined): Promise<string> {
  const near = join(root, 'socket');
  if (Buffer.byteLength(near) <= SOCKET_DIR_MAX_BYTES) {
    await mkdir(near, { recursive: true, mode: 0o700 });
    await own(near, account);
    return near;
  }
  const far = join(shortTemporary(), `kwfleet-${createHash('sha256').update(root).digest('hex').slice(0, 16)}`);
  await mkdir(far, { mode: 0o700 }).then(
    () => own(far, account),
    (error: NodeJS.ErrnoException) => {
      if (error.code !== 'EEXIST') throw error;
    },
  );
  // Anyone may write to the temporary directory: what lies there already must be what we would have made.
  const found = await lstat(far);
  if (!found.isDirectory() || found.uid !== (account?.uid ?? process.getuid?.()) || (found.mode & 0o077) !== 0) {
    throw new FleetError('UNAVAILABLE', `${far} exists and is not ours: remove it`);
  }
  return far;
}

const shortTemporary = () => (Buffer.byteLength(tmpdir()) <= SOCKET_DIR_MAX_BYTES - 32 ? tmpdir() : '/tmp');

/** The pid in postmaster.pid, when that process is alive and is a server of this very data directory. */
async function runningServer(place: Place): Promise<number | undefined> {
  const text = await readFile(join(place.data, 'postmaster.pid'), 'utf8').catch(() => '');
  const [pidText, data] = text.split('\n');
  const pid = Number(pidText);
  if (!Number.isInteger(pid) || pid <= 1 || data !== place.data || !isServer(pid, place)) return undefined;
  return pid;
}

/** Pids are used again: a live process counts only when its command line names our data directory. */
function isServer(pid: number, place: Place): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // A zombie keeps its pid; it serves nobody.
    if (stat.slice(stat.lastIndexOf(')') + 2).startsWith('Z')) return false;
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').includes(place.data);
  } catch {
    return false;
  }
}

async function startServer(place: Place, account: Account | undefined): Promise<number> {
  const version = await readFile(join(place.data, 'PG_VERSION'), 'utf8').catch(() => undefined);
  const { bin } = await findBinaries(account, join(place.root, 'binaries'), version ? Number(version) : undefined);
  if (version === undefined) await initialise(place, bin, account);
  const log = await open(place.log, 'w', 0o600);
  try {
    const child = spawn(join(bin, 'postgres'), ['-D', place.data, ...settings(place)], {
      ...identity(account),
      cwd: place.data,
      // A session of its own: Ctrl-C at the controller must not reach it before the controller has closed.
      detached: true,
      stdio: ['ignore', log.fd, log.fd],
      env: { PATH: process.env.PATH, LC_ALL: 'C', TZ: 'UTC' },
    });
    return await spawned(child);
  } finally {
    await log.close();
  }
}

function spawned(child: ChildProcess): Promise<number> {
  return new Promise((resolve, reject) => {
    child.once('error', (cause) =>
      reject(new FleetError('UNAVAILABLE', `PostgreSQL did not start: ${cause.message}`, { cause })),
    );
    child.once('spawn', () => {
      child.unref();
      resolve(child.pid as number);
    });
  });
}

const identity = (account: Account | undefined) => (account ? { uid: account.uid, gid: account.gid } : {});

function settings(place: Place): string[] {
  const values = {
    listen_addresses: '',
    unix_socket_directories: place.socket,
    unix_socket_permissions: '0700',
    port: PORT,
    max_connections: 60,
    fsync: 'on',
    full_page_writes: 'on',
    synchronous_commit: 'on',
    log_min_messages: 'warning',
    timezone: 'UTC',
  };
  return Object.entries(values).flatMap(([name, value]) => ['-c', `${name}=${value}`]);
}

/** Into a directory beside, renamed when whole: a crash in the middle leaves nothing that looks like a database. */
async function initialise(place: Place, bin: string, account: Account | undefined): Promise<void> {
  const partial = `${place.data}.partial`;
  await rm(partial, { recursive: true, force: true });
  const { failed, all } = await execa(
    join(bin, 'initdb'),
    ['-D', partial, '-U', USER, '--encoding=UTF8', '--locale=C', '--auth-local=trust', '--auth-host=reject'],
    {
      ...identity(account),
      cwd: place.root,
      all: true,
      reject: false,
      timeout: INITDB_MS,
      stdin: 'ignore',
      env: { LC_ALL: 'C' },
    },
  );
  if (failed) throw new FleetError('UNAVAILABLE', 'initdb failed', { words: String(all).slice(-2_000) });
  await rename(partial, place.data);
}

async function awaitReady(place: Place, pid: number): Promise<void> {
  let last = '';
  const ready = await eventually(
    async () => {
      if (!isServer(pid, place)) throw new FleetError('UNAVAILABLE', `PostgreSQL ended at once. ${await tail(place)}`);
      try {
        await ensureDatabase(place);
        return true;
      } catch (error) {
        last = error instanceof Error ? error.message : String(error);
        return false;
      }
    },
    { withinMs: START_MS, everyMs: 50 },
  );
  if (!ready)
    throw new FleetError('UNAVAILABLE', `PostgreSQL is not ready after ${START_MS} ms: ${last}. ${await tail(place)}`);
}

async function ensureDatabase(place: Place): Promise<void> {
  const client = new pg.Client({
    host: place.socket,
    port: PORT,
    user: USER,
    database: 'postgres',
    connectionTimeoutMillis: ANSWER_MS,
    query_timeout: ANSWER_MS,
  });
  client.on('error', () => {});
  try {
    await client.connect();
    const { rowCount } = await client.query('SELECT 1 FROM pg_database WHERE datname = $1', [DATABASE]);
    if (rowCount === 0) await client.query(`CREATE DATABASE ${DATABASE}`);
  } finally {
    await client.end();
  }
}

/** The connection that holds the lock ends with the process that holds it: a killed controller lets go by itself. */
async function takeOwnership(connection: EmbeddedPostgres['connection'], withinMs: number): Promise<pg.Client> {
  const client = new pg.Client({ ...connection, connectionTimeoutMillis: ANSWER_MS, query_timeout: ANSWER_MS });
  client.on('error', () => {});
  await client.connect();
  const owned = await eventually(
    async () => {
      const { rows } = await client.query<{ got: boolean }>('SELECT pg_try_advisory_lock($1) AS got', [LOCKS.owner]);
      return rows[0]?.got === true;
    },
    { withinMs, everyMs: 100 },
  );
  if (owned) return client;
  await client.end();
  throw new FleetError('UNAVAILABLE', 'another controller runs on this data_dir; end it, or give this one its own');
}

async function stopServer(place: Place, pid: number): Promise<void> {
  // SIGINT is PostgreSQL's fast shutdown, SIGQUIT its immediate one (recovery at the next start, nothing lost).
  for (const signal of ['SIGINT', 'SIGQUIT'] as const) {
    if (!isServer(pid, place)) return;
    process.kill(pid, signal);
    if (await eventually(() => !isServer(pid, place), { withinMs: STOP_MS, everyMs: 20 })) return;
  }
  throw new FleetError('UNAVAILABLE', `PostgreSQL (pid ${pid}) does not stop. ${await tail(place)}`);
}

async function tail(place: Place): Promise<string> {
  const text = await readFile(place.log, 'utf8').catch(() => '');
  return `Its log ends: ${text.slice(-1_500).trim() || '(empty)'}`;
}
