import { stripVTControlCharacters } from 'node:util';
import stringWidth from 'string-width';
import { describe, expect, it } from 'vitest';
import { appendOutput, type RunScreen } from '../src/render/run-state.ts';
import { renderRun } from '../src/render/run-tree.ts';
import { clock } from '../src/render/text.ts';
import { theme } from '../src/render/theme.ts';
import { allSteps, HOLD, planFor, runView, STARTED_MS, succeeded } from './fixtures.ts';

const plain = theme({ unicode: true, color: false });
const ascii = theme({ unicode: false, color: false });
const ROOM = { width: 89, rows: 40 };
const NOW_MS = STARTED_MS + 372_000;

const screenOf = (view: RunScreen['view'], more: Partial<RunScreen> = {}): RunScreen => ({
  view,
  nowMs: NOW_MS,
  frame: 0,
  ...more,
});

/** db-1 is done, db-2 is in its witness step, db-3 has the package. */
const atWork = () =>
  runView(3, {
    ...allSteps('db-1'),
    'fetch:db-2': succeeded(0, 2_000),
    'gate:db-2': succeeded(240_000, 3_000),
    'upgrade:db-2': succeeded(243_000, 60_000),
    'witness:db-2': {
      status: 'running',
      attempt: 2,
      executor: 'db-3',
      phase: 'witness',
      detail: 'waiting for ranges to heal (3 under-replicated)',
      startedAtMs: STARTED_MS + 303_000,
    },
    'fetch:db-3': succeeded(0, 2_000),
  });

