import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { absence, overlaps } from '../e2e/order.ts';
import type { WorkloadCounts } from '../standin/workload.ts';
import { Fleet, type FleetOptions } from './fleet.ts';
import { type LabProcess, labHere, until } from './host.ts';
import { WHOLE_TABLE } from './methods-table.ts';

let fleet: Fleet | undefined;

afterEach(async (context) => {
  if (context.task.result?.state === 'fail') console.error(await fleet?.diagnosis());
  await fleet?.destroy();
  fleet = undefined;
});

async function ready(options: FleetOptions): Promise<Fleet> {
  fleet = await Fleet.create(options);
  await fleet.addPackage({ version: '3.1.0' });
  return fleet;
}

/** The workload runs beside the controller, in the lab's network, and tells its counts when it is asked to end. */
function startClients(fleet: Fleet): { stop(): Promise<WorkloadCounts> } {
  const addresses = fleet.hosts.map(({ address }) => `${address}:26257`);
  const script = join(import.meta.dirname, 'clients.ts');
  const clients: LabProcess = fleet.lab.spawnInNetwork([process.execPath, script, ...addresses]);
  return {
    async stop() {
      await clients.kill('SIGTERM', 60_000);
      return JSON.parse(clients.stdout().trim().split('\n').at(-1) ?? '') as WorkloadCounts;
    },
  };
}

async function upgrade(fleet: Fleet, ...more: string[]): Promise<void> {
  const { name } = await fleet.healthy();
  const args = ['upgrade', name, '--to', '3.1.0', '--backup', 'none:lab', '--soak', '500ms', '--sample-gap', '300ms'];
  const { exitCode, stdout, stderr } = await fleet.kwfleet(...args, '--yes', '--watch', ...more);
  expect(exitCode, stdout + stderr).toBe(0);
}

const enabled = async (fleet: Fleet) =>
  Promise.all(
    fleet.hosts.map(async (host) =>
      (await host.exec(['systemctl', 'is-enabled', 'kaiwudb'], { allowFailure: true })).stdout.trim(),
    ),
  );

describe.skipIf(!(await labHere()))('an upgrade from 3.0.0 to 3.1.0 on hosts with systemd', () => {
  it('takes a multi-replica cluster one node at a time, and its clients lose nothing', async () => {
    const fleet = await ready({ topology: 'multi-replica', knobs: { livenessMs: 30_000 } });
    await fleet.hosts[1]?.exec(['systemctl', 'enable', 'kaiwudb']);
    const before = await enabled(fleet);
    const clients = startClients(fleet);
    await upgrade(fleet);
    const counts = await clients.stop();
    const absences = await Promise.all(fleet.hosts.map(async (host) => absence(await fleet.record(host))));
    expect(overlaps(absences)).toEqual([]);
    expect(absences.map(({ fromVersion, toVersion }) => [fromVersion, toVersion])).toEqual(
      fleet.hosts.map(() => ['3.0.0', '3.1.0']),
    );
    expect(counts).toMatchObject({ lostAcknowledged: 0, failedAfterRetry: 0, staleReads: 0 });
    expect(counts.acknowledged).toBeGreaterThan(50);
    expect(await enabled(fleet)).toEqual(before);
  });

  it('takes a multi-replica cluster online, and puts a setting back to what it was', async () => {
    const fleet = await ready({ topology: 'multi-replica' });
    const sql = async (text: string) =>
      (await fleet.hosts[0]?.exec(['/usr/bin/kw-sql', '--format=csv', '-e', text]))?.stdout.trim().split('\n').at(-1);
    await sql("SET CLUSTER SETTING server.time_until_store_dead = '7m0s'");
    const before = await sql('SHOW CLUSTER SETTING server.time_until_store_dead');
    await upgrade(fleet, '--route', 'online');
    const absences = await Promise.all(fleet.hosts.map(async (host) => absence(await fleet.record(host))));
    expect(overlaps(absences)).toEqual([]);
    expect(await sql('SHOW CLUSTER SETTING server.time_until_store_dead')).toBe(before);
    expect((await fleet.healthy()).versions).toEqual(['3.1.0']);
  });

  it('stops all nodes of a single-replica cluster, then installs all, then starts all', async () => {
    const fleet = await ready({ topology: 'single-replica' });
    await upgrade(fleet);
    const absences = await Promise.all(fleet.hosts.map(async (host) => absence(await fleet.record(host))));
    const lastStop = Math.max(...absences.map(({ stoppedAtMs }) => stoppedAtMs));
    const firstStart = Math.min(...absences.map(({ startedAtMs }) => startedAtMs));
    expect(lastStop).toBeLessThan(firstStart);
    const installs = await Promise.all(fleet.hosts.map((host) => installedAtMs(host)));
    expect(Math.min(...installs)).toBeGreaterThan(lastStop);
    expect(Math.max(...installs)).toBeLessThan(firstStart);
    expect(absences.map(({ toVersion }) => toVersion)).toEqual(['3.1.0', '3.1.0', '3.1.0']);
  });

  it('stops a standalone instance, installs, and starts it', async () => {
    const fleet = await ready({ topology: 'standalone' });
    await upgrade(fleet);
    const [host] = fleet.hosts;
    if (host === undefined) throw new Error('no host');
    expect(absence(await fleet.record(host))).toMatchObject({ fromVersion: '3.0.0', toVersion: '3.1.0' });
    expect(await enabled(fleet)).toEqual(['disabled']);
  });
});

