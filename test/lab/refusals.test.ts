/** Refusals that need a real host: its disk, its rights, its distribution, its service manager. */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { Fleet } from './fleet.ts';
import { type LabHost, labHere, until } from './host.ts';
import { WHOLE_TABLE } from './methods-table.ts';

const STATE_DIR = '/var/lib/kwfleet';
const UNIT = 'kaiwudb';

let fleet: Fleet | undefined;

async function end(): Promise<void> {
  await fleet?.destroy();
  fleet = undefined;
}

function only(): { fleet: Fleet; host: LabHost } {
  const [host] = fleet?.hosts ?? [];
  if (fleet === undefined || host === undefined) throw new Error('no fleet');
  return { fleet, host };
}

/** What `kwfleet plan` says when it refuses; the nodes' own records must be as before. */
async function refusal(to: string): Promise<string> {
  const { fleet } = only();
  const before = await Promise.all(fleet.hosts.map((host) => fleet.record(host)));
  const [cluster] = await fleet.client.clusters();
  const args = ['plan', cluster?.name ?? '', '--to', to, '--backup', 'none:lab'];
  const { exitCode, stdout, stderr } = await fleet.kwfleet(...args);
  expect(exitCode, stdout + stderr).toBe(2);
  expect(await Promise.all(fleet.hosts.map((host) => fleet.record(host)))).toEqual(before);
  return stdout + stderr;
}

/** The line of the checks that has this code. */
const lineOf = (text: string, code: string) =>
  text.split('\n').find((line) => line.includes(code)) ?? `no ${code}:\n${text}`;

/** A bare package of .rpm files: the registry looks at names and headers, and nobody will install it. */
async function addRpmPackage(fleet: Fleet, version: string): Promise<void> {
  const tree = join(fleet.lab.directory, 'rpm');
  const top = join(tree, 'kaiwudb_install');
  const rpm = process.arch === 'arm64' ? 'aarch64' : 'x86_64';
  const files = {
    'deploy.sh': '#!/bin/bash\nexit 1\n',
    'utils/x.sh': '',
    'packages/.version': `${version}\n\n`,
    [`packages/kaiwudb-server-${version}.${rpm}.rpm`]: 'x',
    [`packages/kaiwudb-libcommon-${version}.${rpm}.rpm`]: 'x',
  };
  for (const folder of ['utils', 'packages']) await mkdir(join(top, folder), { recursive: true });
  for (const [name, content] of Object.entries(files)) await writeFile(join(top, name), content);
  const file = join(fleet.lab.directory, `KaiwuDB-${version}.tar.gz`);
  await fleet.lab.execInNetwork(['tar', '-C', tree, '-czf', file, 'kaiwudb_install']);
  const { exitCode, stdout, stderr } = await fleet.kwfleet('package', 'add', file);
  expect(exitCode, stdout + stderr).toBe(0);
}

describe.skipIf(!(await labHere()))('refused before anything is touched', () => {
  beforeAll(async () => {
    // Enough for the package, until something else fills it.
    fleet = await Fleet.create({ topology: 'standalone', smallDisks: [{ path: STATE_DIR, megabytes: 512 }] });
    await fleet.addPackage({ version: '3.1.0' });
  });
  afterAll(end);

  it('a container package for a bare node', async () => {
    const { fleet, host } = only();
    await fleet.addPackage({ version: '3.2.0', method: 'container' });
    expect(lineOf(await refusal('3.2.0'), 'METHOD_MISMATCH')).toContain(host.name);
  });

  it('an rpm package on a host that takes deb', async () => {
    const { fleet, host } = only();
    await addRpmPackage(fleet, '3.3.0');
    expect(lineOf(await refusal('3.3.0'), 'DISTRIBUTION_MISMATCH')).toContain(host.name);
  });

  it('a disk too full for the package', async () => {
    const { host } = only();
    await host.exec(['fallocate', '-l', '400M', join(STATE_DIR, 'filler')]);
    expect(lineOf(await refusal('3.1.0'), 'DISK_FULL')).toContain(host.name);
    await host.exec(['rm', join(STATE_DIR, 'filler')]);
  });

  it('an agent without privileges', async () => {
    const { fleet, host } = only();
    await host.shell('useradd --system --no-create-home nobodys; chown -R nobodys /etc/kwfleet');
    await host.writeFile('/etc/systemd/system/kwfleet-agent.service.d/user.conf', '[Service]\nUser=nobodys\n');
    await host.shell('systemctl daemon-reload; systemctl restart kwfleet-agent');
    const privileges = async () => (await fleet.client.nodes())[0]?.report?.host.privileges;
    await until('the report tells that it has none', async () => (await privileges()) === 'none');
    expect(lineOf(await refusal('3.1.0'), 'PRIVILEGES_MISSING')).toContain(host.name);
  });
});

describe.skipIf(!(await labHere()))('refused because of another node', () => {
  afterEach(async ({ task }) => {
    if (task.result?.state === 'fail') console.error(await fleet?.diagnosis());
    await end();
  });

  it('a node that the database lists and on which no agent ever reported', async () => {
    fleet = await Fleet.create({ topology: 'multi-replica', nodes: 2, agents: 1 });
    await fleet.addPackage({ version: '3.1.0' });
    const text = await refusal('3.1.0');
    expect(text).toMatch(new RegExp(`NODE_MISSING\\s.*${fleet.hosts[1]?.address}`, 's'));
  });

  it.runIf(WHOLE_TABLE)(
    'a database that somebody starts after all were stopped: nothing is installed beside it',
    async () => {
      fleet = await Fleet.create({ topology: 'single-replica', nodes: 2 });
      await fleet.addPackage({ version: '3.1.0', faults: { installDelaySeconds: 3 } });
      const run = await fleet.begin('3.1.0', { concurrency: 1 });
      const installing = await until(
        'the first node is installed on',
        async () => {
          const view = await fleet?.client.run(run);
          return view?.plan.nodes.find(({ node }) => view.steps[`install:${node}`]?.status === 'running')?.node;
        },
        60_000,
      );
      const other = fleet.hosts.find(({ name }) => name !== installing);
      if (other === undefined) throw new Error('no other host');
      await other.exec(['systemctl', 'start', UNIT]);
      const held = await fleet.settled(run);
      expect(held.status).toBe('held');
      expect(held.hold).toMatchObject({ code: 'DEPLOY_STILL_RUNNING', node: other.name });
      expect(await other.readFile('/etc/kaiwudb/info/.version')).toContain('3.0.0');
      const started = (await Promise.all(fleet.hosts.map((host) => fleet?.record(host)))).flat();
      expect(started.filter((line) => line?.version !== '3.0.0')).toEqual([]);
      await other.exec(['systemctl', 'stop', UNIT]);
      await fleet.retry(run);
      const end = await fleet.settled(run);
      expect(end.status, end.hold?.message).toBe('succeeded');
    },
  );
});
