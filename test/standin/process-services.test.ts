import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { ProcessServices } from '../../packages/agent/src/host/process-services.ts';
import { type Finished, poll, runToEnd } from './rig.ts';

let root = '';
let services: ProcessServices;

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'kw-services-'));
  mkdirSync(join(root, 'etc/systemd/system'), { recursive: true });
  services = new ProcessServices(root);
});

afterEach(async () => {
  await services.stop('toy', 100);
  rmSync(root, { recursive: true, force: true });
});

function unit(execStart: string, more = ''): void {
  writeFileSync(join(root, 'etc/systemd/system/toy.service'), `[Service]\n${more}\nExecStart=${execStart}\n`);
}

const systemctl = (...args: string[]): Promise<Finished> =>
  runToEnd(process.execPath, [join(import.meta.dirname, '../../packages/agent/bin/process-systemctl.mjs'), ...args], {
    ...process.env,
    KW_STANDIN_ROOT: root,
  });

const output = (): string => readFileSync(join(root, 'run/kwfleet-services/toy.log'), 'utf8');

describe('process services', () => {
  test('start and stop, seen by another manager of the same root', async () => {
    unit('/bin/sleep 1000');
    expect(await services.state('toy')).toMatchObject({ exists: true, active: 'inactive', mainPid: null });
    await services.start('toy.service', 1000);
    const seen = await new ProcessServices(root).state('toy');
    expect(seen).toMatchObject({ active: 'active', enabled: false });
    expect(seen.mainPid).toBeGreaterThan(1);
    await services.stop('toy', 1000);
    expect(await services.state('toy')).toMatchObject({ active: 'inactive', mainPid: null, startedAtMs: null });
    await poll('reaped', async () => !existsSync(`/proc/${seen.mainPid}`));
  });

  test('arguments come from the unit, its environment and its environment file', async () => {
    writeFileSync(join(root, 'env'), '# comment\nARG="--one --two"\nEMPTY=""\n');
    // biome-ignore lint/suspicious/noTemplateCurlyInString: systemd's own syntax
    unit('/bin/echo a $ARG $EMPTY ${NAME}-x "b  c" $MISSING', `Environment=NAME=n\nEnvironmentFile=${root}/env`);
    await services.start('toy', 1000);
    await poll('output', async () => output() === 'a --one --two n-x b  c\n');
    await poll('ended by itself', async () => (await services.state('toy')).active === 'failed');
  });

  test('what ignores SIGTERM is killed, with its children', async () => {
    writeFileSync(join(root, 'stubborn.sh'), 'trap "" TERM\nsleep 1000 &\necho up\nwhile :; do sleep 0.1; done\n');
    unit(`/bin/bash ${root}/stubborn.sh`, 'TimeoutStopSec=0.3');
    await services.start('toy', 1000);
    await poll('up', async () => output() === 'up\n');
    await services.stop('toy', 5000);
    expect((await services.state('toy')).active).toBe('inactive');
  });

  test('a PID that another process has by now is neither the unit nor stopped', async () => {
    unit('/bin/sleep 1000');
    mkdirSync(join(root, 'run/kwfleet-services'), { recursive: true });
    const running = { pid: process.pid, startTicks: '1', startedAtMs: 1 };
    writeFileSync(join(root, 'run/kwfleet-services/toy.json'), JSON.stringify({ running, stopped: false }));
    expect(await services.state('toy')).toMatchObject({ active: 'failed', mainPid: null });
    await services.stop('toy', 1000);
    expect(await services.state('toy')).toMatchObject({ active: 'inactive' });
  });

  test('a missing program starts and fails after, a missing unit does not start', async () => {
    unit('/nonexistent/kwbase start');
    await services.start('toy', 1000);
    expect((await services.state('toy')).active).toBe('failed');
    await expect(services.start('other', 1000)).rejects.toThrow('Unit other.service not found.');
    expect(await services.state('other')).toMatchObject({ exists: false, active: 'inactive' });
  });

  test('systemctl over it', async () => {
    unit('/bin/sleep 1000');
    expect(await systemctl('start', 'toy')).toMatchObject({ code: 0 });
    const pid = (await systemctl('show', '--property', 'MainPID', '--value', 'toy')).stdout;
    expect(Number(pid)).toBe((await services.state('toy')).mainPid);
    expect(await systemctl('is-active', 'toy')).toMatchObject({ code: 0, stdout: 'active\n' });
    expect(await systemctl('is-enabled', 'toy')).toMatchObject({ code: 1, stdout: 'disabled\n' });
    expect(await systemctl('enable', 'toy')).toMatchObject({ code: 0 });
    expect(await systemctl('is-enabled', 'toy')).toMatchObject({ code: 0, stdout: 'enabled\n' });
    expect(await systemctl('restart', 'toy.service')).toMatchObject({ code: 0 });
    expect((await systemctl('show', '-p', 'MainPID,ActiveState', 'toy')).stdout).toMatch(
      /^MainPID=\d+\nActiveState=active\n$/,
    );
    expect(await systemctl('stop', 'toy')).toMatchObject({ code: 0 });
    expect(await systemctl('is-active', 'toy')).toMatchObject({ code: 3, stdout: 'inactive\n' });
    expect(await systemctl('start', 'other')).toMatchObject({ code: 5 });
  });
});
