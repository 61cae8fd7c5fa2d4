/** `cluster name` and `cluster label`: what people say of a cluster; everything else is what its agents report. */
import type { Command } from 'commander';
import { parseLabel } from '../arguments.ts';
import { type Context, examples } from '../context.ts';
import { badInput } from '../exit.ts';
import { oneLine } from '../render/text.ts';

/** Adds `cluster ...`. */
export function addCluster(program: Command, context: Context): void {
  const cluster = program
    .command('cluster')
    .helpCommand(false)
    .helpGroup('Fleet:')
    .description('Name and label a cluster');
  cluster.addHelpText('after', examples('kwfleet cluster label prod-east environment=production site=east'));
  cluster
    .command('name')
    .description('Give a cluster a name, by which every command finds it')
    .argument('CLUSTER', 'its name or id')
    .argument('NAME', 'what it is to be called')
    .option('--json', 'print the API object')
    .addHelpText('after', examples('kwfleet cluster name kwdb-11111111 prod-east'))
    .action(async (id: string, name: string, { json }: { json?: true }, command: Command) => {
      const changed = await context.client(command).describeCluster(id, { name });
      if (json) return context.terminal.json(changed);
      context.terminal.line(`cluster ${changed.id} is called ${oneLine(changed.name)}`);
    });
  cluster
    .command('label')
    .description('Put labels on a cluster, or take them off; without a change, show them')
    .argument('CLUSTER', 'its name or id')
    .argument('[CHANGES...]', 'KEY=VALUE puts a label on, KEY- takes it off')
    .option('--json', 'print the API object')
    .addHelpText(
      'after',
      examples('kwfleet cluster label prod-east environment=production', 'kwfleet cluster label prod-east site-'),
    )
    .action(async (id: string, changes: string[], { json }: { json?: true }, command: Command) => {
      const client = context.client(command);
      const before = await client.cluster(id);
      const labels = changedLabels(before.labels, changes);
      const after = changes.length === 0 ? before : await client.describeCluster(before.id, { labels });
      if (json) return context.terminal.json(after);
      const lines = Object.entries(after.labels).map(([key, value]) => oneLine(`${key}=${value}`));
      context.terminal.lines(lines.length === 0 ? [`cluster ${oneLine(after.name)} has no labels`] : lines);
    });
}

/** Labels after changes as kubectl writes them: `key=value`, or `key-`. Throws on anything else. */
export function changedLabels(before: Record<string, string>, changes: readonly string[]): Record<string, string> {
  const labels = new Map(Object.entries(before));
  for (const change of changes) {
    if (change.includes('=')) labels.set(...parseLabel(change));
    else if (change.endsWith('-') && change.length > 1) labels.delete(change.slice(0, -1));
    else throw badInput(`"${change}" is no change of a label.`, 'Write KEY=VALUE to put one on, KEY- to take it off.');
  }
  return Object.fromEntries(labels);
}
