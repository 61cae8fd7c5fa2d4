/** The table of deployment methods: what each suite played on real hosts, and what came of it. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Method, Topology } from '@kwfleet/core';

/** What is asked of every method on every topology that it can have. */
export const CASES = ['upgrade', 'wrong package', 'failed install', 'downgrade', 'killed in the middle'] as const;
export type Case = (typeof CASES)[number];

/** Without KWFLEET_LAB=full each method is played on some topologies only, so that a run takes minutes. */
export const WHOLE_TABLE = process.env.KWFLEET_LAB !== undefined;

export type MethodRow = {
  readonly method: Method;
  readonly topology: Topology;
  readonly case: Case;
  readonly outcome: string;
  readonly seconds: number;
};

const DIST = join(import.meta.dirname, '../../dist');
const FILE = join(DIST, 'lab-methods.json');
const METHODS: readonly Method[] = ['script-bare', 'script-container', 'compose', 'docker-run', 'source'];
const TOPOLOGIES: readonly Topology[] = ['standalone', 'multi-replica', 'single-replica'];

/** Keeps one row; a row of the same cell is replaced. Suites run one after another. */
export function record(row: MethodRow): void {
  mkdirSync(DIST, { recursive: true });
  const others = rows().filter((known) => cellOf(known) !== cellOf(row));
  writeFileSync(FILE, JSON.stringify([...others, row]));
}

export function rows(): MethodRow[] {
  try {
    return JSON.parse(readFileSync(FILE, 'utf8')) as MethodRow[];
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
}

/** Plays one cell and keeps what came of it; `play` returns the outcome in words. */
export async function cell(at: Omit<MethodRow, 'outcome' | 'seconds'>, play: () => Promise<string>): Promise<void> {
  const sinceMs = performance.now();
  const tell = (outcome: string) => record({ ...at, outcome, seconds: (performance.now() - sinceMs) / 1000 });
  try {
    tell(await play());
  } catch (error) {
    tell('FAILED');
    throw error;
  }
}

const cellOf = ({ method, topology, case: name }: MethodRow): string => `${method} ${topology} ${name}`;

/** Aligned columns, in the order of methods, topologies and cases. */
export function renderMethods(table: readonly MethodRow[] = rows()): string {
  const order = (row: MethodRow) =>
    METHODS.indexOf(row.method) * 100 + TOPOLOGIES.indexOf(row.topology) * 10 + CASES.indexOf(row.case);
  const lines = table
    .toSorted((a, b) => order(a) - order(b))
    .map((row) => [row.method, row.topology, row.case, row.outcome, row.seconds.toFixed(1)]);
  const all = [['method', 'topology', 'case', 'outcome', 'seconds'], ...lines];
  const widths = (all[0] ?? []).map((_, column) => Math.max(...all.map((line) => line[column]?.length ?? 0)));
  const drawn = all.map((line) => line.map((text, column) => text.padEnd(widths[column] ?? 0)).join('  '));
  return drawn.map((line) => line.trimEnd()).join('\n');
}
