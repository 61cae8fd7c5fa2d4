// The table of cases of the real deploy.sh, row by row, against the stand-in.
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { cluster, type Node, poll, SHORT_LIVED, UNIT } from './rig.ts';

const active = async (node: Node): Promise<string> => (await node.services.state(UNIT)).active;

/** What every refusal leaves: the old version, in every place that tells one. */
async function expectUnchanged(node: Node): Promise<void> {
  expect(node.versionFile()).toBe('3.0.0');
  expect(await node.installedVersion()).toBe('3.0.0');
  expect(await node.packageState('kaiwudb-server')).toBe('ii');
}

const marked = async (asked: Node, id: number): Promise<boolean> =>
  (await asked.status()).find((row) => row.id === String(id))?.is_available === 'false';

describe.concurrent('offline', () => {
  test.for(['single', 'multi-replication', 'single-replication'] as const)(
    'a stopped %s node is upgraded, not started',
    async (mode, context) => {
      const made = await cluster(context, { mode, start: false });
      const run = await made.deploy(made.node(1), await made.package({ version: '3.1.0' }));
      expect(run).toMatchObject({ code: 0, barLeft: false });
      expect(run.output).toContain('\u001b[1;32m[UPGRADE COMPLETED]:\u001b[0mLocal node upgrade successfully.');
      expect(made.node(1).versionFile()).toBe('3.1.0');
      expect(await made.node(1).installedVersion()).toBe('3.1.0');
      expect(await active(made.node(1))).toBe('inactive');
      expect(made.node(1).read('etc/systemd/system/kaiwudb.serviceq')).toContain('ExecStart');
      expect(execFileSync('ls', [join(made.directory, 'package2/kaiwudb_install/log')], { encoding: 'utf8' })).toMatch(
        /^\d{4}-\d\d-\d\d\n$/,
      );
    },
  );

  test('a failing maintainer script leaves the new binary under the old .version', async (context) => {
    const made = await cluster(context, { mode: 'single', start: false });
    const run = await made.deploy(
      made.node(1),
      await made.package({ version: '3.1.0', faults: { maintainerScriptFails: true } }),
    );
    expect(run).toMatchObject({ code: 1, barLeft: true });
    expect(run.output).toContain('Pipe create failed: ');
    expect(made.node(1).versionFile()).toBe('3.0.0');
    expect(await made.node(1).installedVersion()).toBe('3.1.0');
    expect(await made.node(1).packageState('kaiwudb-server')).toBe('iF');
  });

  test('a corrupt package leaves no binary', async (context) => {
    const made = await cluster(context, { mode: 'single', start: false });
    const run = await made.deploy(made.node(1), await made.package({ version: '3.1.0', faults: { corrupt: true } }));
    expect(run).toMatchObject({ code: 1, barLeft: true });
    expect(run.output).toContain('Pipe create failed: ');
    expect(made.node(1).versionFile()).toBe('3.0.0');
    expect(await made.node(1).installedVersion()).toBe('none');
    expect(await made.node(1).packageState('kaiwudb-server')).toBe('in');
    expect(await made.node(1).packageState('kaiwudb-libcommon')).toBe('ii');
    // As long as no new version ran, the old package puts the old binary back.
    const back = await made.deploy(made.node(1), await made.package({ version: '3.0.0' }), [
      'upgrade',
      '--local',
      '--bypass-version-check',
    ]);
    expect(back.code).toBe(0);
    await expectUnchanged(made.node(1));
    // With no binary the unit starts all the same, and fails after.
    rmSync(made.node(1).installed.kwbase);
    await made.node(1).start();
    expect(await active(made.node(1))).toBe('failed');
  });

  test('a stopped container gets the new image, in MODE and in its compose file', async (context) => {
    const made = await cluster(context, { mode: 'single', start: false });
    const node = made.node(1);
    fakeDocker(node);
    expect(await made.deploy(node, await made.package({ version: '3.1.0', method: 'container' }))).toMatchObject({
      code: 0,
    });
    expect(node.read('docker.log')).toContain('docker load\n');
    expect(node.read('docker.log')).toContain('docker rmi kaiwudb:3.0.0\n');
    expect(node.read('etc/kaiwudb/info/MODE').split('\n')[2]).toBe('kaiwudb:3.1.0');
    expect(node.read('etc/kaiwudb/script/docker-compose.yml')).toContain('image: kaiwudb:3.1.0');
    expect(node.versionFile()).toBe('3.1.0');
    expect((await made.deploy(node, await made.package({ version: '3.2.0' }))).output).toContain(
      'Current use container, but the package is bare.',
    );
  });

  test('a package for another architecture leaves nothing installed', async (context) => {
    const made = await cluster(context, { mode: 'single', start: false });
    const run = await made.deploy(made.node(1), await made.package({ version: '3.1.0', architecture: 'm68k' }));
    expect(run).toMatchObject({ code: 1, barLeft: true });
    expect(run.output).toMatch(/Pipe create failed: .*architecture/s);
    expect(made.node(1).versionFile()).toBe('3.0.0');
    expect(await made.node(1).packageState('kaiwudb-server')).toBe('--');
    expect(await made.node(1).packageState('kaiwudb-libcommon')).toBe('--');
  });
});

