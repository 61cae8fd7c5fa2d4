import type { ActionProgress, Deadline, Phase } from '@kwfleet/core';
import type { AgentMessage } from '@kwfleet/protocol';
import type { Clock } from '../clock.ts';
import { DeadlineError, Stopping, type Watch } from '../driver/driver.ts';

/** How long to wait before looking again. */
const LOOK_EVERY_MS = 1000;
/** Progress of one phase is told at most this often. */
const TELL_EVERY_MS = 1000;
/** Movement in which the words stay the same (a build prints, an image is pulled) is told this often. */
const TELL_MOVEMENT_EVERY_MS = 60_000;

type Options = {
  readonly action: string;
  readonly deadline: Deadline;
  /** When the work began, possibly in an earlier agent process. */
  readonly startedAtMs: number;
  readonly clock: Clock;
  readonly send: (message: AgentMessage) => void;
  readonly stopping: () => boolean;
  /** Rejects when the phase may not change the host any more. */
  readonly fence: (phase: Phase) => Promise<void>;
};

/** Measures the time an action has, and tells how it goes. */
export class PhaseWatch implements Watch {
  readonly #options: Options;
  readonly #ceilingAtMs: number;
  #phase: Phase = 'check';
  #detail = '';
  #sign = '';
  #movedAtMs: number;
  #toldAtMs = 0;
  #told = '';

  constructor(options: Options) {
    this.#options = options;
    const { clock, deadline, startedAtMs } = options;
    const elapsed = clock.elapsed();
    // The host's clock is asked once, across the lives of the agent; a jump of it costs or gives no more than the limits.
    const spentMs = Math.max(0, clock.now() - startedAtMs);
    // After a restart there is at least the idle limit left, or a long outage of the agent would fail a healthy node.
    this.#ceilingAtMs = elapsed + Math.max(deadline.ceilingMs - spentMs, Math.min(deadline.idleMs, deadline.ceilingMs));
    this.#movedAtMs = elapsed;
  }

  /** Until the ceiling, in milliseconds; never less than one. */
  leftMs(): number {
    return Math.max(1, Math.ceil(this.#ceilingAtMs - this.#options.clock.elapsed()));
  }

  /** A new phase starts: its idle time starts anew, and it is told at once. */
  begin(phase: Phase, detail: string): void {
    this.#phase = phase;
    this.#detail = detail;
    this.#movedAtMs = this.#options.clock.elapsed();
    this.#told = '';
    this.#tell();
  }

  detail(text: string): void {
    if (text === this.#detail) return;
    this.#detail = text;
    this.#movedAtMs = this.#options.clock.elapsed();
    if (this.#movedAtMs - this.#toldAtMs >= TELL_EVERY_MS) this.#tell();
  }

  moved(sign: string): void {
    if (sign === this.#sign) return;
    this.#sign = sign;
    this.#movedAtMs = this.#options.clock.elapsed();
    // The controller has the same idle limit, and hears nothing else of it.
    const everyMs = Math.min(TELL_MOVEMENT_EVERY_MS, this.#options.deadline.idleMs / 3);
    if (this.#movedAtMs - this.#toldAtMs >= everyMs) this.#tell();
  }

  fence(): Promise<void> {
    return this.#options.fence(this.#phase);
  }

  output(offset: number, text: string): void {
    this.#options.send({ output: { action: this.#options.action, offset, text } });
  }

  async pause(ms: number = LOOK_EVERY_MS): Promise<void> {
    this.#check();
    await this.#options.clock.sleep(ms);
    if (this.#options.stopping()) throw new Stopping();
    if (this.#detail !== this.#told && this.#options.clock.elapsed() - this.#toldAtMs >= TELL_EVERY_MS) this.#tell();
  }

  #check(): void {
    if (this.#options.stopping()) throw new Stopping();
    const now = this.#options.clock.elapsed();
    const { idleMs, ceilingMs } = this.#options.deadline;
    if (now >= this.#ceilingAtMs) throw new DeadlineError('ceiling', ceilingMs, this.#detail);
    if (now - this.#movedAtMs >= idleMs) throw new DeadlineError('idle', idleMs, this.#detail);
  }

  #tell(): void {
    const atMs = this.#options.clock.now();
    const progress: ActionProgress = {
      action: this.#options.action,
      phase: this.#phase,
      detail: this.#detail,
      atMs,
    };
    this.#toldAtMs = this.#options.clock.elapsed();
    this.#told = this.#detail;
    this.#options.send({ progress });
  }
}
