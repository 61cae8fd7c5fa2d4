import { type ClientView, flawOfHistory, type NodeReport } from '@kwfleet/core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readReport, verifyReport } from '../../cli/src/verify-report.ts';
import { runToHtml } from '../src/report/html.ts';
import { runToMarkdown } from '../src/report/markdown.ts';
import { makeRunReport, type RunReport } from '../src/report/run-report.ts';
import { STYLE } from '../src/report/style.ts';
import { lasted, versionWords } from '../src/report/words.ts';
import { advance } from '../src/runner/advance.ts';
import { pendingActions, storeResult } from '../src/store/actions.ts';
import type { Database } from '../src/store/database.ts';
import { attachStream, storeReport } from '../src/store/nodes.ts';
import { pgRunStore } from '../src/store/run-store.ts';
import { insertInput } from '../src/store/runs.ts';
import { RestRig } from './rest-rig.ts';
import { freshReport, putRun, usePostgres } from './support.ts';

const postgres = usePostgres();
const EVIL = '<script>alert(1)</script><img src="http://evil.example/x">|';

/** A run whose first steps were done, one of which failed with words that mean no good. */
async function failedRun(database: Database): Promise<string> {
  // The nodes of the plan that putRun makes.
  for (const i of [1, 2, 3]) {
    await database.transaction(async (sql) => {
      await attachStream(sql, `n${i}`, `stream-n${i}`, 600_000);
      await storeReport(sql, `n${i}`, freshReport('c1', i));
    });
  }
  const run = await putRun(database, 'c1');
  const store = pgRunStore(database);
  await advance(store, 'test', run);
  const [first] = await database.query<{ node: string }>('SELECT node FROM actions ORDER BY id LIMIT 1');
  const [action] = await pendingActions(database, [first?.node ?? '']);
  const report: NodeReport = freshReport('c1', 1);
  const atMs = Date.now();
  await database.transaction((sql) =>
    storeResult(sql, action?.node ?? '', {
      action: action?.id ?? '',
      outcome: 'failed',
      failure: { code: 'FETCH_FAILED', message: EVIL, phase: 'fetch' },
      disposition: 'untouched',
      newVersionStarted: false,
      phases: [{ phase: 'fetch', startedAtMs: atMs - 2_000, endedAtMs: atMs }],
      report,
    }),
  );
  await advance(store, 'test', run);
  await insertInput(database, run, { type: 'request', body: { request: 'retry', by: EVIL } });
  await advance(store, 'test', run);
  return run;
}

const reportOf = (database: Database, run: string): Promise<RunReport> =>
  database.transaction((sql) => makeRunReport(sql, run), 'REPEATABLE READ');

