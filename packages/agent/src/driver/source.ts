/**
 * KWDB built from source: the new tree is laid beside the one in use, which a link then leads to. The old tree stays, and
 * with it the way back. Source: manual, "Upgrade for Source Code Compilation".
 */
import { lstat, mkdir, readFile, readlink, realpath, rename, rm, stat, symlink } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { type Action, FleetError, isVersion, type PackageInfo, packageOf, tellsVersion } from '@kwfleet/core';
import { inTree, runnerOf, SourceDeployment } from '../deployment/source.ts';
import type { NodeRecord, SourceRecords } from '../deployment/source-record.ts';
import { kwbaseVersion } from '../host/kwbase.ts';
import { launchNode, tryLaunch } from '../host/launch.ts';
import { requireUnitRights } from '../host/rights.ts';
import { runShort, wordsOf } from '../host/run.ts';
import type { LongCommands, ServiceManager } from '../host/services.ts';
import { syncTree } from '../host/sync.ts';
import { replaceFile, syncDirectory } from '../journal/file-storage.ts';
import type { Observer } from '../observe.ts';
import type { PackageCache } from '../packages.ts';
import type { MethodDriver, Watch } from './driver.ts';
import { type BuildConfig, buildTree } from './source-build.ts';

export type SourceDriverOptions = {
  readonly services: ServiceManager;
  readonly observer: Observer;
  readonly packages: PackageCache;
  readonly records: SourceRecords;
  readonly sudo: boolean;
  readonly commands: LongCommands;
  /** How this host builds a version itself, where it is told to. */
  readonly build: BuildConfig | undefined;
};

const START_TIMEOUT_MS = 120_000;
const STOP_TIMEOUT_MS = 300_000;
const COPY_TIMEOUT_MS = 10 * 60_000;
const VERSION_TIMEOUT_MS = 20_000;
const LOOK_EVERY_MS = 250;
/** In a tree that the agent laid there, once it is whole: the package it came from. */
const MARK = '.kwfleet-tree';

export class SourceDriver implements MethodDriver {
  readonly #options: SourceDriverOptions;

  constructor(options: SourceDriverOptions) {
    this.#options = options;
  }

