import {
  type Action,
  type ActionResult,
  FleetError,
  initialState,
  type NodeReport,
  readState,
  STATE_FORMAT,
} from '@kwfleet/core';
import { describe, expect, it } from 'vitest';
import { allAt, NEW, planFor } from '../../core/test/builders.ts';
import { advance } from '../src/runner/advance.ts';
import { pendingActions, storeResult } from '../src/store/actions.ts';
import type { Database } from '../src/store/database.ts';
import { attachStream, storeReport } from '../src/store/nodes.ts';
import { insertPlan } from '../src/store/plans.ts';
import { pgRunStore } from '../src/store/run-store.ts';
import { eventsAfter, findRun, insertRun, verifyHistory } from '../src/store/runs.ts';
import { Crash, Dying } from './dying.ts';
import { freshReport, usePostgres } from './support.ts';

/**
 * A controller dies at every statement it sends to PostgreSQL, and after every commit whose answer it does not hear.
 * Whatever the moment, the next controller brings the run to the same end, every order is given once, and the history
 * is whole. The same of the agent's journal is in packages/agent/test.
 */
const postgres = usePostgres();
const NODE = 'n1';
const MANY_TURNS = 200;

function at(version: string, cluster: string): NodeReport {
  const report = freshReport(cluster, 1, 1, 'standalone');
  if (report.installation === undefined) throw new Error('a script installation was expected');
  return { ...report, installation: { ...report.installation, versions: allAt(version) } };
}

async function begin(database: Database, cluster: string): Promise<string> {
  const plan = { ...planFor('standalone', 1), cluster };
  const state = initialState(`run-${cluster}`, plan);
  const planRow = { id: `plan-${cluster}`, cluster, hash: 'hash', plan, checks: [], blocked: false };
  await database.transaction(async (sql) => {
    await attachStream(sql, NODE, `stream-${cluster}`, 600_000);
    await storeReport(sql, NODE, at('3.0.0', cluster));
    await insertPlan(sql, { ...planRow, request: { cluster, to: NEW }, createdAtMs: Date.now(), createdBy: 'test' });
    await insertRun(sql, { id: state.run, planId: planRow.id, planHash: 'hash', plan, state, by: 'test' });
  });
  return state.run;
}

/** Carries out what is due at once, and remembers every order it was given. */
async function carryOut(database: Database, cluster: string, given: Action[]): Promise<void> {
  for (const action of await pendingActions(database, [NODE])) {
    if (action.cluster !== cluster) continue;
    given.push(action);
    const report = at(action.phases.includes('install') ? NEW : '3.0.0', cluster);
    const result: ActionResult = {
      action: action.id,
      outcome: 'succeeded',
      disposition: 'done',
      newVersionStarted: action.phases.includes('start'),
      phases: [],
      report,
      ...(report.health && { health: report.health }),
    };
    await database.transaction((sql) => storeReport(sql, NODE, report));
    await database.transaction((sql) => storeResult(sql, NODE, result));
  }
}

/** Runs to the end with a controller that dies at its `dieAt`-th statement, and another after it. */
async function runThrough(database: Database, cluster: string, dieAt: number) {
  const run = await begin(database, cluster);
  const dying = new Dying(database, dieAt);
  const given: Action[] = [];
  let store = pgRunStore(dying.database);
  let owner = 'first';
  for (let turn = 0; turn < MANY_TURNS; turn++) {
    try {
      await advance(store, owner, run);
    } catch (error) {
      if (!(error instanceof Crash)) throw error;
      // The next controller: it waits until the lease of the dead one has run out.
      await database.execute('UPDATE runs SET lease_until_ms = 0 WHERE id = $1', [run]);
      store = pgRunStore(database);
      owner = 'second';
    }
    await carryOut(database, cluster, given);
    if ((await findRun(database, run))?.state.status === 'succeeded') break;
  }
  return { run, given, statements: dying.count };
}

describe('a controller that dies at any statement', () => {
  it('leaves a run that the next one brings to the same end, with every order given once', async () => {
    const database = await postgres.database();
    const whole = await runThrough(database, 'whole', Number.POSITIVE_INFINITY);
    expect(whole.given.map(({ step }) => step)).toEqual(['fetch:n1', 'gate:n1', 'upgrade:n1']);
    expect(whole.statements).toBeGreaterThan(30);
    for (let dieAt = 1; dieAt <= whole.statements; dieAt++) {
      const { run, given } = await runThrough(database, `c${dieAt}`, dieAt);
      const row = await findRun(database, run);
      expect(row?.state.status, `died at statement ${dieAt}`).toBe('succeeded');
      expect(
        given.map(({ id }) => id.slice(run.length)),
        `died at statement ${dieAt}`,
      ).toEqual(['/fetch:n1/1', '/gate:n1/1', '/upgrade:n1/1']);
      expect(await verifyHistory(database, run)).toBeUndefined();
      const ends = (await eventsAfter(database, run, 0, 1000)).filter(({ event }) => event.type === 'run-ended');
      expect(ends).toHaveLength(1);
    }
  });
});

describe('a run in flight while the controller is upgraded', () => {
  it('is read from the format in which the older one stored it, and goes on to its end', async () => {
    const database = await postgres.database();
    const run = await begin(database, 'older');
    await advance(pgRunStore(database), 'older', run);
    // As format 1 had it: no way back, and no word about giving it up.
    await database.execute(
      `UPDATE runs SET state = (state - 'abandoned') || '{"format": 1}', lease_until_ms = 0 WHERE id = $1`,
      [run],
    );
    const given: Action[] = [];
    for (let turn = 0; turn < MANY_TURNS; turn++) {
      await carryOut(database, 'older', given);
      await advance(pgRunStore(database), 'newer', run);
      if ((await findRun(database, run))?.state.status === 'succeeded') break;
    }
    expect((await findRun(database, run))?.state).toMatchObject({
      status: 'succeeded',
      format: STATE_FORMAT,
      abandoned: false,
    });
    expect(given.map(({ step }) => step)).toEqual(['fetch:n1', 'gate:n1', 'upgrade:n1']);
  });

  it('is left alone by an older one that does not know its format', async () => {
    const database = await postgres.database();
    const run = await begin(database, 'newer');
    await database.execute(`UPDATE runs SET state = state || '{"format": 99}' WHERE id = $1`, [run]);
    await expect(advance(pgRunStore(database), 'old', run)).rejects.toMatchObject({ code: 'STATE_NEWER' });
    expect(await pendingActions(database, [NODE])).toEqual([]);
  });

  it('is refused when it is damaged', () => {
    const plan = planFor('standalone', 1);
    const state = { ...initialState('run-1', plan), status: 'dancing' };
    expect(() => readState(state, plan)).toThrow(FleetError);
    expect(() => readState({}, plan)).toThrow(/no format/);
  });
});
