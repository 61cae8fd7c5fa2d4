import type { Topology } from '@kwfleet/core';
import { afterEach, describe, expect, it } from 'vitest';
import { startWorkload } from '../standin/workload.ts';
import { absence, overlaps } from './order.ts';
import { Playground } from './playground.ts';

let playground: Playground | undefined;

afterEach(async (context) => {
  if (context.task.result?.state === 'fail') console.error(playground?.logs());
  await playground?.close();
  playground = undefined;
});

async function fleet(topology: Topology): Promise<Playground> {
  // The liveness record outlives a restart here as it does in KWDB: whoever trusts `is_live` alone goes wrong.
  const knobs = { heartbeatMs: 300, livenessMs: 30_000, catchUpMs: 700, readyDelayMs: 300 };
  playground = await Playground.create({ topology, knobs });
  await playground.addPackage({ version: '3.1.0' });
  return playground;
}

const UPGRADE = [
  '--to',
  '3.1.0',
  '--backup',
  'none:test',
  '--soak',
  '500ms',
  '--sample-gap',
  '300ms',
  '--yes',
  '--watch',
];

async function upgrade(fleet: Playground, ...more: string[]): Promise<void> {
  const [cluster] = await fleet.client.clusters();
  const { code, stdout, stderr } = await fleet.kwfleet('upgrade', cluster?.name ?? '', ...UPGRADE, ...more);
  expect(code, `${stdout}\n${stderr}`).toBe(0);
}

describe('an upgrade from 3.0.0 to 3.1.0', () => {
  it('takes a multi-replica cluster one node at a time, and its clients lose nothing', async () => {
    const cluster = await fleet('multi-replica');
    const addresses = cluster.rig.nodes.map(({ installed }) => installed.host);
    const workload = startWorkload({ addresses, ratePerSecond: 40, timeoutMs: 30_000, retry: 'once-on-another-node' });
    await upgrade(cluster);
    const counts = await workload.stop();
    const absences = cluster.rig.nodes.map((node) => absence(node.record()));
    expect(overlaps(absences)).toEqual([]);
    expect(absences.map(({ toVersion }) => toVersion)).toEqual(['3.1.0', '3.1.0', '3.1.0']);
    expect(counts).toMatchObject({ lostAcknowledged: 0, failedAfterRetry: 0, staleReads: 0 });
    expect(counts.acknowledged).toBeGreaterThan(50);
  });

  it('stops all nodes of a single-replica cluster, then installs all, then starts all', async () => {
    const cluster = await fleet('single-replica');
    await upgrade(cluster);
    const absences = cluster.rig.nodes.map((node) => absence(node.record()));
    const lastStop = Math.max(...absences.map(({ stoppedAtMs }) => stoppedAtMs));
    const firstStart = Math.min(...absences.map(({ startedAtMs }) => startedAtMs));
    expect(lastStop).toBeLessThan(firstStart);
    expect(absences.map(({ toVersion }) => toVersion)).toEqual(['3.1.0', '3.1.0', '3.1.0']);
  });

  it('stops a standalone instance, installs, and starts it', async () => {
    const cluster = await fleet('standalone');
    await upgrade(cluster);
    expect(absence(cluster.rig.node(1).record())).toMatchObject({ fromVersion: '3.0.0', toVersion: '3.1.0' });
  });

  it('can take the online route, and leaves no mark and no changed setting behind', async () => {
    const cluster = await fleet('multi-replica');
    const before = await cluster.rig.node(1).sql('SHOW CLUSTER SETTING server.time_until_store_dead');
    await upgrade(cluster, '--route', 'online');
    expect(overlaps(cluster.rig.nodes.map((node) => absence(node.record())))).toEqual([]);
    expect(await cluster.rig.node(1).sql('SHOW CLUSTER SETTING server.time_until_store_dead')).toBe(before);
    for (const row of await cluster.rig.node(1).status())
      expect(row).toMatchObject({ is_available: 'true', build: 'V3.1.0' });
    for (const node of cluster.rig.nodes)
      expect(node.read('etc/kaiwudb/script/kaiwudb_env')).not.toContain('--upgrade-complete');
  });
});
