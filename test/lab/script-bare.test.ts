/** Script installations beyond Debian and root: hosts of an rpm distribution, secure modes, an agent with sudo. */
import type { Topology } from '@kwfleet/core';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { absence, overlaps } from '../e2e/order.ts';
import type { PackageFaults } from '../standin/package.ts';
import { Fleet, type FleetOptions } from './fleet.ts';
import { type LabHost, labHere } from './host.ts';
import { cell, renderMethods, WHOLE_TABLE } from './methods-table.ts';

const VERSION_FILE = '/etc/kaiwudb/info/.version';
const SUDOERS = '/etc/sudoers.d/kwfleet-agent';
const OPTIONS = ['--backup', 'none:lab', '--soak', '500ms', '--sample-gap', '300ms'];

let fleet: Fleet | undefined;

afterEach(async ({ task }) => {
  if (task.result?.state === 'fail') console.error(await fleet?.diagnosis());
  await fleet?.destroy();
  fleet = undefined;
});

async function create(options: FleetOptions): Promise<Fleet> {
  fleet = await Fleet.create(options);
  return fleet;
}

async function upgrade(fleet: Fleet, to: string, ...more: string[]): Promise<void> {
  const { name } = await fleet.healthy();
  const { exitCode, stdout, stderr } = await fleet.kwfleet(
    ...['upgrade', name, '--to', to, ...OPTIONS, '--yes', '--watch', ...more],
  );
  expect(exitCode, stdout + stderr).toBe(0);
  const nodes = await fleet.client.nodes();
  expect(nodes.map(({ report }) => report?.installation?.condition)).toEqual(fleet.hosts.map(() => 'clean'));
  expect((await fleet.healthy()).versions).toEqual([to]);
}

/** What the plan says against it; the nodes must not have felt a thing. */
async function refusal(fleet: Fleet, to: string): Promise<string> {
  const { name } = await fleet.healthy();
  const before = await records(fleet);
  const { exitCode, stdout, stderr } = await fleet.kwfleet('plan', name, '--to', to, ...OPTIONS);
  expect(exitCode, stdout + stderr).toBe(2);
  expect(await records(fleet)).toEqual(before);
  return stdout;
}

const records = (fleet: Fleet) => Promise.all(fleet.hosts.map((host) => fleet.record(host)));

/** A run of a package that cannot be installed: it must end with every node serving the version before. */
async function backsOut(fleet: Fleet, to: string): Promise<void> {
  const run = await fleet.begin(to);
  const held = await fleet.settled(run);
  expect(held.hold).toMatchObject({ code: 'INSTALL_FAILED' });
  await fleet.abort(run);
  for (const host of fleet.hosts) expect(await host.readFile(VERSION_FILE)).toBe('3.0.0\n\n');
  expect((await fleet.healthy()).versions).toEqual(['3.0.0']);
  expect((await records(fleet)).flat().filter(({ version }) => version !== '3.0.0')).toEqual([]);
}

const installed = (host: LabHost) =>
  host.exec(['rpm', '-q', '--qf', '%{VERSION} ', 'kaiwudb-server', 'kaiwudb-libcommon']);

const RPM_CLUSTERS: readonly [Topology, Partial<FleetOptions>, PackageFaults][] = [
  ['standalone', { encrypted: true, secure: 'tls' }, { maintainerScriptFails: true }],
  ['multi-replica', { secure: 'tls' }, { maintainerScriptFails: true }],
  ['single-replica', { secure: 'tlcp' }, { corrupt: true }],
];

