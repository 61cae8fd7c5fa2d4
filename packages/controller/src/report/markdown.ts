/** A report as Markdown: for tickets and for people at a terminal. */
import { describeEvent } from '../api/event-words.ts';
import { TABLE_HEAD } from '../api/transfer-report.ts';
import type { RunEventRow } from '../store/runs.ts';
import type { RunReport } from './run-report.ts';
import { CLIENTS_HEAD, lasted, time, titleOf, versionWords } from './words.ts';

export function runToMarkdown(report: RunReport): string {
  const { run, plan } = report;
  return [
    `# ${text(titleOf(plan, run.clusterName))}`,
    '',
    table(['', ''], summary(report)),
    '## People',
    '',
    list([
      `asked for by ${report.people.requestedBy}, ${time(run.createdAtMs)}`,
      ...report.people.asked.map(({ by, what, atMs }) => `${by} ${what}, ${time(atMs)}`),
      ...report.people.approvals.map(({ title, requirement, missing }) => {
        const asked = `${requirement.approvers} by the policy ${requirement.policies.join(', ')}`;
        return `approval of "${title}": ${asked}${missing > 0 && run.startedAtMs === undefined ? `, ${missing} missing` : ''}`;
      }),
    ]),
    '## Checks before the start',
    '',
    table(
      ['Check', 'Verdict', 'Node', 'What was found'],
      report.checks.map(({ code, verdict, node = '', message }) => [code, verdict, node, message]),
    ),
    '## Nodes',
    '',
    table(
      ['Node', 'Address', 'Before', 'After', 'Serves', 'Health before, after'],
      report.nodes.map(({ node, address, before, after, healthAfter }) => [
        node,
        address,
        before.version,
        after === undefined ? 'not told' : versionWords(after.versions),
        after === undefined ? 'not told' : after.ready ? 'yes' : 'no',
        `${before.health ?? 'not known'}, ${healthAfter ?? 'not known'}`,
      ]),
    ),
    '## What was done',
    '',
    table(
      ['When', 'Node', 'Step', 'By', 'Took', 'Came to', ''],
      report.work.map((work) => [
        time(work.fromMs),
        work.node,
        work.title + (work.attempt > 1 ? ` (attempt ${work.attempt})` : ''),
        work.executor,
        lasted(work.fromMs, work.toMs),
        work.outcome ?? 'under way',
        work.detail,
      ]),
    ),
    ...(report.holds.length === 0
      ? []
      : [
          '## Holds',
          '',
          table(
            ['From', 'Held for', 'Why'],
            report.holds.map(({ fromMs, toMs, code, message }) => [
              time(fromMs),
              lasted(fromMs, toMs ?? report.madeAtMs),
              `${code}: ${message}`,
            ]),
          ),
        ]),
    ...(report.tables.length === 0 ? [] : ['## Tables', '', table(TABLE_HEAD, report.tables)]),
    '## What clients felt',
    '',
    ...clients(report),
    '## Notifications',
    '',
    report.notifications.length === 0
      ? 'None were sent.\n'
      : table(
          ['When', 'To', 'What', 'Status'],
          report.notifications.map(({ createdAtMs, target, title, status }) => [
            time(createdAtMs),
            target,
            title,
            status,
          ]),
        ),
    '## History',
    '',
    table(['#', 'When', 'Step', 'What'], historyRows(report)),
    `Hash of the last of ${report.history.events.length} events: \`${report.history.head}\`. ${verdict(report)}`,
    '',
    `A JSON or HTML report carries the whole chain: \`kwfleet run report ${run.id} --verify FILE\` follows it and compares it.`,
    '',
  ].join('\n');
}

function summary({ run, plan, madeAtMs, ...report }: RunReport): string[][] {
  const { package: pkg } = plan;
  return [
    ['Run', run.id],
    ['Cluster', `${run.clusterName} (${run.cluster}), ${run.topology}`],
    [
      'Status',
      `${run.status}${run.hold ? `: ${run.hold.code}: ${run.hold.message}` : ''}${run.reason ? `: ${run.reason}` : ''}`,
    ],
    ['Began, ended', `${time(run.startedAtMs)}, ${time(run.endedAtMs)}`],
    ['Took', lasted(run.startedAtMs, run.endedAtMs)],
    ...(pkg === undefined ? [] : [['Package', `${pkg.fileName}, SHA-256 ${pkg.sha256}`]]),
    ['Plan', `${run.planId}, hash ${run.planHash}`],
    ['Backup', report.backup.join('; ')],
    ['History', verdict(report)],
    ['Report made', time(madeAtMs)],
  ];
}

export const verdict = ({ history }: Pick<RunReport, 'history'>) =>
  history.intact ? 'Its chain of hashes is whole.' : `Its chain of hashes is BROKEN: ${history.flaw}.`;

function clients({ clients: views }: RunReport): string[] {
  if (views.length === 0) return ['Not known: nobody recorded it.', ''];
  const rows = views.map((view) => [
    view.source,
    view.attempted,
    view.acknowledged,
    view.failedFirstTry,
    view.failedAfterRetry,
    view.lostAcknowledged,
    `${(view.maxStallMs / 1000).toFixed(1)} s`,
  ]);
  return [
    table(
      CLIENTS_HEAD,
      rows.map((row) => row.map(String)),
    ),
  ];
}

/** Progress is much and says little afterwards. */
export function historyRows({ history }: RunReport): string[][] {
  return history.events.flatMap((one) => {
    const { seq, atMs, event } = one as RunEventRow;
    if (event.type === 'step-progressed') return [];
    const step = 'step' in event && typeof event.step === 'string' ? event.step : '';
    return [[String(seq), time(atMs), step, describeEvent(event)]];
  });
}

export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  if (rows.length === 0) return 'None.\n';
  const line = (cells: readonly string[]) => `| ${cells.map(text).join(' | ')} |`;
  return [line(head), line(head.map(() => '---')), ...rows.map(line), ''].join('\n');
}

export const list = (lines: readonly string[]): string => `${lines.map((line) => `- ${text(line)}`).join('\n')}\n`;

/** Words of a host must not end a cell, nor begin markup. */
export const text = (words: string) =>
  words
    .replaceAll(/\s*\n\s*/g, ' ')
    .replaceAll('|', '\\|')
    .replaceAll('<', '&lt;');
