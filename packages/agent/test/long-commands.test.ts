import { spawn } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { expect, onTestFinished, test } from 'vitest';
import { DetachedProcesses } from '../src/host/long-commands.ts';
import { isLiving, processStat } from '../src/host/process-stat.ts';
import type { LongCommandState } from '../src/host/services.ts';

async function commands() {
  const directory = await mkdtemp(join(tmpdir(), 'kwfleet-commands-'));
  const made = new DetachedProcesses(join(directory, 'commands'));
  onTestFinished(async () => {
    for (const id of await made.list()) await made.kill(id);
    await rm(directory, { recursive: true, force: true });
  });
  return { made, directory };
}

/** Looks until the command is as told; fails after ten seconds. */
async function until(
  made: DetachedProcesses,
  id: string,
  status: LongCommandState['status'],
): Promise<LongCommandState> {
  for (const endMs = Date.now() + 10_000; Date.now() < endMs; ) {
    const state = await made.state(id);
    if (state.status === status) return state;
    await setImmediate();
  }
  throw new Error(`${id} did not become ${status}`);
}

const sh = (script: string, ...args: string[]) => ({
  argv: ['/bin/sh', '-c', script, 'sh', ...args] as [string, ...string[]],
  cwd: '/',
  env: {},
});

test('exit status and output are kept, and found by another process', async () => {
  const { made, directory } = await commands();
  await made.start('a-1', sh('echo "$1"; echo err >&2; exit 3', "it's $HOME; `date`"));
  expect(await until(made, 'a-1', 'exited')).toEqual({ status: 'exited', exitCode: 3 });
  const other = new DetachedProcesses(join(directory, 'commands'));
  expect(await other.state('a-1')).toEqual({ status: 'exited', exitCode: 3 });
  expect(Buffer.from(await other.output('a-1', 0)).toString()).toBe("it's $HOME; `date`\nerr\n");
  expect(Buffer.from(await other.output('a-1', 19)).toString()).toBe('err\n');
  await other.remove('a-1');
  expect(await made.state('a-1')).toEqual({ status: 'absent' });
});

test('the end is known although something holds the output open, and that is ended too', async () => {
  const { made, directory } = await commands();
  await made.start('bar', sh('sleep 60 & echo done'));
  expect(await until(made, 'bar', 'exited')).toEqual({ status: 'exited', exitCode: 0 });
  const group = Number(await readFile(join(directory, 'commands/bar/pid'), 'utf8'));
  // The leader of the group is gone by then, and only what it left is there.
  for (const endMs = Date.now() + 10_000; (await commandLine(group)) !== '' && Date.now() < endMs; )
    await setImmediate();
  expect(isThere(group)).toBe(true);
  await made.kill('bar');
  for (const endMs = Date.now() + 10_000; isThere(group) && Date.now() < endMs; ) await setImmediate();
  expect(isThere(group)).toBe(false);
});

test('what was killed is gone when that is told', async () => {
  const { made, directory } = await commands();
  for (let round = 1; round <= 6; round++) {
    const [id, file] = [`large-${round}`, join(directory, `large-${round}`)];
    // So much memory is seldom given back in an instant.
    const large = `globalThis.kept = Buffer.alloc(600e6, 1);
      require('node:fs').writeFileSync(${JSON.stringify(file)}, String(process.pid)); setInterval(() => {}, 1000)`;
    await made.start(id, { argv: [process.execPath, '-e', large], cwd: '/', env: {} });
    let pid = 0;
    for (const endMs = Date.now() + 20_000; pid === 0 && Date.now() < endMs; await setImmediate()) {
      pid = Number(await readFile(file, 'utf8').catch(() => '0'));
    }
    expect(processStat(pid)?.state).toMatch(/[RSD]/);
    await made.kill(id);
    const left = processStat(pid);
    expect(left === null || !isLiving(left), `it is ${left?.state}`).toBe(true);
  }
});

function isThere(group: number): boolean {
  try {
    process.kill(-group, 0);
    return true;
  } catch {
    return false;
  }
}

const commandLine = (pid: number): Promise<string> => readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');

test('a command that was started is not started again', async () => {
  const { made, directory } = await commands();
  const file = join(directory, 'count');
  for (let i = 0; i < 3; i++) await made.start('once', sh('echo x >>"$1"', file));
  await until(made, 'once', 'exited');
  await made.start('once', sh('echo x >>"$1"', file));
  expect(await readFile(file, 'utf8')).toBe('x\n');
});

test('a command that was killed is lost, not running and not ended', async () => {
  const { made } = await commands();
  await made.start('killed', sh('sleep 60'));
  await until(made, 'killed', 'running');
  await made.kill('killed');
  await until(made, 'killed', 'lost');
});

test.each(['', 'x\n'])('an exit file that holds %j, as a power cut leaves it, tells of no end', async (left) => {
  const { made, directory } = await commands();
  await made.start('cut', sh('exit 0'));
  await until(made, 'cut', 'exited');
  await writeFile(join(directory, 'commands/cut/exit'), left);
  // The one who wrote it may take a moment to be gone.
  await until(made, 'cut', 'lost');
});

test('a pid that is another process by now is left alone', async () => {
  const { made, directory } = await commands();
  await made.start('old', sh('exit 0'));
  await until(made, 'old', 'exited');
  await rm(join(directory, 'commands/old/exit'));
  const other = spawn('/bin/cat', { detached: true });
  onTestFinished(() => void other.kill('SIGKILL'));
  await writeFile(join(directory, 'commands/old/pid'), `${other.pid}\n`);
  expect(await made.state('old')).toEqual({ status: 'lost' });
  await made.kill('old');
  other.stdin.write('still here');
  expect(await other.stdout.iterator().next()).toMatchObject({ value: Buffer.from('still here') });
});

test('after a reboot no number of before is believed', async () => {
  const { made, directory } = await commands();
  await made.start('before', sh('sleep 60'));
  await until(made, 'before', 'running');
  const boot = join(directory, 'commands/before/boot');
  const now = await readFile(boot, 'utf8');
  await writeFile(boot, 'another');
  expect(await made.state('before')).toEqual({ status: 'lost' });
  await made.kill('before');
  await writeFile(boot, now);
  expect(await made.state('before')).toEqual({ status: 'running' });
});

test('a command that could not be launched leaves nothing behind', async () => {
  const { made } = await commands();
  await expect(made.start('nowhere', { ...sh('true'), cwd: '/no/such/place' })).rejects.toThrow();
  expect(await made.state('nowhere')).toEqual({ status: 'absent' });
  expect(await made.list()).toEqual([]);
});

test('ids leave no directory', async () => {
  const { made } = await commands();
  await expect(made.start('../x', sh('true'))).rejects.toThrow('no id');
});
