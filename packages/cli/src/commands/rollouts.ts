/** `rollouts` and `rollout ...`: upgrades of many clusters, in waves. */
import { setTimeout as sleep } from 'node:timers/promises';
import { ROLLOUT_ENDED, type RolloutStatus, type RolloutView, readRollout } from '@kwfleet/core';
import type { Command } from 'commander';
import { createLogUpdate } from 'log-update';
import type { Client } from '../client.ts';
import { consents, needsConsent } from '../consent.ts';
import { type Context, examples } from '../context.ts';
import { badInput, EXIT, INTERRUPTED } from '../exit.ts';
import { readWrittenFile } from '../files.ts';
import { checkMatrix, rolloutPage, rolloutTable } from '../render/rollout-page.ts';
import { clock, count, oneLine } from '../render/text.ts';
import { addReport } from './report.ts';

const LOOK_EVERY_MS = 1_000;
const EXITS =
  '\nExit code with --watch: 0 every cluster is at the target, 3 it waits for a person, 4 some are not or it was aborted.';

/** Adds `rollouts` and `rollout ...`. */
export function addRollouts(program: Command, context: Context): void {
  program
    .command('rollouts')
    .helpGroup('Fleet:')
    .description('List the rollouts, newest first')
    .option('--json', 'print the API objects')
    .addHelpText('after', examples('kwfleet rollouts'))
    .action(async ({ json }: { json?: true }, command: Command) => {
      const items = await context.client(command).rollouts();
      if (json) return context.terminal.json({ items });
      context.terminal.lines(rolloutTable(items, context.terminal.theme, context.terminal.width()));
    });
  const rollout = program
    .command('rollout')
    .helpCommand(false)
    .helpGroup('Fleet:')
    .description('Upgrade many clusters in waves, from a file');
  rollout.addHelpText(
    'after',
    examples('kwfleet rollout check -f autumn.yaml', 'kwfleet rollout create -f autumn.yaml --watch'),
  );
  addCreate(rollout, context);
  addCheck(rollout, context);
  addShow(rollout, context);
  addSteering(rollout, context, 'pause', 'Begin no further cluster; those under way come to their end');
  addSteering(rollout, context, 'resume', 'Go on; what has failed so far is not counted again');
  addSteering(rollout, context, 'abort', 'Begin no further cluster, and end what has touched nothing yet');
  addApprove(rollout, context);
  addReport(rollout, context, 'rollout');
}

type Watching = { watch?: true; json?: true };

function addCreate(rollout: Command, context: Context): void {
  rollout
    .command('create')
    .description('Make a rollout from a file; it begins at once, or at its start')
    .requiredOption('-f, --file <FILE>', 'YAML or JSON; - reads standard input')
    .option('-w, --watch', 'follow it to its end')
    .option('--json', 'print the API object')
    .addHelpText('after', EXITS)
    .addHelpText(
      'after',
      examples('kwfleet rollout create -f autumn.yaml', 'kwfleet rollout create -f autumn.yaml --watch'),
    )
    .action(async ({ file, ...how }: { file: string } & Watching, command: Command) => {
      const { text } = await readWrittenFile(file, readRollout);
      const client = context.client(command);
      const view = await client.createRollout({ file: text });
      if (how.json && !how.watch) return context.terminal.json(view);
      if (!how.json) context.terminal.line(`made rollout ${view.id}`);
      if (how.watch) context.exitCode = await watchRollout(context, client, view.id, how);
      else context.terminal.line(`  kwfleet rollout show ${view.id} --watch   follows it`);
    });
}

function addCheck(rollout: Command, context: Context): void {
  rollout
    .command('check')
    .description(
      'Show what a file, or what a rollout as it began, is about, and what the checks of each cluster say; touches nothing',
    )
    .argument('[ID]', 'a rollout, as `kwfleet rollouts` lists it')
    .option('-f, --file <FILE>', 'a file of which nothing is made; - reads standard input')
    .option('--json', 'print the API objects')
    .addHelpText('after', '\nExit code: 0 no check blocks, 2 one does, or the file has mistakes.')
    .addHelpText('after', examples('kwfleet rollout check -f autumn.yaml'))
    .action(async (id: string | undefined, { file, json }: { file?: string; json?: true }, command: Command) => {
      if ((id === undefined) === (file === undefined)) throw badInput('Give either a rollout or a file.');
      const client = context.client(command);
      const items =
        file === undefined
          ? await client.rolloutChecks(id ?? '')
          : await client.checkRollout({ file: (await readWrittenFile(file, readRollout)).text });
      context.exitCode = items.some(({ blocked }) => blocked) ? EXIT.refused : EXIT.done;
      if (json) return context.terminal.json({ items });
      context.terminal.lines(checkMatrix(items, context.terminal.theme, context.terminal.width()));
    });
}

