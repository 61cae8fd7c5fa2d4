/** `/v1/runs/{id}/report`: what was done, when, by whom, and whether the history is whole. */
import { ClientView, FleetError } from '@kwfleet/core';
import Type from 'typebox';
import { runToHtml } from '../report/html.ts';
import { runToMarkdown } from '../report/markdown.ts';
import { makeRunReport } from '../report/run-report.ts';
import { audit } from '../store/audit.ts';
import { putClientView } from '../store/client-views.ts';
import { type Api, type ApiParts, IdParams } from './api.ts';
import { needRun } from './runs.ts';

export const FORMATS = { json: 'application/json', markdown: 'text/markdown', html: 'text/html' } as const;
export type Format = keyof typeof FORMATS;
export const FormatQuery = Type.Object({
  format: Type.Optional(Type.Union([Type.Literal('json'), Type.Literal('markdown'), Type.Literal('html')])),
});

export function runReportRoutes(app: Api, { database }: ApiParts): void {
  app.get(
    '/v1/runs/:id/report',
    {
      schema: {
        tags: ['runs'],
        description:
          'As JSON, Markdown or HTML: by `format`, else by `Accept`. JSON and HTML carry the whole history with its chain ' +
          'of hashes; `history.rule` says how to follow it.',
        produces: Object.values(FORMATS),
        params: IdParams,
        querystring: FormatQuery,
      },
    },
    async ({ params, query, headers }, reply) => {
      const format = query.format ?? accepted(headers.accept);
      const report = await database.transaction((sql) => makeRunReport(sql, params.id), 'REPEATABLE READ');
      reply.type(`${FORMATS[format]}; charset=utf-8`);
      if (format === 'json') return reply.send(report);
      return reply.send(format === 'markdown' ? runToMarkdown(report) : runToHtml(report));
    },
  );

  app.post(
    '/v1/runs/:id/client-view',
    {
      schema: {
        tags: ['runs'],
        description: 'Records what clients felt during the run, for its report. One of each source; the last counts.',
        params: IdParams,
        body: ClientView,
        response: { 200: ClientView },
      },
    },
    async ({ params, body, actor }) => {
      await database.transaction(async (sql) => {
        await needRun(sql, params.id);
        await putClientView(sql, params.id, body, actor);
        await audit(sql, actor, 'run.client-view', { run: params.id, ...body });
      });
      return body;
    },
  );
}

/** What an `Accept` asks for. Throws BAD_REQUEST when a report does not come so. */
export function accepted(accept = '*/*'): Format {
  for (const part of accept.split(',')) {
    const type = part.split(';')[0]?.trim();
    if (type === '*/*' || type === 'application/*') return 'json';
    const found = (Object.keys(FORMATS) as Format[]).find((format) => FORMATS[format] === type);
    if (found !== undefined) return found;
  }
  throw new FleetError('BAD_REQUEST', `Accept: a report comes as ${Object.values(FORMATS).join(', ')}`);
}
