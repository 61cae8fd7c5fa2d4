/**
 * Builds KWDB on this host, by the steps that its own agent.yaml lists: what an order names is a version, never a command.
 * Source: manual, "Upgrade for Source Code Compilation".
 */
import { stat } from 'node:fs/promises';
import { resolve } from 'node:path';
import { type Action, FleetError } from '@kwfleet/core';
import { cleanOutput } from '../deploy-output.ts';
import { SYSTEM_PATH } from '../host/package-database.ts';
import type { LongCommandSpec, LongCommands } from '../host/services.ts';
import { BUILDS, runLong } from './deploy-run.ts';
import type { Watch } from './driver.ts';

/** `source.build` of agent.yaml. */
export type BuildConfig = {
  /** The source, at the version that is wanted; absolute. */
  readonly directory: string;
  /** Programs and their arguments, one after the other; at most as many as there are `BUILDS`. */
  readonly steps: readonly (readonly [string, ...string[]])[];
  readonly environment: Readonly<Record<string, string>>;
  /** Where the steps leave the tree, seen from the directory. */
  readonly tree: string;
};

const WORDS_LIMIT = 4000;

/**
 * Runs the steps as the owner of the source, and returns where the built tree is. Steps go on while the agent restarts, and
 * are found again. Throws BUILD_FAILED with the last words of the step that failed.
 */
export async function buildTree(
  config: BuildConfig,
  action: Action,
  commands: LongCommands,
  watch: Watch,
): Promise<string> {
  const owner = await stat(config.directory).catch((cause: unknown) => {
    throw new FleetError('BUILD_FAILED', `there is no source in ${config.directory}`, { cause });
  });
  for (const [at, step] of config.steps.entries()) {
    const work = BUILDS[at];
    if (work === undefined) throw new FleetError('CONFIG_INVALID', `source.build has more than ${BUILDS.length} steps`);
    watch.detail(`building, step ${at + 1} of ${config.steps.length}: ${step[0]}`);
    const spec = specOf(config, step, owner);
    const sign = async () => '';
    // A compiler's output is full of the word error: only the exit status counts.
    const { exitCode, output } = await runLong({ commands, action, work, spec, watch, sign });
    if (exitCode === 0) continue;
    const message = `step ${at + 1} of the build (${step[0]}) ended with exit status ${exitCode}`;
    throw new FleetError('BUILD_FAILED', message, { words: cleanOutput(output).slice(-WORDS_LIMIT) });
  }
  return resolve(config.directory, config.tree);
}

function specOf(
  { directory, environment }: BuildConfig,
  step: readonly [string, ...string[]],
  { uid, gid }: { readonly uid: number; readonly gid: number },
): LongCommandSpec {
  // Long commands run as root where the agent is: what somebody else can write, root does not run.
  const asOwner = ['/usr/bin/setpriv', `--reuid=${uid}`, `--regid=${gid}`, '--clear-groups', '--', ...step] as const;
  return {
    argv: process.getuid?.() === uid ? step : [...asOwner],
    cwd: directory,
    env: { PATH: SYSTEM_PATH, HOME: directory, LC_ALL: 'C.UTF-8', TERM: 'dumb', ...environment },
  };
}
