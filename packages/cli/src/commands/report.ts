/** `run report` and `rollout report`: the record, written or compared. */
import { readFile, writeFile } from 'node:fs/promises';
import type { ChainKind } from '@kwfleet/core';
import { type Command, Option } from 'commander';
import type { ReportFormat } from '../client.ts';
import { type Context, examples } from '../context.ts';
import { clean } from '../render/text.ts';
import { readReport, verifyReport } from '../verify-report.ts';

type ReportFlags = { format: ReportFormat; json?: true; output?: string; verify?: string };

/** Adds `report` to `run` or to `rollout`. */
export function addReport(parent: Command, context: Context, kind: ChainKind): void {
  const what = kind === 'run' ? 'an upgrade' : 'a rollout';
  parent
    .command('report')
    .description(`Print the record of ${what}: what was planned, done and observed, by whom`)
    .argument('ID', `the ${kind}, as \`kwfleet ${kind}s\` lists it`)
    .addOption(
      new Option('--format <FORMAT>', 'how it is written').choices(['markdown', 'html', 'json']).default('markdown'),
    )
    .option('--json', 'the same as --format json')
    .option('-o, --output <FILE>', 'write it to a file')
    .option(
      '--verify <FILE>',
      'follow the chain of hashes in a JSON or HTML report, and compare it with the controller',
    )
    .addHelpText('after', `\nExit code with --verify: 0 it is whole and of this ${kind}, 2 it is not.`)
    .addHelpText(
      'after',
      examples(`kwfleet ${kind} report 7f3k2`, `kwfleet ${kind} report 7f3k2 --format html -o report.html`),
    )
    .action(async (id: string, flags: ReportFlags, command: Command) => {
      const client = context.client(command);
      if (flags.verify !== undefined) {
        const report = readReport(await readFile(flags.verify, 'utf8'), flags.verify);
        const now = readReport(await client.report(id, 'json', kind), 'the controller');
        return context.terminal.line(verifyReport(report, now));
      }
      const text = await client.report(id, flags.json ? 'json' : flags.format, kind);
      if (flags.output !== undefined) return writeFile(flags.output, text);
      context.terminal.line((context.terminal.isTTY ? clean(text) : text).trimEnd());
    });
}
