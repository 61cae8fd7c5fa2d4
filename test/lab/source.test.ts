/** KWDB built from source, on real hosts: each topology upgraded, refused, backed out, and killed in the middle. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { RunView, Topology } from '@kwfleet/core';
import { afterAll, afterEach, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { absence, overlaps } from '../e2e/order.ts';
import { Fleet } from './fleet.ts';
import { type LabHost, labHere } from './host.ts';
import { cell, renderMethods, WHOLE_TABLE } from './methods-table.ts';
import {
  addBuild,
  addTree,
  BUILD,
  bySource,
  FIND,
  hasUnit,
  laySource,
  processOf,
  TREE,
  UNIT,
} from './source-deploy.ts';
import { askBy, copyFirst, goBack, rootsOf, type Sql } from './way-back.ts';

const TOPOLOGIES: readonly Topology[] = ['standalone', 'multi-replica', 'single-replica'];
const TIMEOUT_MS = 20 * 60_000;

let fleet: Fleet | undefined;
let directory: string;

const succeeded = (view: RunView) => expect(view.status, JSON.stringify(view.hold)).toBe('succeeded');
const records = (fleet: Fleet) => Promise.all(fleet.hosts.map((host) => fleet.record(host)));
const link = async (host: LabHost) => (await host.exec(['readlink', TREE], { allowFailure: true })).stdout.trim();

const sql: Sql = (host, statement) =>
  askBy(host, ['env', `LD_LIBRARY_PATH=${TREE}/lib`, `${TREE}/bin/kwbase`], statement);

function first(fleet: Fleet): LabHost {
  const [host] = fleet.hosts;
  if (host === undefined) throw new Error('no host');
  return host;
}

describe.skipIf(!(await labHere()))('KWDB built from source', () => {
  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), 'kw-trees-'));
  });
  afterAll(async () => {
    await rm(directory, { recursive: true, force: true });
    console.info(`\n${renderMethods()}\n`);
  });
  afterEach(async ({ task }) => {
    if (task.result?.state === 'fail') console.error(await fleet?.diagnosis());
    await fleet?.destroy();
    fleet = undefined;
  });

  it.for(WHOLE_TABLE ? TOPOLOGIES : (['multi-replica'] as const))('%s', { timeout: TIMEOUT_MS }, async (topology) => {
    fleet = await Fleet.create({ topology, deploy: bySource(directory) });
    const at = { method: 'source', topology } as const;
    const before = await Promise.all(fleet.hosts.map(processOf));
    await cell({ ...at, case: 'wrong package' }, () => wrongPackage(fleet as Fleet));
    await cell({ ...at, case: 'failed install' }, () => failedInstall(fleet as Fleet));
    expect(await Promise.all(fleet.hosts.map(processOf))).toEqual(before);
    let backup = '';
    await cell({ ...at, case: 'upgrade' }, async () => {
      backup = await upgrade(fleet as Fleet, topology);
      return 'succeeded';
    });
    expect(await Promise.all(fleet.hosts.map(processOf))).toEqual(before);
    if (WHOLE_TABLE) {
      await cell({ ...at, case: 'downgrade' }, () => downgrade(fleet as Fleet, backup));
      expect(await Promise.all(fleet.hosts.map(processOf))).toEqual(before);
    }
    await cell({ ...at, case: 'killed in the middle' }, () => killed(fleet as Fleet));
    expect(await Promise.all(fleet.hosts.map(processOf))).toEqual(before);
    for (const host of fleet.hosts) {
      const { stdout } = await host.exec(['ls', '/opt/kwdb']);
      // The tree that people made is never removed; of the agent's own the one in use and the one before it stay.
      const before = WHOLE_TABLE ? expect.stringMatching(/^install-3\.0\.0-[0-9a-f]{12}$/) : 'install-3.1.0';
      expect(
        stdout
          .split('\n')
          .filter((name) => name.startsWith('install'))
          .sort(),
      ).toEqual(['install', 'install-3.0.0', before, 'install-3.2.0']);
    }
  });
});

describe.skipIf(!(await labHere()))('KWDB built from source on its own host', () => {
  it('stops nothing when the build fails or is of another version, and goes on while the agent dies', {
    timeout: TIMEOUT_MS,
  }, async () => {
    const scratch = await mkdtemp(join(tmpdir(), 'kw-builds-'));
    onTestFinished(() => rm(scratch, { recursive: true, force: true }));
    fleet = await Fleet.create({ topology: 'standalone', deploy: bySource(scratch), agent: BUILD });
    onTestFinished(() => fleet?.destroy());
    const host = first(fleet);
    await addBuild(fleet, '3.1.0');
    const before = await records(fleet);
    for (const [version, exitCode, code] of [
      ['3.1.0', 3, 'BUILD_FAILED'],
      ['3.0.9', 0, 'VERIFY_WRONG_VERSION'],
    ] as const) {
      await laySource(host, scratch, version, exitCode);
      const run = await fleet.begin('3.1.0');
      expect((await fleet.settled(run)).hold).toMatchObject({ code, node: host.name });
      await fleet.abort(run);
    }
    expect(await records(fleet)).toEqual(before);
    await laySource(host, scratch, '3.1.0', 0);
    const owner = ['stat', '-c', '%U %a', '/var/lib/kaiwudb', '/var/lib/kaiwudb/FORMAT.json'];
    const owned = await host.exec(owner);
    const { options } = await copyFirst(fleet, sql);
    const started = await processOf(host);
    const run = await fleet.begin('3.1.0', options);
    const watched = fleet.kwfleet('run', 'watch', run, '--plain');
    await host.shell(
      `until pgrep -f 'bash build[.]sh' >/dev/null; do sleep 0.05; done; systemctl kill -s KILL kwfleet-agent`,
    );
    succeeded(await fleet.settled(run));
    expect((await fleet.healthy()).versions).toEqual(['3.1.0']);
    const { stdout } = await watched;
    // Its output came as it was made, and was made by the owner of the source.
    expect(stdout).toContain('compiling part 4 of 4');
    expect(stdout).toMatch(/\bkwdb$/m);
    await addTree(fleet, { version: '3.0.0' });
    await requireUnitCopied(host, run);
    await goBack(fleet, run, '3.0.0', sql);
    expect(await processOf(host)).toEqual(started);
    expect(await host.exec(owner)).toEqual(owned);
    expect((await host.exec(['/opt/kwdb/install-3.0.0/bin/kwbase', 'version'])).stdout).toContain('3.0.0');
  });
});

/** A package of the vendor's; and a tree whose kwbase does not run, which is found before anything is stopped. */
async function wrongPackage(fleet: Fleet): Promise<string> {
  await fleet.addPackage({ version: '3.5.0' });
  const { name } = await fleet.healthy();
  const { exitCode, stdout } = await fleet.kwfleet('plan', name, '--to', '3.5.0', '--backup', 'none:lab');
  expect(exitCode, stdout).toBe(2);
  expect(stdout).toContain('METHOD_MISMATCH');
  const before = await records(fleet);
  await addTree(fleet, { version: '3.6.0', faults: { corrupt: true } });
  const run = await fleet.begin('3.6.0');
  const held = await fleet.settled(run);
  expect(held.hold).toMatchObject({ code: 'INSTALL_FAILED' });
  await fleet.abort(run);
  expect(await records(fleet)).toEqual(before);
  return 'refused in the plan; a tree that does not run: nothing stopped';
}

