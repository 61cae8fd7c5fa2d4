/** `notifications ...`: whom the controller tells what, and whether it arrived. */
import type { DeliveryView, TargetView } from '@kwfleet/core';
import type { Command } from 'commander';
import { type Context, examples } from '../context.ts';
import { columns } from '../render/columns.ts';
import { dayTime, oneLine } from '../render/text.ts';
import type { Theme } from '../render/theme.ts';

/** Adds `notifications`. */
export function addNotifications(program: Command, context: Context): void {
  const notifications = program
    .command('notifications')
    .helpCommand(false)
    .helpGroup('Notifications:')
    .description('List what people were told, newest first')
    .option('--dead', 'only what could not be delivered')
    .option('--json', 'print the API objects')
    .addHelpText('after', examples('kwfleet notifications --dead', 'kwfleet notifications test oncall'))
    .action(async ({ dead, json }: { dead?: true; json?: true }, command: Command) => {
      const items = await context.client(command).notifications(dead ? 'dead' : undefined);
      if (json) return context.terminal.json({ items });
      context.terminal.lines(deliveryTable(items, context.terminal.theme, context.terminal.width()));
    });
  notifications
    .command('targets')
    .description('List whom this controller tells what')
    .option('--json', 'print the API objects')
    .addHelpText('after', examples('kwfleet notifications targets'))
    .action(async ({ json }: { json?: true }, command: Command) => {
      const items = await context.client(command).targets();
      if (json) return context.terminal.json({ items });
      context.terminal.lines(targetTable(items, context.terminal.theme, context.terminal.width()));
    });
  notifications
    .command('test')
    .description('Send a message to a target now, and say what came of it')
    .argument('NAME', 'the target, as `kwfleet notifications targets` lists it')
    .addHelpText('after', examples('kwfleet notifications test oncall'))
    .action(async (name: string, _: object, command: Command) => {
      await context.client(command).testTarget(name);
      context.terminal.line(`${name} took it`);
    });
  notifications
    .command('resend')
    .description('Try what could not be delivered once more')
    .argument('ID', 'as `kwfleet notifications --dead` lists it')
    .addHelpText('after', examples('kwfleet notifications resend notification-20261125-184612-1f2e3d.oncall'))
    .action(async (id: string, _: object, command: Command) => {
      await context.client(command).resend(id);
      context.terminal.line(`${id} is on its way again`);
    });
}

/** The lines of `kwfleet notifications`. */
export function deliveryTable(items: readonly DeliveryView[], theme: Theme, width: number | undefined): string[] {
  if (items.length === 0) return ['Nothing: `kwfleet notifications targets` shows who would be told what.'];
  const { colors, glyphs } = theme;
  const words = {
    delivered: colors.green(`${glyphs.done} delivered`),
    pending: colors.yellow(`${glyphs.waiting} on its way`),
    dead: colors.red(`${glyphs.failed} dead`),
  };
  const rows = items.map((item) => [
    dayTime(item.createdAtMs),
    item.target,
    words[item.status],
    String(item.attempts),
    oneLine(item.event),
    oneLine(item.title),
  ]);
  const [first = '', ...rest] = columns(
    [['WHEN', 'TARGET', 'STATUS', 'TRIES', 'EVENT', 'WHAT'], ...rows],
    width,
    glyphs.ellipsis,
  );
  const failed = items.filter(({ lastError }) => lastError !== undefined);
  const reasons = failed.map(({ id, lastError = '' }) => `  ${id}: ${oneLine(lastError)}`);
  return [colors.dim(first), ...rest, ...(reasons.length === 0 ? [] : ['', colors.dim('why'), ...reasons])];
}

function targetTable(items: readonly TargetView[], theme: Theme, width: number | undefined): string[] {
  if (items.length === 0) return ['This controller tells nobody: see `notifications` in its configuration.'];
  const rows = items.map(({ name, kind, host, events, labels }) => [
    name,
    kind,
    oneLine(host),
    events.join(', ') || 'everything',
    Object.entries(labels)
      .map(([key, value]) => oneLine(`${key}=${value}`))
      .join(', ') || 'every cluster',
  ]);
  const heading = ['TARGET', 'KIND', 'HOST', 'EVENTS', 'CLUSTERS'];
  const [first = '', ...rest] = columns([heading, ...rows], width, theme.glyphs.ellipsis);
  return [theme.colors.dim(first), ...rest];
}
