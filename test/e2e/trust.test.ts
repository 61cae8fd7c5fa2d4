import { generateKeyPairSync } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { PackageInfo, PackageView, TrustView } from '@kwfleet/core';
import {
  Metadata,
  MetaFile,
  newRoot,
  newTargets,
  type Root,
  readMetadata,
  type SigningKey,
  Snapshot,
  SPEC_VERSION,
  signingKey,
  signMetadata,
  type Targets,
  Timestamp,
  timeText,
  writeMetadata,
} from '@kwfleet/protocol/tuf';
import { pino } from 'pino';
import { afterAll, afterEach, beforeAll, describe, expect, it, onTestFinished, vi } from 'vitest';
import type { Watch } from '../../packages/agent/src/driver/driver.ts';
import { Link } from '../../packages/agent/src/link.ts';
import { PackageCache } from '../../packages/agent/src/packages.ts';
import { PackageTrust, type TrustPolicy } from '../../packages/agent/src/trust.ts';
import { main } from '../../packages/cli/src/main.ts';
import { type Controller, controllerConfig, startController } from '../../packages/controller/src/index.ts';
import { type Database, openDatabase } from '../../packages/controller/src/store/database.ts';
import { openRepository } from '../../packages/controller/src/trust/repository.ts';
import { urlOf, usePostgres } from '../../packages/controller/test/support.ts';
import { buildPackage } from '../standin/package.ts';

/**
 * What a host accepts: a real controller with a real database, the agent's own code over a real link, and people who
 * use the command line. The thief of a controller has its database, its key and its files, and none of the people's.
 */
const postgres = usePostgres();
const log = pino({ level: 'silent' });
const DAY_MS = 86_400_000;
const WATCH: Watch = {
  detail() {},
  moved() {},
  async fence() {},
  output() {},
  async pause() {
    throw new Error('the controller could not be asked');
  },
};
let directory: string;
let packageFile: string;
let otherFile: string;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'kwfleet-trust-'));
  packageFile = await buildPackage({ version: '3.1.0', outDir: directory });
  otherFile = await buildPackage({ version: '3.2.0', outDir: directory });
  await writeFile(join(directory, 'passphrase'), 'correct horse battery\n', { mode: 0o600 });
});
afterEach(() => vi.useRealTimers());
afterAll(() => rm(directory, { recursive: true, force: true }));

type Fleet = {
  readonly controller: Controller;
  readonly database: Database;
  readonly dataDir: string;
  cli(...args: string[]): Promise<{ code: number; out: string; err: string }>;
  /** The command line, which must succeed. */
  did(...args: string[]): Promise<string>;
  add(file: string): Promise<PackageView>;
  trust(): Promise<TrustView>;
  link(): Link;
};

async function fleet(): Promise<Fleet> {
  const settings = await postgres.settings();
  const dataDir = await mkdtemp(join(directory, 'controller-'));
  const config = {
    data_dir: dataDir,
    rest: { port: 0 },
    grpc: { port: 0, insecure: true },
    database: { url: urlOf(settings) },
    log_level: 'silent',
  };
  const controller = await startController(controllerConfig(config));
  const database = openDatabase(settings, log);
  onTestFinished(async () => {
    await database.close();
    await controller.close();
  });
  const cli = async (...args: string[]) => {
    let [out, err] = ['', ''];
    const code = await main(args, {
      env: { KWFLEET_SERVER: controller.restUrl, NO_COLOR: '1' },
      out: { write: (text) => (out += text) },
      err: { write: (text) => (err += text) },
    });
    return { code, out, err };
  };
  return {
    controller,
    database,
    dataDir,
    cli,
    async did(...args) {
      const { code, out, err } = await cli(...args);
      expect(code, `${args.join(' ')}\n${out}${err}`).toBe(0);
      return out;
    },
    async add(file) {
      const { out } = await cli('package', 'add', file, '--json');
      return JSON.parse(out) as PackageView;
    },
    trust: async () => (await (await fetch(`${controller.restUrl}/v1/trust`)).json()) as TrustView,
    link: () =>
      new Link({
        address: controller.grpcAddress,
        identity: undefined,
        node: 'n1',
        agentVersion: '0',
        log,
        opening: () => [],
        inHand: () => [],
        onAction: async () => {},
        onResultStored: async () => {},
        onReportRequest: () => {},
        onPrefetch: () => {},
        onInventoryRequest: () => {},
      }),
  };
}

type Host = { readonly trust: PackageTrust; readonly cache: PackageCache; readonly stateDir: string };

