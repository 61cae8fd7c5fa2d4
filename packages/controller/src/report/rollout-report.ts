/** What a report of a rollout says; each of its runs has a report of its own. */
import {
  type ApprovalView,
  type DeliveryView,
  flawOfHistory,
  type ReportedHistory,
  type RolloutEvent,
  type RolloutSummary,
  type RolloutView,
} from '@kwfleet/core';
import { rolloutSummary, rolloutView } from '../api/rollout-view.ts';
import { describeRolloutEvent } from '../api/rollout-words.ts';
import { approvalsUnder } from '../store/approvals.ts';
import type { Sql } from '../store/database.ts';
import { deliveriesOfRollout } from '../store/notifications.ts';
import { type ChecksRow, checksOf, needRollout, type RolloutRow, rolloutEvents } from '../store/rollouts.ts';
import { table as htmlTable, mark, notificationsTable, reportPage, section } from './html.ts';
import { list, table, text, verdict } from './markdown.ts';
import { html, type Markup } from './markup.ts';
import { CHAIN_RULE, type RunReport } from './run-report.ts';
import { lasted, time } from './words.ts';

export type RolloutReport = {
  readonly format: 1;
  readonly kind: 'rollout';
  readonly madeAtMs: number;
  readonly rollout: RolloutSummary;
  readonly file: string;
  readonly waves: RolloutView['waves'];
  readonly clusters: RolloutView['clusters'];
  readonly approvals: readonly ApprovalView[];
  readonly asked: readonly { readonly by: string; readonly what: string; readonly atMs: number }[];
  readonly checks: readonly ChecksRow[];
  readonly notifications: readonly DeliveryView[];
  readonly history: RunReport['history'];
  /** The history in words. */
  readonly told: readonly { readonly seq: number; readonly atMs: number; readonly message: string }[];
};

/** Call it in a REPEATABLE READ transaction. Throws ROLLOUT_UNKNOWN. */
export async function makeRolloutReport(sql: Sql, id: string): Promise<RolloutReport> {
  const row: RolloutRow = await needRollout(sql, id);
  const { nowMs, file, waves, clusters } = await rolloutView(sql, id);
  const events = await rolloutEvents(sql, id, 0, Number.MAX_SAFE_INTEGER);
  const history: ReportedHistory = { kind: 'rollout', id, head: row.eventHash, events };
  const flaw = flawOfHistory(history);
  return {
    format: 1,
    kind: 'rollout',
    madeAtMs: nowMs,
    rollout: rolloutSummary(row),
    file,
    waves,
    clusters,
    approvals: await approvalsUnder(sql, `rollout:${id}`),
    asked: events.flatMap(({ event }) => askedOf(event)),
    checks: await checksOf(sql, id),
    notifications: await deliveriesOfRollout(sql, id),
    history: { ...history, intact: flaw === undefined, ...(flaw !== undefined && { flaw }), rule: CHAIN_RULE },
    told: events.map(({ seq, atMs, event }) => ({ seq, atMs, message: describeRolloutEvent(event, row.state) })),
  };
}

function askedOf(event: RolloutEvent): RolloutReport['asked'] {
  if (!('by' in event)) return [];
  const what = {
    'rollout-paused': 'paused it',
    'rollout-resumed': 'let it go on',
    'abort-requested': 'asked to abort',
  };
  return [{ by: event.by, what: what[event.type], atMs: event.atMs }];
}

type Rows = string[][];
const people = ({ rollout, asked, approvals }: RolloutReport): Rows => [
  [time(rollout.createdAtMs), rollout.createdBy, 'asked for it'],
  ...approvals.flatMap(({ subject, approvals: given }) =>
    given.map(({ person, atMs, comment }) => [
      time(atMs),
      person,
      `approved ${subject}${comment === undefined ? '' : `: ${comment}`}`,
    ]),
  ),
  ...asked.map(({ by, what, atMs }) => [time(atMs), by, what]),
];

const waveRows = ({ waves, clusters }: RolloutReport): Rows =>
  waves.map(({ name, status, clusters: ids }) => {
    const of = (wanted: string) => ids.filter((id) => clusters[id]?.status === wanted).length;
    return [name, status, String(ids.length), String(of('succeeded')), String(of('failed')), String(of('held'))];
  });

const WAVES = ['Wave', 'Status', 'Clusters', 'Succeeded', 'Failed', 'Held'];
const CLUSTERS = ['Cluster', 'Wave', 'Status', 'Run', 'Checks that block', 'Why'];

