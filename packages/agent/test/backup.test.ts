/** The work on files: copies that are whole or not there, backups that are read again, restores that can be undone. */
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import {
  chmodSync,
  closeSync,
  cpSync,
  existsSync,
  fsyncSync,
  linkSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type Aside, exchange, undo } from '../src/backup/aside.ts';
import { check } from '../src/backup/check.ts';
import { makeCopy, prepare } from '../src/backup/cold-copy.ts';
import { SPARE_BYTES } from '../src/backup/copy-tree.ts';
import { discard, putBack, restore, stage } from '../src/backup/restore.ts';
import type { Identity, Root, Work } from '../src/backup/spec.ts';

const PROGRAM = join(import.meta.dirname, '../bin/backup-work.mjs');
let home: string;
let data: string;
let roots: Root[];
const identity: Identity = { set: 'run-1', cluster: 'c1', node: 'n1', kwdbId: 1, version: '3.0.0' };
const quiet = (): void => {};

beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), 'kw-backup-'));
  data = join(home, 'var/data');
  roots = [
    { name: 'data', path: data },
    { name: 'certificates', path: join(home, 'etc/certs') },
    { name: 'configuration-1', path: join(home, 'etc/info') },
    { name: 'configuration-2', path: join(home, 'etc/db.service') },
  ];
  mkdirSync(join(data, 'sub/deep'), { recursive: true });
  mkdirSync(join(home, 'etc/info'), { recursive: true });
  writeFileSync(join(data, 'FORMAT'), '3.0.0');
  writeFileSync(join(data, 'sub/log'), 'x'.repeat(300_000));
  writeFileSync(join(data, 'sub/deep/empty'), '');
  symlinkSync('../FORMAT', join(data, 'sub/link'));
  chmodSync(join(data, 'sub'), 0o750);
  writeFileSync(join(home, 'etc/info/MODE'), 'bare');
  writeFileSync(join(home, 'etc/db.service'), '[Unit]');
});

afterEach(() => rmSync(home, { recursive: true, force: true }));

const directory = (): string => join(home, 'backups');
const copyWork = (more: Partial<Work & { work: 'copy' }> = {}): Work & { work: 'copy' } => ({
  work: 'copy',
  directory: directory(),
  roots,
  identity,
  action: 'run-1/back-up:n1/1',
  keep: 2,
  ...more,
});
const prepareWork = (more: Partial<Work & { work: 'prepare' }> = {}): Work & { work: 'prepare' } => ({
  work: 'prepare',
  directory: directory(),
  roots,
  node: 'n1',
  set: 'run-1',
  keep: 2,
  ...more,
});
const copy = (more: Partial<Work & { work: 'copy' }> = {}) => makeCopy(copyWork(more), quiet, Date.now());
const checkWork = (manifestSha256: string): Work & { work: 'check' } => ({
  work: 'check',
  directory: directory(),
  roots,
  identity,
  manifestSha256,
});
const restoreWork = (manifestSha256: string): Work & { work: 'restore' } => ({
  ...checkWork(manifestSha256),
  work: 'restore',
  run: 'run-9',
  stateFile: join(home, 'state.json'),
});
const undoWork = <T extends 'put-back' | 'discard'>(work: T) => ({
  work,
  roots,
  run: 'run-9',
  stateFile: join(home, 'state.json'),
});

/** Every file, directory and link below, with what it is and holds. */
function tree(path: string): Record<string, string> {
  const found: Record<string, string> = {};
  const walk = (at: string): void => {
    for (const entry of readdirSync(at, { withFileTypes: true })) {
      const full = join(at, entry.name);
      const mode = entry.isSymbolicLink() ? '' : (statSync(full).mode & 0o7777).toString(8);
      const content = entry.isFile() && entry.name !== 'zzz' ? readFileSync(full, 'latin1') : '';
      found[relative(path, full)] =
        `${entry.isDirectory() ? 'd' : entry.isSymbolicLink() ? 'l' : 'f'} ${mode} ${content}`;
      if (entry.isDirectory()) walk(full);
    }
  };
  walk(path);
  return found;
}

const live = () => ({ data: tree(data), etc: tree(join(home, 'etc')) });

