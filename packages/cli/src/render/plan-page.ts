/** A plan as a page that is read before anything is touched. Pure. */
import { isDeepStrictEqual } from 'node:util';
import {
  backupWords,
  CHECK_GROUPS,
  type CheckGroup,
  type CheckResult,
  type Estimate,
  groupOf,
  type Plan,
  type PlanView,
  previousPackagesOf,
  type Step,
  type TransferContent,
} from '@kwfleet/core';
import { columns } from './columns.ts';
import { labelled } from './run-panels.ts';
import { bytes, count, oneLine, roundDuration, wrap } from './text.ts';
import type { Theme } from './theme.ts';

/** Where a page is drawn: `width` undefined cuts nothing. */
export type Page = { readonly width: number | undefined; readonly theme: Theme };

const READABLE_WIDTH = 100;
/** Prose stays readable on wide terminals and in files. */
const proseWidth = ({ width }: Page): number => Math.min(width ?? READABLE_WIDTH, READABLE_WIDTH);

/** The whole page, without the command that follows from it. */
export function planPage(view: PlanView, page: Page): string[] {
  const { plan } = view;
  const lines = plan === undefined ? unplanned(view, page) : [...head(view, plan, page), ...nodeTable(plan, page)];
  if (view.estimate !== undefined) lines.push('', timeLine(view.estimate, page));
  lines.push('', ...checkLines(view.checks, page));
  if (plan !== undefined) lines.push('', ...stepLines(plan, page));
  return [...lines, '', `plan ${view.id}`, `hash ${view.hash}`];
}

const BASES: Readonly<Record<Estimate['basis'], string>> = {
  cluster: 'by the earlier runs of this cluster',
  fleet: 'by the earlier runs of other clusters',
  assumed: 'partly assumed: not every kind of step was timed yet',
};

function timeLine({ ms, basis }: Estimate, { theme }: Page): string {
  const { colors } = theme;
  return `${colors.bold('time')}  about ${roundDuration(Math.max(1, Math.round(ms / 1000)) * 1000)} if nothing holds it  ${colors.dim(BASES[basis])}`;
}

/** What to do next, after the page; `command` starts what it shows. */
export function nextLines(view: PlanView, command: string, page: Page): string[] {
  const { colors, glyphs } = page.theme;
  if (!view.blocked) return ['Nothing was touched. This starts it:', `  ${colors.bold(command)}`];
  const blocks = count(view.checks.filter(isBlock).length, 'check');
  return [
    colors.red(
      `${glyphs.failed} Blocked by ${blocks}. Nothing was touched. Mend what is named above, then plan again.`,
    ),
  ];
}

function unplanned(view: PlanView, { theme }: Page): string[] {
  const { colors } = theme;
  return [colors.bold(oneLine(view.clusterName)), colors.dim('The checks did not get far enough to make a plan.')];
}

/** What is carried from where to where, instead of what is installed. */
function transferHead(view: PlanView, plan: Plan, transfer: TransferContent, page: Page): string[] {
  const { colors, glyphs } = page.theme;
  const { source, units, databases, users, grants, clusterSettings, sample } = transfer;
  const named = new Set([...units.map(({ database }) => database), ...databases.map(({ name }) => name)]);
  const tables = units.reduce((sum, unit) => sum + unit.tables.length, 0);
  const carried = [
    `${count(tables, 'table')} in ${count(named.size, 'database')}`,
    count(users.length, 'user'),
    count(grants.length, 'privilege'),
    count(clusterSettings.length, 'setting'),
  ];
  const samples = `three times ${count(sample.rows, 'row')} of each table, seed ${sample.seed}`;
  const width = proseWidth(page);
  return [
    `${colors.bold(oneLine(view.clusterName))}  ${source.version} ${glyphs.arrow} ${colors.bold(plan.to)}`,
    '',
    ...labelled('from', `cluster ${oneLine(source.cluster)}, which is only read`, width),
    ...labelled('carried', carried.join(', '), width),
    ...labelled('compared', samples, width),
  ];
}

