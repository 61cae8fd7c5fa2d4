/** `/v1/packages/{id}/prefetch`: hosts fetch a package ahead of the window in which it is installed. */
import { FleetError, PrefetchRequest, PrefetchView, page } from '@kwfleet/core';
import Type from 'typebox';
import { prefetch } from '../packages/prefetch.ts';
import { listPrefetches } from '../store/prefetches.ts';
import { type Api, type ApiParts, IdParams, PageQuery } from './api.ts';
import { readFleet } from './fleet.ts';

export function prefetchRoutes(app: Api, { database }: ApiParts): void {
  app.post(
    '/v1/packages/:id/prefetch',
    {
      schema: {
        tags: ['packages'],
        description: 'Asks the agents of the clusters chosen to fetch the package now. Answers how many were asked.',
        params: IdParams,
        body: PrefetchRequest,
        response: { 202: Type.Object({ nodes: Type.Integer() }) },
      },
    },
    async ({ params, body, actor }, reply) => {
      const clusters = chosen((await readFleet(database)).clusters(), body);
      const nodes = await database.transaction((sql) => prefetch(sql, clusters, params.id, actor));
      return reply.code(202).send({ nodes });
    },
  );

  app.get(
    '/v1/packages/:id/prefetch',
    {
      schema: {
        tags: ['packages'],
        params: IdParams,
        querystring: PageQuery,
        response: { 200: page(PrefetchView) },
      },
    },
    async ({ params, query }) => listPrefetches(database, params.id, query),
  );
}

/** Those named, those with all the labels, or those named that have the labels. */
function chosen(
  all: readonly { readonly id: string; readonly name: string; readonly labels: Record<string, string> }[],
  { clusters, labels = {} }: PrefetchRequest,
): readonly string[] {
  const wanted = Object.entries(labels);
  if (clusters === undefined && wanted.length === 0) {
    throw new FleetError('BAD_REQUEST', 'body: name clusters, or labels that they have');
  }
  if (wanted.length === 0) return clusters ?? [];
  return all
    .filter(({ labels: has }) => wanted.every(([name, value]) => has[name] === value))
    .filter(({ id, name }) => clusters === undefined || clusters.includes(id) || clusters.includes(name))
    .map(({ id }) => id);
}
