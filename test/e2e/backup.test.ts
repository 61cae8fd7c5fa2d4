/** Copies before an upgrade, and bringing a cluster back from them: data compare equal to the copy's moment. */
import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { BackupView, Topology } from '@kwfleet/core';
import { afterEach, describe, expect, it } from 'vitest';
import { Playground } from './playground.ts';

let playground: Playground | undefined;

afterEach(async (context) => {
  if (context.task.result?.state === 'fail') console.error(playground?.logs(), await story());
  await playground?.close();
  playground = undefined;
});

/** Where each run is, for whoever reads of a failure. */
async function story(): Promise<string> {
  const runs = (await playground?.client.runs().catch(() => [])) ?? [];
  const told = await Promise.all(runs.map(({ id }) => playground?.client.run(id)));
  return told
    .map((run) => {
      const open = Object.entries(run?.steps ?? {}).filter(([, { status }]) => status !== 'succeeded');
      const steps = open.map(([id, { status, phase, detail }]) => `${id} ${status} ${phase ?? ''} ${detail ?? ''}`);
      const tookMs = (run?.endedAtMs ?? Date.now()) - (run?.startedAtMs ?? 0);
      return `${run?.kind} ${run?.status} after ${tookMs} ms ${run?.hold?.message ?? ''}\n  ${steps.join('\n  ')}`;
    })
    .join('\n');
}

async function fleet(topology: Topology): Promise<Playground> {
  const knobs = { heartbeatMs: 300, livenessMs: 3_000, catchUpMs: 300, readyDelayMs: 200 };
  playground = await Playground.create({ topology, knobs });
  await playground.addPackage({ version: '3.1.0' });
  await playground.addPackage({ version: '3.0.0' });
  return playground;
}

const QUICK = ['--soak', '300ms', '--sample-gap', '200ms'];

/** Runs one command of the line against the one cluster; the exit status must be `expected`. */
async function kwfleet(fleet: Playground, expected: number, command: string, ...args: string[]): Promise<string> {
  const [cluster] = await fleet.client.clusters();
  const { code, stdout, stderr } = await fleet.kwfleet(command, cluster?.name ?? '', ...args, '--yes', '--watch');
  expect(code, `${command} ${args.join(' ')}\n${stdout}\n${stderr}`).toBe(expected);
  return `${stdout}\n${stderr}`;
}

const KEYS = ['before-1', 'before-2', 'later-1', 'changed'];

async function contents(fleet: Playground): Promise<Record<string, string>> {
  const rows = await Promise.all(
    KEYS.map(async (key) => [
      key,
      (await fleet.rig.node(1).sql(`SELECT v FROM kv WHERE k = '${key}'`)).split('\n')[1] ?? '',
    ]),
  );
  return Object.fromEntries(rows) as Record<string, string>;
}

const write = (fleet: Playground, key: string, value: string) =>
  fleet.rig.node(1).sql(`UPSERT INTO kv VALUES ('${key}', '${value}')`);

async function onlyBackup(fleet: Playground): Promise<BackupView> {
  const backups = await fleet.client.backups();
  expect(backups).toHaveLength(1);
  return backups[0] as BackupView;
}

/** What the nodes' own records say of stops. */
const stops = (fleet: Playground): number[] =>
  fleet.rig.nodes.map((node) => node.record().filter(({ event }) => event === 'stop').length);

/** Several whole runs one after the other, on a machine that may be busy. */
const PATIENT = { timeout: 1_800_000 };

describe.each(['standalone', 'single-replica'] as const)('a %s cluster', PATIENT, (topology) => {
  it('is copied, upgraded, written to, and downgraded: the data are those of the copy', async () => {
    const cluster = await fleet(topology);
    await write(cluster, 'before-1', 'one');
    await write(cluster, 'changed', 'old');
    const before = await contents(cluster);
    await kwfleet(cluster, 0, 'upgrade', '--to', '3.1.0', '--backup', 'copy', ...QUICK);
    expect(await contents(cluster)).toEqual(before);
    await write(cluster, 'later-1', 'two');
    await write(cluster, 'changed', 'new');
    const backup = await onlyBackup(cluster);
    expect(backup).toMatchObject({ version: '3.0.0', policy: 'copy', oneMoment: true, problems: [] });
    expect(backup.parts).toHaveLength(cluster.rig.nodes.length);
    await kwfleet(cluster, 0, 'downgrade', '--to', '3.0.0', '--backup', backup.id);
    expect(await contents(cluster)).toEqual(before);
    for (const row of await cluster.rig.node(1).status())
      expect(row).toMatchObject({ build: 'V3.0.0', is_live: 'true' });
    const report = await cluster.client.report((await cluster.client.runs())[0]?.id ?? '', 'markdown');
    expect(report).toContain(`${backup.id} was put back`);
  });
});

