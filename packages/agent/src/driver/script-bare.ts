/** KWDB installed by its own scripts from .deb or .rpm packages: upgraded by the new package's deploy.sh. */
import { mkdir, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { type Action, FleetError, type PackageInfo, packageOf } from '@kwfleet/core';
import { packageFamily } from '../host/host-facts.ts';
import { ENV_FILE, INFO_DIR, readText } from '../host/mode.ts';
import { dpkgRecords, PACKAGE_NAMES, packageSign } from '../host/package-database.ts';
import type { LongCommands, ServiceManager } from '../host/services.ts';
import type { Observer } from '../observe.ts';
import type { PackageCache } from '../packages.ts';
import { DeployScript } from './deploy-script.ts';
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

const KEPT_VERSIONS = 2;

export class ScriptBareDriver implements MethodDriver {
  readonly #options: ScriptBareOptions;
  readonly #script: DeployScript;

  constructor(options: ScriptBareOptions) {
    this.#options = options;
    // What the package manager is at moves while deploy.sh prints nothing.
    const sign = async () => packageSign(options.root, await packageFamily(options.root));
    this.#script = new DeployScript({ ...options, sign });
  }

  /** Brings everything an installation and its way back need, while the database still serves. */
  async fetch(action: Action, watch: Watch): Promise<void> {
    await this.#requireFits(packageOf(action));
    await this.#script.requireRights();
    await this.#options.packages.ensure(packageOf(action), watch);
    if (action.previousPackage !== undefined) await this.#options.packages.ensure(action.previousPackage, watch);
    else await this.#keep(action, watch);
  }

  stop(action: Action, watch: Watch): Promise<void> {
    return this.#script.stop(action, watch);
  }

  async install(action: Action, watch: Watch): Promise<void> {
    await this.#requireFits(packageOf(action));
    await this.#script.requireRights();
    await this.#script.requireStopped();
    await this.#upgrade(action, 'install', watch);
  }

  async installOnline(action: Action, watch: Watch): Promise<void> {
    await this.#requireFits(packageOf(action));
    await this.#script.requireRights();
    await this.#upgrade(action, 'online', watch);
  }

  async start(_action: Action, watch: Watch): Promise<void> {
    const marked = (await this.#options.observer.known())?.marked === true;
    if (marked) await this.#setUpgradeComplete(true);
    try {
      const detail = marked ? 'starting, to clear the mark of an interrupted online upgrade' : 'starting';
      await this.#script.start(detail, watch);
    } finally {
      // Also one that an online upgrade left there: it may clear a mark that nobody saw, once and not at each start.
      await this.#setUpgradeComplete(false);
    }
  }

  async putBack(action: Action, watch: Watch): Promise<void> {
    await this.#script.requireRights();
    await this.#script.requireStopped();
    if (action.previousPackage !== undefined) return this.#putBackPackage(action, action.previousPackage, watch);
    const kept = await findKept(this.#keptDirectory(action.from));
    if (kept === undefined) {
      throw new FleetError('ROLLBACK_FAILED', `neither a package nor a copy of ${action.from} is on this host`);
    }
    watch.detail(`installing the kept copy of ${action.from}`);
    const dpkg = [...this.#asRoot('dpkg'), ...this.#dpkgOptions()];
    // As deploy.sh does: the packages go first, so that none of the new files stays. What is not there is no error.
    const remove = [...dpkg, '--force-remove-reinstreq', '--force-depends', '-r', ...PACKAGE_NAMES];
    const { root, stateDir: cwd } = this.#options;
    const install = [...dpkg, '-i', ...kept.packages];
    await this.#script.command(action, 'back-remove', { argv: commandOf(remove), cwd }, watch, 'any');
    await this.#script.command(action, 'back-install', { argv: commandOf(install), cwd }, watch, 'zero');
    await this.#script.edit(['cp', '-f', kept.versionFile, join(root, INFO_DIR, '.version')]);
    const site = (await this.#options.observer.deployment())?.site;
    if (root === '/' && site !== undefined) await this.#script.edit(['chown', '-R', `${site.user}:`, site.installDir]);
  }

  restoreEnabled(enabled: boolean): Promise<void> {
    return this.#script.restoreEnabled(enabled);
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
    await this.#script.upgrade(action, 'back', directory, true, watch);
  }

  async #upgrade(action: Action, work: 'install' | 'online', watch: Watch): Promise<void> {
    const directory = await this.#options.packages.ready(packageOf(action), watch);
    if (action.previousPackage === undefined) await this.#keep(action, watch);
    await this.#script.upgrade(action, work, directory, action.bypassVersionCheck, watch);
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

  async #setUpgradeComplete(wanted: boolean): Promise<void> {
    const { root } = this.#options;
    const environment = (await readText(root, ENV_FILE)) ?? '';
    if (environment.includes('--upgrade-complete') === wanted) return;
    const change = wanted ? 's/KAIWUDB_START_ARG="/&--upgrade-complete /' : 's/--upgrade-complete *//g';
    await this.#script.edit(['sed', '-i', change, join(root, ENV_FILE)]);
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

const commandOf = (words: readonly string[]) => words as [string, ...string[]];