describe('the picture of a run', () => {
  it('shows the cluster, who is done, what is done now and for how long, and who waits', () => {
    expect(renderRun(screenOf(atWork()), ROOM, plain)).toEqual([
      '◐ prod-east  running  3.0.0 → 3.1.0  multi-replica                     8/12 steps  6m 12s',
      '├─ ✔ db-1  10.0.0.1:26257  3.1.0                                                   3m 00s',
      '├─ ◐ db-2  10.0.0.2:26257  3.0.0 → 3.1.0                                           2m 12s',
      '│    ✔ fetch    bring the package (db-2)                                               2s',
      '│    ✔ gate     ask whether it can be spared (db-2)                                    3s',
      '│    ✔ upgrade  take it to 3.1.0 (db-2)                                            1m 00s',
      '│    ◐ witness  witness: waiting for ranges to heal (3 under-replicated) by db-3…  1m 09s',
      '└─ · db-3  10.0.0.3:26257  3.0.0  package ready',
    ]);
  });

  it('shows the phases of a procedure and the end of what its command printed', () => {
    const view = runView(1, {
      'upgrade:db-1': {
        status: 'running',
        attempt: 1,
        phase: 'install',
        detail: 'deploy.sh runs',
        startedAtMs: STARTED_MS,
      },
    });
    const pieces = ['one\ntwo\nthr', 'ee\nfour\nfive\n', '\u001b[31m10%\r90%\rsix\u001b[0m\n'];
    const tail = pieces.reduce<RunScreen['tail']>(
      (before, piece) => appendOutput(before, 'upgrade:db-1', piece),
      undefined,
    );
    const lines = renderRun(screenOf(view, { tail }), ROOM, plain);
    expect(lines).toContain('                interlock ✔  drain ✔  stop ✔  install ◐  start ·  verify ·');
    expect(lines.slice(-6)).toEqual(['  output of db-1', '  │ two', '  │ three', '  │ four', '  │ five', '  │ six']);
  });

  it('shows why a run is held, in whose words, and what may be chosen', () => {
    const failed = {
      status: 'failed' as const,
      attempt: 1,
      phase: 'install' as const,
      startedAtMs: STARTED_MS + 240_000,
      endedAtMs: HOLD.sinceMs,
    };
    const view = runView(2, { ...allSteps('db-1'), 'upgrade:db-2': failed }, { status: 'held', hold: HOLD });
    expect(renderRun(screenOf(view), ROOM, plain)).toEqual([
      '■ prod-east  held  3.0.0 → 3.1.0  multi-replica                         4/8 steps  6m 12s',
      '├─ ✔ db-1  10.0.0.1:26257  3.1.0                                                   3m 00s',
      '└─ ■ db-2  10.0.0.2:26257  3.0.0 → 3.1.0                                           2m 12s',
      '     · fetch    bring the package (db-2)',
      '     · gate     ask whether it can be spared (db-2)',
      '     ✘ upgrade  install: deploy.sh ended with 1; 3.0.0 was put back and serves     1m 00s',
      '     · witness  see it from another node (db-2)',
      '',
      `■ held on db-2: INSTALL_FAILED  since ${clock(HOLD.sinceMs)}, 1m 12s`,
      '  why      deploy.sh ended with 1; 3.0.0 was put back and serves',
      '  it said  dpkg: No space left on device',
      "  do       See the host's own words.",
      '  choices  kwfleet run retry run-1   look again, and go on if all is well',
      '           kwfleet run abort run-1   end it; put back what still can be',
    ]);
  });

  it('says what was reached, and where the report is', () => {
    const view = runView(2, allSteps('db-1', 'db-2'), { status: 'succeeded', endedAtMs: STARTED_MS + 240_000 });
    expect(renderRun(screenOf(view), ROOM, plain)).toEqual([
      '✔ prod-east  succeeded  3.0.0 → 3.1.0  multi-replica                    8/8 steps  4m 00s',
      '├─ ✔ db-1  10.0.0.1:26257  3.1.0                                                   3m 00s',
      '└─ ✔ db-2  10.0.0.2:26257  3.1.0                                                   3m 00s',
      '',
      '✔ prod-east serves 3.1.0 on all 2 nodes, after 4m 00s',
      '  report   kwfleet run report run-1',
    ]);
  });

  it('shows a gate that waits with what it waits for', () => {
    const waiting = { sinceMs: STARTED_MS, code: 'RANGES_UNDERREPLICATED', message: '3 ranges are under-replicated' };
    const view = runView(1, { 'gate:db-1': { status: 'pending', attempt: 4, waiting } });
    expect(renderRun(screenOf(view), ROOM, plain)[3]).toBe(
      '     ◐ gate     waits: 3 ranges are under-replicated                               6m 12s',
    );
  });

  it('shows the way back of an abort, and that the version before is there again', () => {
    const plan = { ...planFor(2) };
    const back = plan.nodes.map(({ node }) => ({
      ...(plan.steps[0] as (typeof plan.steps)[0]),
      id: `return:${node}`,
      kind: 'return' as const,
      node,
    }));
    const steps = { 'upgrade:db-1': succeeded(0, 1_000), 'return:db-1': succeeded(2_000, 58_000) };
    const view = runView(2, steps, { plan: { ...plan, backOut: back } });
    const lines = renderRun(screenOf(view), ROOM, plain);
    expect(lines[0]).toContain('1/2 steps');
    expect(lines[1]).toBe('├─ ↺ db-1  10.0.0.1:26257  3.0.0  the version before is back                       1m 00s');
  });

  it('does without signs where the terminal is not UTF-8', () => {
    const lines = renderRun(screenOf(atWork(), { trouble: 'The controller does not answer.' }), ROOM, ascii);
    expect(lines[0]).toBe('| prod-east  running  3.0.0 -> 3.1.0  multi-replica                    8/12 steps  6m 12s');
    expect(lines[1]).toBe('|- + db-1  10.0.0.1:26257  3.1.0                                                   3m 00s');
    expect(lines.at(-1)).toBe('  ! The controller does not answer.');
    expect(lines.join('')).toMatch(/^[\x20-\x7e]*$/);
  });

  it('keeps a hold and its choices when there are more nodes than rows', () => {
    const hold = { ...HOLD, node: 'db-200', step: 'upgrade:db-200' };
    const view = runView(300, allSteps(...Array.from({ length: 150 }, (_, at) => `db-${at + 1}`)), {
      status: 'held',
      hold,
    });
    const lines = renderRun(screenOf(view), { width: 80, rows: 24 }, plain);
    expect(lines.length).toBeLessThanOrEqual(24);
    expect(lines).toContain('├─ ✔ 150 nodes done');
    expect(lines).toContain('└─ · 149 nodes waiting');
    expect(lines.some((line) => line.includes('■ db-200'))).toBe(true);
    expect(lines.at(-1)).toContain('kwfleet run abort run-1');
  });

  it.each([
    [20, 5],
    [40, 10],
    [58, 16],
    [80, 24],
    [200, 60],
  ])('is never wider than %i or higher than %i', (width, rows) => {
    const detail = '正在等待副本恢复'.repeat(20);
    const view = runView(
      30,
      { 'upgrade:db-3': { status: 'running', attempt: 1, phase: 'verify', detail } },
      { status: 'held', hold: HOLD },
    );
    const colored = theme({ unicode: true, color: true });
    const lines = renderRun(screenOf(view, { tail: { step: 'upgrade:db-3', text: detail } }), { width, rows }, colored);
    expect(lines.length).toBeLessThanOrEqual(rows);
    expect(Math.max(...lines.map((line) => stringWidth(stripVTControlCharacters(line))))).toBeLessThanOrEqual(width);
  });

  it('lets nothing that a host says move the cursor', () => {
    const view = runView(1, {
      'upgrade:db-1': { status: 'running', attempt: 1, phase: 'install', detail: 'a\u001b[2Jb\u0007\r\nc' },
    });
    expect(renderRun(screenOf(view), ROOM, plain).join('\n')).not.toMatch(/[\u0000-\u0009\u000b-\u001f\u007f]/);
  });
});
