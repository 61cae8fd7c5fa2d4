import { HEALTH_THRESHOLDS, type HealthEventView, type NodeReport, type NodeView, type Page } from '@kwfleet/core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { lookAtHealth } from '../src/health/watch-health.ts';
import { type HealthChange, listHealthEvents, lookAlone } from '../src/store/health.ts';
import { RestRig } from './rest-rig.ts';
import { reportCluster, until, usePostgres } from './support.ts';

const postgres = usePostgres();
const AT_ONCE = { ...HEALTH_THRESHOLDS, worseAfterMs: 0, betterAfterMs: 0 };

describe('a look at the fleet', () => {
  const look = async (database: Awaited<ReturnType<typeof postgres.database>>, thresholds = AT_ONCE) => {
    const told: HealthChange[] = [];
    await lookAtHealth(database, thresholds, async (_, changes) => void told.push(...changes));
    return told.map(({ kind, id, was, state }) => `${kind} ${id}: ${was ?? '-'} -> ${state}`);
  };
  const set = (database: Awaited<ReturnType<typeof postgres.database>>, node: string, change: object) =>
    database.execute('UPDATE nodes SET report = report || $2 WHERE node = $1', [node, JSON.stringify(change)]);

  it('keeps what changed and tells it once, of nodes and of their cluster', async () => {
    const database = await postgres.database();
    const [n1 = ''] = await reportCluster(database, 'c');
    expect(await look(database)).toEqual([
      'node c-n1: - -> healthy',
      'node c-n2: - -> healthy',
      'node c-n3: - -> healthy',
      'cluster c: - -> healthy',
    ]);
    expect(await look(database)).toEqual([]);
    await set(database, n1, { serving: false, ready: false });
    expect(await look(database)).toEqual(['node c-n1: healthy -> down', 'cluster c: healthy -> down']);
    expect(await look(database)).toEqual([]);
    const { items } = await listHealthEvents(database, { cluster: 'c' }, { limit: 2 });
    expect(items).toMatchObject([
      { kind: 'cluster', id: 'c', was: 'healthy', state: 'down', detail: expect.stringContaining('c-n1 is down') },
      { kind: 'node', id: 'c-n1', was: 'healthy', state: 'down' },
    ]);
  });

  it('writes nothing while nothing changes', async () => {
    const database = await postgres.database();
    await reportCluster(database, 'still');
    await look(database);
    const version = () => database.query<{ xmin: string }>('SELECT xmin::text FROM health ORDER BY kind, id');
    const before = await version();
    await look(database);
    expect(await version()).toEqual(before);
  });

  it('leaves a hiccup out, by the thresholds that the configuration gives', async () => {
    const database = await postgres.database();
    const [n1 = ''] = await reportCluster(database, 'h');
    await look(database, HEALTH_THRESHOLDS);
    await set(database, n1, { serving: false, ready: false });
    expect(await look(database, HEALTH_THRESHOLDS)).toEqual([]);
  });

  it('is taken by one controller at a time', async () => {
    const database = await postgres.database();
    await reportCluster(database, 'one');
    await database.transaction(async (sql) => {
      expect(await lookAlone(sql)).toBe(true);
      expect(await look(database)).toEqual([]);
    });
    expect(await look(database)).not.toEqual([]);
  });

  it('forgets a node that is missing no more', async () => {
    const database = await postgres.database();
    await reportCluster(database, 'm', 3);
    await database.execute(`DELETE FROM nodes WHERE node = 'm-n3'`);
    expect(await look(database)).toContain('node m/missing:3: - -> missing');
    await reportCluster(database, 'm', 3);
    expect((await look(database)).join()).not.toContain('missing:3');
    expect(await database.query(`SELECT 1 FROM health WHERE id = 'm/missing:3'`)).toEqual([]);
  });
});

describe('over REST', () => {
  let rig: RestRig;
  beforeAll(async () => {
    const settings = await postgres.settings().catch(() => undefined);
    if (settings === undefined) return;
    rig = await RestRig.open(settings, { health: { worse_after_ms: 0, better_after_ms: 0 } });
  });
  afterAll(() => rig?.close());

  it('a node tells its health, since when, and how it was', async () => {
    let serving = true;
    const change = (report: NodeReport, kwdbId: number) =>
      kwdbId === 2 && !serving ? { ...report, serving, ready: serving } : report;
    const [, second] = await rig.cluster('east', change);
    const node = () => rig.get<NodeView>('/v1/nodes/east-n2');
    await until('it is told to be healthy', async () => (await node()).health?.state === 'healthy');
    serving = false;
    second?.close();
    await until('it is told to be unwell', async () => (await node()).health?.state === 'unknown');
    const { items } = await rig.get<Page<HealthEventView>>('/v1/nodes/east-n2/health');
    expect(items.map(({ was, state }) => [was, state])).toEqual([
      ['healthy', 'unknown'],
      [undefined, 'healthy'],
    ]);
    const cluster = await rig.get<Page<HealthEventView>>('/v1/clusters/east/health?limit=1');
    expect(cluster.items[0]).toMatchObject({ kind: 'cluster', state: 'unknown' });
    expect(cluster.cursor).toBeDefined();
    expect(await rig.get('/v1/nodes/none/health')).toMatchObject({ code: 'NODE_UNKNOWN' });
  });
});
