/** Statements of a transfer, asked of this node's own database. A client for the source can only read. */
import { randomBytes } from 'node:crypto';
import { FleetError, type Reading, separator, type Writing } from '@kwfleet/core';
import type { Watch } from '../driver/driver.ts';
import { parseCsv } from '../host/csv.ts';
import type { Kwbase } from '../host/kwbase.ts';

const LOOK_EVERY_MS = 250;
const TELL_EVERY_MS = 10_000;
const OUTPUT_BYTES = 256 * 1024 * 1024;
/** The whole command line of one session stays far below what a process takes. */
const SESSION_STATEMENTS = 40;
const SESSION_LENGTH = 60_000;

export type Rows = (string | null)[][];

export type SqlOptions = {
  readonly kwbase: Pick<Kwbase, 'query'>;
  /** How long a session that begins now may take. */
  readonly timeoutMs: () => number;
  /** Absent: nobody waits in between, as for an inventory. */
  readonly watch?: Watch;
};

/** What may be asked of a source: questions, which change nothing. */
export class ReadingSql {
  protected readonly options: SqlOptions;
  #what = 'asking the database';

  constructor(options: SqlOptions) {
    this.options = options;
  }

  /** What the statements from now on are for, for a person. */
  doing(what: string): void {
    this.#what = what;
    this.options.watch?.detail(what);
  }

  /** The answer's rows, without the header. Throws KWBASE_FAILED. */
  async rows(statement: Reading): Promise<Rows> {
    return (await this.all([statement]))[0] ?? [];
  }

  /**
   * The rows of each statement, all asked by one process: starting the client costs more than most questions. A row
   * between two answers, with a name that nobody can know, tells where one ends.
   */
  async all(statements: readonly Reading[]): Promise<Rows[]> {
    for (const statement of statements) assertReading(statement);
    const name = `kwfleet_${randomBytes(8).toString('hex')}`;
    const texts = statements.flatMap((statement) => [statement, separator(name)]);
    const answers: Rows[] = [];
    let answer: Rows = [];
    let isSeparator = false;
    for (const row of parseCsv(await this.ask(texts, undefined))) {
      // Its header is followed by its one row, which says nothing.
      if (isSeparator) isSeparator = false;
      else if (row.length === 1 && row[0] === name) {
        answers.push(answer.slice(1));
        answer = [];
        isSeparator = true;
      } else answer.push(row);
    }
    return answers;
  }

  protected async ask(statements: readonly string[], database: string | undefined): Promise<string> {
    const { kwbase, timeoutMs, watch } = this.options;
    const answer = kwbase.query(statements, {
      timeoutMs: timeoutMs(),
      outputBytes: OUTPUT_BYTES,
      ...(database && { database }),
    });
    if (watch === undefined) return answer;
    let ended = false;
    const noted = answer.then(
      () => {},
      () => {},
    );
    void noted.then(() => {
      ended = true;
    });
    // KWDB tells nothing of how far it is: the session's own limit ends one that hangs. Meanwhile the agent may be told to
    // stop, and is heard to wait.
    for (let waitedMs = LOOK_EVERY_MS; !ended; waitedMs += LOOK_EVERY_MS) {
      await Promise.race([noted, watch.pause(LOOK_EVERY_MS)]);
      if (!ended && waitedMs % TELL_EVERY_MS === 0) watch.detail(`${this.#what} (${waitedMs / 1000} s so far)`);
    }
    return answer;
  }
}

/** What may be asked of a target. */
export class WritingSql extends ReadingSql {
  async write(statement: Writing, database?: string): Promise<void> {
    await this.ask([statement], database);
  }

  /** Many statements, in few sessions; `before` is called in front of each. Throws what the first that fails throws. */
  async writeAll(statements: readonly Writing[], before: () => void, database?: string): Promise<void> {
    let session: Writing[] = [];
    const flush = async () => {
      before();
      if (session.length > 0) await this.ask(session, database);
      session = [];
    };
    for (const statement of statements) {
      const length = session.reduce((sum, text) => sum + text.length, statement.length);
      if (session.length >= SESSION_STATEMENTS || length > SESSION_LENGTH) await flush();
      session.push(statement);
    }
    await flush();
  }
}

/** The type says it already; this holds even against a cast. */
export function assertReading(statement: string): void {
  if (!/^(SELECT|EXPORT INTO CSV) /.test(statement)) {
    throw new FleetError('ACTION_INVALID', `the source is only read; this would not: ${statement.slice(0, 40)}`);
  }
}