describe('a copy', () => {
  test('has everything, says what it is, and is found good', async () => {
    const receipt = await copy();
    expect(receipt).toMatchObject({ version: '3.0.0', files: 5, removed: [], place: join(directory(), 'n1/run-1') });
    expect(tree(join(receipt.place, 'files/data'))).toEqual(tree(data));
    await check(checkWork(receipt.manifestSha256), quiet);
    expect(statSync(directory()).mode & 0o077).toBe(0);
  });

  test('shares no file with its original', async () => {
    const { place } = await copy();
    writeFileSync(join(data, 'FORMAT'), '3.1.0');
    expect(readFileSync(join(place, 'files/data/FORMAT'), 'utf8')).toBe('3.0.0');
    expect(statSync(join(place, 'files/data/sub/log')).nlink).toBe(1);
  });

  test('leaves holes where there are holes', async () => {
    truncateSync(join(data, 'sub/log'), 64 * 1024 * 1024);
    const { place } = await copy();
    const { size, blocks } = statSync(join(place, 'files/data/sub/log'));
    expect(size).toBe(64 * 1024 * 1024);
    expect(blocks * 512).toBeLessThan(4 * 1024 * 1024);
  });

  test('leaves holes between pages that are written here and there, and nothing else out', async ({ skip }) => {
    const file = join(data, 'sub/pages');
    const handle = openSync(file, 'w');
    for (const [at, bytes] of [
      [0, 1],
      [8192, 4096],
      [12287, 2],
      [1048575, 3],
      [3000001, 70000],
      [5000000, 1],
    ] as const) {
      writeSync(handle, Buffer.alloc(bytes, 'x'), 0, bytes, at);
    }
    // What it takes is known once it is on the disk.
    fsyncSync(handle);
    closeSync(handle);
    const allocated = statSync(file).blocks;
    if (allocated * 512 >= statSync(file).size) return skip('this file system knows no holes');
    const { place } = await copy();
    const copied = join(place, 'files/data/sub/pages');
    expect(readFileSync(copied).equals(readFileSync(file))).toBe(true);
    expect(statSync(copied).blocks).toBeLessThanOrEqual(allocated);
  });

  test('made again for another order is of what is there now', async () => {
    const first = await copy();
    writeFileSync(join(data, 'FORMAT'), 'written since');
    const second = await copy({ action: 'run-1/back-up:n1/2' });
    expect(second.manifestSha256).not.toBe(first.manifestSha256);
    expect(readFileSync(join(second.place, 'files/data/FORMAT'), 'utf8')).toBe('written since');
  });

  test('is refused when a file changes while it is made', async () => {
    const grow = (line: string) => {
      if (line.startsWith('a copy needs')) return;
      writeFileSync(join(data, 'FORMAT'), `${Math.random()}`);
    };
    await expect(makeCopy(copyWork(), grow, 0)).rejects.toMatchObject({ code: 'BACKUP_FAILED' });
    expect(existsSync(join(directory(), 'n1/run-1'))).toBe(false);
  });

  test('refuses a link out of the data, a directory for copies in the data, a node without data', async () => {
    await expect(prepare(prepareWork({ directory: join(data, 'backups') }), quiet)).rejects.toMatchObject({
      code: 'BACKUP_UNSUPPORTED',
    });
    symlinkSync('/etc', join(data, 'outside'));
    await expect(copy()).rejects.toMatchObject({ code: 'BACKUP_UNSUPPORTED' });
    rmSync(data, { recursive: true });
    await expect(copy()).rejects.toMatchObject({ code: 'BACKUP_UNSUPPORTED' });
  });

  test('refuses a data directory that holds no file: its disk is not mounted, or its volume only while the node runs', async () => {
    rmSync(data, { recursive: true });
    mkdirSync(join(data, 'lost+found'), { recursive: true });
    await expect(copy()).rejects.toMatchObject({ code: 'BACKUP_UNSUPPORTED' });
    await expect(prepare(prepareWork(), quiet)).rejects.toThrow('holds no file');
  });

  test('keeps the newest, never removes its own, and leaves alone what is no backup', async () => {
    mkdirSync(join(directory(), 'n1/stranger'), { recursive: true });
    for (const [at, set] of ['run-1', 'run-2', 'run-3'].entries()) {
      const work = copyWork({ identity: { ...identity, set }, action: set });
      const { removed } = await makeCopy(work, quiet, at);
      expect(removed).toEqual(set === 'run-3' ? ['run-1'] : []);
    }
    // A clock that went back makes the one just made the oldest: it stays all the same.
    const work = copyWork({ identity: { ...identity, set: 'run-4' }, action: 'run-4', keep: 1 });
    expect((await makeCopy(work, quiet, -1)).removed.sort()).toEqual(['run-1', 'run-2', 'run-3']);
    expect(kept()).toEqual(['run-4', 'stranger']);
  });

  const kept = () =>
    readdirSync(join(directory(), 'n1'))
      .filter((name) => !name.startsWith('.'))
      .sort();
  const copyOfSet = (set: string, at: number, more: { keep?: number; stands?: string } = {}) =>
    makeCopy(copyWork({ identity: { ...identity, set }, action: set, ...more }), quiet, at);

  test('keeps the one that stands, whatever is made since: copies of rolling upgrades, or of sets that never are whole', async () => {
    await copyOfSet('whole', 1);
    for (const [at, set] of ['rolling', 'half', 'rolling-2'].entries()) {
      await copyOfSet(set, 2 + at, { stands: 'whole' });
      expect(kept()).toEqual([set, 'whole'].sort());
    }
    // A newer set is whole by now: it stands.
    expect((await copyOfSet('next', 9, { stands: 'rolling-2' })).removed).toEqual(['rolling', 'half', 'whole']);
    expect(kept()).toEqual(['next', 'rolling-2']);
  });

  test('where one is kept, keeps the one that stands beside it, until another does and room is needed', async () => {
    for (const [at, set] of ['run-1', 'run-2'].entries()) await copyOfSet(set, at, { keep: 1, stands: 'run-1' });
    expect(kept()).toEqual(['run-1', 'run-2']);
    await prepare(prepareWork({ set: 'run-3', keep: 1, stands: 'run-2' }), quiet);
    expect(kept()).toEqual(['run-2']);
    // What went then is told with the next copy.
    expect((await copyOfSet('run-3', 2, { keep: 1, stands: 'run-2' })).removed).toEqual(['run-1']);
    expect(kept()).toEqual(['run-2', 'run-3']);
    // Two are to be kept; or it is an order of long ago, that does not know of the newer one.
    await prepare(prepareWork({ set: 'run-4', keep: 2, stands: 'run-3' }), quiet);
    await prepare(prepareWork({ set: 'run-4', keep: 1, stands: 'run-2' }), quiet);
    await prepare(prepareWork({ set: 'run-4', keep: 1 }), quiet);
    expect(kept()).toEqual(['run-2', 'run-3']);
  });

  test('tells once more what it removed, when a power cut may have kept it from telling', async () => {
    for (const [at, set] of ['run-1', 'run-2', 'run-3'].entries()) await copyOfSet(set, at);
    expect((await copyOfSet('run-3', 3)).removed).toEqual(['run-1']);
    // Not half of it is left under its name, to be taken for none of ours.
    renameSync(join(directory(), 'n1/run-2'), join(directory(), 'n1/run-2.part'));
    rmSync(join(directory(), 'n1/run-2.part/manifest.json'));
    await copyOfSet('run-4', 4);
    expect(kept()).toEqual(['run-3', 'run-4']);
  });
});

