/**
 * A rollout over a fleet of light hosts, with a real controller, real PostgreSQL, real streams and real agents. What is
 * judged is the order of events that the hosts wrote down themselves.
 */
import { FleetError } from '@kwfleet/core';
import { expect, it } from 'vitest';
import { findFaults } from '../../packages/cli/src/fleet-demo/account.ts';
import { exitCodeOf, type FleetDemoResult, runFleetDemo } from '../../packages/cli/src/fleet-demo/fleet-demo.ts';

const CLUSTERS = 12;

it('ends as its file says, in the order that its hosts wrote down', { timeout: 900_000 }, async ({ skip }) => {
  const said: string[] = [];
  const signal = new AbortController().signal;
  const say = (text: string) => said.push(text);
  let result: FleetDemoResult;
  try {
    result = await runFleetDemo({ clusters: CLUSTERS, exit: true, ports: [0, 0], signal, say });
  } catch (error) {
    if (error instanceof FleetError && error.message.includes('was not found')) return skip(error.message);
    throw error;
  }
  const { view, faults, events, expected } = result;
  expect(faults).toEqual([]);
  expect(exitCodeOf(result)).toBe(0);
  expect(view.counts).toEqual({ waiting: 0, running: 0, held: 1, succeeded: CLUSTERS - 2, failed: 1, skipped: 0 });
  expect(Object.values(view.clusters).find(({ status }) => status === 'failed')).toMatchObject({
    code: 'NODE_UNREACHABLE',
  });
  expect(Object.values(view.clusters).find(({ status }) => status === 'held')).toMatchObject({
    code: 'INSTALL_FAILED',
  });
  expect(view.waves.map(({ name, status }) => [name, status])).toEqual([
    ['canary', 'done'],
    ['early', 'done'],
    ['rest', 'done'],
  ]);
  expect(said.join('\n')).toContain('cai agrees');

  // The judge itself can see that something is wrong.
  const [first] = events;
  const last = events.at(-1);
  if (first === undefined || last === undefined) throw new Error('no host wrote anything down');
  const notSo = (change: typeof events) => findFaults(change, expected).join('\n');
  expect(notSo([{ ...first, atMs: expected.notBeforeMs - 1 }, ...events.slice(1)])).toContain('before it might be');
  expect(notSo([{ ...last, atMs: first.atMs }, ...events.slice(0, -1)])).toContain('was under way');
  expect(notSo(events.slice(0, -1))).toContain('nodes came up');
  expect(notSo([...events, { ...last, cluster: expected.unreachable }])).toContain('although nobody reached it');
  expect(findFaults(events, { ...expected, limit: 1 }).join('\n')).toContain('more than 1');
});