/** A host that has pinned nothing yet; `stateDir` is that of an earlier life. */
async function host({ link }: Fleet, policy: TrustPolicy = { kind: 'first-contact' }, given?: string): Promise<Host> {
  const stateDir = given ?? (await mkdtemp(join(directory, 'host-')));
  const wire = link();
  const trust = new PackageTrust({ stateDir, policy, source: (name) => wire.fetchMetadata(name), log });
  const cache = new PackageCache({
    stateDir,
    trust,
    limitBytes: 1024 ** 3,
    source: async (sha256, offset) => ({ byPeer: false, chunks: wire.fetchPackage(sha256, offset) }),
  });
  return { trust, cache, stateDir };
}

const bare = ({ id: _id, addedAtMs: _at, signed: _signed, ...info }: PackageView): PackageInfo => info;

/** That the host refuses the package with the code, and that no byte of it came to rest here. */
async function refuses({ cache, stateDir }: Host, info: PackageInfo, code: string): Promise<void> {
  await expect(cache.ensure(info, WATCH)).rejects.toMatchObject({ code });
  await expect(cache.ready(info, WATCH)).rejects.toMatchObject({ code });
  expect(await readdir(join(stateDir, 'packages', info.sha256)).catch(() => [])).toEqual([]);
}

async function key(name: string): Promise<string> {
  const file = join(await mkdtemp(join(directory, 'key-')), name);
  const { did } = { did: (...args: string[]) => main(args, { out: { write() {} }, err: { write() {} } }) };
  expect(await did('key', 'create', file, '--passphrase-file', join(directory, 'passphrase'))).toBe(0);
  return file;
}

const signed = (...keys: string[]): string[] => [
  ...keys.flatMap((file) => ['--key', file]),
  '--passphrase-file',
  join(directory, 'passphrase'),
  '--yes',
];

/** A fleet whose packages people sign, with one package signed, and a host that follows it. */
async function inCharge() {
  const one = await fleet();
  const mine = await key('mine');
  await one.did('root', 'init', ...signed(mine));
  const info = bare(await one.add(packageFile));
  await one.did('package', 'sign', packageFile, ...signed(mine));
  const there = await host(one);
  await there.trust.refresh();
  return { fleet: one, key: mine, info, host: there };
}

const newKey = (): SigningKey =>
  signingKey(generateKeyPairSync('ed25519').privateKey.export({ format: 'pem', type: 'pkcs8' }).toString());

/** As the next version. */
const bump = ({ signed }: { readonly signed: { readonly version: number } }): void =>
  void Object.assign(signed, { version: signed.version + 1 });

type Role = 'targets' | 'snapshot' | 'timestamp';

async function newest(database: Database, role: Role | 'root'): Promise<{ version: number; body: string }> {
  const [row] = await database.query<{ version: number; body: string }>(
    'SELECT version, body FROM trust_metadata WHERE role = $1 ORDER BY version DESC LIMIT 1',
    [role],
  );
  return row as { version: number; body: string };
}

const put = (database: Database, role: Role, version: number, body: string) =>
  database.execute(
    `INSERT INTO trust_metadata (role, version, body, stored_at_ms) VALUES ($1, $2, $3, 0)
     ON CONFLICT (role, version) DO UPDATE SET body = excluded.body`,
    [role, version, body],
  );

/** All that a thief can do with the controller's key: say that this list is the newest. */
async function publishAsThief({ database, dataDir }: Fleet, targets: Metadata<Targets>): Promise<void> {
  const online = signingKey(await readFile(join(dataDir, 'trust/online.key'), 'utf8'));
  const expires = timeText(Date.now() + DAY_MS);
  const body = writeMetadata(targets);
  await put(database, 'targets', targets.signed.version, body);
  // Newer than all that any host has seen.
  const version = (await newest(database, 'snapshot')).version + 1000;
  const meta = { 'targets.json': new MetaFile({ version: targets.signed.version }) };
  const snapshot = new Metadata(new Snapshot({ specVersion: SPEC_VERSION, version, expires, meta }));
  signMetadata(snapshot, online);
  await put(database, 'snapshot', version, writeMetadata(snapshot));
  const stamp = (await newest(database, 'timestamp')).version + 1000;
  const snapshotMeta = new MetaFile({ version });
  const timestamp = new Metadata(new Timestamp({ specVersion: SPEC_VERSION, version: stamp, expires, snapshotMeta }));
  signMetadata(timestamp, online);
  await put(database, 'timestamp', stamp, writeMetadata(timestamp));
}