function addShow(rollout: Command, context: Context): void {
  rollout
    .command('show')
    .description('Show a rollout as it stands now')
    .argument('ID', 'the rollout, as `kwfleet rollouts` lists it')
    .option('-w, --watch', 'follow it to its end; Ctrl-C stops watching, not the rollout')
    .option('--json', 'print the API object; with --watch, one event a line')
    .addHelpText('after', EXITS)
    .addHelpText('after', examples('kwfleet rollout show rollout-20261201-220000-7f3a9c --watch'))
    .action(async (id: string, how: Watching, command: Command) => {
      const client = context.client(command);
      if (how.watch) {
        context.exitCode = await watchRollout(context, client, id, how);
        return;
      }
      const view = await client.rollout(id);
      if (how.json) return context.terminal.json(view);
      context.terminal.lines(rolloutPage(view, context.page()));
    });
}

const DONE = { pause: 'begins no further cluster', resume: 'goes on', abort: 'ends when what is under way has ended' };

function addSteering(
  rollout: Command,
  context: Context,
  request: 'pause' | 'resume' | 'abort',
  description: string,
): void {
  rollout
    .command(request)
    .description(description)
    .argument('ID', 'the rollout, as `kwfleet rollouts` lists it')
    .option('--json', 'print the API object')
    .addHelpText('after', examples(`kwfleet rollout ${request} rollout-20261201-220000-7f3a9c`))
    .action(async (id: string, { json }: { json?: true }, command: Command) => {
      const summary = await context.client(command).steerRollout(id, request);
      if (json) return context.terminal.json(summary);
      context.terminal.line(`rollout ${id} ${DONE[request]}`);
    });
}

type ApproveFlags = { scope?: string; comment?: string; hash?: string; yes?: true; json?: true };

function addApprove(rollout: Command, context: Context): void {
  rollout
    .command('approve')
    .description('Agree to a rollout, or to one of its waves')
    .argument('ID', 'the rollout, as `kwfleet approvals` lists it')
    .option('--scope <SCOPE>', 'start, or wave:NAME; without it, what it waits for now')
    .option('--comment <TEXT>', 'goes on record with the approval')
    .option('--hash <SHA256>', 'of the rollout that you looked at; without it, of the one that is shown')
    .option('-y, --yes', 'do not ask; needed where there is no terminal to ask at')
    .option('--json', 'print the API object')
    .addHelpText('after', examples('kwfleet rollout approve rollout-20261201-220000-7f3a9c'))
    .action(async (id: string, flags: ApproveFlags, command: Command) => {
      const { terminal } = context;
      needsConsent(context, flags, 'kwfleet rollout show ID');
      const client = context.client(command);
      const view = await client.rollout(id);
      if (!flags.json) terminal.lines([...rolloutPage(view, context.page()), '']);
      if (!(await consents(question(view), flags))) return terminal.line('Nothing was approved.');
      const { scope, comment } = flags;
      const approved = await client.approveRollout(id, {
        hash: flags.hash ?? view.hash ?? '',
        ...(scope !== undefined && { scope }),
        ...(comment !== undefined && { comment }),
      });
      if (flags.json) return terminal.json(approved);
      const missing = approved.approvals.reduce((sum, one) => sum + one.missing, 0);
      terminal.line(missing === 0 ? 'approved; it goes on' : `approved; ${count(missing, 'more approval')} needed`);
    });
}

const question = ({ name, clusters, to }: RolloutView): string =>
  `Approve ${name}: ${count(Object.keys(clusters).length, 'cluster')} to ${to}?`;

/** How a followed rollout leaves the command: undefined while it goes on. */
export function exitOfRollout({ status }: { status: RolloutStatus }): number | undefined {
  if (status === 'succeeded') return EXIT.done;
  if (ROLLOUT_ENDED.has(status)) return EXIT.failed;
  return status === 'paused' || status === 'awaiting_approval' ? EXIT.held : undefined;
}

/** Looks again and again, until it ends or waits for a person. On a terminal one picture, elsewhere one line an event. */
async function watchRollout(context: Context, client: Client, id: string, { json }: Watching): Promise<number> {
  const { terminal } = context;
  const live = terminal.isTTY && !json;
  const draw = createLogUpdate(terminal.out as NodeJS.WritableStream as never);
  let seen = 0;
  const tell = async () => {
    for (const event of await client.rolloutEvents(id, seen)) {
      seen = event.seq;
      if (json) terminal.jsonLine(event);
      else if (!live) terminal.line(`${clock(event.atMs)}  ${oneLine(event.message)}`);
    }
  };
  return context.untilInterrupted(async (signal) => {
    let view: RolloutView = await client.rollout(id);
    while (!signal.aborted) {
      if (live) draw(rolloutPage(view, context.page()).join('\n'));
      else await tell();
      const code = exitOfRollout(view);
      if (code !== undefined) {
        if (live) draw.done();
        return code;
      }
      await sleep(LOOK_EVERY_MS, undefined, { signal }).catch(() => {});
      if (!signal.aborted) view = await client.rollout(id);
    }
    return INTERRUPTED;
  });
}
