/** `backups`, `backup`, `restore` and `downgrade`: what can be brought back, and bringing it back. */
import type { BackupView, PlanRequest } from '@kwfleet/core';
import { type Command, Option } from 'commander';
import { type Context, examples } from '../context.ts';
import { badInput } from '../exit.ts';
import { columns } from '../render/columns.ts';
import { bytes, elapsed, oneLine } from '../render/text.ts';
import type { Theme } from '../render/theme.ts';
import { planAndStart, type StartFlags, withStartOptions } from './plan.ts';

type RestoreFlags = StartFlags & { backup: string; to?: string; replaced?: 'keep' | 'remove' };

/** Adds the commands of backups. */
export function addBackups(program: Command, context: Context): void {
  program
    .command('backups')
    .helpGroup('Backups:')
    .description('List the backups that runs made, and which of them can be restored')
    .argument('[CLUSTER]', 'name or id of a cluster')
    .option('--json', 'print the API objects')
    .addHelpText('after', examples('kwfleet backups prod-east'))
    .action(async (cluster: string | undefined, { json }: { json?: true }, command: Command) => {
      const client = context.client(command);
      const items = await client.backups(cluster);
      if (json) return context.terminal.json({ items });
      const { theme, width } = context.terminal;
      context.terminal.lines(backupTable(items, { theme, width: width(), nowMs: client.nowMs() }));
    });
  const backup = program
    .command('backup')
    .helpGroup('Backups:')
    .description('Copy a whole cluster, all its nodes stopped, so that it can be restored; it does not serve meanwhile')
    .argument('CLUSTER', 'name or id of the cluster');
  withStartOptions(backup)
    .addHelpText('after', examples('kwfleet backup prod-east --watch'))
    .action(async (cluster: string, flags: StartFlags, command: Command) => {
      const { versions } = await context.client(command).cluster(cluster);
      const [to = '', ...others] = versions;
      if (others.length > 0) {
        throw badInput(
          `The nodes of ${cluster} have different versions: ${versions.join(', ')}.`,
          'Finish the upgrade first.',
        );
      }
      await planAndStart(context, command, { cluster, to, kind: 'backup' }, flags);
    });
  const restore = program
    .command('restore')
    .helpGroup('Backups:')
    .description('Put a backup back under the version that made it; all nodes are stopped meanwhile')
    .argument('CLUSTER', 'name or id of the cluster');
  withRestoreOptions(restore)
    .addHelpText('after', examples('kwfleet restore prod-east --backup run_01JD8 --watch'))
    .action((cluster: string, flags: RestoreFlags, command: Command) =>
      put(context, command, cluster, 'restore', flags),
    );
  const downgrade = program
    .command('downgrade')
    .helpGroup('Backups:')
    .description('Install the version before again and put its backup back; what was written since is given up')
    .argument('CLUSTER', 'name or id of the cluster')
    .requiredOption('--to <VERSION>', 'the version of the backup; its package must have been added');
  withRestoreOptions(downgrade)
    .addHelpText('after', examples('kwfleet downgrade prod-east --to 3.0.0 --backup run_01JD8 --watch'))
    .action((cluster: string, flags: RestoreFlags, command: Command) =>
      put(context, command, cluster, 'downgrade', flags),
    );
}

function withRestoreOptions(command: Command): Command {
  return withStartOptions(
    command
      .requiredOption('--backup <ID>', 'the backup, as `kwfleet backups` names it')
      .addOption(
        new Option(
          '--replaced <WHAT>',
          'what becomes of the data that are there now, once all nodes are verified (default: keep)',
        ).choices(['keep', 'remove']),
      ),
  );
}

async function put(
  context: Context,
  command: Command,
  cluster: string,
  kind: 'restore' | 'downgrade',
  flags: RestoreFlags,
): Promise<void> {
  const to = flags.to ?? (await context.client(command).backup(flags.backup)).version;
  const { backup, replaced } = flags;
  const request: PlanRequest = {
    cluster,
    to,
    kind,
    restore: { backup, ...(replaced === undefined ? {} : { replaced }) },
  };
  await planAndStart(context, command, request, flags);
}

/** The lines of `kwfleet backups`. */
export function backupTable(
  items: readonly BackupView[],
  { theme, width, nowMs }: { theme: Theme; width: number | undefined; nowMs: number },
): string[] {
  if (items.length === 0) return ['No run made a backup yet: `kwfleet upgrade --backup copy`, or `kwfleet backup`.'];
  const { colors, glyphs } = theme;
  const rows = items.map((item) => [
    oneLine(item.id),
    oneLine(item.clusterName),
    oneLine(item.version),
    item.policy,
    `${item.parts.length}/${item.nodes}`,
    bytes(item.sizeBytes),
    elapsed(Math.max(0, nowMs - item.madeAtMs)),
    item.problems.length === 0
      ? colors.green(`${glyphs.done} can be restored`)
      : colors.yellow(`${glyphs.warn} ${oneLine(item.problems[0] ?? '')}`),
  ]);
  const heading = ['BACKUP', 'CLUSTER', 'VERSION', 'BY', 'NODES', 'SIZE', 'AGE', 'STATE'];
  const [first = '', ...rest] = columns([heading, ...rows], width, theme.glyphs.ellipsis);
  return [colors.dim(first), ...rest];
}
