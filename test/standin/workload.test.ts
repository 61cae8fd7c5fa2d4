import { describe, expect, test } from 'vitest';
import { cluster, type Ending, poll, type Rig, SHORT_LIVED, UNIT } from './rig.ts';
import { startWorkload, type Workload } from './workload.ts';

/** An operation fails by `timeoutMs` only where the test wants it to: a busy machine is slow, too. */
function begin(test: Ending, made: Rig, { ratePerSecond = 60, timeoutMs = 30_000 } = {}): Workload {
  const addresses = made.nodes.map((node) => node.installed.host);
  const workload = startWorkload({ addresses, ratePerSecond, timeoutMs, retry: 'once-on-another-node' });
  test.onTestFinished(async () => void (await workload.stop(0)));
  return workload;
}

const acknowledged = (running: Workload, more: number): Promise<unknown> => {
  const before = running.counts().acknowledged;
  return poll(`${more} more writes`, async () => running.counts().acknowledged >= before + more);
};

describe.concurrent('workload', () => {
  test('a node stopped in order and back costs no operation more than one retry, and no write', async (context) => {
    const rig = await cluster(context);
    const running = begin(context, rig);
    await acknowledged(running, 20);
    await rig.node(2).stop();
    await acknowledged(running, 20);
    await rig.node(2).start();
    await rig.node(2).ready();
    await acknowledged(running, 20);
    const counts = await running.stop();
    expect(counts).toMatchObject({ failedAfterRetry: 0, lostAcknowledged: 0, staleReads: 0 });
    expect(counts.failedFirstTry).toBeGreaterThan(0);
    expect(counts.acknowledged).toBeGreaterThanOrEqual(60);
  });

  test('a node killed without a drain stalls the ranges it led until its record expires, but loses nothing', async (context) => {
    const rig = await cluster(context, { knobs: SHORT_LIVED });
    const running = begin(context, rig, { timeoutMs: 2_000 });
    await acknowledged(running, 20);
    await rig.node(1).kill();
    await poll('clients failed', async () => running.counts().failedAfterRetry > 0);
    await poll('expired', async () => (await rig.node(2).status())[0]?.is_live === 'false');
    await acknowledged(running, 20);
    expect(await running.stop()).toMatchObject({ lostAcknowledged: 0, staleReads: 0 });
  });

  test('every node of a rolling upgrade in turn, waiting for health: nothing fails twice, nothing is lost', async (context) => {
    const made = await cluster(context);
    const directory = await made.package({ version: '3.1.0' });
    const running = begin(context, made, { ratePerSecond: 40 });
    await acknowledged(running, 10);
    for (const node of made.nodes) {
      expect((await made.deploy(node, directory)).code).toBe(0);
      await node.ready();
      await poll('healthy', async () =>
        (await made.node(1).status()).every((row) => row.is_available === 'true' && row.ranges_underreplicated === '0'),
      );
    }
    expect(await running.stop()).toMatchObject({ failedAfterRetry: 0, lostAcknowledged: 0 });
    expect(await made.node(1).sql('SHOW CLUSTER SETTING version')).toMatch(/3\.[01]\.0/);
  });

  test('the next node taken down too early is felt', async (context) => {
    const made = await cluster(context, { knobs: SHORT_LIVED });
    const running = begin(context, made, { timeoutMs: 2_000 });
    await acknowledged(running, 10);
    made.node(1).setKnobs({ readyDelayMs: 60_000 });
    await made.node(1).stop();
    await made.node(1).start();
    await made.node(2).stop();
    await poll('clients failed twice', async () => running.counts().failedAfterRetry > 0);
    await made.node(2).start();
    await made.node(2).ready();
  });

  test('it finds a write that was acknowledged and thrown away', async (context) => {
    const rig = await cluster(context);
    const running = begin(context, rig);
    await acknowledged(running, 5);
    rig.node(3).setKnobs({ loseWrites: 1 });
    await acknowledged(running, 20);
    expect((await running.stop()).lostAcknowledged).toBe(1);
  });

  test('a workload on nothing counts failures and ends', async (context) => {
    const rig = await cluster(context, { mode: 'single', start: false });
    expect((await rig.node(1).services.state(UNIT)).active).toBe('inactive');
    const running = begin(context, rig);
    await poll('failures', async () => running.counts().failedAfterRetry > 5);
    expect(await running.stop()).toMatchObject({ acknowledged: 0, lostAcknowledged: 0 });
  });
});
