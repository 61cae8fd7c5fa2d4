import { DEFAULT_OPTIONS } from '@kwfleet/core';
import { expect, it } from 'vitest';
import { timedSteps } from '../src/store/timed-steps.ts';
import { putRun, reportCluster, usePostgres } from './support.ts';

const postgres = usePostgres();

it('earlier steps are told with what they took, those of the cluster first, and only what ended well', async () => {
  const database = await postgres.database();
  const end = async (cluster: string, status: string, steps: object) => {
    await reportCluster(database, cluster);
    const run = await putRun(database, cluster);
    await database.execute(
      `UPDATE runs SET epoch = epoch + 1, status = $2, state = jsonb_set(state, '{steps}', $3) WHERE id = $1`,
      [run, status, JSON.stringify(steps)],
    );
  };
  const took = (ms: number) => ({ status: 'succeeded', attempt: 1, startedAtMs: 1_000, endedAtMs: 1_000 + ms });
  await end('c1', 'succeeded', { 'fetch:n1': took(50), 'gate:n1': { status: 'succeeded', attempt: 1 } });
  await end('c1', 'aborted', { 'fetch:n1': took(70) });
  await end('c2', 'succeeded', { 'upgrade:n2': took(900), 'witness:n2': { ...took(1), status: 'failed' } });
  // The soak and the gap of a plan are no work of its witness.
  const { soakMs, sampleGapMs } = DEFAULT_OPTIONS;
  await end('c3', 'succeeded', { 'witness:n3': took(soakMs + sampleGapMs + 30), 'witness:n4': took(soakMs) });
  expect(await timedSteps(database, 'c1')).toEqual([
    { kind: 'fetch', own: true, ms: 50 },
    { kind: 'witness', own: false, ms: 30 },
    { kind: 'witness', own: false, ms: 0 },
    { kind: 'upgrade', own: false, ms: 900 },
  ]);
});
