/** `/v1/clusters` and `/v1/nodes`: what the agents report, and the names people give. */
import { ClusterSummary, FleetError, HealthEventView, loosens, NodeView, page } from '@kwfleet/core';
import Type from 'typebox';
import { audit } from '../store/audit.ts';
import { describeCluster } from '../store/clusters.ts';
import type { Database, Sql } from '../store/database.ts';
import { listHealthEvents } from '../store/health.ts';
import { removeNode } from '../store/nodes.ts';
import { pageOfSorted } from '../store/page.ts';
import { type Api, type ApiParts, IdParams, PageQuery } from './api.ts';
import { readFleet } from './fleet.ts';
import { demandFor } from './run-approval.ts';

const Label = Type.String({ maxLength: 200 });
const ClusterChange = Type.Partial(
  Type.Object({
    name: Type.String({ minLength: 1, maxLength: 100, pattern: '^[A-Za-z0-9][A-Za-z0-9 ._-]*$' }),
    /** Takes the place of all labels there were. */
    labels: Type.Record(Type.String({ pattern: '^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$' }), Label, {
      maxProperties: 64,
      additionalProperties: false,
    }),
  }),
  { additionalProperties: false, minProperties: 1 },
);

export function inventoryRoutes(app: Api, { database }: ApiParts): void {
  app.get(
    '/v1/clusters',
    { schema: { tags: ['inventory'], querystring: PageQuery, response: { 200: page(ClusterSummary) } } },
    async ({ query }) => pageOfSorted((await readFleet(database)).clusters(), query),
  );

  app.get(
    '/v1/clusters/:id',
    { schema: { tags: ['inventory'], params: IdParams, response: { 200: ClusterSummary } } },
    async ({ params }) => (await readFleet(database)).summaryOf(params.id),
  );

  app.patch(
    '/v1/clusters/:id',
    { schema: { tags: ['inventory'], params: IdParams, body: ClusterChange, response: { 200: ClusterSummary } } },
    async ({ params, body, actor, role }) => {
      const { id, labels } = (await readFleet(database)).summaryOf(params.id);
      await database.transaction(async (sql) => {
        if (role !== 'admin') await refuseLoosening(sql, labels, body.labels ?? labels);
        await describeCluster(sql, id, body);
        await audit(sql, actor, 'cluster.describe', { cluster: id, ...body });
      });
      return (await readFleet(database)).summaryOf(id);
    },
  );

  app.get(
    '/v1/clusters/:id/health',
    {
      schema: {
        tags: ['inventory'],
        description:
          'What was told of the cluster and its nodes, newest first. Damped: a hiccup is not in it, flapping is once.',
        params: IdParams,
        querystring: PageQuery,
        response: { 200: page(HealthEventView) },
      },
    },
    async ({ params, query }) => {
      const { id } = (await readFleet(database)).cluster(params.id);
      return listHealthEvents(database, { cluster: id }, query);
    },
  );

  app.get(
    '/v1/nodes/:id/health',
    {
      schema: {
        tags: ['inventory'],
        description: 'What was told of the node, newest first.',
        params: IdParams,
        querystring: PageQuery,
        response: { 200: page(HealthEventView) },
      },
    },
    async ({ params, query }) => {
      const events = await listHealthEvents(database, { node: params.id }, query);
      // One that is gone keeps its history for a while.
      if (events.items.length === 0 && query.cursor === undefined) await needNode(database, params.id);
      return events;
    },
  );

  app.get(
    '/v1/nodes',
    {
      schema: {
        tags: ['inventory'],
        querystring: Type.Object({ ...PageQuery.properties, cluster: Type.Optional(Type.String({ minLength: 1 })) }),
        response: { 200: page(NodeView) },
      },
    },
    async ({ query }) => {
      const fleet = await readFleet(database);
      return pageOfSorted(query.cluster === undefined ? fleet.nodes() : fleet.summaryOf(query.cluster).nodes, query);
    },
  );

  app.get(
    '/v1/nodes/:id',
    { schema: { tags: ['inventory'], params: IdParams, response: { 200: NodeView } } },
    async ({ params }) => needNode(database, params.id),
  );

  app.delete(
    '/v1/nodes/:id',
    {
      config: { access: 'admin' },
      schema: {
        tags: ['inventory'],
        description:
          'Forgets a node that left the fleet and revokes its certificates. Its runs, backups and history stay; to come back it is enrolled anew.',
        params: IdParams,
        response: { 204: Type.Null() },
      },
    },
    async ({ params: { id }, actor }, reply) => {
      await database.transaction(async (sql) => {
        if (!(await removeNode(sql, id))) throw new FleetError('NODE_UNKNOWN', `there is no node ${id}`);
        await audit(sql, actor, 'node.remove', { node: id });
      });
      return reply.code(204).send(null);
    },
  );
}

/** Approvals go by labels: whoever may ask for an upgrade must not be able to label its approval away. Throws FORBIDDEN. */
async function refuseLoosening(sql: Sql, before: Record<string, string>, after: Record<string, string>): Promise<void> {
  if (!loosens(await demandFor(sql, before), await demandFor(sql, after))) return;
  throw new FleetError(
    'FORBIDDEN',
    'with these labels the cluster would need less approval: that is for an admin to say',
  );
}

async function needNode(database: Database, id: string): Promise<NodeView> {
  const node = (await readFleet(database)).nodes().find((one) => one.id === id);
  if (node === undefined) throw new FleetError('NODE_UNKNOWN', `there is no node ${id}`);
  return node;
}
