/** The stand-in's EXPORT and IMPORT: real files, and no kinder than KWDB. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { cluster, type Ending, type Node } from './rig.ts';
import type { Contents } from './tables.ts';

const run = (node: Node, statements: readonly string[], database = 'defaultdb') =>
  node.kwbase('sql', '--format=csv', `--database=${database}`, ...statements.flatMap((text) => ['-e', text]));

async function seeded(test: Ending): Promise<Node> {
  const node = (await cluster(test, { mode: 'single' })).node(1);
  const made = await run(node, [
    'CREATE DATABASE shop',
    'CREATE TABLE shop.public.orders (id INT8 NOT NULL, note STRING, PRIMARY KEY (id))',
    `INSERT INTO shop.public.orders VALUES (1, 'a,"b"'), (2, NULL), (10, ''), (3, 'two\nlines')`,
    'CREATE TS DATABASE metrics',
    'CREATE TABLE metrics.public.cpu (ts TIMESTAMPTZ NOT NULL, v FLOAT8) TAGS (host STRING) PRIMARY TAGS (host)',
    `INSERT INTO metrics.public.cpu VALUES ('2026-01-01', 1.5, 'h1'), ('2026-01-02', 2, 'h2')`,
  ]);
  expect(made.stderr).toBe('');
  return node;
}

const extern = ({ installed }: Node, ...path: string[]): string => join(installed.dataRoot, 'extern', ...path);
const contents = ({ installed }: Node): Contents =>
  JSON.parse(readFileSync(join(installed.dataRoot, 'tables.json'), 'utf8')) as Contents;

describe('EXPORT and IMPORT of the stand-in', () => {
  it('write a table as KWDB does, in chunks, and read it back, NULL and an empty text apart', async (test) => {
    const node = await seeded(test);
    const told = await run(node, [
      `EXPORT INTO CSV 'nodelocal://1/d1' FROM TABLE shop.public.orders WITH chunk_rows = '3'`,
    ]);
    expect(told.stdout).toBe('filename,rows,node_id,file_num\nn1.0.csv,3,1,1\nn1.1.csv,1,1,1\n');
    expect(readFileSync(extern(node, 'd1/n1.0.csv'), 'utf8')).toBe('1,"a,""b"""\n2,\n10,""\n');
    const files = ['n1.0.csv', 'n1.1.csv'].map((name) => `'nodelocal://1/d1/${name}'`).join(', ');
    await run(node, ['CREATE DATABASE copy']);
    const import1 = `IMPORT TABLE CREATE USING 'nodelocal://1/d1/meta.sql' CSV DATA (${files})`;
    const done = await run(node, ['SET search_path = public', import1], 'copy');
    expect(done.stdout).toMatch(
      /^SET\njob_id,status,fraction_completed,rows,abandon_rows,reject_rows,note\n\d+,succeeded,1,4,0,0,None\n$/,
    );
    expect(contents(node).databases.copy?.tables[0]?.rows).toEqual(contents(node).databases.shop?.tables[0]?.rows);
    expect((await run(node, [import1], 'copy')).stderr).toContain('already exists');
  });

  it('carry a time-series database as a whole, which must not be there', async (test) => {
    const node = await seeded(test);
    const told = await run(node, [`EXPORT INTO CSV 'nodelocal://1/m' FROM DATABASE metrics`]);
    expect(told.stdout).toBe('result\nsucceed\n');
    expect(readdirSync(extern(node, 'm'), { recursive: true })).toContain('public/cpu/n1.0.csv');
    expect((await run(node, [`IMPORT DATABASE CSV DATA ('nodelocal://1/m')`])).stderr).toContain('already exists');
    const before = contents(node).databases.metrics;
    const again = await run(node, ['DROP DATABASE metrics CASCADE', `IMPORT DATABASE CSV DATA ('nodelocal://1/m')`]);
    expect(again.stdout).toContain('succeeded,1,2,0,0');
    expect(contents(node).databases.metrics).toEqual(before);
  });

  it('reject rows into a file beside the data, and leave a failed import where it is', async (test) => {
    const node = await seeded(test);
    await run(node, [`EXPORT INTO CSV 'nodelocal://1/d' FROM TABLE shop.public.orders`, 'CREATE DATABASE copy']);
    node.setKnobs({ importRejects: { orders: 1 }, importFails: 'orders' });
    const import1 = `IMPORT TABLE CREATE USING 'nodelocal://1/d/meta.sql' CSV DATA ('nodelocal://1/d/n1.0.csv')`;
    const failed = await run(node, [import1], 'copy');
    expect(failed.code).toBe(1);
    expect(failed.stderr).toContain('out of memory');
    expect(contents(node).databases.copy?.tables[0]?.rows).toHaveLength(3);
    node.setKnobs({ importRejects: { orders: 1 } });
    const told = await run(node, ['DROP TABLE orders', import1], 'copy');
    expect(told.stdout).toContain('succeeded,1,3,0,1,"There is a REJECT FILE');
    expect(readFileSync(extern(node, 'd/reject.n1.0.txt'), 'utf8')).toContain('1,"a,""b"""');
  });

  it('read and write below extern alone, and only where this node is named', async (test) => {
    const node = await seeded(test);
    for (const place of ['nodelocal://2/d', 'nodelocal://1/../../x', 'file:///tmp/x', 'http://h/x']) {
      expect((await run(node, [`EXPORT INTO CSV '${place}' FROM TABLE shop.public.orders`])).code, place).toBe(1);
    }
    expect(existsSync(extern(node, 'd'))).toBe(false);
  });

  it('order rows by type, skip and turn round as asked', async (test) => {
    const node = await seeded(test);
    const select = 'SELECT "id" FROM "shop"."public"."orders" ORDER BY "id"';
    expect((await run(node, [`${select} LIMIT 3`])).stdout).toBe('id\n1\n2\n3\n');
    expect((await run(node, [`${select} DESC LIMIT 2`])).stdout).toBe('id\n10\n3\n');
    expect((await run(node, [`${select} LIMIT 2 OFFSET 2`])).stdout).toBe('id\n3\n10\n');
    const wrong = await run(node, ['SELECT "nothing" FROM "shop"."public"."orders" ORDER BY "id" LIMIT 1']);
    expect(wrong.stderr).toContain('does not exist');
  });

  it('end a session at the first statement that fails', async (test) => {
    const node = await seeded(test);
    const told = await run(node, ['CREATE DATABASE one', 'CREATE DATABASE one', 'CREATE DATABASE two']);
    expect(told.code).toBe(1);
    expect(Object.keys(contents(node).databases)).not.toContain('two');
  });
});
