/** The operator's own backup command, run as the agent runs it; and the agent's side of the program that copies. */
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Action, NodeReport } from '@kwfleet/core';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { HostBackups } from '../src/backup/backups.ts';
import type { Watch } from '../src/driver/driver.ts';
import { DetachedProcesses } from '../src/host/long-commands.ts';
import { FakeClock, FakeHost, order } from './fake-host.ts';

let home: string;
let command: string;
let said: string;
let report: NodeReport;

beforeEach(async () => {
  home = mkdtempSync(join(tmpdir(), 'kw-command-'));
  command = join(home, 'backup-command');
  said = '';
  mkdirSync(join(home, 'root/var/lib/kaiwudb'), { recursive: true });
  writeFileSync(join(home, 'root/var/lib/kaiwudb/data'), 'some data');
  const seen = await new FakeHost(new FakeClock()).observe();
  const places = { certificates: '/etc/kaiwudb/certs', configuration: ['/etc/kaiwudb/info'] };
  report = { ...seen, ...(seen.installation && { installation: { ...seen.installation, places } }) };
});

afterEach(() => rmSync(home, { recursive: true, force: true }));

const watch: Watch = {
  detail: () => {},
  moved: () => {},
  fence: async () => {},
  output: (_, text) => {
    said += text;
  },
  pause: () => sleep(10),
};

function backups(): HostBackups {
  const stateDir = join(home, 'state');
  mkdirSync(stateDir, { recursive: true });
  return new HostBackups({
    node: 'n1',
    root: join(home, 'root'),
    stateDir,
    commands: new DetachedProcesses(join(stateDir, 'commands')),
    config: { directory: join(home, 'backups'), keep: 2, command },
  });
}

function script(text: string, mode = 0o755): void {
  writeFileSync(command, `#!/bin/sh\n${text}\n`);
  chmodSync(command, mode);
}

const asked = (change: Partial<Action> = {}) =>
  order({ phases: ['prepare-backup', 'back-up'], backup: 'command', ...change });
const manifest = (more = '') =>
  `printf '{"run":"%s","cluster":"%s","node":"%s","version":"%s","place":"tape 7","sizeBytes":9,"files":1,"madeAtMs":5${more}}' ` +
  '"$KWFLEET_RUN" "$KWFLEET_CLUSTER" "$KWFLEET_NODE" "$KWFLEET_VERSION" >"$KWFLEET_MANIFEST"';

describe('the backup command', () => {
  test('is told what to back up and where, is heard, and its manifest becomes the receipt', async () => {
    script(`echo "data in $KWFLEET_DATA, certificates in $KWFLEET_CERTIFICATES, arguments: $#"; ${manifest()}`);
    await backups().prepare(asked(), report, watch);
    await backups().make(asked(), report, watch);
    expect(said).toContain(
      `data in ${join(home, 'root/var/lib/kaiwudb')}, certificates in ${join(home, 'root/etc/kaiwudb/certs')}, arguments: 0`,
    );
    const receipt = await backups().made(asked());
    expect(receipt).toMatchObject({ policy: 'command', place: 'tape 7', version: '3.0.0', sizeBytes: 9, removed: [] });
  });

  test('is run once for an order, however often the agent is started, and again for the next attempt', async () => {
    const count = join(home, 'count');
    script(`echo x >>'${count}'; ${manifest()}`);
    await backups().make(asked(), report, watch);
    await backups().make(asked(), report, watch);
    expect(readFileSync(count, 'utf8')).toBe('x\n');
    await backups().make(asked({ id: 'run/back-up:n1/2', attempt: 2 }), report, watch);
    expect(readFileSync(count, 'utf8')).toBe('x\nx\n');
    expect(await backups().made(asked())).toBeUndefined();
  });

  test.each([
    ['fails', 'echo "the tape is full"; exit 3', 'exit status 3'],
    ['leaves no manifest', 'exit 0', 'left no manifest'],
    ['leaves no JSON', 'echo done >"$KWFLEET_MANIFEST"', 'no JSON'],
    ['backed up nothing', manifest().replace('"files":1', '"files":0'), '/files'],
    ['backed up another node', `KWFLEET_NODE=n2; ${manifest()}`, 'node n2, not of n1'],
    ['tells of another run', `KWFLEET_RUN=older; ${manifest()}`, 'run older, not of run'],
  ])('does not count when it %s', async (_, text, why) => {
    script(text);
    const failed = await backups()
      .make(asked(), report, watch)
      .catch((error: unknown) => error);
    expect(failed).toMatchObject({ code: 'BACKUP_FAILED', message: expect.stringContaining(why) });
    expect(await backups().made(asked())).toBeUndefined();
  });

  test.each([
    ['is missing', () => {}],
    ['is not executable', () => script('exit 0', 0o644)],
    ['can be changed by others', () => script('exit 0', 0o777)],
  ])('is refused before anything is stopped when it %s', async (_, lay) => {
    lay();
    await expect(backups().prepare(asked(), report, watch)).rejects.toMatchObject({ code: 'BACKUP_UNSUPPORTED' });
  });
});

