/** `plan` and `upgrade`: what would happen, and making it happen. */
import {
  DEFAULT_OPTIONS,
  type PlanRequest,
  type PlanView,
  type Route,
  type RunRequest,
  writeDuration,
} from '@kwfleet/core';
import { type Command, Option } from 'commander';
import {
  parseBackup,
  parseCount,
  parseDuration,
  parseMoment,
  parsePast,
  shellQuote,
  writeBackup,
} from '../arguments.ts';
import type { Client } from '../client.ts';
import { consents, needsConsent } from '../consent.ts';
import { type Context, examples } from '../context.ts';
import { badInput, EXIT } from '../exit.ts';
import { nextLines, planPage } from '../render/plan-page.ts';
import { count } from '../render/text.ts';
import { watchHere } from './watching.ts';

type PlanFlags = {
  to: string;
  route?: Route;
  backup?: NonNullable<NonNullable<PlanRequest['options']>['backup']>;
  backupTime?: number;
  backupMaxAge?: number;
  bypassVersionCheck?: true;
  soak?: number;
  idle?: number;
  ceiling?: number;
  sampleGap?: number;
  concurrency?: number;
  json?: true;
};
/** What every command that starts a run takes. */
export type StartFlags = { yes?: true; watch?: true; json?: true };
type UpgradeFlags = PlanFlags & TimingFlags & StartFlags;
type TimingFlags = { at?: number; skipAfter?: number; window?: string[]; prefetch?: number };

/** Adds `plan` and `upgrade`. */
export function addPlan(program: Command, context: Context): void {
  const plan = program
    .command('plan')
    .helpGroup('Upgrade a cluster:')
    .description('Show what an upgrade would do and check whether it may; touches nothing');
  withPlanOptions(plan)
    .option('--json', 'print the API object')
    .addHelpText('after', '\nExit code: 0 it can be started, 2 a check blocks it.')
    .addHelpText('after', examples('kwfleet plan prod-east --to 3.1.0 --backup attested:s3://backups/prod-east/1123'))
    .action(async (cluster: string, flags: PlanFlags, command: Command) => {
      const view = await context.client(command).createPlan(requestOf(cluster, flags));
      showPlan(context, view, upgradeCommand(cluster, flags), flags);
    });
  const upgrade = program
    .command('upgrade')
    .helpGroup('Upgrade a cluster:')
    .description('Plan an upgrade, show the plan, ask, and start it');
  withStartOptions(withPlanOptions(upgrade))
    .option(
      '--at <TIME>',
      "start then, like 2026-12-01T22:00 (this machine's clock) or 2026-12-01T22:00+01:00",
      parseMoment,
    )
    .option('--skip-after <DURATION>', 'with --at: give it up when it could not start within so long', parseDuration)
    .option('--window <NAME...>', 'touch nothing outside of these windows')
    .option('--prefetch <DURATION>', 'with --window: bring the package to the hosts so long ahead', parseDuration)
    .addHelpText(
      'after',
      examples(
        'kwfleet upgrade prod-east --to 3.1.0 --backup attested:s3://backups/prod-east/1123 --watch',
        'kwfleet upgrade lab --to 3.1.0 --backup "none:test data" --yes --json',
      ),
    )
    .action((cluster: string, flags: UpgradeFlags, command: Command) =>
      planAndStart(context, command, requestOf(cluster, flags), flags),
    );
}

/** Shows a plan that was made to be looked at, and the command that starts it. Exit code 2 when a check blocks it. */
export function showPlan(context: Context, view: PlanView, command: string, { json }: { json?: true }): void {
  const page = context.page();
  if (json) context.terminal.json(view);
  else context.terminal.lines([...planPage(view, page), '', ...nextLines(view, command, page)]);
  context.exitCode = view.blocked ? EXIT.refused : EXIT.done;
}

/** How a run is started and followed: the same for every command that starts one. `what` is how people call it. */
export function withStartOptions(command: Command, what = 'run'): Command {
  return command
    .option('-y, --yes', 'start without asking; needed where there is no terminal to ask at')
    .option('-w, --watch', `follow the ${what} to its end`)
    .option('--json', 'print the run as the API gives it, then, with --watch, one event a line')
    .addHelpText(
      'after',
      '\nExit code: 0 succeeded (without --watch: started), 2 a check blocks it, 3 held for a person,',
    )
    .addHelpText('after', `4 failed or aborted, 130 watching was stopped with Ctrl-C (the ${what} goes on).`);
}