function head(view: PlanView, plan: Plan, page: Page): string[] {
  if (plan.transfer !== undefined) return transferHead(view, plan, plan.transfer, page);
  const { colors, glyphs } = page.theme;
  const from = [...new Set(plan.nodes.map((node) => node.from))].join(', ');
  return [
    `${colors.bold(oneLine(view.clusterName))}  ${plan.topology}  ${from} ${glyphs.arrow} ${colors.bold(plan.to)}`,
    '',
    ...packageLines(plan, page),
    ...backupLines(plan, page),
    ...labelled('options', optionWords(plan), proseWidth(page)),
  ];
}

/** What is installed and what could be put back; nothing where a plan installs nothing. */
function packageLines(plan: Plan, page: Page): string[] {
  const { package: pkg } = plan;
  if (pkg === undefined) return [];
  const facts = [pkg.kind, pkg.architecture, pkg.family, bytes(pkg.sizeBytes)].join(', ');
  const known = previousPackagesOf(plan).map(({ fileName }) => fileName);
  const previous = known.join(', ') || 'not in the registry: each host keeps a copy of what it has';
  return [
    ...labelled('package', `${oneLine(pkg.fileName)} (${facts})`, proseWidth(page)),
    ...labelled('before', oneLine(previous), proseWidth(page)),
  ];
}

function backupLines({ options, restore }: Plan, page: Page): string[] {
  if (restore === undefined) return labelled('backup', oneLine(backupWords(options.backup)), proseWidth(page));
  const replaced =
    restore.replaced === 'keep'
      ? 'moved aside and kept on each host'
      : 'moved aside, and removed once every node is verified';
  return [
    ...labelled('restores', `${oneLine(restore.backup)}, data of ${oneLine(restore.version)}`, proseWidth(page)),
    ...labelled('replaced', replaced, proseWidth(page)),
  ];
}

function optionWords({ options, topology }: Plan): string {
  const words = [
    ...(topology === 'multi-replica' ? [`route ${options.route}`] : []),
    ...(topology === 'single-replica' ? [`${options.concurrency} nodes install at once`] : []),
    `soak ${roundDuration(options.soakMs)}`,
    `sample gap ${roundDuration(options.sampleGapMs)}`,
    `held after ${roundDuration(options.deadline.idleMs)} without progress`,
  ];
  if (options.bypassVersionCheck) words.push('version check bypassed');
  return words.join(', ');
}

function nodeTable(plan: Plan, { width, theme }: Page): string[] {
  const { colors, glyphs } = theme;
  const rows = plan.nodes.map((node, at) => [
    `  ${at + 1}`,
    oneLine(node.node),
    String(node.kwdbId),
    oneLine(node.address),
    node.method,
    `${node.from} ${glyphs.arrow} ${plan.to}`,
  ]);
  const heading = ['  #', 'NODE', 'KWDB', 'ADDRESS', 'DEPLOYED BY', 'VERSION'];
  const [first = '', ...rest] = columns([heading, ...rows], width, glyphs.ellipsis);
  return ['', colors.bold(`nodes, in this order`), colors.dim(first), ...rest];
}

const isBlock = ({ verdict }: CheckResult): boolean => verdict === 'block' || verdict === 'unknown';