/** The tree in use cannot be moved: it is a mount. */
async function failedInstall(fleet: Fleet): Promise<string> {
  await addTree(fleet, { version: '3.1.0' });
  await refuseUnstartable(fleet);
  const host = first(fleet);
  await inAgentsMounts(host, `mount --bind ${TREE} ${TREE}`);
  const run = await fleet.begin('3.1.0');
  const held = await fleet.settled(run);
  expect(held.hold, held.status).toMatchObject({ code: 'INSTALL_FAILED', node: host.name });
  await fleet.abort(run);
  await inAgentsMounts(host, `umount ${TREE}`);
  expect((await fleet.healthy()).versions).toEqual(['3.0.0']);
  expect((await records(fleet)).flat().filter(({ version }) => version !== '3.0.0')).toEqual([]);
  // Of a single-replica cluster the others had theirs switched, and switched back.
  const links = await Promise.all(fleet.hosts.map(link));
  expect(links[0]).toBe('');
  expect(links.filter((to) => to !== '' && to !== 'install-3.0.0')).toEqual([]);
  return 'backed out';
}

/** A node by hand that nobody could start as it was started, since its output goes to no file any more, is not stopped. */
async function refuseUnstartable(fleet: Fleet): Promise<void> {
  const host = fleet.hosts.find((one) => !hasUnit(one));
  if (host === undefined) return;
  const before = await records(fleet);
  await host.shell('cd /opt/kwdb && mv kwdb.log held.log && mkdir kwdb.log');
  const run = await fleet.begin('3.1.0');
  const held = await fleet.settled(run);
  expect(held.hold, held.status).toMatchObject({ code: 'START_FAILED', node: host.name });
  await fleet.abort(run);
  await host.shell('cd /opt/kwdb && rmdir kwdb.log && mv held.log kwdb.log');
  expect(await records(fleet)).toEqual(before);
}

