import { readFileSync, writeFileSync } from 'node:fs';
import { rename } from 'node:fs/promises';
import { join } from 'node:path';
import type { Problem } from '@kwfleet/core';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { poll } from '../standin/rig.ts';
import { Playground } from './playground.ts';

/** Every refusal has a stable code, names the node, says what to do, exits 2, and leaves the nodes' own records as they were. */
let playground: Playground;
let cluster: string;

beforeAll(async () => {
  playground = await Playground.create({ topology: 'multi-replica' });
  await playground.addPackage({ version: '3.1.0' });
  cluster = (await playground.client.clusters())[0]?.name ?? '';
});

/** Every test leaves the cluster as it found it. */
afterEach(async (context) => {
  if (context.task.result?.state === 'fail') console.error(playground.logs());
  await playground.healthy();
});

afterAll(async () => {
  const touched = playground.rig.nodes.flatMap((node) =>
    node.record().filter(({ event }) => event === 'stop' || event === 'draining'),
  );
  await playground.close();
  expect(touched, 'a refusal touched a node').toEqual([]);
});

async function refusal(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await playground.kwfleet('plan', cluster, '--backup', 'none:test', ...args);
  expect(code, stdout + stderr).toBe(2);
  return stdout + stderr;
}

/** Waits until the controller shows what was just done to a node. */
const seen = (what: string, look: () => Promise<unknown>) => poll(what, async () => Boolean(await look()));

const installationOf = async (node: string) =>
  (await playground.client.nodes()).find(({ id }) => id === node)?.report?.installation;