function clusterRows({ waves, clusters, checks }: RolloutReport): Rows {
  const blocked = new Map(
    checks.map(({ cluster, checks: all }) => [
      cluster,
      all.filter(({ verdict: found }) => found === 'block' || found === 'unknown').map(({ code }) => code),
    ]),
  );
  return Object.entries(clusters).map(([id, cluster]) => {
    const { name, status } = cluster;
    const [run, code, message] = (['run', 'code', 'message'] as const).map((key) =>
      key in cluster ? String((cluster as Record<string, unknown>)[key] ?? '') : '',
    );
    const wave = waves.find(({ clusters: ids }) => ids.includes(id))?.name ?? '';
    const why = [code, message].filter(Boolean).join(': ');
    return [name, wave, status, run ?? '', [...new Set(blocked.get(id))].join(', '), why];
  });
}

const titleOf = ({ rollout }: RolloutReport): string => `Rollout ${rollout.name} to ${rollout.to}`;

export function rolloutToMarkdown(report: RolloutReport): string {
  const { rollout, history } = report;
  const facts = [
    ['Rollout', rollout.id],
    ['Status', `${rollout.status}${rollout.reason === undefined ? '' : `: ${rollout.reason}`}`],
    ['Began, ended', `${time(rollout.startedAtMs)}, ${time(rollout.endedAtMs)}`],
    ['Took', lasted(rollout.startedAtMs, rollout.endedAtMs)],
    ['History', verdict({ history })],
    ['Report made', time(report.madeAtMs)],
  ];
  return [
    `# ${text(titleOf(report))}`,
    '',
    table(['', ''], facts),
    '## People',
    '',
    list(people(report).map(([when, who, what]) => `${who} ${what}, ${when}`)),
    '## Waves',
    '',
    table(WAVES, waveRows(report)),
    '## Clusters',
    '',
    table(CLUSTERS, clusterRows(report)),
    '## Notifications',
    '',
    table(
      ['When', 'To', 'What', 'Status'],
      report.notifications.map(({ createdAtMs, target, title, status }) => [time(createdAtMs), target, title, status]),
    ),
    '## History',
    '',
    table(
      ['#', 'When', 'What'],
      report.told.map(({ seq, atMs, message }) => [String(seq), time(atMs), message]),
    ),
    `Hash of the last of ${history.events.length} events: \`${history.head}\`. ${verdict({ history })}`,
    '',
    `A JSON or HTML report carries the whole chain: \`kwfleet rollout report ${rollout.id} --verify FILE\` follows it.`,
    '',
  ].join('\n');
}

const TONE: Record<string, string> = {
  succeeded: 'good',
  failed: 'bad',
  aborted: 'bad',
  incomplete: 'bad',
  held: 'warn',
};

/** An id is read and copied as a whole. */
const oneLine = (cell: string): string | Markup =>
  /^run-\S+$/.test(cell) ? html`<span class="tight">${cell}</span>` : cell;

export function rolloutToHtml(report: RolloutReport): string {
  const { rollout } = report;
  const plain = (rows: Rows) => rows.map((row) => row.map((cell): string | Markup => cell));
  const toned = (rows: Rows, at: number) =>
    rows.map((row) => row.map((cell, i): string | Markup => (i === at ? mark(cell, TONE[cell]) : oneLine(cell))));
  const clusters = Object.keys(report.clusters).length;
  const leading = html`<span class="pill ${TONE[rollout.status] ?? 'calm'}">${rollout.status.replaceAll('_', ' ')}</span> ${rollout.reason ?? `${String(clusters)} clusters in ${String(report.waves.length)} waves.`}`;
  const facts = html`<dl class="facts"><div><dt>Rollout</dt><dd>${rollout.id}</dd></div><div><dt>Asked for by</dt><dd>${rollout.createdBy}</dd></div><div><dt>Began, ended</dt><dd>${time(rollout.startedAtMs)}<br>${time(rollout.endedAtMs)}</dd></div><div><dt>Took</dt><dd>${lasted(rollout.startedAtMs, rollout.endedAtMs)}</dd></div></dl>`;
  return reportPage(report, titleOf(report), leading, [
    facts,
    section('Waves', [htmlTable(WAVES, toned(waveRows(report), 1))]),
    section('Clusters', [htmlTable(CLUSTERS, toned(clusterRows(report), 2))]),
    section('People', [htmlTable(['When', 'Who', 'What'], plain(people(report)))]),
    section('Notifications', [notificationsTable(report)]),
    section('History', [
      htmlTable(
        ['#', 'When', 'What'],
        report.told.map(({ seq, atMs, message }) => [String(seq), html`<time>${time(atMs)}</time>`, message]),
        'history',
      ),
    ]),
    section('The file', [html`<pre>${report.file}</pre>`]),
  ]);
}
