import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { cleanStaleLabs, createLab, type Lab, type LabHost, labHere, until } from './host.ts';
import { traces } from './leftovers.ts';
import { LabProcess } from './process.ts';

const PORT = 7000;
const NODE = process.execPath;
const SERVER = `require('net').createServer((s) => s.end(require('os').hostname() + '\\n')).listen(${PORT})`;

const here = await labHere();

/** What the greeting server of a host answers, asked from another host; undefined when it cannot be reached. */
async function greeting(from: LabHost, to: string): Promise<string | undefined> {
  const script = `timeout 1 bash -c 'exec 3<>/dev/tcp/${to}/${PORT}; cat <&3'`;
  const { stdout, exitCode } = await from.shell(script, { allowFailure: true });
  return exitCode === 0 ? stdout.trim() : undefined;
}

/** Waits until the server there greets by this name. */
const greets = (from: LabHost, to: string, name: string): Promise<boolean> =>
  until(`${to} greets ${from.name} as ${name}`, async () => (await greeting(from, to)) === name);

async function serveGreeting(host: LabHost): Promise<void> {
  await host.exec(['systemd-run', '--unit=greeting', NODE, '-e', SERVER]);
  await greets(host, host.address, host.name);
}

describe.skipIf(!here)('three hosts', () => {
  let lab: Lab;
  let hosts: [LabHost, LabHost, LabHost];

  beforeAll(async () => {
    lab = await createLab();
    hosts = [
      await lab.addHost(),
      await lab.addHost(),
      await lab.addHost({ name: 'small', smallDisks: [{ path: '/var/lib/kwfleet', megabytes: 16 }] }),
    ];
    await Promise.all(hosts.map((host) => host.start()));
    await Promise.all(hosts.map(serveGreeting));
  });
  afterAll(() => lab?.destroy());

  it('each has a systemd, a hostname and a machine id of its own', async () => {
    const ids = new Set<string>();
    for (const host of hosts) {
      expect((await host.exec(['systemctl', 'is-system-running'])).stdout.trim()).toBe('running');
      expect((await host.exec(['hostname'])).stdout.trim()).toBe(host.name);
      expect((await host.readFile('/proc/1/comm')).trim()).toBe('systemd');
      ids.add(await host.readFile('/etc/machine-id'));
    }
    expect(ids.size).toBe(3);
  });

  it('reach each other by address and by name', async () => {
    for (const from of hosts) {
      for (const to of hosts) {
        await greets(from, to.address, to.name);
        await greets(from, to.name, to.name);
      }
    }
  });

  it('runs processes of the machine in their network, and leads a local port into it', async () => {
    const { stdout } = await lab.execInNetwork(['bash', '-c', `cat </dev/tcp/small/${PORT}`]);
    expect(stdout.trim()).toBe('small');
    const server = lab.spawnInNetwork([NODE, '-e', `${SERVER}.on('listening', () => console.log('listening'))`]);
    await server.waitForOutput(/listening/);
    await until('the machine greets', () => greeting(hosts[0], lab.controllerAddress));
    const forward = await lab.forward(PORT, hosts[1].address);
    const socket = connect(forward.port, '127.0.0.1');
    const answer = await socket.setEncoding('utf8').toArray();
    expect(answer.join('').trim()).toBe('h2');
    await forward.close();
    expect((await server.kill('SIGTERM')).signal).toBe('SIGTERM');
  });

  it('restarts a Type=notify unit whose watchdog is not fed', async () => {
    const [host] = hosts;
    const unit = `[Service]\nType=notify\nNotifyAccess=all\nWatchdogSec=1\nRestart=on-watchdog\nRestartSec=100ms
      ExecStart=/bin/sh -c 'systemd-notify --ready --status=fed; echo started; exec sleep infinity'\n`;
    await host.writeFile('/etc/systemd/system/dog.service', unit.replaceAll('\n      ', '\n'));
    await host.shell('systemctl daemon-reload; systemctl start dog');
    const show = ['systemctl', 'show', 'dog', '--property', 'NRestarts', '--value'];
    await until('the watchdog bites', async () => Number((await host.exec(show)).stdout) > 0);
    expect((await host.exec(['journalctl', '-u', 'dog', '--no-pager'])).stdout).toMatch(
      /started[\s\S]*Watchdog timeout/,
    );
    await host.exec(['systemctl', 'stop', 'dog']);
  });

  it('runs a transient unit outside the cgroup of its caller', async () => {
    const argv = ['systemd-run', '--wait', '--pipe', '--collect', 'cat', '/proc/self/cgroup'];
    expect((await hosts[0].exec(argv)).stdout).toMatch(/^0::\/system\.slice\/run-.*\.service$/m);
  });

  it('installs and removes a package', async () => {
    const [host] = hosts;
    const control =
      'Package: greeter\nVersion: 1.2\nArchitecture: all\nMaintainer: Lab <lab@example.test>\nDescription: x\n';
    await host.writeFile('/tmp/deb/DEBIAN/control', control);
    await host.writeFile('/tmp/deb/usr/lib/greeter/hello', '#!/bin/sh\necho hello\n', 0o755);
    await host.shell('dpkg-deb --build /tmp/deb /tmp/greeter.deb; dpkg -i /tmp/greeter.deb');
    expect((await host.exec(['/usr/lib/greeter/hello'])).stdout).toBe('hello\n');
    await host.exec(['dpkg', '-r', 'greeter']);
    expect((await host.exec(['/usr/lib/greeter/hello'], { allowFailure: true })).exitCode).toBe(127);
    expect(existsSync('/usr/lib/greeter')).toBe(false);
  });

  it('has sudo without complaints, and sysctl that leaves the machine alone', async () => {
    const before = await readFile('/proc/sys/vm/max_map_count', 'utf8');
    const { stdout, stderr } = await hosts[0].exec(['sudo', '-n', 'sysctl', '-w', 'vm.max_map_count=12345678']);
    expect([stdout.trim(), stderr]).toEqual(['vm.max_map_count = 12345678', '']);
    expect(await readFile('/proc/sys/vm/max_map_count', 'utf8')).toBe(before);
    const swappiness = await hosts[0].exec(['sysctl', '-w', 'vm.swappiness=1'], { allowFailure: true });
    expect(swappiness.exitCode).not.toBe(0);
  });

  it('can be cut off and healed', async () => {
    const [a, b, c] = hosts;
    await b.cutOff();
    expect(await greeting(a, b.address)).toBeUndefined();
    await greets(a, c.address, c.name);
    await b.heal();
    await greets(a, b.address, b.name);
  });

  it('can lose what goes to one peer only', async () => {
    const [a, b, c] = hosts;
    await a.dropTo(b.address);
    expect(await greeting(a, b.address)).toBeUndefined();
    await greets(a, c.address, c.name);
    await greets(c, b.address, b.name);
    await a.undrop(b.address);
    await greets(a, b.address, b.name);
  });

  it('keeps its files and its enabled units over a crash, and has a new boot id', async () => {
    const [, host] = hosts;
    const unit = '[Service]\nType=oneshot\nExecStart=touch /run/was-here\n[Install]\nWantedBy=multi-user.target\n';
    await host.writeFile('/etc/systemd/system/stays.service', unit);
    await host.writeFile('/var/lib/secret/key', 'kept', 0o600);
    await host.exec(['systemctl', 'enable', 'stays']);
    const bootId = await host.readFile('/proc/sys/kernel/random/boot_id');
    const pid = host.initPid;
    await host.crash();
    expect(existsSync(`/proc/${pid}`)).toBe(false);
    expect(await greeting(hosts[0], host.address)).toBeUndefined();
    await host.boot();
    expect((await host.shell('cat /var/lib/secret/key; stat -c %a /var/lib/secret/key')).stdout).toBe('kept600\n');
    await host.exec(['test', '-e', '/run/was-here']);
    expect(await host.readFile('/proc/sys/kernel/random/boot_id')).not.toBe(bootId);
  });

  it('powers off in order', async () => {
    const [, host] = hosts;
    const unit = '[Service]\nExecStart=sleep infinity\nExecStop=/bin/sh -c "echo stopped >/var/lib/order"\n';
    await host.writeFile('/etc/systemd/system/order.service', unit);
    await host.exec(['systemctl', 'start', 'order']);
    await host.shutdown();
    expect(host.running).toBe(false);
    await host.boot();
    expect(await host.readFile('/var/lib/order')).toBe('stopped\n');
  });

  it('fills a small disk, which keeps its files over a crash', async () => {
    const [, , host] = hosts;
    const fill = 'dd if=/dev/zero of=/var/lib/kwfleet/fill bs=1M count=64';
    const { exitCode, stderr } = await host.shell(fill, { allowFailure: true });
    expect(exitCode).not.toBe(0);
    expect(stderr).toContain('No space left on device');
    await host.shell('rm /var/lib/kwfleet/fill; echo 1 >/var/lib/kwfleet/after');
    await host.crash();
    await host.boot();
    expect(await host.readFile('/var/lib/kwfleet/after')).toBe('1\n');
  });

  it('ends a command that takes too long, and says what it was', async () => {
    const slow = hosts[0].exec(['sleep', '1000'], { timeoutMs: 200 });
    await expect(slow).rejects.toThrow(/sleep 1000: not done after 200 ms/);
    const gone = async () => (await hosts[0].exec(['pgrep', '-x', 'sleep'], { allowFailure: true })).exitCode === 1;
    await until('the sleeper is gone', gone);
  });
});

