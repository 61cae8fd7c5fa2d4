/**
 * KWDB as a service of a compose project: its image is changed in the file that names it, and compose makes this one
 * service's container anew. Not `down`, as the manual has it: that would stop the project's other services, and take
 * its networks away.
 */
import { readFile, rm } from 'node:fs/promises';
import { type Action, FleetError, type Phase } from '@kwfleet/core';
import { type ContainerDeployment, wasStarted } from '../deployment/container.ts';
import { type Compose, type Project, projectArguments, projectOf, readProjectFile, unfit } from '../docker/compose.ts';
import { editOf, type ProjectEdit } from '../docker/compose-edit.ts';
import type { ContainerInspect } from '../docker/engine.ts';
import { type ComposeExchange, serviceContainers } from '../docker/exchange.ts';
import { nameParts, tagOf } from '../docker/image-name.ts';
import type { ReadyImage } from '../docker/images.ts';
import { keepFile, replaceFile, tryExchange } from '../docker/replace-file.ts';
import type { LongCommandSpec, LongCommands } from '../host/services.ts';
import { type ContainerOptions, ContainerRun, isVerified } from './container-run.ts';
import { runDeploy, type Work } from './deploy-run.ts';
import type { MethodDriver, Watch } from './driver.ts';

export type ComposeOptions = ContainerOptions & { readonly compose: Compose; readonly commands: LongCommands };

export class ComposeDriver implements MethodDriver {
  readonly #options: ComposeOptions;
  readonly #run: ContainerRun;

  constructor(options: ComposeOptions) {
    this.#options = options;
    this.#run = new ContainerRun(options);
  }

  /**
   * Also tries the edit, and whether compose can make containers anew on this engine: what cannot be done is refused while
   * the database still serves.
   */
  async fetch(action: Action, watch: Watch): Promise<void> {
    const deployment = await this.#run.deployment();
    const image = await this.#image(action, deployment, watch, 'before');
    const inHand = await this.#options.records.compose();
    if (inHand !== undefined && inHand.new !== deployment.inspect.Id) return;
    watch.detail('asking compose what another image would change');
    const project = await projectOf(deployment.inspect);
    const edit = await editOf(this.#options.compose, project, deployment.inspect, image.reference);
    await this.#requireRecreation(project, edit, [deployment.inspect.Image, image.id]);
    await tryExchange(edit.path, keptName(edit.path, action.from));
  }

  /** Both ways: from the image that runs, and back from the new one. */
  async #requireRecreation(
    project: Project,
    { program, compatibility }: ProjectEdit,
    images: readonly string[],
  ): Promise<void> {
    const { compose, engine } = this.#options;
    await compose.reach(program, projectArguments(project, compatibility), project.service);
    if (program.major !== '1') return;
    for (const image of images) {
      if (await engine.suitsCompose1(image)) continue;
      throw unfit(
        'docker-compose 1 cannot make containers anew on an engine this new: bring the project to compose 2 first ' +
          '(docker compose up -d)',
      );
    }
  }

  stop(action: Action, watch: Watch): Promise<void> {
    return this.#run.stop(action, watch);
  }

  async install(action: Action, watch: Watch): Promise<void> {
    const deployment = await this.#run.deployment();
    await this.#run.requireStopped(deployment);
    const image = await this.#image(action, deployment, watch, 'now');
    const exchange = await this.#begun(action, deployment, image, watch);
    if (exchange.new !== undefined) return;
    await this.#writeNew(exchange);
    await this.#makeAnew(action, exchange, 'compose', watch);
    const made = await this.#made(exchange, exchange.image, 'INSTALL_FAILED');
    await this.#options.records.exchange.write({ ...exchange, new: made.Id });
  }

  async installOnline(): Promise<void> {
    throw new FleetError('METHOD_UNSUPPORTED', 'a container is replaced only while its node is stopped');
  }

  start(_action: Action, watch: Watch): Promise<void> {
    return this.#run.start(watch);
  }

  async putBack(action: Action, watch: Watch): Promise<void> {
    const { records } = this.#options;
    const found = await records.compose();
    if (found === undefined) throw new FleetError('ROLLBACK_FAILED', 'this agent keeps no compose file to go back to');
    await watch.fence();
    const { new: made, ...exchange } = found;
    if (made !== undefined) await records.exchange.write(exchange);
    watch.detail(`putting ${exchange.file} back as it was`);
    await this.#writeOld(exchange);
    await this.#giveNameBack(exchange);
    await this.#makeAnew(action, exchange, 'compose-back', watch);
    const { Id, HostConfig } = await this.#made(exchange, exchange.oldImage, 'ROLLBACK_FAILED');
    const { Name = 'no', MaximumRetryCount = 0 } = HostConfig.RestartPolicy ?? {};
    await this.#run.noteStopped({ container: Id, policy: { Name, MaximumRetryCount } });
    await records.exchange.remove();
    await rm(exchange.keptAs, { force: true });
  }

  /** The restart policy comes with the file. */
  async restoreEnabled(): Promise<void> {}

  async release(action: Action): Promise<void> {
    const { records, observer } = this.#options;
    await this.#run.unrestrain();
    const exchange = await records.compose();
    if (exchange?.new === undefined || !(await isVerified(observer, action, exchange.to))) return;
    await records.exchange.remove();
    await rm(exchange.keptAs, { force: true });
    await this.#run.dropImage(exchange.oldImage, exchange.image);
  }

