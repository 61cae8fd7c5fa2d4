import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, realpath, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import { SourceFinder } from '../src/deployment/source.ts';
import { type NodeRecord, SourceRecords } from '../src/deployment/source-record.ts';
import { environmentLine, propertiesOf } from '../src/host/launch.ts';
import { nodeProcesses, parseLimits, startedAtMs, surroundings } from '../src/host/node-processes.ts';
import type { ServiceManager } from '../src/host/services.ts';
import { addressOf, securityOf, startCommand, storeOf } from '../src/host/start-command.ts';

async function directory(): Promise<string> {
  const made = await realpath(await mkdtemp(join(tmpdir(), 'kwfleet-source-')));
  onTestFinished(() => rm(made, { recursive: true, force: true }));
  return made;
}

describe('the start command', () => {
  test('tells the topology, and only a start is one', () => {
    expect(startCommand(['start-single-node', '--insecure'])?.topology).toBe('standalone');
    expect(startCommand(['--logtostderr', 'start', '--join=a'])?.topology).toBe('multi-replica');
    expect(startCommand(['start-single-replica'])?.topology).toBe('single-replica');
    expect(startCommand(['node', 'status', '--insecure'])).toBeUndefined();
    expect(startCommand(['sql', '-e', 'start'])).toBeUndefined();
    expect(startCommand([])).toBeUndefined();
  });

  test('tells where it listens, how it speaks and where its data are', () => {
    const command = (...args: string[]) =>
      startCommand(['start', ...args]) as NonNullable<ReturnType<typeof startCommand>>;
    expect(securityOf(command('--insecure'))).toBe('insecure');
    expect(securityOf(command('--certs-dir', 'c', '--tlcp'))).toBe('tlcp');
    expect(securityOf(command('--certs-dir=c'))).toBe('tls');
    expect(addressOf('10.0.0.1:1', 2)).toEqual({ host: '10.0.0.1', port: 1 });
    expect(addressOf(':8081', 2)).toEqual({ host: '', port: 8081 });
    expect(addressOf('[::1]', 2)).toEqual({ host: '::1', port: 2 });
    expect(storeOf(command('--store=/data'), '/x')).toBe('/data');
    expect(storeOf(command('--store', 'path=d1,size=3GB'), '/x')).toBe('/x/d1');
    expect(storeOf(command(), '/x')).toBe('/x/kwbase-data');
  });
});

describe('a process', () => {
  /** A program that is called kwbase and waits; its words are those that follow. */
  async function start(args: string[], options: { cwd: string; env: Record<string, string> }) {
    const child = spawn('/bin/sleep', args, { ...options, argv0: './kwbase', stdio: 'ignore' });
    onTestFinished(() => void child.kill('SIGKILL'));
    await once(child, 'spawn');
    return child;
  }

  test.skipIf(process.platform !== 'linux')(
    'is taken down as it was started, by the path it was called by',
    async () => {
      const root = await directory();
      await mkdir(join(root, 'install-3.0.0/bin'), { recursive: true });
      await symlink('install-3.0.0', join(root, 'install'));
      const cwd = join(root, 'install/bin');
      // The shell stays: its script reads from a pipe that nobody writes to.
      await writeFile(join(cwd, 'start'), 'read x\n');
      const stays = spawn('/bin/sh', ['start', '--insecure'], {
        cwd,
        env: { PWD: cwd, SECRET: 'a=b c', PATH: '/bin:/usr/bin' },
        argv0: './kwbase',
        stdio: ['pipe', 'ignore', 'ignore'],
      });
      onTestFinished(() => void stays.kill('SIGKILL'));
      await once(stays, 'spawn');
      const found = (await nodeProcesses()).find(({ pid }) => pid === stays.pid);
      expect(found).toMatchObject({ argv: ['./kwbase', 'start', '--insecure'], cwd, binary: join(cwd, 'kwbase') });
      if (found === undefined) return;
      const around = await surroundings(found);
      expect(around.environment).toContain('SECRET=a=b c');
      expect(around.uid).toBe(process.getuid?.());
      expect(around.limits.find(({ name }) => name === 'Max open files')?.soft).toMatch(/^\d+$|unlimited/);
      expect(Math.abs((await startedAtMs(found)) - Date.now())).toBeLessThan(60_000);
      const records = new SourceRecords(join(root, 'state'));
      const services = { kind: 'systemd', state: async () => ({ mainPid: null }) } as unknown as ServiceManager;
      const tree = join(root, 'install');
      const finder = new SourceFinder({ records, services, now: Date.now, statusTimeoutMs: 1000, tree });
      // Whoever asks while it is being taken down is told the same.
      const deployments = await Promise.all(Array.from({ length: 8 }, () => finder.find()));
      const kept = await records.node();
      expect(kept).toMatchObject({ tree, args: ['start', '--insecure'], process: { pid: stays.pid } });
      expect(deployments.map((deployment) => deployment?.record)).toEqual(Array.from({ length: 8 }, () => kept));
      const status = await start(['100'], { cwd, env: {} });
      expect((await nodeProcesses()).map(({ pid }) => pid)).not.toContain(status.pid);
    },
  );
});