/** The agent's unit has mounts of its own: only what is mounted there keeps it from moving a directory. */
async function inAgentsMounts(host: LabHost, command: string): Promise<void> {
  await host.shell(`nsenter -t "$(systemctl show --property=MainPID --value kwfleet-agent)" -m ${command}`);
}

/** Answers the backup's id, where one is made: in a short run the build's own test goes the way back. */
async function upgrade(fleet: Fleet, topology: Topology): Promise<string> {
  const copy = WHOLE_TABLE ? await copyFirst(fleet, sql) : undefined;
  const before = await records(fleet);
  const run = await fleet.begin('3.1.0', copy?.options);
  succeeded(await fleet.settled(run));
  expect((await fleet.healthy()).versions).toEqual(['3.1.0']);
  for (const host of fleet.hosts) {
    expect(await link(host)).toBe('install-3.1.0');
    if (hasUnit(host)) await host.exec(['systemctl', 'is-active', '--quiet', UNIT]);
  }
  const absences = (await records(fleet)).map((lines, at) => absence(lines.slice(before[at]?.length)));
  if (topology === 'multi-replica') expect(overlaps(absences)).toEqual([]);
  return copy?.backupOf(run) ?? '';
}

/** Where a unit runs the node, that is its configuration; the record of its start is copied for people. */
async function requireUnitCopied(host: LabHost, backup: string): Promise<void> {
  const unit = { name: 'configuration-1', path: `/etc/systemd/system/${UNIT}.service` };
  const record = { name: 'definition-1', path: '/var/lib/kwfleet/source/node.json' };
  const beside = (await rootsOf(host, backup)).map(({ name, path }) => ({ name, path }));
  expect(beside.slice(1)).toEqual(hasUnit(host) ? [unit, record] : [record]);
}

async function downgrade(fleet: Fleet, backup: string): Promise<string> {
  for (const host of fleet.hosts) await requireUnitCopied(host, backup);
  await addTree(fleet, { version: '3.0.0' });
  await goBack(fleet, backup, '3.0.0', sql);
  for (const host of fleet.hosts) expect(await link(host)).toMatch(/^install-3\.0\.0-[0-9a-f]{12}$/);
  return 'the data of the copy are back';
}

/** The host loses its power while the node is stopped: nothing but the agent knows then how it was started. */
async function killed(fleet: Fleet): Promise<string> {
  await addTree(fleet, { version: '3.2.0' });
  const host = first(fleet);
  const run = await fleet.begin('3.2.0');
  await host.shell(`until ! ${FIND} >/dev/null; do sleep 0.02; done`);
  await host.crash();
  await host.boot();
  const view = await fleet.settled(run);
  if (view.status === 'held') await fleet.retry(run);
  succeeded(await fleet.settled(run));
  for (const one of fleet.hosts) expect(await link(one)).toBe('install-3.2.0');
  return view.status === 'held' ? `held (${view.hold?.code}), a retry went on` : 'went on by itself';
}
