/** The agent's side of a transfer: what it may ask, where it may write, and how files get through broken links. */
import { createHash } from 'node:crypto';
import { type FileHandle, mkdir, mkdtemp, open, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Reading, TableDigest } from '@kwfleet/core';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Watch } from '../src/driver/driver.ts';
import { Courier, type FileExchange, type FileRef } from '../src/transfer/courier.ts';
import { difference } from '../src/transfer/digest.ts';
import { Extern, partsOf } from '../src/transfer/extern.ts';
import { ReadingSql } from '../src/transfer/sql-client.ts';

let directory = '';
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'kwfleet-transfer-'));
});
afterEach(() => rm(directory, { recursive: true, force: true }));

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

/** Pauses without waiting; gives up after so many, so that nothing loops for ever. */
function watch(pauses = 50): Watch & { readonly told: string[] } {
  const told: string[] = [];
  let left = pauses;
  return {
    told,
    detail: (text) => void told.push(text),
    moved: () => {},
    fence: async () => {},
    output: () => {},
    async pause() {
      left -= 1;
      if (left < 0) throw new Error('paused too often');
    },
  };
}

describe('a client for the source', () => {
  const printed: string[][] = [];
  const sql = new ReadingSql({
    timeoutMs: () => 1_000,
    kwbase: {
      async query(statements) {
        printed.push([...statements]);
        return statements
          .map((text) => (text.startsWith('SELECT 1 AS') ? `${text.slice(12)}\n1\n` : `a,b\n${text.length},"x\ny"\n`))
          .join('');
      },
    },
  });

  it('sends nothing but questions and EXPORT, whatever it is told', async () => {
    for (const text of [
      'DELETE FROM t',
      'DROP TABLE t',
      ' SELECT 1',
      'select 1',
      'IMPORT INTO t',
      'SELECT\n1',
      'SHOW JOBS',
    ]) {
      await expect(sql.rows(text as Reading), text).rejects.toMatchObject({ code: 'ACTION_INVALID' });
    }
    expect(printed).toEqual([]);
  });

  it('tells the answers of one session apart', async () => {
    const answers = await sql.all(['SELECT 12' as Reading, 'SELECT 3456' as Reading]);
    expect(answers).toEqual([[['9', 'x\ny']], [['11', 'x\ny']]]);
    expect(printed).toHaveLength(1);
  });
});

describe('the directories of a transfer', () => {
  it('lie below extern, and no name leads out of it', () => {
    const extern = new Extern(directory);
    expect(extern.path('kwfleet-run-1-u1-1-1')).toBe(join(directory, 'extern/kwfleet-run-1-u1-1-1'));
    for (const name of [
      '..',
      '',
      'kwfleet-',
      'kwfleet-../x',
      'kwfleet-a/../../b',
      'other',
      '/etc',
      'kwfleet-a..b',
      'kwfleet-A',
    ]) {
      expect(() => extern.path(name), name).toThrow(expect.objectContaining({ code: 'ACTION_INVALID' }));
    }
  });

  it('take no file that would lead out of them', () => {
    expect(partsOf('public/cpu/n1.0.csv')).toEqual(['public', 'cpu', 'n1.0.csv']);
    for (const path of ['../x', 'a/../../x', '/etc/passwd', '', 'a//b', './a', 'a/.', 'a\0b', 'a'.repeat(1_025)]) {
      expect(() => partsOf(path), path).toThrow(expect.objectContaining({ code: 'ACTION_INVALID' }));
    }
  });

  it('are removed by their prefix, and nothing else is', async () => {
    const extern = new Extern(directory);
    for (const name of ['kwfleet-r-u1-1-1', 'kwfleet-r-u1-2-1', 'kwfleet-r-u10-1-1', 'backups', 'kwfleet-q-u1-1']) {
      await mkdir(join(directory, 'extern', name), { recursive: true });
    }
    await extern.removeOthers('kwfleet-r-u1-', 'kwfleet-r-u1-2-1');
    expect(await extern.has('kwfleet-r-u1-1-1')).toBe(false);
    for (const name of ['kwfleet-r-u1-2-1', 'kwfleet-r-u10-1-1', 'kwfleet-q-u1-1'])
      expect(await extern.has(name)).toBe(true);
    await expect(extern.removeOthers('', '')).rejects.toMatchObject({ code: 'ACTION_INVALID' });
    await expect(extern.removeOthers('backups', '')).rejects.toMatchObject({ code: 'ACTION_INVALID' });
  });

  it('list their own files, with sizes and hashes, and follow no link', async () => {
    const extern = new Extern(directory);
    const place = join(directory, 'extern/kwfleet-r-u1-1-1');
    await mkdir(join(place, 'public/cpu'), { recursive: true });
    await writeFile(join(place, 'meta.sql'), 'CREATE');
    await writeFile(join(place, 'public/cpu/n1.0.csv'), '1\n');
    await symlink('/etc/passwd', join(place, 'public/cpu/n1.1.csv'));
    const files = await extern.files('kwfleet-r-u1-1-1', () => {});
    expect(files.map(({ path, sizeBytes }) => [path, sizeBytes])).toEqual([
      ['meta.sql', 6],
      ['public/cpu/n1.0.csv', 2],
    ]);
    expect(files[0]?.sha256).toBe(sha256(Buffer.from('CREATE')));
  });

  it('need room before anything is written', async () => {
    await expect(new Extern(directory).needRoom(1e18, 'the export')).rejects.toMatchObject({ code: 'DISK_FULL' });
    await new Extern(directory).needRoom(0, 'the export');
  });
});