describe('refused before anything is touched', () => {
  it('an unknown cluster, an unknown version, no package, and words that are no version', async () => {
    const unknown = await playground.kwfleet('plan', 'nowhere', '--to', '3.1.0');
    expect(unknown).toMatchObject({ code: 2 });
    expect(unknown.stderr).toContain('CLUSTER_UNKNOWN');
    expect(await refusal('--to', '3.2.0')).toContain('PACKAGE_UNKNOWN');
    expect(await refusal('--to', 'newest')).toContain('VERSION_INVALID');
  });

  it('an older version, and the same one', async () => {
    await playground.addPackage({ version: '2.2.0' });
    await playground.addPackage({ version: '3.0.0' });
    expect(await refusal('--to', '2.2.0')).toContain('VERSION_OLDER');
    expect(await refusal('--to', '3.0.0')).toContain('VERSION_EQUAL');
  });

  it('an extension step that deploy.sh takes only with the bypass', async () => {
    for (const node of playground.rig.nodes) {
      writeFileSync(join(node.installed.root, 'etc/kaiwudb/info/.version'), '3.0.0\nhotfix1\n');
    }
    await playground.addPackage({ version: '3.0.0', extension: 'patch1' });
    await seen('the extension', async () => (await installationOf('n1'))?.versions.recorded?.includes('hotfix1'));
    expect(await refusal('--to', '3.0.0-patch1')).toContain('VERSION_UNSUPPORTED');
    for (const node of playground.rig.nodes)
      writeFileSync(join(node.installed.root, 'etc/kaiwudb/info/.version'), '3.0.0\n\n');
    await seen('the release', async () => (await installationOf('n1'))?.versions.recorded === '3.0.0');
  });

  it('a package of another architecture', async () => {
    await playground.addPackage({ version: '3.3.0', architecture: process.arch === 'arm64' ? 'amd64' : 'arm64' });
    expect(await refusal('--to', '3.3.0')).toContain('ARCHITECTURE_MISMATCH');
  });

  it('a file that is no package, and one that is cut off', async () => {
    const file = join(playground.rig.directory, 'broken.tar.gz');
    writeFileSync(file, 'not a package');
    expect((await playground.kwfleet('package', 'add', file)).stderr).toContain('PACKAGE_UNREADABLE');
    const whole = readFileSync(await playground.buildPackage({ version: '3.4.0' }));
    writeFileSync(file, whole.subarray(0, whole.length / 2));
    expect((await playground.kwfleet('package', 'add', file)).stderr).toMatch(/PACKAGE_(UNREADABLE|INCOMPLETE)/);
  });

  it('no word about a backup', async () => {
    const { code, stdout, stderr } = await playground.kwfleet('plan', cluster, '--to', '3.1.0');
    expect(code).toBe(2);
    expect(stdout + stderr).toContain('BACKUP_REQUIRED');
  });

  it('a node whose agent is gone, and one that the database lists and no agent ever reported', async () => {
    await playground.agents[1]?.end('SIGKILL');
    await seen('n2 unknown', async () =>
      (await playground.client.nodes()).some(({ id, state }) => id === 'n2' && state === 'unknown'),
    );
    const text = await refusal('--to', '3.1.0');
    expect(text).toContain('NODE_UNREACHABLE');
    expect(text).toContain('n2');
    playground.agents[1]?.start();
  });

  it('an unhealthy cluster: a node that is down', async () => {
    await playground.rig.node(3).kill();
    await seen('n3 down', async () =>
      (await playground.client.nodes()).some(({ id, state }) => id === 'n3' && state === 'down'),
    );
    const text = await refusal('--to', '3.1.0');
    expect(text).toMatch(/NODE_NOT_RUNNING|NODE_NOT_LIVE/);
    expect(text).toContain('n3');
    await playground.rig.node(3).start();
  });

  it('an unhealthy cluster: under-replicated ranges, a running job', async () => {
    const job = { job_id: '77', job_type: 'SCHEMA CHANGE', description: 'ALTER TABLE t', status: 'running' };
    for (const node of playground.rig.nodes) node.setKnobs({ extraUnderreplicated: 2, jobs: [job] });
    const text = await poll('the checks see it', async () => {
      const { stdout } = await playground.kwfleet('plan', cluster, '--to', '3.1.0', '--backup', 'none:test');
      return stdout.includes('JOBS_RUNNING') && stdout.includes('RANGES_UNDERREPLICATED') && stdout;
    });
    expect(text).toContain('77');
    for (const node of playground.rig.nodes) node.setKnobs({});
  });

  it('MODE and the start command telling different topologies', async () => {
    const file = join(playground.rig.node(2).installed.root, 'etc/kaiwudb/info/MODE');
    const before = readFileSync(file, 'utf8');
    writeFileSync(file, before.replace('multi-replication', 'single-replication'));
    await seen('the change', async () => (await installationOf('n2'))?.topology === 'single-replica');
    expect(await refusal('--to', '3.1.0')).toContain('TOPOLOGY_DISAGREES');
    writeFileSync(file, before);
    await seen('the old MODE', async () => (await installationOf('n2'))?.topology === 'multi-replica');
  });

  it('a node that is not installed any more', async () => {
    const { unitFile } = playground.rig.node(2).installed;
    await rename(unitFile, `${unitFile}.away`);
    await seen('n2 without a unit', async () => (await installationOf('n2'))?.unit.exists !== true);
    expect(await refusal('--to', '3.1.0')).toContain('NOT_INSTALLED');
    await rename(`${unitFile}.away`, unitFile);
  });

  it('a second run on the same cluster, a changed hash, malformed JSON', async () => {
    const post = (path: string, body: string) =>
      fetch(`${playground.url}${path}`, { method: 'POST', body, headers: { 'content-type': 'application/json' } });
    const malformed = await post('/v1/plans', '{"cluster":');
    expect(malformed.status).toBe(400);
    expect((await malformed.json()) as Problem).toMatchObject({ code: 'BAD_REQUEST' });
    for (const agent of playground.agents) expect(agent.running).toBe(true);
    const options = { backup: { policy: 'none' as const, reason: 'test' } };
    const plan = await playground.client.createPlan({ cluster, to: '3.1.0', options });
    const changed = await post('/v1/runs', JSON.stringify({ plan: plan.id, hash: '0'.repeat(64) }));
    expect([changed.status, ((await changed.json()) as Problem).code]).toEqual([409, 'PLAN_HASH_MISMATCH']);
    // The run is kept from touching anything: no node answers its gate.
    for (const node of playground.rig.nodes) node.setKnobs({ hangStatus: true, hangSql: true });
    const first = await playground.client.createRun({ plan: plan.id, hash: plan.hash });
    const second = await post('/v1/runs', JSON.stringify({ plan: plan.id, hash: plan.hash }));
    expect([second.status, ((await second.json()) as Problem).code]).toEqual([409, 'RUN_ACTIVE']);
    await playground.client.choose(first.id, 'abort');
    for (const node of playground.rig.nodes) node.setKnobs({});
    await seen('the run ended', async () => (await playground.client.run(first.id)).status === 'aborted');
  });
});
