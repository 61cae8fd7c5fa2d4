/** `approvals`, `run approve`, `policies` and `policy ...`: who must agree to an upgrade, and agreeing. */
import { type ApprovalPolicy, type ApprovalScope, type ApprovalView, type RunView, writeDuration } from '@kwfleet/core';
import type { Command } from 'commander';
import { parseCount, parseDuration, parseLabel } from '../arguments.ts';
import { consents, needsConsent } from '../consent.ts';
import { type Context, examples } from '../context.ts';
import { columns } from '../render/columns.ts';
import { count, dayTime, oneLine } from '../render/text.ts';
import type { Theme } from '../render/theme.ts';

/** Adds `approvals`, `policies` and `policy ...`; `run approve` goes to the other commands of a run. */
export function addApprovals(program: Command, run: Command, context: Context): void {
  program
    .command('approvals')
    .helpGroup('Approvals:')
    .description('List what waits for somebody to agree')
    .option('--all', 'what was granted or is over too')
    .option('--json', 'print the API objects')
    .addHelpText('after', examples('kwfleet approvals'))
    .action(async ({ all, json }: { all?: true; json?: true }, command: Command) => {
      const items = await context.client(command).approvals(all !== true);
      if (json) return context.terminal.json({ items });
      context.terminal.lines(approvalTable(items, context.terminal.theme, context.terminal.width()));
    });
  addApprove(run, context);
  addPolicies(program, context);
}

type ApproveFlags = { irreversible?: true; comment?: string; hash?: string; yes?: true; json?: true };

function addApprove(run: Command, context: Context): void {
  run
    .command('approve')
    .description('Agree to the start of an upgrade, or to what cannot be undone in it')
    .argument('ID', 'the run, as `kwfleet approvals` lists it')
    .option('--irreversible', 'agree to the first step that cannot be undone; may be given ahead')
    .option('--comment <TEXT>', 'goes on record with the approval')
    .option('--hash <SHA256>', 'of the plan that you looked at; without it, of the one that is shown')
    .option('-y, --yes', 'do not ask; needed where there is no terminal to ask at')
    .option('--json', 'print the API object')
    .addHelpText('after', examples('kwfleet run approve 7f3k2', 'kwfleet run approve 7f3k2 --irreversible --yes'))
    .action(async (id: string, flags: ApproveFlags, command: Command) => {
      const { terminal } = context;
      needsConsent(context, flags, 'kwfleet run show ID');
      const client = context.client(command);
      const view = await client.run(id);
      const hash = flags.hash ?? view.planHash;
      const scope: ApprovalScope | undefined = flags.irreversible && 'irreversible';
      if (!flags.json) terminal.lines(whatIsApproved(view));
      if (!(await consents(question(view), flags))) return terminal.line('Nothing was approved.');
      const { comment } = flags;
      const approved = await client.approve(id, {
        hash,
        ...(scope !== undefined && { scope }),
        ...(comment !== undefined && { comment }),
      });
      if (flags.json) return terminal.json(approved);
      terminal.line(
        `${terminal.theme.colors.green(terminal.theme.glyphs.done)} approved; \`kwfleet approvals\` shows what still waits`,
      );
    });
}

function whatIsApproved({ plan, clusterName, createdBy, planHash, approval }: RunView): string[] {
  const given = approval?.given.map(({ person, scope }) => `${person} (${scope})`).join(', ');
  return [
    `upgrade of ${oneLine(clusterName)} to ${plan.to}, asked for by ${oneLine(createdBy)}`,
    `  nodes    ${plan.nodes.map(({ node, from }) => `${oneLine(node)} (${oneLine(from)})`).join(', ')}`,
    ...(plan.package ? [`  package  ${oneLine(plan.package.fileName)}, SHA-256 ${plan.package.sha256}`] : []),
    `  plan     hash ${planHash}`,
    ...(given ? [`  so far   ${oneLine(given)}`] : []),
  ];
}

const question = (view: RunView): string =>
  `Approve the upgrade of ${view.clusterName} (${count(view.plan.nodes.length, 'node')}) to ${view.plan.to}?`;