describe('in evaluation', () => {
  it('the controller signs what is added, says so loudly, and hosts pin its root at the first contact', async () => {
    const one = await fleet();
    const { code, err } = await one.cli('package', 'add', packageFile);
    expect([code, err]).toEqual([0, expect.stringContaining('EVALUATION')]);
    const view = await one.trust();
    expect(view).toMatchObject({ evaluation: true, root: { version: 1 } });
    // Whoever enrolls a host is handed what it can pin.
    expect(await one.did('enrollment', 'create')).toContain(view.root.sha256);
    const [info] = ((await (await fetch(`${one.controller.restUrl}/v1/packages`)).json()) as { items: PackageView[] })
      .items;
    expect(info?.signed).toBe(true);
    const there = await host(one);
    expect(existsSync(join(await there.cache.ensure(bare(info as PackageView), WATCH), 'deploy.sh'))).toBe(true);
    expect(await readFile(join(there.stateDir, 'trust/anchor'), 'utf8')).toBe(view.root.sha256);
  });

  it('ends with people’s keys: hosts follow, and what nobody signed is refused by plan and host', async () => {
    const one = await fleet();
    const info = bare(await one.add(packageFile));
    const there = await host(one);
    await there.cache.ensure(info, WATCH);
    const mine = await key('mine');
    expect(await one.did('root', 'init', ...signed(mine))).toContain('Root 2');
    const fresh = await host(one);
    await refuses(fresh, info, 'PACKAGE_UNTRUSTED');
    await expect(there.cache.ensure(info, WATCH)).rejects.toMatchObject({ code: 'PACKAGE_UNTRUSTED' });
    await one.did('package', 'sign', packageFile, ...signed(mine));
    await there.cache.ensure(info, WATCH);
    await fresh.cache.ensure(info, WATCH);
    expect((await one.add(otherFile)).signed).toBe(false);
    await one.did('package', 'add', otherFile, ...signed(mine));
    expect((await one.add(otherFile)).signed).toBe(true);
    await one.did('package', 'sign', ...signed(mine), '--remove', info.sha256);
    await refuses(await host(one), info, 'PACKAGE_UNTRUSTED');
  });
});

