/** What both kinds of script installations share: deploy.sh, run as a long command, and the unit that it leaves. */
import { join } from 'node:path';
import { type Action, FleetError } from '@kwfleet/core';
import { UNIT } from '../host/mode.ts';
import { SYSTEM_PATH } from '../host/package-database.ts';
import { requireRights, runAsRoot } from '../host/rights.ts';
import { wordsOf } from '../host/run.ts';
import type { LongCommandSpec, LongCommands, ServiceManager } from '../host/services.ts';
import { runDeploy, type Work } from './deploy-run.ts';
import type { Watch } from './driver.ts';

export type DeployScriptOptions = {
  readonly root: string;
  readonly services: ServiceManager;
  readonly commands: LongCommands;
  readonly sudo: boolean;
  /** What deploy.sh needs beside PATH where `root` is not `/`. */
  readonly environment: Readonly<Record<string, string>>;
  /** Something on the host that moves while deploy.sh prints nothing. */
  readonly sign: () => Promise<string>;
};

const START_TIMEOUT_MS = 120_000;
const STOP_TIMEOUT_MS = 300_000;

export class DeployScript {
  readonly #options: DeployScriptOptions;

  constructor(options: DeployScriptOptions) {
    this.#options = options;
  }

  /** Asked before anything is stopped: whoever cannot install in the end does not stop either. */
  requireRights(): Promise<void> {
    return requireRights(this.#options);
  }

  async stop(action: Action, watch: Watch): Promise<void> {
    const { services } = this.#options;
    await this.requireRights();
    watch.detail('the service manager stops the database');
    try {
      await services.stop(UNIT, Math.min(action.deadline.ceilingMs, STOP_TIMEOUT_MS));
    } catch (error) {
      // Still on its way down: the executor goes on looking until its own deadline.
      if ((await services.state(UNIT)).active === 'deactivating') return;
      throw new FleetError('STOP_FAILED', 'the service manager could not stop the database', { words: text(error) });
    }
  }

  async start(detail: string, watch: Watch): Promise<void> {
    const { services } = this.#options;
    try {
      // deploy.sh edits the unit file: without a reload systemd would start the old one.
      await services.reload();
      watch.detail(detail);
      await services.start(UNIT, START_TIMEOUT_MS);
    } catch (error) {
      throw new FleetError('START_FAILED', 'the service manager could not start the database', { words: text(error) });
    }
  }

  async restoreEnabled(enabled: boolean): Promise<void> {
    await this.#options.services.setEnabled?.(UNIT, enabled);
  }

  /** deploy.sh itself does not refuse while a single-replica node runs: it would restart it. */
  async requireStopped(): Promise<void> {
    const { active, mainPid } = await this.#options.services.state(UNIT);
    if (mainPid === null && active !== 'active' && active !== 'activating') return;
    throw new FleetError('DEPLOY_STILL_RUNNING', `nothing is installed while the service is ${active}`);
  }

  /** `deploy.sh upgrade --local` of the package unpacked in `directory`. Throws what its output says. */
  async upgrade(action: Action, work: Work, directory: string, bypass: boolean, watch: Watch): Promise<void> {
    const script = join(directory, 'deploy.sh');
    const argv = [script, 'upgrade', '--local', ...(bypass ? ['--bypass-version-check'] : [])] as const;
    const verdict = await this.#run(action, work, { argv: [...argv], cwd: directory, env: this.#environment() }, watch);
    if (verdict.status === 'failed') throw new FleetError(verdict.code, verdict.message, { words: verdict.words });
  }

  /** A command that puts an old version back. Throws ROLLBACK_FAILED, unless `any` end of it will do. */
  async command(
    action: Action,
    work: Work,
    spec: Pick<LongCommandSpec, 'argv' | 'cwd'>,
    watch: Watch,
    accepted: 'zero' | 'any',
  ): Promise<void> {
    const verdict = await this.#run(action, work, { ...spec, env: this.#environment() }, watch);
    if (accepted === 'any' || verdict.status !== 'failed') return;
    const message = `${spec.argv[0]} failed to install the kept copy`;
    throw new FleetError('ROLLBACK_FAILED', message, { words: verdict.words });
  }

  /** A short command as root. */
  async edit(argv: readonly [string, ...string[]]): Promise<void> {
    const ended = await runAsRoot(this.#options, argv);
    if (ended.exitCode !== 0) throw new FleetError('INSTALL_FAILED', `${argv[0]} failed`, { words: wordsOf(ended) });
  }

  #run(action: Action, work: Work, spec: LongCommandSpec, watch: Watch) {
    const { commands, sign } = this.#options;
    return runDeploy({ commands, action, work, spec, watch, sign });
  }

  #environment(): Readonly<Record<string, string>> {
    // deploy.sh reads messages of other programs: they must not come in another language.
    return { PATH: SYSTEM_PATH, HOME: '/root', LC_ALL: 'C.UTF-8', TERM: 'dumb', ...this.#options.environment };
  }
}

const text = (error: unknown): string => (error instanceof Error ? error.message : String(error));
