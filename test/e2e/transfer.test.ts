/** Everything of a 3.0.0 cluster carried into a fresh 3.1.0 one, judged by the stand-ins' own files. */
import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ClusterSummary, PlanView, RunView } from '@kwfleet/core';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { type Node, poll } from '../standin/rig.ts';
import type { Contents } from '../standin/tables.ts';
import { type OtherCluster, Playground } from './playground.ts';

// Two clusters, and a process for every question: a busy machine takes its time.
vi.setConfig({ testTimeout: 1_200_000 });

let playground: Playground | undefined;

afterEach(async (context) => {
  if (context.task.result?.state === 'fail') console.error(playground?.logs());
  await playground?.close();
  playground = undefined;
});

const KNOBS = { heartbeatMs: 300, livenessMs: 3_000, recordStatements: true };
const WEIRD = `we"ird'; DROP TABLE orders; --`;
const ident = (name: string): string => `"${name.replaceAll('"', '""')}"`;

type Stage = { readonly fleet: Playground; readonly source: Node; readonly target: Node; readonly other: OtherCluster };

/** A 3.0.0 cluster with data, and an empty 3.1.0 one, under one controller, named `old` and `new`. */
async function stage(seed: (node: Node) => Promise<void> = seedAll): Promise<Stage> {
  const fleet = await Playground.create({ topology: 'standalone', version: '3.0.0', knobs: KNOBS });
  playground = fleet;
  const other = await fleet.addCluster({ topology: 'standalone', version: '3.1.0', knobs: KNOBS, prefix: 'm' });
  const clusters = await poll(
    'both clusters are healthy',
    async () => {
      const found = await fleet.client.clusters();
      return found.length === 2 && found.every(({ state }) => state === 'healthy') && found;
    },
    90_000,
  );
  for (const cluster of clusters) await rename(fleet, cluster, cluster.versions[0] === '3.0.0' ? 'old' : 'new');
  const source = fleet.rig.node(1);
  await seed(source);
  return { fleet, source, target: other.rig.node(1), other };
}

async function rename(fleet: Playground, { id }: ClusterSummary, name: string): Promise<void> {
  const answer = await fetch(`${fleet.url}/v1/clusters/${id}`, {
    method: 'PATCH',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ name }),
  });
  expect(answer.status).toBe(200);
}

async function sql(node: Node, text: string, database?: string): Promise<string> {
  const { stdout, stderr, code } = await node.kwbase(
    'sql',
    '--format=csv',
    '-e',
    text,
    ...(database ? [`--database=${database}`] : []),
  );
  if (code !== 0) throw new Error(`${text.slice(0, 80)}: ${stderr}`);
  return stdout;
}

const rows = (count: number, row: (n: number) => string): string =>
  Array.from({ length: count }, (_, n) => `(${row(n + 1)})`).join(', ');

async function seedOne(node: Node): Promise<void> {
  await sql(node, 'CREATE DATABASE shop');
  await sql(node, 'CREATE TABLE orders (id INT8 NOT NULL, note STRING NULL, PRIMARY KEY (id))', 'shop');
  await sql(node, `INSERT INTO orders VALUES ${rows(300, (n) => `${n}, 'note ${n}'`)}`, 'shop');
}

async function seedAll(node: Node): Promise<void> {
  await sql(node, 'CREATE DATABASE shop');
  await sql(node, 'CREATE SCHEMA sales', 'shop');
  await sql(node, 'CREATE TABLE orders (id INT8 NOT NULL, note STRING NULL, PRIMARY KEY (id))', 'shop');
  const note = (n: number) => [`'plain ${n}'`, 'NULL', "''", `'com,ma "q" it''s'`, "'two\nlines'"][n % 5];
  await sql(node, `INSERT INTO orders VALUES ${rows(2_000, (n) => `${n}, ${note(n)}`)}`, 'shop');
  await sql(node, `CREATE TABLE ${ident(WEIRD)} ("a b" STRING NOT NULL, PRIMARY KEY ("a b"))`, 'shop');
  await sql(node, `INSERT INTO ${ident(WEIRD)} VALUES ('x'), ('y')`, 'shop');
  await sql(node, 'CREATE TABLE shop.sales.regions (name STRING, size INT8)');
  await sql(node, `INSERT INTO shop.sales.regions VALUES ('north', 2), ('south', NULL)`);
  await sql(node, 'CREATE TABLE empty (id INT8, PRIMARY KEY (id))', 'shop');
  await sql(node, 'CREATE VIEW newest AS SELECT 1', 'shop');
  await sql(node, 'CREATE TS DATABASE metrics');
  const cpu =
    'CREATE TABLE cpu (ts TIMESTAMPTZ NOT NULL, usage FLOAT8 NULL) TAGS (host STRING NOT NULL) PRIMARY TAGS (host)';
  await sql(node, cpu, 'metrics');
  const point = (n: number) => `'2026-01-01 00:00:${String(n % 60).padStart(2, '0')}.${n}', ${n / 7}, 'h${n % 3}'`;
  await sql(node, `INSERT INTO cpu VALUES ${rows(1_800, point)}`, 'metrics');
  await sql(node, `CREATE USER ${ident("o'brien")} WITH CREATEROLE VALID UNTIL '2030-01-01 00:00:00+00:00'`);
  await sql(node, 'CREATE ROLE readers');
  await sql(node, `GRANT readers TO ${ident("o'brien")} WITH ADMIN OPTION`);
  await sql(node, 'GRANT SELECT ON DATABASE shop TO readers');
  await sql(node, 'GRANT SELECT ON TABLE shop.public.orders TO public');
  await sql(node, 'GRANT CREATE ON SCHEMA sales TO readers', 'shop');
  await sql(node, `GRANT INSERT ON TABLE shop.public.${ident(WEIRD)} TO ${ident("o'brien")}`);
  await sql(node, "SET CLUSTER SETTING sql.defaults.distsql = 'off'");
}