  /** The new tree lies beside the old one afterwards, and its `kwbase` runs on this host, while the old one serves. */
  async fetch(action: Action, watch: Watch): Promise<void> {
    const { record, site } = await this.#deployment();
    await this.#requireRights(record);
    const inside = await inTree(record.tree, [site.dataDir]);
    // The new version would find none, and begin with an empty store.
    if (inside !== undefined) throw new FleetError('METHOD_UNSUPPORTED', inside);
    const wanted = packageOf(action);
    const place = await this.#stage(record, wanted, watch, async () => {
      const unpacked = await this.#options.packages.ensure(wanted, watch);
      return wanted.kind === 'build' ? this.#build(action, watch) : unpacked;
    });
    if (record.unit !== undefined) return;
    watch.detail('trying the way in which the new version will be started');
    await tryLaunch(record, place, this.#launch);
  }

  async stop(action: Action, watch: Watch): Promise<void> {
    const { record, running } = await this.#deployment();
    if (record.unit !== undefined) return this.#stopUnit(record.unit, action, watch);
    if (running === undefined) return;
    await this.#requireRights(record);
    watch.detail(`asking process ${running.pid} to end`);
    try {
      process.kill(running.pid, 'SIGTERM');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ESRCH') return;
      throw new FleetError('STOP_FAILED', `process ${running.pid} cannot be asked to end`, { words: text(error) });
    }
    // It drains first. It is never killed: the executor's deadline holds the run, and a person decides.
    const ends = Date.now() + Math.min(action.deadline.ceilingMs, STOP_TIMEOUT_MS);
    while (Date.now() < ends && (await this.#deployment()).running?.pid === running.pid) {
      await watch.pause(LOOK_EVERY_MS);
    }
  }

  async install(action: Action, watch: Watch): Promise<void> {
    const { record } = await this.#requireStopped();
    const wanted = packageOf(action);
    const place = await this.#stage(record, wanted, watch, () => {
      if (wanted.kind === 'build') throw new FleetError('INSTALL_FAILED', `the tree of ${wanted.version} is not there`);
      return this.#options.packages.ready(wanted, watch);
    });
    await watch.fence();
    await this.#switch(record.tree, place, action.from);
  }

  installOnline(): Promise<void> {
    return Promise.reject(new FleetError('METHOD_UNSUPPORTED', 'a source build is not upgraded while it runs'));
  }

  async start(_action: Action, watch: Watch): Promise<void> {
    const { services } = this.#options;
    const { record, running } = await this.#deployment();
    if (record.unit === undefined) {
      if (running !== undefined) return;
      watch.detail('starting it with the command, environment and limits it had');
      return launchNode(record, this.#launch);
    }
    watch.detail(`starting ${record.unit}`);
    try {
      // A restore may have put another unit file in its place.
      await services.reload();
      await services.start(record.unit, START_TIMEOUT_MS);
    } catch (error) {
      throw new FleetError('START_FAILED', `the service manager could not start ${record.unit}`, {
        words: text(error),
      });
    }
  }

  async putBack(action: Action, watch: Watch): Promise<void> {
    const { record } = await this.#requireStopped();
    const kept = (await this.#options.records.trees()).findLast(({ version }) => version === action.from);
    if (kept === undefined || !(await isDirectory(kept.path))) {
      throw new FleetError('ROLLBACK_FAILED', `the tree of ${action.from} is not on this host`);
    }
    await watch.fence();
    await this.#switch(record.tree, kept.path, action.to);
  }

  async restoreEnabled(enabled: boolean): Promise<void> {
    const { unit } = (await this.#deployment()).record;
    if (unit !== undefined) await this.#options.services.setEnabled?.(unit, enabled);
  }

  /** The tree in use and the one before it stay; of older ones only such go as the agent itself laid there. */
  async release(action: Action): Promise<void> {
    if (!action.phases.includes('install')) return;
    const { records } = this.#options;
    const { record } = await this.#deployment();
    const used = await realpath(record.tree).catch(() => undefined);
    if (used === undefined) return;
    for (const { path, version, made } of await records.trees()) {
      if (!made || version === action.from || version === action.to) continue;
      if ((await realpath(path).catch(() => undefined)) === used) continue;
      await rm(path, { recursive: true, force: true });
      await records.forgetTree(path);
    }
  }

  /** Root, or the database's own user: whoever else cannot end it, nor start it as it was; a unit needs lines of sudoers. */
  async #requireRights({ uid, unit }: NodeRecord): Promise<void> {
    if (unit !== undefined) return requireUnitRights(this.#options, unit);
    const own = process.getuid?.();
    if (own === 0 || own === uid) return;
    throw new FleetError('PRIVILEGES_MISSING', 'an agent of a source build must be root, or the user that runs it');
  }

  get #launch() {
    const { records, sudo } = this.#options;
    return { directory: records.directory, sudo };
  }

  #build(action: Action, watch: Watch): Promise<string> {
    const { build, commands } = this.#options;
    if (build === undefined) {
      throw new FleetError('CONFIG_INVALID', 'agent.yaml: source.build: this host does not know how to build KWDB');
    }
    return buildTree(build, action, commands, watch);
  }

  async #stopUnit(unit: string, action: Action, watch: Watch): Promise<void> {
    const { services } = this.#options;
    await requireUnitRights(this.#options, unit);
    watch.detail(`the service manager stops ${unit}`);
    try {
      await services.stop(unit, Math.min(action.deadline.ceilingMs, STOP_TIMEOUT_MS));
    } catch (error) {
      // Still on its way down: the executor goes on looking until its own deadline.
      if ((await services.state(unit)).active === 'deactivating') return;
      throw new FleetError('STOP_FAILED', `the service manager could not stop ${unit}`, { words: text(error) });
    }
  }

  /** Lays the package's tree beside the one in use, unless it is there already, and makes sure that it runs here. */
  async #stage(record: NodeRecord, wanted: PackageInfo, watch: Watch, bring: () => Promise<string>): Promise<string> {
    const place = await this.#placeOf(record.tree, wanted);
    if ((await markOf(place)) !== wanted.sha256) {
      await this.#clear(record.tree, place);
      const unpacked = await bring();
      watch.detail(`laying ${wanted.version} beside the tree in use`);
      await this.#lay(record, unpacked, place, wanted);
    }
    await this.#options.records.keepTree({ version: wanted.version, path: place, made: true });
    await requireVersion(record, place, wanted.version);
    return place;
  }

  /** Where people's own tree has the name, as after an upgrade from its version, the digest tells the package's apart. */
  async #placeOf(tree: string, { version, sha256 }: PackageInfo): Promise<string> {
    const place = `${tree}-${version}`;
    const isTheirs = (await this.#options.records.trees()).some(({ path, made }) => path === place && !made);
    return isTheirs ? `${place}-${sha256.slice(0, 12)}` : place;
  }

  /** It gets its name and its mark only once it has told the right version: a build that is mended is built anew. */
  async #lay(record: NodeRecord, unpacked: string, place: string, wanted: PackageInfo): Promise<void> {
    const fresh = `${place}.new`;
    try {
      await copyTree(unpacked, fresh, await stat(record.tree).catch(() => record));
      await requireVersion(record, fresh, wanted.version);
    } catch (error) {
      await rm(fresh, { recursive: true, force: true });
      throw error;
    }
    await replaceFile(join(fresh, MARK), wanted.sha256);
    await rename(fresh, place);
    await syncDirectory(dirname(place));
  }

  /** What an earlier package of this version left may go; what somebody else laid there, or what is in use, may not. */
  async #clear(tree: string, place: string): Promise<void> {
    if (!(await isThere(place))) return;
    const used = await realpath(tree).catch(() => undefined);
    if ((await markOf(place)) === undefined || used === place) {
      throw new FleetError('INSTALL_FAILED', `${place} is in the way: it was not made of a package of this version`);
    }
    await rm(place, { recursive: true, force: true });
  }

  /**
   * Lets the path of the tree lead to `place`: in one step where it is a link already. A directory is moved away first,
   * under the name of its `version`; where it is missing, an earlier attempt ended between the two.
   */
  async #switch(tree: string, place: string, version: string): Promise<void> {
    const parent = dirname(tree);
    const found = await lstat(tree).catch(() => undefined);
    try {
      if (found?.isDirectory() === true) {
        const aside = `${tree}-${version}`;
        if (await isThere(aside)) throw new FleetError('INSTALL_FAILED', `${aside} is in the way of the tree in use`);
        await this.#options.records.keepTree({ version, path: aside, made: false });
        await rename(tree, aside);
      } else if (found?.isSymbolicLink() === true) {
        await this.#keepLinked(tree, version);
      }
      const fresh = `${tree}.kwfleet-new`;
      await rm(fresh, { force: true });
      await symlink(dirname(place) === parent ? basename(place) : place, fresh);
      await rename(fresh, tree);
      await syncDirectory(parent);
    } catch (error) {
      if (error instanceof FleetError) throw error;
      throw new FleetError('INSTALL_FAILED', `${tree} could not be switched to ${place}`, { words: text(error) });
    }
  }

  /** Where the link leads now: the way back, when nobody has noted it yet. */
  async #keepLinked(tree: string, version: string): Promise<void> {
    const led = resolve(dirname(tree), await readlink(tree));
    if ((await this.#options.records.trees()).some((kept) => kept.path === led)) return;
    await this.#options.records.keepTree({ version, path: led, made: false });
  }

  async #deployment(): Promise<SourceDeployment> {
    const found = await this.#options.observer.deployment();
    if (found instanceof SourceDeployment) return found;
    throw new FleetError('NOT_INSTALLED', 'no source build of KWDB is known on this host');
  }

  async #requireStopped(): Promise<SourceDeployment> {
    const deployment = await this.#deployment();
    const { active } = await deployment.state();
    if (deployment.running === undefined && active !== 'active' && active !== 'activating') return deployment;
    throw new FleetError('DEPLOY_STILL_RUNNING', `nothing is installed while the database is ${active}`);
  }
}

