/** Script installations beyond Debian and root: hosts of an rpm distribution, secure modes, an agent with sudo. */
import { afterEach, describe, expect, it } from 'vitest';
import { absence, overlaps } from '../e2e/order.ts';
import { Fleet, type FleetOptions } from './fleet.ts';
import { type LabHost, labHere } from './host.ts';

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

describe.skipIf(!(await labHere()))('a host of an rpm distribution', () => {
  it('multi-replica: refuses what does not fit, backs out of a failed install, upgrades', async () => {
    const fleet = await create({ topology: 'multi-replica', family: 'rpm', secure: 'tls' });
    await fleet.addPackage({ version: '3.3.0' });
    expect(await refusal(fleet, '3.3.0')).toContain('DISTRIBUTION_MISMATCH');
    await fleet.addPackage({ version: '3.1.0', family: 'rpm', faults: { maintainerScriptFails: true } });
    expect(await refusal(fleet, '3.1.0')).toContain('PREVIOUS_PACKAGE_MISSING');
    await fleet.addPackage({ version: '3.0.0', family: 'rpm' });
    await backsOut(fleet, '3.1.0');
    await fleet.addPackage({ version: '3.2.0', family: 'rpm' });
    const before = await records(fleet);
    await upgrade(fleet, '3.2.0');
    for (const host of fleet.hosts) expect((await installed(host)).stdout).toBe('3.2.0 3.2.0 ');
    const absences = (await records(fleet)).map((lines, at) => absence(lines.slice(before[at]?.length)));
    expect(overlaps(absences)).toEqual([]);
  });

  it('single-replica: backs out of a corrupt package, upgrades', async () => {
    const fleet = await create({ topology: 'single-replica', family: 'rpm', secure: 'tlcp' });
    await fleet.addPackage({ version: '3.0.0', family: 'rpm' });
    await fleet.addPackage({ version: '3.1.0', family: 'rpm', faults: { corrupt: true } });
    await backsOut(fleet, '3.1.0');
    await fleet.addPackage({ version: '3.2.0', family: 'rpm' });
    await upgrade(fleet, '3.2.0');
  });

  it('standalone: upgrades, also where deploy.sh was killed in the middle', async () => {
    const fleet = await create({ topology: 'standalone', family: 'rpm', encrypted: true });
    const [host] = fleet.hosts;
    if (host === undefined) throw new Error('no host');
    await fleet.addPackage({ version: '3.0.0', family: 'rpm' });
    await fleet.addPackage({ version: '3.1.0', family: 'rpm', faults: { postinstSeconds: 4 } });
    expect((await fleet.client.nodes())[0]?.report?.installation).toMatchObject({ encrypted: true });
    const run = await fleet.begin('3.1.0');
    // Everything of it dies when the new server is in rpm's books and `.version` still names the old one.
    await host.shell(
      `until [ "$(rpm -q --qf '%{VERSION}' kaiwudb-server)" = 3.1.0 ]; do sleep 0.1; done
       systemctl kill --signal=KILL 'kwfleet-*-install-1.service'`,
      { timeoutMs: 60_000 },
    );
    expect(await host.readFile(VERSION_FILE)).toContain('3.0.0');
    const settled = await fleet.settled(run);
    expect(settled.status, settled.hold?.message).toBe('succeeded');
    expect((await installed(host)).stdout).toBe('3.1.0 3.1.0 ');
  });
});

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
