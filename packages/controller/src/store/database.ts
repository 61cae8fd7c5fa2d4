/** The connection pool, transactions, and what a lost database means to callers: UNAVAILABLE, never a crash. */
import { FleetError } from '@kwfleet/core';
import pg from 'pg';
import type { Logger } from 'pino';

export type ConnectionSettings = Pick<pg.PoolConfig, 'connectionString' | 'host' | 'port' | 'user' | 'database'>;

/** Something that runs SQL: the pool itself, or one transaction. */
export interface Sql {
  query<Row extends pg.QueryResultRow>(text: string, values?: readonly unknown[]): Promise<Row[]>;
  /** How many rows were written. */
  execute(text: string, values?: readonly unknown[]): Promise<number>;
}

export interface Database extends Sql {
  /** Commits what `work` did, or nothing of it. */
  transaction<T>(work: (sql: Sql) => Promise<T>, isolation?: 'READ COMMITTED' | 'REPEATABLE READ'): Promise<T>;
  close(): Promise<void>;
}

const CONNECT_MS = 5_000;
const STATEMENT_MS = 15_000;
const LOCK_MS = 10_000;
/** A server that went away without a word is noticed by the client's own limit, after the server's. */
const QUERY_MS = STATEMENT_MS + 5_000;
const POOL_SIZE = 12;
const INT8 = 20;

/** Milliseconds and counters fit a double; PostgreSQL's int8 would arrive as text. */
const types: pg.CustomTypesConfig = {
  getTypeParser: (id: number, format?: 'text' | 'binary') =>
    id === INT8 ? Number : pg.types.getTypeParser(id, format as 'text'),
};

/** What every connection to the database is made with: all waits bounded. */
export const clientConfig = (settings: ConnectionSettings): pg.ClientConfig => ({
  ...settings,
  connectionTimeoutMillis: CONNECT_MS,
  statement_timeout: STATEMENT_MS,
  lock_timeout: LOCK_MS,
  idle_in_transaction_session_timeout: STATEMENT_MS,
  query_timeout: QUERY_MS,
  keepAlive: true,
  application_name: 'kwfleet-controller',
  types,
});

/** Opens a pool; connections are made when needed, so that a database that is away now is no error yet. */
export function openDatabase(settings: ConnectionSettings, log: Logger): Database {
  const pool = new pg.Pool({ ...clientConfig(settings), max: POOL_SIZE });
  pool.on('error', (error) => log.warn({ reason: error.message }, 'a connection to the database was lost'));
  // From its first moment: a server that dies right after it let us in says both in one breath, before anybody has the client.
  pool.on('connect', (client) => client.on('error', ignore));
  return {
    ...sqlOn(pool),
    async transaction(work, isolation = 'READ COMMITTED') {
      const client = await pool.connect().catch(translate);
      try {
        const sql = sqlOn(client);
        await sql.execute(`BEGIN ISOLATION LEVEL ${isolation}`);
        const answer = await work(sql);
        await sql.execute('COMMIT');
        client.release();
        return answer;
      } catch (error) {
        // The connection may be gone; when the rollback fails too, it is not used again.
        const broken = await client.query('ROLLBACK').then(
          () => false,
          () => true,
        );
        client.release(broken);
        throw error;
      }
    },
    close: () => pool.end(),
  };
}

/** The failing query itself reports the loss; without a listener the same error would end the process. */
const ignore = () => {};

function sqlOn(on: pg.Pool | pg.PoolClient): Sql {
  const run = (text: string, values: readonly unknown[] = []) => on.query(text, [...values]).catch(translate);
  return {
    query: async <Row extends pg.QueryResultRow>(text: string, values?: readonly unknown[]) =>
      (await run(text, values)).rows as Row[],
    execute: async (text, values) => (await run(text, values)).rowCount ?? 0,
  };
}

/** SQLSTATE classes and socket errors that say the database is away, or busy beyond a bound, rather than asked wrongly. */
const AWAY = /^(08|53|57P|57014|55P03|25P03|40P01|40001|ECONN|ENOENT|EPIPE|ETIMEDOUT|EAI_|ENOTFOUND|EHOST|ENET)/;
const AWAY_WORDS = /timeout|terminated|Connection ended|not queryable|Cannot use a pool/i;

function translate(error: unknown): never {
  const { code = '', message = '' } = error as { code?: string; message?: string };
  if (AWAY.test(code) || (code === '' && AWAY_WORDS.test(message))) {
    throw new FleetError('UNAVAILABLE', 'the database does not answer', { cause: error, words: message });
  }
  throw error;
}

/** Whether a unique index of this name refused the row. */
export function violates(error: unknown, constraint: string): boolean {
  const { code, constraint: name } = error as { code?: string; constraint?: string };
  return code === '23505' && name === constraint;
}