describe('a damaged backup', () => {
  const damages: Record<string, (place: string) => void> = {
    'a flipped byte': (place) => {
      const bytes = readFileSync(join(place, 'files/data/sub/log'));
      bytes[1000] = (bytes[1000] ?? 0) ^ 1;
      writeFileSync(join(place, 'files/data/sub/log'), bytes);
    },
    'a missing file': (place) => rmSync(join(place, 'files/data/sub/deep/empty')),
    'a file too many': (place) => writeFileSync(join(place, 'files/data/stranger'), ''),
    'a link that points elsewhere': (place) => {
      rmSync(join(place, 'files/data/sub/link'));
      symlinkSync('/etc/passwd', join(place, 'files/data/sub/link'));
    },
    'a changed manifest': (place) => {
      const file = join(place, 'manifest.json');
      writeFileSync(file, readFileSync(file, 'utf8').replace('"madeAtMs":', '"madeAtMs": '));
    },
    'a manifest of another node': (place) => {
      const file = join(place, 'manifest.json');
      writeFileSync(file, readFileSync(file, 'utf8').replace('"node":"n1"', '"node":"n2"'));
    },
    'no manifest': (place) => rmSync(join(place, 'manifest.json')),
  };

  test.each(Object.entries(damages))('%s is found by a check, and by the restore itself', async (_, damage) => {
    const receipt = await copy();
    damage(receipt.place);
    const before = live();
    const codes = expect.stringMatching(/^BACKUP_(DAMAGED|MISSING)$/);
    await expect(check(checkWork(receipt.manifestSha256), quiet)).rejects.toMatchObject({ code: codes });
    if (_ !== 'a file too many' && _ !== 'a link that points elsewhere') {
      await expect(restore(restoreWork(receipt.manifestSha256), quiet)).rejects.toMatchObject({ code: codes });
    }
    await putBack(undoWork('put-back'), quiet);
    expect(live()).toEqual(before);
  });
});

test.each([
  ['set', 'run-2'],
  ['cluster', 'c2'],
  ['node', 'n2'],
  ['kwdbId', 2],
  ['version', '3.1.0'],
] as const)('a backup of another %s is none, though its bytes are as they were', async (field, value) => {
  const { manifestSha256, place } = await copy();
  const other = { ...identity, [field]: value };
  const there = join(directory(), other.node, other.set);
  if (there !== place) cpSync(place, there, { recursive: true });
  const asked = { ...checkWork(manifestSha256), identity: other };
  await expect(check(asked, quiet)).rejects.toMatchObject({ code: 'BACKUP_DAMAGED' });
});

