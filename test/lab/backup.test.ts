/** Copies and restores on hosts with systemd, with deaths in the middle, and a disk that is full when it matters. */
import { afterEach, describe, expect, it } from 'vitest';
import { Fleet, type FleetOptions } from './fleet.ts';
import { type LabHost, labHere, until } from './host.ts';
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
  await fleet.addPackage({ version: '3.0.0' });
  return fleet;
}

const COPY = { backup: { policy: 'copy' } };
const FILLER = '/var/lib/kaiwudb/filler';

/** Enough data that there is a middle of copying them. */
const fill = (host: LabHost, megabytes: number) =>
  host.shell(`head -c ${megabytes}M /dev/urandom >${FILLER}; chown kaiwudb: ${FILLER}`, { timeoutMs: 180_000 });

async function sql(fleet: Fleet, text: string): Promise<string> {
  const host = fleet.hosts[0] as LabHost;
  return (await host.exec(['/usr/bin/kw-sql', '--format=csv', '-e', text])).stdout.trim().split('\n').at(-1) ?? '';
}
const write = (fleet: Fleet, value: string) => sql(fleet, `UPSERT INTO kv VALUES ('row', '${value}')`);
const read = (fleet: Fleet) => sql(fleet, "SELECT v FROM kv WHERE k = 'row'");

/** Waits until the step is under way on its host. */
const underWay = (fleet: Fleet, run: string, step: string, phase: string) =>
  until(
    `${step} is under way`,
    async () => {
      const state = (await fleet.client.run(run)).steps[step];
      return state?.status === 'running' && state.phase === phase;
    },
    120_000,
  );

async function downgrade(fleet: Fleet, backup: string): Promise<string> {
  const cluster = await fleet.healthy();
  const plan = await fleet.client.createPlan({
    cluster: cluster.id,
    to: '3.0.0',
    kind: 'downgrade',
    restore: { backup },
  });
  expect(plan.blocked, JSON.stringify(plan.checks)).toBe(false);
  return (await fleet.client.createRun({ plan: plan.id, hash: plan.hash })).id;
}

const sums = (fleet: Fleet) =>
  Promise.all(fleet.hosts.map(async (host) => (await host.exec(['sha256sum', FILLER], { timeoutMs: 180_000 })).stdout));

const events = async (fleet: Fleet, host: LabHost, event: string) =>
  (await fleet.record(host)).filter((line) => line.event === event);

describe.skipIf(!(await labHere()))('backups on hosts with systemd', { timeout: 1_200_000 }, () => {
  it('agents killed while they copy, and a host that dies while it restores: the data are those of the copy', async () => {
    const fleet = await ready({ topology: 'single-replica' });
    const [first, second] = fleet.hosts as [LabHost, LabHost];
    await Promise.all(fleet.hosts.map((host) => fill(host, 200)));
    await write(fleet, 'of the copy');
    const before = await sums(fleet);

    const run = await fleet.begin('3.1.0', COPY);
    await underWay(fleet, run, `back-up:${second.name}`, 'back-up');
    await second.shell('systemctl kill -s KILL kwfleet-agent');
    expect(await fleet.settled(run, 240_000)).toMatchObject({ status: 'succeeded' });
    await write(fleet, 'written since');
    await Promise.all(fleet.hosts.map((host) => host.shell(`echo more >>${FILLER}`)));

    const [backup] = await fleet.client.backups();
    expect(backup).toMatchObject({ id: run, version: '3.0.0', nodes: 3, problems: [] });
    const back = await downgrade(fleet, run);
    await underWay(fleet, back, `restore:${first.name}`, 'restore');
    await first.crash();
    await first.start();
    const ended = await fleet.settled(back, 240_000);
    expect(ended, JSON.stringify(ended.hold)).toMatchObject({ status: 'succeeded' });
    expect((await fleet.healthy()).versions).toEqual(['3.0.0']);
    expect(await read(fleet)).toBe('of the copy');
    expect(await sums(fleet)).toEqual(before);
    const owner = await first.exec(['stat', '-c', '%U', FILLER, '/var/lib/kaiwudb']);
    expect(owner.stdout.trim().split('\n')).toEqual(['kaiwudb', 'kaiwudb']);
  });

  it('a disk that is full when the copy begins: the old version serves again, and a retry goes on', async () => {
    const disk = '/var/lib/kwfleet/backups';
    const knobs = { drainMs: 4_000 };
    const fleet = await ready({ topology: 'standalone', knobs, smallDisks: [{ path: disk, megabytes: 200 }] });
    const host = fleet.hosts[0] as LabHost;
    await fill(host, 60);
    const run = await fleet.begin('3.1.0', COPY);
    // Space was there when it was looked for; it is gone once the database stops.
    await underWay(fleet, run, `upgrade:${host.name}`, 'stop');
    await host.shell(`head -c 150M /dev/zero >${disk}/other`);
    const held = await fleet.settled(run);
    expect(held).toMatchObject({ status: 'held', hold: { code: 'DISK_FULL' } });
    expect(held.steps[`upgrade:${host.name}`]?.result).toMatchObject({
      disposition: 'backed-out',
      newVersionStarted: false,
    });
    expect((await fleet.healthy()).versions).toEqual(['3.0.0']);
    expect((await events(fleet, host, 'start')).map(({ version }) => version)).toEqual(['3.0.0', '3.0.0']);
    await host.shell(`rm ${disk}/other`);
    await fleet.retry(run);
    expect(await fleet.settled(run)).toMatchObject({ status: 'succeeded' });
    expect(await fleet.client.backups()).toMatchObject([{ id: run, problems: [] }]);
  });

  it.runIf(WHOLE_TABLE)('a multi-replica cluster that is down is restored from its own cold backup', async () => {
    const fleet = await ready({ topology: 'multi-replica' });
    const { name } = await fleet.healthy();
    const kwfleet = async (...args: string[]) => {
      const { exitCode, stdout, stderr } = await fleet.kwfleet(...args, '--yes', '--watch');
      expect(exitCode, `${args.join(' ')}\n${stdout}${stderr}`).toBe(0);
    };
    await write(fleet, 'of the copy');
    await kwfleet('backup', name);
    const [backup] = await fleet.client.backups();
    expect(backup).toMatchObject({ version: '3.0.0', nodes: 3, oneMoment: true, problems: [] });
    await write(fleet, 'written since');
    await Promise.all(fleet.hosts.map((host) => host.shell('systemctl kill -s KILL kaiwudb')));
    await kwfleet('restore', name, '--backup', backup?.id ?? '');
    expect((await fleet.healthy()).versions).toEqual(['3.0.0']);
    expect(await read(fleet)).toBe('of the copy');
  });

  it('a copy that never fits is refused before anything is stopped', async () => {
    const disk = '/var/lib/kwfleet/backups';
    const fleet = await ready({ topology: 'standalone', smallDisks: [{ path: disk, megabytes: 80 }] });
    const host = fleet.hosts[0] as LabHost;
    await fill(host, 40);
    const held = await fleet.settled(await fleet.begin('3.1.0', COPY));
    expect(held).toMatchObject({ status: 'held', hold: { code: 'DISK_FULL' } });
    expect(await events(fleet, host, 'stop')).toEqual([]);
  });
});
