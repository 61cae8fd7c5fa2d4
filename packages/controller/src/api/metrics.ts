/**
 * `/metrics`. What is told of fleet and runs is read from the database at each scrape, so that every controller tells the
 * same. Labels are bounded: states and codes are closed sets, clusters and versions are cut off after the most telling.
 */
import type { NodeState } from '@kwfleet/core';
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import type { Database } from '../store/database.ts';
import { databaseNow } from '../store/nodes.ts';
import { countDeliveries } from '../store/notifications.ts';
import { countRollouts } from '../store/rollouts.ts';
import { countRuns, holdsAndWaits } from '../store/runs.ts';
import type { Api, ApiParts } from './api.ts';
import { type Fleet, readFleet } from './fleet.ts';

const STATES: readonly NodeState[] = ['healthy', 'degraded', 'unknown', 'missing', 'down'];
const CLUSTERS_MAX = 100;
const VERSIONS_MAX = 20;

export type Metrics = {
  readonly contentType: string;
  /** Reads what is true now, and answers it as Prometheus wants it. Never throws: kwfleet_database_up tells. */
  scrape(): Promise<string>;
};

export function measure(app: Api, { database, repository, agentsConnected, packageBytesSent }: ApiParts): Metrics {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  measureRequests(app, registry);
  const gauge = gauges(registry);
  const up = gauge('kwfleet_database_up', 'Whether the database answered this scrape');
  const connected = gauge('kwfleet_agents_connected', 'Agents that speak to this controller now');
  const sent = new Counter({
    name: 'kwfleet_package_bytes_sent_total',
    help: 'Bytes of packages that this controller has sent to agents',
    registers: [registry],
  });
  let toldBytes = 0;
  const expires = gauge(
    'kwfleet_trust_expires_timestamp_seconds',
    'When what people signed must be signed anew: root, packages',
    ['signed'],
  );
  const tellFleet = fleetGauges(gauge);
  const tellRuns = runGauges(gauge);
  const tellDeliveries = deliveryGauge(gauge);
  const tellRollouts = rolloutGauges(gauge);
  return {
    contentType: registry.contentType,
    async scrape() {
      connected.set(agentsConnected());
      const bytes = packageBytesSent();
      sent.inc(bytes - toldBytes);
      toldBytes = bytes;
      try {
        tellFleet(await readFleet(database));
        const { root, packages } = await repository.view();
        expires.set({ signed: 'root' }, root.expiresAtMs / 1000);
        expires.set({ signed: 'packages' }, packages.expiresAtMs / 1000);
        await tellRuns(database);
        await tellDeliveries(database);
        await tellRollouts(database);
        up.set(1);
      } catch {
        // What was true some time ago is not told as if it were true now.
        up.set(0);
        tellFleet(undefined);
        await tellRuns(undefined);
        await tellDeliveries(undefined);
        await tellRollouts(undefined);
      }
      return registry.metrics();
    },
  };
}

type NewGauge = <L extends string>(name: string, help: string, labels?: readonly L[]) => Gauge<L>;

const gauges =
  (registry: Registry): NewGauge =>
  (name, help, labels = []) =>
    new Gauge({ name, help, labelNames: [...labels], registers: [registry] });

function fleetGauges(gauge: NewGauge): (fleet: Fleet | undefined) => void {
  const nodes = gauge('kwfleet_nodes', 'Nodes by state, as of now', ['state']);
  const clusters = gauge('kwfleet_clusters', 'Clusters by health, damped', ['state']);
  const unhealthy = gauge(
    'kwfleet_cluster_unhealthy',
    `1 for each cluster that is told to be unwell, the worst ${CLUSTERS_MAX} of them`,
    ['cluster', 'state', 'upgrading'],
  );
  const flapping = gauge('kwfleet_nodes_flapping', 'Nodes that come and go');
  const versions = gauge('kwfleet_nodes_by_version', `Nodes by KWDB version, the ${VERSIONS_MAX} most frequent`, [
    'version',
  ]);
  const silence = gauge('kwfleet_agent_silence_max_seconds', 'The longest time that an agent was not heard of');
  const skew = gauge('kwfleet_clock_skew_max_seconds', "The largest difference of a connected host's clock");
  return (fleet) => {
    for (const each of [nodes, clusters, unhealthy, versions]) each.reset();
    for (const each of [flapping, silence, skew]) each.remove();
    if (fleet === undefined) return;
    const [allNodes, allClusters] = [fleet.nodes(), fleet.clusters()];
    const healthOf = ({ health, state }: { health?: { state: NodeState }; state: NodeState }) => health?.state ?? state;
    for (const state of STATES) {
      nodes.set({ state }, allNodes.filter((node) => node.state === state).length);
      clusters.set({ state }, allClusters.filter((cluster) => healthOf(cluster) === state).length);
    }
    const unwell = allClusters
      .filter((cluster) => healthOf(cluster) !== 'healthy')
      .sort((a, b) => STATES.indexOf(healthOf(b)) - STATES.indexOf(healthOf(a)));
    for (const cluster of unwell.slice(0, CLUSTERS_MAX)) {
      const upgrading = cluster.run === undefined ? 'no' : 'yes';
      unhealthy.set({ cluster: cluster.name, state: healthOf(cluster), upgrading }, 1);
    }
    const byVersion = [...Map.groupBy(allNodes, ({ version }) => version ?? 'unknown')];
    const frequent = byVersion.sort(([, a], [, b]) => b.length - a.length).slice(0, VERSIONS_MAX);
    for (const [version, those] of frequent) versions.set({ version }, those.length);
    flapping.set(allNodes.filter(({ health }) => health?.flapping === true).length);
    const heard = allNodes.flatMap(({ lastSeenMs }) => lastSeenMs ?? []);
    silence.set(heard.length === 0 ? 0 : Math.max(0, fleet.nowMs - Math.min(...heard)) / 1_000);
    skew.set(Math.max(0, ...fleet.clockSkewsMs().map(Math.abs)) / 1_000);
  };
}

