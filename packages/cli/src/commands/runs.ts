import type { Choice, RunSummary } from '@kwfleet/core';
import type { Command } from 'commander';
import { type Context, examples } from '../context.ts';
import { columns } from '../render/columns.ts';
import { renderRun } from '../render/run-tree.ts';
import { dayTime, elapsed, oneLine } from '../render/text.ts';
import type { Theme } from '../render/theme.ts';
import { addReport } from './report.ts';
import { watchHere } from './watching.ts';

/** Adds `runs` and `run ...`; returns the latter. */
export function addRuns(program: Command, context: Context): Command {
  program
    .command('runs')
    .helpGroup('Upgrade a cluster:')
    .description('List the upgrades, newest first')
    .option('--json', 'print the API objects')
    .addHelpText('after', examples('kwfleet runs'))
    .action(async ({ json }: { json?: true }, command: Command) => {
      const client = context.client(command);
      const items = await client.runs();
      if (json) return context.terminal.json({ items });
      const { theme, width } = context.terminal;
      context.terminal.lines(runTable(items, { theme, width: width(), nowMs: client.nowMs() }));
    });
  const run = program
    .command('run')
    .helpCommand(false)
    .helpGroup('Upgrade a cluster:')
    .description('Look at one upgrade and steer it');
  run.addHelpText('after', examples('kwfleet run watch 7f3k2', 'kwfleet run pause 7f3k2'));
  addShow(run, context);
  addWatch(run, context);
  addChoice(run, context, 'pause', 'Stop an upgrade before its next step; the step in hand is finished');
  addChoice(run, context, 'resume', 'Let a paused upgrade go on');
  addChoice(run, context, 'retry', 'Let a held upgrade look again at what held it, and go on if all is well');
  addChoice(
    run,
    context,
    'abort',
    'End an upgrade: what is begun is finished or, where still legal, put back; no other node is touched',
  );
  addReport(run, context, 'run');
  return run;
}

function addShow(run: Command, context: Context): void {
  run
    .command('show')
    .description('Show an upgrade as it stands now')
    .argument('ID', 'the run, as `kwfleet runs` lists it')
    .option('--json', 'print the API object')
    .addHelpText('after', examples('kwfleet run show 7f3k2'))
    .action(async (id: string, { json }: { json?: true }, command: Command) => {
      const client = context.client(command);
      const view = await client.run(id);
      if (json) return context.terminal.json(view);
      const room = { width: context.terminal.width() ?? 120, rows: Number.POSITIVE_INFINITY };
      context.terminal.lines(renderRun({ view, nowMs: client.nowMs(), frame: 0 }, room, context.terminal.theme));
    });
}

function addWatch(run: Command, context: Context): void {
  run
    .command('watch')
    .description('Follow an upgrade to its end; Ctrl-C stops watching, not the upgrade')
    .argument('ID', 'the run, as `kwfleet runs` lists it')
    .option('--stay', 'stay when the run is held, until it ends')
    .option('--plain', 'one line an event, as when the output is no terminal')
    .option('--json', 'one event of the API a line')
    .addHelpText(
      'after',
      '\nExit code: 0 succeeded, 3 held for a person, 4 failed or aborted, 130 stopped with Ctrl-C.',
    )
    .addHelpText('after', examples('kwfleet run watch 7f3k2', 'kwfleet run watch 7f3k2 --json | jq -r .message'))
    .action(async (id: string, how: { json?: true; plain?: true; stay?: true }, command: Command) => {
      context.exitCode = await watchHere(context, context.client(command), id, how);
    });
}

type Steering = Exclude<Choice, 'wait' | 'approve'>;
const DONE: Record<Steering, string> = {
  pause: 'will stop before its next step',
  resume: 'goes on',
  retry: 'looks again',
  abort: 'ends as soon as what is begun is finished or put back',
};

function addChoice(run: Command, context: Context, choice: Steering, description: string): void {
  const goesOn = choice === 'resume' || choice === 'retry';
  const command = run
    .command(choice)
    .description(description)
    .argument('ID', 'the run, as `kwfleet runs` lists it')
    .option('--json', 'print the API object')
    .addHelpText('after', examples(`kwfleet run ${choice} 7f3k2${goesOn ? ' --watch' : ''}`));
  if (goesOn) command.option('-w, --watch', 'then follow the upgrade to its end');
  command.action(async (id: string, { json, watch }: { json?: true; watch?: true }, self: Command) => {
    const { terminal } = context;
    const client = context.client(self);
    // The hold that this answers may still be shown for a moment: watching must not take it for a new one.
    const before = watch ? await client.run(id) : undefined;
    const summary = await client.choose(id, choice);
    // The runner takes it up in a moment: the status of the answer may still be the one before.
    if (!json)
      terminal.lines([`run ${id} ${DONE[choice]}`, ...(watch ? [] : [`  kwfleet run watch ${id}   follows it`])]);
    else if (watch) terminal.jsonLine(summary);
    else terminal.json(summary);
    if (watch) context.exitCode = await watchHere(context, client, id, { json, answeredHoldMs: before?.hold?.sinceMs });
  });
}

type RunTable = { readonly theme: Theme; readonly width: number | undefined; readonly nowMs: number };

/** The lines of `kwfleet runs`. */
export function runTable(items: readonly RunSummary[], { theme, width, nowMs }: RunTable): string[] {
  if (items.length === 0) return ['No upgrade yet: `kwfleet plan CLUSTER --to VERSION` shows what one would do.'];
  const rows = items.map((run) => [
    run.id,
    oneLine(run.clusterName || run.cluster),
    run.to,
    statusWord(run, theme),
    `${run.done}/${run.total}`,
    run.startedAtMs === undefined ? '' : dayTime(run.startedAtMs),
    run.startedAtMs === undefined ? '' : elapsed((run.endedAtMs ?? nowMs) - run.startedAtMs),
  ]);
  const heading = ['RUN', 'CLUSTER', 'TO', 'STATUS', 'STEPS', 'STARTED', 'TOOK'];
  const [first = '', ...rest] = columns([heading, ...rows], width, theme.glyphs.ellipsis);
  return [theme.colors.dim(first), ...rest];
}

function statusWord({ status, hold }: RunSummary, { colors }: Theme): string {
  if (status === 'succeeded') return colors.green(status);
  if (status === 'failed' || status === 'aborted') return colors.red(status);
  if (status === 'held') return colors.yellow(hold === undefined ? status : `held: ${hold.code}`);
  return status === 'paused' ? colors.yellow(status) : status.replace('_', ' ');
}
