import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { makeCertificates } from './certificates.ts';
import { cluster, type Node, poll, runToEnd, SHORT_LIVED } from './rig.ts';

const rowOf = async (asked: Node, id: number): Promise<Record<string, string>> => {
  const row = (await asked.status()).find((candidate) => candidate.id === String(id));
  if (row === undefined) throw new Error(`no row for node ${id}`);
  return row;
};

const total = async (asked: Node, column: string): Promise<number> =>
  (await asked.status()).reduce((sum, row) => sum + Number(row[column]), 0);

describe.concurrent('command line', () => {
  test('version names the build in its own line', async (context) => {
    const { node } = await cluster(context, { mode: 'single', start: false });
    const { stdout } = await runToEnd(node(1).installed.kwbase, ['version']);
    expect(stdout).toMatch(/^KaiwuDB Version: {2}V3\.0\.0\n/);
    expect(stdout).toMatch(/^Platform: +linux /m);
  });

  test('a node that is down cannot be dialled', async (context) => {
    const { nodes } = await cluster(context, { mode: 'single', start: false });
    const result = await nodes[0]?.kwbase('node', 'status');
    expect(result).toMatchObject({ code: 1, stderr: 'Error: cannot dial server.\n' });
  });

  test('node status has the documented columns in every format', async (context) => {
    const node = (await cluster(context)).node(1);
    const base = 'id,address,sql_address,build,started_at,updated_at,locality,start_mode,is_available,is_live';
    const csv = (await node.kwbase('node', 'status', '--format=csv')).stdout.split('\n');
    expect(csv[0]).toBe(base);
    expect(csv[1]).toMatch(
      /^1,127\.\d+\.\d+\.1:26257,127\.\d+\.\d+\.1:26257,V3\.0\.0,\d{4}-\d\d-\d\d .*\+00:00,.*,"",start,true,true$/,
    );
    const ranges = (await node.kwbase('node', 'status', '--ranges', '--format=csv')).stdout.split('\n')[0];
    expect(ranges).toBe(
      `${base},replicas_leaders,replicas_leaseholders,ranges,ranges_unavailable,ranges_underreplicated`,
    );
    const decommission = (await node.kwbase('node', 'status', '--decommission', '--format=csv')).stdout.split('\n')[0];
    expect(decommission).toBe(`${base},gossiped_replicas,is_decommissioning,is_draining`);
    expect((await node.kwbase('node', 'status', '2', '--format=tsv')).stdout.split('\n')[1]).toMatch(
      /^2\t.*\t""\tstart\ttrue\ttrue$/,
    );
    expect((await node.kwbase('node', 'status', '--format=table')).stdout).toContain('(3 rows)');
    expect((await node.kwbase('node', 'status', '--format=records')).stdout).toContain('-[ RECORD 3 ]');
  });

  test('the SQL an upgrade tool asks has answers, unknown SQL has an error', async (context) => {
    const node = (
      await cluster(context, {
        knobs: { jobs: [{ job_id: '7', job_type: 'IMPORT', description: 'x', status: 'running' }] },
      })
    ).node(1);
    expect(
      await node.sql(`SELECT sum((metrics->>'ranges.unavailable')::DECIMAL)::INT, sum((metrics->>'ranges.underreplicated')::DECIMAL)::INT
        FROM kwdb_internal.kv_store_status;`),
    ).toBe('sum,sum\n0,0');
    expect(
      await node.sql(
        "SELECT job_id, job_type, description, status FROM [SHOW JOBS] WHERE status IN ('pending','running','paused','reverting');",
      ),
    ).toContain('7,IMPORT,x,running');
    const gossip = await node.sql(
      'SELECT node_id, node_id AS id, ranges, leases, build_tag, is_live FROM kwdb_internal.gossip_nodes;',
    );
    expect(gossip).toContain('node_id,id,ranges,leases,build_tag,is_live\n1,1,12,4,V3.0.0,true');
    expect(await node.sql('SELECT lease_holder, count(*) FROM kwdb_internal.ranges GROUP BY lease_holder;')).toContain(
      '2,4',
    );
    expect(await node.sql('SELECT node_id, count(*) FROM kwdb_internal.cluster_sessions GROUP BY node_id;')).toContain(
      'node_id,count',
    );
    expect(await node.sql('SHOW CLUSTER SETTING version;')).toBe('version\n3.0.0');
    expect(await node.sql('SHOW CLUSTER SETTING server.time_until_store_dead;')).toContain('30m0s');
    expect(await node.sql('SHOW CLUSTER SETTING cluster.preserve_downgrade_option;')).toContain('""');
    expect(await node.sql('SELECT kwdb_internal.cluster_id()')).toMatch(/[0-9a-f]{8}-/);
    expect(await node.kwbase('sql', '-e', 'SELECT * FROM nowhere')).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('syntax error'),
    });
  });

  test('client and server must agree on the secure mode', async (context) => {
    const node = (await cluster(context, { mode: 'single' })).node(1);
    const certs = join(node.installed.root, 'etc/kaiwudb/certs');
    for (const [name, text] of Object.entries(await makeCertificates(['127.0.0.1']))) {
      await writeFile(join(certs, name), text);
    }
    const asked = await runToEnd(node.installed.kwbase, [
      'node',
      'status',
      `--certs-dir=${certs}`,
      `--host=${node.installed.host}`,
    ]);
    expect(asked).toMatchObject({ code: 1, stderr: expect.stringContaining('insecure') });
  });
});

