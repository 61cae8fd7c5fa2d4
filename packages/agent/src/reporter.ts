/** Tells the controller how the node is: a heartbeat always, a report on change and once a minute. */
import { type ClusterHealth, FleetError, type NodeReport } from '@kwfleet/core';
import type { Logger } from 'pino';
import type { Clock } from './clock.ts';
import { type Link, pause } from './link.ts';
import type { Observer } from './observe.ts';

export type ReporterOptions = {
  readonly observer: Pick<Observer, 'observe' | 'pulse' | 'health'>;
  readonly link: Pick<Link, 'connected' | 'send'>;
  readonly heartbeatMs: number;
  readonly busy: () => boolean;
  /** Told of every full look. */
  readonly seen: (report: NodeReport) => void;
  readonly clock: Pick<Clock, 'now' | 'elapsed'>;
  readonly log: Logger;
};

const REPORT_EVERY_MS = 60_000;
/** A look at everything starts processes: an idle node is looked at this often, a busy one at every beat. */
const LOOK_EVERY_MS = 10_000;
/** The questions of a cluster check cost the database several statements: asked this often, and when a report is wanted. */
const HEALTH_EVERY_MS = 60_000;

export class Reporter {
  readonly #options: ReporterOptions;
  #latest: NodeReport | undefined;
  #pulse = { serving: false, ready: false };
  // Of a clock that nobody sets back: reports and checks would wait for it to catch up.
  #sentAtMs = Number.NEGATIVE_INFINITY;
  #sentText = '';
  #mute = false;
  #wanted = false;
  /** Rises with each report that the executor told: what was asked for before is older than it. */
  #edition = 0;
  #rouse: () => void = () => {};
  #lookedAtMs: number;
  #health: ClusterHealth | undefined;
  #healthAtMs = Number.NEGATIVE_INFINITY;
  #heartbeatMs: number;
  /** When the beat last went round, by the clock's `elapsed`: what the watchdog asks. */
  beatAtMs: number;

  constructor(options: ReporterOptions) {
    this.#options = options;
    this.#heartbeatMs = options.heartbeatMs;
    this.beatAtMs = options.clock.elapsed();
    this.#lookedAtMs = this.beatAtMs;
  }

  get latest(): NodeReport | undefined {
    return this.#latest;
  }

  /**
   * Looks once; so that the first hello has a report behind it. A node that cannot be looked at says hello without: an
   * agent that ended here would be no nearer to it.
   */
  async prepare(): Promise<void> {
    const { observer, seen, log } = this.#options;
    try {
      seen(this.#keep(await observer.observe()));
    } catch (error) {
      log.error({ err: error }, 'the node could not be observed; it has no report until it can');
      this.#wanted = true;
    }
  }

  /** From now on the latest report, with what the cluster check last said. */
  #keep(report: NodeReport): NodeReport {
    this.#mute = false;
    this.#pulse = { serving: report.serving, ready: report.ready };
    this.#latest = this.#health === undefined ? report : { ...report, health: this.#health };
    return this.#latest;
  }

