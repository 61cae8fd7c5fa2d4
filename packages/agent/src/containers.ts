/** The parts that look at containers and exchange them, put together. */
import { FleetError, type PackageInfo } from '@kwfleet/core';
import { systemClock } from './clock.ts';
import type { AgentConfig } from './config.ts';
import { ContainerFinder } from './deployment/container.ts';
import { Engine } from './docker/engine.ts';
import { ContainerRecords } from './docker/exchange.ts';
import { ImageAnswers } from './docker/image-answers.ts';
import { Images } from './docker/images.ts';
import { MadeRecord } from './docker/made-record.ts';
import type { ContainerOptions } from './driver/container-run.ts';
import type { Watch } from './driver/driver.ts';
import type { PackageCache } from './packages.ts';

export type Containers = Omit<ContainerOptions, 'observer'> & { readonly answers: ImageAnswers };

export function containersOf(config: AgentConfig, packages: PackageCache, sudo: boolean): Containers {
  const { stateDir, statusTimeoutMs, docker } = config;
  const { now } = systemClock;
  const engine = new Engine({ socket: docker.socket, sudo });
  const images = new Images({ engine, packages, stateDir, now });
  const records = new ContainerRecords(stateDir, engine);
  const finder = new ContainerFinder({
    engine,
    images,
    now,
    statusTimeoutMs,
    name: docker.container,
    intent: () => records.intent(),
    restrained: () => records.restrained.read(),
    made: new MadeRecord(stateDir),
  });
  const answers = new ImageAnswers({ engine, packages, now });
  return { engine, images, records, finder, answers, removeOldImage: docker.removeOldImage };
}

/** Brings an image ahead of its order. Throws NOT_INSTALLED where no container runs KWDB. */
export async function bringImage({ finder, images }: Containers, wanted: PackageInfo, watch: Watch): Promise<void> {
  const deployment = await finder.find();
  if (deployment === undefined) throw new FleetError('NOT_INSTALLED', 'no container on this host runs KWDB');
  await images.ensure(wanted, deployment.program, watch);
}