describe.concurrent('liveness', () => {
  test('a stopped node is live until its record expires, then dead, then NULL to a node that never met it', async (context) => {
    const { nodes, node } = await cluster(context);
    await node(3).stop();
    expect(await rowOf(node(1), 3)).toMatchObject({ is_live: 'true', is_available: 'true' });
    // Once more with a record that nobody has to wait long for.
    node(3).setKnobs(SHORT_LIVED);
    await node(3).start();
    await node(3).ready();
    await node(3).stop();
    await poll('expired', async () => (await rowOf(node(1), 3)).is_live === 'false');
    expect((await rowOf(node(1), 3)).address).not.toBe('NULL');
    expect(await total(node(1), 'ranges_underreplicated')).toBe(12);
    await Promise.all([node(1).stop(), node(2).stop()]);
    await Promise.all([node(1).start(), node(2).start()]);
    await Promise.all(nodes.slice(0, 2).map((up) => up.ready()));
    expect((await rowOf(node(1), 3)).address).toBe('NULL');
  });

  test('a restarted node that does not serve yet still counts as live', async (context) => {
    const { node } = await cluster(context);
    const before = await rowOf(node(1), 2);
    node(2).setKnobs({ startDelayMs: 60_000 });
    await node(2).stop();
    await node(2).start();
    expect(await rowOf(node(1), 2)).toMatchObject({ is_live: 'true', started_at: before.started_at });
  });

  test('without heartbeats a new process is not live although it serves', async (context) => {
    const { node } = await cluster(context, { knobs: SHORT_LIVED });
    node(2).setKnobs({ neverLive: true });
    await node(2).stop();
    await node(2).start();
    await poll('serves', async () => (await fetch(`${node(2).installed.httpUrl}/health`)).ok);
    await poll('not live', async () => (await rowOf(node(1), 2)).is_live === 'false');
    expect(await node(2).isReady()).toBe(false);
  });
});

describe.concurrent('marking', () => {
  test('a mark takes availability, DDL and inserts from the node, and survives all but --upgrade-complete', async (context) => {
    const { node } = await cluster(context);
    expect((await node(1).kwbase('node', 'upgrade', '2')).code).toBe(0);
    await poll('marked', async () => (await rowOf(node(3), 2)).is_available === 'false');
    expect(await rowOf(node(3), 2)).toMatchObject({ is_available: 'false', is_live: 'true' });
    expect(await node(3).sql('SHOW CLUSTER SETTING server.time_until_store_dead')).toContain('3h0m0s');
    await expect(node(2).sql("INSERT INTO kv VALUES ('a','1')")).rejects.toThrow(/upgrading/);
    await expect(node(2).sql('CREATE TABLE t (a INT)')).rejects.toThrow(/upgrading/);
    await node(1).sql("INSERT INTO kv VALUES ('a','1')");
    expect(await node(2).sql("SELECT v FROM kv WHERE k = 'a'")).toBe('v\n1');
    await node(2).stop();
    await node(2).start();
    await node(2).ready();
    expect((await rowOf(node(1), 2)).is_available).toBe('false');
    await node(2).stop();
    await writeFile(
      join(node(2).installed.root, 'etc/kaiwudb/script/kaiwudb_env'),
      'KAIWUDB_START_ARG="--upgrade-complete "\n',
    );
    await node(2).start();
    await node(2).ready();
    await poll('unmarked', async () => (await rowOf(node(1), 2)).is_available === 'true');
    expect(await node(1).sql('SHOW CLUSTER SETTING server.time_until_store_dead')).toContain('30m0s');
    expect(node(2).record().at(-1)).toMatchObject({ event: 'ready', upgradeComplete: true });
  });

  test('a mark is refused while a node is down', async (context) => {
    const { node } = await cluster(context, { knobs: SHORT_LIVED });
    await node(3).stop();
    await poll('expired', async () => (await rowOf(node(1), 3)).is_live === 'false');
    expect(await node(1).kwbase('node', 'upgrade', '1')).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('live or decommissioned'),
    });
    await poll('unmarked', async () => (await rowOf(node(1), 1)).is_available === 'true');
  });
});

