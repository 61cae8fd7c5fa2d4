import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { notify } from '../src/store/notifications.ts';
import { RestRig } from './rest-rig.ts';
import { putRun, reportCluster, until, usePostgres } from './support.ts';

const MONITORING = join(import.meta.dirname, '../../../monitoring');
const postgres = usePostgres();
let rig: RestRig;

beforeAll(async () => {
  const settings = await postgres.settings().catch(() => undefined);
  if (settings === undefined) return;
  rig = await RestRig.open(settings, { health: { worse_after_ms: 0, better_after_ms: 0 } });
});
afterAll(() => rig?.close());

const scrape = async () => (await rig.ask('/metrics')).text();
const figure = (text: string, series: string) =>
  text
    .split('\n')
    .find((line) => line.startsWith(`${series} `))
    ?.slice(series.length + 1);

describe('/metrics', () => {
  it('tells of the fleet, its runs and what holds them', async () => {
    await rig.cluster('metrics');
    await reportCluster(rig.database, 'held');
    const run = await putRun(rig.database, 'held');
    await rig.database.execute(
      `UPDATE runs SET epoch = epoch + 1, status = 'held', lease_until_ms = now_ms() + 600000, lease_owner = 'test', state = state || $2 WHERE id = $1`,
      [run, JSON.stringify({ status: 'held', hold: { code: 'INSTALL_FAILED', sinceMs: Date.now() - 60_000 } })],
    );
    const text = await until('clusters are looked at', async () => {
      const now = await scrape();
      return figure(now, 'kwfleet_clusters{state="healthy"}') === '2' ? now : undefined;
    });
    expect(figure(text, 'kwfleet_nodes{state="healthy"}')).toBe('6');
    expect(figure(text, 'kwfleet_nodes{state="down"}')).toBe('0');
    expect(figure(text, 'kwfleet_nodes_by_version{version="3.0.0"}')).toBe('6');
    expect(figure(text, 'kwfleet_agents_connected')).toBe('3');
    expect(figure(text, 'kwfleet_runs{status="held"}')).toBe('1');
    expect(figure(text, 'kwfleet_runs_held{code="INSTALL_FAILED"}')).toBe('1');
    expect(Number(figure(text, 'kwfleet_run_held_max_seconds'))).toBeGreaterThanOrEqual(59);
    expect(Number(figure(text, 'kwfleet_run_steps{status="pending"}'))).toBeGreaterThan(5);
    expect(figure(text, 'kwfleet_database_up')).toBe('1');
  });

  it('tells of what people wait for, of silence and of clocks', async () => {
    await reportCluster(rig.database, 'waits', 2);
    const run = await putRun(rig.database, 'waits');
    await rig.database.execute(
      `UPDATE runs SET epoch = epoch + 1, status = 'awaiting_approval', created_at_ms = 0, lease_until_ms = now_ms() + 600000, lease_owner = 'test',
         state = state || jsonb_build_object('status', 'awaiting_approval', 'approval', jsonb_build_object('requestedAtMs', now_ms() - 9000000))
       WHERE id = $1`,
      [run],
    );
    await rig.database.execute(`UPDATE nodes SET clock_skew_ms = -7000 WHERE node = 'waits-n1'`);
    await rig.database.execute(`UPDATE nodes SET last_seen_ms = now_ms() - 120000 WHERE node = 'waits-n2'`);
    const text = await scrape();
    const told = (series: string) => Number(figure(text, series));
    expect(told('kwfleet_run_approval_wait_max_seconds')).toBeGreaterThanOrEqual(9_000);
    expect(told('kwfleet_run_approval_wait_max_seconds')).toBeLessThan(18_000);
    expect(told('kwfleet_agent_silence_max_seconds')).toBeGreaterThanOrEqual(120);
    expect(told('kwfleet_clock_skew_max_seconds')).toBe(7);
    expect(told('kwfleet_trust_expires_timestamp_seconds{signed="root"}')).toBeGreaterThan(Date.now() / 1000);
    expect(told('kwfleet_trust_expires_timestamp_seconds{signed="packages"}')).toBeGreaterThan(Date.now() / 1000);
    expect(text).toMatch(
      /^kwfleet_http_request_duration_seconds_count\{method="GET",route="\/v1\/clusters\/:id",status="200"\} [1-9]/m,
    );
    await rig.database.execute(`DELETE FROM nodes WHERE node LIKE 'waits-%'`);
  });

  it('counts what it could not answer', async () => {
    const before = Number(figure(await scrape(), 'kwfleet_http_failures_total'));
    await rig.database.execute('ALTER TABLE approval_policies RENAME TO policies_away');
    expect((await rig.ask('/v1/approval-policies')).status).toBeGreaterThanOrEqual(500);
    await rig.database.execute('ALTER TABLE policies_away RENAME TO approval_policies');
    expect(Number(figure(await scrape(), 'kwfleet_http_failures_total'))).toBe(before + 1);
  });

  it('tells of messages and rollouts by their status', async () => {
    const content = { event: 'held', severity: 'info', title: 't', lines: [], clusters: [] } as const;
    await notify(rig.database, { ...content, lines: [], clusters: [] });
    await rig.database.execute(
      `INSERT INTO deliveries (id, notification, target, status, due_at_ms, created_at_ms)
       SELECT 'd1', id, 't', 'dead', 0, 0 FROM notifications LIMIT 1`,
    );
    const text = await scrape();
    expect(figure(text, 'kwfleet_notifications{status="dead"}')).toBe('1');
    expect(figure(text, 'kwfleet_notifications{status="pending"}')).toBe('0');
  });

  it('is bounded, however many versions and unwell clusters there are', async () => {
    await rig.database.execute(
      `INSERT INTO nodes (node, report, first_seen_ms, last_seen_ms)
       SELECT 'many-' || n, jsonb_set(jsonb_set(report, '{installation,versions,recorded}', to_jsonb('1.0.' || n)), '{identity,clusterId}', to_jsonb('many-' || n)), 0, 0
       FROM nodes, generate_series(1, 130) AS n WHERE node = 'held-n1'`,
    );
    const text = await scrape();
    expect(text.match(/^kwfleet_nodes_by_version\{/gm)).toHaveLength(20);
    expect(figure(text, 'kwfleet_nodes_by_version{version="3.0.0"}')).not.toBeUndefined();
    expect(text.match(/^kwfleet_cluster_unhealthy\{/gm)).toHaveLength(100);
    await rig.database.execute(`DELETE FROM nodes WHERE node LIKE 'many-%'`);
  });

  it('names a cluster that is unwell, and whether an upgrade is at work on it', async () => {
    await rig.database.execute(`UPDATE nodes SET report = report || '{"serving":false}' WHERE node = 'held-n1'`);
    const series = 'kwfleet_cluster_unhealthy{cluster="kwdb-held",state="down",upgrading="yes"}';
    await until('it is told', async () => figure(await scrape(), series) === '1');
  });

  it('does not tell what was true before the database went away', async () => {
    const settings = await postgres.settings();
    const other = await RestRig.open(settings);
    try {
      await reportCluster(other.database, 'gone');
      const look = async () => (await other.ask('/metrics')).text();
      await putRun(other.database, 'gone');
      const before = await until('it is told', async () => {
        const now = await look();
        return figure(now, 'kwfleet_nodes{state="healthy"}') === '3' ? now : undefined;
      });
      const told = [
        'kwfleet_nodes{',
        'kwfleet_clusters{',
        'kwfleet_runs{',
        'kwfleet_run_steps{',
        'kwfleet_notifications{',
      ];
      for (const series of told) expect(before, series).toContain(`\n${series}`);
      // Without its tables the database answers nothing that is asked.
      await other.database.execute('ALTER TABLE nodes RENAME TO nodes_away');
      const text = await look();
      expect(figure(text, 'kwfleet_database_up')).toBe('0');
      for (const series of told) expect(text, series).not.toContain(`\n${series}`);
      await other.database.execute('ALTER TABLE nodes_away RENAME TO nodes');
    } finally {
      await other.close();
    }
  });
});

describe('what is shipped for monitoring', () => {
  /** Every name of ours, or of the process, that an expression asks for. */
  const namesIn = (expressions: readonly string[]) =>
    new Set(expressions.flatMap((text) => text.match(/\b(kwfleet|process)_[a-z_]+/g) ?? []));
  const dashboard = JSON.parse(readFileSync(join(MONITORING, 'grafana-dashboard.json'), 'utf8')) as {
    panels: { title: string; gridPos: { x: number; w: number }; targets: { expr: string }[] }[];
  };
  const alerts = parse(readFileSync(join(MONITORING, 'kwfleet-alerts.yml'), 'utf8')) as {
    groups: { rules: { alert: string; expr: string }[] }[];
  };

  it.each([
    ['the dashboard', dashboard.panels.flatMap(({ targets }) => targets.map(({ expr }) => expr))],
    ['the alert rules', alerts.groups.flatMap(({ rules }) => rules.map(({ expr }) => expr))],
  ])('%s ask only for metrics that there are', async (_, expressions) => {
    const text = await scrape();
    const told = new Set(
      [...text.matchAll(/^# TYPE (\S+) (\S+)/gm)].flatMap(([, name = '', type]) =>
        type === 'histogram' ? [`${name}_bucket`, `${name}_count`, `${name}_sum`] : [name],
      ),
    );
    const names = namesIn(expressions);
    expect(names.size).toBeGreaterThan(5);
    for (const name of names) expect(told, name).toContain(name);
  });

  it('every panel of the dashboard asks something and lies on the grid', () => {
    for (const { title, gridPos, targets } of dashboard.panels) {
      expect(targets.length, title).toBeGreaterThan(0);
      expect(gridPos.x + gridPos.w, title).toBeLessThanOrEqual(24);
    }
  });
});