function withPlanOptions(command: Command): Command {
  return command
    .argument('CLUSTER', 'name or id of the cluster')
    .requiredOption('--to <VERSION>', 'the version to upgrade to; its package must have been added')
    .option('--backup <BACKUP>', 'copy, command, attested:WHERE the backup lies, or none:REASON', parseBackup)
    .option('--backup-time <TIME>', 'when an attested backup was made, or how long ago (default: now)', parsePast)
    .option('--backup-max-age <DURATION>', 'how old an attested backup may be (default: 24h)', parseDuration)
    .addOption(
      new Option(
        '--route <ROUTE>',
        'multi-replica clusters: stop, install, start (offline) or mark the running node (online)',
      ).choices(['offline', 'online']),
    )
    .option('--soak <DURATION>', 'how long the cluster must stay healthy after each node (default: 30s)', parseDuration)
    .option('--sample-gap <DURATION>', 'time between the two looks at the ranges (default: 5s)', parseDuration)
    .option('--concurrency <N>', 'single-replica clusters: nodes that install at once (default: 8)', parseCount)
    .option('--idle <DURATION>', 'hold when nothing moves on a node for so long (default: 15m)', parseDuration)
    .option(
      '--ceiling <DURATION>',
      'hold when a step is not done after so long, however it moves (default: 6h)',
      parseDuration,
    )
    .option('--bypass-version-check', "step between versions that deploy.sh does not know; with the vendor's consent");
}

/** What the flags ask the controller for; it fills in what is absent. */
export function requestOf(cluster: string, flags: PlanFlags): PlanRequest {
  const options: NonNullable<PlanRequest['options']> = {
    ...(flags.route === undefined ? {} : { route: flags.route }),
    ...(flags.backup === undefined ? {} : { backup: backupOf(flags) }),
    ...(flags.bypassVersionCheck === undefined ? {} : { bypassVersionCheck: flags.bypassVersionCheck }),
    ...(flags.soak === undefined ? {} : { soakMs: flags.soak }),
    ...(flags.sampleGap === undefined ? {} : { sampleGapMs: flags.sampleGap }),
    ...(flags.concurrency === undefined ? {} : { concurrency: flags.concurrency }),
    ...(flags.idle === undefined && flags.ceiling === undefined ? {} : { deadline: deadlineOf(flags) }),
  };
  return { cluster, to: flags.to, ...(Object.keys(options).length === 0 ? {} : { options }) };
}

/** When an attested backup was made, and how old it may be, say options of their own. */
function backupOf({ backup, backupTime: atMs, backupMaxAge: maxAgeMs }: PlanFlags): PlanFlags['backup'] {
  if (atMs === undefined && maxAgeMs === undefined) return backup;
  if (backup?.policy !== 'attested') {
    throw badInput('--backup-time and --backup-max-age are for --backup attested:WHERE.', 'Leave them out.');
  }
  return { ...backup, ...(atMs === undefined ? {} : { atMs }), ...(maxAgeMs === undefined ? {} : { maxAgeMs }) };
}

const deadlineOf = ({ idle, ceiling }: PlanFlags) => ({
  idleMs: idle ?? DEFAULT_OPTIONS.deadline.idleMs,
  ceilingMs: ceiling ?? DEFAULT_OPTIONS.deadline.ceilingMs,
});

/** The command that starts what `plan` showed, with the same options. */
export function upgradeCommand(cluster: string, flags: PlanFlags): string {
  const backup = backupOf(flags);
  const words = ['kwfleet', 'upgrade', cluster, '--to', flags.to];
  if (backup !== undefined) {
    words.push('--backup', writeBackup(backup));
    if (backup.policy === 'attested' && backup.atMs !== undefined) {
      words.push('--backup-time', new Date(backup.atMs).toISOString());
    }
    if (backup.policy === 'attested' && backup.maxAgeMs !== undefined) {
      words.push('--backup-max-age', writeDuration(backup.maxAgeMs));
    }
  }
  if (flags.route !== undefined) words.push('--route', flags.route);
  if (flags.soak !== undefined) words.push('--soak', writeDuration(flags.soak));
  if (flags.sampleGap !== undefined) words.push('--sample-gap', writeDuration(flags.sampleGap));
  if (flags.concurrency !== undefined) words.push('--concurrency', String(flags.concurrency));
  if (flags.idle !== undefined) words.push('--idle', writeDuration(flags.idle));
  if (flags.ceiling !== undefined) words.push('--ceiling', writeDuration(flags.ceiling));
  if (flags.bypassVersionCheck) words.push('--bypass-version-check');
  return [...words, '--watch'].map(shellQuote).join(' ');
}