describe('a restore', () => {
  async function copied(): Promise<{ sha: string; then: ReturnType<typeof live> }> {
    const { manifestSha256 } = await copy();
    const then = live();
    writeFileSync(join(data, 'FORMAT'), '3.1.0');
    writeFileSync(join(data, 'new'), 'written since');
    rmSync(join(data, 'sub/log'));
    writeFileSync(join(home, 'etc/info/MODE'), 'changed');
    return { sha: manifestSha256, then };
  }

  const withoutReplaced = () => {
    const { data: now, etc } = live();
    const own = ([name]: [string, string]) => !name.includes('.kwfleet-');
    return { data: now, etc: Object.fromEntries(Object.entries(etc).filter(own)) };
  };

  test('brings everything back, keeps what was there, and removes that only when told', async () => {
    const { sha, then } = await copied();
    const before = live();
    await restore(restoreWork(sha), quiet);
    expect(withoutReplaced()).toEqual(then);
    expect(tree(`${data}.kwfleet-replaced-run-9`)).toEqual(before.data);
    await restore(restoreWork(sha), quiet);
    expect(withoutReplaced()).toEqual(then);
    await discard(undoWork('discard'), quiet);
    expect(live()).toEqual(then);
    expect(existsSync(`${data}.kwfleet-replaced-run-9`)).toBe(false);
  });

  test('is staged beside what is there, which is not touched before the exchange', async () => {
    const { sha, then } = await copied();
    const before = live();
    await stage({ ...restoreWork(sha), work: 'stage' }, quiet);
    expect(withoutReplaced()).toEqual(before);
    expect(tree(`${data}.kwfleet-staged-run-9`)).toEqual(then.data);
    await restore(restoreWork(sha), quiet);
    expect(withoutReplaced()).toEqual(then);
  });

  test('can be undone, at once or later, and then done again', async () => {
    const { sha, then } = await copied();
    const before = live();
    await restore(restoreWork(sha), quiet);
    await putBack(undoWork('put-back'), quiet);
    expect(live()).toEqual(before);
    await putBack(undoWork('put-back'), quiet);
    expect(live()).toEqual(before);
    await restore(restoreWork(sha), quiet);
    expect(withoutReplaced()).toEqual(then);
  });

  test('brings back a data directory that is gone, and undoing it takes it away again', async () => {
    const { sha, then } = await copied();
    rmSync(data, { recursive: true });
    await restore(restoreWork(sha), quiet);
    expect(withoutReplaced()).toEqual(then);
    await putBack(undoWork('put-back'), quiet);
    expect(existsSync(data)).toBe(false);
  });

  test('refuses when the data lie elsewhere by now, and so does the check before anything is stopped', async () => {
    const { sha } = await copied();
    renameSync(data, join(home, 'var/elsewhere'));
    roots = roots.map((root) => (root.name === 'data' ? { ...root, path: join(home, 'var/elsewhere') } : root));
    await expect(restore(restoreWork(sha), quiet)).rejects.toMatchObject({ code: 'RESTORE_FAILED' });
    await expect(check(checkWork(sha), quiet)).rejects.toMatchObject({ code: 'RESTORE_FAILED' });
  });

  test('leaves alone what names the installed version: it is in the copy for people, and read again like all of it', async () => {
    const compose = join(home, 'etc/compose.yml');
    roots = [...roots, { name: 'definition-1', path: compose }];
    writeFileSync(compose, 'image: kaiwudb:3.0.0');
    const { sha, then } = await copied();
    writeFileSync(compose, 'image: registry/kaiwudb:3.0.0');
    await check(checkWork(sha), quiet);
    await restore(restoreWork(sha), quiet);
    expect(withoutReplaced()).toEqual({
      ...then,
      etc: { ...then.etc, 'compose.yml': expect.stringContaining('registry/') },
    });
    await putBack(undoWork('put-back'), quiet);
    expect(readFileSync(compose, 'utf8')).toContain('registry/');
    // Moved by somebody since: it would not be put back anyway.
    rmSync(compose);
    await check(checkWork(sha), quiet);
    rmSync(join(directory(), 'n1/run-1/files/definition-1'));
    await expect(check(checkWork(sha), quiet)).rejects.toMatchObject({ code: 'BACKUP_DAMAGED' });
  });

  test('goes on without being told of places: in its middle the node may not be found', async () => {
    const { sha, then } = await copied();
    const before = live();
    const unseen = { ...restoreWork(sha), roots: [] };
    await expect(restore(unseen, quiet)).rejects.toMatchObject({ code: 'BACKUP_UNSUPPORTED' });
    expect(live()).toEqual(before);
    await restore(restoreWork(sha), quiet);
    renameSync(join(home, 'etc/info'), join(home, 'etc/info.kwfleet-staged-run-9'));
    await restore(unseen, quiet);
    expect(withoutReplaced()).toEqual(then);
    await putBack({ ...undoWork('put-back'), roots: [] }, quiet);
    expect(live()).toEqual(before);
  });
});

/** So many lines in a file that tells of the work. */
type Middle = { readonly file: string; readonly lines: number };

