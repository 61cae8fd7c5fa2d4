/**
 * Room for transfers on their way: reserved for all files of a table, or database, before the first of them comes, so that
 * two that are half here never wait for each other. A reservation is a file beside those it is for: it lasts as long as
 * they, and every controller that shares the directory counts it.
 */
import { mkdir, readdir, readFile, rename, rm, stat, statfs, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Database, Sql } from '../store/database.ts';
import { LOCKS } from '../store/locks.ts';

/** Left free on the controller's disk: PostgreSQL may write there too. */
export const SPARE_BYTES = 1024 ** 3;
const RESERVATION = 'reserved';

export type Reservation = {
  /** The order that exports it: what came by an earlier one is of no use to it. */
  readonly action: string;
  readonly bytes: number;
};

export class Room {
  readonly #folder: string;
  readonly #maxBytes: number;
  readonly #database: Database;

  constructor(folder: string, maxBytes: number, database: Database) {
    this.#folder = folder;
    this.#maxBytes = maxBytes;
    this.#database = database;
  }

  /** Whether a unit's directory may be filled: it has room already, or gets it now. What is there of an earlier order goes. */
  async reserve(directory: string, wanted: Reservation): Promise<boolean> {
    const isReserved = async () => {
      const found = await reservationOf(directory);
      return found?.action === wanted.action && found.bytes === wanted.bytes;
    };
    if (await isReserved()) return true;
    return this.locked(async () => {
      if (await isReserved()) return true;
      await rm(directory, { recursive: true, force: true });
      const { taken, toCome } = await this.#used();
      if (taken + wanted.bytes > this.#maxBytes) return false;
      if ((await freeBytes(this.#folder)) < toCome + wanted.bytes + SPARE_BYTES) return false;
      await mkdir(directory, { recursive: true, mode: 0o700 });
      const file = join(directory, RESERVATION);
      await writeFile(`${file}.part`, JSON.stringify(wanted), { mode: 0o600 });
      await rename(`${file}.part`, file);
      return true;
    });
  }

  /** Nobody reserves meanwhile. */
  locked<T>(work: (sql: Sql) => Promise<T>): Promise<T> {
    return this.#database.transaction(async (sql) => {
      await sql.execute('SELECT pg_advisory_xact_lock($1)', [LOCKS.transferRoom]);
      return work(sql);
    });
  }

  /** Bytes that are here or have been promised room, and those of them that are not here yet. */
  async #used(): Promise<{ taken: number; toCome: number }> {
    let taken = 0;
    let toCome = 0;
    for (const run of await namesIn(this.#folder)) {
      for (const unit of await namesIn(join(this.#folder, run))) {
        const directory = join(this.#folder, run, unit);
        const here = await bytesIn(directory);
        const missing = Math.max(0, ((await reservationOf(directory))?.bytes ?? 0) - here);
        taken += here + missing;
        toCome += missing;
      }
    }
    return { taken, toCome };
  }
}

export async function freeBytes(folder: string): Promise<number> {
  const { bavail, bsize } = await statfs(folder);
  return bavail * bsize;
}

async function reservationOf(directory: string): Promise<Reservation | undefined> {
  try {
    return JSON.parse(await readFile(join(directory, RESERVATION), 'utf8')) as Reservation;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

/** A run's files go while others are counted. */
const namesIn = (directory: string): Promise<string[]> =>
  readdir(directory).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return [];
    throw error;
  });

/** Of the files that were sent: the reservation is none of them. */
async function bytesIn(directory: string): Promise<number> {
  let bytes = 0;
  for (const name of await namesIn(directory)) {
    if (name.startsWith(RESERVATION)) continue;
    // One that was being received may have been made whole, or have gone, meanwhile.
    bytes += await stat(join(directory, name)).then(
      ({ size }) => size,
      () => 0,
    );
  }
  return bytes;
}
