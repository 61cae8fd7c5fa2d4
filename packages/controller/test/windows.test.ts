import type { Problem, RolloutChecks, RunSummary, WindowView } from '@kwfleet/core';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { RestRig } from './rest-rig.ts';
import { putRun, until, usePostgres } from './support.ts';

const postgres = usePostgres();
let rig: RestRig;

beforeAll(async () => {
  const settings = await postgres.settings().catch(() => undefined);
  if (settings !== undefined) rig = await RestRig.open(settings);
});
afterAll(() => rig?.close());

const put = (file: string) => rig.ask('/v1/windows', { json: { file } });
const nights = (until = '') =>
  `name: nights\nzone: Europe/Berlin\nopen:\n  - weekly: [mon]\n    at: "22:00"\n    for: 6h\n${until}`;
/** Open from a minute ago on, for a day; by the clock of the test, to the second. */
const nowOpen = (name: string) => {
  const at = new Date(Date.now() - 60_000).toISOString();
  return `name: ${name}\nzone: UTC\nopen:\n  - dates: [${at.slice(0, 10)}]\n    at: "${at.slice(11, 19)}"\n    for: 1d\n`;
};

it('windows are made from files, changed by name, shown with their openings, and deleted', async () => {
  const made = await put(nights());
  expect(made.status).toBe(201);
  const view = (await made.json()) as WindowView;
  expect(view.spans.length).toBeGreaterThanOrEqual(2);
  expect((await put(nights('freezes: [{from: 2026-12-20, until: 2027-01-04}]'))).status).toBe(200);
  const { items } = await rig.get<{ items: WindowView[] }>('/v1/windows');
  expect(items.map(({ window }) => [window.name, window.freezes?.length])).toEqual([['nights', 1]]);
  expect((await rig.get<WindowView>('/v1/windows/nights?days=30')).days).toBe(30);
  expect((await rig.ask('/v1/windows/nights', { method: 'DELETE' })).status).toBe(204);
  expect(await rig.get('/v1/windows/nights')).toMatchObject({ code: 'WINDOW_UNKNOWN' });
});

it('mistakes come with their places, and nothing is kept', async () => {
  const answer = await put(nights().replace('22:00', '25:00').replace('Europe/Berlin', 'Europe/Bärlin'));
  expect(answer.status).toBe(422);
  const problem = (await answer.json()) as Problem;
  expect(problem).toMatchObject({ code: 'FILE_INVALID', mistakes: [{ line: 5, column: 9, path: 'open[0].at' }] });
  expect((await rig.get<{ items: unknown[] }>('/v1/windows')).items).toEqual([]);
});

it('a run waits for its window, which cannot be deleted meanwhile, and starts when it opens', async () => {
  await rig.cluster('windowed');
  await put(nights());
  const plan = await rig.plan('windowed');
  const start = (timing: object) =>
    rig.get<RunSummary>('/v1/runs', { json: { plan: plan.id, hash: plan.hash, timing } });
  expect(await start({ windows: ['none'] })).toMatchObject({ code: 'WINDOW_UNKNOWN' });
  expect(await start({ skipAfterMs: 1 })).toMatchObject({ code: 'BAD_REQUEST' });
  // Never open now: whatever day it is, the freeze is stronger.
  // Days of the window's zone: it may have tomorrow's date already.
  const from = new Date(Date.now() - 2 * 86_400_000).toISOString().slice(0, 10);
  const to = new Date(Date.now() + 2 * 86_400_000).toISOString().slice(0, 10);
  await put(nights(`freezes: [{from: ${from}, until: ${to}, reason: a test}]`));
  const run = await start({ windows: ['nights'] });
  const look = () => rig.get<RunSummary>(`/v1/runs/${run.id}`);
  await until('it waits', async () => (await look()).status === 'scheduled');
  expect((await look()).wait).toMatchObject({ code: 'WINDOW_FROZEN', message: expect.stringContaining('a test') });
  expect(await rig.get('/v1/windows/nights', { method: 'DELETE' })).toMatchObject({ code: 'WINDOW_IN_USE' });
  // The window is changed under it, and it goes on.
  expect((await put(nowOpen('nights'))).status).toBe(200);
  await until('it runs', async () => (await look()).status === 'running');
});

it('a run is begun where it fits by what earlier runs took, and a rollout is told the same', async () => {
  await rig.cluster('slow');
  await put(nowOpen('day'));
  // Three nodes of nine hours are more than the day that the window is open for; three of ten minutes are not.
  const took = { status: 'succeeded', attempt: 1, startedAtMs: 1, endedAtMs: 1 + 9 * 3_600_000 };
  const earlier = await putRun(rig.database, 'slow');
  await rig.database.execute(
    `UPDATE runs SET epoch = epoch + 1, status = 'succeeded', state = state || jsonb_build_object('status', 'succeeded', 'steps', $2::jsonb)
     WHERE id = $1`,
    [earlier, JSON.stringify({ 'upgrade:n1': took })],
  );
  const plan = await rig.plan('slow');
  expect(plan.estimate?.ms).toBeGreaterThan(27 * 3_600_000);
  const timing = { windows: ['day'] };
  const run = await rig.get<RunSummary>('/v1/runs', { json: { plan: plan.id, hash: plan.hash, timing } });
  const look = () => rig.get<RunSummary>(`/v1/runs/${run.id}`);
  await until('it waits', async () => (await look()).status === 'scheduled');
  expect((await look()).wait).toMatchObject({
    code: 'WINDOW_NEVER',
    message: expect.stringMatching(/needs about 27h.*no window stays open for so long/),
  });
  await rig.ask(`/v1/runs/${run.id}/abort`, { json: {} });
  await until('it ended', async () => (await look()).status === 'aborted');
  const file =
    'name: r\nto: 3.1.0\nselect: {clusters: [slow]}\nwaves: [{name: all}]\nbackup: {policy: none, reason: a test}\nwindows: [day]\n';
  const { items } = await rig.get<{ items: RolloutChecks[] }>('/v1/rollouts/check', { json: { file } });
  expect(items[0]?.checks.find(({ code }) => code === 'WINDOW_NEVER')).toMatchObject({ verdict: 'block' });
  // What was known when a run was made is what it goes by: a later run of another time changes nothing for it.
  await rig.database.execute(`DELETE FROM run_events WHERE run = $1`, [earlier]);
  await rig.database.execute(`UPDATE runs SET epoch = epoch + 1, state = state || '{"steps": {}}' WHERE id = $1`, [
    earlier,
  ]);
  const quick = await rig.plan('slow');
  const second = await rig.get<RunSummary>('/v1/runs', { json: { plan: quick.id, hash: quick.hash, timing } });
  await until('it runs', async () => (await rig.get<RunSummary>(`/v1/runs/${second.id}`)).status === 'running');
});