/** Plans, shows the plan, asks, and starts exactly that plan. */
export const planAndStart = (
  context: Context,
  command: Command,
  request: PlanRequest,
  flags: StartFlags,
): Promise<void> =>
  showAndStart(context, command, flags, {
    look: 'kwfleet plan',
    plan: (client) => client.createPlan(request),
    question: (view) => {
      const nodes = count(view.plan?.nodes.length ?? 0, 'node');
      return `${consentWords(view.plan, `${view.clusterName} (${nodes})`)} now?`;
    },
  });

type Proposal = {
  /** The command that shows the plan and nothing more. */
  readonly look: string;
  readonly plan: (client: Client) => Promise<PlanView>;
  readonly question: (view: PlanView) => string;
};

/** Has a plan made, shows it, asks, and starts what was shown. A blocked plan is shown and ends with exit code 2. */
export async function showAndStart(
  context: Context,
  command: Command,
  flags: StartFlags,
  { look, plan, question }: Proposal,
): Promise<void> {
  const { terminal } = context;
  needsConsent(context, flags, look);
  const client = context.client(command);
  const view = await plan(client);
  if (!flags.json) terminal.lines([...planPage(view, context.page()), '']);
  if (view.blocked) {
    if (flags.json) terminal.json(view);
    else terminal.lines(nextLines(view, '', context.page()));
    context.exitCode = EXIT.refused;
    return;
  }
  if (!(await consents(question(view), flags))) {
    terminal.line('Nothing was started and nothing was touched.');
    return;
  }
  await start(context, client, view, flags);
}

function timingOf({ at, skipAfter, window, prefetch }: TimingFlags): RunRequest['timing'] {
  const timing = {
    ...(at !== undefined && { notBeforeMs: at }),
    ...(skipAfter !== undefined && { skipAfterMs: skipAfter }),
    ...(window !== undefined && { windows: window }),
    ...(prefetch !== undefined && { prefetchMs: prefetch }),
  };
  return Object.keys(timing).length === 0 ? undefined : timing;
}

function consentWords(plan: PlanView['plan'], cluster: string): string {
  switch (plan?.kind) {
    case 'backup':
      return `Stop ${cluster} to copy it`;
    case 'restore':
    case 'downgrade':
      return `Stop ${cluster} and replace its data by those of ${plan.restore?.backup} (${plan.to})`;
    default:
      return `Upgrade ${cluster} to ${plan?.to}`;
  }
}

/** Starts the plan that was shown, and follows it where that is asked for. */
async function start(
  context: Context,
  client: Client,
  view: PlanView,
  flags: TimingFlags & { json?: true; watch?: true },
): Promise<void> {
  const { terminal } = context;
  // The hash that was shown: if the plan is another by now, the controller refuses.
  const timing = timingOf(flags);
  const run = await client.createRun({ plan: view.id, hash: view.hash, ...(timing && { timing }) });
  if (flags.json) {
    if (flags.watch) terminal.jsonLine(run);
    else terminal.json(run);
  } else {
    const done = terminal.theme.colors.green(terminal.theme.glyphs.done);
    const waits = run.status === 'awaiting_approval';
    terminal.line(waits ? `${done} run ${run.id} waits for approval` : `${done} started run ${run.id}`);
    if (waits) terminal.line(`  kwfleet run approve ${run.id}   is for somebody else to say`);
  }
  if (flags.watch) context.exitCode = await watchHere(context, client, run.id, { json: flags.json });
  else if (!flags.json) terminal.line(`  kwfleet run watch ${run.id}   follows it`);
}
