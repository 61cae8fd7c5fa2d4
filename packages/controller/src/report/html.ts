/** A report as one HTML file: no script, nothing from elsewhere, and the whole history inside it as data. */
import type { CheckResult, RunStatus } from '@kwfleet/core';
import { TABLE_HEAD } from '../api/transfer-report.ts';
import { chart } from './chart.ts';
import { historyRows } from './markdown.ts';
import { html, type Markup, raw } from './markup.ts';
import type { RunReport } from './run-report.ts';
import { STYLE } from './style.ts';
import { CLIENTS_HEAD, lasted, time, titleOf, versionWords } from './words.ts';

/** By this a report's data is found in its page again. */
export const DATA_ID = 'kwfleet-report';

export function runToHtml(report: RunReport): string {
  const { run, plan } = report;
  const title = titleOf(plan, run.clusterName);
  const sections = [
    summary(report),
    section('What was done', [chart(report), workTable(report)]),
    ...(report.holds.length === 0 ? [] : [section('Where it was held', [holdsTable(report)])]),
    section('Nodes', [nodesTable(report)]),
    ...(report.tables.length === 0 ? [] : [section('Tables', [table(TABLE_HEAD, report.tables)])]),
    section('People', [peopleTable(report)]),
    section('What clients felt', [clientsTable(report)]),
    section('Checks before the start', [checksTable(report.checks)]),
    section('Notifications', [notificationsTable(report)]),
    section('History', [historyTable(report)]),
  ];
  return reportPage(report, title, html`${pill(run.status)} ${lead(report)}`, sections);
}

