/** sd_notify for a `Type=notify` service. Node has no datagram sockets of the Unix kind: systemd-notify speaks for it. */
import type { Logger } from 'pino';
import { runShort, wordsOf } from './host/run.ts';
import { pause } from './link.ts';

/** Does nothing where no service manager listens. */
export class ServiceNotify {
  readonly #listening = process.env.NOTIFY_SOCKET !== undefined;
  readonly #log: Logger;

  constructor(log: Logger) {
    this.#log = log;
  }

  ready(status: string): Promise<void> {
    return this.#send(['--ready', `--status=${status}`]);
  }

  stopping(): Promise<void> {
    return this.#send(['STOPPING=1']);
  }

  /** Pings the watchdog at half its time, as long as `healthy` says so; returns when the signal aborts. */
  async watchdog(healthy: () => boolean, signal: AbortSignal): Promise<void> {
    const limitMs = Number(process.env.WATCHDOG_USEC ?? 0) / 1000;
    if (!this.#listening || !(limitMs > 0)) return;
    while (!signal.aborted) {
      if (healthy()) await this.#send(['WATCHDOG=1']);
      else this.#log.error('the main loop does not go round; the watchdog is not told otherwise');
      await pause(limitMs / 2, signal);
    }
  }

  async #send(args: readonly string[]): Promise<void> {
    if (!this.#listening) return;
    // NotifyAccess=all in the unit: the message comes from a child.
    const ended = await runShort('systemd-notify', [`--pid=${process.pid}`, ...args], { timeoutMs: 5000 });
    if (ended.exitCode !== 0) this.#log.warn({ words: wordsOf(ended) }, 'systemd-notify failed');
  }
}