describe.skipIf(!(await labHere()))('hosts of an rpm distribution', () => {
  afterAll(() => console.info(`\n${renderMethods()}\n`));

  it.for(RPM_CLUSTERS.filter(([topology]) => WHOLE_TABLE || topology === 'standalone'))(
    '%s',
    { timeout: 30 * 60_000 },
    async ([topology, options, fault]) => {
      const fleet = await create({ topology, family: 'rpm', ...options });
      const at = { method: 'script-bare', topology } as const;
      const nodes = await fleet.client.nodes();
      for (const { report } of nodes) {
        expect(report?.host.distribution.family).toBe('rpm');
        expect(report?.installation?.encrypted).toBe(options.encrypted === true);
      }
      await cell({ ...at, case: 'wrong package' }, async () => {
        await fleet.addPackage({ version: '3.3.0' });
        expect(await refusal(fleet, '3.3.0')).toContain('DISTRIBUTION_MISMATCH');
        await fleet.addPackage({ version: '3.1.0', family: 'rpm', faults: fault });
        expect(await refusal(fleet, '3.1.0')).toContain('PREVIOUS_PACKAGE_MISSING');
        return 'refused in the plan';
      });
      await cell({ ...at, case: 'failed install' }, async () => {
        await fleet.addPackage({ version: '3.0.0', family: 'rpm' });
        await backsOut(fleet, '3.1.0');
        return 'backed out';
      });
      await cell({ ...at, case: 'upgrade' }, async () => {
        await fleet.addPackage({ version: '3.2.0', family: 'rpm' });
        const before = await records(fleet);
        await upgrade(fleet, '3.2.0');
        for (const host of fleet.hosts) expect((await installed(host)).stdout).toBe('3.2.0 3.2.0 ');
        const absences = (await records(fleet)).map((lines, node) => absence(lines.slice(before[node]?.length)));
        if (topology === 'multi-replica') expect(overlaps(absences)).toEqual([]);
        return 'succeeded';
      });
      await cell({ ...at, case: 'killed in the middle' }, () => killed(fleet, '3.4.0'));
    },
  );
});

/** On every host deploy.sh dies, and all of its cgroup, when the new server is in rpm's books and `.version` is old. */
async function killed(fleet: Fleet, to: string): Promise<string> {
  await fleet.addPackage({ version: to, family: 'rpm', faults: { postinstSeconds: 4 } });
  const run = await fleet.begin(to);
  await Promise.all(
    fleet.hosts.map(async (host) => {
      await host.shell(
        `until [ "$(rpm -q --qf '%{VERSION}' kaiwudb-server)" = ${to} ]; do sleep 0.1; done
         systemctl kill --signal=KILL 'kwfleet-*-install-1.service'`,
        { timeoutMs: 180_000 },
      );
      expect(await host.readFile(VERSION_FILE)).toContain('3.2.0');
    }),
  );
  const settled = await fleet.settled(run);
  expect(settled.status, settled.hold?.message).toBe('succeeded');
  for (const host of fleet.hosts) expect((await installed(host)).stdout).toBe(`${to} ${to} `);
  return 'went on by itself';
}

describe.skipIf(!(await labHere()))('secure modes and sudo', () => {
  it('tlcp, where no health can be asked over HTTP: ready is what node status proves', async () => {
    const fleet = await create({ topology: 'multi-replica', secure: 'tlcp' });
    await fleet.addPackage({ version: '3.1.0' });
    await upgrade(fleet, '3.1.0');
    expect(overlaps((await records(fleet)).map(absence))).toEqual([]);
  });

  it('an agent with sudo: nothing is stopped once sudo asks for a password, and everything works without', async () => {
    const fleet = await create({ topology: 'multi-replica', secure: 'tls', encrypted: true, sudo: true });
    await fleet.addPackage({ version: '3.1.0' });
    const nodes = await fleet.client.nodes();
    expect(nodes.map(({ report }) => report?.host.privileges)).toEqual(['sudo', 'sudo', 'sudo']);
    const before = await records(fleet);
    const [first] = fleet.hosts;
    if (first === undefined) throw new Error('no host');
    const lines = await first.readFile(SUDOERS);
    const cluster = await fleet.healthy();
    const options = { backup: { policy: 'none' as const, reason: 'lab' }, soakMs: 500, sampleGapMs: 300 };
    const plan = await fleet.client.createPlan({ cluster: cluster.id, to: '3.1.0', options });
    await first.shell(
      `sed 's/NOPASSWD: KWFLEET_ASK, KWFLEET_SERVICE, /NOPASSWD: KWFLEET_ASK, KWFLEET_SERVICE, PASSWD: /' <${SUDOERS} >/tmp/s; install -m 440 /tmp/s ${SUDOERS}`,
    );
    const { id } = await fleet.client.createRun({ plan: plan.id, hash: plan.hash });
    const held = await fleet.settled(id);
    expect(held.hold).toMatchObject({ code: 'DEPLOY_PASSWORD', node: first.name });
    expect(await records(fleet)).toEqual(before);
    await first.writeFile(SUDOERS, lines, 0o440);
    await fleet.retry(id);
    const end = await fleet.settled(id);
    expect(end.status, end.hold?.message).toBe('succeeded');
    expect(overlaps((await records(fleet)).map(absence))).toEqual([]);
    // The online route edits files of root's, and a copy of what was installed was kept for the way back.
    await fleet.addPackage({ version: '3.2.0' });
    await upgrade(fleet, '3.2.0', '--route', 'online');
  });
});
