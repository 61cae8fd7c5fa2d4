/** The fault table: which deaths at which moments of a run, how they are packed into runs, and the table as text. */
import type { Phase, StepKind, Topology } from '@kwfleet/core';

export const DEATHS = [
  'agent',
  'controller',
  'PostgreSQL',
  'deploy.sh',
  "deploy.sh's unit",
  'network',
  'host',
  'disk full',
] as const;
export type Death = (typeof DEATHS)[number];

/** A moment of a run: a step that is under way, and where a step has several phases, one of these. */
export type Moment = {
  readonly name: string;
  readonly step: StepKind;
  /** In the order in which they come: seen in a later one than these, the moment was missed. */
  readonly phases?: readonly Phase[];
};

const UPGRADE = (name: string, ...phases: Phase[]): Moment => ({ name, step: 'upgrade', phases });

/** In the order of a run. */
export const MOMENTS: Readonly<Record<Topology, readonly Moment[]>> = {
  standalone: [
    { name: 'fetch', step: 'fetch' },
    { name: 'gate', step: 'gate' },
    UPGRADE('stop', 'stop'),
    UPGRADE('install', 'install'),
    UPGRADE('start, verify', 'start', 'verify'),
  ],
  'multi-replica': [
    { name: 'fetch', step: 'fetch' },
    { name: 'gate', step: 'gate' },
    UPGRADE('interlock, drain', 'interlock', 'drain'),
    UPGRADE('stop', 'stop'),
    UPGRADE('install', 'install'),
    UPGRADE('start, verify', 'start', 'verify'),
    { name: 'witness', step: 'witness' },
  ],
  'single-replica': [
    { name: 'fetch', step: 'fetch' },
    { name: 'gate', step: 'gate' },
    { name: 'stop', step: 'stop' },
    { name: 'install', step: 'install' },
    { name: 'start', step: 'start' },
    { name: 'verify', step: 'verify' },
  ],
};

export type Cell = { readonly topology: Topology; readonly moment: Moment; readonly death: Death };

const cellsOf = (topology: Topology, moment: Moment, deaths: readonly Death[]): Cell[] =>
  deaths.map((death) => ({ topology, moment, death }));

/** Every cell of one topology; deploy.sh can die only while it runs. */
export function wholeTable(topology: Topology): Cell[] {
  return MOMENTS[topology].flatMap((moment) =>
    cellsOf(
      topology,
      moment,
      DEATHS.filter((death) => moment.name === 'install' || !death.startsWith('deploy.sh')),
    ),
  );
}

/** The part of it that fits into a few minutes: every death in the middle of deploy.sh, and the barriers. */
export function sliceOfTable(topology: Topology): Cell[] {
  const at = (name: string, ...deaths: Death[]) =>
    MOMENTS[topology].filter((moment) => moment.name === name).flatMap((moment) => cellsOf(topology, moment, deaths));
  switch (topology) {
    case 'multi-replica':
      return at('install', ...DEATHS);
    case 'single-replica':
      return [
        ...at('stop', 'agent'),
        ...at('install', 'controller'),
        ...at('start', 'agent'),
        ...at('verify', 'controller'),
      ];
    case 'standalone':
      return [];
  }
}

/** A cell at its place in a run: `node` counts the plan's nodes from 0. */
export type Place = { readonly cell: Cell; readonly node: number };

/**
 * Cells that one run can take, in the order in which they come, one a step; what did not fit is left in `cells`.
 * A run with many faults costs little more than one with a single fault, and is the harder test.
 */
export function takeRun(cells: Cell[], topology: Topology, nodes: number, turn: number): Place[] {
  const places: Place[] = [];
  const take = (step: StepKind, node: number) => {
    const at = cells.findIndex(({ moment }) => moment.step === step);
    const [cell] = at < 0 ? [] : cells.splice(at, 1);
    if (cell !== undefined) places.push({ cell, node });
  };
  const steps = [...new Set(MOMENTS[topology].map(({ step }) => step))];
  if (topology === 'single-replica') {
    for (const [at, step] of steps.entries()) take(step, (turn + at) % nodes);
    return places;
  }
  take('fetch', turn % nodes);
  for (let node = 0; node < nodes; node++)
    for (const step of steps.filter((kind) => kind !== 'fetch')) take(step, node);
  return places;
}

/** What came of a cell. */
export type Row = {
  readonly topology: Topology;
  readonly moment: string;
  readonly death: Death;
  /** Of the host that was struck. */
  readonly node: string;
  readonly outcome: string;
  readonly holds: readonly string[];
  readonly seconds: number;
  readonly ok: boolean;
};

/** Aligned columns, in the order of topologies, moments and deaths. */
export function renderTable(rows: readonly Row[]): string {
  const order = (row: Row) =>
    (Object.keys(MOMENTS).indexOf(row.topology) * 100 +
      MOMENTS[row.topology].findIndex(({ name }) => name === row.moment)) *
      100 +
    DEATHS.indexOf(row.death);
  const lines = rows
    .toSorted((a, b) => order(a) - order(b))
    .map((row) => [
      row.topology,
      row.moment,
      row.death,
      row.node,
      row.outcome,
      row.holds.join(', ') || '-',
      row.seconds.toFixed(1),
    ]);
  const all = [['topology', 'step', 'what died', 'where', 'outcome', 'held', 'seconds'], ...lines];
  const widths = (all[0] ?? []).map((_, column) => Math.max(...all.map((line) => line[column]?.length ?? 0)));
  return all
    .map((line) =>
      line
        .map((text, column) => text.padEnd(widths[column] ?? 0))
        .join('  ')
        .trimEnd(),
    )
    .join('\n');
}