describe('starting it again', () => {
  const RECORD: NodeRecord = {
    tree: '/opt/kwdb/install',
    binary: '/opt/kwdb/install/bin/kwbase',
    args: ['start', '--store=$x'],
    cwd: '/opt/kwdb/install/bin',
    environment: ['A=1'],
    uid: 7,
    gid: 8,
    umask: '0027',
    limits: [
      { name: 'Max open files', soft: '1024', hard: 'unlimited' },
      { name: 'Max nice priority', soft: '0', hard: '0' },
    ],
    stdout: '/opt/kwdb/out.log',
    process: { pid: 1, startTicks: 2, bootId: 'b', startedAtMs: 3 },
  };

  test('with its user, limits, umask and output, and no value of its environment among the arguments', () => {
    const properties = propertiesOf(RECORD, '/state/environment');
    expect(properties).toEqual(
      expect.arrayContaining([
        '--working-directory=/opt/kwdb/install/bin',
        '--uid=7',
        '--gid=8',
        '--property=UMask=0027',
        '--property=LimitNOFILE=1024:infinity',
        '--property=StandardOutput=append:/opt/kwdb/out.log',
        '--property=EnvironmentFile=/state/environment',
      ]),
    );
    expect(properties.filter((word) => word.includes('nice') || word.includes('A='))).toEqual([]);
  });

  test('with an environment that systemd reads as it was', () => {
    expect(environmentLine('A=b')).toBe('A="b"\n');
    expect(environmentLine('A=say "$x" \\ `y`=z')).toBe('A="say \\"\\$x\\" \\\\ \\`y\\`=z"\n');
  });

  test('limits as the kernel prints them', () => {
    const text =
      'Limit                     Soft Limit           Hard Limit           Units     \nMax open files            1024                 1048576              files     \nMax locked memory         unlimited            unlimited            bytes     \n';
    expect(parseLimits(text)).toEqual([
      { name: 'Max open files', soft: '1024', hard: '1048576' },
      { name: 'Max locked memory', soft: 'unlimited', hard: 'unlimited' },
    ]);
  });

  test('after a restart of the agent, from what is on disk; what is torn counts as nothing', async () => {
    const state = await directory();
    expect(await new SourceRecords(state).node()).toBeUndefined();
    await new SourceRecords(state).keepNode(RECORD);
    expect(await new SourceRecords(state).node()).toEqual(RECORD);
    const records = new SourceRecords(state);
    await records.keepTree({ version: '3.0.0', path: '/a', made: false });
    await records.keepTree({ version: '3.1.0', path: '/b', made: true });
    await records.keepTree({ version: '3.0.0', path: '/a', made: false });
    expect((await new SourceRecords(state).trees()).map(({ path }) => path)).toEqual(['/b', '/a']);
    await records.forgetTree('/b');
    expect(await records.trees()).toHaveLength(1);
    await writeFile(join(state, 'source/node.json'), '{"tree":');
    expect(await records.node()).toBeUndefined();
  });
});