describe.concurrent('data', () => {
  test('a restarted replica is behind until it has what it missed', async (context) => {
    const { node } = await cluster(context);
    await node(3).stop();
    const pairs = Array.from({ length: 20 }, (_, i) => `('k${i}','v')`).join(',');
    await node(1).sql(`INSERT INTO kv VALUES ${pairs}`);
    node(3).setKnobs({ catchUpMs: 600_000 });
    await node(3).start();
    await poll('behind', async () => (await total(node(1), 'ranges_underreplicated')) > 0);
    expect(await node(3).isReady()).toBe(false);
    await node(3).stop();
    node(3).setKnobs({ catchUpMs: 100 });
    await node(3).start();
    await node(3).ready();
    await poll('whole', async () => (await total(node(1), 'ranges_underreplicated')) === 0);
    expect(await node(3).sql('SELECT count(*) FROM kv')).toBe('count\n20');
  });

  test('without a quorum nothing is read or written, and it is back with the nodes', async (context) => {
    const { node } = await cluster(context, { knobs: SHORT_LIVED });
    await node(1).sql("INSERT INTO kv VALUES ('a','1')");
    await Promise.all([node(2).kill(), node(3).kill()]);
    await poll('unavailable', async () => (await total(node(1), 'ranges_unavailable')) === 12);
    // Its own record outlives theirs by as much as its last heartbeat was later than theirs.
    await poll('not ready', async () => !(await node(1).isReady()));
    await expect(node(1).sql("SELECT v FROM kv WHERE k = 'a'")).rejects.toThrow();
    await node(2).start();
    await node(2).ready();
    expect(await node(2).sql("SELECT v FROM kv WHERE k = 'a'")).toBe('v\n1');
  });

  test('a single-replica cluster loses the ranges of every node that is down', async (context) => {
    const { node } = await cluster(context, { mode: 'single-replication', knobs: SHORT_LIVED });
    expect((await rowOf(node(1), 1)).start_mode).toBe('start-single-replica');
    await node(3).stop();
    await poll('unavailable', async () => (await total(node(1), 'ranges_unavailable')) === 4);
    await node(1).ready();
  });

  test('a newer version converts the data for good: the older one then refuses them', async (context) => {
    const made = await cluster(context, { mode: 'single' });
    const node = made.node(1);
    await node.stop();
    const [newer, older] = [await made.package({ version: '3.1.0' }), await made.package({ version: '3.0.0' })];
    expect((await made.deploy(node, newer)).code).toBe(0);
    await node.start();
    await node.ready();
    await node.stop();
    expect((await made.deploy(node, older, ['upgrade', '-l', '--bypass-version-check'])).code).toBe(0);
    await node.start();
    await poll('refused', async () => node.record().at(-1)?.event === 'refused');
    await poll('failed', async () => (await node.services.state('kaiwudb')).active === 'failed');
  });

  test('a drained node takes no clients, keeps living and hands its leases over', async (context) => {
    const { node } = await cluster(context);
    expect((await node(2).kwbase('node', 'drain')).code).toBe(0);
    expect(await node(2).isReady()).toBe(false);
    expect(await rowOf(node(1), 2)).toMatchObject({ is_draining: 'true', replicas_leaseholders: '0' });
    await expect(node(2).sql('SELECT 1')).rejects.toThrow(/not accepting clients/);
  });
});
