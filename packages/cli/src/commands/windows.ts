/** `windows ...`: when upgrades may touch what. */
import { freezeAt, readWindow, shown, type WindowView } from '@kwfleet/core';
import type { Command } from 'commander';
import { parseCount } from '../arguments.ts';
import { type Context, examples } from '../context.ts';
import { readWrittenFile } from '../files.ts';
import { columns } from '../render/columns.ts';
import { elapsed, oneLine } from '../render/text.ts';
import type { Theme } from '../render/theme.ts';

/** Adds `windows` and what can be done to one. */
export function addWindows(program: Command, context: Context): void {
  const windows = program
    .command('windows')
    .helpCommand(false)
    .helpGroup('Fleet:')
    .description('List the maintenance windows, and when each is open next')
    .option('--json', 'print the API objects')
    .addHelpText('after', examples('kwfleet windows', 'kwfleet windows apply -f nights.yaml'))
    .action(async ({ json }: { json?: true }, command: Command) => {
      const items = await context.client(command).windows();
      if (json) return context.terminal.json({ items });
      context.terminal.lines(windowTable(items, context.terminal.theme, context.terminal.width()));
    });
  windows
    .command('apply')
    .description('Make a window from a file, or change the one of its name')
    .requiredOption('-f, --file <FILE>', 'YAML or JSON; - reads standard input')
    .option('--json', 'print the API object')
    .addHelpText('after', examples('kwfleet windows apply -f nights.yaml'))
    .action(async ({ file, json }: { file: string; json?: true }, command: Command) => {
      const { text } = await readWrittenFile(file, readWindow);
      const view = await context.client(command).putWindow({ file: text });
      if (json) return context.terminal.json(view);
      context.terminal.lines(windowPage(view, context.terminal.theme));
    });
  windows
    .command('show')
    .description('Show a window, and when it is open in the days to come')
    .argument('NAME', 'the window, as `kwfleet windows` lists it')
    .option('--days <N>', 'how far ahead', parseCount, 14)
    .option('--json', 'print the API object')
    .addHelpText('after', examples('kwfleet windows show nights --days 30'))
    .action(async (name: string, { days, json }: { days: number; json?: true }, command: Command) => {
      const view = await context.client(command).window(name, days);
      if (json) return context.terminal.json(view);
      context.terminal.lines(windowPage(view, context.terminal.theme));
    });
  windows
    .command('delete')
    .description('Delete a window that nothing waits for')
    .argument('NAME', 'the window, as `kwfleet windows` lists it')
    .addHelpText('after', examples('kwfleet windows delete nights'))
    .action(async (name: string, _flags: object, command: Command) => {
      await context.client(command).deleteWindow(name);
      context.terminal.line(`window ${name} is deleted`);
    });
}

/** The lines of `kwfleet windows`. */
export function windowTable(items: readonly WindowView[], theme: Theme, width: number | undefined): string[] {
  if (items.length === 0)
    return ['No window yet: `kwfleet windows apply -f FILE` makes one; docs/rollouts.md shows how.'];
  const rows = items.map((view) => [oneLine(view.window.name), oneLine(view.window.zone), stateWord(view, theme)]);
  const [first = '', ...rest] = columns([['WINDOW', 'ZONE', 'STATE'], ...rows], width, theme.glyphs.ellipsis);
  return [theme.colors.dim(first), ...rest];
}

function stateWord({ window, nowMs, days, spans }: WindowView, { colors }: Theme): string {
  const [next] = spans;
  if (next !== undefined && next.startMs <= nowMs) return colors.green(`open until ${shown(next.endMs, window.zone)}`);
  const frozen = freezeAt([window], nowMs);
  const why =
    frozen === undefined
      ? 'closed'
      : `frozen${frozen.freeze.reason === undefined ? '' : `: ${oneLine(frozen.freeze.reason)}`}`;
  const then = next === undefined ? `not open within ${days} days` : `opens ${shown(next.startMs, window.zone)}`;
  return `${frozen === undefined ? why : colors.yellow(why)}, ${then}`;
}

/** A window with its openings to come, by the clocks of its zone. */
export function windowPage(view: WindowView, theme: Theme): string[] {
  const { window, spans, nowMs } = view;
  const openings = spans.map(
    ({ startMs, endMs }) =>
      `  ${shown(startMs, window.zone).slice(0, 16)}  to  ${shown(endMs, window.zone).slice(0, 16)}   ${elapsed(endMs - startMs)}${startMs <= nowMs ? theme.colors.green('  now') : ''}`,
  );
  return [
    `${theme.colors.bold(oneLine(window.name))}  ${stateWord(view, theme)}`,
    theme.colors.dim(`openings in the next ${view.days} days, by the clocks of ${oneLine(window.zone)}`),
    ...(openings.length === 0 ? ['  none'] : openings),
  ];
}
