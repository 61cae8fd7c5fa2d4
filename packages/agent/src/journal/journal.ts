/**
 * The agent's memory across crashes: records appended and synced before each deed and after its result. A line is
 * `LENGTH CRC32 JSON`, so that what a power cut tore off at the end is told from what was written whole.
 */
import { crc32 } from 'node:zlib';
import { FleetError } from '@kwfleet/core';
import { applyRecord, emptyState, type JournalRecord, type JournalState, snapshotRecords } from './records.ts';

/** Where the journal's bytes lie. Every call resolves only when the bytes would survive a power cut. */
export interface JournalStorage {
  /** All bytes; none when there is no journal yet. */
  read(): Promise<Uint8Array>;
  /** May leave any prefix of `bytes` behind when it rejects. */
  append(bytes: Uint8Array): Promise<void>;
  /** Puts `bytes` in place of everything, or rejects and leaves everything as it was. */
  replace(bytes: Uint8Array): Promise<void>;
}

/** Compaction is tried when the file is this large and mostly of records that no longer matter. */
const COMPACT_FROM_BYTES = 256 * 1024;

export class Journal {
  readonly #storage: JournalStorage;
  readonly #state: JournalState;
  #sizeBytes: number;
  #snapshotBytes = 0;
  /** Set when a failed append may have left half a line: the next write replaces the whole file. */
  #torn = false;
  #last: Promise<void> = Promise.resolve();

  private constructor(storage: JournalStorage, state: JournalState, sizeBytes: number) {
    this.#storage = storage;
    this.#state = state;
    this.#sizeBytes = sizeBytes;
  }

  /**
   * Reads the journal and cuts a torn tail off. Throws INTERNAL when a damaged line is followed by whole ones: then the
   * file was damaged by something else than a crash, and the highest epoch can no longer be known.
   */
  static async open(storage: JournalStorage): Promise<Journal> {
    const bytes = Buffer.from(await storage.read());
    const { records, goodBytes } = decode(bytes);
    if (goodBytes < bytes.length) await storage.replace(bytes.subarray(0, goodBytes));
    const state = emptyState();
    for (const record of records) applyRecord(state, record);
    return new Journal(storage, state, goodBytes);
  }

  /** What all records add up to. To be changed by `append` alone. */
  get state(): JournalState {
    return this.#state;
  }

  /** Resolves when the record would survive a power cut; rejects with DISK_FULL or INTERNAL and the system's words. */
  append(record: JournalRecord): Promise<void> {
    const done = this.#last.then(() => this.#write(record));
    this.#last = done.catch(() => {});
    return done;
  }

  async #write(record: JournalRecord): Promise<void> {
    const line = encode(record);
    try {
      if (this.#torn) await this.#compact();
      this.#torn = true;
      await this.#storage.append(line);
      this.#torn = false;
    } catch (error) {
      throw journalError(error);
    }
    this.#sizeBytes += line.length;
    applyRecord(this.#state, record);
    if (this.#sizeBytes > Math.max(COMPACT_FROM_BYTES, this.#snapshotBytes * 4)) await this.#tryCompact();
  }

  /** A compaction that fails loses nothing: the file stays as it was and grows until the next try. */
  async #tryCompact(): Promise<void> {
    try {
      await this.#compact();
    } catch {
      this.#snapshotBytes = this.#sizeBytes;
    }
  }

  async #compact(): Promise<void> {
    const bytes = Buffer.concat(snapshotRecords(this.#state).map(encode));
    await this.#storage.replace(bytes);
    this.#sizeBytes = bytes.length;
    this.#snapshotBytes = bytes.length;
  }
}

function journalError(error: unknown): FleetError {
  const words = error instanceof Error ? error.message : String(error);
  const full = (error as { code?: unknown }).code === 'ENOSPC';
  return new FleetError(full ? 'DISK_FULL' : 'INTERNAL', "the agent's journal cannot be written", {
    words,
    cause: error,
  });
}

const HEAD_BYTES = 18;

export function encode(record: JournalRecord): Buffer {
  const json = JSON.stringify(record);
  const line = Buffer.allocUnsafe(HEAD_BYTES + Buffer.byteLength(json) + 1);
  line.write(json, HEAD_BYTES);
  const sum = crc32(line.subarray(HEAD_BYTES, -1));
  const hex = (value: number) => value.toString(16).padStart(8, '0');
  line.write(`${hex(line.length - HEAD_BYTES - 1)} ${hex(sum)} `, 'latin1');
  line[line.length - 1] = 0x0a;
  return line;
}

function decodeLine(line: Buffer): JournalRecord | null {
  const json = line.subarray(HEAD_BYTES);
  const length = Number.parseInt(line.toString('latin1', 0, 8), 16);
  const sum = Number.parseInt(line.toString('latin1', 9, 17), 16);
  if (length !== json.length || sum !== crc32(json)) return null;
  return JSON.parse(json.toString()) as JournalRecord;
}

/** The records before the first damage, and how many bytes they take. */
function decode(bytes: Buffer): { records: JournalRecord[]; goodBytes: number } {
  const records: JournalRecord[] = [];
  let goodBytes = 0;
  let damaged = false;
  for (let start = 0; start < bytes.length; ) {
    const newline = bytes.indexOf(0x0a, start);
    const record = newline < 0 ? null : decodeLine(bytes.subarray(start, newline));
    if (record !== null && damaged) {
      throw new FleetError('INTERNAL', `the agent's journal is damaged at byte ${goodBytes}, before whole records`);
    }
    if (record === null) damaged = true;
    else {
      records.push(record);
      goodBytes = newline + 1;
    }
    if (newline < 0) break;
    start = newline + 1;
  }
  return { records, goodBytes };
}