describe('a copy by the agent', () => {
  test('is made by a program of its own, leaves a receipt, is checked, restored and put back', async () => {
    const action = asked({ backup: 'copy' });
    await backups().prepare(action, report, watch);
    await backups().make(action, report, watch);
    const receipt = await backups().made(action);
    expect(receipt).toMatchObject({ policy: 'copy', version: '3.0.0', files: 1, place: join(home, 'backups/n1/run') });
    expect(said).toContain('copied and read again');
    const restore = { set: 'run', version: '3.0.0', manifestSha256: receipt?.manifestSha256 ?? '' };
    const back = order({ id: 'back/restore:n1/1', run: 'back', phases: ['restore'], restore });
    const file = join(home, 'root/var/lib/kaiwudb/data');
    writeFileSync(file, 'written since');
    await backups().check(back, report, watch);
    await backups().restore(back, report, watch);
    expect(readFileSync(file, 'utf8')).toBe('some data');
    await backups().putBack(back, report, watch);
    expect(readFileSync(file, 'utf8')).toBe('written since');
    const other = { ...back, id: 'back/restore:n1/2', restore: { ...restore, manifestSha256: 'f'.repeat(64) } };
    await expect(backups().check(other, report, watch)).rejects.toMatchObject({ code: 'BACKUP_DAMAGED' });
  });

  test('leaves the one that stands alone, as the order names it', async () => {
    const make = async (run: string, more: Partial<Action> = {}) => {
      const action = asked({ backup: 'copy', id: `${run}/back-up:n1/1`, run, ...more });
      await backups().prepare(action, report, watch);
      await backups().make(action, report, watch);
      return (await backups().made(action))?.removed;
    };
    await make('whole');
    await make('half', { standingBackup: 'whole' });
    expect(await make('third', { standingBackup: 'whole' })).toEqual(['half']);
    expect(await make('fourth')).toEqual(['half', 'whole']);
  });

  test('is refused where the deployment does not tell its places', async () => {
    const { places: _, ...installation } = report.installation ?? { places: undefined };
    const unknown = { ...report, installation } as NodeReport;
    await expect(backups().prepare(asked({ backup: 'copy' }), unknown, watch)).rejects.toMatchObject({
      code: 'BACKUP_UNSUPPORTED',
    });
  });

  test('is refused with the reason where a copy would not hold the node; a command of its own may', async () => {
    const places = { configuration: ['/etc/kaiwudb/info'], obstacle: 'the node has 2 stores' };
    const seen = { ...report, ...(report.installation && { installation: { ...report.installation, places } }) };
    const refused = { code: 'BACKUP_UNSUPPORTED', message: 'the node has 2 stores' };
    await expect(backups().prepare(asked({ backup: 'copy' }), seen, watch)).rejects.toMatchObject(refused);
    await expect(backups().make(asked({ backup: 'copy' }), seen, watch)).rejects.toMatchObject(refused);
    script(manifest());
    await backups().make(asked(), seen, watch);
    expect(await backups().made(asked())).toMatchObject({ policy: 'command', files: 1 });
  });
});