/** The lines of `kwfleet approvals`. */
export function approvalTable(items: readonly ApprovalView[], theme: Theme, width: number | undefined): string[] {
  if (items.length === 0) return ['Nothing waits for an approval.'];
  const rows = items.map((item) => [
    item.subject,
    oneLine(item.title),
    oneLine(item.requester),
    dayTime(item.requestedAtMs),
    item.approvals
      .filter(({ counts }) => counts)
      .map(({ person }) => oneLine(person))
      .join(', ') || '-',
    item.missing === 0 ? 'granted' : `${item.missing} more`,
  ]);
  const heading = ['WHAT', 'TITLE', 'ASKED BY', 'WHEN', 'APPROVED BY', 'NEEDS'];
  const [first = '', ...rest] = columns([heading, ...rows], width, theme.glyphs.ellipsis);
  return [theme.colors.dim(first), ...rest];
}

type PolicyFlags = {
  label?: [string, string][];
  approvers?: number;
  irreversibleApprovers?: number;
  requesterMayApprove?: true;
  validFor?: number;
  json?: true;
};

function addPolicies(program: Command, context: Context): void {
  program
    .command('policies')
    .helpGroup('Approvals:')
    .description('List the approval policies')
    .option('--json', 'print the API objects')
    .addHelpText('after', examples('kwfleet policies'))
    .action(async ({ json }: { json?: true }, command: Command) => {
      const items = await context.client(command).policies();
      if (json) return context.terminal.json({ items });
      context.terminal.lines(policyTable(items, context.terminal.theme, context.terminal.width()));
    });
  const policy = program
    .command('policy')
    .helpCommand(false)
    .helpGroup('Approvals:')
    .description('Say which clusters need whose approval');
  policy.addHelpText('after', examples('kwfleet policy set production --label environment=production --approvers 2'));
  policy
    .command('set')
    .description('Make an approval policy, or replace the one of this name; for admins')
    .argument('NAME', 'what it is called')
    .option(
      '--label <KEY=VALUE>',
      'which clusters it is for; several must all be there; none: every cluster',
      collectLabel,
    )
    .option('--approvers <N>', 'people who must agree before an upgrade starts (default: 1)', parseCount)
    .option(
      '--irreversible-approvers <N>',
      'people who must agree before what cannot be undone (default: none)',
      parseCount,
    )
    .option('--requester-may-approve', 'whoever asked for the upgrade may be one of them')
    .option('--valid-for <DURATION>', 'how long an approval is good for, and waited for (default: 24h)', parseDuration)
    .option('--json', 'print the API object')
    .addHelpText('after', examples('kwfleet policy set production --label environment=production --approvers 2'))
    .action(async (name: string, flags: PolicyFlags, command: Command) => {
      const made = await context.client(command).putPolicy(name, {
        ...(flags.label && { labels: Object.fromEntries(flags.label) }),
        ...(flags.approvers !== undefined && { approvers: flags.approvers }),
        ...(flags.irreversibleApprovers !== undefined && { irreversibleApprovers: flags.irreversibleApprovers }),
        ...(flags.requesterMayApprove && { requesterMayApprove: true }),
        ...(flags.validFor !== undefined && { validForMs: flags.validFor }),
      });
      if (flags.json) return context.terminal.json(made);
      context.terminal.lines(policyTable([made], context.terminal.theme, context.terminal.width()));
    });
  policy
    .command('remove')
    .description('Remove an approval policy; for admins')
    .argument('NAME', 'as `kwfleet policies` lists it')
    .addHelpText('after', examples('kwfleet policy remove production'))
    .action(async (name: string, _: object, command: Command) => {
      await context.client(command).deletePolicy(name);
      context.terminal.line(`policy ${name} is gone; upgrades that wait keep what was asked of them`);
    });
}

const collectLabel = (text: string, before: [string, string][] = []): [string, string][] => [
  ...before,
  parseLabel(text),
];

/** The lines of `kwfleet policies`. */
export function policyTable(items: readonly ApprovalPolicy[], theme: Theme, width: number | undefined): string[] {
  if (items.length === 0) return ['No policy: upgrades start without approval. `kwfleet policy set` makes one.'];
  const rows = items.map((policy) => [
    policy.name,
    Object.entries(policy.labels)
      .map(([key, value]) => oneLine(`${key}=${value}`))
      .join(', ') || 'every cluster',
    String(policy.approvers),
    String(policy.irreversibleApprovers),
    policy.requesterMayApprove ? 'yes' : 'no',
    writeDuration(policy.validForMs),
  ]);
  const heading = ['POLICY', 'CLUSTERS', 'APPROVERS', 'IRREVERSIBLE', 'REQUESTER TOO', 'VALID FOR'];
  const [first = '', ...rest] = columns([heading, ...rows], width, theme.glyphs.ellipsis);
  return [theme.colors.dim(first), ...rest];
}
