import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { RestRig } from './rest-rig.ts';
import { putRun, reportCluster, until, usePostgres } from './support.ts';

const MONITORING = join(import.meta.dirname, '../../../monitoring');
const postgres = usePostgres();
let rig: RestRig;

beforeAll(async () => {
  const settings = await postgres.settings().catch(() => undefined);
  if (settings === undefined) return;
  rig = await RestRig.open(settings, { health: { worse_after_ms: 0, better_after_ms: 0 } });
}, 60_000);
afterAll(() => rig?.close());

const scrape = async () => (await rig.ask('/metrics')).text();
const figure = (text: string, series: string) =>
  text
    .split('\n')
    .find((line) => line.startsWith(`${series} `))
    ?.slice(series.length + 1);

describe('/metrics', () => {
  it('tells of the fleet, its runs and what holds them', { timeout: 40_000 }, async () => {
    await rig.cluster('metrics');
    await reportCluster(rig.database, 'held');
    const run = await putRun(rig.database, 'held');
    await rig.database.execute(
      `UPDATE runs SET status = 'held', lease_until_ms = now_ms() + 600000, lease_owner = 'test', state = state || $2 WHERE id = $1`,
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

  it('names a cluster that is unwell, and whether an upgrade is at work on it', { timeout: 40_000 }, async () => {
    await rig.database.execute(`UPDATE nodes SET report = report || '{"serving":false}' WHERE node = 'held-n1'`);
    const series = 'kwfleet_cluster_unhealthy{cluster="kwdb-held",state="down",upgrading="yes"}';
    await until('it is told', async () => figure(await scrape(), series) === '1');
  });

  it('does not tell what was true before the database went away', async () => {
    const settings = await postgres.settings();
    const other = await RestRig.open(settings);
    try {
      await reportCluster(other.database, 'gone');
      // Without its tables the database answers nothing that is asked.
      await other.database.execute('ALTER TABLE nodes RENAME TO nodes_away');
      const text = await (await other.ask('/metrics')).text();
      expect(figure(text, 'kwfleet_database_up')).toBe('0');
      expect(text).not.toMatch(/^kwfleet_nodes\{/m);
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