const LATE_MS = 61_000;

describe.runIf(WHOLE_TABLE && (await labHere()))('an order that its host reads late', () => {
  it('takes no node down; once the host is back it is given anew', { timeout: 1_200_000 }, async () => {
    const fleet = await ready({ topology: 'multi-replica' });
    const [host] = fleet.hosts;
    if (host === undefined) throw new Error('no host');
    const run = await fleet.begin('3.1.0');
    const stepOf = async (id: string) => (await fleet.client.run(run)).steps[id];
    const signal = (name: string) =>
      host.exec(['systemctl', 'kill', '--kill-whom=main', `--signal=${name}`, 'kwfleet-agent']);
    // Its cluster is asked through another node: this agent stands still, and nobody has noticed when the order is given.
    await until('the gate is asked', async () => (await stepOf(`gate:${host.name}`))?.status !== 'pending');
    await signal('SIGSTOP');
    const upgrade = `upgrade:${host.name}`;
    await until('the order is given', async () => (await stepOf(upgrade))?.status === 'running');
    const givenAtMs = Date.now();
    await until('the order is old', async () => Date.now() - givenAtMs > LATE_MS, 2 * LATE_MS);
    expect(await fleet.client.run(run)).toMatchObject({ status: 'held', hold: { code: 'AGENT_LOST' } });
    expect((await fleet.record(host)).at(-1)).toMatchObject({ event: 'ready', version: '3.0.0' });
    const thawedAtMs = Date.now();
    await signal('SIGCONT');
    expect(await fleet.settled(run)).toMatchObject({
      status: 'succeeded',
      steps: { [upgrade]: { attempt: 2, late: 1 } },
    });
    const gate = await stepOf(`gate:${host.name}`);
    expect(gate?.startedAtMs).toBeGreaterThan(thawedAtMs - 1_000);
    expect(absence(await fleet.record(host)).stoppedAtMs).toBeGreaterThan(gate?.endedAtMs ?? Number.NaN);
  });
});

/** When the new `.version` was written: deploy.sh's last step, by the host's own file system. */
async function installedAtMs(host: Fleet['hosts'][number]): Promise<number> {
  const { stdout } = await host.exec(['stat', '-c', '%.Y', '/etc/kaiwudb/info/.version']);
  return Number(stdout.trim()) * 1000;
}
