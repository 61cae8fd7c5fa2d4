/** `/v1/windows`: when upgrades may touch what. */
import { FleetError, openSpans, readWindow, Window, WindowView, WrittenFile } from '@kwfleet/core';
import Type from 'typebox';
import { audit } from '../store/audit.ts';
import { databaseNow } from '../store/nodes.ts';
import { allWindows, deleteWindow, needWindows, putWindow } from '../store/windows.ts';
import type { Api, ApiParts } from './api.ts';
import { valueOrRefuse } from './problems.ts';

const NameParams = Type.Object({ name: Window.properties.name });
const DAY_MS = 86_400_000;
const AHEAD_DAYS = 14;

export function windowRoutes(app: Api, { database }: ApiParts): void {
  app.post(
    '/v1/windows',
    {
      schema: {
        tags: ['windows'],
        description:
          'Makes a window from a YAML or JSON file, or takes the place of the one of its name. Runs under way heed it from ' +
          'their next decision on.',
        body: WrittenFile,
        response: { 200: WindowView, 201: WindowView },
      },
    },
    async ({ body, actor }, reply) => {
      const window = valueOrRefuse(readWindow(body.file));
      const { isNew, nowMs } = await database.transaction(async (sql) => {
        const isNew = await putWindow(sql, window, actor);
        await audit(sql, actor, 'window.put', { window });
        return { isNew, nowMs: await databaseNow(sql) };
      });
      return reply.code(isNew ? 201 : 200).send(viewOf(window, nowMs, AHEAD_DAYS));
    },
  );

  app.get(
    '/v1/windows',
    { schema: { tags: ['windows'], response: { 200: Type.Object({ items: Type.Array(WindowView) }) } } },
    async () => {
      const nowMs = await databaseNow(database);
      return { items: (await allWindows(database)).map((window) => viewOf(window, nowMs, AHEAD_DAYS)) };
    },
  );

  app.get(
    '/v1/windows/:name',
    {
      schema: {
        tags: ['windows'],
        params: NameParams,
        querystring: Type.Object({
          days: Type.Optional(Type.Integer({ minimum: 1, maximum: 400, description: 'How far ahead it is reckoned.' })),
        }),
        response: { 200: WindowView },
      },
    },
    async ({ params, query }) => {
      const [window] = await needWindows(database, [params.name]);
      return viewOf(window as Window, await databaseNow(database), query.days ?? AHEAD_DAYS);
    },
  );

  app.delete(
    '/v1/windows/:name',
    { schema: { tags: ['windows'], params: NameParams, response: { 204: Type.Null() } } },
    async ({ params, actor }, reply) => {
      await database.transaction(async (sql) => {
        if (!(await deleteWindow(sql, params.name))) {
          throw new FleetError('WINDOW_UNKNOWN', `there is no window "${params.name}"`);
        }
        await audit(sql, actor, 'window.delete', { window: params.name });
      });
      return reply.code(204).send(null);
    },
  );
}

/** With the spans that are open now, or will be in these days. */
const viewOf = (window: Window, nowMs: number, days: number): WindowView => ({
  window,
  nowMs,
  days,
  spans: openSpans([window], nowMs, nowMs + days * DAY_MS),
});
