/** `clusters` and `nodes`: what the agents report. */
import type { ClusterSummary, NodeState, NodeView } from '@kwfleet/core';
import type { Command } from 'commander';
import { type Context, examples } from '../context.ts';
import { columns } from '../render/columns.ts';
import { elapsed, oneLine } from '../render/text.ts';
import type { Theme } from '../render/theme.ts';

/** Adds the commands of the inventory. */
export function addInventory(program: Command, context: Context): void {
  program
    .command('clusters')
    .helpGroup('Fleet:')
    .description('List the clusters, as their agents report them')
    .option('--json', 'print the API objects')
    .addHelpText('after', examples('kwfleet clusters'))
    .action(async ({ json }: { json?: true }, command: Command) => {
      const items = await context.client(command).clusters();
      if (json) return context.terminal.json({ items });
      context.terminal.lines(clusterTable(items, context.terminal.theme, context.terminal.width()));
    });
  program
    .command('nodes')
    .helpGroup('Fleet:')
    .description('List the nodes of the fleet, or of one cluster')
    .argument('[CLUSTER]', 'name or id of a cluster')
    .option('--json', 'print the API objects')
    .addHelpText('after', examples('kwfleet nodes', 'kwfleet nodes prod-east --json'))
    .action(async (cluster: string | undefined, { json }: { json?: true }, command: Command) => {
      const client = context.client(command);
      const items = cluster === undefined ? await client.nodes() : (await client.cluster(cluster)).nodes;
      if (json) return context.terminal.json({ items });
      const names = cluster === undefined ? await client.clusters() : [];
      const namesById = new Map(names.map(({ id, name }) => [id, name]));
      const { theme, width } = context.terminal;
      context.terminal.lines(nodeTable(items, namesById, { theme, width: width(), nowMs: client.nowMs() }));
    });
}

/** The coloured word for a state. */
export function stateWord(state: NodeState, { colors, glyphs }: Theme): string {
  switch (state) {
    case 'healthy':
      return colors.green(`${glyphs.done} healthy`);
    case 'degraded':
      return colors.yellow(`${glyphs.warn} degraded`);
    case 'down':
      return colors.red(`${glyphs.failed} down`);
    case 'missing':
      return colors.red(`${glyphs.failed} missing`);
    case 'unknown':
      return colors.yellow(`${glyphs.unknown} unknown`);
    default:
      return state satisfies never;
  }
}

/** The lines of `kwfleet clusters`. */
export function clusterTable(items: readonly ClusterSummary[], theme: Theme, width: number | undefined): string[] {
  if (items.length === 0) {
    return ['No cluster is known yet: install the agent on its hosts (`kwfleet enrollment create` gives the token).'];
  }
  const labelled = items.some(({ labels }) => Object.keys(labels).length > 0);
  const rows = items.map((cluster) => [
    oneLine(cluster.name || cluster.id),
    cluster.topology ?? '?',
    cluster.versions.join(', ') || '?',
    String(cluster.nodes.length),
    stateWord(cluster.state, theme),
    cluster.run ?? '',
    ...(labelled ? [labelWords(cluster.labels)] : []),
  ]);
  const heading = ['CLUSTER', 'TOPOLOGY', 'VERSION', 'NODES', 'STATE', 'RUN', ...(labelled ? ['LABELS'] : [])];
  const [first = '', ...rest] = columns([heading, ...rows], width, theme.glyphs.ellipsis);
  const details = items.map(({ name, id, detail }) => ({ name: name || id, detail }));
  return [theme.colors.dim(first), ...rest, ...detailLines(details, theme)];
}

const labelWords = (labels: ClusterSummary['labels']): string =>
  Object.entries(labels)
    .map(([key, value]) => oneLine(`${key}=${value}`))
    .join(' ');

type NodeTable = { readonly theme: Theme; readonly width: number | undefined; readonly nowMs: number };

/** The lines of `kwfleet nodes`. The cluster is told where `namesById` is not empty. */
export function nodeTable(
  items: readonly NodeView[],
  namesById: ReadonlyMap<string, string>,
  table: NodeTable,
): string[] {
  if (items.length === 0) return ['No agent has reported yet: `kwfleet enrollment create` gives a host its token.'];
  const { theme, width, nowMs } = table;
  const withCluster = namesById.size > 0;
  const rows = items.map((node) => [
    oneLine(node.id),
    ...(withCluster ? [oneLine(namesById.get(node.cluster ?? '') ?? node.cluster ?? '')] : []),
    node.version ?? '?',
    stateWord(node.state, theme),
    sinceWord(node, nowMs),
    deployedWords(node),
    oneLine(node.address ?? '?'),
    seenWord(node, nowMs),
  ]);
  const heading = [
    'NODE',
    ...(withCluster ? ['CLUSTER'] : []),
    'VERSION',
    'STATE',
    'SINCE',
    'DEPLOYED BY',
    'ADDRESS',
    'AGENT',
  ];
  const [first = '', ...rest] = columns([heading, ...rows], width, theme.glyphs.ellipsis);
  const details = items.map(({ id, detail }) => ({ name: id, detail }));
  return [theme.colors.dim(first), ...rest, ...detailLines(details, theme)];
}

/** How long it has been so, where that is told; a state that is still to last is new. */
function sinceWord({ state, health }: Pick<NodeView, 'state' | 'health'>, nowMs: number): string {
  if (health === undefined) return '';
  if (health.flapping) return 'comes and goes';
  return health.state === state ? elapsed(nowMs - health.sinceMs) : 'just now';
}

/** The method; and where they are not plain, how the node speaks and whether its store is encrypted. */
function deployedWords({ method, report }: Pick<NodeView, 'method' | 'report'>): string {
  const { security = 'insecure', encrypted = false } = report?.installation ?? {};
  return [method ?? '?', ...(security === 'insecure' ? [] : [security]), ...(encrypted ? ['encrypted'] : [])].join(
    ', ',
  );
}

function seenWord({ connected, lastSeenMs }: NodeView, nowMs: number): string {
  if (connected) return 'connected';
  return lastSeenMs === undefined ? 'never' : `${elapsed(nowMs - lastSeenMs)} ago`;
}

/** Why some are not healthy: sentences, so not in the table. */
function detailLines(items: readonly { name: string; detail: string }[], { colors }: Theme): string[] {
  const told = items.filter(({ detail }) => detail !== '');
  if (told.length === 0) return [];
  const lines = told.map(({ name, detail }) => `  ${oneLine(name)}: ${oneLine(detail)}`);
  return ['', colors.dim('why'), ...lines];
}
