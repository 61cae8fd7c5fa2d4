/** KWDB installed by its own scripts from .deb or .rpm packages: upgraded by the new package's deploy.sh. */
import { mkdir, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { type Action, FleetError, type PackageInfo, packageOf } from '@kwfleet/core';
import { packageFamily } from '../host/host-facts.ts';
import { ENV_FILE, INFO_DIR, readText, UNIT } from '../host/mode.ts';
import { dpkgRecords, PACKAGE_NAMES, packageSign, SYSTEM_PATH } from '../host/package-database.ts';
import { requireRights, runAsRoot } from '../host/rights.ts';
import { wordsOf } from '../host/run.ts';
import type { LongCommandSpec, LongCommands, ServiceManager } from '../host/services.ts';
import type { Observer } from '../observe.ts';
import type { PackageCache } from '../packages.ts';
import { runDeploy, type Work } from './deploy-run.ts';
import type { MethodDriver, Watch } from './driver.ts';
import { findKept, keepInstalled } from './kept-version.ts';

export type ScriptBareOptions = {
  readonly root: string;
  readonly stateDir: string;
  readonly services: ServiceManager;
  readonly commands: LongCommands;
  readonly observer: Observer;
  readonly packages: PackageCache;
  readonly sudo: boolean;
  /** What deploy.sh needs beside PATH where `root` is not `/`. */
  readonly environment: Readonly<Record<string, string>>;
};

const START_TIMEOUT_MS = 120_000;
const STOP_TIMEOUT_MS = 300_000;
const KEPT_VERSIONS = 2;

export class ScriptBareDriver implements MethodDriver {
  readonly #options: ScriptBareOptions;

  constructor(options: ScriptBareOptions) {
    this.#options = options;
  }

  /** Brings everything an installation and its way back need, while the database still serves. */
  async fetch(action: Action, watch: Watch): Promise<void> {
    await this.#requireFits(packageOf(action));
    await requireRights(this.#options);
    await this.#options.packages.ensure(packageOf(action), watch);
    if (action.previousPackage !== undefined) await this.#options.packages.ensure(action.previousPackage, watch);
    else await this.#keep(action, watch);
  }

  async stop(action: Action, watch: Watch): Promise<void> {
    const { services } = this.#options;
    // Whoever cannot install in the end does not stop either.
    await requireRights(this.#options);
    watch.detail('the service manager stops the database');
    try {
      await services.stop(UNIT, Math.min(action.deadline.ceilingMs, STOP_TIMEOUT_MS));
    } catch (error) {
      // Still on its way down: the executor goes on looking until its own deadline.
      if ((await services.state(UNIT)).active === 'deactivating') return;
      throw new FleetError('STOP_FAILED', 'the service manager could not stop the database', { words: text(error) });
    }
  }

  async install(action: Action, watch: Watch): Promise<void> {
    await this.#requireFits(packageOf(action));
    await requireRights(this.#options);
    await this.#requireStopped();
    const directory = await this.#options.packages.ready(packageOf(action), watch);
    if (action.previousPackage === undefined) await this.#keep(action, watch);
    const bypass = action.bypassVersionCheck;
    await this.#deploy(action, 'install', this.#deploySpec(directory, bypass), watch);
  }

  async installOnline(action: Action, watch: Watch): Promise<void> {
    await this.#requireFits(packageOf(action));
    await requireRights(this.#options);
    const directory = await this.#options.packages.ready(packageOf(action), watch);
    if (action.previousPackage === undefined) await this.#keep(action, watch);
    const bypass = action.bypassVersionCheck;
    await this.#deploy(action, 'online', this.#deploySpec(directory, bypass), watch);
  }

  async start(_action: Action, watch: Watch): Promise<void> {
    const { services, observer } = this.#options;
    const marked = (await observer.known())?.marked === true;
    if (marked) await this.#setUpgradeComplete(true);
    try {
      // deploy.sh edits the unit file: without a reload systemd would start the old one.
      await services.reload();
      watch.detail(marked ? 'starting, to clear the mark of an interrupted online upgrade' : 'starting');
      await services.start(UNIT, START_TIMEOUT_MS);
    } catch (error) {
      throw new FleetError('START_FAILED', 'the service manager could not start the database', { words: text(error) });
    } finally {
      if (marked) await this.#setUpgradeComplete(false);
    }
  }

  async putBack(action: Action, watch: Watch): Promise<void> {
    await requireRights(this.#options);
    await this.#requireStopped();
    if (action.previousPackage !== undefined) return this.#putBackPackage(action, action.previousPackage, watch);
    const kept = await findKept(this.#keptDirectory(action.from));
    if (kept === undefined) {
      throw new FleetError('ROLLBACK_FAILED', `neither a package nor a copy of ${action.from} is on this host`);
    }
    watch.detail(`installing the kept copy of ${action.from}`);
    const dpkg = [...this.#asRoot('dpkg'), ...this.#dpkgOptions()];
    // As deploy.sh does: the packages go first, so that none of the new files stays. What is not there is no error.
    const remove = [...dpkg, '--force-remove-reinstreq', '--force-depends', '-r', ...PACKAGE_NAMES];
    await this.#command(action, 'back-remove', remove, watch, 'any');
    await this.#command(action, 'back-install', [...dpkg, '-i', ...kept.packages], watch, 'zero');
    const { root } = this.#options;
    await this.#edit(['cp', '-f', kept.versionFile, join(root, INFO_DIR, '.version')]);
    const site = (await this.#options.observer.deployment())?.site;
    if (root === '/' && site !== undefined) await this.#edit(['chown', '-R', `${site.user}:`, site.installDir]);
  }

  async restoreEnabled(enabled: boolean): Promise<void> {
    await this.#options.services.setEnabled?.(UNIT, enabled);
  }

  async release(action: Action): Promise<void> {
    const { stateDir } = this.#options;
    const kept = (await readdir(join(stateDir, 'kept')).catch(() => [])).filter((name) => name !== action.from);
    for (const name of kept.slice(0, -KEPT_VERSIONS)) {
      await rm(join(stateDir, 'kept', name), { recursive: true, force: true });
    }
  }

  async #putBackPackage(action: Action, previous: PackageInfo, watch: Watch): Promise<void> {
    const directory = await this.#options.packages.ready(previous, watch);
    watch.detail(`installing ${previous.version} again`);
    await this.#deploy(action, 'back', this.#deploySpec(directory, true), watch);
  }

  async #deploy(action: Action, work: Work, spec: LongCommandSpec, watch: Watch): Promise<void> {
    const { commands } = this.#options;
    const verdict = await runDeploy({ commands, action, work, spec, watch, sign: () => this.#sign() });
    if (verdict.status !== 'failed') return;
    throw new FleetError(verdict.code, verdict.message, { words: verdict.words });
  }

  #deploySpec(directory: string, bypass: boolean): LongCommandSpec {
    const script = join(directory, 'deploy.sh');
    return {
      argv: [script, 'upgrade', '--local', ...(bypass ? ['--bypass-version-check'] : [])],
      cwd: directory,
      env: this.#environment(),
    };
  }

  async #command(
    action: Action,
    work: Work,
    argv: readonly string[],
    watch: Watch,
    accepted: 'zero' | 'any',
  ): Promise<void> {
    const { commands, stateDir } = this.#options;
    const spec = { argv: argv as [string, ...string[]], cwd: stateDir, env: this.#environment() };
    const verdict = await runDeploy({ commands, action, work, spec, watch, sign: () => this.#sign() });
    if (accepted === 'any' || verdict.status !== 'failed') return;
    throw new FleetError('ROLLBACK_FAILED', `${argv[0]} failed to install the kept copy`, { words: verdict.words });
  }

  #environment(): Readonly<Record<string, string>> {
    // deploy.sh reads messages of other programs: they must not come in another language.
    return { PATH: SYSTEM_PATH, HOME: '/root', LC_ALL: 'C.UTF-8', TERM: 'dumb', ...this.#options.environment };
  }

  /** What the package manager is at: moves while deploy.sh prints nothing. */
  async #sign(): Promise<string> {
    const { root } = this.#options;
    return packageSign(root, await packageFamily(root));
  }

  async #keep(action: Action, watch: Watch): Promise<void> {
    const directory = this.#keptDirectory(action.from);
    if ((await findKept(directory)) !== undefined) return;
    if ((await packageFamily(this.#options.root)) === 'rpm') {
      throw new FleetError('PREVIOUS_PACKAGE_MISSING', `there would be no way back to ${action.from}`);
    }
    const report = await this.#options.observer.observe();
    // Half exchanged already by an earlier attempt: what there is now is not the version before.
    if (
      report.installation?.versions.package === undefined ||
      report.installation.condition === 'package-half-installed'
    ) {
      return;
    }
    watch.detail(`keeping a copy of ${action.from}`);
    await mkdir(join(this.#options.stateDir, 'kept'), { recursive: true, mode: 0o700 });
    await keepInstalled(this.#options.root, await dpkgRecords(this.#options.root), directory);
  }

  #keptDirectory(version: string): string {
    return join(this.#options.stateDir, 'kept', version.replace(/[^\w.-]/g, '_'));
  }

  /** Asked by the plan too; a host can change its tools in between. */
  async #requireFits({ family, fileName }: PackageInfo): Promise<void> {
    const taken = await packageFamily(this.#options.root);
    if (family === 'any' || family === taken) return;
    throw new FleetError('DISTRIBUTION_MISMATCH', `${fileName} holds ${family} packages, this host takes ${taken}`);
  }

  /** deploy.sh itself does not refuse while a single-replica node runs: it would restart it. */
  async #requireStopped(): Promise<void> {
    const { active, mainPid } = await this.#options.services.state(UNIT);
    if (mainPid === null && active !== 'active' && active !== 'activating') return;
    throw new FleetError('DEPLOY_STILL_RUNNING', `nothing is installed while the service is ${active}`);
  }

  async #setUpgradeComplete(wanted: boolean): Promise<void> {
    const { root } = this.#options;
    const environment = (await readText(root, ENV_FILE)) ?? '';
    if (environment.includes('--upgrade-complete') === wanted) return;
    const change = wanted ? 's/KAIWUDB_START_ARG="/&--upgrade-complete /' : 's/--upgrade-complete *//g';
    await this.#edit(['sed', '-i', change, join(root, ENV_FILE)]);
  }

  async #edit(argv: readonly [string, ...string[]]): Promise<void> {
    const ended = await runAsRoot(this.#options, argv);
    if (ended.exitCode !== 0) throw new FleetError('INSTALL_FAILED', `${argv[0]} failed`, { words: wordsOf(ended) });
  }

  #asRoot(program: string): string[] {
    return this.#options.sudo ? ['/usr/bin/sudo', '-n', program] : [`/usr/bin/${program}`];
  }

  #dpkgOptions(): string[] {
    const { root } = this.#options;
    if (root === '/') return [];
    return [`--root=${root}`, '--force-not-root', '--force-script-chrootless', '--force-bad-path'];
  }
}

const text = (error: unknown): string => (error instanceof Error ? error.message : String(error));
