import { execFileSync } from 'node:child_process';
import { chmod, mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { type AddressInfo, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { describe, expect, onTestFinished, test } from 'vitest';
import type { Site } from '../src/deployment/deployment.ts';
import { inTheWay, listeners, parseTable, programOf } from '../src/host/listeners.ts';
import { findRestarters } from '../src/host/restarters.ts';
import { expiries, glibcVersion, type Place, placeOf, SurroundingsLook, sizeBelow } from '../src/host/surroundings.ts';

const DAY_MS = 86_400_000;

async function rootWith(files: Readonly<Record<string, string>> = {}): Promise<string> {
  const root = await mkdtemp(join(tmpdir(), 'kwfleet-root-'));
  onTestFinished(() => rm(root, { recursive: true, force: true }));
  for (const [path, text] of Object.entries(files)) {
    await mkdir(dirname(join(root, path)), { recursive: true });
    await writeFile(join(root, path), text);
  }
  return root;
}

async function listenOn(address: string): Promise<number> {
  const server = createServer();
  onTestFinished(() => void server.close());
  await new Promise<void>((resolve) => server.listen(0, address, resolve));
  return (server.address() as AddressInfo).port;
}

describe('what may start the database by itself', () => {
  test('is found in cron tables, scripts and timers, not in comments', async () => {
    const root = await rootWith({
      '/etc/crontab': '# kaiwudb is looked after elsewhere\n17 * * * * root run-parts /etc/cron.hourly\n',
      '/etc/cron.d/watch': '* * * * * root systemctl is-active kaiwudb || systemctl start kaiwudb\n',
      '/etc/cron.daily/clean': '#!/bin/sh\nfind /tmp -delete\n',
      '/var/spool/cron/crontabs/root': '*/5 * * * * /usr/bin/ansible-pull -U https://git.example.org/x\n',
      '/usr/lib/systemd/system/revive.timer': '[Timer]\nOnCalendar=hourly\nUnit=bring-up.service\n',
      '/usr/lib/systemd/system/bring-up.service': '[Service]\nExecStart=/usr/bin/kwbase start\n',
      '/usr/lib/systemd/system/apt-daily.timer': '[Timer]\nOnCalendar=daily\n',
    });
    for (const [wants, unit] of [
      ['timers.target.wants', 'revive.timer'],
      ['timers.target.wants', 'apt-daily.timer'],
      ['multi-user.target.wants', 'puppet.service'],
      ['multi-user.target.wants', 'kaiwudb.service'],
    ] as const) {
      await mkdir(join(root, '/etc/systemd/system', wants), { recursive: true });
      await symlink(`/usr/lib/systemd/system/${unit}`, join(root, '/etc/systemd/system', wants, unit));
    }
    expect(await findRestarters(root)).toEqual({
      found: [
        {
          where: '/etc/cron.d/watch',
          what: '* * * * * root systemctl is-active kaiwudb || systemctl start kaiwudb',
        },
        { where: '/var/spool/cron/crontabs/root', what: expect.stringContaining('ansible-pull') },
        { where: 'revive.timer', what: 'ExecStart=/usr/bin/kwbase start' },
        { where: 'puppet.service', what: expect.stringContaining('enabled') },
      ],
      unread: [],
    });
  });

  test('nothing is found on a host without any of it', async () =>
    expect(await findRestarters(await rootWith())).toEqual({ found: [], unread: [] }));

  test('is bounded, and not held up by what is no file', async () => {
    const many = Object.fromEntries(Array.from({ length: 60 }, (_, i) => [`/etc/cron.d/${i}`, 'x kaiwudb\n']));
    const root = await rootWith({ ...many, '/etc/cron.hourly/large': `${'#'.repeat(80_000)}\nkaiwudb\n` });
    execFileSync('mkfifo', [join(root, '/etc/cron.d/pipe')]);
    const { found } = await findRestarters(root);
    expect(found).toHaveLength(20);
    await rm(join(root, '/etc/cron.d'), { recursive: true });
    expect((await findRestarters(root)).found).toEqual([]);
  });

  test.skipIf(process.getuid?.() === 0)('says where it may not look', async () => {
    const root = await rootWith({ '/var/spool/cron/root': 'kaiwudb' });
    await chmod(join(root, '/var/spool/cron'), 0o000);
    onTestFinished(() => chmod(join(root, '/var/spool/cron'), 0o755));
    expect(await findRestarters(root)).toEqual({ found: [], unread: ['/var/spool/cron'] });
  });
});

describe('ports', () => {
  test('the kernel tells who listens, and where', async () => {
    const port = await listenOn('127.0.0.5');
    const own = (await listeners()).filter((one) => one.port === port);
    expect(own).toMatchObject([{ address: '127.0.0.5' }]);
    expect(await programOf(own[0] as (typeof own)[0])).toContain(`(process ${process.pid})`);
  });

  test('IPv6, and IPv4 in its clothes', async () => {
    const all = await listenOn('::');
    const found = (await listeners()).find((one) => one.port === all);
    expect(found?.address).toBe('::');
    const table = (address: string) => `  sl\n   0: ${address}:1F90 0:0 0A 0:0 0:0 0 0 0 77 1\n`;
    expect(parseTable(table('0000000000000000FFFF00000500007F'))).toEqual([
      { address: '127.0.0.5', port: 8080, inode: '77' },
    ]);
    expect(parseTable(table('0100007F').replace(' 0A ', ' 01 '))).toEqual([]);
  });

  test('who is in the way of a server', () => {
    const on = (address: string) => [{ address, port: 8080, inode: '1' }];
    expect(inTheWay(on('10.0.0.1'), '10.0.0.1', 8080)).toHaveLength(1);
    expect(inTheWay(on('10.0.0.2'), '10.0.0.1', 8080)).toHaveLength(0);
    expect(inTheWay(on('0.0.0.0'), '10.0.0.1', 8080)).toHaveLength(1);
    expect(inTheWay(on('10.0.0.2'), '0.0.0.0', 8080)).toHaveLength(1);
    expect(inTheWay(on('10.0.0.1'), '10.0.0.1', 8081)).toHaveLength(0);
  });
});

describe('certificates of the database', () => {
  const make = (folder: string, name: string, days: number) =>
    execFileSync(
      'openssl',
      [
        ...['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-subj', `/CN=${name}`],
        ...['-days', String(days), '-keyout', join(folder, `${name}.key`), '-out', join(folder, `${name}.crt`)],
      ],
      { stdio: 'pipe' },
    );

  test('are told with their ends; what is none is left out', async () => {
    const root = await rootWith({ '/etc/kaiwudb/certs/broken.crt': 'nothing', '/etc/kaiwudb/certs/notes.txt': '' });
    const folder = join(root, '/etc/kaiwudb/certs');
    make(folder, 'ca', 3650);
    make(folder, 'node', 10);
    const found = await expiries(folder);
    expect(found.map(({ file }) => file)).toEqual(['ca.crt', 'node.crt']);
    for (const [at, days] of [3650, 10].entries()) {
      const leftMs = (found[at]?.expiresAtMs ?? 0) - Date.now();
      expect(Math.abs(leftMs - days * DAY_MS)).toBeLessThan(DAY_MS / 10);
    }
  });

  test('none where there are none', async () => expect(await expiries(await rootWith())).toEqual([]));
});

test('the size of what is installed', async () => {
  const root = await rootWith({ '/k/bin/kwbase': 'x'.repeat(1000), '/k/lib/a.so': 'y'.repeat(24) });
  await symlink('/k/bin/kwbase', join(root, 'k/link'));
  expect(await sizeBelow(join(root, 'k'))).toBe(1024);
  expect(await sizeBelow(join(root, 'gone'))).toBeUndefined();
});

test('the C library of this machine, as its own tool tells it', async () => {
  const told = execFileSync('getconf', ['GNU_LIBC_VERSION'], { encoding: 'utf8' });
  expect(`glibc ${await glibcVersion()}\n`).toBe(told);
});

test.each([
  ['those of its authority, wherever they are mounted from', '/srv/certs/ca.crt', {}, '/srv/certs'],
  ['those that make up the node', undefined, { certificates: '/srv/tlcp' }, '/root/srv/tlcp'],
  ["those of the vendor's script", undefined, undefined, '/root/etc/kaiwudb/certs'],
])('the certificates of a node are %s', (_, authority, places, certificates) => {
  const site = { places: places && { configuration: [], ...places } } as unknown as Site;
  const endpoint = { host: '', port: 1, ...(authority && { authority }) };
  expect(placeOf({ site, endpoint }, '/root').certificates).toBe(certificates);
});

describe('the whole look', () => {
  const place = (port: number): Place => ({
    method: 'script-bare',
    installDir: '/usr/local/kaiwudb',
    dataDir: '/var/lib/kaiwudb',
    address: '127.0.0.9',
    port,
    httpPort: 1,
    security: 'insecure',
    certificates: '/nowhere',
  });

  test('tells of a taken port only while the database is down', async () => {
    const root = await rootWith();
    const look = new SurroundingsLook({ root, stateDir: root, now: () => 0 });
    const port = await listenOn('127.0.0.9');
    expect((await look.look(place(port), false)).takenPorts).toEqual([]);
    expect((await look.look(place(port), true)).takenPorts).toMatchObject([
      { port, program: expect.stringContaining(String(process.pid)) },
    ]);
  });

  test('tells how large the installed version is: its directory, or what its deployment says', async () => {
    const root = await rootWith();
    const directory = join(root, '/usr/local/kaiwudb');
    await mkdir(directory, { recursive: true });
    await writeFile(join(directory, 'kwbase'), 'x'.repeat(1_000));
    const look = async (size?: () => Promise<number | undefined>) =>
      (await new SurroundingsLook({ root, stateDir: root, now: () => 0 }).look(place(1), false, size)).installedBytes;
    expect(await look()).toBe(1_000);
    expect(await look(async () => 77)).toBe(77);
    expect(await look(async () => undefined)).toBeUndefined();
  });

  test('asks what changes rarely again after ten minutes, and when the deployment is another', async () => {
    const root = await rootWith();
    let nowMs = 1_000;
    const look = new SurroundingsLook({ root, stateDir: root, now: () => nowMs });
    const found = async (at = place(1)) => (await look.look(at, false)).restarters.length;
    expect(await found()).toBe(0);
    await mkdir(join(root, '/etc/cron.d'), { recursive: true });
    await writeFile(join(root, '/etc/cron.d/x'), '* * * * * root start kaiwudb\n');
    nowMs += 599_000;
    expect(await found()).toBe(0);
    nowMs += 1_000;
    expect(await found()).toBe(1);
    await rm(join(root, '/etc/cron.d/x'));
    expect(await found(place(2))).toBe(0);
  });
});