/** The page round the sections of any report. */
export function reportPage(
  report: { readonly kind: string } & Pick<RunReport, 'madeAtMs' | 'history'>,
  title: string,
  leading: Markup,
  sections: readonly Markup[],
): string {
  const { history, kind } = report;
  const { text } = html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>${title}</title>
<style>${raw(STYLE)}</style>
</head>
<body>
<header>
<p class="kicker">kwfleet report</p>
<h1>${title}</h1>
<p class="lead">${leading}</p>
</header>
<main>
${sections}
</main>
<footer>
<p>Made ${time(report.madeAtMs)}. ${historyVerdict(history)}</p>
<p>Hash of the last of ${String(history.events.length)} events: <code>${history.head}</code></p>
<p>The whole history is inside this file. <code>kwfleet ${kind} report ${history.id} --verify FILE</code> follows its chain of hashes, and compares it with the controller's.</p>
</footer>
<script type="application/json" id="${DATA_ID}">${raw(inScript(report))}</script>
</body>
</html>
`;
  return text;
}

/** Inside a script element only `<` could end it. */
const inScript = (report: object) => JSON.stringify(report).replaceAll('<', '\\u003c');

function lead({ run, plan }: RunReport): string {
  const count = plan.nodes.length;
  const nodes = `${count} node${count === 1 ? '' : 's'}`;
  if (run.status === 'succeeded') return `${nodes}, in ${lasted(run.startedAtMs, run.endedAtMs)}.`;
  if (run.hold !== undefined) return `${run.hold.code}: ${run.hold.message}`;
  if (run.reason !== undefined) return run.reason;
  return `${run.done} of ${run.total} steps done.`;
}

const TONE: Record<RunStatus, string> = {
  planned: 'calm',
  awaiting_approval: 'warn',
  scheduled: 'calm',
  running: 'calm',
  paused: 'warn',
  held: 'warn',
  succeeded: 'good',
  failed: 'bad',
  aborted: 'bad',
};
const pill = (status: RunStatus): Markup => html`<span class="pill ${TONE[status]}">${status.replace('_', ' ')}</span>`;

export const section = (title: string, content: readonly Markup[]): Markup =>
  html`<section><h2>${title}</h2>${content}</section>`;

function summary({ run, plan, people, history, backup }: RunReport): Markup {
  const { package: pkg } = plan;
  const facts: [string, string | Markup][] = [
    ['Cluster', html`${run.clusterName}<br><small>${run.cluster}, ${run.topology}</small>`],
    ['Asked for by', html`${people.requestedBy}<br><small>${time(run.createdAtMs)}</small>`],
    ['Began, ended', html`${time(run.startedAtMs)}<br>${time(run.endedAtMs)}`],
    ['Backup', html`${backup.map((line, at) => html`${at === 0 ? '' : html`<br>`}${line}`)}`],
    ...(pkg === undefined
      ? []
      : ([['Package', html`${pkg.fileName}<br><code>${pkg.sha256}</code>`]] as [string, Markup][])),
    ['Plan', html`${run.planId}<br><code>${run.planHash}</code>`],
    ['Run', run.id],
    [
      'History',
      history.intact
        ? 'its chain of hashes is whole'
        : html`<strong class="bad">broken: ${history.flaw ?? ''}</strong>`,
    ],
  ];
  return html`<dl class="facts">${facts.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl>`;
}

export type Cell = string | Markup;

export function table(head: readonly string[], rows: readonly (readonly Cell[])[], kind = ''): Markup {
  if (rows.length === 0) return html`<p class="none">None.</p>`;
  return html`<table class="${kind}"><thead><tr>${head.map((cell) => html`<th>${cell}</th>`)}</tr></thead><tbody>
${rows.map((row) => html`<tr>${row.map((cell) => html`<td>${cell}</td>`)}</tr>\n`)}</tbody></table>`;
}

const OUTCOME: Record<string, string> = { succeeded: 'good', failed: 'bad', reset: 'calm', 'under way': 'calm' };
export const mark = (word: string, tone: string | undefined): Markup =>
  html`<span class="mark ${tone ?? 'calm'}">${word}</span>`;

function workTable({ work }: RunReport): Markup {
  const rows = work.map((one) => [
    html`<time>${time(one.fromMs)}</time>`,
    one.node,
    html`${one.title}${one.attempt > 1 ? html` <small>attempt ${String(one.attempt)}</small>` : ''}${one.detail === '' ? '' : html`<br><small>${one.detail}</small>`}`,
    one.executor,
    html`<span class="tight">${lasted(one.fromMs, one.toMs)}</span>`,
    mark(one.outcome ?? 'under way', OUTCOME[one.outcome ?? 'under way']),
  ]);
  return table(['When', 'Node', 'Step', 'By', 'Took', 'Came to'], rows);
}

function holdsTable({ holds, madeAtMs }: RunReport): Markup {
  const rows = holds.map(({ code, message, node, words, fromMs, toMs }) => [
    html`<time>${time(fromMs)}</time>`,
    toMs === undefined ? `${lasted(fromMs, madeAtMs)}, still` : lasted(fromMs, toMs),
    node ?? '',
    html`<code>${code}</code> ${message}${words === undefined ? '' : html`<pre>${words}</pre>`}`,
  ]);
  return table(['From', 'Held for', 'Node', 'Why'], rows);
}

function nodesTable({ nodes }: RunReport): Markup {
  const rows = nodes.map(({ node, kwdbId, address, before, after, healthAfter }) => [
    html`${node}<br><small>${String(kwdbId)}, ${address}</small>`,
    before.version,
    after === undefined ? 'not told' : versionWords(after.versions),
    after === undefined ? 'not told' : mark(after.ready ? 'serves' : 'does not serve', after.ready ? 'good' : 'bad'),
    before.health ?? 'not known',
    healthAfter === undefined ? 'not known' : mark(healthAfter, healthAfter === 'healthy' ? 'good' : 'warn'),
  ]);
  return html`${table(['Node', 'Version before', 'Version after', 'Itself', 'Health before', 'Health after'], rows)}
<p class="note">The version after is what the node's own agent found last within the run: where .version, package manager, binary and
process agree, it is one.</p>`;
}

function peopleTable({ people, run }: RunReport): Markup {
  const rows = [{ by: people.requestedBy, what: 'asked for it', atMs: run.createdAtMs }, ...people.asked].map(
    ({ by, what, atMs }) => [html`<time>${time(atMs)}</time>`, by, what],
  );
  const comments = people.approvals.flatMap(({ approvals }) =>
    approvals.flatMap(({ person, comment }) => (comment === undefined ? [] : html`<li>${person}: ${comment}</li>`)),
  );
  const asked = people.approvals.map(
    ({ title, requirement }) =>
      html`<li>${title}: ${String(requirement.approvers)} had to agree, by the policy ${requirement.policies.join(', ')}</li>`,
  );
  const none = people.approvals.length === 0 ? html`<p class="note">No policy asked for approval.</p>` : '';
  return html`${table(['When', 'Who', 'What'], rows)}${none}${asked.length + comments.length === 0 ? '' : html`<ul class="note">${asked}${comments}</ul>`}`;
}

function clientsTable({ clients }: RunReport): Markup {
  if (clients.length === 0) return html`<p class="none">Not known: nobody recorded it.</p>`;
  const rows = clients.map((view) => [
    view.source,
    String(view.attempted),
    String(view.acknowledged),
    String(view.failedFirstTry),
    mark(String(view.failedAfterRetry), view.failedAfterRetry === 0 ? 'good' : 'bad'),
    mark(String(view.lostAcknowledged), view.lostAcknowledged === 0 ? 'good' : 'bad'),
    `${(view.maxStallMs / 1000).toFixed(1)} s`,
  ]);
  return table(CLIENTS_HEAD, rows);
}

const VERDICT: Record<CheckResult['verdict'], string> = { pass: 'good', warn: 'warn', block: 'bad', unknown: 'bad' };

function checksTable(checks: readonly CheckResult[]): Markup {
  const rows = checks.map(({ code, verdict, node, message }) => [
    mark(verdict, VERDICT[verdict]),
    html`<code>${code}</code>`,
    node ?? '',
    message,
  ]);
  return table(['Verdict', 'Check', 'Node', 'What was found'], rows);
}

export function notificationsTable({ notifications }: Pick<RunReport, 'notifications'>): Markup {
  const rows = notifications.map(({ createdAtMs, target, title, status, lastError }) => [
    html`<time>${time(createdAtMs)}</time>`,
    target,
    html`${title}${lastError === undefined ? '' : html`<br><small>${lastError}</small>`}`,
    mark(status, status === 'delivered' ? 'good' : status === 'dead' ? 'bad' : 'calm'),
  ]);
  return table(['When', 'To', 'What', 'Status'], rows);
}

function historyTable(report: RunReport): Markup {
  const rows = historyRows(report).map(([seq = '', at = '', step = '', what = '']) => [
    seq,
    html`<time>${at}</time>`,
    step,
    what,
  ]);
  const left = report.history.events.length - rows.length;
  const note =
    left === 0
      ? ''
      : html`<p class="note">${String(left)} reports of progress are left out here; the data of this file has them.</p>`;
  return html`${table(['#', 'When', 'Step', 'What'], rows, 'history')}${note}`;
}

const historyVerdict = (history: RunReport['history']): string =>
  history.intact ? 'The chain of its history is whole.' : `THE CHAIN OF ITS HISTORY IS BROKEN: ${history.flaw}.`;
