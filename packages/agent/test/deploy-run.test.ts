import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { FleetError } from '@kwfleet/core';
import { expect, onTestFinished, test } from 'vitest';
import { commandId, isAtWork, type LongEnd, runLong } from '../src/driver/deploy-run.ts';
import { DeadlineError, Stopping, type Watch } from '../src/driver/driver.ts';
import { DetachedProcesses } from '../src/host/long-commands.ts';
import type { LongCommandSpec } from '../src/host/services.ts';
import { order } from './fake-host.ts';

/** Real processes; each agent process is a `DetachedProcesses` of its own over the same directory. */
async function host() {
  const directory = await mkdtemp(join(tmpdir(), 'kwfleet-deploy-'));
  const agent = () => new DetachedProcesses(join(directory, 'commands'));
  onTestFinished(async () => {
    for (const id of await agent().list()) await agent().kill(id);
    await rm(directory, { recursive: true, force: true });
  });
  const at = (name: string) => join(directory, name);
  const linesOf = async (name: string) => (await readFile(at(name), 'utf8').catch(() => '')).split('\n').length - 1;
  return { agent, at, linesOf };
}

type Host = Awaited<ReturnType<typeof host>>;

/** What happens at each pause is the test's to say; a pause is a short one. */
const watching = (change: Partial<Watch> = {}): Watch => ({
  detail() {},
  moved() {},
  async fence() {},
  output() {},
  pause: () => sleep(5),
  ...change,
});

const run = ({ agent }: Host, script: string, watch: Watch, action = order()): Promise<LongEnd> =>
  runLong({
    commands: agent(),
    action,
    work: 'install',
    spec: { argv: ['/bin/sh', '-c', script], cwd: '/', env: {} },
    watch,
    sign: async () => '',
  });

/** Counts its starts, and goes on when it is told to. */
const script = ({ at }: Host) =>
  `echo $$ >>${at('starts')}; echo begun; while [ ! -e ${at('go')} ]; do sleep 0.01; done; echo ended; exit 7`;

/** The agent ends in the middle: at its first pause after the command wrote something. */
const dying = (here: Host) =>
  watching({
    pause: async () => {
      if ((await here.linesOf('starts')) > 0) throw new Stopping();
      await sleep(5);
    },
  });

test('the next agent process finds the command of the one before, running, and does not start it again', async () => {
  const here = await host();
  await expect(run(here, script(here), dying(here))).rejects.toBeInstanceOf(Stopping);
  // Orders may have come meanwhile: what runs already is not asked whether it may begin.
  const fence = () => Promise.reject(new Error('asked'));
  const told: string[] = [];
  const details: string[] = [];
  const watch = watching({ fence, output: (_, text) => told.push(text), detail: (text) => details.push(text) });
  const second = run(here, script(here), watch);
  await writeFile(here.at('go'), '');
  expect(await second).toEqual({ exitCode: 7, output: 'begun\nended\n' });
  expect(told.join('')).toBe('begun\nended\n');
  // Its own command is none that an earlier order left.
  expect(details).toEqual([]);
  expect(await here.linesOf('starts')).toBe(1);
});

test('or ended: with its exit status and all it printed', async () => {
  const here = await host();
  await expect(run(here, script(here), dying(here))).rejects.toBeInstanceOf(Stopping);
  await writeFile(here.at('go'), '');
  const id = commandId(order().id, 'install', 1);
  while ((await here.agent().state(id)).status !== 'exited') await sleep(5);
  expect(await run(here, script(here), watching())).toEqual({ exitCode: 7, output: 'begun\nended\n' });
  expect(await here.linesOf('starts')).toBe(1);
});

test('or killed: then it is started again, and no more than three times', async () => {
  const here = await host();
  const killing = watching({
    pause: async () => {
      const starts = (await readFile(here.at('starts'), 'utf8').catch(() => '')).trim().split('\n');
      try {
        if (starts.at(-1)) process.kill(-Number(await leaderOf(Number(starts.at(-1)))), 'SIGKILL');
      } catch {
        // It is gone already.
      }
      await sleep(5);
    },
  });
  await expect(run(here, script(here), killing)).rejects.toMatchObject({ code: 'INSTALL_LOST' });
  expect(await here.linesOf('starts')).toBe(3);
});

const leaderOf = async (pid: number): Promise<string | undefined> => {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8');
  return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[2];
};

test('nothing is started that may not begin any more', async () => {
  const here = await host();
  const fence = () => Promise.reject(new Error('a later order came'));
  await expect(run(here, script(here), watching({ fence }))).rejects.toThrow('a later order came');
  expect(existsSync(here.at('starts'))).toBe(false);
});

test('what the command leaves behind is ended with it', async () => {
  const here = await host();
  await run(here, `sleep 60 & echo $! >${here.at('bar')}`, watching());
  const bar = Number(await readFile(here.at('bar'), 'utf8'));
  const state = async () => (await readFile(`/proc/${bar}/stat`, 'utf8').catch(() => ') Z')).split(') ')[1]?.[0];
  for (const endMs = Date.now() + 60_000; (await state()) !== 'Z' && Date.now() < endMs; ) await sleep(5);
  expect(await state()).toBe('Z');
});

test('much output is kept up to a limit, and the end is known all the same', async () => {
  const here = await host();
  const { exitCode, output } = await run(here, "head -c 6000000 /dev/zero | tr '\\0' x; exit 3", watching());
  expect(exitCode).toBe(3);
  expect(output.length).toBeGreaterThan(4_000_000);
  expect(output.length).toBeLessThanOrEqual(4 * 1024 * 1024);
});

