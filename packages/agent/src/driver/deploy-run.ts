/** Running one deploy.sh (or dpkg) as a long command: found again after a restart, its output told as it comes. */
import { createHash } from 'node:crypto';
import { type Action, FleetError } from '@kwfleet/core';
import { judgeOutput, OutputCleaner, type OutputVerdict } from '../deploy-output.ts';
import type { LongCommandSpec, LongCommands } from '../host/services.ts';
import type { Watch } from './driver.ts';

const LOOK_EVERY_MS = 250;
/** A command that was killed is started again this often: facts say that a re-run works. */
const TRIES = 3;
/** An earlier attempt's deploy.sh without any sign of life for this long is ended. */
const ORPHAN_QUIET_MS = 60_000;
const OUTPUT_LIMIT_BYTES = 4 * 1024 * 1024;

/** `RUN/STEP/ATTEMPT` as an id of a long command: readable, and unique by a part of its hash. */
export function commandId(action: string, work: string, attempt: number): string {
  const readable = action
    .toLowerCase()
    .replace(/[^a-z0-9]+/g, '-')
    .slice(0, 90);
  const hash = createHash('sha256').update(action).digest('hex').slice(0, 8);
  return `${readable}-${hash}-${work}-${attempt}`;
}

/** The ids of one action's commands. */
export function belongsTo(id: string, action: string): boolean {
  return id.startsWith(commandId(action, '', 0).replace(/--0$/, '-'));
}

/** Steps of a build from source. */
export const BUILDS = ['build-1', 'build-2', 'build-3', 'build-4', 'build-5', 'build-6', 'build-7', 'build-8'] as const;

/** What a command of an action can be for, mostly in the order in which they follow each other; new ones at the end. */
const WORKS = [
  'install',
  'online',
  'back',
  'back-remove',
  'back-install',
  'prepare',
  'back-up',
  'check',
  'restore',
  'put-data-back',
  'discard',
  ...BUILDS,
  'compose',
  'compose-back',
  'stage',
] as const;
export type Work = (typeof WORKS)[number];

/**
 * Where a command's output starts in the output of its action: far enough from the others that none runs into the next,
 * and the same for every agent process that tells it.
 */
const outputBase = (work: Work, attempt: number): number => (WORKS.indexOf(work) * TRIES + attempt - 1) * 1e10;

export type DeployRun = {
  readonly commands: LongCommands;
  readonly action: Action;
  /** What it is for; with the action's id it names the command. */
  readonly work: Work;
  readonly spec: LongCommandSpec;
  readonly watch: Watch;
  /** Something on the host that shows movement while nothing is printed; an error of it is no movement. */
  readonly sign: () => Promise<string>;
};

export type LongEnd = { readonly exitCode: number; readonly output: string };

/** Runs a deploy.sh to its end, or finds the one an earlier agent process started, and judges what it said. */
export async function runDeploy(run: DeployRun): Promise<OutputVerdict> {
  const { exitCode, output } = await runLong(run);
  return judgeOutput(output, exitCode);
}

/**
 * Runs the command to its end, or finds the one an earlier agent process started. Rejects with INSTALL_LOST when it
 * was killed again and again; what it said is the caller's to judge.
 */
export async function runLong(run: DeployRun): Promise<LongEnd> {
  const { commands, action, work, spec, watch } = run;
  const ids = Array.from({ length: TRIES }, (_, tries) => commandId(action.id, work, tries + 1));
  await endOrphans(commands, action, watch, (id) => ids.includes(id));
  for (const [tries, id] of ids.entries()) {
    const before = await patiently(watch, () => commands.state(id));
    if (before.status === 'absent') {
      // Orders may have come since the first start, which the executor let pass.
      await watch.fence();
      await commands.start(id, spec);
    }
    const ended = before.status === 'lost' ? null : await follow(run, id, outputBase(work, tries + 1));
    // The progress bar outlives a deploy.sh that failed; a killed wrapper leaves the script itself.
    await commands.kill(id);
    if (ended !== null) return ended;
    watch.detail('the command was killed; starting it again');
  }
  throw new FleetError('INSTALL_LOST', `${spec.argv[0]} was killed ${TRIES} times`);
}

/** Until it ends: its output and its exit status. Null when it was killed. */
async function follow(run: DeployRun, id: string, base: number): Promise<LongEnd | null> {
  const { commands, watch } = run;
  const cleaner = new OutputCleaner();
  const chunks: Uint8Array[] = [];
  let offset = 0;
  let sign = '';
  for (;;) {
    // The state is read before the output, so that what is printed last is not missed.
    const state = await patiently(watch, () => commands.state(id));
    for (;;) {
      const bytes = await patiently(watch, () => commands.output(id, offset));
      if (bytes.length === 0) break;
      offset += bytes.length;
      if (offset <= OUTPUT_LIMIT_BYTES) {
        chunks.push(bytes);
        for (const { offset: at, text } of cleaner.take(bytes)) watch.output(base + at, text);
      }
    }
    if (state.status === 'exited') {
      for (const { offset: at, text } of cleaner.take(new Uint8Array(), true)) watch.output(base + at, text);
      return { exitCode: state.exitCode, output: Buffer.concat(chunks).toString() };
    }
    if (state.status !== 'running') return null;
    sign = await run.sign().catch(() => sign);
    watch.moved(`${offset} ${sign}`);
    await watch.pause(LOOK_EVERY_MS);
  }
}

/** A command that cannot be seen has not failed, and is at work perhaps: it is asked for again until the deadline. */
async function patiently<T>(watch: Watch, look: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await look();
    } catch (error) {
      watch.detail(`waiting: ${error instanceof Error ? error.message : String(error)}`);
      await watch.pause(LOOK_EVERY_MS);
    }
  }
}

/**
 * Commands that still run, but for `own`: two deploy.sh at once would take each other's packages away. Each gets the time
 * it needs as long as it moves; a new order, or the way back, is the decision to end one that does not.
 */
export async function endOrphans(
  commands: LongCommands,
  action: Action,
  watch: Watch,
  own = (id: string) => belongsTo(id, action.id),
): Promise<void> {
  for (const id of await commands.list()) {
    if (own(id)) continue;
    let size = 0;
    const state = () => patiently(watch, () => commands.state(id));
    for (let quietMs = 0; (await state()).status === 'running'; quietMs += LOOK_EVERY_MS) {
      watch.detail(`waiting for ${id}, which was left running`);
      const bytes = await commands.output(id, size);
      if (bytes.length > 0) quietMs = 0;
      size += bytes.length;
      watch.moved(`${id} ${size}`);
      if (quietMs >= Math.min(ORPHAN_QUIET_MS, action.deadline.idleMs / 2)) break;
      await watch.pause(LOOK_EVERY_MS);
    }
    await commands.kill(id);
  }
}

/** Whether any command of the action still runs. */
export async function isAtWork(commands: LongCommands, action: Action): Promise<boolean> {
  for (const id of await commands.list()) {
    if (belongsTo(id, action.id) && (await commands.state(id)).status === 'running') return true;
  }
  return false;
}