  /** The file from before names the old image: a load that was cut off may have given this name to the new one. */
  async #giveNameBack({ snapshot, oldImage }: ComposeExchange): Promise<void> {
    const { engine } = this.#options;
    const name = (snapshot as ContainerInspect).Config.Image;
    const parts = nameParts(name);
    if (parts === undefined || (await engine.image(name))?.Id === oldImage) return;
    await engine.tag(oldImage, parts.repository, parts.tag);
  }

  /** A compose file names images by name or digest: one that came without either gets the old one's name. */
  async #image(
    action: Action,
    deployment: ContainerDeployment,
    watch: Watch,
    when: 'before' | 'now',
  ): Promise<ReadyImage> {
    const image = await this.#run.image(action, deployment, watch, when);
    if (!image.reference.startsWith('sha256:')) return image;
    const [name = ''] = deployment.inspect.Config.Image.split('@');
    const { repository = name } = nameParts(name) ?? {};
    const tag = tagOf(action.to);
    await this.#options.engine.tag(image.id, repository, tag);
    return { id: image.id, reference: `${repository}:${tag}` };
  }

  async #begun(
    action: Action,
    { inspect }: ContainerDeployment,
    image: ReadyImage,
    watch: Watch,
  ): Promise<ComposeExchange> {
    const { records, compose } = this.#options;
    const inHand = await records.compose();
    await watch.fence();
    if (inHand?.new === inspect.Id) {
      if (inHand.image === image.id) return inHand;
      // An upgrade that nobody saw to its end, and after which this one begins: its way back ends here.
      await rm(inHand.keptAs, { force: true });
    } else if (inHand !== undefined) {
      const { new: _, ...again } = inHand;
      if (again.image !== image.id) {
        throw new FleetError('INSTALL_FAILED', `an exchange for ${again.to} is in hand; it must be put back first`);
      }
      await records.exchange.write(again);
      return again;
    }
    const { environment, ...project } = await projectOf(inspect);
    const withEnvironment = {
      ...project,
      files: [...project.files],
      ...(environment === undefined ? {} : { environment }),
    };
    const edit = await editOf(compose, { ...project, environment }, inspect, image.reference);
    const exchange: ComposeExchange = {
      kind: 'compose',
      project: withEnvironment,
      compatibility: edit.compatibility,
      file: edit.path,
      keptAs: keptName(edit.path, action.from),
      edited: edit.text,
      from: action.from,
      to: action.to,
      oldImage: inspect.Image,
      image: image.id,
      snapshot: inspect,
    };
    // The copy of an earlier upgrade from the same version would be taken for this one's.
    await rm(exchange.keptAs, { force: true });
    await records.exchange.write(exchange);
    return exchange;
  }

  /** The file as it was is kept first; one that somebody else changed meanwhile is left alone. */
  async #writeNew({ file, keptAs, edited }: ComposeExchange): Promise<void> {
    const { text } = await readProjectFile(file);
    if (text === edited) return;
    await keepFile(file, keptAs);
    if (text !== (await readFile(keptAs, 'utf8'))) {
      throw unfit(`${file} was changed by someone else in the middle of the exchange`);
    }
    await replaceFile(file, edited);
  }

  /** The copy is made before the file is written: where there is none, the file is as it was, or somebody took the copy. */
  async #writeOld({ file, keptAs, edited }: ComposeExchange): Promise<void> {
    const [{ text }, kept] = await Promise.all([
      readProjectFile(file),
      readFile(keptAs, 'utf8').catch((error: NodeJS.ErrnoException) => {
        if (error.code === 'ENOENT') return undefined;
        throw error;
      }),
    ]);
    if (kept === undefined && text === edited) {
      throw new FleetError('ROLLBACK_FAILED', `${keptAs} was removed by someone else`);
    }
    if (kept !== undefined && kept !== text) await replaceFile(file, kept);
  }

  /** Compose's own way of making a container anew, anonymous volumes and all; it is not started. */
  async #makeAnew(action: Action, exchange: ComposeExchange, work: Work, watch: Watch): Promise<void> {
    const { commands, engine, compose } = this.#options;
    const { project, compatibility } = exchange;
    await this.#removeUnfinished(exchange);
    const { argv } = await compose.program(project.version);
    const args = projectArguments({ ...project, environment: project.environment }, compatibility);
    const spec: LongCommandSpec = {
      argv: [...argv, ...args, 'up', '--no-start', '--no-deps', project.service],
      cwd: project.directory,
      env: compose.environment,
    };
    watch.detail(`compose makes ${project.service} anew`);
    const sign = async () => (await serviceContainers(engine, project)).map(({ Id }) => Id).join();
    const verdict = await runDeploy({ commands, action, work, spec, watch, sign });
    if (verdict.status !== 'failed') return;
    const phase: Phase = work === 'compose' ? 'install' : 'put-back';
    const code = phase === 'install' ? 'INSTALL_FAILED' : 'ROLLBACK_FAILED';
    throw new FleetError(code, 'compose could not make the container anew', { words: verdict.words });
  }

  /** Of two containers, as a killed compose leaves them, the one that never ran goes. */
  async #removeUnfinished({ project }: ComposeExchange): Promise<void> {
    const { engine } = this.#options;
    const all = await serviceContainers(engine, project);
    if (all.length < 2) return;
    for (const unfinished of all.filter((inspect) => !wasStarted(inspect))) await engine.remove(unfinished.Id);
  }

  async #made(
    { project }: ComposeExchange,
    image: string,
    code: 'INSTALL_FAILED' | 'ROLLBACK_FAILED',
  ): Promise<ContainerInspect> {
    const [made, ...more] = await serviceContainers(this.#options.engine, project);
    if (made !== undefined && more.length === 0 && made.Image === image) return made;
    throw new FleetError(
      code,
      `compose left ${project.service} with ${more.length + Number(made !== undefined)} containers, none of the image that it should have`,
    );
  }
}

/** The name of the copy of a project's file from before. */
const keptName = (file: string, version: string): string => `${file}.kwfleet-${version.replace(/[^\w.-]/g, '-')}`;
