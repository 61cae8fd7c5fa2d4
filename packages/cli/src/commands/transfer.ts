/** `transfer plan` and `transfer start`: everything of one cluster exported, imported into another, and compared. */
import { type TransferRequest, writeDuration } from '@kwfleet/core';
import { type Command, InvalidArgumentError } from 'commander';
import { parseCount, parseDuration, shellQuote } from '../arguments.ts';
import { type Context, examples } from '../context.ts';
import { count } from '../render/text.ts';
import { type StartFlags, showAndStart, showPlan, withStartOptions } from './plan.ts';

type Flags = {
  into: string;
  concurrency?: number;
  sampleRows?: number;
  seed?: number;
  ceiling?: number;
  json?: true;
};

/** Adds `transfer`. */
export function addTransfer(program: Command, context: Context): void {
  const transfer = program
    .command('transfer')
    .helpGroup('Upgrade a cluster:')
    .description('Carry everything of one cluster into another, fresh one: any version to any, compared table by table')
    .addHelpText('after', examples('kwfleet transfer start prod-east --into prod-east-new --watch'));
  withOptions(transfer.command('plan'))
    .description('Show what a transfer would carry, and check whether it may; touches nothing')
    .option('--json', 'print the API object')
    .addHelpText('after', '\nExit code: 0 it can be started, 2 a check blocks it.')
    .addHelpText('after', examples('kwfleet transfer plan prod-east --into prod-east-new'))
    .action(async (source: string, flags: Flags, command: Command) => {
      const view = await context.client(command).createTransferPlan(requestOf(source, flags));
      showPlan(context, view, startCommand(source, flags), flags);
    });
  const started = withOptions(transfer.command('start'))
    .description('Plan a transfer, show the plan, ask, and start it')
    .addHelpText('after', '\nThe source is only read: SELECT, SHOW and EXPORT. Let no client write to it meanwhile.');
  withStartOptions(started, 'transfer')
    .addHelpText('after', examples('kwfleet transfer start prod-east --into prod-east-new --watch'))
    .action((source: string, flags: Flags & StartFlags, command: Command) =>
      startTransfer(context, command, source, flags),
    );
}

function withOptions(command: Command): Command {
  return command
    .argument('SOURCE', 'name or id of the cluster that is exported')
    .requiredOption('--into <CLUSTER>', 'name or id of the cluster that everything is imported into')
    .option('--concurrency <N>', 'tables under way at once (default: 2)', parseCount)
    .option('--sample-rows <N>', 'rows of each of the three samples of a table (default: 500)', parseCount)
    .option('--seed <N>', 'where the samples in the middle lie (default: drawn, and shown in the plan)', parseSeed)
    .option('--ceiling <DURATION>', 'hold when a step is not done after so long (default: 48h)', parseDuration);
}

function parseSeed(text: string): number {
  if (!/^\d{1,10}$/.test(text) || Number(text) > 0xffff_ffff) {
    throw new InvalidArgumentError('Write a whole number from 0 to 4294967295.');
  }
  return Number(text);
}

export function requestOf(source: string, flags: Flags): TransferRequest {
  const { into, concurrency, sampleRows, seed, ceiling } = flags;
  const options = {
    ...(concurrency === undefined ? {} : { concurrency }),
    ...(sampleRows === undefined ? {} : { sampleRows }),
    ...(seed === undefined ? {} : { seed }),
    ...(ceiling === undefined ? {} : { ceilingMs: ceiling }),
  };
  return { source, into, ...(Object.keys(options).length === 0 ? {} : { options }) };
}

/** The command that starts what `transfer plan` showed, with the same options. */
function startCommand(source: string, flags: Flags): string {
  const words = ['kwfleet', 'transfer', 'start', source, '--into', flags.into];
  if (flags.concurrency !== undefined) words.push('--concurrency', String(flags.concurrency));
  if (flags.sampleRows !== undefined) words.push('--sample-rows', String(flags.sampleRows));
  if (flags.seed !== undefined) words.push('--seed', String(flags.seed));
  if (flags.ceiling !== undefined) words.push('--ceiling', writeDuration(flags.ceiling));
  return [...words, '--watch'].map(shellQuote).join(' ');
}

const startTransfer = (context: Context, command: Command, source: string, flags: Flags & StartFlags): Promise<void> =>
  showAndStart(context, command, flags, {
    look: 'kwfleet transfer plan',
    plan: (client) => client.createTransferPlan(requestOf(source, flags)),
    question: (view) => {
      const tables = count(view.plan?.transfer?.units.length ?? 0, 'table');
      return `Carry ${tables} of ${source} into ${view.clusterName} now?`;
    },
  });