/** Words enough for deploy.sh to believe in an engine; what it asked lies in `docker.log`. */
function fakeDocker(node: Node): void {
  const { root } = node.installed;
  for (const name of ['docker', 'docker-compose']) {
    const answer = name === 'docker' ? '[ "$1" = load ] && echo "Loaded image: kaiwudb:3.1.0"' : ':';
    const script = `#! /bin/sh\necho "${name} $*" >>"${root}/docker.log"\n${answer}\nexit 0\n`;
    writeFileSync(join(root, 'usr/bin', name), script, { mode: 0o755 });
  }
  const mode = node.read('etc/kaiwudb/info/MODE').split('\n');
  writeFileSync(
    join(root, 'etc/kaiwudb/info/MODE'),
    ['container', mode[1], 'kaiwudb:3.0.0', ...mode.slice(3)].join('\n'),
  );
  writeFileSync(
    join(root, 'etc/kaiwudb/script/docker-compose.yml'),
    'services:\n  kaiwudb-container:\n    image: kaiwudb:3.0.0\n',
  );
}

describe.concurrent('refused', () => {
  test('a running standalone node', async (context) => {
    const made = await cluster(context, { mode: 'single' });
    const run = await made.deploy(made.node(1), await made.package({ version: '3.1.0' }));
    expect(run).toMatchObject({ code: 1, barLeft: true });
    expect(run.output).toContain(
      'Current local node is not support online upgrade! Please stop KaiwuDB then try again.',
    );
    await expectUnchanged(made.node(1));
    expect(await made.node(1).isReady()).toBe(true);
  });

  test('older, same, incomplete and foreign packages, and a host without KWDB', async (context) => {
    const made = await cluster(context, { mode: 'single', start: false });
    const node = made.node(1);
    const cases: [Parameters<typeof made.package>[0], string][] = [
      [{ version: '2.9.0' }, 'older than the current installed version.(current:3.0.0 new_version:2.9.0)'],
      [{ version: '3.0.0' }, 'The upgrade conditions are not met.( --> )'],
      [{ version: '3.0.0', extension: 'beta1' }, 'UPGRADE ERROR:Official version can not upgrade to beta1.'],
      [{ version: '3.1.0', faults: { missing: 'server' } }, 'Package server does not exist.'],
      [{ version: '3.1.0', method: 'container' }, 'Current use bare, but the package is container.'],
    ];
    for (const [options, words] of cases) {
      const run = await made.deploy(node, await made.package(options));
      expect(run.code, words).toBe(1);
      expect(run.output).toContain(words);
      expect(run.output).toMatch(/\u001b\[31m \[ERROR\] \d{4}-\d\d-\d\d \d\d:\d\d:\d\d /);
      await expectUnchanged(node);
    }
    rmSync(node.installed.unitFile);
    expect((await made.deploy(node, await made.package({ version: '3.1.0' }))).output).toContain(
      'KaiwuDB does not exist. Please install KaiwuDB first.',
    );
  });

  test('extensions that may not follow one another', async (context) => {
    const made = await cluster(context, { mode: 'single', start: false });
    const cases: [from: string, to: string, words: string | null][] = [
      ['hotfix1', 'hotfix2', null],
      ['hotfix2', 'hotfix1', 'not supported'],
      ['hotfix1', 'patch2', 'not supported'],
      ['hotfix1', 'beta1', 'conditions are not met.(hotfix1 --> beta1)'],
      ['beta1', 'alpha2', 'conditions are not met.(beta1 --> alpha2)'],
      ['hotfix1beta1', 'hotfix1beta2', null],
      ['hotfix1beta2', 'hotfix1alpha1', 'conditions are not met'],
      ['hotfix1', 'hotfix1', 'conditions are not met'],
      ['beta1', '', null],
    ];
    for (const [from, to, words] of cases) {
      writeFileSync(join(made.node(1).installed.root, 'etc/kaiwudb/info/.version'), `3.0.0\n${from}\n`);
      const options = to === '' ? { version: '3.0.0' } : { version: '3.0.0', extension: to };
      const run = await made.deploy(made.node(1), await made.package(options));
      expect(run.code, `${from} to ${to}`).toBe(words === null ? 0 : 1);
      expect(run.output).toContain(words ?? 'UPGRADE COMPLETED');
    }
  });

  test('without sudo, even for root', async (context) => {
    const made = await cluster(context, { mode: 'single', start: false });
    const tools = join(made.directory, 'tools');
    mkdirSync(tools);
    for (const tool of ['bash', 'dirname', 'id', 'timeout', 'cat'])
      symlinkSync(execFileSync('which', [tool], { encoding: 'utf8' }).trim(), join(tools, tool));
    const run = await made.deploy(made.node(1), await made.package({ version: '3.1.0' }), ['upgrade', '-l'], {
      KW_STANDIN_ROOT: '',
      PATH: tools,
    });
    expect(run).toMatchObject({ code: 1 });
    expect(run.output).toContain(
      process.getuid?.() === 0 ? "Can not use command: 'sudo bash'." : 'Incorrect password.',
    );
  });

  test.skipIf(process.getuid?.() !== 0)(
    'a user without rights is asked for a password (needs root to become one)',
    async (context) => {
      const made = await cluster(context, { mode: 'single', start: false });
      const directory = await made.package({ version: '3.1.0' });
      chmodSync(made.directory, 0o755);
      const asNobody = ['-u', 'nobody', '--', join(directory, 'deploy.sh'), 'upgrade', '-l'];
      const env = { PATH: process.env.PATH };
      const refused = spawnSync('runuser', asNobody, { env, stdio: ['ignore', 'pipe', 'pipe'], encoding: 'utf8' });
      expect(refused.status).toBe(1);
      expect(refused.stderr).toContain('Incorrect password.');
      // On an open pipe it waits for a password that nobody will type.
      const waiting = spawn('runuser', asNobody, { env, stdio: ['pipe', 'ignore', 'ignore'], detached: true });
      await expect(poll('an end', async () => waiting.exitCode !== null, 1500)).rejects.toThrow();
      process.kill(-(waiting.pid ?? 0), 'SIGKILL');
    },
  );
});

describe.concurrent('online', () => {
  test.for([
    ['multi-replication', 'start'],
    ['single-replication', 'start-single-replica'],
  ] as const)('a running %s node is marked, exchanged and brought back', async ([mode, startMode], context) => {
    const made = await cluster(context, { mode });
    const node = made.node(2);
    const pid = (await node.services.state(UNIT)).mainPid;
    const run = await made.deploy(node, await made.package({ version: '3.1.0' }));
    expect(run).toMatchObject({ code: 0, barLeft: false });
    expect(run.output).toContain('[UPGRADE COMPLETED]');
    await node.ready();
    await poll('unmarked', async () => !(await marked(made.node(1), 2)));
    await poll('live', async () => (await made.node(1).status())[1]?.is_live === 'true');
    expect((await made.node(1).status())[1]).toMatchObject({ build: 'V3.1.0', start_mode: startMode });
    expect((await node.services.state(UNIT)).mainPid).not.toBe(pid);
    expect(node.record().find((line) => line.version === '3.1.0')).toMatchObject({
      event: 'start',
      upgradeComplete: true,
    });
    expect(node.read('etc/kaiwudb/script/kaiwudb_env')).not.toContain('--upgrade-complete');
    expect(node.read('etc/kaiwudb/script/kaiwudb_envq')).toContain('--upgrade-complete');
  });

  test.for([
    ['a failing maintainer script', { maintainerScriptFails: true }, '3.1.0'],
    ['a corrupt package', { corrupt: true }, 'none'],
  ] as const)('%s leaves the old process serving and marked', async ([, faults, binary], context) => {
    const made = await cluster(context);
    const run = await made.deploy(made.node(2), await made.package({ version: '3.1.0', faults }));
    expect(run).toMatchObject({ code: 1, barLeft: true });
    expect(run.output).toContain('KaiwuDB upgrade failed: ');
    expect(made.node(2).versionFile()).toBe('3.0.0');
    expect(await made.node(2).installedVersion()).toBe(binary);
    expect(await made.node(2).isReady()).toBe(true);
    expect((await made.node(1).status())[1]).toMatchObject({ build: 'V3.0.0', is_available: 'false' });
    expect(await made.node(1).sql('SHOW CLUSTER SETTING server.time_until_store_dead')).toContain('3h0m0s');
  });

  test('refused while another node is down', async (context) => {
    const made = await cluster(context, { knobs: SHORT_LIVED });
    await made.node(3).stop();
    await poll('expired', async () => (await made.node(1).status())[2]?.is_live === 'false');
    const run = await made.deploy(made.node(1), await made.package({ version: '3.1.0' }));
    expect(run).toMatchObject({ code: 1, barLeft: true });
    expect(run.output).toContain('KaiwuDB change status failed:');
    await expectUnchanged(made.node(1));
    // While it missed a heartbeat it seems to be: a mark would stay.
    await poll('unmarked', async () => !(await marked(made.node(2), 1)));
  });

  test('a new version that crashes keeps it waiting, and leaves the mark and the option', async (context) => {
    const made = await cluster(context);
    const deploy = made.begin(made.node(2), await made.package({ version: '3.1.0', faults: { crashOnStart: true } }));
    await poll('crashed', async () =>
      made
        .node(2)
        .record()
        .some((line) => line.event === 'crash'),
    );
    await poll('failed', async () => (await active(made.node(2))) === 'failed');
    await expect(poll('an end', async () => !deploy.running, 2200)).rejects.toThrow();
    expect(made.node(2).versionFile()).toBe('3.1.0');
    expect(made.node(2).read('etc/kaiwudb/script/kaiwudb_env')).toContain('--upgrade-complete');
    expect(await marked(made.node(1), 2)).toBe(true);
  });

  test('a new version that is never live is called a success', async (context) => {
    // Short enough to wait for, and long enough that no other node misses its heartbeats before the mark.
    const made = await cluster(context, { knobs: { livenessMs: 12_000 } });
    const run = await made.deploy(made.node(2), await made.package({ version: '3.1.0', faults: { neverLive: true } }));
    expect(run.code).toBe(0);
    expect(run.output).toContain('[UPGRADE COMPLETED]');
    await poll('dead', async () => (await made.node(1).status())[1]?.is_live === 'false');
  });

  test('the scripts of V3.0.0 call even a crash a success', async (context) => {
    const made = await cluster(context);
    const run = await made.deploy(
      made.node(2),
      await made.package({ version: '3.1.0', faults: { blindRestart: true, crashOnStart: true } }),
    );
    expect(run.code).toBe(0);
    expect(run.output).toContain('[UPGRADE COMPLETED]');
    await poll('failed', async () => (await active(made.node(2))) === 'failed');
    expect(await marked(made.node(1), 2)).toBe(true);
  });

  test('a hanging node status hangs it', async (context) => {
    const made = await cluster(context);
    made.node(2).setKnobs({ hangStatus: true });
    const deploy = made.begin(made.node(2), await made.package({ version: '3.1.0' }));
    await poll('status asked', async () => deploy.output.includes('change KaiwuDB status'));
    await expect(poll('an end', async () => !deploy.running, 800)).rejects.toThrow();
    deploy.killGroup();
    await expectUnchanged(made.node(2));
  });
});

describe.concurrent('killed', () => {
  test('alone, its children finish: the re-run is refused as the same version', async (context) => {
    const made = await cluster(context, { mode: 'single', start: false });
    const directory = await made.package({ version: '3.1.0', faults: { postinstSeconds: 1 } });
    const deploy = made.begin(made.node(1), directory);
    await poll('exchange', async () => (await made.node(1).installedVersion()) === '3.1.0');
    process.kill(deploy.child.pid ?? 0, 'SIGKILL');
    await poll('finished by its children', async () => made.node(1).versionFile() === '3.1.0');
    expect(await made.node(1).packageState('kaiwudb-server')).toBe('ii');
    expect((await made.deploy(made.node(1), directory)).output).toContain('The upgrade conditions are not met.( --> )');
  });

  test('with its group, it leaves half of it done; the re-run works and the mark stays', async (context) => {
    const made = await cluster(context);
    const slow = await made.package({ version: '3.1.0', faults: { postinstSeconds: 60 } });
    const deploy = made.begin(made.node(2), slow);
    await poll('exchange', async () => (await made.node(2).installedVersion()) === '3.1.0');
    await poll('postinst', async () => (await made.node(2).packageState('kaiwudb-server')) === 'iF');
    deploy.killGroup();
    expect(made.node(2).versionFile()).toBe('3.0.0');
    await made.node(2).stop();
    expect((await made.deploy(made.node(2), await made.package({ version: '3.1.0' }))).code).toBe(0);
    await made.node(2).start();
    await made.node(2).ready();
    expect(await marked(made.node(1), 2)).toBe(true);
  });

  test('it ignores an interrupt', async (context) => {
    const made = await cluster(context, { mode: 'single', start: false });
    const deploy = made.begin(made.node(1), await made.package({ version: '3.1.0', faults: { postinstSeconds: 1 } }));
    await poll('started', async () => deploy.output.includes('whether running'));
    process.kill(-(deploy.child.pid ?? 0), 'SIGINT');
    expect(await deploy.finished()).toMatchObject({ code: 0 });
  });
});

describe.concurrent('other commands', () => {
  test('status, stop, start and uninstall', async (context) => {
    const made = await cluster(context, { mode: 'single' });
    const node = made.node(1);
    const directory = await made.package({ version: '3.0.0' });
    expect((await made.deploy(node, directory, ['status'])).output).toContain(
      '[STATUS COMPLETED]:\u001b[0mKaiwuDB is runnning now.',
    );
    expect((await made.deploy(node, directory, ['uninstall'])).code).toBe(1);
    expect((await made.deploy(node, directory, ['stop'])).code).toBe(0);
    expect((await made.deploy(node, directory, ['status'])).output).toContain('KaiwuDB is not runnning.');
    const start = await made.deploy(node, directory, ['start']);
    expect(start.code).toBe(0);
    expect(start.ms).toBeGreaterThan(3000);
    await node.ready();
    await node.stop();
    expect((await made.deploy(node, directory, ['uninstall'])).code).toBe(0);
    expect(await made.deploy(node, directory, ['status'])).toMatchObject({ code: 1 });
  });
});