/** Blocks first, each with its remedy; then warnings; then what passed, by what it is about. */
export function checkLines(checks: readonly CheckResult[], page: Page): string[] {
  const { colors, glyphs } = page.theme;
  const blocks = checks.filter(isBlock);
  const warnings = checks.filter(({ verdict }) => verdict === 'warn');
  const passes = checks.filter(({ verdict }) => verdict === 'pass');
  const counts = `${count(blocks.length, 'block')}, ${count(warnings.length, 'warning')}, ${passes.length} passed`;
  const lines = [`${colors.bold('checks')}  ${colors.dim(counts)}`];
  for (const check of blocks) {
    const sign = check.verdict === 'unknown' ? glyphs.unknown : glyphs.failed;
    lines.push(...finding(check, colors.red, sign, page));
  }
  for (const check of warnings) lines.push(...finding(check, colors.yellow, glyphs.warn, page));
  // A code names what is wrong; these were looked for and not found.
  const groups = Map.groupBy(passes, ({ code }) => groupOf(code));
  for (const [group, title] of [...Object.entries(CHECK_GROUPS), [undefined, 'Others'] as const]) {
    const codes = [...new Set((groups.get(group as CheckGroup) ?? []).map(({ code }) => code))].join(', ');
    if (codes === '') continue;
    const [first = '', ...rest] = wrap(`${title}: none of ${codes}`, proseWidth(page), '    ');
    lines.push(...[`  ${glyphs.done} ${first.trimStart()}`, ...rest].map((line) => colors.dim(line)));
  }
  return lines;
}

function finding(check: CheckResult, color: (text: string) => string, sign: string, page: Page): string[] {
  const where = check.node === undefined ? '' : `  ${oneLine(check.node)}`;
  const width = proseWidth(page);
  const remedy = check.remedy === undefined ? [] : wrap(oneLine(check.remedy), width, '      ');
  const mended = remedy.map((line, at) =>
    at === 0 ? `    ${page.theme.glyphs.arrow} ${line.trimStart()}` : ` ${line}`,
  );
  return [color(`  ${sign} ${check.code}${where}`), ...wrap(oneLine(check.message), width, '    '), ...mended];
}

function stepLines({ steps, backOut }: Plan, page: Page): string[] {
  const { colors } = page.theme;
  const lines = [
    `${colors.bold('steps')}  ${colors.dim(`${steps.length}, in this order`)}`,
    ...entryLines(steps, page),
  ];
  if (backOut.length === 0) return lines;
  const when = 'only where nodes were touched and the new version was started nowhere';
  return [...lines, '', `${colors.bold('after an abort')}  ${colors.dim(when)}`, ...entryLines(backOut, page)];
}

function entryLines(steps: readonly Step[], page: Page): string[] {
  const entries = alike(steps).map(({ from, to, text }) => ({
    number: from === to ? `${from}.` : `${from}-${to}.`,
    text,
  }));
  const digits = Math.max(0, ...entries.map(({ number }) => number.length));
  return entries.flatMap(({ number, text }) => stepPage(text, number.padStart(digits), page));
}

type StepText = Pick<Step, 'title' | 'changes'>;
type Alike = { readonly from: number; readonly to: number; readonly text: StepText };

/** Steps that do the same on one node after the other become one entry: the order of forty nodes is in their table. */
function alike(steps: readonly Step[]): Alike[] {
  const entries: Alike[] = [];
  let at = 0;
  while (at < steps.length) {
    const step = steps[at] as Step;
    const text = onEachNode(step);
    let end = at + 1;
    while (end < steps.length && isDeepStrictEqual(onEachNode(steps[end] as Step), text)) end += 1;
    entries.push({ from: at + 1, to: end, text: end - at > 1 ? text : step });
    at = end;
  }
  return entries;
}

function onEachNode({ title, changes, node }: Step): StepText {
  const generalize = (text: string) => text.replaceAll(node, 'each node');
  return { title: generalize(title), changes: changes.map(generalize) };
}

function stepPage(step: StepText, number: string, page: Page): string[] {
  const { colors, glyphs } = page.theme;
  const indent = ' '.repeat(number.length + 3);
  const width = proseWidth(page);
  const [first = '', ...rest] = wrap(oneLine(step.title), width, indent);
  const changes = step.changes.flatMap((change) => {
    const [head = '', ...more] = wrap(oneLine(change), width, `${indent}  `);
    return [`${indent}${glyphs.separator} ${head.trimStart()}`, ...more];
  });
  return [`  ${number} ${first.trimStart()}`, ...rest, ...changes.map((line) => colors.dim(line))];
}
