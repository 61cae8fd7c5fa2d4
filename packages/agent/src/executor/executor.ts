/**
 * The agent's state machine: takes orders, carries them out one at a time, survives being killed between any two
 * steps. It touches the world only through its parts, so that a simulator can drive this very class.
 */
import {
  type Action,
  type ActionFailure,
  type ActionResult,
  FleetError,
  isOlder,
  type NodeReport,
  type Phase,
  sameVersion,
} from '@kwfleet/core';
import { Stopping } from '../driver/driver.ts';
import { type ActionState, BACK_OUT } from '../journal/records.ts';
import { ActionRun, type Parts } from './action-run.ts';
import { failureOf, settle } from './back-out.ts';
import { PHASES, TITLES } from './phases.ts';

/** More orders than this for one node at a time are a controller's mistake. */
const IN_HAND_LIMIT = 16;

export class Executor {
  readonly #parts: Parts;
  #stopping = false;
  #loop: Promise<void> | null = null;
  #accepting: Promise<void> = Promise.resolve();
  /** What to add to the elapsed time for the controller's clock; undefined until it told it. */
  #controllerAheadMs: number | undefined;

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  /** Goes on with what the journal says is in hand. */
  resume(): void {
    this.#wake();
  }

  /**
   * The controller's clock, as it tells it with each welcome: the host's own may be set, or wrong. What waited for it to
   * be told goes on.
   */
  welcomed(clockMs: number): void {
    this.#controllerAheadMs = clockMs - this.#parts.clock.elapsed();
    this.#wake();
  }

  /**
   * Takes an order. Resolves when it is journalled (or refused, with its result journalled): then a crash of the agent
   * does not lose it. An order known already changes nothing; its result is sent again. Rejects when the journal
   * cannot be written: then nothing was accepted, and the controller delivers again.
   */
  accept(action: Action): Promise<void> {
    const done = this.#accepting.then(() => this.#accept(action));
    this.#accepting = done.catch(() => {});
    return done;
  }

  /** The controller has stored the result. */
  async acknowledge(action: string): Promise<void> {
    const known = this.#parts.journal.state.results.get(action);
    if (known === undefined || known.acknowledged) return;
    await this.#parts.journal.append({ type: 'acknowledged', action });
  }

  /** Actions accepted and without a stored result, so that the controller need not deliver them anew. */
  inHand(): string[] {
    const { inHand } = this.#parts.journal.state;
    return [...inHand.keys(), ...this.unacknowledged().map((result) => result.action)];
  }

  /**
   * Whoever looks at the node tells what runs on it: a version that a reboot started on the data, and that fell again
   * before the next order looked, would be unknown otherwise. A journal that cannot be written loses this look only.
   */
  async saw({ installation }: NodeReport): Promise<void> {
    const { journal } = this.#parts;
    const known = journal.state.startedVersion;
    const running = installation?.versions.running ?? newerThan(known, installation);
    if (running === undefined || (known !== null && sameVersion(known, running))) return;
    await journal.append({ type: 'started', action: '', version: running }).catch(() => {});
  }

  /** Whether anything is being carried out. */
  get busy(): boolean {
    return this.#loop !== null;
  }

  unacknowledged(): ActionResult[] {
    const { results } = this.#parts.journal.state;
    return [...results.values()].filter((entry) => !entry.acknowledged).map((entry) => entry.result);
  }

  /** Resolves when nothing is in hand but what waits for a welcome, or the executor was stopped. */
  async idle(): Promise<void> {
    await this.#accepting;
    while (this.#loop !== null) await this.#loop;
  }

  /** Takes no more orders and leaves the one in hand at its next pause; long commands go on by themselves. */
  async stop(): Promise<void> {
    this.#stopping = true;
    await this.idle();
  }

  async #accept(action: Action): Promise<void> {
    if (this.#stopping) return;
    const { node, journal, send, clock } = this.#parts;
    const { state } = journal;
    const known = state.results.get(action.id);
    if (known !== undefined) return send({ result: known.result });
    if (state.inHand.has(action.id) || state.finished.has(action.id)) return;
    const refusal = this.#refusal(action);
    if (refusal !== null) {
      // Whatever becomes of this order, none of an earlier controller is begun, or gone on with, after it.
      if (action.node === node && action.epoch > (state.epochs.get(action.cluster) ?? 0)) {
        await journal.append({ type: 'epoch', cluster: action.cluster, epoch: action.epoch });
      }
      const result = await this.#refuse(action, refusal);
      await journal.append({ type: 'result', result });
      return send({ result });
    }
    await journal.append({ type: 'accepted', atMs: clock.now(), action });
    this.#wake();
  }

  /** By how much the order is late by its controller's clock, if that was told yet; negative when there is time left. */
  #lateMs({ beginByMs }: Action): number | undefined {
    if (beginByMs === undefined || this.#controllerAheadMs === undefined) return undefined;
    return this.#controllerAheadMs + this.#parts.clock.elapsed() - beginByMs;
  }

  #refusal(action: Action): FleetError | null {
    const { node, journal } = this.#parts;
    if (action.node !== node) {
      return new FleetError('ACTION_INVALID', `the order is for ${action.node}; this is ${node}`);
    }
    const highest = journal.state.epochs.get(action.cluster) ?? 0;
    if (action.epoch < highest) {
      return new FleetError('EPOCH_STALE', `the order is of epoch ${action.epoch}; epoch ${highest} is in charge now`);
    }
    const lateMs = this.#lateMs(action);
    if (lateMs !== undefined && lateMs > 0) return lateError(lateMs);
    if (journal.state.inHand.size >= IN_HAND_LIMIT) {
      return new FleetError('ACTION_INVALID', `${IN_HAND_LIMIT} orders are in hand already`);
    }
    return null;
  }