function runGauges(gauge: NewGauge): (database: Database | undefined) => Promise<void> {
  const runs = gauge('kwfleet_runs', 'Runs by status', ['status']);
  const held = gauge('kwfleet_runs_held', 'Runs that are held, by the code of the reason', ['code']);
  const heldFor = gauge('kwfleet_run_held_max_seconds', 'For how long the run that is held longest is held');
  const waiting = gauge(
    'kwfleet_run_approval_wait_max_seconds',
    'For how long the run that waits longest for approval waits',
  );
  const steps = gauge('kwfleet_run_steps', 'Steps of the runs that are not ended, by status', ['status']);
  return async (database) => {
    for (const each of [runs, held, steps]) each.reset();
    for (const each of [heldFor, waiting]) each.remove();
    if (database === undefined) return;
    for (const { status, count } of await countRuns(database)) runs.set({ status }, count);
    const nowMs = await databaseNow(database);
    const active = await holdsAndWaits(database);
    const longest = (since: readonly number[]) => (since.length === 0 ? 0 : (nowMs - Math.min(...since)) / 1_000);
    const holds = active.flatMap(({ hold }) => hold ?? []);
    for (const [code, those] of Map.groupBy(holds, (hold) => hold.code)) held.set({ code }, those.length);
    heldFor.set(longest(holds.map(({ sinceMs }) => sinceMs)));
    waiting.set(longest(active.flatMap(({ approvalSinceMs }) => approvalSinceMs ?? [])));
    for (const status of ['pending', 'running', 'succeeded', 'failed'] as const) {
      steps.set(
        { status },
        active.reduce((sum, run) => sum + (run.steps[status] ?? 0), 0),
      );
    }
  };
}

function rolloutGauges(gauge: NewGauge): (database: Database | undefined) => Promise<void> {
  const rollouts = gauge('kwfleet_rollouts', 'Rollouts by status', ['status']);
  const waves = gauge('kwfleet_rollout_waves', 'Waves of the rollouts that are not ended, by status', ['status']);
  const clusters = gauge('kwfleet_rollout_clusters', 'Clusters of the rollouts that are not ended, by status', [
    'status',
  ]);
  return async (database) => {
    for (const each of [rollouts, waves, clusters]) each.reset();
    if (database === undefined) return;
    const counted = await countRollouts(database);
    for (const { status, count } of counted.rollouts) rollouts.set({ status }, count);
    for (const { status, count } of counted.waves) waves.set({ status }, count);
    for (const { status, count } of counted.clusters) clusters.set({ status }, count);
  };
}

function deliveryGauge(gauge: NewGauge): (database: Database | undefined) => Promise<void> {
  const deliveries = gauge('kwfleet_notifications', 'Notifications by status; dead ones were not delivered', [
    'status',
  ]);
  return async (database) => {
    deliveries.reset();
    if (database === undefined) return;
    for (const status of ['pending', 'delivered', 'dead']) deliveries.set({ status }, 0);
    for (const { status, count } of await countDeliveries(database)) deliveries.set({ status }, count);
  };
}

function measureRequests(app: Api, registry: Registry): void {
  const requests = new Histogram({
    name: 'kwfleet_http_request_duration_seconds',
    help: 'REST requests by route and status',
    labelNames: ['method', 'route', 'status'],
    buckets: [0.005, 0.02, 0.1, 0.5, 2, 10],
    registers: [registry],
  });
  const failures = new Counter({
    name: 'kwfleet_http_failures_total',
    help: 'REST requests answered 5xx',
    registers: [registry],
  });
  app.addHook('onResponse', async (request, reply) => {
    const route = request.routeOptions.url ?? 'none';
    requests.observe({ method: request.method, route, status: reply.statusCode }, reply.elapsedTime / 1000);
    if (reply.statusCode >= 500) failures.inc();
  });
}
