/** A short command ends in time and tells the truth, whatever its process does. */
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { localRunner } from '../src/host/kwbase.ts';
import { runShort, wordsOf } from '../src/host/run.ts';

/** Far above what the limits below allow, far below how long the processes would hold on. */
const IN_TIME_MS = 20_000;

async function timed<T>(work: Promise<T>): Promise<T> {
  const start = performance.now();
  const ended = await work;
  expect(performance.now() - start).toBeLessThan(IN_TIME_MS);
  return ended;
}

describe('a short command', () => {
  it('is no answer when its output was cut, though its own status is 0', async () => {
    for (const bytes of [1_001, 2_000, 200_000]) {
      const ended = await runShort('head', ['-c', String(bytes), '/dev/zero'], {
        timeoutMs: 60_000,
        outputBytes: 1_000,
      });
      expect(ended, `${bytes}`).toMatchObject({ exitCode: undefined, timedOut: false, missing: false });
      expect(wordsOf(ended)).toBe('more than 1000 bytes of output');
    }
    const whole = await runShort('head', ['-c', '1000', '/dev/zero'], { timeoutMs: 60_000, outputBytes: 1_000 });
    expect(whole).toMatchObject({ exitCode: 0, stdout: '\0'.repeat(1_000) });
  });

  it('that hangs is killed and has timed out', async () => {
    const ended = await timed(runShort('sleep', ['60'], { timeoutMs: 100 }));
    expect(ended).toMatchObject({ exitCode: undefined, timedOut: true });
  });

  it('ends in time when a process that it began holds its output', async () => {
    for (const last of ['exit 0', 'sleep 60']) {
      const ended = await timed(runShort('sh', ['-c', `sleep 60 & ${last}`], { timeoutMs: 100 }));
      expect(ended, last).toMatchObject({ exitCode: undefined, timedOut: true });
    }
  });
});

describe('kwbase behind sudo', () => {
  const SUDOERS = join(import.meta.dirname, '../../../systemd/kwfleet-agent.sudoers');
  let directory = '';
  const { PATH } = process.env;
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'kwfleet-sudo-'));
    // Tells how it was called. As with the real one, its command is not killed with it.
    const sudo = '#!/bin/sh\necho "$*" >&2\nshift 3\n"$@" &\nwait $!\n';
    await writeFile(join(directory, 'sudo'), sudo, { mode: 0o755 });
    process.env.PATH = `${directory}:${PATH}`;
  });
  afterEach(async () => {
    process.env.PATH = PATH;
    await rm(directory, { recursive: true, force: true });
  });

  it('is what the sudoers file lets through, however long it may take', async () => {
    const line = /^Cmnd_Alias KWFLEET_DATABASE = (.*) \*$/m.exec(await readFile(SUDOERS, 'utf8'))?.[1] ?? '';
    const allowed = new RegExp(`^-n -u kaiwudb ${line.replaceAll('\\=', '=')} `);
    const binary = { file: '/usr/local/kaiwudb/bin/kwbase', libraries: '/usr/local/kaiwudb/lib', asUser: 'kaiwudb' };
    for (const timeoutMs of [1, 10_000, 3_600_000, 2_000_000_000]) {
      const { stderr } = await localRunner(binary)(['node', 'status'], timeoutMs);
      expect(stderr).toMatch(allowed);
    }
  });

  it('is ended where the agent itself could not end it', async () => {
    const shell = localRunner({ file: 'sh', libraries: '/nowhere', asUser: 'kaiwudb' });
    const file = join(directory, 'pid');
    const ended = await timed(shell(['-c', `echo $$ >${file}; exec sleep 60`], 1_000));
    expect(ended).toMatchObject({ exitCode: undefined, timedOut: true });
    const pid = Number(await readFile(file, 'utf8'));
    await expect.poll(() => existsSync(`/proc/${pid}`)).toBe(false);
  });
});
