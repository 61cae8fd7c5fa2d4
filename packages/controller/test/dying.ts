/** A controller that dies at a statement that it sends to PostgreSQL. */
import type { Database, Sql } from '../src/store/database.ts';

/** The death of a controller: the statement after it is never sent. */
export class Crash extends Error {}

/** A database that dies at its `at`-th statement, before it is sent; or, where that is a COMMIT's turn, right after. */
export class Dying {
  count = 0;
  readonly #database: Database;
  readonly #at: number;

  constructor(database: Database, at: number) {
    this.#database = database;
    this.#at = at;
  }

  #step(): void {
    this.count++;
    if (this.count === this.#at) throw new Crash();
  }

  get database(): Database {
    const watched = (sql: Sql): Sql => ({
      query: async (text, values) => {
        this.#step();
        return sql.query(text, values);
      },
      execute: async (text, values) => {
        this.#step();
        return sql.execute(text, values);
      },
    });
    return {
      ...watched(this.#database),
      transaction: async (work, isolation) => {
        const answer = await this.#database.transaction((sql) => work(watched(sql)), isolation);
        this.#step();
        return answer;
      },
      close: async () => {},
    };
  }
}