describe('a thief of the controller', () => {
  it('cannot change a package: other bytes under its name are refused', async () => {
    const { fleet: one, info, host: there } = await inCharge();
    const file = join(one.dataDir, 'packages', `${info.sha256}.tar.gz`);
    const bytes = await readFile(file);
    bytes[100] = (bytes[100] as number) ^ 1;
    await writeFile(file, bytes);
    await expect(there.cache.ensure(info, WATCH)).rejects.toMatchObject({ code: 'PACKAGE_CORRUPT' });
    expect(existsSync(join(there.stateDir, 'packages', info.sha256, 'unpacked'))).toBe(false);
  });

  it('cannot change the list: a manifest that was tampered with is refused', async () => {
    const { fleet: one, info, host: there } = await inCharge();
    const { body } = await newest(one.database, 'targets');
    const tampered = readMetadata('targets', body.replaceAll('3.1.0', '3.9.0'));
    bump(tampered);
    await publishAsThief(one, tampered);
    await refuses(there, { ...info, version: '3.9.0' }, 'PACKAGE_UNTRUSTED');
  });

  it.each([
    ['a key that nobody trusts', async () => newKey()],
    [
      'the controller’s own key',
      async ({ dataDir }: Fleet) => signingKey(await readFile(join(dataDir, 'trust/online.key'), 'utf8')),
    ],
  ])('cannot publish a package with %s', async (_what, keyOf) => {
    const { fleet: one, host: there } = await inCharge();
    const evil = bare(await one.add(otherFile));
    const { version } = await newest(one.database, 'targets');
    const list = newTargets(version + 1, Date.now() + DAY_MS, [evil]);
    signMetadata(list, await keyOf(one));
    await publishAsThief(one, list);
    await refuses(there, evil, 'PACKAGE_UNTRUSTED');
  });

  it('cannot put itself into the root', async () => {
    const { fleet: one, info, host: there } = await inCharge();
    const { version, body } = await newest(one.database, 'root');
    const thief = newKey();
    const text = body.replaceAll((await one.trust()).root.keys[0] as string, thief.public);
    const root = readMetadata('root', text);
    bump(root);
    signMetadata(root, thief);
    await put(one.database, 'root' as Role, version + 1, writeMetadata(root));
    await refuses(there, info, 'PACKAGE_UNTRUSTED');
  });

  it('cannot call a package another than it is', async () => {
    const { info, host: there } = await inCharge();
    for (const lie of [{ version: '3.2.0' }, { architecture: 'riscv' }, { sizeBytes: info.sizeBytes + 1 }]) {
      await refuses(there, { ...info, ...lie }, 'PACKAGE_UNTRUSTED');
    }
  });

  it('cannot bring an old list back: metadata that was rolled back is refused', async () => {
    const { fleet: one, key: mine, info, host: there } = await inCharge();
    const before = await Promise.all(
      (['targets', 'snapshot', 'timestamp'] as const).map(async (role) => ({
        role,
        ...(await newest(one.database, role)),
      })),
    );
    await one.did('package', 'sign', ...signed(mine), '--remove', info.sha256);
    await refuses(there, info, 'PACKAGE_UNTRUSTED');
    for (const { role, version } of before)
      await one.database.execute('DELETE FROM trust_metadata WHERE role = $1 AND version > $2', [role, version]);
    await refuses(there, info, 'TRUST_ROLLED_BACK');
    // Nor with a newer word for it: what the list names must not be older either.
    const old = readMetadata('targets', before[0]?.body ?? '');
    await publishAsThief(one, old);
    await refuses(there, info, 'TRUST_ROLLED_BACK');
  });

  it('cannot withhold news: a frozen word for what is newest is refused once it is old', async () => {
    const { fleet: one, info, host: there } = await inCharge();
    const frozen = new Map<string, Uint8Array | undefined>();
    const wire = one.link();
    for (const name of ['timestamp.json', 'root.json']) frozen.set(name, await wire.fetchMetadata(name));
    const source = async (name: string) => (frozen.has(name) ? frozen.get(name) : wire.fetchMetadata(name));
    const trust = new PackageTrust({ stateDir: there.stateDir, policy: { kind: 'first-contact' }, source, log });
    await trust.verify(info);
    vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + 2 * DAY_MS });
    await expect(trust.verify(info)).rejects.toMatchObject({ code: 'TRUST_EXPIRED' });
  });

  it('cannot mix: a list that does not belong to the newest snapshot is refused', async () => {
    const { fleet: one, key: mine, info, host: there } = await inCharge();
    const old = await newest(one.database, 'targets');
    await one.did('package', 'sign', ...signed(mine), '--remove', info.sha256);
    const { version } = await newest(one.database, 'targets');
    await put(one.database, 'targets', version, old.body);
    await refuses(there, info, 'PACKAGE_UNTRUSTED');
  });

  it('cannot make a person sign what they did not see', async () => {
    const { fleet: one, key: mine, info } = await inCharge();
    const evil = bare(await one.add(otherFile));
    // A list by nobody's key is not carried on.
    const list = newTargets((await newest(one.database, 'targets')).version + 1, Date.now() + DAY_MS, [info, evil]);
    signMetadata(list, newKey());
    await publishAsThief(one, list);
    await one.did('package', 'sign', packageFile, ...signed(mine));
    expect((await one.trust()).packages.sha256s).toEqual([info.sha256]);
    // A package that is not what the controller says of it is not signed.
    await one.database.execute(`UPDATE packages SET info = info || '{"version": "3.3.0"}' WHERE sha256 = $1`, [
      evil.sha256,
    ]);
    const lied = await one.cli('package', 'sign', otherFile, ...signed(mine));
    expect(lied).toMatchObject({ code: 2, err: expect.stringContaining('Do not sign') });
    // A root that does not follow from the one this key knows is not believed.
    const { version, body } = await newest(one.database, 'root');
    const root = readMetadata('root', body);
    bump(root);
    signMetadata(root, newKey());
    await put(one.database, 'root' as Role, version + 1, writeMetadata(root));
    const refused = await one.cli('package', 'sign', packageFile, ...signed(mine));
    expect(refused).toMatchObject({ code: 2, err: expect.stringContaining('TRUST_INVALID') });
  });
});

