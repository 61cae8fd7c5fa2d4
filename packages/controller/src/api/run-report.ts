/** `/v1/runs/{id}/report`: what was done, when, by whom, and whether the history is whole. */
import { type ActionResult, backupWords, FleetError, type RunEventView, type RunSummary, stepOf } from '@kwfleet/core';
import Type from 'typebox';
import type { Sql } from '../store/database.ts';
import { eventsAfter, type RunEventRow, type RunRow, verifyHistory } from '../store/runs.ts';
import { type Api, type ApiParts, IdParams } from './api.ts';
import { eventView } from './run-events.ts';
import { needRun, runSummary } from './runs.ts';
import { TABLE_HEAD, tableRows } from './transfer-report.ts';

export type RunReport = {
  readonly run: RunSummary;
  readonly planHash: string;
  readonly plan: RunRow['plan'];
  readonly steps: RunRow['state']['steps'];
  /** Every result as the agents sent it, in order. */
  readonly results: readonly ActionResult[];
  readonly events: readonly RunEventView[];
  /** Whether the chain of hashes holds; `brokenAt` is the first event that does not follow. */
  readonly history: { readonly intact: boolean; readonly brokenAt?: number };
};

const FORMATS = { json: 'application/json', markdown: 'text/markdown', html: 'text/html' } as const;
type Format = keyof typeof FORMATS;

export function runReportRoutes(app: Api, { database }: ApiParts): void {
  app.get(
    '/v1/runs/:id/report',
    {
      schema: {
        tags: ['runs'],
        description: 'As JSON, Markdown or HTML: by `format`, else by `Accept`.',
        produces: Object.values(FORMATS),
        params: IdParams,
        querystring: Type.Object({
          format: Type.Optional(Type.Union([Type.Literal('json'), Type.Literal('markdown'), Type.Literal('html')])),
        }),
      },
    },
    async ({ params, query, headers }, reply) => {
      const format = query.format ?? accepted(headers.accept);
      const report = await database.transaction((sql) => makeReport(sql, params.id), 'REPEATABLE READ');
      reply.type(`${FORMATS[format]}; charset=utf-8`);
      if (format === 'json') return reply.send(report);
      const markdown = toMarkdown(report);
      return reply.send(format === 'markdown' ? markdown : toHtml(report.run.id, markdown));
    },
  );
}

function accepted(accept = '*/*'): Format {
  for (const part of accept.split(',')) {
    const type = part.split(';')[0]?.trim();
    if (type === '*/*' || type === 'application/*') return 'json';
    const found = (Object.keys(FORMATS) as Format[]).find((format) => FORMATS[format] === type);
    if (found !== undefined) return found;
  }
  throw new FleetError('BAD_REQUEST', `Accept: a report comes as ${Object.values(FORMATS).join(', ')}`);
}

async function makeReport(sql: Sql, id: string): Promise<RunReport> {
  const row = await needRun(sql, id);
  const events = await eventsAfter(sql, id, 0, Number.MAX_SAFE_INTEGER);
  const brokenAt = await verifyHistory(sql, id);
  return {
    run: runSummary(row),
    planHash: row.planHash,
    plan: row.plan,
    steps: row.state.steps,
    results: events.flatMap(({ event }: RunEventRow) => (event.type === 'step-ended' ? [event.result] : [])),
    events: events.map(eventView),
    history: brokenAt === undefined ? { intact: true } : { intact: false, brokenAt },
  };
}

function toMarkdown(report: RunReport): string {
  const { run, plan, steps, events, history } = report;
  const facts = [
    ['Cluster', `${run.clusterName} (${run.cluster}), ${run.topology}`],
    ['Nodes', plan.nodes.map(({ node, from }) => `${node} (from ${from})`).join(', ')],
    ['Target', targetOf(plan)],
    ['Status', `**${run.status}**${run.hold ? `: ${run.hold.code}: ${run.hold.message}` : ''}`],
    ['Started by', `${run.createdBy}, ${time(run.createdAtMs)}`],
    ['Began, ended', `${time(run.startedAtMs)}, ${time(run.endedAtMs)}`],
    ['Plan', `${run.planId}, hash ${report.planHash}`],
    ['Backup', backupOf(report)],
    ['History', history.intact ? 'its chain of hashes is whole' : `**broken at event ${history.brokenAt}**`],
  ];
  const rows = Object.entries(steps).map(([id, step]) => [
    stepOf(plan, id).title,
    step.executor ?? '',
    step.status,
    String(step.attempt),
    duration(step.startedAtMs, step.endedAtMs),
    step.result?.failure ? `${step.result.failure.code}: ${step.result.failure.message}` : (step.detail ?? ''),
  ]);
  return [
    `# ${TITLES[run.kind]} ${run.id}`,
    '',
    table(['', ''], facts),
    '## Steps',
    '',
    table(['Step', 'By', 'Status', 'Attempts', 'Took', 'Detail'], rows),
    ...tables(report),
    '## History',
    '',
    table(
      ['#', 'When', 'Step', 'What'],
      events.map(({ seq, atMs, step, message }) => [String(seq), time(atMs), step ?? '', message]),
    ),
  ].join('\n');
}

const TITLES = {
  upgrade: 'Upgrade',
  backup: 'Backup',
  restore: 'Restore',
  downgrade: 'Downgrade',
  transfer: 'Transfer',
} as const;

/** What was chosen, and what came of it on each host. */
function backupOf({ plan, results }: RunReport): string {
  if (plan.restore !== undefined)
    return `${plan.restore.backup} was put back; what it replaced: ${plan.restore.replaced}`;
  const made = results.flatMap(({ backup, report }) =>
    backup === undefined
      ? []
      : `${report.host.hostname}: ${backup.place}, ${backup.files} files, ${backup.sizeBytes} bytes, manifest SHA-256 ${backup.manifestSha256}`,
  );
  return [backupWords(plan.options.backup), ...made].join('; ');
}

function tables(report: RunReport): string[] {
  const rows = tableRows(report);
  return rows.length === 0 ? [] : ['## Tables', '', table(TABLE_HEAD, rows)];
}

function targetOf({ to, package: pkg }: RunReport['plan']): string {
  return pkg === undefined ? to : `${to}, package ${pkg.fileName}, SHA-256 ${pkg.sha256}`;
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) => `| ${cells.map(cell).join(' | ')} |`;
  return [line(head), line(head.map(() => '---')), ...rows.map(line), ''].join('\n');
}

/** Words of a host must not end a cell, nor begin markup. */
const cell = (text: string) =>
  text
    .replaceAll(/\s*\n\s*/g, ' ')
    .replaceAll('|', '\\|')
    .replaceAll('<', '&lt;');
const time = (atMs: number | undefined) => (atMs === undefined ? '-' : new Date(atMs).toISOString());

function duration(fromMs: number | undefined, toMs: number | undefined): string {
  return fromMs === undefined || toMs === undefined ? '' : `${((toMs - fromMs) / 1000).toFixed(1)} s`;
}

/** Plain and printable: the text of the Markdown. The console shows runs with more comfort. */
function toHtml(id: string, markdown: string): string {
  const plain = (text: string) => text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
  return `<!doctype html>\n<meta charset="utf-8">\n<title>${plain(id)}</title>\n<pre>${plain(markdown)}</pre>\n`;
}