describe.skipIf(!here)('labs', () => {
  it('stand side by side with the same addresses, and leave nothing behind', async () => {
    const labs = await Promise.all([createLab({ name: 'left' }), createLab({ name: 'right' })]);
    try {
      const smallDisks = [{ path: '/var/lib/kwfleet', megabytes: 8 }];
      const hosts = await Promise.all(labs.map((lab) => lab.addHost({ smallDisks })));
      await Promise.all(hosts.map((host) => host.start()));
      expect(hosts.map((host) => host.address)).toEqual(['10.77.0.11', '10.77.0.11']);
      for (const [index, host] of hosts.entries()) await host.writeFile('/etc/lab', String(index));
      expect(await Promise.all(hosts.map((host) => host.readFile('/etc/lab')))).toEqual(['0', '1']);
      for (const lab of labs) lab.spawnInNetwork(['sh', '-c', 'setsid sleep 1000 & sleep 1000']);
      for (const lab of labs) expect(await traces(lab.id, lab.directory)).not.toEqual([]);
    } finally {
      await Promise.all(labs.map((lab) => lab.destroy()));
    }
    for (const lab of labs) expect(await traces(lab.id, lab.directory)).toEqual([]);
  });

  it('are removed when a boot fails', async () => {
    const lab = await createLab();
    const host = await lab.addHost({ share: ['/does/not/exist'] });
    await expect(host.start()).rejects.toThrow(/did not boot|died while booting/);
    await lab.destroy();
    expect(await traces(lab.id, lab.directory)).toEqual([]);
  });

  it('are removed in the middle of a boot', async () => {
    const lab = await createLab();
    const hosts = await Promise.all([lab.addHost(), lab.addHost()]);
    const boots = Promise.allSettled(hosts.map((host) => host.start()));
    await until('the first has an init', () => existsSync(join(lab.directory, 'h1', 'init.pid')));
    await lab.destroy();
    expect((await boots).map((boot) => boot.status)).toEqual(['rejected', 'rejected']);
    expect(await traces(lab.id, lab.directory)).toEqual([]);
  });

  it('of a killed run die with it, and are swept later', async () => {
    const script = `import { createLab } from ${JSON.stringify(join(import.meta.dirname, 'host.ts'))};
      const lab = await createLab(); const host = await lab.addHost(); await host.start();
      console.log('LAB', lab.id, lab.directory, host.initPid); setInterval(() => {}, 1000);`;
    const owner = new LabProcess([NODE, '--input-type=module', '-e', script]);
    const [, id = '', directory = '', pid = ''] = await owner.waitForOutput(/LAB (\S+) (\S+) (\d+)\n/);
    await cleanStaleLabs();
    expect(existsSync(`/proc/${pid}`)).toBe(true);
    await owner.kill('SIGKILL');
    await until('its host died', () => !existsSync(`/proc/${pid}`));
    await cleanStaleLabs();
    expect(await traces(id, directory)).toEqual([]);
  });
});