describe('a multi-replica cluster', PATIENT, () => {
  it('is copied as a whole with `backup`, upgraded, written to and downgraded', async () => {
    const cluster = await fleet('multi-replica');
    await write(cluster, 'before-1', 'one');
    const before = await contents(cluster);
    await kwfleet(cluster, 0, 'backup');
    const backup = await onlyBackup(cluster);
    expect(backup).toMatchObject({ version: '3.0.0', oneMoment: true, problems: [] });
    await kwfleet(cluster, 0, 'upgrade', '--to', '3.1.0', '--backup', `attested:kwfleet backup ${backup.id}`, ...QUICK);
    await write(cluster, 'later-1', 'two');
    expect(await kwfleet(cluster, 2, 'restore', '--backup', backup.id)).toContain('BACKUP_WRONG_VERSION');
    await kwfleet(cluster, 0, 'downgrade', '--to', '3.0.0', '--backup', backup.id, '--replaced', 'remove');
    expect(await contents(cluster)).toEqual(before);
  });

  it('is restored from such a backup, though it is down', async () => {
    const cluster = await fleet('multi-replica');
    await write(cluster, 'before-1', 'one');
    const before = await contents(cluster);
    await kwfleet(cluster, 0, 'backup');
    const backup = await onlyBackup(cluster);
    await write(cluster, 'later-1', 'three');
    for (const node of cluster.rig.nodes) await node.kill();
    await kwfleet(cluster, 0, 'restore', '--backup', backup.id);
    expect(await contents(cluster)).toEqual(before);
  });

  it('is not brought back from copies of a rolling upgrade, which are of different moments', async () => {
    const cluster = await fleet('multi-replica');
    await kwfleet(cluster, 0, 'upgrade', '--to', '3.1.0', '--backup', 'copy', ...QUICK);
    const backup = await onlyBackup(cluster);
    expect(backup.parts).toHaveLength(3);
    const before = stops(cluster);
    const said = await kwfleet(cluster, 2, 'downgrade', '--to', '3.0.0', '--backup', backup.id);
    expect(said).toContain('BACKUP_INCONSISTENT');
    expect(stops(cluster)).toEqual(before);
  });
});

describe('a damaged backup is refused before anything is stopped', PATIENT, () => {
  it('a flipped byte, a missing file, a file too many, another node’s manifest', async () => {
    const cluster = await fleet('single-replica');
    await write(cluster, 'before-1', 'one');
    await kwfleet(cluster, 0, 'backup');
    const backup = await onlyBackup(cluster);
    const before = stops(cluster);
    const place = backup.parts[1]?.place ?? '';
    const file = join(place, 'files/data/log.jsonl');
    const bytes = readFileSync(file);

    const flipped = Buffer.from(bytes);
    flipped[bytes.length >> 1] = (flipped[bytes.length >> 1] ?? 0) ^ 1;
    writeFileSync(file, flipped);
    expect(await kwfleet(cluster, 3, 'restore', '--backup', backup.id)).toContain('BACKUP_DAMAGED');
    await abortHeld(cluster);
    writeFileSync(file, bytes);

    renameSync(file, `${file}.away`);
    expect(await kwfleet(cluster, 3, 'restore', '--backup', backup.id)).toContain('BACKUP_DAMAGED');
    await abortHeld(cluster);
    renameSync(`${file}.away`, file);

    writeFileSync(join(place, 'files/data/stranger'), 'x');
    expect(await kwfleet(cluster, 3, 'restore', '--backup', backup.id)).toContain('BACKUP_DAMAGED');
    await abortHeld(cluster);

    const manifest = join(place, 'manifest.json');
    writeFileSync(manifest, readFileSync(join(backup.parts[0]?.place ?? '', 'manifest.json')));
    expect(await kwfleet(cluster, 3, 'restore', '--backup', backup.id)).toContain('BACKUP_DAMAGED');
    await abortHeld(cluster);

    expect(stops(cluster), 'a node was stopped for a backup that is not whole').toEqual(before);
  });
});

async function abortHeld(fleet: Playground): Promise<void> {
  const held = (await fleet.client.runs()).find(({ status }) => status === 'held');
  if (held === undefined) throw new Error('no run is held');
  await fleet.client.choose(held.id, 'abort');
  await expect.poll(async () => (await fleet.client.run(held.id)).status, { timeout: 120_000 }).toBe('aborted');
}