  async #refuse(action: Action, refusal: FleetError): Promise<ActionResult> {
    const phase: Phase = action.phases[0] ?? 'check';
    return {
      action: action.id,
      outcome: 'failed',
      failure: { code: refusal.code, message: refusal.message, phase },
      disposition: 'untouched',
      newVersionStarted: false,
      phases: [],
      report: await this.#parts.driver.observe(),
    };
  }

  #wake(): void {
    if (this.#loop !== null || this.#stopping) return;
    // An error that is not a phase's is a bug: it is left to end the process, and the next one resumes.
    this.#loop = this.#work().then(() => {
      this.#loop = null;
      // An order may have come between the last look at the list and here.
      if (this.#next() !== undefined) this.#wake();
    });
  }

  /**
   * The order to carry out. One that is to be begun by some time of the controller, and that an earlier agent process left
   * untouched, waits for its clock: this host's may have gone on, or wrong, by any time.
   */
  #next(): ActionState | undefined {
    const [entry] = this.#parts.journal.state.inHand.values();
    if (entry === undefined || this.#controllerAheadMs !== undefined) return entry;
    const begun = entry.deeds.length > 0 || entry.failed !== null;
    return begun || entry.action.beginByMs === undefined ? entry : undefined;
  }

  async #work(): Promise<void> {
    try {
      for (;;) {
        const next = this.#next();
        if (next === undefined || this.#stopping) return;
        await this.#carryOut(next);
      }
    } catch (error) {
      if (!(error instanceof Stopping)) throw error;
    }
  }

  async #carryOut(entry: ActionState): Promise<void> {
    const { send, driver } = this.#parts;
    const run = new ActionRun(this.#parts, entry, () => this.#stopping);
    const result = await this.#resultOf(run);
    await run.record({ type: 'result', result }, 'for-ever');
    // What is true now is told as such: a result may wait, and then tells of a time that is past.
    send({ report: result.report });
    send({ result });
    try {
      await driver.release(entry.action);
    } catch (error) {
      // What could not be tidied away costs disk space and no more; the next look at the cache finds it.
      run.watch.detail(`could not tidy up: ${error instanceof Error ? error.message : String(error)}`);
    }
  }

  async #resultOf(run: ActionRun): Promise<ActionResult> {
    if (run.entry.failed === null) {
      const failure = this.#lateness(run) ?? (await this.#forward(run));
      if (failure === null) return run.result(undefined, 'done');
      const atMs = this.#parts.clock.now();
      await run.record({ type: 'failed', action: run.action.id, atMs, failure }, 'for-ever');
    }
    const { failed } = run.entry;
    if (failed === null) throw new Error('a failure was journalled and is not in the state');
    run.watch = run.newWatch(failed.atMs);
    const { disposition, failure } = await settle(run, failed.failure, (phase, work) =>
      this.#step(run, phase, BACK_OUT, work),
    );
    return run.result(failure, disposition);
  }

  /** An order that waited here, or whose agent was away before it touched the host, comes too late as well. */
  #lateness(run: ActionRun): ActionFailure | null {
    if (run.entry.deeds.length > 0) return null;
    const lateMs = this.#lateMs(run.action);
    return lateMs !== undefined && lateMs > 0
      ? failureOf(lateError(lateMs), run.action.phases[0] ?? 'check', run)
      : null;
  }

  /** Walks the phases from the first that is not done; the failure of one ends the walk. */
  async #forward(run: ActionRun): Promise<ActionFailure | null> {
    for (const [index, phase] of run.action.phases.entries()) {
      if (isDone(run.entry, phase, index)) continue;
      try {
        await this.#step(run, phase, index, PHASES[phase]);
      } catch (error) {
        if (error instanceof Stopping) throw error;
        return failureOf(error, phase, run);
      }
    }
    return null;
  }

  async #step(run: ActionRun, phase: Phase, index: number, work: (run: ActionRun) => Promise<void>): Promise<void> {
    const { clock } = this.#parts;
    const action = run.action.id;
    run.fence(phase);
    await run.record({ type: 'began', action, phase, index, atMs: clock.now() });
    run.watch.begin(phase, TITLES[phase]);
    await work(run);
    await run.record({ type: 'ended', action, phase, index, atMs: clock.now() });
  }
}

function lateError(lateMs: number): FleetError {
  const message = `the order was to be begun ${Math.ceil(lateMs / 1000)} s ago: what it was decided on may not hold any more`;
  return new FleetError('ORDER_LATE', message);
}

/**
 * Whether an earlier agent process finished this phase. An interlock holds only for what follows at once, so it is
 * asked anew until the node was touched; a check's answer was not kept, so it is asked anew always.
 */
function isDone(entry: ActionState, phase: Phase, index: number): boolean {
  const ended = entry.phases.some((times) => times.index === index && times.endedAtMs !== null);
  if (!ended) return false;
  if (phase === 'check' || phase === 'export' || phase === 'compare') return false;
  return phase !== 'interlock' || entry.deeds.length > 0;
}

/**
 * A process that tells no version, over a binary newer than what last ran: a node that waits for the rest of its cluster. It
 * is taken for that version, which errs on the side where no older one is started on the data.
 */
function newerThan(known: string | null, installation: NodeReport['installation']): string | undefined {
  const { unit, versions } = installation ?? {};
  const { binary } = versions ?? {};
  const runs = unit?.mainPid !== undefined && (unit.active === 'active' || unit.active === 'activating');
  return runs && known !== null && binary !== undefined && isOlder(known, binary) ? binary : undefined;
}