describe('keys', () => {
  it('are rotated, and a host that slept through two roots follows', async () => {
    const { fleet: one, key: first, info, host: there } = await inCharge();
    const [second, third] = [await key('second'), await key('third')];
    const swap = (from: string, to: string) => [
      ...['--root-key', to, '--package-key', to],
      ...['--remove-root-key', from, '--remove-package-key', from],
    ];
    await one.did('root', 'change', ...signed(first, second), ...swap(first, second));
    await one.did('root', 'change', ...signed(second, third), ...swap(second, third));
    expect((await one.trust()).packages.acceptable).toBe(false);
    await refuses(there, info, 'PACKAGE_UNTRUSTED');
    // The key that was taken out signs nothing any more.
    expect((await one.cli('package', 'sign', packageFile, ...signed(first))).code).toBe(2);
    await one.did('package', 'sign', packageFile, ...signed(third));
    await there.cache.ensure(info, WATCH);
    expect((await one.trust()).root.version).toBe(4);
    const root = readMetadata('root', await readFile(join(there.stateDir, 'trust/root.json'), 'utf8'));
    expect(root.signed.version).toBe(4);
  });

  it('sign together where a threshold asks for it', async () => {
    const one = await fleet();
    const info = bare(await one.add(packageFile));
    const [mine, yours] = [await key('mine'), await key('yours')];
    const both = ['--threshold', '2', '--package-threshold', '2'];
    await one.did('root', 'init', ...signed(mine), '--root-key', yours, ...both);
    expect(await one.trust()).toMatchObject({ evaluation: true, staged: { root: { version: 2 } } });
    await one.did('root', 'sign', ...signed(yours));
    expect(await one.trust()).toMatchObject({ evaluation: false, root: { version: 2, threshold: 2 }, staged: {} });
    const there = await host(one);
    await one.did('package', 'sign', packageFile, ...signed(mine));
    await refuses(there, info, 'PACKAGE_UNTRUSTED');
    expect(await one.did('package', 'sign', ...signed(yours))).toContain('published');
    await there.cache.ensure(info, WATCH);
    // One alone changes nothing any more.
    await one.did('root', 'change', ...signed(mine), '--threshold', '1');
    expect(await one.trust()).toMatchObject({
      root: { version: 2 },
      staged: { root: { version: 3, signedBy: [expect.any(String)] } },
    });
  });

  it('open with their passphrase only, and never lie open', async () => {
    const file = await key('mine');
    const { mode } = await import('node:fs').then(({ statSync }) => statSync(file));
    expect(mode & 0o777).toBe(0o600);
    expect(await readFile(file, 'utf8')).not.toContain('PRIVATE');
    const one = await fleet();
    await writeFile(join(directory, 'wrong'), 'another passphrase\n');
    const wrong = ['--key', file, '--passphrase-file', join(directory, 'wrong'), '--yes'];
    expect(await one.cli('root', 'init', ...wrong)).toMatchObject({
      code: 2,
      err: expect.stringContaining('passphrase'),
    });
    expect((await one.trust()).evaluation).toBe(true);
    expect((await one.cli('key', 'create', file, '--passphrase-file', join(directory, 'passphrase'))).code).toBe(2);
  });
});

describe('the controller', () => {
  it('publishes nothing that hosts would refuse, nor a root that lets itself sign', async () => {
    const { fleet: one } = await inCharge();
    const { root } = await one.trust();
    const post = async (role: string, metadata: string) => {
      const headers = { 'content-type': 'application/json' };
      const answer = await fetch(`${one.controller.restUrl}/v1/trust/${role}`, {
        method: 'POST',
        headers,
        body: metadata,
      });
      return (await answer.json()) as { code?: string; detail?: string };
    };
    const stranger = newKey();
    const refused = async (role: string, metadata: Metadata<Root> | Metadata<Targets>, why: string) => {
      signMetadata(metadata as Metadata<Root>, stranger);
      expect(await post(role, writeMetadata(metadata))).toMatchObject({
        code: 'TRUST_INVALID',
        detail: expect.stringContaining(why),
      });
    };
    const { online } = await one.trust();
    const own = { keys: [stranger.public], threshold: 1 };
    const contents = { version: root.version + 1, expiresAtMs: Date.now() + DAY_MS, root: own, targets: own };
    const its = { keys: [online], threshold: 1 };
    await refused('root', newRoot({ ...contents, version: root.version + 2, online: its }), 'next root is version');
    await refused('root', newRoot({ ...contents, targets: its, online: its }), "controller's own key");
    await refused('root', newRoot({ ...contents, online: own }), "this controller's key");
    await refused('root', newRoot({ ...contents, expiresAtMs: Date.now() - DAY_MS, online: its }), 'expired');
    await refused(
      'root',
      newRoot({ ...contents, root: { keys: own.keys, threshold: 2 }, online: its }),
      'keys of root',
    );
    const { version } = await newest(one.database, 'targets');
    await refused('targets', newTargets(version + 1, Date.now() + DAY_MS, []), 'no key that may sign');
    await refused('targets', newTargets(version, Date.now() + DAY_MS, []), 'published already');
    await refused('targets', newTargets(version + 1, Date.now() - DAY_MS, []), 'expired');
    expect(await post('targets', '{"signed": {}, "signatures": []}')).toMatchObject({ code: 'TRUST_INVALID' });
    // A stranger's root waits for those who may agree, and changes nothing.
    const waiting = newRoot({ ...contents, online: its });
    signMetadata(waiting, stranger);
    await post('root', writeMetadata(waiting));
    expect((await one.trust()).root).toEqual(root);
  });
});

