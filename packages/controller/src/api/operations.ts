/** `/healthz`, `/readyz`, `/metrics`: for those who run the controller. */
import type { NodeState } from '@kwfleet/core';
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import type { Database } from '../store/database.ts';
import { databaseNow } from '../store/nodes.ts';
import { countRuns } from '../store/runs.ts';
import type { Api, ApiParts } from './api.ts';
import { readFleet } from './fleet.ts';

const open = { access: 'public' } as const;
const hidden = { hide: true } as const;

export function operationRoutes(app: Api, parts: ApiParts): void {
  app.get('/healthz', { config: open, schema: hidden }, async () => ({ status: 'ok' }));

  // An error answers 503 with its reason, as any other request without a database would.
  app.get('/readyz', { config: open, schema: hidden }, async () => {
    await databaseNow(parts.database);
    return { status: 'ready' };
  });

  const registry = measure(app, parts);
  app.get('/metrics', { schema: hidden }, async (_request, reply) =>
    reply.type(registry.contentType).send(await registry.metrics()),
  );
}

function measure(app: Api, { database, agentsConnected }: ApiParts): Registry {
  const registry = new Registry();
  const registers = [registry];
  collectDefaultMetrics({ register: registry });
  new Gauge({
    name: 'kwfleet_agents_connected',
    help: 'Agents that speak to this controller now',
    registers,
    collect() {
      this.set(agentsConnected());
    },
  });
  new Gauge({
    name: 'kwfleet_database_up',
    help: 'Whether the database answered this scrape',
    registers,
    async collect() {
      this.set(
        await databaseNow(database).then(
          () => 1,
          () => 0,
        ),
      );
    },
  });
  new Gauge({
    name: 'kwfleet_runs',
    help: 'Runs by status',
    labelNames: ['status'],
    registers,
    async collect() {
      this.reset();
      // kwfleet_database_up tells when these could not be counted.
      for (const { status, count } of await countRuns(database).catch(() => [])) this.set({ status }, count);
    },
  });
  const requests = new Histogram({
    name: 'kwfleet_http_request_duration_seconds',
    help: 'REST requests by route and status',
    labelNames: ['method', 'route', 'status'],
    buckets: [0.005, 0.02, 0.1, 0.5, 2, 10],
    registers,
  });
  const failures = new Counter({ name: 'kwfleet_http_failures_total', help: 'REST requests answered 5xx', registers });
  app.addHook('onResponse', async (request, reply) => {
    const route = request.routeOptions.url ?? 'none';
    requests.observe({ method: request.method, route, status: reply.statusCode }, reply.elapsedTime / 1000);
    if (reply.statusCode >= 500) failures.inc();
  });
  nodeGauge(registry, database);
  return registry;
}

function nodeGauge(registry: Registry, database: Database): void {
  new Gauge({
    name: 'kwfleet_nodes',
    help: 'Nodes by state',
    labelNames: ['state'],
    registers: [registry],
    async collect() {
      this.reset();
      // kwfleet_database_up tells when this could not be counted.
      const nodes = await readFleet(database).then(
        (fleet) => fleet.nodes(),
        () => [],
      );
      const states = Map.groupBy(nodes, ({ state }) => state);
      for (const state of ['healthy', 'degraded', 'down', 'unknown', 'missing'] satisfies NodeState[]) {
        this.set({ state }, states.get(state)?.length ?? 0);
      }
    },
  });
}
