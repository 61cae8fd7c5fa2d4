/** What the drivers of containers share: bringing the image, stopping and starting, and when the old may go. */
import { type Action, FleetError, judgeServing, packageOf } from '@kwfleet/core';
import type { ContainerDeployment, ContainerFinder } from '../deployment/container.ts';
import type { ContainerInspect, Engine } from '../docker/engine.ts';
import type { ContainerRecords, Restrained } from '../docker/exchange.ts';
import type { Images, ReadyImage } from '../docker/images.ts';
import type { Observer } from '../observe.ts';
import type { Watch } from './driver.ts';

export type ContainerOptions = {
  readonly engine: Engine;
  readonly finder: ContainerFinder;
  readonly images: Images;
  readonly records: ContainerRecords;
  readonly observer: Observer;
  /** Whether the old image goes with the old container. */
  readonly removeOldImage: boolean;
};

const NO_RESTART = { Name: 'no', MaximumRetryCount: 0 };
/** A database ends its connections and writes what it holds: docker's own 10 s would cut it off. */
const STOP_GRACE_MS = 300_000;

export class ContainerRun {
  readonly #options: ContainerOptions;

  constructor(options: ContainerOptions) {
    this.#options = options;
  }

  /** Throws NOT_INSTALLED; and CONTAINER_UNFIT for one whose replacement would cost its data. */
  async deployment(): Promise<ContainerDeployment> {
    const found = await this.#options.finder.find();
    if (found === undefined) throw new FleetError('NOT_INSTALLED', 'no container on this host runs KWDB');
    if (found.unfit !== undefined) throw new FleetError('CONTAINER_UNFIT', found.unfit);
    return found;
  }

  /** The image of the order's package, in the engine and tried; before the stop also vouched for. */
  image(action: Action, { program }: ContainerDeployment, watch: Watch, when: 'before' | 'now'): Promise<ReadyImage> {
    const { images } = this.#options;
    const wanted = packageOf(action);
    return when === 'before' ? images.ensure(wanted, program, watch) : images.ready(wanted, program, watch);
  }

  /** Its restart policy is taken away first: an engine that restarts in the middle would start the container again. */
  async stop(action: Action, watch: Watch): Promise<void> {
    const { engine } = this.#options;
    const { inspect } = await this.deployment();
    await this.#restrain(inspect);
    watch.detail('the engine stops the container');
    const grace = (inspect.Config as { StopTimeout?: number }).StopTimeout;
    const graceMs = Math.min(action.deadline.ceilingMs, grace === undefined ? STOP_GRACE_MS : grace * 1000);
    try {
      await engine.stop(inspect.Id, graceMs);
    } catch (error) {
      if (!(error instanceof FleetError) || error.code !== 'ENGINE_FAILED') throw error;
      throw new FleetError('STOP_FAILED', 'the engine could not stop the container', { words: error.words });
    }
  }

  /** Also of one that has no policy: while none runs, the record alone says which container is meant. */
  async #restrain({ Id: container, HostConfig }: ContainerInspect): Promise<void> {
    const { engine, records } = this.#options;
    const { Name: told = '', MaximumRetryCount = 0 } = HostConfig.RestartPolicy ?? {};
    const Name = told === '' ? 'no' : told;
    const known = await records.restrained.read();
    // Taken away already, by an attempt that was cut off.
    if (Name === 'no' && known?.container === container) return;
    await records.restrained.write({ container, policy: { Name, MaximumRetryCount } });
    if (Name !== 'no') await engine.setRestartPolicy(container, NO_RESTART);
  }

  /** The stopped container that counts from now on, and the policy that it gets when it is started. */
  async noteStopped(stopped: Restrained): Promise<void> {
    const { restrained } = this.#options.records;
    // On a full disk nothing could be written, and what a way back left alone is noted already.
    if ((await restrained.read())?.container !== stopped.container) await restrained.write(stopped);
  }

  /**
   * An order has its result: a container that runs has its policy back, also one that the engine would not stop. Of one that
   * is stopped the record stays.
   */
  async unrestrain(): Promise<void> {
    const { engine, records } = this.#options;
    const restrained = await records.restrained.read();
    if (restrained === undefined) return;
    const found = await engine.container(restrained.container);
    if (found?.State.Running === false) return;
    if (found !== undefined) await this.#giveBack(restrained);
    await records.restrained.remove();
  }

  async #giveBack({ container, policy }: Restrained): Promise<void> {
    if (policy.Name !== 'no') await this.#options.engine.setRestartPolicy(container, policy);
  }

  async start(watch: Watch): Promise<void> {
    const { engine, records } = this.#options;
    const { inspect } = await this.deployment();
    const restrained = await records.restrained.read();
    if (restrained?.container === inspect.Id) await this.#giveBack(restrained);
    watch.detail('starting the container');
    try {
      await engine.start(inspect.Id);
    } catch (error) {
      if (!(error instanceof FleetError) || error.code !== 'ENGINE_FAILED') throw error;
      throw new FleetError('START_FAILED', 'the engine could not start the container', { words: error.words });
    }
  }

  /** Throws DEPLOY_STILL_RUNNING unless the container is stopped. */
  async requireStopped({ inspect }: ContainerDeployment): Promise<void> {
    const { State } = (await this.#options.engine.container(inspect.Id)) ?? inspect;
    if (!State.Running && !State.Restarting) return;
    throw new FleetError('DEPLOY_STILL_RUNNING', `nothing is exchanged while the container is ${State.Status}`);
  }

  /** With the policy `docker.remove_old_image`: the image that nothing runs any more. */
  async dropImage(image: string, current: string): Promise<void> {
    if (this.#options.removeOldImage && image !== current) await this.#options.engine.removeImage(image);
  }
}

/**
 * Whether an exchange has proved itself, so that what was kept for its way back may go: the node serves the version. Asked
 * after an order that saw to it, and, of an exchange that is left over, after one that comes before any exchange.
 */
export async function isVerified(observer: Observer, action: Action, version: string): Promise<boolean> {
  const { phases } = action;
  const asked = phases.includes('verify') || phases.includes('fetch') || phases.includes('check');
  if (!asked || phases.includes('put-back')) return false;
  return judgeServing(await observer.observe(), version, {}).length === 0;
}
