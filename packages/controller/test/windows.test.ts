import type { Problem, RunSummary, WindowView } from '@kwfleet/core';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { RestRig } from './rest-rig.ts';
import { until, usePostgres } from './support.ts';

const postgres = usePostgres();
let rig: RestRig;

beforeAll(async () => {
  const settings = await postgres.settings().catch(() => undefined);
  if (settings !== undefined) rig = await RestRig.open(settings);
}, 60_000);
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
  const from = new Date(Date.now() - 86_400_000).toISOString().slice(0, 10);
  const to = new Date(Date.now() + 86_400_000).toISOString().slice(0, 10);
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