  /** A new stream has the latest report already; the controller's heartbeat is kept when it is shorter. */
  welcomed(heartbeatMs: number): void {
    this.#heartbeatMs = Math.min(this.#options.heartbeatMs, heartbeatMs);
    if (this.#latest !== undefined) this.#noteSent(this.#latest);
  }

  /**
   * The executor tells how the node is, in `report`: a look that began before tells of an older time, and is not told any
   * more. Returns what is to be sent.
   */
  told(report: NodeReport): NodeReport {
    this.#edition++;
    const latest = this.#keep(report);
    this.#noteSent(latest);
    return latest;
  }

  /** The controller asks for a full report now. */
  request(): void {
    this.#wanted = true;
    this.#rouse();
  }

  async run(signal: AbortSignal): Promise<void> {
    await Promise.all([this.#beat(signal), this.#look(signal)]);
  }

  /** Never waits for a look: a database that hangs must not make the agent seem dead. */
  async #beat(signal: AbortSignal): Promise<void> {
    const { link, clock } = this.#options;
    while (!signal.aborted) {
      this.beatAtMs = clock.elapsed();
      if (link.connected) link.send({ heartbeat: { clockMs: clock.now(), ...this.#pulse } });
      await pause(this.#heartbeatMs, signal);
    }
  }

  async #look(signal: AbortSignal): Promise<void> {
    const { log } = this.#options;
    while (!signal.aborted) {
      await this.#nextLook(signal);
      if (signal.aborted) return;
      const edition = this.#edition;
      const wanted = this.#wanted;
      try {
        await this.#lookOnce();
      } catch (error) {
        log.error({ err: error }, 'the node could not be observed');
        this.#wanted ||= wanted;
        if (edition === this.#edition) this.#noteMute();
        // Also when a report is wanted: what cannot be looked at now is asked again with the next beat.
        await pause(this.#heartbeatMs, signal);
      }
    }
  }

  async #lookOnce(): Promise<void> {
    const { observer, busy, clock } = this.#options;
    const before = this.#edition;
    const pulse = await observer.pulse();
    if (before !== this.#edition) return;
    const changed = pulse.serving !== this.#pulse.serving || pulse.ready !== this.#pulse.ready;
    if (!this.#mute) this.#pulse = pulse;
    if (!changed && !busy() && !this.#wanted && clock.elapsed() - this.#lookedAtMs < LOOK_EVERY_MS) return;
    this.#lookedAtMs = clock.elapsed();
    const wanted = this.#wanted;
    this.#wanted = false;
    if (wanted || clock.elapsed() - this.#healthAtMs >= HEALTH_EVERY_MS) await this.#askHealth();
    const edition = this.#edition;
    const seen = await observer.observe();
    if (edition !== this.#edition) {
      this.#wanted ||= wanted;
      return;
    }
    const latest = this.#keep(seen);
    this.#options.seen(latest);
    this.#tell(latest, wanted);
  }

  /** A node that cannot be looked at is not known to serve, and unknown blocks: until the next look that succeeds. */
  #noteMute(): void {
    this.#mute = true;
    this.#pulse = { serving: false, ready: false };
    if (this.#latest !== undefined) this.#latest = { ...this.#latest, ...this.#pulse };
  }

  /** The next beat, or at once when a report is wanted. */
  async #nextLook(signal: AbortSignal): Promise<void> {
    if (this.#wanted) return;
    const roused = new AbortController();
    this.#rouse = () => roused.abort();
    await pause(this.#heartbeatMs, AbortSignal.any([signal, roused.signal]));
  }

  /** No answer is an answer: what is not known is left out, and unknown blocks. */
  async #askHealth(): Promise<void> {
    const { observer, clock } = this.#options;
    this.#healthAtMs = clock.elapsed();
    try {
      this.#health = await observer.health('all');
    } catch (error) {
      if (!(error instanceof FleetError)) throw error;
      this.#health = undefined;
    }
  }

  #tell(report: NodeReport, wanted: boolean): void {
    const { link, clock } = this.#options;
    const due = wanted || clock.elapsed() - this.#sentAtMs >= REPORT_EVERY_MS || lasting(report) !== this.#sentText;
    if (!due || !link.connected) return;
    if (link.send({ report })) this.#noteSent(report);
  }

  #noteSent(report: NodeReport): void {
    this.#sentAtMs = this.#options.clock.elapsed();
    this.#sentText = lasting(report);
  }
}

/** The report without what changes from look to look by itself. */
export function lasting(report: NodeReport): string {
  const { host, view, observedAtMs: _, health: _health, ...rest } = report;
  const { clockMs: __, freeBytes: ___, ...lastingHost } = host;
  const nodes = view?.nodes.map(({ updatedAtMs: ____, ...row }) => row);
  return JSON.stringify({ ...rest, host: lastingHost, nodes });
}
