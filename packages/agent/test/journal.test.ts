import { type FileHandle, mkdtemp, open, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { expect, onTestFinished, test, vi } from 'vitest';
import { FileStorage } from '../src/journal/file-storage.ts';
import { encode, Journal, type JournalStorage } from '../src/journal/journal.ts';
import { applyRecord, emptyState, type JournalRecord, snapshotRecords } from '../src/journal/records.ts';
import { CLUSTER, CrashingStorage, order } from './fake-host.ts';

const RECORDS: JournalRecord[] = [
  { type: 'accepted', atMs: 1, action: order() },
  { type: 'began', action: order().id, phase: 'stop', index: 2, atMs: 2 },
  { type: 'mark', action: order().id, mark: { running: true, pid: 7, startedAtMs: 3, enabled: true } },
  { type: 'deed', action: order().id, phase: 'stop' },
  { type: 'ended', action: order().id, phase: 'stop', index: 2, atMs: 4 },
  { type: 'started', action: order().id, version: '3.1.0' },
];

test('a tail torn at any byte is cut, and what was whole before it is kept', async () => {
  const whole = RECORDS.map(encode);
  const bytes = Buffer.concat(whole);
  for (let length = 0; length <= bytes.length; length++) {
    const storage = new CrashingStorage(bytes.subarray(0, length));
    const journal = await Journal.open(storage);
    let kept = 0;
    const state = emptyState();
    for (const [index, line] of whole.entries()) {
      if (kept + line.length > length) break;
      kept += line.length;
      applyRecord(state, RECORDS[index] as JournalRecord);
    }
    expect(storage.bytes.length, `torn at byte ${length}`).toBe(kept);
    expect(journal.state, `torn at byte ${length}`).toEqual(state);
    await journal.append({ type: 'acknowledged', action: 'x' });
    await Journal.open(new CrashingStorage(storage.bytes));
  }
});

test('damage before whole records is refused: no epoch can be trusted then', async () => {
  const bytes = Buffer.concat(RECORDS.map(encode));
  bytes[30] = (bytes[30] as number) ^ 1;
  await expect(Journal.open(new CrashingStorage(bytes))).rejects.toMatchObject({ code: 'INTERNAL' });
});

/** Takes a part of one write and says that the disk is full. */
class FullOnce implements JournalStorage {
  readonly inner = new CrashingStorage();
  full = false;

  read(): Promise<Uint8Array> {
    return this.inner.read();
  }

  async append(bytes: Uint8Array): Promise<void> {
    await this.inner.append(this.full ? bytes.subarray(0, 9) : bytes);
    if (this.full) throw Object.assign(new Error('ENOSPC: no space left on device'), { code: 'ENOSPC' });
  }

  replace(bytes: Uint8Array): Promise<void> {
    return this.inner.replace(bytes);
  }
}

test('a write that failed half way does not hide the next', async () => {
  const storage = new FullOnce();
  const journal = await Journal.open(storage);
  await journal.append(RECORDS[0] as JournalRecord);
  storage.full = true;
  await expect(journal.append(RECORDS[1] as JournalRecord)).rejects.toMatchObject({ code: 'DISK_FULL' });
  expect(journal.state.inHand.get(order().id)?.phases).toEqual([]);
  storage.full = false;
  await journal.append(RECORDS[2] as JournalRecord);
  const again = await Journal.open(new CrashingStorage(storage.inner.bytes));
  expect(again.state).toEqual(journal.state);
  expect(again.state.inHand.get(order().id)?.mark?.pid).toBe(7);
});

const record = fc.oneof(
  fc.record({
    type: fc.constant('accepted' as const),
    atMs: fc.nat(),
    action: fc
      .tuple(fc.constantFrom('a', 'b', 'c'), fc.integer({ min: 1, max: 9 }))
      .map(([id, epoch]) => order({ id, epoch })),
  }),
  fc
    .constantFrom('a', 'b', 'c')
    .chain((action) =>
      fc.constantFrom<JournalRecord>(
        { type: 'began', action, phase: 'stop', index: 0, atMs: 1 },
        { type: 'ended', action, phase: 'stop', index: 0, atMs: 2 },
        { type: 'deed', action, phase: 'stop' },
        { type: 'mark', action, mark: { running: false, enabled: false } },
        { type: 'started', action, version: '3.1.0' },
        { type: 'failed', action, atMs: 3, failure: { code: 'STOP_FAILED', message: 'm', phase: 'stop' } },
        { type: 'acknowledged', action },
        { type: 'epoch', cluster: CLUSTER, epoch: 7 },
      ),
    ),
);

test('an order that an agent of before accepted is read', async () => {
  const old = Object.assign({}, RECORDS[0] as JournalRecord, { beginWithinMs: 60_000 });
  const journal = await Journal.open(new CrashingStorage(encode(old)));
  expect(journal.state.inHand.get(order().id)?.action).toEqual(order());
});

test('compaction keeps the state', () => {
  fc.assert(
    fc.property(fc.array(record as fc.Arbitrary<JournalRecord>, { maxLength: 40 }), (records) => {
      const state = emptyState();
      for (const one of records) applyRecord(state, one);
      const compacted = emptyState();
      for (const one of snapshotRecords(state)) applyRecord(compacted, one);
      expect(compacted).toEqual(state);
    }),
  );
});

test('a compaction that fails once the new file has the name: what is written next is in it', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'kwfleet-journal-'));
  onTestFinished(() => rm(directory, { recursive: true, force: true }));
  const file = join(directory, 'journal');
  const storage = new FileStorage(file);
  onTestFinished(() => storage.close());
  const journal = await Journal.open(storage);
  await journal.append(RECORDS[0] as JournalRecord);
  const handle = await open(directory);
  const prototype = Object.getPrototypeOf(handle) as FileHandle;
  await handle.close();
  const whole = prototype.sync;
  const failing = vi.spyOn(prototype, 'sync').mockImplementation(async function (this: FileHandle) {
    if ((await this.stat()).isDirectory()) throw Object.assign(new Error('EIO: i/o error, fsync'), { code: 'EIO' });
    return whole.call(this);
  });
  onTestFinished(() => failing.mockRestore());
  const before = (await stat(file)).ino;
  // Long enough that the journal is compacted.
  const failure = { code: 'INTERNAL', message: 'x'.repeat(300_000), phase: 'stop' } as const;
  await journal.append({ type: 'failed', action: order().id, atMs: 5, failure });
  expect(failing).toHaveBeenCalled();
  expect((await stat(file)).ino).not.toBe(before);
  await expect(journal.append(RECORDS[2] as JournalRecord)).rejects.toMatchObject({ code: 'INTERNAL' });
  failing.mockRestore();
  await journal.append(RECORDS[3] as JournalRecord);
  const again = await Journal.open(new FileStorage(file));
  expect(again.state).toEqual(journal.state);
  expect(again.state.inHand.get(order().id)?.deeds).toEqual(['stop']);
});

test('on a real file: written, torn, cut, replaced', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'kwfleet-journal-'));
  try {
    const file = join(directory, 'state/journal');
    const first = new FileStorage(file);
    const journal = await Journal.open(first);
    for (const one of RECORDS) await journal.append(one);
    await first.append(Buffer.from('0000'));
    await first.close();
    const second = new FileStorage(file);
    const again = await Journal.open(second);
    expect(again.state).toEqual(journal.state);
    expect(await readFile(file)).toEqual(Buffer.concat(RECORDS.map(encode)));
    await again.append({ type: 'acknowledged', action: 'x' });
    await second.close();
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
});
