/** What an agent that is root does below `extern`, where the database's user can write: never with root's power over more. */
import {
  chmod,
  chown,
  lstat,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rename,
  rm,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TransferFile } from '@kwfleet/core';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { runShort } from '../src/host/run.ts';
import { Extern } from '../src/transfer/extern.ts';

const NAME = 'kwfleet-r-u1-1-1';
const USER = { uid: 65_534, gid: 65_534 };
const FILES: TransferFile[] = ['meta.sql', 'public/cpu/n1.0.csv'].map((path) => ({
  path,
  sizeBytes: 3,
  sha256: '0'.repeat(64),
}));

let directory = '';
/** A directory and a file in it that the user can neither write nor read. */
let secret = '';
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'kwfleet-extern-'));
  await chmod(directory, 0o711);
  secret = join(directory, 'secret');
  await mkdir(secret, { mode: 0o700 });
  await writeFile(join(secret, 'shadow'), 'root\n', { mode: 0o600 });
});
afterEach(() => rm(directory, { recursive: true, force: true }));

const isRoot = process.getuid?.() === 0;

/** A data root, and an `extern` in it, of the user. */
async function stage(): Promise<{ extern: Extern; path: string }> {
  const data = join(directory, 'data');
  await mkdir(join(data, 'extern'), { recursive: true });
  for (const path of [data, join(data, 'extern')]) await chown(path, USER.uid, USER.gid);
  return { extern: new Extern(data), path: join(data, 'extern') };
}

const asUser = (script: string, cwd: string) => runShort('sh', ['-c', script], { timeoutMs: 20_000, cwd, user: USER });

const write = (extern: Extern, before: () => Promise<void> = async () => {}) =>
  extern.fill(NAME, FILES, async (path) => {
    await before();
    for (const file of FILES) await writeFile(path(file), 'abc');
  });

async function untouched(): Promise<void> {
  expect(await readdir(secret)).toEqual(['shadow']);
  expect(await readFile(join(secret, 'shadow'), 'utf8')).toBe('root\n');
  for (const path of [secret, join(secret, 'shadow')]) expect((await lstat(path)).uid).toBe(0);
}

describe.skipIf(!isRoot)('a directory that an agent fills as root', () => {
  it('belongs to the data’s owner with all that is in it, once it is full and has its name', async () => {
    const { extern, path } = await stage();
    let seen = '';
    await write(extern, async () => {
      seen = (await asUser(`ls -d *; ls ${NAME}.part; echo x >${NAME}.part/n1.9.csv; ln -s / ${NAME}.part/l`, path))
        .stdout;
      expect(await readdir(join(path, `${NAME}.part`))).not.toContain('n1.9.csv');
    });
    expect(seen).toBe(`${NAME}.part`);
    expect(await readdir(path)).toEqual([NAME]);
    const found = await asUser(
      `cat ${NAME}/meta.sql ${NAME}/public/cpu/n1.0.csv && echo x >${NAME}/public/cpu/reject`,
      path,
    );
    expect(found).toMatchObject({ exitCode: 0, stdout: 'abcabc' });
    for (const below of ['', 'meta.sql', 'public', 'public/cpu', 'public/cpu/n1.0.csv']) {
      expect(await lstat(join(path, NAME, below)), below).toMatchObject(USER);
    }
  });

  it('takes nothing over that its user laid there', async () => {
    const { extern, path } = await stage();
    await asUser(
      `mkdir -p ${NAME}.part ${NAME} && for d in ${NAME}.part ${NAME}; do ln -s ${secret}/shadow $d/meta.sql; ln -s ${secret} $d/public; done`,
      path,
    );
    await write(extern);
    await untouched();
    expect((await lstat(join(path, NAME, 'meta.sql'))).isFile()).toBe(true);
    await asUser(`rm -rf ${NAME} && ln -s ${secret} ${NAME}.part`, path);
    await write(extern);
    await untouched();
  });

  it('is not exchanged under it for a link to elsewhere', async () => {
    const { extern, path } = await stage();
    const exchange = async () => {
      const made = await asUser(`mv ${NAME}.part gone && ln -s ${secret} ${NAME}.part`, path);
      expect(made.exitCode).toBe(0);
    };
    await write(extern, exchange);
    await untouched();
    expect(await readFile(join(path, 'gone/meta.sql'), 'utf8')).toBe('abc');
  });

  it('goes on with what an earlier process of the agent had brought', async () => {
    const { extern } = await stage();
    const dies = extern.fill(NAME, FILES, async (path) => {
      await writeFile(path(FILES[0] as TransferFile), 'ab');
      throw new Error('the agent died');
    });
    await expect(dies).rejects.toThrow('the agent died');
    await extern.removeOthers('kwfleet-r-u1-', NAME);
    await extern.fill(NAME, FILES, async (path) => {
      expect(await readFile(path(FILES[0] as TransferFile), 'utf8')).toBe('ab');
    });
    await extern.removeOthers('kwfleet-r-u1-', '');
    expect(await extern.has(NAME)).toBe(false);
  });

  it('is never made where extern leads to what is not the database’s', async () => {
    const { extern, path } = await stage();
    await rename(path, `${path}.old`);
    await symlink(secret, path);
    await expect(write(extern)).rejects.toMatchObject({ code: 'PRIVILEGES_MISSING' });
    await expect(extern.files(NAME, () => {})).rejects.toMatchObject({ code: 'PRIVILEGES_MISSING' });
    await untouched();
    await rm(path);
    await write(extern);
    expect(await lstat(path)).toMatchObject(USER);
  });
});

describe.skipIf(!isRoot)('a directory that the database’s user can write', () => {
  it('gives no file of others away, by whatever link', async () => {
    const { extern, path } = await stage();
    const lay = `mkdir -p ${NAME}/a && cd ${NAME} && echo x >a/n1.0.csv && ln -s ${secret}/shadow reject.n1 && ln -s ${secret} b && mkfifo p`;
    expect((await asUser(lay, path)).exitCode).toBe(0);
    expect((await extern.files(NAME, () => {})).map((file) => file.path)).toEqual(['a/n1.0.csv']);
    expect(await extern.withFile(NAME, 'a/n1.0.csv', (file) => file.readFile('utf8'))).toBe('x\n');
    for (const file of ['reject.n1', 'b/shadow', 'p', 'a']) {
      await expect(
        extern.withFile(NAME, file, (opened) => opened.readFile('utf8')),
        file,
      ).rejects.toThrow();
    }
    expect(await extern.keepRejects(NAME, join(directory, 'rejects'))).toEqual([]);
  });

  it('is removed, and what a link in it names stays', async () => {
    const { extern, path } = await stage();
    await asUser(
      `mkdir -p ${NAME}/a && ln -s ${secret} ${NAME}/a/b && ln -s ${secret} ${NAME.replace('u1', 'u2')}`,
      path,
    );
    await extern.removeOthers('kwfleet-r-', '');
    expect(await readdir(path)).toEqual([]);
    await untouched();
  });
});
