/** What a table holds, in a few numbers that two clusters can be compared by. */
import { createHash } from 'node:crypto';
import {
  ASK,
  FleetError,
  middleOffset,
  type Sample,
  sampleQuery,
  type TableDigest,
  type TableRef,
} from '@kwfleet/core';
import type { ReadingSql } from './sql-client.ts';

type Shape = Pick<TableDigest, 'schema' | 'table' | 'columns' | 'order'>;

/** Types that have no order: their columns are left out of the comparison of a table without a primary key. */
const UNORDERED = /json|geometry|\[\]|array/i;

/** Asks the source itself which columns a table has and what orders its rows. */
export async function shapeOf(sql: ReadingSql, database: string, table: TableRef): Promise<Shape> {
  const [found = [], keys = []] = await sql.all([ASK.columns(database, table), ASK.primaryKey(database, table)]);
  const columns = found.map(([name, type, tag, hidden]) => ({
    name: name ?? '',
    type: type ?? '',
    isTag: tag === 'true',
    isHidden: hidden === 'true',
  }));
  const visible = columns.filter(({ isHidden }) => !isHidden);
  const first = visible[0];
  if (first === undefined) {
    throw new FleetError('KWBASE_FAILED', `${database}.${table.schema}.${table.table} has no columns, or is gone`);
  }
  const names = visible.map(({ name }) => name);
  const tags = visible.filter(({ isTag }) => isTag).map(({ name }) => name);
  // A time series is ordered by its timestamp, its first column; several devices share one, so their tags follow.
  if (tags.length > 0) return { ...table, columns: names, order: [first.name, ...tags] };
  const key = keys.map(([name]) => name ?? '');
  if (key.length > 0 && key.every((name) => names.includes(name))) return { ...table, columns: names, order: key };
  const ordered = visible.filter(({ type }) => !UNORDERED.test(type)).map(({ name }) => name);
  return { ...table, columns: ordered, order: ordered };
}

/** Counts a table and samples it at its start, its end and in between. */
export async function digestOf(
  sql: ReadingSql,
  database: string,
  { schema, table, columns, order }: Shape,
  sample: Sample,
): Promise<{ readonly digest: TableDigest; readonly sampledBytes: number }> {
  const shape: Shape = { schema, table, columns, order };
  const window = (from: 'start' | 'end' | number) => sampleQuery(database, shape, { from, rows: sample.rows });
  const count = ASK.count(database, shape);
  const [counted, ...samples] = await sql.all(order.length === 0 ? [count] : [count, window('start'), window('end')]);
  const rows = Number(counted?.[0]?.[0] ?? Number.NaN);
  if (!Number.isSafeInteger(rows)) {
    throw new FleetError('KWBASE_FAILED', `${database}.${schema}.${table} could not be counted`);
  }
  const middle = order.length === 0 ? undefined : middleOffset(sample, shape, rows);
  if (middle !== undefined) samples.push(await sql.rows(window(middle)));
  const hash = createHash('sha256');
  let sampledRows = 0;
  let sampledBytes = 0;
  for (const [at, found] of samples.entries()) {
    hash.update(`sample ${at}\n`);
    sampledRows += found.length;
    for (const row of found) {
      const line = JSON.stringify(row);
      sampledBytes += Buffer.byteLength(line);
      hash.update(`${line}\n`);
    }
  }
  return { digest: { ...shape, rows, sampledRows, sha256: hash.digest('hex') }, sampledBytes };
}

/** The first table that differs, in words; undefined when all are the same. */
export function difference(expected: readonly TableDigest[], found: readonly TableDigest[]): string | undefined {
  for (const want of expected) {
    const have = found.find(({ schema, table }) => schema === want.schema && table === want.table);
    const name = `${want.schema}.${want.table}`;
    if (have === undefined) return `${name} is not there`;
    if (have.rows !== want.rows) return `${name} has ${have.rows} rows, not ${want.rows}`;
    if (have.sha256 !== want.sha256) return `${name} has ${want.rows} rows, but its sampled rows differ`;
  }
  return undefined;
}