const contentsOf = ({ installed }: Node): Contents =>
  JSON.parse(readFileSync(join(installed.dataRoot, 'tables.json'), 'utf8')) as Contents;

/** What was seeded, in an order of its own, so that two clusters can be compared from outside. */
function carried(node: Node) {
  const { databases, users, memberships, grants } = contentsOf(node);
  const plain = Object.entries(databases).map(([name, { engine, schemas, tables }]) => {
    const sorted = tables.map(({ rows: found, ...table }) => ({
      ...table,
      rows: found.map((row) => JSON.stringify(row)).sort(),
    }));
    return [
      name,
      { engine, schemas: [...schemas].sort(), tables: sorted.sort((a, b) => a.name.localeCompare(b.name)) },
    ];
  });
  const text = (value: unknown) => JSON.stringify(value);
  return {
    databases: Object.fromEntries(plain.sort()),
    users,
    memberships: memberships.map(text).sort(),
    grants: grants.map(text).sort(),
  };
}

/** SHA-256 of every file of a node's store that a client could have changed. */
function fingerprint({ installed }: Node): Record<string, string> {
  const names = readdirSync(installed.dataRoot, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name !== 'cluster.json')
    .map((entry) => join(entry.parentPath, entry.name));
  const hash = (file: string) => createHash('sha256').update(readFileSync(file)).digest('hex');
  return Object.fromEntries(names.sort().map((file) => [file, hash(file)]));
}

const statementsOf = ({ installed }: Node): string[] =>
  readFileSync(join(installed.dataRoot, '../statements.jsonl'), 'utf8')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => (JSON.parse(line) as { sql: string }).sql);

const externOf = ({ installed }: Node): string[] => {
  const directory = join(installed.dataRoot, 'extern');
  return existsSync(directory) ? readdirSync(directory) : [];
};

/** Where the controller keeps files on their way. */
const underWay = ({ fleet }: Stage): string[] =>
  readdirSync(join(fleet.rig.directory, 'controller/transfers'), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));

async function start({ fleet }: Stage, ...more: string[]): Promise<string> {
  const { code, stdout, stderr } = await fleet.kwfleet(
    'transfer',
    'start',
    'old',
    '--into',
    'new',
    '--yes',
    '--json',
    ...more,
  );
  expect(code, `${stdout}\n${stderr}`).toBe(0);
  return (JSON.parse(stdout) as RunView).id;
}

const ended = ({ fleet }: Stage, id: string, wanted: RunView['status'] = 'succeeded'): Promise<RunView> =>
  poll(
    `run ${id} is ${wanted}`,
    async () => {
      const run = await fleet.client.run(id);
      if (run.status === 'held' && wanted !== 'held' && run.hold?.selfClearing !== true) {
        throw new Error(`held: ${run.hold?.code}: ${run.hold?.message} ${run.hold?.words}`);
      }
      return run.status === wanted && run;
    },
    240_000,
  );

const attemptsOf = (run: RunView, kind: string): Record<string, number> =>
  Object.fromEntries(
    run.plan.steps.filter((step) => step.kind === kind).map(({ id, title }) => [title, run.steps[id]?.attempt ?? 0]),
  );

