/**
 * What orchestration costs: five nodes of a multi-replica cluster whose every action takes a fixed time, a real controller
 * with a real PostgreSQL, the real wire. Wall time over the sum of the actions on the critical path.
 */

import { createReadStream } from 'node:fs';
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { Readable } from 'node:stream';
import type { ReadableStream } from 'node:stream/web';
import { controllerConfig, startController } from '@kwfleet/controller';
import { Client } from '../../packages/cli/src/client.ts';
import { buildPackage } from '../standin/package.ts';
import { poll } from '../standin/rig.ts';
import type { Figure } from './run.ts';
import { TimedAgent } from './timed-agent.ts';

const NODES = 5;
const ACTION_MS = 1_000;

export async function overhead(): Promise<Figure[]> {
  const directory = await mkdtemp(join(tmpdir(), 'kwfleet-bench-'));
  // As root, PostgreSQL runs as a user of its own, who must get in.
  await chmod(directory, 0o711);
  const controller = await startController(
    controllerConfig({
      data_dir: join(directory, 'data'),
      rest: { port: 0 },
      grpc: { port: 0, insecure: true },
      log_level: 'error',
    }),
  );
  const kwdbIds = Array.from({ length: NODES }, (_, i) => i + 1);
  const agents = kwdbIds.map(
    (kwdbId) =>
      new TimedAgent({
        address: controller.grpcAddress,
        node: `n${kwdbId}`,
        kwdbId,
        kwdbIds,
        clusterId: 'bench',
        actionMs: ACTION_MS,
      }),
  );
  try {
    const client = new Client({ server: controller.restUrl });
    await poll(
      'all nodes healthy',
      async () => (await client.clusters())[0]?.nodes.filter(({ state }) => state === 'healthy').length === NODES,
    );
    const file = await buildPackage({ version: '3.1.0', outDir: directory });
    await client.addPackage(
      basename(file),
      Readable.toWeb(createReadStream(file)) as ReadableStream<Uint8Array>,
      AbortSignal.timeout(30_000),
    );
    const options = { backup: { policy: 'none' as const, reason: 'bench' } };
    const plan = await client.createPlan({ cluster: 'bench', to: '3.1.0', options });
    const startedAtMs = Date.now();
    const run = await client.createRun({ plan: plan.id, hash: plan.hash });
    await poll('the run succeeds', async () => (await client.run(run.id)).status === 'succeeded', 120_000);
    const wallMs = Date.now() - startedAtMs;
    const criticalMs = union(agents.flatMap(({ spent }) => spent));
    return [
      {
        bench: 'overhead',
        figure: 'wall over critical path',
        value: Number((wallMs / criticalMs).toFixed(4)),
        unit: 'ratio',
        bound: 1.05,
      },
      { bench: 'overhead', figure: 'wall', value: wallMs, unit: 'ms' },
      { bench: 'overhead', figure: 'critical path', value: criticalMs, unit: 'ms' },
    ];
  } finally {
    for (const agent of agents) agent.close();
    await controller.close();
    await rm(directory, { recursive: true, force: true });
  }
}

/** The time in which at least one action was under way: the procedure being sequential, its critical path. */
function union(spans: readonly { startedAtMs: number; endedAtMs: number }[]): number {
  let totalMs = 0;
  let untilMs = 0;
  for (const { startedAtMs, endedAtMs } of spans.toSorted((a, b) => a.startedAtMs - b.startedAtMs)) {
    totalMs += Math.max(0, endedAtMs - Math.max(startedAtMs, untilMs));
    untilMs = Math.max(untilMs, endedAtMs);
  }
  return totalMs;
}