async function opened<T>(path: string, work: (file: FileHandle) => Promise<T>): Promise<T> {
  const file = await open(path);
  try {
    return await work(file);
  } finally {
    await file.close();
  }
}

describe('the courier', () => {
  const bytes = Buffer.from(Array.from({ length: 200_000 }, (_, at) => at % 251));
  const ref: FileRef = {
    run: 'run-1',
    unit: 'kwfleet-r-u1-',
    sha256: sha256(bytes),
    sizeBytes: bytes.length,
    unitBytes: bytes.length,
  };
  const file = { path: 'n1.0.csv', sizeBytes: ref.sizeBytes, sha256: ref.sha256 };

  /** A controller in memory whose link breaks after so many bytes of each call, and that damages the first so many. */
  function controller({ breaksAfter = Number.POSITIVE_INFINITY, damages = 0, fullFor = 0 } = {}) {
    const kept: Buffer[] = [];
    let damaged = 0;
    let full = fullFor;
    const exchange: FileExchange = {
      async offerFile() {
        full -= 1;
        const size = Buffer.concat(kept).length;
        return { receivedBytes: size, complete: size === ref.sizeBytes, full: full >= 0 };
      },
      async putFile(_ref, offset, chunks) {
        kept.splice(0, kept.length, Buffer.concat(kept).subarray(0, offset));
        let sent = 0;
        for await (const chunk of chunks) {
          kept.push(Buffer.from(chunk));
          sent += chunk.length;
          if (sent >= breaksAfter) throw new Error('the link broke');
        }
        const isDamaged = damaged++ < damages;
        if (isDamaged) kept.length = 0;
        return isDamaged ? 'corrupt' : 'received';
      },
      async *fetchFile(_ref, offset) {
        let sent = 0;
        for (let at = offset; at < bytes.length; at += 65_536) {
          const chunk = Buffer.from(bytes.subarray(at, at + 65_536));
          if (damaged++ < damages) chunk[0] = 255 - (chunk[0] ?? 0);
          yield chunk;
          sent += chunk.length;
          if (sent >= breaksAfter) throw new Error('the link broke');
        }
      },
    };
    return { courier: new Courier(exchange), received: () => Buffer.concat(kept) };
  }

  it('sends a file through a link that breaks again and again, from where it broke', async () => {
    const path = join(directory, 'sent.csv');
    await writeFile(path, bytes);
    const { courier, received } = controller({ breaksAfter: 65_536, fullFor: 2 });
    const watched = watch();
    await opened(path, (handle) => courier.send(ref, handle, 'n1.0.csv', watched));
    expect(received().equals(bytes)).toBe(true);
    expect(watched.told).toEqual(
      expect.arrayContaining([0, 5].map((s) => `waiting for room on the controller (${s} s so far)`)),
    );
  });

  it('gives up on a file that arrives damaged three times', async () => {
    const path = join(directory, 'sent.csv');
    await writeFile(path, bytes);
    const send = (damages: number) =>
      opened(path, (handle) => controller({ damages }).courier.send(ref, handle, 'n1.0.csv', watch()));
    await send(2);
    await expect(send(3)).rejects.toMatchObject({ code: 'TRANSFER_CORRUPT' });
  });

  it('receives a file through such a link, and lets no damaged one pass', async () => {
    const path = join(directory, 'received.csv');
    await controller({ breaksAfter: 65_536 }).courier.receive(ref, file, path, watch());
    expect((await readFile(path)).equals(bytes)).toBe(true);
    const other = join(directory, 'damaged.csv');
    const broken = controller({ damages: 1 }).courier.receive(ref, file, other, watch());
    await expect(broken).rejects.toMatchObject({ code: 'TRANSFER_CORRUPT' });
    await expect(readFile(other)).rejects.toMatchObject({ code: 'ENOENT' });
  });

  it('makes an empty file, and tells a disk that cannot be written from a link that broke', async () => {
    const empty = { ...ref, sha256: sha256(Buffer.alloc(0)), sizeBytes: 0 };
    const path = join(directory, 'empty.csv');
    await controller().courier.receive(empty, { ...file, ...empty }, path, watch());
    expect(await readFile(path)).toHaveLength(0);
    const gone = join(directory, 'no/such/directory.csv');
    await expect(controller().courier.receive(ref, file, gone, watch())).rejects.toMatchObject({ code: 'ENOENT' });
  });
});

describe('the comparison', () => {
  const digest = (change: Partial<TableDigest> = {}): TableDigest => ({
    schema: 'public',
    table: 't',
    rows: 3,
    columns: ['a'],
    order: ['a'],
    sampledRows: 3,
    sha256: 'a'.repeat(64),
    ...change,
  });

  it('says what differs: the table, its rows, or its samples', () => {
    expect(difference([digest()], [digest()])).toBeUndefined();
    expect(difference([digest()], [])).toContain('is not there');
    expect(difference([digest()], [digest({ rows: 2 })])).toContain('2 rows, not 3');
    expect(difference([digest()], [digest({ sha256: 'b'.repeat(64) })])).toContain('sampled rows differ');
    expect(difference([digest(), digest({ table: 'u' })], [digest(), digest({ table: 'u', rows: 9 })])).toContain(
      'public.u',
    );
  });
});
