/**
 * Clients that write and read all the time, through several nodes, as the manual wants them to: the judge of whether
 * an upgrade was felt, and of whether anything that was acknowledged got lost.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { Link } from './kwbase.ts';

export type WorkloadOptions = {
  /** `IP:PORT` of the nodes to spread over. */
  readonly addresses: readonly string[];
  /** Operations a second; every second one is a write. */
  readonly ratePerSecond: number;
  /** A failed operation is tried once more, on the next node. */
  readonly retry: 'once-on-another-node' | 'none';
  readonly timeoutMs?: number;
  /** Operations under way at once; more are skipped, not queued. */
  readonly concurrency?: number;
};

export type WorkloadCounts = {
  readonly attempted: number;
  readonly acknowledged: number;
  readonly failedFirstTry: number;
  readonly failedAfterRetry: number;
  /** Acknowledged writes that could not be read back with their value at the end. */
  readonly lostAcknowledged: number;
  /** Reads that did not show an acknowledged write while the workload ran. */
  readonly staleReads: number;
  /** The longest time in which no operation succeeded. */
  readonly maxStallMs: number;
  /** Errors by text, for the report of a failed test. */
  readonly errors: Readonly<Record<string, number>>;
};

export type Workload = {
  /** What is known so far; `lostAcknowledged` stays 0 until the end. */
  counts(): WorkloadCounts;
  /** Ends the clients, reads every acknowledged write back (within `verifyTimeoutMs`, 30 s unless told) and says what came of it all. */
  stop(verifyTimeoutMs?: number): Promise<WorkloadCounts>;
};

type Attempt = { readonly ok: boolean; readonly value?: string | null };

class Clients implements Workload {
  readonly #options: WorkloadOptions;
  readonly #links: Link[];
  readonly #acknowledged = new Map<string, string>();
  readonly #prefix = `w${process.pid}-${Date.now()}-${Math.floor(Math.random() * 1e6)}`;
  readonly #errors: Record<string, number> = {};
  readonly #loop: Promise<void>;
  #running = true;
  #underWay = new Set<Promise<void>>();
  #attempted = 0;
  #writes = 0;
  #failedFirstTry = 0;
  #failedAfterRetry = 0;
  #staleReads = 0;
  #lost = 0;
  #lastSuccessMs = Date.now();
  #maxStallMs = 0;

  constructor(options: WorkloadOptions) {
    this.#options = options;
    this.#links = options.addresses.map((address) => new Link(address));
    this.#loop = this.#run();
  }

  async #run(): Promise<void> {
    const intervalMs = 1000 / this.#options.ratePerSecond;
    let dueMs = Date.now();
    while (this.#running) {
      if (this.#underWay.size < (this.#options.concurrency ?? 32)) this.#begin();
      dueMs = Math.max(dueMs + intervalMs, Date.now() - 1000);
      await sleep(Math.max(0, dueMs - Date.now()));
    }
  }

  #begin(): void {
    const operation = this.#attempted % 2 === 0 ? this.#write() : this.#read();
    this.#underWay.add(operation);
    void operation.finally(() => this.#underWay.delete(operation));
  }

  async #write(): Promise<void> {
    const number = this.#writes++;
    const [key, value] = [`${this.#prefix}-${number}`, `value-${number}`];
    const first = `INSERT INTO kv VALUES ('${key}', '${value}')`;
    // Nobody knows whether a failed first try was stored: the second must not stumble over it.
    const again = first.replace('INSERT', 'UPSERT');
    if ((await this.#attempt(first, again)).ok) this.#acknowledged.set(key, value);
  }

  async #read(): Promise<void> {
    const key = `${this.#prefix}-${Math.floor(Math.random() * Math.max(1, this.#writes))}`;
    const expected = this.#acknowledged.get(key);
    const statement = `SELECT v FROM kv WHERE k = '${key}'`;
    const result = await this.#attempt(statement, statement);
    if (result.ok && expected !== undefined && result.value !== expected) this.#staleReads += 1;
  }

  async #attempt(first: string, again: string): Promise<Attempt> {
    const node = this.#attempted++ % this.#links.length;
    const attempt = await this.#ask(node, first);
    if (attempt.ok) return attempt;
    this.#failedFirstTry += 1;
    const retried = this.#options.retry === 'none' ? attempt : await this.#ask((node + 1) % this.#links.length, again);
    if (!retried.ok) this.#failedAfterRetry += 1;
    return retried;
  }

  async #ask(node: number, sql: string): Promise<Attempt> {
    const link = this.#links[node];
    if (link === undefined) return { ok: false };
    try {
      const answer = await link.request({ op: 'sql', sql, auth: 'insecure' }, this.#options.timeoutMs ?? 2000);
      if (answer.error !== undefined) throw new Error(String(answer.error));
      this.#succeeded();
      const rows = answer.rows as readonly (readonly (string | null)[])[];
      return { ok: true, value: rows[0]?.[0] ?? null };
    } catch (error) {
      const text = `${this.#options.addresses[node]}: ${(error as Error).message.replace(/[\d-]{4,}/g, 'N')}`;
      this.#errors[text] = (this.#errors[text] ?? 0) + 1;
      return { ok: false };
    }
  }

  #succeeded(): void {
    const nowMs = Date.now();
    if (this.#running) this.#maxStallMs = Math.max(this.#maxStallMs, nowMs - this.#lastSuccessMs);
    this.#lastSuccessMs = nowMs;
  }

  counts(): WorkloadCounts {
    return {
      attempted: this.#attempted,
      acknowledged: this.#acknowledged.size,
      failedFirstTry: this.#failedFirstTry,
      failedAfterRetry: this.#failedAfterRetry,
      lostAcknowledged: this.#lost,
      staleReads: this.#staleReads,
      maxStallMs: Math.max(this.#maxStallMs, this.#running ? Date.now() - this.#lastSuccessMs : 0),
      errors: this.#errors,
    };
  }

  async stop(verifyTimeoutMs = 30_000): Promise<WorkloadCounts> {
    this.#maxStallMs = Math.max(this.#maxStallMs, Date.now() - this.#lastSuccessMs);
    this.#running = false;
    await this.#loop;
    await Promise.all(this.#underWay);
    const counts = this.counts();
    await this.#verify(Date.now() + verifyTimeoutMs);
    for (const link of this.#links) link.close();
    return { ...counts, lostAcknowledged: this.#lost };
  }

  async #verify(deadlineMs: number): Promise<void> {
    const left = [...this.#acknowledged];
    const reader = async (): Promise<void> => {
      for (let next = left.pop(); next !== undefined; next = left.pop()) {
        if (!(await this.#readBack(next[0], next[1], deadlineMs))) this.#lost += 1;
      }
    };
    await Promise.all(Array.from({ length: 8 }, reader));
  }

  /** An answer with another value is a loss at once; no answer is tried on every node until the deadline. */
  async #readBack(key: string, value: string, deadlineMs: number): Promise<boolean> {
    for (let turn = 0; turn === 0 || Date.now() < deadlineMs; turn++) {
      const result = await this.#ask(turn % this.#links.length, `SELECT v FROM kv WHERE k = '${key}'`);
      if (result.ok) return result.value === value;
      await sleep(50);
    }
    return false;
  }
}

/** Starts clients that write and read until `stop()`. */
export function startWorkload(options: WorkloadOptions): Workload {
  return new Clients(options);
}
