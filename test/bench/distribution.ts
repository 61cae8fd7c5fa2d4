/**
 * What the controller sends when twenty hosts of one cluster want the same package at once: with peers that give it to
 * each other, and without. The agents' own link, trust, cache and peers; a real controller; TLS; all on this machine.
 */
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { controllerConfig, startController } from '@kwfleet/controller';
import { addLargePackage, type Host, PATIENT, sentBytes, startHost } from '../e2e/hosts.ts';
import type { Figure } from './run.ts';

const HOSTS = 20;
const PACKAGE_BYTES = 8 * 1024 ** 2;

export async function distribution(): Promise<Figure[]> {
  const directory = await mkdtemp(join(tmpdir(), 'kwfleet-bench-'));
  // As root, PostgreSQL runs as a user of its own, who must get in.
  await chmod(directory, 0o711);
  const controller = await startController(
    controllerConfig({
      data_dir: join(directory, 'data'),
      rest: { port: 0 },
      grpc: { port: 0 },
      log_level: 'silent',
    }),
  );
  const figures: Figure[] = [];
  try {
    const { sizeBytes, ...rest } = await addLargePackage(controller, directory, PACKAGE_BYTES);
    for (const peers of [false, true]) {
      const hosts: Host[] = [];
      for (let i = 1; i <= HOSTS; i += 1) {
        const cluster = peers ? 'with' : 'without';
        const node = `${cluster}-n${i}`;
        hosts.push(await startHost({ controller, directory, node, cluster, kwdbId: i, size: HOSTS, peers }));
      }
      const before = await sentBytes(controller);
      const startedMs = performance.now();
      await Promise.all(hosts.map(({ supply }) => supply.packages.ensure({ sizeBytes, ...rest }, PATIENT)));
      const seconds = (performance.now() - startedMs) / 1000;
      const copies = ((await sentBytes(controller)) - before) / sizeBytes;
      await Promise.all(hosts.map((host) => host.close()));
      const how = `${HOSTS} hosts, ${peers ? 'with' : 'without'} peers`;
      const value = Math.round(copies * 100) / 100;
      figures.push({
        bench: 'distribution',
        figure: `copies sent by the controller, ${how}`,
        value,
        unit: 'copies',
        // Two seeds at a time, and time for the first of them to tell that it has it.
        ...(peers && { bound: HOSTS / 4 }),
      });
      figures.push({
        bench: 'distribution',
        figure: `until all have it, ${how}`,
        value: Math.round(seconds * 10) / 10,
        unit: 's',
      });
    }
  } finally {
    await controller.close();
    await rm(directory, { recursive: true, force: true });
  }
  return figures;
}