test('a command that cannot be seen for a while is followed to its end all the same', async () => {
  const here = await host();
  const silent = new FleetError('SERVICE_MANAGER_SILENT', 'systemd does not tell');
  let looks = 0;
  class Silent extends DetachedProcesses {
    override async state(id: string) {
      if ((await here.linesOf('starts')) > 0 && looks++ % 3 !== 0) throw silent;
      return super.state(id);
    }

    override async output(id: string, offset: number) {
      if (looks++ % 2 === 0) throw new Error('EIO');
      return super.output(id, offset);
    }
  }
  const details: string[] = [];
  let signs = 0;
  const ended = await runLong({
    commands: new Silent(here.at('commands')),
    action: order(),
    work: 'install',
    spec: { argv: ['/bin/sh', '-c', script(here)], cwd: '/', env: {} },
    watch: watching({ detail: (text) => details.push(text) }),
    sign: async () => {
      if (signs++ === 3) await writeFile(here.at('go'), '');
      throw new FleetError('ENGINE_SILENT', 'no answer');
    },
  });
  expect(ended).toEqual({ exitCode: 7, output: 'begun\nended\n' });
  expect(details).toContain('waiting: systemd does not tell');
  expect(await here.linesOf('starts')).toBe(1);
});

test('and one that cannot be seen any more is left to the deadline', async () => {
  const here = await host();
  class Silent extends DetachedProcesses {
    override async state(id: string) {
      if ((await here.linesOf('starts')) > 0) throw new FleetError('SERVICE_MANAGER_SILENT', 'systemd does not tell');
      return super.state(id);
    }
  }
  let pauses = 0;
  const pause = async () => {
    if ((await here.linesOf('starts')) > 0 && pauses++ === 5) throw new DeadlineError('idle', 1, '');
    await sleep(5);
  };
  const silent = { ...here, agent: () => new Silent(here.at('commands')) };
  await expect(run(silent, script(here), watching({ pause }))).rejects.toBeInstanceOf(DeadlineError);
});

test("on the way back the order's own command is waited for as any other", async () => {
  const here = await host();
  await expect(run(here, script(here), dying(here))).rejects.toBeInstanceOf(Stopping);
  const id = commandId(order().id, 'install', 1);
  const before: string[] = [];
  class Asking extends DetachedProcesses {
    override async start(started: string, spec: LongCommandSpec) {
      before.push((await this.state(id)).status);
      return super.start(started, spec);
    }
  }
  expect(await isAtWork(here.agent(), order())).toBe(true);
  expect(await isAtWork(here.agent(), earlier)).toBe(false);
  let looks = 0;
  const watch = watching({
    pause: async () => {
      if (looks++ === 2) await writeFile(here.at('go'), '');
      while (looks > 2 && (await here.agent().state(id)).status === 'running') await sleep(5);
    },
  });
  const ended = await runLong({
    commands: new Asking(here.at('commands')),
    action: order(),
    work: 'back',
    spec: { argv: ['/bin/sh', '-c', 'echo put back'], cwd: '/', env: {} },
    watch,
    sign: async () => '',
  });
  expect(ended).toEqual({ exitCode: 0, output: 'put back\n' });
  expect(before).toEqual(['exited']);
  expect(await here.agent().state(id)).toEqual({ status: 'exited', exitCode: 7 });
  expect(await isAtWork(here.agent(), order())).toBe(false);
});

const earlier = order({ id: 'run/upgrade:n1/0' });
const patient = { idleMs: 2_000, ceilingMs: 600_000 };

test("an earlier order's command is waited for as long as it moves", async () => {
  const here = await host();
  const moving = `while [ ! -e ${here.at('go')} ]; do echo x; sleep 0.01; done; exit 0`;
  const id = commandId(earlier.id, 'install', 1);
  await here.agent().start(id, { argv: ['/bin/sh', '-c', moving], cwd: '/', env: {} });
  let looks = 0;
  const told = async () => (await here.agent().output(id, 0)).length;
  const watch = watching({
    // However slow this machine is, there is something new at each look: until the end.
    pause: async () => {
      if (looks++ === 20) await writeFile(here.at('go'), '');
      const before = await told();
      while ((await told()) === before && (await here.agent().state(id)).status === 'running') await sleep(5);
    },
  });
  const ended = await run(here, `echo second`, watch, order({ deadline: patient }));
  expect(ended).toEqual({ exitCode: 0, output: 'second\n' });
  expect(looks).toBeGreaterThan(20);
  expect(await here.agent().state(id)).toEqual({ status: 'exited', exitCode: 0 });
});

test("an earlier order's command that does not move is ended before another begins", async () => {
  const here = await host();
  const id = commandId(earlier.id, 'install', 1);
  await here.agent().start(id, { argv: ['/bin/sh', '-c', `echo $$ >${here.at('pid')}; sleep 600`], cwd: '/', env: {} });
  while ((await here.linesOf('pid')) === 0) await sleep(5);
  const pid = Number(await readFile(here.at('pid'), 'utf8'));
  const alive = `case "$(cat /proc/${pid}/stat 2>/dev/null)" in ''|*') Z'*) echo alone;; *) echo both;; esac`;
  const ended = await run(here, alive, watching(), order({ deadline: patient }));
  expect(ended).toEqual({ exitCode: 0, output: 'alone\n' });
  expect((await here.agent().state(id)).status).toBe('lost');
});