it('a second controller with another key signs nothing that hosts would refuse', async () => {
  const one = await fleet();
  const info = bare(await one.add(packageFile));
  const { version } = await newest(one.database, 'timestamp');
  const other = await openRepository(one.database, newKey(), log);
  await one.database.execute(
    `UPDATE trust_metadata SET body = replace(body, '"expires":"2', '"expires":"1') WHERE role = 'timestamp'`,
  );
  await other.metadata('timestamp.json');
  expect((await newest(one.database, 'timestamp')).version).toBe(version);
  await expect(one.database.transaction((sql) => other.changed(sql, { removed: info.sha256 }))).rejects.toMatchObject({
    code: 'TRUST_INVALID',
  });
  // The one that has the key signs anew what is late.
  await (await host(one)).cache.ensure(info, WATCH);
  expect((await newest(one.database, 'timestamp')).version).toBeGreaterThan(version);
});

describe('a host', () => {
  it('pins the root that its configuration names, and no other', async () => {
    const { fleet: one, info } = await inCharge();
    const { root } = await one.trust();
    const named = await host(one, { kind: 'root-sha256', sha256: root.sha256 });
    await named.cache.ensure(info, WATCH);
    await refuses(await host(one, { kind: 'root-sha256', sha256: 'f'.repeat(64) }), info, 'TRUST_ROOT_UNKNOWN');
    const file = join(directory, 'root.json');
    await one.did('root', 'show', '--out', file);
    await (await host(one, { kind: 'root', file })).cache.ensure(info, WATCH);
    // Of another fleet: its packages are strangers.
    const other = await inCharge();
    await refuses(await host(other.fleet, { kind: 'root', file }), other.info, 'PACKAGE_UNTRUSTED');
    // The first root of the evaluation was named when the host was made; it is still found.
    const first = await host(one, { kind: 'root-sha256', sha256: await hashOfRoot(one, 1) });
    await first.cache.ensure(info, WATCH);
  });

  it('finishes without the controller what it began, and begins nothing', async () => {
    const { fleet: one, info, host: there } = await inCharge();
    const place = await there.cache.ensure(info, WATCH);
    await one.controller.close();
    expect(await there.cache.ready(info, WATCH)).toBe(place);
    await expect(there.cache.ensure(info, WATCH)).rejects.toThrow('could not be asked');
    // What was not vouched for as just this is not ready.
    await expect(there.cache.ready({ ...info, version: '3.2.0' }, WATCH)).rejects.toThrow('could not be asked');
  });

  it('verifies nothing only where its own configuration says so', async () => {
    const { fleet: one } = await inCharge();
    const unsigned = bare(await one.add(otherFile));
    const off = await host(one, { kind: 'off' });
    await off.cache.ensure(unsigned, WATCH);
    // What came while it was off is not trusted when it is on again.
    await expect((await host(one, undefined, off.stateDir)).cache.ready(unsigned, WATCH)).rejects.toMatchObject({
      code: 'PACKAGE_UNTRUSTED',
    });
  });

  it('keeps what it knows through a power cut in the middle of a write', async () => {
    const { fleet: one, info, host: there } = await inCharge();
    await mkdir(join(there.stateDir, 'trust/work'));
    await writeFile(join(there.stateDir, 'trust/work/root.json'), '{"half');
    await writeFile(join(there.stateDir, 'trust/timestamp.json.new'), '{"half');
    await (await host(one, undefined, there.stateDir)).cache.ensure(info, WATCH);
  });
});

async function hashOfRoot({ database }: Fleet, version: number): Promise<string> {
  const [row] = await database.query<{ sha256: string }>(
    `SELECT encode(sha256(convert_to(body, 'UTF8')), 'hex') AS sha256 FROM trust_metadata WHERE role = 'root' AND version = $1`,
    [version],
  );
  return row?.sha256 ?? '';
}
