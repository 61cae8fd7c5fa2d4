/** Fetches packages ahead of the orders that need them: one at a time, after each other, beside everything else. */
import { FleetError, type PackageInfo } from '@kwfleet/core';
import type { Prefetched } from '@kwfleet/protocol';
import type { Logger } from 'pino';
import type { Clock } from './clock.ts';
import { DeadlineError, Stopping, type Watch } from './driver/driver.ts';

export type PrefetcherOptions = {
  /** Brings one package; rejects as PackageCache.ensure does. */
  readonly bring: (wanted: PackageInfo, watch: Watch) => Promise<void>;
  readonly tell: (prefetched: Prefetched) => void;
  readonly clock: Clock;
  readonly log: Logger;
};

/** A fetch that does not move for so long is given up; the controller is told, and asks again when someone wants it. */
const IDLE_MS = 10 * 60_000;
const CEILING_MS = 12 * 3_600_000;
const LOOK_EVERY_MS = 1000;
/** More than one fleet ever wants at once. */
const WAITING_LIMIT = 32;

export class Prefetcher {
  readonly #options: PrefetcherOptions;
  readonly #waiting = new Map<string, PackageInfo>();
  #stopping = false;
  #working: Promise<void> | undefined;

  constructor(options: PrefetcherOptions) {
    this.#options = options;
  }

  /** The same package twice is fetched once: an answer that was lost is asked for again by the controller. */
  want(wanted: PackageInfo): void {
    if (this.#stopping || this.#waiting.has(wanted.sha256) || this.#waiting.size >= WAITING_LIMIT) return;
    this.#waiting.set(wanted.sha256, wanted);
    this.#working ??= this.#work().finally(() => {
      this.#working = undefined;
    });
  }

  /** What is fetched by now is kept, and a later fetch goes on from there. */
  async stop(): Promise<void> {
    this.#stopping = true;
    await this.#working;
  }

  async #work(): Promise<void> {
    for (const [sha256, wanted] of this.#waiting) {
      if (this.#stopping) return;
      await this.#bring(sha256, wanted);
      this.#waiting.delete(sha256);
    }
  }

  async #bring(sha256: string, wanted: PackageInfo): Promise<void> {
    const { bring, tell, log } = this.#options;
    try {
      await bring(wanted, this.#watch());
      log.info({ sha256, fileName: wanted.fileName }, 'a package was fetched ahead');
      tell({ sha256 });
    } catch (error) {
      if (error instanceof Stopping) return;
      log.warn({ err: error, sha256 }, 'a package could not be fetched ahead');
      const code = error instanceof FleetError ? error.code : 'FETCH_FAILED';
      tell({ sha256, code, message: error instanceof Error ? error.message : String(error) });
    }
  }

  #watch(): Watch {
    const { clock } = this.#options;
    const startedAtMs = clock.elapsed();
    let movedAtMs = startedAtMs;
    let last = '';
    let said = '';
    const moved = (sign: string) => {
      if (sign === last) return;
      last = sign;
      movedAtMs = clock.elapsed();
    };
    return {
      detail: (text) => {
        said = text;
      },
      moved,
      fence: async () => {},
      output: () => {},
      pause: async (ms = LOOK_EVERY_MS) => {
        if (this.#stopping) throw new Stopping();
        if (clock.elapsed() - movedAtMs >= IDLE_MS) throw new DeadlineError('idle', IDLE_MS, said);
        if (clock.elapsed() - startedAtMs >= CEILING_MS) throw new DeadlineError('ceiling', CEILING_MS, said);
        await clock.sleep(ms);
        if (this.#stopping) throw new Stopping();
      },
    };
  }
}