describe('the report of a run', () => {
  let database: Database;
  let run: string;
  let report: RunReport;
  beforeAll(async () => {
    const made = await postgres.database().catch(() => undefined);
    if (made === undefined) return;
    database = made;
    run = await failedRun(database);
    report = await reportOf(database, run);
  });

  it('tells who did what, what held it, and how long', () => {
    expect(report.people.asked).toMatchObject([{ by: EVIL, what: 'asked to try again' }]);
    expect(report.holds).toMatchObject([{ code: 'FETCH_FAILED', toMs: expect.any(Number) }]);
    const failed = report.work.find(({ outcome }) => outcome === 'failed');
    expect(failed).toMatchObject({ kind: 'fetch', detail: expect.stringContaining('FETCH_FAILED') });
    expect(report.work.filter(({ step }) => step === failed?.step).map(({ attempt }) => attempt)).toEqual([1, 2]);
    const told = report.nodes.find(({ node }) => node === failed?.node);
    expect(told).toMatchObject({ before: { version: '3.0.0' }, after: { ready: true } });
    expect(report.clients).toEqual([]);
  });

  it('as Markdown keeps what hosts and people wrote within their cells', () => {
    const markdown = runToMarkdown(report);
    expect(markdown).toContain('# Upgrade of kwdb-c1 to 3.1.0');
    expect(markdown).not.toContain('<script>');
    const rows = markdown
      .split('\n')
      .filter((line) => line.startsWith('| ') && line.includes('FETCH_FAILED: &lt;script'));
    expect(rows.length).toBeGreaterThan(0);
    for (const row of rows) expect(row.match(/(?<!\\)\|/g)?.length).toBeLessThanOrEqual(8);
    expect(markdown).toContain('Not known: nobody recorded it.');
  });

  it('as HTML holds no script but data, asks for nothing from elsewhere, and lets nobody write markup', () => {
    const page = runToHtml(report);
    expect(page.match(/<script/g)).toHaveLength(1);
    expect(page).toContain('<script type="application/json" id="kwfleet-report">');
    expect(page).not.toMatch(/<img|<link|<iframe|@import|url\(/);
    expect(page).not.toMatch(/(?:src|href)=["']/);
    expect(page).toContain('&lt;script&gt;alert(1)');
    expect(page).toContain("default-src 'none'");
    expect(page).toContain('<svg');
  });

  it('as HTML writes a status on its colour, never in it', () => {
    const byTone = STYLE.split('\n').filter((line) => /(^|[,}]) *\.(good|warn|bad|calm) *[,{]/.test(line));
    expect(byTone).toEqual([]);
  });

  it('carries its history so that anybody can follow it, from JSON and from HTML alike', () => {
    const fromJson = readReport(JSON.stringify(report), 'json');
    const fromHtml = readReport(runToHtml(report), 'html');
    expect(fromHtml).toEqual(fromJson);
    expect(flawOfHistory(fromHtml)).toBeUndefined();
    expect(verifyReport(fromHtml, fromJson)).toContain('is whole');
  });

  it('is found out when it was altered, cut, or is of another run', () => {
    const history = readReport(JSON.stringify(report), 'json');
    const altered = structuredClone(history) as unknown as {
      head: string;
      events: { event: { by?: string } }[];
      run: string;
    };
    for (const { event } of altered.events) if (event.by !== undefined) event.by = 'somebody else';
    expect(() => verifyReport(altered as never, history)).toThrow(/does not follow/);
    const cut = { ...history, events: history.events.slice(0, -1) };
    expect(() => verifyReport(cut, history)).toThrow(/last events are missing/);
    const shorter = { ...cut, head: cut.events.at(-1)?.hash ?? '' };
    expect(verifyReport(shorter, history)).toContain('1 more came since');
    expect(() => verifyReport({ ...history, id: 'other' }, history)).toThrow();
    const forged = { ...history, events: [], head: '' };
    expect(() => verifyReport(history, forged)).toThrow(/not the controller/);
    expect(() => readReport('<html>', 'x.html')).toThrow(/no JSON or HTML report/);
  });

  it('says so when the history in the database was altered', async () => {
    await database.execute(`UPDATE run_events SET event = event || '{"reason":"x"}' WHERE run = $1 AND seq = 2`, [run]);
    const broken = await reportOf(database, run);
    expect(broken.history).toMatchObject({ intact: false, flaw: 'event 2 does not follow from the one before it' });
    expect(runToHtml(broken)).toContain('BROKEN');
    expect(runToMarkdown(broken)).toContain('BROKEN');
  });
});

describe('words of a report', () => {
  it.each([
    [0, 400, '0.4 s'],
    [0, 12_000, '12 s'],
    [0, 245_000, '4 min 05 s'],
    [0, 7_620_000, '2 h 07 min'],
    [0, 277_200_000, '3 d 5 h'],
    [0, undefined, '-'],
  ])('from %s to %s: %s', (from, to, words) => {
    expect(lasted(from, to)).toBe(words);
  });

  it('name one version where all places agree, and all where they do not', () => {
    expect(versionWords({ recorded: '3.1.0', package: '3.1.0', binary: 'V3.1.0', running: 'V3.1.0' })).toBe('3.1.0');
    expect(versionWords({ recorded: '3.0.0', running: 'V3.1.0' })).toBe('recorded 3.0.0, running V3.1.0');
    expect(versionWords({})).toBe('not told');
  });
});

describe('over REST', () => {
  let rig: RestRig;
  beforeAll(async () => {
    const settings = await postgres.settings().catch(() => undefined);
    if (settings !== undefined) rig = await RestRig.open(settings);
  });
  afterAll(() => rig?.close());

  it('what clients felt is recorded, and is in every form of the report', async () => {
    const run = await failedRun(rig.database);
    const felt: ClientView = {
      source: 'probe',
      attempted: 5_000,
      acknowledged: 2_480,
      failedFirstTry: 3,
      failedAfterRetry: 0,
      lostAcknowledged: 0,
      maxStallMs: 1_234,
    };
    expect(await rig.get(`/v1/runs/${run}/client-view`, { json: felt })).toEqual(felt);
    expect(await rig.get(`/v1/runs/none/client-view`, { json: felt })).toMatchObject({ code: 'RUN_UNKNOWN' });
    expect(await rig.get(`/v1/runs/${run}/client-view`, { json: { ...felt, lost: 1 } })).toMatchObject({
      code: 'BAD_REQUEST',
    });
    for (const format of ['json', 'markdown', 'html']) {
      const answer = await rig.ask(`/v1/runs/${run}/report?format=${format}`);
      expect(answer.headers.get('content-type')).toContain(format);
      expect(await answer.text()).toMatch(/5000/);
    }
    expect(await rig.get(`/v1/runs/${run}/report`, { headers: { accept: 'image/png' } })).toMatchObject({
      code: 'BAD_REQUEST',
    });
  });
});
