import { describe, expect, test } from 'vitest';
import { CrashingStorage, carryOut, executorOver, FakeClock, FakeHost, order } from './fake-host.ts';

describe('interlock', () => {
  test('waits until the cluster can spare the node', async () => {
    const { result, sent } = await carryOut({ unhealthyLooks: 4 }, order());
    expect(result.outcome).toBe('succeeded');
    expect(JSON.stringify(sent)).toContain('under-replicated');
  });

  test.each([['unhealthy', { unhealthyLooks: 1000 }] as const, ['silent', { mute: true }] as const])(
    'a cluster that stays %s is left alone',
    async (_name, faults) => {
      const { result, host } = await carryOut(faults, order());
      expect(result).toMatchObject({ failure: { code: 'INTERLOCK_REFUSED' }, disposition: 'untouched' });
      expect(host.deeds).toEqual([]);
    },
  );

  test('a node that an earlier attempt left down is brought up by going on', async () => {
    const { result, host } = await carryOut({}, order({ attempt: 2 }), (it) => {
      it.running = null;
    });
    expect(result).toMatchObject({ outcome: 'succeeded' });
    expect(host.running?.version).toBe('3.1.0');
  });

  test('a node that is down for another reason is not taken for spared', async () => {
    const { result } = await carryOut({}, order(), (it) => {
      it.running = null;
    });
    expect(result).toMatchObject({ failure: { code: 'INTERLOCK_REFUSED' }, disposition: 'untouched' });
  });

  test('a node that answers as another one is not the one that was to be spared', async () => {
    const { result, host } = await carryOut({}, order({ kwdbId: 2, others: [1, 3] }));
    expect(result).toMatchObject({ failure: { code: 'INTERLOCK_REFUSED' }, disposition: 'untouched' });
    expect(result.failure?.message).toContain('does not answer as node 2');
    expect(host.deeds).toEqual([]);
  });

  /** Time passes, and another node falls. */
  const falls = (afterMs: number) => (host: FakeHost) => {
    host.meanwhile = () => {
      host.clock.nowMs += afterMs;
      host.peerDown = true;
    };
  };

  test('is asked again before the stop when the drain took its time', async () => {
    const { result, host } = await carryOut({}, order(), falls(5_001));
    // To end the drain the node would have to go down: not while another is. It goes on serving its ranges.
    expect(result).toMatchObject({ failure: { code: 'ROLLBACK_FAILED', phase: 'stop' }, disposition: 'broken' });
    expect(result.failure?.message).toContain('node 2 is not live');
    expect(host.deeds).toEqual(['drain']);
    expect(host.running?.pid).toBe(100);
  });

  test('is asked again before deploy.sh begins on a running node', async () => {
    const { result, host } = await carryOut(
      {},
      order({ phases: ['interlock', 'install-online', 'verify'] }),
      falls(5_001),
    );
    expect(result).toMatchObject({
      failure: { code: 'INTERLOCK_REFUSED', phase: 'install-online' },
      disposition: 'untouched',
    });
    expect(host.deeds).toEqual([]);
  });

  test('is asked again before the drain when the journal had no room meanwhile', async () => {
    const host: { it?: FakeHost } = {};
    class Full extends CrashingStorage {
      #full = 10;
      override append(bytes: Uint8Array): Promise<void> {
        if (!Buffer.from(bytes).includes('"interlock"') || !Buffer.from(bytes).includes('"ended"'))
          return super.append(bytes);
        if (host.it !== undefined) host.it.peerDown = true;
        this.#full -= 1;
        return this.#full > 0 ? Promise.reject(new Error('ENOSPC')) : super.append(bytes);
      }
    }
    const { result, host: left } = await carryOut(
      {},
      order(),
      (it) => {
        host.it = it;
      },
      new Full(),
    );
    expect(result).toMatchObject({ failure: { code: 'INTERLOCK_REFUSED', phase: 'drain' }, disposition: 'untouched' });
    expect(left.deeds).toEqual([]);
  });

  test('is asked again by the next agent process until the node was touched', async () => {
    let asked = 0;
    for (let crashAt = 1; ; crashAt++) {
      const host = new FakeHost(new FakeClock());
      const storage = new CrashingStorage(undefined, crashAt, 1);
      const first = await executorOver(host, storage);
      void first.executor.accept(order());
      await Promise.race([storage.crashed, first.executor.idle()]);
      const second = await executorOver(host, new CrashingStorage(storage.bytes));
      const entry = second.journal.state.inHand.get(order().id);
      if (entry === undefined || entry.deeds.length > 0) break;
      if (!entry.phases.some(({ phase, endedAtMs }) => phase === 'interlock' && endedAtMs !== null)) continue;
      asked += 1;
      host.peerDown = true;
      second.executor.resume();
      await second.executor.idle();
      const [result] = second.executor.unacknowledged();
      expect(result).toMatchObject({
        failure: { code: 'INTERLOCK_REFUSED', phase: 'interlock' },
        disposition: 'untouched',
      });
    }
    expect(asked).toBeGreaterThan(0);
  });
});
