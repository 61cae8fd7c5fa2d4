/** `/v1/rollouts/{id}/report`: how a rollout went, cluster by cluster. */
import { makeRolloutReport, rolloutToHtml, rolloutToMarkdown } from '../report/rollout-report.ts';
import { type Api, type ApiParts, IdParams } from './api.ts';
import { accepted, FORMATS, FormatQuery } from './run-report.ts';

export function rolloutReportRoutes(app: Api, { database }: ApiParts): void {
  app.get(
    '/v1/rollouts/:id/report',
    {
      schema: {
        tags: ['rollouts'],
        description: 'As JSON, Markdown or HTML: by `format`, else by `Accept`. Each run has a report of its own.',
        produces: Object.values(FORMATS),
        params: IdParams,
        querystring: FormatQuery,
      },
    },
    async ({ params, query, headers }, reply) => {
      const format = query.format ?? accepted(headers.accept);
      const report = await database.transaction((sql) => makeRolloutReport(sql, params.id), 'REPEATABLE READ');
      reply.type(`${FORMATS[format]}; charset=utf-8`);
      if (format === 'json') return reply.send(report);
      return reply.send(format === 'markdown' ? rolloutToMarkdown(report) : rolloutToHtml(report));
    },
  );
}
