/** One statement that may take hours, outside the agent: found again after a restart, never sent twice by one action. */
import { type Action, FleetError } from '@kwfleet/core';
import { endOrphans } from '../driver/deploy-run.ts';
import type { Watch } from '../driver/driver.ts';
import type { LongCommandSpec, LongCommands } from '../host/services.ts';

const LOOK_EVERY_MS = 250;
/** KWDB tells nothing of an EXPORT and little of an IMPORT: only the step's ceiling ends one that hangs. */
const TELL_EVERY_MS = 10_000;
const OUTPUT_LIMIT_BYTES = 16 * 1024 * 1024;
/** The end of what kwbase printed is what a person needs of a failure. */
const WORDS_LENGTH = 2_000;

export type LongSql = {
  readonly commands: LongCommands;
  readonly action: Action;
  /** Of the long command. */
  readonly id: string;
  readonly spec: LongCommandSpec;
  readonly watch: Watch;
  /** What is under way, for a person. */
  readonly what: string;
};

/** `lost`: it was killed, or the host went down. Nobody knows then how far the database came. */
export type LongSqlEnd =
  | { readonly status: 'done'; readonly output: string }
  | { readonly status: 'failed'; readonly words: string }
  | { readonly status: 'lost' };

/** Runs it to its end, or follows the one that an earlier agent process started. */
export async function runLongSql({ commands, action, id, spec, watch, what }: LongSql): Promise<LongSqlEnd> {
  if ((await commands.state(id)).status === 'absent') {
    await endOrphans(commands, action, watch);
    await watch.fence();
    await commands.start(id, spec);
  }
  for (let waitedMs = 0; ; waitedMs += LOOK_EVERY_MS) {
    const state = await commands.state(id);
    if (state.status === 'exited') {
      const output = await wholeOutput(commands, id);
      if (state.exitCode === 0) return { status: 'done', output };
      return { status: 'failed', words: output.trim().slice(-WORDS_LENGTH) };
    }
    if (state.status !== 'running') return { status: 'lost' };
    if (waitedMs % TELL_EVERY_MS === 0) watch.detail(`${what} (${waitedMs / 1000} s so far)`);
    await watch.pause(LOOK_EVERY_MS);
  }
}

async function wholeOutput(commands: LongCommands, id: string): Promise<string> {
  const chunks: Uint8Array[] = [];
  let offset = 0;
  for (;;) {
    const bytes = await commands.output(id, offset);
    if (bytes.length === 0) return Buffer.concat(chunks).toString();
    offset += bytes.length;
    if (offset > OUTPUT_LIMIT_BYTES) throw new FleetError('KWBASE_FAILED', 'the answer has no end');
    chunks.push(bytes);
  }
}
