/**
 * KWDB in a container that the vendor's scripts made: upgraded by the new package's deploy.sh, which removes the old image
 * before anybody knows whether the new one is any good. So that has another name first.
 */
import { copyFile, mkdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { type Action, FleetError, judgeInstalled, type Phase, packageOf, tellsVersion } from '@kwfleet/core';
import Type from 'typebox';
import {
  COMPOSE_FILE,
  CONTAINER,
  type ScriptContainerDeployment,
  type ScriptContainerFinder,
} from '../deployment/script-container.ts';
import { DurableFile } from '../docker/exchange.ts';
import type { ReadyImage } from '../docker/images.ts';
import { ENV_FILE, INFO_DIR, readText } from '../host/mode.ts';
import type { LongCommands, ServiceManager } from '../host/services.ts';
import { syncTree } from '../host/sync.ts';
import { syncDirectory } from '../journal/file-storage.ts';
import type { PackageCache } from '../packages.ts';
import { type ContainerOptions, isVerified } from './container-run.ts';
import { DeployScript } from './deploy-script.ts';
import type { MethodDriver, Watch } from './driver.ts';

export type ScriptContainerOptions = Omit<ContainerOptions, 'finder' | 'records'> & {
  readonly root: string;
  readonly stateDir: string;
  readonly finder: ScriptContainerFinder;
  readonly services: ServiceManager;
  readonly commands: LongCommands;
  readonly packages: PackageCache;
  readonly sudo: boolean;
  readonly environment: Readonly<Record<string, string>>;
};

/** The repository under which both images have a second name meanwhile; deploy.sh removes the first. */
const KEPT = 'kwfleet-kept';
const STOP_GRACE_MS = 60_000;
/** How long docker-compose may take to have read its file: until the container runs. */
const STARTED_LOOKS = 120;
const FILES = [COMPOSE_FILE, `${INFO_DIR}/MODE`, `${INFO_DIR}/.version`] as const;

/** After these nothing is half done any more, where the version before is whole. */
const EXCHANGES: ReadonlySet<Phase> = new Set(['install', 'install-online', 'put-back']);

const Kept = Type.Object({ image: Type.String(), reference: Type.String(), to: Type.String() });

export class ScriptContainerDriver implements MethodDriver {
  readonly #options: ScriptContainerOptions;
  readonly #script: DeployScript;

  constructor(options: ScriptContainerOptions) {
    this.#options = options;
    const { engine } = options;
    const sign = async () => `${(await engine.container(CONTAINER))?.Id} ${(await engine.containers()).length}`;
    this.#script = new DeployScript({ ...options, sign });
  }

  async fetch(action: Action, watch: Watch): Promise<void> {
    const deployment = await this.#deployment();
    await this.#script.requireRights();
    await this.#options.images.ensure(packageOf(action), deployment.program, watch);
    await this.#keep(action, deployment, watch);
  }

  async stop(action: Action, watch: Watch): Promise<void> {
    await this.#script.stop(action, watch);
    // One that was started beside the unit is not the unit's to stop.
    const container = await this.#options.engine.container(CONTAINER);
    if (container?.State.Running === true) await this.#options.engine.stop(container.Id, STOP_GRACE_MS);
  }

  async install(action: Action, watch: Watch): Promise<void> {
    await this.#script.requireRights();
    await this.#script.requireStopped();
    const container = await this.#options.engine.container(CONTAINER);
    if (container?.State.Running === true) {
      throw new FleetError('DEPLOY_STILL_RUNNING', `nothing is installed while ${CONTAINER} runs`);
    }
    await this.#upgrade(action, 'install', watch);
    await this.#removeUpgradeComplete();
  }

  async installOnline(action: Action, watch: Watch): Promise<void> {
    await this.#script.requireRights();
    await this.#upgrade(action, 'online', watch);
    // deploy.sh leaves it behind: the next start would reset a setting that is somebody's choice by then.
    await this.#removeUpgradeComplete();
  }

  async start(_action: Action, watch: Watch): Promise<void> {
    const marked = (await this.#options.observer.known())?.marked === true;
    await this.#removeUpgradeComplete();
    if (!marked) return this.#script.start('starting', watch);
    // As deploy.sh does it, for this one start.
    const line = 's,.*/kaiwudb/bin/kwbase.*,& --upgrade-complete,';
    await this.#script.edit(['sed', '-i', line, this.#path(COMPOSE_FILE)]);
    try {
      await this.#script.start('starting, to clear the mark of an interrupted online upgrade', watch);
      await this.#running(watch);
    } finally {
      await this.#removeUpgradeComplete();
    }
  }

  /** The image gets its name back, and the files that deploy.sh changed are those from before. */
  async putBack(action: Action, watch: Watch): Promise<void> {
    const { engine } = this.#options;
    await this.#script.requireRights();
    await this.#script.requireStopped();
    const directory = this.#directory(action.from);
    const kept = await this.#keptOf(action.from).read();
    if (kept === undefined || (await engine.image(kept.image)) === undefined) {
      throw new FleetError('ROLLBACK_FAILED', `no image of ${action.from} is kept on this host`);
    }
    watch.detail(`putting the image of ${action.from} and deploy.sh's files back`);
    await watch.fence();
    await this.#name(kept.image, kept.reference);
    const container = await engine.container(CONTAINER);
    if (container !== undefined && container.Image !== kept.image && !container.State.Running) {
      await engine.remove(container.Id);
    }
    // Each in place, so that owner and mode stay; .version comes last, as deploy.sh has it.
    for (const file of FILES) {
      const copy = join(directory, nameIn(file));
      if ((await stat(copy).catch(() => null)) === null) continue;
      await this.#script.edit(['cp', '-f', '--', copy, this.#path(file)]);
    }
  }

  restoreEnabled(enabled: boolean): Promise<void> {
    return this.#script.restoreEnabled(enabled);
  }

  /**
   * The compose file of the backup has the image's name of then. deploy.sh may have taken that from it, or the package call
   * it otherwise: the image that is installed, which is of the version of the backup, gets that name too.
   */
  async restored(action: Action, watch: Watch): Promise<void> {
    const { engine, images } = this.#options;
    const { image: named, program } = await this.#deployment();
    if ((await engine.image(named)) !== undefined) return;
    const made = await engine.container(CONTAINER);
    const image =
      made?.Image ??
      (action.package === undefined ? undefined : (await images.ready(action.package, program, watch)).id);
    if (image === undefined || named.includes('@')) {
      throw new FleetError('RESTORE_FAILED', `the backup names the image ${named}, which is not on this host`);
    }
    watch.detail(`the image of ${action.to} gets the name that the backup has for it: ${named}`);
    await this.#name(image, named);
  }

  /** What is kept goes once the new version is verified; or that before is whole again, and a next try makes its own copy. */
  async release(action: Action): Promise<void> {
    const { engine, observer } = this.#options;
    const kept = await this.#keptOf(action.from).read();
    if (kept === undefined) return;
    const exchanged = action.phases.some((phase) => EXCHANGES.has(phase));
    const over =
      (await isVerified(observer, action, kept.to)) ||
      (exchanged && (await this.#isWhole(await this.#deployment(), action.from)));
    if (!over) return;
    // With it goes the image, unless it has another name: deploy.sh would not have kept it at all.
    await engine.removeImage(`${KEPT}:${tagOf(action.from)}`);
    await engine.removeImage(`${KEPT}:${tagOf(kept.to)}`);
    await rm(this.#directory(action.from), { recursive: true, force: true });
  }

  async #deployment(): Promise<ScriptContainerDeployment> {
    const found = await this.#options.finder.find();
    if (found === undefined) throw new FleetError('NOT_INSTALLED', 'KWDB is not installed on this host');
    return found;
  }

  async #upgrade(action: Action, work: 'install' | 'online', watch: Watch): Promise<void> {
    const { images, packages } = this.#options;
    const deployment = await this.#deployment();
    const wanted = packageOf(action);
    const image = await images.ready(wanted, deployment.program, watch);
    const directory = await packages.ready(wanted, watch);
    await this.#keep(action, deployment, watch);
    // Started anew after a kill in its middle, deploy.sh takes the new image for the old one, and removes it.
    await this.#options.engine.tag(image.id, KEPT, tagOf(action.to));
    try {
      await this.#script.upgrade(action, work, directory, action.bypassVersionCheck, watch);
    } finally {
      await this.#renew(image);
    }
  }

  async #renew(image: ReadyImage): Promise<void> {
    if ((await this.#options.engine.image(image.reference)) === undefined) await this.#name(image.id, image.reference);
  }

  /**
   * The old image under a second name, and copies of what deploy.sh changes. Made anew of what is whole: people may have changed
   * it since an earlier try. Of a host that is half exchanged only the copy from before is of any use.
   */
  async #keep(action: Action, deployment: ScriptContainerDeployment, watch: Watch): Promise<void> {
    const { engine } = this.#options;
    const kept = await this.#keptOf(action.from).read();
    // The target of an earlier order.
    if (kept !== undefined && kept.to !== action.to) await engine.removeImage(`${KEPT}:${tagOf(kept.to)}`);
    const image = await engine.image(deployment.image);
    if (!(await this.#isWhole(deployment, action.from))) {
      if (kept !== undefined) return this.#keptOf(action.from).write({ ...kept, to: action.to });
      if (image !== undefined) return;
    }
    if (image === undefined) {
      throw new FleetError('INSTALLATION_HALF_DONE', `the image ${deployment.image} is not on this host`);
    }
    watch.detail(`keeping the image of ${action.from}`);
    await engine.tag(image.Id, KEPT, tagOf(action.from));
    await this.#copyFiles(this.#directory(action.from));
    await this.#keptOf(action.from).write({ image: image.Id, reference: deployment.image, to: action.to });
  }

  /** `directory` appears whole, and on disk, or not at all. */
  async #copyFiles(directory: string): Promise<void> {
    const fresh = `${directory}.new`;
    await rm(fresh, { recursive: true, force: true });
    await mkdir(fresh, { recursive: true, mode: 0o700 });
    for (const file of FILES) {
      if ((await readText(this.#options.root, file)) === null) continue;
      await copyFile(this.#path(file), join(fresh, nameIn(file)));
    }
    await syncTree(fresh);
    await rm(directory, { recursive: true, force: true });
    await rename(fresh, directory);
    await syncDirectory(dirname(directory));
  }

  /** All that deploy.sh changes is of `version`; also the image itself, whose name an attempt that was cut off may have taken. */
  async #isWhole({ image, program }: ScriptContainerDeployment, version: string): Promise<boolean> {
    const { engine, images, observer } = this.#options;
    const id = (await engine.image(image))?.Id;
    const told = id === undefined ? undefined : await images.versionOf(id, program);
    if (told === undefined || !tellsVersion(told, version)) return false;
    return judgeInstalled(await observer.observe(), version).length === 0;
  }

  async #name(image: string, reference: string): Promise<void> {
    const [, repository = reference, tag = 'latest'] = /^(.+?)(?::([\w][\w.-]*))?$/.exec(reference) ?? [];
    await this.#options.engine.tag(image, repository, tag);
  }

  async #removeUpgradeComplete(): Promise<void> {
    for (const file of [COMPOSE_FILE, ENV_FILE]) {
      const text = await readFile(this.#path(file), 'utf8').catch(() => '');
      if (!text.includes('--upgrade-complete')) continue;
      await this.#script.edit(['sed', '-i', 's/ *--upgrade-complete//g', this.#path(file)]);
    }
  }

  /** Until docker-compose has made the container of the file as it is now. */
  async #running(watch: Watch): Promise<void> {
    for (let look = 0; look < STARTED_LOOKS; look++) {
      const container = await this.#options.engine.container(CONTAINER);
      if (container?.State.Running === true && container.Args.join(' ').includes('--upgrade-complete')) return;
      await watch.pause();
    }
    throw new FleetError('START_FAILED', `${CONTAINER} was not started by its unit`);
  }

  #path(file: string): string {
    return join(this.#options.root, file);
  }

  #directory(version: string): string {
    return join(this.#options.stateDir, 'kept-container', tagOf(version));
  }

  #keptOf(version: string): DurableFile<typeof Kept> {
    return new DurableFile(join(this.#directory(version), 'kept.json'), Kept);
  }
}

const tagOf = (version: string): string => version.replace(/[^\w.-]/g, '-');
const nameIn = (file: string): string => file.replaceAll('/', '_');