async function markOf(place: string): Promise<string | undefined> {
  return readFile(join(place, MARK), 'utf8').catch(() => undefined);
}

async function isThere(path: string): Promise<boolean> {
  return lstat(path).then(
    () => true,
    () => false,
  );
}

async function isDirectory(path: string): Promise<boolean> {
  return stat(path).then(
    (found) => found.isDirectory(),
    () => false,
  );
}

/** A copy for the owner of the tree in use; on disk when this resolves. */
async function copyTree(
  from: string,
  fresh: string,
  owner: { readonly uid: number; readonly gid: number },
): Promise<void> {
  await rm(fresh, { recursive: true, force: true });
  await mkdir(fresh, { mode: 0o755 });
  const steps: (readonly [string, ...string[]])[] = [
    ['cp', '-a', '--no-preserve=ownership', '--', `${from}/.`, fresh],
    // The agent's own umask let nobody else read what it unpacked.
    ['chmod', '-R', 'go=u,go-w', fresh],
  ];
  if (process.getuid?.() === 0) {
    steps.push(['chown', '-R', '--no-dereference', `${owner.uid}:${owner.gid}`, fresh]);
  }
  for (const [file, ...args] of steps) {
    const ended = await runShort(file, args, { timeoutMs: COPY_TIMEOUT_MS });
    if (ended.exitCode === 0) continue;
    const code = /No space left/i.test(ended.stderr) ? 'DISK_FULL' : 'INSTALL_FAILED';
    throw new FleetError(code, `the tree could not be laid at ${fresh}`, { words: wordsOf(ended) });
  }
  await syncTree(fresh);
}

/** Asked before the database is stopped: wrong libraries, or a build for another host, are found here. */
async function requireVersion(record: NodeRecord, place: string, version: string): Promise<void> {
  const run = runnerOf(record, place);
  const ended = await run(['version'], VERSION_TIMEOUT_MS);
  const told = ended.exitCode === 0 ? kwbaseVersion(ended.stdout) : undefined;
  if (told === undefined) {
    throw new FleetError('INSTALL_FAILED', `kwbase in ${place} does not run here`, { words: wordsOf(ended) });
  }
  if (!isVersion(told) || !tellsVersion(told, version)) {
    throw new FleetError('VERIFY_WRONG_VERSION', `kwbase in ${place} says ${told}, not ${version}`);
  }
}

const text = (error: unknown): string => (error instanceof Error ? error.message : String(error));
