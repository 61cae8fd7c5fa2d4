/** I8 with two clusters in one run: a transfer is the target's run, and keeps runs of the source away. */
import { initialState, type Plan } from '@kwfleet/core';
import { describe, expect, it } from 'vitest';
import { planFor } from '../../core/test/builders.ts';
import type { Database } from '../src/store/database.ts';
import { newId } from '../src/store/ids.ts';
import { askForInventory, findInventory, storeInventory } from '../src/store/inventories.ts';
import { insertPlan } from '../src/store/plans.ts';
import { activeRunsByCluster, insertRun } from '../src/store/runs.ts';
import { putRun, reportCluster, usePostgres } from './support.ts';

const postgres = usePostgres();

async function clusters(...ids: string[]): Promise<Database> {
  const database = await postgres.database();
  for (const id of ids) await reportCluster(database, id, 1);
  return database;
}

async function putTransfer(database: Database, source: string, target: string): Promise<string> {
  const plan: Plan = {
    ...planFor('standalone', 1),
    kind: 'transfer',
    cluster: target,
    transfer: {
      source: { cluster: source, node: 'n1', version: '3.0.0' },
      sample: { seed: 1, rows: 1 },
      units: [],
      databases: [],
      users: [],
      memberships: [],
      grants: [],
      clusterSettings: [],
    },
  };
  const [id, planId] = [newId('run'), newId('plan')];
  const request = { source, into: target };
  const rest = { checks: [], blocked: false, request, createdAtMs: Date.now(), createdBy: 'test' };
  await insertPlan(database, { id: planId, cluster: target, hash: 'hash', plan, ...rest });
  await database.transaction((sql) =>
    insertRun(sql, { id, planId, planHash: 'hash', plan, state: initialState(id, plan), by: 'test' }),
  );
  return id;
}

const BUSY = { code: 'RUN_ACTIVE' };
const end = (database: Database, id: string) =>
  database.execute(`UPDATE runs SET status = 'succeeded' WHERE id = $1`, [id]);

describe('a transfer', () => {
  it('keeps upgrades of its source and of its target away, until it has ended', async () => {
    const database = await clusters('old', 'new');
    const transfer = await putTransfer(database, 'old', 'new');
    await expect(putRun(database, 'old')).rejects.toMatchObject(BUSY);
    await expect(putRun(database, 'new')).rejects.toMatchObject(BUSY);
    const active = await activeRunsByCluster(database);
    expect([active.get('old'), active.get('new')]).toEqual([transfer, transfer]);
    await end(database, transfer);
    await putRun(database, 'old');
    await putRun(database, 'new');
  });

  it('does not begin while its source is upgraded, or is itself filled by a transfer', async () => {
    const database = await clusters('a', 'b', 'c');
    const upgrade = await putRun(database, 'a');
    await expect(putTransfer(database, 'a', 'b')).rejects.toMatchObject(BUSY);
    await end(database, upgrade);
    await putTransfer(database, 'a', 'b');
    await expect(putTransfer(database, 'b', 'c')).rejects.toMatchObject(BUSY);
    await expect(putTransfer(database, 'c', 'a')).rejects.toMatchObject(BUSY);
  });

  it('shares its source with another transfer: both only read it', async () => {
    const database = await clusters('a', 'b', 'c');
    await putTransfer(database, 'a', 'b');
    await putTransfer(database, 'a', 'c');
    await expect(putRun(database, 'a')).rejects.toMatchObject(BUSY);
  });

  it('and an upgrade of its source that begin at once do not both begin', async () => {
    const rounds = Array.from({ length: 10 }, (_, at) => at);
    const database = await clusters(...rounds.flatMap((at) => [`a${at}`, `b${at}`]));
    for (const at of rounds) {
      const both = [putTransfer(database, `a${at}`, `b${at}`), putRun(database, `a${at}`)];
      const begun = await Promise.allSettled(both);
      expect(begun.filter(({ status }) => status === 'fulfilled')).toHaveLength(1);
    }
  });
});

describe('a question for an inventory', () => {
  it('takes the first answer of the node that was asked, and no other', async () => {
    const database = await clusters('a');
    const request = await database.transaction((sql) => askForInventory(sql, 'a-n1'));
    expect(await findInventory(database, request)).toBeUndefined();
    await storeInventory(database, 'stranger', { request, failure: 'a lie' });
    expect(await findInventory(database, request)).toBeUndefined();
    await storeInventory(database, 'a-n1', { request, failure: 'the database does not answer' });
    await storeInventory(database, 'a-n1', { request, failure: 'something else' });
    expect(await findInventory(database, request)).toEqual({ failure: 'the database does not answer' });
  });
});