describe('a transfer from 3.0.0 into a fresh 3.1.0', () => {
  it('carries databases, users, privileges and settings, and only reads the source', async () => {
    const set = await stage();
    const { fleet, source, target } = set;
    const before = fingerprint(source);
    const seeded = statementsOf(source).length;
    const planned = await fleet.kwfleet('transfer', 'plan', 'old', '--into', 'new', '--json');
    expect(planned.code, planned.stderr).toBe(0);
    const plan = JSON.parse(planned.stdout) as PlanView;
    expect(plan.checks.filter(({ verdict }) => verdict === 'warn').map(({ code }) => code)).toEqual(
      expect.arrayContaining(['TRANSFER_NOT_CARRIED', 'TRANSFER_PASSWORDS']),
    );
    const run = await ended(set, await start(set));
    expect(run.reason).toContain('compares equal');

    const report = await fleet.client.report(run.id, 'markdown');
    expect(report).toMatch(/\| shop\.public\.orders \| 2000 \| 1500 rows \| [0-9a-f]{64} \| equal \|/);
    expect(carried(target)).toEqual(carried(source));
    expect(await sql(target, 'SHOW CLUSTER SETTING sql.defaults.distsql')).toContain('off');
    expect(fingerprint(source)).toEqual(before);
    const asked = statementsOf(source).slice(seeded);
    expect(asked.some((text) => text.startsWith('EXPORT INTO CSV'))).toBe(true);
    expect(asked.filter((text) => !/^(SELECT|SHOW|EXPORT) /.test(text))).toEqual([]);
    expect([...externOf(source), ...externOf(target)]).toEqual([]);
    await poll('the controller is tidied', async () => underWay(set).length === 0);
  });

  it('goes on by table when both agents are killed in the middle', async () => {
    const set = await stage();
    const { fleet, source, target, other } = set;
    source.setKnobs({ ...KNOBS, exportDelayMs: 1_500 });
    target.setKnobs({ ...KNOBS, importDelayMs: 1_500 });
    const id = await start(set, '--concurrency', '1');
    await poll(
      'a table is done, and an import is under way',
      async () => {
        const { plan, steps } = await fleet.client.run(id);
        const of = (kind: string, status: string) =>
          plan.steps.some((step) => step.kind === kind && steps[step.id]?.status === status);
        return of('compare', 'succeeded') && of('import', 'running') && set;
      },
      240_000,
    );
    await Promise.all([...fleet.agents, ...other.agents].map((agent) => agent.end('SIGKILL')));
    for (const agent of [...fleet.agents, ...other.agents]) agent.start();
    source.setKnobs(KNOBS);
    target.setKnobs(KNOBS);
    const run = await ended(set, id);
    expect(carried(target)).toEqual(carried(source));
    // Nothing that was done is done again, and what was under way is found again, not sent twice.
    expect(new Set(Object.values(attemptsOf(run, 'export')))).toEqual(new Set([1]));
    const imports = statementsOf(target).filter((text) => text.startsWith('IMPORT'));
    expect(new Set(imports).size).toBe(imports.length);
    const exports = statementsOf(source).filter((text) => text.startsWith('EXPORT'));
    expect(exports.length).toBe(run.plan.transfer?.units.length);
  });

  it('holds when a file was damaged on its way, and does the table anew on a retry', async () => {
    const set = await stage(seedOne);
    const { fleet, source, target, other } = set;
    // Without the target's agent the files wait at the controller.
    source.setKnobs({ ...KNOBS, exportWaits: true });
    const id = await start(set);
    const isExporting = async () => {
      const { plan, steps } = await fleet.client.run(id);
      return plan.steps.some((step) => step.kind === 'export' && steps[step.id]?.status === 'running');
    };
    await poll('the export is under way', isExporting);
    await Promise.all(other.agents.map((agent) => agent.end('SIGKILL')));
    source.setKnobs(KNOBS);
    const file = await poll(
      'a CSV lies at the controller',
      async () =>
        underWay(set).find((path) => !path.endsWith('.part') && readFileSync(path, 'utf8').includes('note 7')),
      90_000,
    );
    writeFileSync(file, readFileSync(file, 'utf8').replace('note 7', 'mote 7'));
    for (const agent of other.agents) agent.start();
    const held = await ended(set, id, 'held');
    expect(held.hold).toMatchObject({ code: 'TRANSFER_CORRUPT', choices: ['retry', 'abort'] });
    expect(contentsOf(target).databases.shop?.tables).toEqual([]);
    await fleet.client.choose(id, 'retry');
    await ended(set, id);
    expect(carried(target)).toEqual(carried(source));
  });

  it('finds what the target stored otherwise, by the comparison alone', async () => {
    const set = await stage(seedOne);
    const { fleet, source, target } = set;
    target.setKnobs({ ...KNOBS, importCorrupts: 'orders' });
    const id = await start(set);
    const held = await ended(set, id, 'held');
    expect(held.hold?.code).toBe('TRANSFER_MISMATCH');
    expect(held.hold?.message).toContain('sampled rows differ');
    target.setKnobs(KNOBS);
    await fleet.client.choose(id, 'retry');
    await ended(set, id);
    expect(carried(target)).toEqual(carried(source));
  });

  it('reports rejected rows with their file, and calls the table done only without them', async () => {
    const set = await stage(seedOne);
    const { fleet, source, target } = set;
    target.setKnobs({ ...KNOBS, importRejects: { orders: 3 } });
    const id = await start(set);
    const { hold, steps } = await ended(set, id, 'held');
    expect(hold).toMatchObject({ code: 'TRANSFER_ROWS_REJECTED', choices: ['retry', 'abort'], node: 'm1' });
    const [, file = ''] = /they are in (\S+)$/.exec(hold?.message.split(';')[1] ?? '') ?? [];
    expect(readFileSync(file, 'utf8')).toContain('note 2');
    expect(Object.values(steps).filter(({ status }) => status === 'failed')).toHaveLength(1);
    target.setKnobs(KNOBS);
    await fleet.client.choose(id, 'retry');
    await ended(set, id);
    expect(carried(target)).toEqual(carried(source));
  });

  it('drops what a failed import left, and nothing that was there before', async () => {
    const set = await stage(seedOne);
    const { fleet, source, target } = set;
    target.setKnobs({ ...KNOBS, importFails: 'orders' });
    const id = await start(set);
    const held = await ended(set, id, 'held');
    expect(held.hold).toMatchObject({ code: 'TRANSFER_IMPORT_FAILED' });
    expect(held.hold?.words).toContain('out of memory');
    expect(contentsOf(target).databases.shop?.tables).toHaveLength(1);
    target.setKnobs(KNOBS);
    await fleet.client.choose(id, 'retry');
    await ended(set, id);
    expect(carried(target)).toEqual(carried(source));
  });

  it('refuses a target that holds the database already, and lets nothing else begin on the source', async () => {
    const set = await stage(seedOne);
    const { fleet, source, target } = set;
    await sql(target, 'CREATE DATABASE shop');
    await sql(target, 'CREATE TABLE mine (id INT8, PRIMARY KEY (id))', 'shop');
    const blocked = await fleet.kwfleet('transfer', 'plan', 'old', '--into', 'new');
    expect(blocked.code).toBe(2);
    expect(blocked.stdout).toContain('TRANSFER_TARGET_NOT_EMPTY');
    await sql(target, 'DROP DATABASE shop');
    await fleet.addPackage({ version: '3.1.0' });
    source.setKnobs({ ...KNOBS, exportWaits: true });
    const id = await start(set);
    const upgrade = await fleet.kwfleet('upgrade', 'old', '--to', '3.1.0', '--backup', 'none:test', '--yes');
    expect(upgrade.code).toBe(2);
    expect(upgrade.stderr).toContain('RUN_ACTIVE');
    // Somebody makes a table of that name in the database that this run has just made: it is theirs.
    await poll('the database is made', async () => contentsOf(target).databases.shop !== undefined);
    await sql(target, 'CREATE TABLE orders (mine INT8, PRIMARY KEY (mine))', 'shop');
    await sql(target, 'INSERT INTO orders VALUES (42)', 'shop');
    source.setKnobs(KNOBS);
    const held = await ended(set, id, 'held');
    expect(held.hold?.code).toBe('TRANSFER_TARGET_NOT_EMPTY');
    expect(contentsOf(target).databases.shop?.tables[0]?.rows).toEqual([['42']]);
    await sql(target, 'DROP TABLE orders', 'shop');
    await fleet.client.choose(id, 'retry');
    await ended(set, id);
    expect(carried(target)).toEqual(carried(source));
  });

  it('holds when somebody writes to the source while it is exported', async () => {
    const set = await stage(seedOne);
    const { fleet, source, target } = set;
    source.setKnobs({ ...KNOBS, writesDuringExport: 'orders' });
    const id = await start(set);
    const held = await ended(set, id, 'held');
    expect(held.hold).toMatchObject({ code: 'TRANSFER_SOURCE_CHANGED' });
    expect(externOf(source)).toEqual([]);
    source.setKnobs(KNOBS);
    await fleet.client.choose(id, 'retry');
    await ended(set, id);
    expect(carried(target)).toEqual(carried(source));
  });
});
