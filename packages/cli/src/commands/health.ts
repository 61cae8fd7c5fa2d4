/** `health CLUSTER`: how a cluster is, and how it was. */
import type { ClusterSummary, HealthEventView } from '@kwfleet/core';
import type { Command } from 'commander';
import { parseCount } from '../arguments.ts';
import { type Context, examples } from '../context.ts';
import { columns } from '../render/columns.ts';
import { dayTime, elapsed, oneLine } from '../render/text.ts';
import type { Theme } from '../render/theme.ts';
import { stateWord } from './inventory.ts';

const SHOWN = 20;

/** Adds `health`. */
export function addHealth(program: Command, context: Context): void {
  program
    .command('health')
    .helpGroup('Fleet:')
    .description('Show how a cluster and its nodes are, and what was told of them before')
    .argument('CLUSTER', 'name or id of the cluster')
    .option('--last <N>', `how much of the history (default: ${SHOWN})`, parseCount)
    .option('--json', 'print the API objects')
    .addHelpText('after', examples('kwfleet health prod-east', 'kwfleet health prod-east --last 100 --json'))
    .action(async (name: string, { last = SHOWN, json }: { last?: number; json?: true }, command: Command) => {
      const client = context.client(command);
      const cluster = await client.cluster(name);
      const events = await client.health(cluster.id, Math.min(last, 500));
      if (json) return context.terminal.json({ cluster, events });
      const { theme, width } = context.terminal;
      context.terminal.lines(healthPage(cluster, events, { theme, width: width(), nowMs: client.nowMs() }));
    });
}

type Page = { readonly theme: Theme; readonly width: number | undefined; readonly nowMs: number };

/** The lines of `kwfleet health`. */
export function healthPage(cluster: ClusterSummary, events: readonly HealthEventView[], page: Page): string[] {
  const { theme, width, nowMs } = page;
  const title = `${theme.colors.bold(oneLine(cluster.name))}  ${stateWord(cluster.health?.state ?? cluster.state, theme)}`;
  const nodes = cluster.nodes.map(({ id, state, detail, health }) => [
    oneLine(id),
    stateWord(health?.state ?? state, theme),
    health === undefined ? '' : elapsed(nowMs - health.sinceMs),
    health?.flapping ? 'comes and goes' : '',
    oneLine(health?.detail ?? detail),
  ]);
  const [first = '', ...rest] = columns(
    [['NODE', 'HEALTH', 'SINCE', '', 'WHY'], ...nodes],
    width,
    theme.glyphs.ellipsis,
  );
  const history = events.map(({ atMs, kind, id, was, state, run, detail }) => [
    dayTime(atMs),
    kind === 'cluster' ? 'cluster' : oneLine(id),
    `${was ?? 'first seen'} ${theme.glyphs.arrow} ${state}`,
    run === undefined ? '' : `during ${run}`,
    oneLine(detail),
  ]);
  return [
    title,
    '',
    theme.colors.dim(first),
    ...rest,
    '',
    theme.colors.dim('HISTORY'),
    ...(history.length === 0 ? ['  nothing yet'] : columns(history, width, theme.glyphs.ellipsis)),
  ];
}
