import { describe, expect, it } from 'vitest';
import { requestOf, upgradeCommand } from '../src/commands/plan.ts';
import { nextLines, planPage } from '../src/render/plan-page.ts';
import { theme } from '../src/render/theme.ts';
import { planView } from './fixtures.ts';

const page = { width: 80, theme: theme({ unicode: true, color: false }) };

describe('the page of a plan', () => {
  it('shows the package, the nodes in their order, the checks and what each step changes', () => {
    const lines = planPage(planView(), page);
    expect(lines.slice(0, 12)).toEqual([
      'prod-east  multi-replica  3.0.0 → 3.1.0',
      '',
      '  package  KWDB-3.1.0.tar.gz (bare, amd64, deb, 774.7 MiB)',
      '  before   not in the registry: each host keeps a copy of what it has',
      '  backup   attested: s3://backups/prod',
      '  options  route offline, soak 30s, sample gap 5s, held after 15m without',
      '           progress',
      '',
      'nodes, in this order',
      '  #  NODE  KWDB  ADDRESS         DEPLOYED BY  VERSION',
      '  1  db-1  1     10.0.0.1:26257  script-bare  3.0.0 → 3.1.0',
      '  2  db-2  2     10.0.0.2:26257  script-bare  3.0.0 → 3.1.0',
    ]);
    expect(lines).toContain('checks  0 blocks, 0 warnings, 1 passed');
    expect(lines).toContain('   3. take it to 3.1.0 (db-1)');
    expect(lines).toContain('      · its packages become 3.1.0 on db-1');
    expect(lines.at(-1)).toMatch(/^hash [0-9a-f]{64}$/);
    expect(Math.max(...lines.map(({ length }) => length))).toBeLessThanOrEqual(80);
  });

  it('tells forty steps that are alike in one line', () => {
    const view = planView();
    const fetches = view.plan?.steps.filter(({ kind }) => kind === 'fetch') ?? [];
    const lines = planPage(
      { ...view, plan: { ...(view.plan as NonNullable<typeof view.plan>), steps: fetches } },
      page,
    );
    expect(lines).toContain('  1-3. bring the package (each node)');
  });

  it('puts what blocks first, each with its node and its remedy', () => {
    const checks = [
      { code: 'CLOCK_SKEW', verdict: 'pass' as const, message: 'the clocks agree' },
      { code: 'CLIENTS_ON_ONE_NODE', verdict: 'warn' as const, node: 'db-1', message: 'all sessions are on one node' },
      {
        code: 'DISK_FULL',
        verdict: 'block' as const,
        node: 'db-3',
        message: '/opt has 410 MB free',
        remedy: 'Free the space.',
      },
    ];
    const { plan: _, ...unplanned } = planView({ checks, blocked: true });
    const lines = planPage(unplanned, page);
    expect(lines.slice(3, 9)).toEqual([
      'checks  1 block, 1 warning, 1 passed',
      '  ✘ DISK_FULL  db-3',
      '    /opt has 410 MB free',
      '    → Free the space.',
      '  ▲ CLIENTS_ON_ONE_NODE  db-1',
      '    all sessions are on one node',
    ]);
    expect(lines[9]).toBe('  ✔ The cluster as it is now: none of CLOCK_SKEW');
    expect(nextLines(unplanned, '', page).join(' ')).toContain('Blocked by 1 check');
  });

  it('ends with the command that starts it, with the same options', () => {
    const flags = {
      to: '3.1.0',
      soak: 90_000,
      backup: { policy: 'none' as const, reason: "it's a lab" },
      concurrency: 4,
    };
    expect(upgradeCommand('prod east', flags)).toBe(
      `kwfleet upgrade 'prod east' --to 3.1.0 --backup 'none:it'\\''s a lab' --soak 90s --concurrency 4 --watch`,
    );
    expect(requestOf('prod east', flags)).toEqual({
      cluster: 'prod east',
      to: '3.1.0',
      options: { soakMs: 90_000, backup: { policy: 'none', reason: "it's a lab" }, concurrency: 4 },
    });
  });
});