/** The real program, to its end; or it kills itself in the middle, at a look between two reads of the file that comes last. */
async function run(work: Work, middle?: Middle): Promise<'ended' | 'killed'> {
  const spec = join(home, 'spec.json');
  writeFileSync(spec, JSON.stringify(work));
  const gate = middle === undefined ? [] : [`--import=data:text/javascript,${encodeURIComponent(diesIn(middle))}`];
  const child = spawn(process.execPath, [...gate, PROGRAM, spec, join(home, 'outcome.json')], {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  const [, signal] = await once(child, 'exit');
  return signal === null ? 'ended' : 'killed';
}

const diesIn = ({ file, lines }: Middle): string => `
  import { existsSync, readFileSync } from 'node:fs';
  const file = ${JSON.stringify(file)};
  const look = () => {
    if (!existsSync(file) || readFileSync(file, 'utf8').split('\\n').length <= ${lines}) return;
    process.kill(process.pid, 'SIGKILL');
  };
  setInterval(look, 1).unref();`;

/** Runs the test with a disk of its own for the copies, of so many bytes; skipped where nobody may mount one. */
async function onSmallDisk(bytes: number, skip: (why: string) => void, work: () => Promise<void>): Promise<void> {
  mkdirSync(directory(), { recursive: true });
  const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', `size=${bytes}`, 'tmpfs', directory()]);
  if (mounted.status !== 0) return skip('this machine lets nobody mount a disk');
  try {
    await work();
  } finally {
    spawnSync('umount', ['-l', directory()]);
  }
}

describe('a disk that is small', () => {
  test('is empty again after a copy that it could not hold, so that the database can start', ({ skip }) =>
    onSmallDisk(1024 * 1024, skip, async () => {
      await expect(copy()).rejects.toMatchObject({ code: 'DISK_FULL' });
      expect(readdirSync(join(directory(), 'n1'))).toEqual([]);
    }));

  test('need not hold once more what an interrupted copy brought there', ({ skip }) => {
    // As much as the copy and what stays free beside it, and not half as much again.
    writeFileSync(join(data, 'much'), 'x'.repeat(8 * 1024 * 1024));
    return onSmallDisk(SPARE_BYTES + 12 * 1024 * 1024, skip, async () => {
      const copied = { file: join(directory(), 'n1/run-1.part/progress.jsonl'), lines: 2 };
      truncateSync(join(data, 'sub/log'), 200 * 1024 * 1024);
      expect(await run(copyWork(), copied)).toBe('killed');
      await copy();
      expect(readdirSync(join(directory(), 'n1'))).toEqual(['run-1']);
      // Nor the copy of an earlier attempt beside that of the next.
      await copy({ action: 'run-1/back-up:n1/2' });
      expect(readdirSync(join(directory(), 'n1'))).toEqual(['run-1']);
      await expect(copy({ identity: { ...identity, set: 'run-2' }, action: 'run-2' })).rejects.toMatchObject({
        code: 'DISK_FULL',
      });
      expect(readdirSync(join(directory(), 'n1'))).toEqual(['run-1']);
    });
  });
});

describe('killed in the middle', () => {
  const FILES = 40;
  const part = () => join(directory(), 'n1/run-1.part');

  beforeEach(() => {
    for (let at = 0; at < FILES; at++) writeFileSync(join(data, `file-${at}`), `${at} `.repeat(1000));
    // All holes, so it takes no space; it comes last, and reading it takes its time. `tree` leaves its bytes out.
    writeFileSync(join(data, 'sub/zzz'), 'end');
    truncateSync(join(data, 'sub/zzz'), 200 * 1024 * 1024);
  });

  const inMiddle = (lines = FILES): Middle => ({ file: join(part(), 'progress.jsonl'), lines });

  test('a copy is not there until it is whole, and goes on with what it has', async () => {
    expect(await run(copyWork(), inMiddle())).toBe('killed');
    expect(existsSync(join(directory(), 'n1/run-1'))).toBe(false);
    const inode = () => statSync(join(part(), 'files/data/file-7')).ino;
    const before = inode();
    expect(await run(copyWork(), inMiddle(FILES + 11))).toBe('ended');
    const { receipt } = JSON.parse(readFileSync(join(home, 'outcome.json'), 'utf8'));
    expect(statSync(join(receipt.place, 'files/data/file-7')).ino).toBe(before);
    await check(checkWork(receipt.manifestSha256), quiet);
  });

  test('a copy does not trust what it copied before the data changed, nor what another order left', async () => {
    expect(await run(copyWork(), inMiddle())).toBe('killed');
    writeFileSync(join(data, 'file-7'), 'x'.repeat(statSync(join(data, 'file-7')).size));
    rmSync(join(data, 'sub/zzz'));
    await run(copyWork());
    expect(tree(join(directory(), 'n1/run-1/files/data'))).toEqual(tree(data));
    writeFileSync(join(data, 'file-8'), 'written since');
    await run(copyWork({ action: 'another' }));
    expect(tree(join(directory(), 'n1/run-1/files/data'))).toEqual(tree(data));
  });

  test('a restore touches nothing until all is beside, and goes on, or is undone', async () => {
    const { manifestSha256 } = await copy();
    const then = tree(data);
    writeFileSync(join(data, 'file-7'), 'written since');
    const before = tree(data);
    const work = restoreWork(manifestSha256);
    const staging = { file: `${work.stateFile}.progress`, lines: FILES };
    expect(await run(work, staging)).toBe('killed');
    expect(tree(data)).toEqual(before);
    await putBack(undoWork('put-back'), quiet);
    expect(tree(data)).toEqual(before);
    expect(readdirSync(join(home, 'var'))).toEqual(['data']);
    expect(await run(work, staging)).toBe('killed');
    expect(await run(work)).toBe('ended');
    expect(tree(data)).toEqual(then);
  });
});

describe('a restore that dies between two renames', () => {
  /** Staged, and the exchange begun: `replaced` says which roots are away already, `placed` which are in place. */
  test.each([
    { replaced: [], placed: [] },
    { replaced: ['data'], placed: [] },
    { replaced: ['data'], placed: ['data'] },
    { replaced: ['data', 'etc'], placed: ['data'] },
  ])('$replaced away, $placed in place: goes on, and back', async ({ replaced, placed }) => {
    roots = roots.filter(({ name }) => name === 'data' || name === 'configuration-1');
    const etc = join(home, 'etc/info');
    const at = (name: string) => (name === 'data' ? data : etc);
    const { manifestSha256 } = await copy();
    const then = { data: tree(data), etc: tree(etc) };
    writeFileSync(join(data, 'FORMAT'), '3.1.0');
    writeFileSync(join(etc, 'MODE'), 'changed');
    const before = { data: tree(data), etc: tree(etc) };
    const lay = async () => {
      await restore(restoreWork(manifestSha256), quiet);
      for (const name of ['data', 'etc'].filter((one) => !placed.includes(one))) {
        renameSync(at(name), `${at(name)}.kwfleet-staged-run-9`);
        if (!replaced.includes(name)) renameSync(`${at(name)}.kwfleet-replaced-run-9`, at(name));
      }
    };
    await lay();
    await restore(restoreWork(manifestSha256), quiet);
    expect({ data: tree(data), etc: tree(etc) }).toEqual(then);
    await putBack(undoWork('put-back'), quiet);
    await lay();
    await putBack(undoWork('put-back'), quiet);
    expect({ data: tree(data), etc: tree(etc) }).toEqual(before);
    expect(readdirSync(join(home, 'var'))).toEqual(['data']);
  });

  test('does not take what came up in the meantime for the old data', async () => {
    const { manifestSha256 } = await copy();
    await restore(restoreWork(manifestSha256), quiet);
    renameSync(data, `${data}.kwfleet-staged-run-9`);
    mkdirSync(data);
    await expect(restore(restoreWork(manifestSha256), quiet)).rejects.toMatchObject({ code: 'RESTORE_FAILED' });
  });
});

describe('a data directory that is a mount point', () => {
  const like = { path: '', type: 'directory', mode: 0o755, uid: 0, gid: 0, mtimeMs: 0, sizeBytes: 0 } as const;
  let aside: Aside;

  beforeEach(() => {
    const at = (state: string) => join(data, `.kwfleet-${state}-r`);
    aside = {
      how: 'contents',
      path: data,
      directory: data,
      staged: at('staged'),
      replaced: at('replaced'),
      placing: at('placing'),
      undoing: at('undoing'),
      undone: at('undone'),
    };
    rmSync(data, { recursive: true });
    mkdirSync(aside.staged, { recursive: true });
    for (const name of ['a', 'b', 'c']) writeFileSync(join(data, name), 'old');
    for (const name of ['a', 'b', 'd']) writeFileSync(join(aside.staged, name), 'new');
  });

  const names = () =>
    Object.entries(tree(data))
      .map(([name, what]) => `${name} ${what.split(' ')[2]}`)
      .filter((line) => !line.startsWith('.'));
  const OLD = ['a old', 'b old', 'c old'];
  const NEW = ['a new', 'b new', 'd new'];

  /** The states that a power cut can leave. */
  const cuts: Record<string, () => void> = {
    'before anything was moved': () => {},
    'while the old were moved aside': () => {
      mkdirSync(aside.replaced);
      renameSync(join(data, 'b'), join(aside.replaced, 'b'));
    },
    'when all the old were aside': () => {
      mkdirSync(aside.replaced);
      for (const name of ['a', 'b', 'c']) renameSync(join(data, name), join(aside.replaced, name));
    },
    'while the new were placed': () => {
      mkdirSync(aside.replaced);
      for (const name of ['a', 'b', 'c']) renameSync(join(data, name), join(aside.replaced, name));
      renameSync(aside.staged, aside.placing);
      renameSync(join(aside.placing, 'a'), join(data, 'a'));
    },
  };

  test.each(Object.keys(cuts))('%s: goes on', async (cut) => {
    cuts[cut]?.();
    await exchange(aside, like);
    await exchange(aside, like);
    expect(names().sort()).toEqual(NEW);
    expect(readdirSync(aside.replaced).sort()).toEqual(['a', 'b', 'c']);
  });

  test.each([...Object.keys(cuts), 'when it was done'])('%s: goes back', async (cut) => {
    cuts[cut]?.();
    if (cut === 'when it was done') await exchange(aside, like);
    await undo(aside, false);
    await undo(aside, false);
    expect(names().sort()).toEqual(OLD);
    expect(readdirSync(data).sort()).toEqual(['a', 'b', 'c']);
  });

  test('a way back that was cut goes on', async () => {
    await exchange(aside, like);
    mkdirSync(aside.undoing);
    renameSync(join(data, 'a'), join(aside.undoing, 'a'));
    await undo(aside, false);
    expect(names().sort()).toEqual(OLD);
  });
});

test('hard links within the data become files of their own', async () => {
  linkSync(join(data, 'FORMAT'), join(data, 'FORMAT-2'));
  const { place } = await copy();
  expect(statSync(join(place, 'files/data/FORMAT-2')).nlink).toBe(1);
});

/** With mounts of its own, which go with its last process. */
describe.skipIf(process.platform !== 'linux' || process.getuid?.() !== 0)('where something is mounted', () => {
  const SPEC = () => join(home, 'spec.json');
  const OUTCOME = () => join(home, 'outcome.json');

  /** Runs the real program on each piece of work in turn, behind `mounts`; what the last one answered. */
  function behind(
    mounts: string,
    ...works: Work[]
  ): { ok: boolean; code?: string; message?: string; receipt?: { manifestSha256: string } } {
    const steps = works.map((work, at) => {
      writeFileSync(`${SPEC()}.${at}`, JSON.stringify(work));
      return `'${process.execPath}' '${PROGRAM}' '${SPEC()}.${at}' '${OUTCOME()}' >&2 || exit 0`;
    });
    // What the mounts hide is gone with them: what was restored is shown as a tree beside.
    const script = `set -e; ${mounts}\n${steps.join('\n')}\ncp -a '${data}' '${home}/shown'`;
    const ended = spawnSync('unshare', ['--mount', '--propagation', 'private', 'sh', '-c', script], {
      encoding: 'utf8',
    });
    expect(ended.status, ended.stderr).toBe(0);
    return JSON.parse(readFileSync(OUTCOME(), 'utf8'));
  }
  const shown = () => Object.fromEntries(Object.entries(tree(join(home, 'shown'))).filter(([name]) => !OWN.test(name)));
  const OWN = /^\.kwfleet-/;
  const mode = () => statSync(join(home, 'shown')).mode & 0o7777;

  test.each([
    ['of another file system', () => `mount -t tmpfs -o mode=755 tmpfs '${data}'; cp -a '${home}/now/.' '${data}'`],
    ['of the same file system', () => `mount --bind '${home}/now' '${data}'`],
  ])('a data directory that is a mount point %s is restored, and put back', async (_, mount) => {
    chmodSync(data, 0o751);
    const { manifestSha256 } = await copy();
    const then = tree(data);
    cpSync(data, join(home, 'now'), { recursive: true, preserveTimestamps: true, verbatimSymlinks: true });
    writeFileSync(join(home, 'now/FORMAT'), '3.1.0');
    writeFileSync(join(home, 'now/new'), 'written since');
    chmodSync(join(home, 'now'), 0o710);
    const since = tree(join(home, 'now'));
    const [checked, work] = [checkWork(manifestSha256), restoreWork(manifestSha256)];
    expect(behind(mount(), checked, work)).toMatchObject({ ok: true });
    expect(shown()).toEqual(then);
    expect(mode()).toBe(0o751);
    rmSync(join(home, 'shown'), { recursive: true });
    rmSync(work.stateFile);
    rmSync(join(home, 'now'), { recursive: true });
    cpSync(join(home, 'var/data'), join(home, 'now'), { recursive: true, verbatimSymlinks: true });
    writeFileSync(join(home, 'now/FORMAT'), '3.1.0');
    writeFileSync(join(home, 'now/new'), 'written since');
    chmodSync(join(home, 'now'), 0o710);
    for (const root of roots.slice(1)) rmSync(`${root.path}.kwfleet-replaced-run-9`, { recursive: true, force: true });
    expect(behind(mount(), work, undoWork('put-back'))).toMatchObject({ ok: true });
    expect(shown()).toEqual(since);
    expect(mode()).toBe(0o710);
  });

  /** What restores of old and of an older agent laid aside within the data of a mount point, and kept. */
  const laidAside = (mount: string) => {
    const [kept, left] = ['.kwfleet-replaced-run-7', '.kwfleet-staged-run-8'];
    return `${mount}; mkdir -p '${data}/${kept}/sub' '${data}/${left}'; echo old > '${data}/${kept}/sub/log'; echo half > '${data}/${left}/FORMAT'`;
  };

  test('what an earlier restore laid aside there is in no copy, and stays beside the one restored', async () => {
    cpSync(data, join(home, 'now'), { recursive: true, preserveTimestamps: true, verbatimSymlinks: true });
    const then = tree(join(home, 'now'));
    const mount = laidAside(`mount --bind '${home}/now' '${data}'`);
    const { receipt } = behind(mount, copyWork());
    expect(tree(join(directory(), 'n1/run-1/files/data'))).toEqual(then);
    expect(readFileSync(join(directory(), 'n1/run-1/manifest.json'), 'utf8')).not.toContain('.kwfleet-');
    const { manifestSha256 = '' } = receipt ?? {};
    writeFileSync(join(home, 'now/FORMAT'), '3.1.0');
    rmSync(join(home, 'shown'), { recursive: true });
    expect(behind(mount, checkWork(manifestSha256), restoreWork(manifestSha256))).toMatchObject({ ok: true });
    expect(shown()).toEqual(then);
    expect(readFileSync(join(home, 'shown/.kwfleet-replaced-run-7/sub/log'), 'utf8')).toBe('old\n');
    expect(readFileSync(join(home, 'shown/.kwfleet-replaced-run-9/FORMAT'), 'utf8')).toBe('3.1.0');
  });

  test.each(['by this program', 'by one before it, which had staged all'])(
    'a backup that holds what was laid aside is put back without it, %s',
    async (by) => {
      const then = tree(data);
      mkdirSync(join(data, 'xkwfleet-replaced-run-7/sub'), { recursive: true });
      writeFileSync(join(data, 'xkwfleet-replaced-run-7/sub/log'), 'old');
      const { place } = await copy();
      rmSync(join(data, 'xkwfleet-replaced-run-7'), { recursive: true });
      // As copies were made once.
      renameSync(join(place, 'files/data/xkwfleet-replaced-run-7'), join(place, 'files/data/.kwfleet-replaced-run-7'));
      const manifest = join(place, 'manifest.json');
      writeFileSync(manifest, readFileSync(manifest, 'utf8').replaceAll('xkwfleet-', '.kwfleet-'));
      const manifestSha256 = createHash('sha256').update(readFileSync(manifest)).digest('hex');
      cpSync(data, join(home, 'now'), { recursive: true, preserveTimestamps: true, verbatimSymlinks: true });
      writeFileSync(join(home, 'now/FORMAT'), '3.1.0');
      const mount = `mount --bind '${home}/now' '${data}'`;
      const work = restoreWork(manifestSha256);
      if (by !== 'by this program') {
        writeFileSync(work.stateFile, JSON.stringify({ absent: [], roots: [] }));
        spawnSync('cp', ['-a', join(place, 'files/data'), join(home, 'now/.kwfleet-staged-run-9')]);
      }
      expect(behind(mount, checkWork(manifestSha256), work)).toMatchObject({ ok: true });
      expect(shown()).toEqual(then);
      expect(readdirSync(join(home, 'shown')).filter((name) => OWN.test(name))).toEqual(['.kwfleet-replaced-run-9']);
    },
  );

  test('room is looked for where the data lie, and not where a link to them does', async () => {
    renameSync(data, join(home, 'disk'));
    mkdirSync(data);
    renameSync(join(home, 'disk'), join(data, 'kwdb'));
    symlinkSync('data/kwdb', join(home, 'var/link'));
    roots = roots.map((root) => (root.name === 'data' ? { ...root, path: join(home, 'var/link') } : root));
    const { manifestSha256 } = await copy();
    await check(checkWork(manifestSha256), quiet);
    const small = `mount -t tmpfs -o size=1m tmpfs '${data}'; mkdir '${data}/kwdb'`;
    expect(behind(small, checkWork(manifestSha256))).toMatchObject({ ok: false, code: 'DISK_FULL' });
  });

  test('room is looked for what data with holes take, not for their length; an older agent did not tell', async () => {
    truncateSync(join(data, 'sub/log'), 400 * 1024 * 1024);
    const { manifestSha256, place } = await copy();
    const small = `mount -t tmpfs -o size=80m tmpfs '${data}'`;
    expect(behind(small, checkWork(manifestSha256), restoreWork(manifestSha256))).toMatchObject({ ok: true });
    expect(statSync(join(home, 'shown/sub/log')).size).toBe(400 * 1024 * 1024);
    const file = join(place, 'manifest.json');
    writeFileSync(file, readFileSync(file, 'utf8').replaceAll(/"allocatedBytes":\d+,/g, ''));
    const older = createHash('sha256').update(readFileSync(file)).digest('hex');
    expect(behind(small, checkWork(older))).toMatchObject({ ok: false, code: 'DISK_FULL' });
  });

  test('a copy leaves nothing out that is mounted within the data: it is refused', () => {
    mkdirSync(join(home, 'disk 2'));
    writeFileSync(join(home, 'disk 2/log'), 'x');
    const mount = `mount --bind '${home}/disk 2' '${data}/sub/deep'`;
    expect(behind(mount, copyWork())).toMatchObject({ ok: false, code: 'BACKUP_UNSUPPORTED' });
    expect(behind(`mount --bind '${home}/disk 2/log' '${data}/FORMAT'`, copyWork())).toMatchObject({ ok: false });
  });

  test('a file that is mounted in its place is refused by the check, before anything is stopped', async () => {
    const { manifestSha256 } = await copy();
    const unit = join(home, 'etc/db.service');
    writeFileSync(join(home, 'other'), '[Unit]');
    const answer = behind(`mount --bind '${home}/other' '${unit}'`, checkWork(manifestSha256));
    expect(answer).toMatchObject({ ok: false, code: 'BACKUP_UNSUPPORTED', message: expect.stringContaining(unit) });
  });

  test('what is mounted within the data by now would move away with them: the check refuses it', async () => {
    const { manifestSha256 } = await copy();
    const answer = behind(`mount -t tmpfs tmpfs '${data}/sub/deep'`, checkWork(manifestSha256));
    expect(answer).toMatchObject({ ok: false, code: 'BACKUP_UNSUPPORTED' });
  });

  test('a place on a file system that is read-only is refused by the check, before anything is stopped', async () => {
    const { manifestSha256 } = await copy();
    const mount = `mount --bind '${home}/etc' '${home}/etc'; mount -o remount,bind,ro '${home}/etc'`;
    expect(behind(mount, checkWork(manifestSha256))).toMatchObject({ ok: false, code: 'RESTORE_FAILED' });
  });
});
