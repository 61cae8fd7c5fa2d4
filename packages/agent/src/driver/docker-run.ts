/** KWDB in a container that `docker run` made: replaced by one that differs in its image alone. */
import { type Action, FleetError } from '@kwfleet/core';
import { type ContainerDeployment, nameOf, wasStarted } from '../deployment/container.ts';
import type { ContainerInspect } from '../docker/engine.ts';
import type { RunExchange } from '../docker/exchange.ts';
import type { ReadyImage } from '../docker/images.ts';
import { recreation } from '../docker/spec.ts';
import { type ContainerOptions, ContainerRun, isVerified } from './container-run.ts';
import type { MethodDriver, Watch } from './driver.ts';

export class DockerRunDriver implements MethodDriver {
  readonly #options: ContainerOptions;
  readonly #run: ContainerRun;

  constructor(options: ContainerOptions) {
    this.#options = options;
    this.#run = new ContainerRun(options);
  }

  async fetch(action: Action, watch: Watch): Promise<void> {
    const deployment = await this.#run.deployment();
    const name = nameOf(deployment.inspect);
    if ((await this.#options.records.run()) === undefined) await this.#requireFree(keptName(name, action.from), '');
    await this.#run.image(action, deployment, watch, 'before');
  }

  stop(action: Action, watch: Watch): Promise<void> {
    return this.#run.stop(action, watch);
  }

  /**
   * The old container steps aside under another name, and a new one is made under its name. It is whole when the record
   * names it; what a killed attempt left before is made anew.
   */
  async install(action: Action, watch: Watch): Promise<void> {
    const deployment = await this.#run.deployment();
    await this.#run.requireStopped(deployment);
    const image = await this.#run.image(action, deployment, watch, 'now');
    const exchange = await this.#begun(action, deployment, image, watch);
    if (exchange.new !== undefined) return;
    await this.#putAside(exchange);
    await this.#removeUnfinished(exchange);
    watch.detail(`making ${exchange.name} anew with ${image.reference}`);
    await this.#make(exchange, image);
  }

  async installOnline(): Promise<void> {
    throw new FleetError('METHOD_UNSUPPORTED', 'a container is replaced only while its node is stopped');
  }

  start(_action: Action, watch: Watch): Promise<void> {
    return this.#run.start(watch);
  }

  async putBack(_action: Action, watch: Watch): Promise<void> {
    const { engine, records } = this.#options;
    const exchange = await records.run();
    if (exchange === undefined) throw new FleetError('ROLLBACK_FAILED', 'this agent keeps no container to go back to');
    const old = await engine.container(exchange.old);
    if (old === undefined) throw new FleetError('ROLLBACK_FAILED', `${exchange.keptAs} was removed by someone else`);
    watch.detail(`putting ${exchange.keptAs} back as ${exchange.name}`);
    await watch.fence();
    // From here on the old one counts again, half done until it has its name.
    const { new: made, ...before } = exchange;
    if (made !== undefined) await records.exchange.write(before);
    await this.#removeUnfinished(exchange);
    if (nameOf(old) !== exchange.name) await engine.rename(exchange.old, exchange.name);
    await this.#run.noteStopped({ container: exchange.old, policy: exchange.policy });
    await records.exchange.remove();
  }

  /** The restart policy goes and comes back with the container itself. */
  async restoreEnabled(): Promise<void> {}

  async release(action: Action): Promise<void> {
    const { engine, records, observer } = this.#options;
    await this.#run.unrestrain();
    const exchange = await records.run();
    if (exchange?.new === undefined || !(await isVerified(observer, action, exchange.to))) return;
    const old = await engine.container(exchange.old);
    const current = await engine.container(exchange.new);
    await engine.remove(exchange.old);
    await records.exchange.remove();
    if (old !== undefined && current !== undefined) await this.#run.dropImage(old.Image, current.Image);
  }

  /** The record of this exchange: the one in hand, or a new one. */
  async #begun(action: Action, deployment: ContainerDeployment, image: ReadyImage, watch: Watch): Promise<RunExchange> {
    const { records } = this.#options;
    const inHand = await records.run();
    if (inHand?.new === deployment.inspect.Id && inHand.image === image.id) return inHand;
    await watch.fence();
    if (inHand !== undefined && inHand.old === deployment.inspect.Id) {
      const { new: _, ...again } = { ...inHand, to: action.to, image: image.id };
      await records.exchange.write(again);
      return again;
    }
    const { inspect } = deployment;
    const name = nameOf(inspect);
    const restrained = await records.restrained.read();
    const { Name = 'no', MaximumRetryCount = 0 } =
      (restrained?.container === inspect.Id ? restrained.policy : inspect.HostConfig.RestartPolicy) ?? {};
    const exchange: RunExchange = {
      kind: 'run',
      name,
      old: inspect.Id,
      keptAs: keptName(name, action.from),
      policy: { Name, MaximumRetryCount },
      from: action.from,
      to: action.to,
      image: image.id,
    };
    await records.exchange.write(exchange);
    return exchange;
  }

  async #putAside({ old, name, keptAs, policy }: RunExchange): Promise<void> {
    const { engine } = this.#options;
    const inspect = await engine.container(old);
    if (inspect === undefined) throw new FleetError('INSTALL_FAILED', `${name} was removed by someone else`);
    if (policy.Name !== 'no' && inspect.HostConfig.RestartPolicy?.Name !== 'no') {
      await engine.setRestartPolicy(old, { Name: 'no', MaximumRetryCount: 0 });
    }
    if (nameOf(inspect) !== name) return;
    await this.#requireFree(keptAs, old);
    await engine.rename(old, keptAs);
  }

  /** No container but `own` has the name. */
  async #requireFree(name: string, own: string): Promise<void> {
    const found = await this.#options.engine.container(name);
    if (found === undefined || found.Id === own) return;
    throw new FleetError('INSTALL_FAILED', `the name ${name} is taken by another container, ${shortId(found)}`);
  }

  /** The container under the name that is not the old one, if it is ours and never ran. */
  async #removeUnfinished({ name, old, image }: RunExchange): Promise<void> {
    const { engine } = this.#options;
    const found = await engine.container(name);
    if (found === undefined || found.Id === old) return;
    if (found.Image !== image || wasStarted(found)) {
      throw new FleetError('INSTALL_FAILED', `the name ${name} was taken by another container, ${shortId(found)}`);
    }
    await engine.remove(found.Id);
  }

  async #make(exchange: RunExchange, { id, reference }: ReadyImage): Promise<void> {
    const { engine, records } = this.#options;
    const old = await engine.container(exchange.old);
    const oldImage = old && (await engine.image(old.Image));
    if (old === undefined || oldImage === undefined) {
      throw new FleetError('INSTALL_FAILED', `the image of ${exchange.keptAs} was removed by someone else`);
    }
    // A tag may name another image by now; then the container is made from the id itself.
    const named = (await engine.image(reference))?.Id === id ? reference : id;
    const { spec, networks } = recreation(old, oldImage, {
      name: exchange.name,
      image: named,
      policy: exchange.policy,
      apiMinor: await engine.apiMinor(),
    });
    const made = await engine.create(spec);
    for (const [network, endpoint] of Object.entries(networks)) await engine.connect(network, made, endpoint);
    await records.exchange.write({ ...exchange, new: made });
  }
}

/** The name of the old container while it is kept. */
const keptName = (name: string, version: string): string => `${name}-kwfleet-${version.replace(/[^\w.-]/g, '-')}`;

const shortId = ({ Id }: ContainerInspect): string => Id.slice(0, 12);
