import { type Action, FleetError, type Phase, packageOf, type Surroundings } from '@kwfleet/core';
import { describe, expect, test } from 'vitest';
import { Journal } from '../src/journal/journal.ts';
import {
  CLUSTER,
  CrashingStorage,
  carryOut,
  executorOver,
  FakeClock,
  FakeHost,
  type Faults,
  order,
  resultsIn,
} from './fake-host.ts';

const QUIET: Surroundings = {
  takenPorts: [],
  certificates: [],
  restarters: [],
  unread: [],
  disks: { agent: '1', install: '2', data: '3' },
  images: [],
};

describe('one order', () => {
  test('takes a node from one version to the next', async () => {
    const { result, host } = await carryOut({}, order());
    expect(result).toMatchObject({ outcome: 'succeeded', disposition: 'done', newVersionStarted: true });
    expect(host.deeds).toEqual(['drain', 'stop', 'install', 'start 3.1.0']);
    expect(result.phases.map(({ phase }) => phase)).toEqual(order().phases);
    expect(result.report.installation?.versions.running).toBe('3.1.0');
  });

  test('the same id twice changes nothing and is answered again', async () => {
    const { host, executor, sent } = await carryOut({}, order());
    const deeds = [...host.deeds];
    await executor.accept(order());
    await executor.idle();
    expect(host.deeds).toEqual(deeds);
    expect(resultsIn(sent)).toHaveLength(2);
    await executor.acknowledge(order().id);
    expect(executor.inHand()).toEqual([]);
    expect(executor.unacknowledged()).toEqual([]);
  });

  test('tells how the node is before it tells the result, and a result that is sent again tells nothing of now', async () => {
    const { executor, sent } = await carryOut({}, order());
    const kinds = () =>
      sent.flatMap((message) => Object.keys(message)).filter((kind) => kind === 'report' || kind === 'result');
    expect(kinds()).toEqual(['report', 'result']);
    await executor.accept(order());
    expect(kinds()).toEqual(['report', 'result', 'result']);
  });

  test('a second attempt finds the work done', async () => {
    const { host, executor, sent } = await carryOut({}, order());
    const before = host.deeds.length;
    await executor.accept(order({ id: 'run/upgrade:n1/2', attempt: 2, phases: ['install', 'start', 'verify'] }));
    await executor.idle();
    expect(host.deeds).toHaveLength(before);
    expect(resultsIn(sent)[1]).toMatchObject({ outcome: 'succeeded' });
  });

  test('an older epoch is refused, and by a restarted agent too', async () => {
    const { host, storage } = await carryOut({}, order());
    const again = await executorOver(host, new CrashingStorage(storage.bytes));
    await again.executor.accept(order({ id: 'run/late/1', epoch: 4 }));
    const [result] = resultsIn(again.sent);
    expect(result).toMatchObject({ failure: { code: 'EPOCH_STALE' }, disposition: 'untouched' });
  });

  test('a newer epoch that comes in the middle stops what was not begun', async () => {
    const host = new FakeHost(new FakeClock(), { unhealthyLooks: 3 });
    const { executor, sent } = await executorOver(host, new CrashingStorage());
    await executor.accept(order());
    await executor.accept(order({ id: 'run2/check/1', epoch: 6, phases: ['check'] }));
    await executor.idle();
    expect(resultsIn(sent)[0]).toMatchObject({ failure: { code: 'EPOCH_STALE' }, disposition: 'untouched' });
    expect(resultsIn(sent)[1]).toMatchObject({ outcome: 'succeeded' });
    expect(host.deeds).toEqual([]);
  });

  describe('to be begun by some time of the controller', () => {
    /** The controller is an hour ahead of this host, whose own clock counts for nothing. */
    const aheadMs = 3_600_000;
    async function told(host: FakeHost, storage = new CrashingStorage()) {
      const agent = await executorOver(host, storage);
      agent.executor.welcomed(host.clock.now() + aheadMs);
      return agent;
    }
    const by = (host: FakeHost, ms: number) => order({ beginByMs: host.clock.now() + aheadMs + ms });

    test('is begun before, and then comes to its end however long that takes', async () => {
      const host = new FakeHost(new FakeClock());
      class Slow extends CrashingStorage {
        override append(bytes: Uint8Array): Promise<void> {
          if (Buffer.from(bytes).includes('"deed"')) host.clock.nowMs += 61_000;
          return super.append(bytes);
        }
      }
      const { executor, sent } = await told(host, new Slow());
      await executor.accept(by(host, 60_000));
      await executor.idle();
      expect(resultsIn(sent)).toMatchObject([{ outcome: 'succeeded' }]);
    });

    test('is refused when it comes after, at once, whatever else is under way', async () => {
      const host = new FakeHost(new FakeClock(), { mute: true });
      const { executor, sent } = await told(host);
      const patient = { idleMs: 600_000, ceilingMs: 600_000 };
      await executor.accept(order({ id: 'run/gate:n1/1', phases: ['check'], deadline: patient }));
      await executor.accept(by(host, -1));
      expect(resultsIn(sent)).toMatchObject([{ failure: { code: 'ORDER_LATE' }, disposition: 'untouched' }]);
      host.faults.mute = false;
      await executor.idle();
      expect(host.deeds).toEqual([]);
    });

    test('is refused when it had to wait here for another, and not when what it waits for itself takes long', async () => {
      const host = new FakeHost(new FakeClock(), { unhealthyLooks: 70 });
      const { executor, sent } = await told(host);
      const patient = { deadline: { idleMs: 600_000, ceilingMs: 600_000 } };
      await executor.accept({ ...by(host, 60_000), ...patient, phases: ['interlock'] });
      await executor.accept({ ...by(host, 60_000), ...patient, id: 'run/upgrade:n1/2' });
      await executor.idle();
      expect(resultsIn(sent)).toMatchObject([
        { outcome: 'succeeded' },
        { failure: { code: 'ORDER_LATE' }, disposition: 'untouched' },
      ]);
      expect(host.deeds).toEqual([]);
    });

    test('is refused by the next agent process, if the one before died with it untouched and long ago', async () => {
      for (let crashAt = 1; ; crashAt++) {
        const host = new FakeHost(new FakeClock());
        const storage = new CrashingStorage(new Uint8Array(), crashAt);
        const first = await told(host, storage);
        void first.executor.accept(by(host, 60_000));
        await Promise.race([storage.crashed, first.executor.idle()]);
        if (storage.writes < crashAt) break;
        const before = [...host.deeds];
        host.clock.nowMs += 61_000;
        // A power cut: the host comes up with another time.
        host.clock.wrongMs = -8 * 3_600_000;
        const { executor, sent, journal } = await executorOver(host, new CrashingStorage(storage.bytes));
        const [entry] = journal.state.inHand.values();
        const touched = entry !== undefined && entry.deeds.length > 0;
        executor.resume();
        await executor.idle();
        if (entry === undefined) continue;
        if (touched) {
          expect(resultsIn(sent), `crash at write ${crashAt}`).toMatchObject([{ outcome: 'succeeded' }]);
          continue;
        }
        expect(before, `crash at write ${crashAt}`).toEqual([]);
        // Nobody told the time yet: it is neither begun nor refused.
        expect([host.deeds, resultsIn(sent), executor.busy]).toEqual([[], [], false]);
        executor.welcomed(host.clock.elapsed() + aheadMs);
        await executor.idle();
        expect(resultsIn(sent)).toMatchObject([{ failure: { code: 'ORDER_LATE' }, disposition: 'untouched' }]);
        expect(host.deeds).toEqual([]);
      }
    });

    test('is carried out by the next agent process, if there is time left', async () => {
      const host = new FakeHost(new FakeClock());
      const storage = new CrashingStorage(new Uint8Array(), 2, 1);
      const first = await told(host, storage);
      void first.executor.accept(by(host, 60_000));
      await storage.crashed;
      host.clock.nowMs += 30_000;
      host.clock.wrongMs = 8 * 3_600_000;
      const { executor, sent } = await executorOver(host, new CrashingStorage(storage.bytes));
      executor.resume();
      await executor.idle();
      expect(resultsIn(sent)).toEqual([]);
      executor.welcomed(host.clock.elapsed() + aheadMs);
      await executor.idle();
      expect(resultsIn(sent)).toMatchObject([{ outcome: 'succeeded' }]);
    });

    test('is late by no clock of this host, which is set while it waits', async () => {
      for (const wrongMs of [-8 * 3_600_000, 8 * 3_600_000]) {
        const host = new FakeHost(new FakeClock(), { unhealthyLooks: 70 });
        const { executor, sent } = await told(host);
        const patient = { deadline: { idleMs: 600_000, ceilingMs: 600_000 } };
        await executor.accept(order({ id: 'run/look:n1/1', phases: ['interlock'], ...patient }));
        await executor.accept({ ...by(host, wrongMs < 0 ? 60_000 : 80_000), ...patient });
        host.clock.wrongMs = wrongMs;
        await executor.idle();
        expect(resultsIn(sent)[1]?.failure?.code).toBe(wrongMs < 0 ? 'ORDER_LATE' : undefined);
      }
    });
  });

  test.each([
    ['late', { beginByMs: 1 }],
    ['one too many', {}],
  ] as const)('a newer epoch that is refused (%s) is in charge all the same', async (_, change) => {
    const patient = { deadline: { idleMs: 600_000, ceilingMs: 600_000 } };
    const host = new FakeHost(new FakeClock(), { mute: true });
    const storage = new CrashingStorage();
    const { executor, sent } = await executorOver(host, storage);
    executor.welcomed(host.clock.now());
    await executor.accept(order(patient));
    for (let at = 0; at < 15; at++) await executor.accept(order({ id: `run/check:n1/${at}`, phases: ['check'] }));
    await executor.accept(order({ id: 'run2/upgrade:n1/1', epoch: 6, ...change }));
    const code = 'beginByMs' in change ? 'ORDER_LATE' : 'ACTION_INVALID';
    expect(resultsIn(sent)).toMatchObject([{ action: 'run2/upgrade:n1/1', failure: { code } }]);
    expect((await Journal.open(new CrashingStorage(storage.bytes))).state.epochs.get(CLUSTER)).toBe(6);
    host.faults.mute = false;
    await executor.idle();
    expect(resultsIn(sent)[1]).toMatchObject({ failure: { code: 'EPOCH_STALE' }, disposition: 'untouched' });
    expect(host.deeds).toEqual([]);
  });

  test('an order for another node tells nothing of who is in charge', async () => {
    const { journal } = await carryOut({}, order({ node: 'n2', epoch: 9 }));
    expect(journal.state.epochs.get(CLUSTER)).toBeUndefined();
  });

  test('a newer epoch lets what only looks come to its end', async () => {
    const host = new FakeHost(new FakeClock(), { unhealthyLooks: 3 });
    const { executor, sent } = await executorOver(host, new CrashingStorage());
    await executor.accept(order({ phases: ['interlock', 'check'] }));
    await executor.accept(order({ id: 'run2/check/1', epoch: 6, phases: ['check'] }));
    await executor.idle();
    expect(resultsIn(sent).map(({ outcome }) => outcome)).toEqual(['succeeded', 'succeeded']);
  });

  test('a newer epoch that is journalled just before a deed stops it', async () => {
    const host = new FakeHost(new FakeClock());
    let accept: (action: Action) => Promise<void> = async () => {};
    // The order comes while the journal is busy: the deed is written behind it.
    class Busy extends CrashingStorage {
      override append(bytes: Uint8Array): Promise<void> {
        if (Buffer.from(bytes).includes('"mark"'))
          void accept(order({ id: 'run2/check/1', epoch: 6, phases: ['check'] }));
        return super.append(bytes);
      }
    }
    const { executor, sent } = await executorOver(host, new Busy());
    accept = (action) => executor.accept(action);
    await executor.accept(order());
    await executor.idle();
    expect(resultsIn(sent)[0]).toMatchObject({ failure: { code: 'EPOCH_STALE' } });
    expect(host.deeds).toEqual([]);
    expect(host.running?.version).toBe('3.0.0');
  });

  test('more orders than any controller would give are refused, and those in hand go on', async () => {
    const host = new FakeHost(new FakeClock(), { mute: true });
    const { executor, sent } = await executorOver(host, new CrashingStorage());
    const patient = { idleMs: 600_000, ceilingMs: 600_000 };
    const ids = Array.from({ length: 17 }, (_, at) => `run/check:n1/${at + 1}`);
    for (const id of ids) await executor.accept(order({ id, phases: ['check'], deadline: patient }));
    expect(resultsIn(sent)).toMatchObject([{ action: ids[16], failure: { code: 'ACTION_INVALID' } }]);
    host.faults.mute = false;
    await executor.idle();
    expect(resultsIn(sent).filter(({ outcome }) => outcome === 'succeeded')).toHaveLength(16);
  });

  test('an order for another node is refused', async () => {
    const { result, host } = await carryOut({}, order({ node: 'n2' }));
    expect(result).toMatchObject({ failure: { code: 'ACTION_INVALID' }, disposition: 'untouched' });
    expect(host.deeds).toEqual([]);
  });
});

describe('a host that would not let the node come back', () => {
  const spoiled: Record<string, (host: FakeHost) => void> = {
    DISK_FULL: (host) => {
      host.freeBytes = 1;
    },
    PORT_TAKEN: (host) => {
      host.surroundings = { ...QUIET, takenPorts: [{ port: 8080, program: 'nginx' }] };
    },
  };

  test.each(Object.entries(spoiled))('%s: it is not taken down', async (code, spoil) => {
    for (const phases of [order().phases, ['stop'], ['interlock', 'install-online', 'verify']] as const) {
      const { result, host } = await carryOut({}, order({ phases: [...phases] }), spoil);
      expect(result).toMatchObject({ outcome: 'failed', failure: { code }, disposition: 'untouched' });
      expect([host.deeds, host.running?.version]).toEqual([[], '3.0.0']);
    }
  });

  describe('an image', () => {
    const image = { ...packageOf(order()), kind: 'image' as const, family: 'any' as const };
    const knownAs = (...images: Surroundings['images']) =>
      carryOut({}, order({ package: image }), (host) => {
        host.method = 'docker-run';
        host.surroundings = { ...QUIET, images };
      });

    test.each([
      ['that is gone and would have to be pulled', [{ digest: image.sha256, state: 'pullable', detail: '' }]],
      ['that cannot be had', [{ digest: image.sha256, state: 'unavailable', detail: 'no route' }]],
      ['of which nothing is known', []],
    ] as [string, Surroundings['images']][])('%s: the node is not taken down', async (_, images) => {
      const { result, host } = await knownAs(...images);
      expect(result).toMatchObject({ failure: { code: 'IMAGE_UNAVAILABLE' }, disposition: 'untouched' });
      expect([host.deeds, host.running?.version]).toEqual([[], '3.0.0']);
      expect(host.wanted).toEqual(image);
    });

    test('that is there: it is', async () => {
      const { result } = await knownAs({ digest: image.sha256, state: 'present', detail: '' });
      expect(result).toMatchObject({ outcome: 'succeeded' });
    });
  });

  test('the way back is not barred', async () => {
    const { result, host } = await carryOut({}, order({ phases: ['stop', 'put-back'] }), (spoilt) => {
      spoilt.freeBytes = 1;
    });
    expect(result).toMatchObject({ outcome: 'succeeded' });
    expect(host.deeds).toContain('stop');
  });

  test('nor is an order that has begun: it goes on, so that the node comes back', async () => {
    for (let crashAt = 1; ; crashAt++) {
      const host = new FakeHost(new FakeClock());
      const storage = new CrashingStorage(undefined, crashAt, 1);
      const first = await executorOver(host, storage);
      void first.executor.accept(order());
      const ended = first.executor.idle().then(() => 'ended' as const);
      if ((await Promise.race([storage.crashed, ended])) === 'ended') break;
      host.freeBytes = 1;
      const second = await executorOver(host, new CrashingStorage(storage.bytes));
      const entry = second.journal.state.inHand.get(order().id);
      if (entry === undefined) break;
      const refused = entry.deeds.length === 0;
      second.executor.resume();
      await second.executor.idle();
      const [result] = second.executor.unacknowledged();
      expect([crashAt, result?.failure?.code]).toEqual([crashAt, refused ? 'DISK_FULL' : undefined]);
    }
  });

  test('a node that is down already is brought up', async () => {
    const { result } = await carryOut({}, order({ phases: ['stop', 'install', 'start', 'verify'] }), (spoilt) => {
      spoilt.running = null;
      spoilt.freeBytes = 1;
    });
    expect(result).toMatchObject({ outcome: 'succeeded' });
  });
});

describe('when a phase fails', () => {
  test.each([
    ['install', { installFails: true }, 'INSTALL_FAILED', 'backed-out'],
    ['install, half', { installHalf: true }, 'INSTALL_FAILED', 'backed-out'],
    ['drain', { drainFails: true }, 'DRAIN_FAILED', 'backed-out'],
  ] as const)('%s: the old version serves again', async (_name, faults, code, disposition) => {
    const { result, host } = await carryOut(faults, order());
    expect(result).toMatchObject({ outcome: 'failed', failure: { code }, disposition, newVersionStarted: false });
    expect(host).toMatchObject({ installed: '3.0.0', half: false, running: { version: '3.0.0' } });
    expect(host.deeds).not.toContain('start 3.1.0');
  });

  test('the new version, once started, is never put back', async () => {
    const { result, host } = await carryOut({ crashOnStart: true }, order());
    expect(result).toMatchObject({
      failure: { code: 'START_FAILED' },
      disposition: 'broken',
      newVersionStarted: true,
    });
    expect(host.deeds).not.toContain('put-back');
    expect(host.installed).toBe('3.1.0');
  });

  test('an older version is not started on data that a newer one has opened', async () => {
    const back = order({ id: 'run/return:n1/1', phases: ['start', 'verify'], from: '3.1.0', to: '3.0.0' });
    const { executor, sent, host } = await carryOut({}, order());
    host.running = null;
    host.installed = '3.0.0';
    const deeds = [...host.deeds];
    await executor.accept(back);
    await executor.idle();
    expect(resultsIn(sent)[1]).toMatchObject({ failure: { code: 'VERSION_OLDER' }, disposition: 'untouched' });
    expect(host.deeds).toEqual(deeds);
    const restore = { set: 'run-0', version: '3.0.0', manifestSha256: 'b'.repeat(64) };
    await executor.accept(order({ ...back, id: 'run/restore:n1/1', phases: ['restore'], restore }));
    await executor.accept({ ...back, id: 'run/return:n1/2', attempt: 2 });
    await executor.idle();
    expect(resultsIn(sent)[3]).toMatchObject({ outcome: 'succeeded' });
  });

  test.each(['install', 'put-back'] as const)(
    'no %s is begun, or begun again, beside a database that came up',
    async (phase) => {
      const { result, host } = await carryOut({}, order({ phases: [phase] }), (it) => {
        it.running = null;
        if (phase === 'put-back') it.installed = '3.1.0';
        it.meanwhile = () => {
          it.running = { pid: 98, version: it.installed, startedAtMs: it.clock.now() };
        };
      });
      expect(result.failure?.code).toMatch(/DEPLOY_STILL_RUNNING|ROLLBACK_FAILED/);
      expect(result.failure?.message).toContain('while the database runs');
      expect(host.deeds).not.toContain(phase);
    },
  );

  test.each([
    [true, 'broken'],
    [false, 'backed-out'],
  ])('a unit that has failed while a stopped node was installed may have opened the data: %s', async (falls, left) => {
    const faults = { installHalf: true, fallsMeanwhile: falls };
    const { result, host } = await carryOut(faults, order({ phases: ['install'] }), (it) => {
      it.running = null;
    });
    expect(result).toMatchObject({ disposition: left, newVersionStarted: falls });
    expect(host.deeds.includes('put-back')).toBe(!falls);
  });

  test('what was seen to run and told no version counts for what was installed then, when that is newer', async () => {
    const host = new FakeHost(new FakeClock(), {});
    const { executor, sent, journal } = await executorOver(host, new CrashingStorage());
    await executor.saw(await host.observe());
    host.faults.tellsNoVersion = true;
    await executor.saw(await host.observe());
    expect(journal.state.startedVersion).toBe('3.0.0');
    host.installed = '3.1.0';
    await executor.saw(await host.observe());
    expect(journal.state.startedVersion).toBe('3.1.0');
    host.running = null;
    await executor.accept(order({ phases: ['stop', 'put-back'] }));
    await executor.idle();
    expect(resultsIn(sent)[0]).toMatchObject({ failure: { code: 'VERSION_OLDER' }, newVersionStarted: true });
    expect(host.deeds).toEqual([]);
  });

  test.each([
    [true, true],
    [false, false],
  ])('a stop remembers what nobody can ask any more; mute: %s', async (tellsNoVersion, started) => {
    const { result } = await carryOut({ tellsNoVersion }, order({ phases: ['stop'] }), (host) => {
      host.installed = '3.1.0';
    });
    expect(result).toMatchObject({ outcome: 'succeeded', newVersionStarted: started });
  });

  test.each([
    ['3.1.0', 'VERSION_OLDER', true],
    ['3.0.0', undefined, false],
  ])('a database at %s that came up while the version before was put back', async (running, code, started) => {
    const back = order({ phases: ['put-back'] });
    const { result } = await carryOut({ comesUpMeanwhile: running }, back, (host) => {
      host.running = null;
      host.installed = '3.1.0';
    });
    expect(result.failure?.code).toBe(code);
    expect(result.newVersionStarted).toBe(started);
  });

  test('a put-back order is refused after that', async () => {
    const { executor, sent, host } = await carryOut({ crashOnStart: true }, order());
    await executor.accept(order({ id: 'run/back/1', phases: ['put-back', 'start', 'verify'] }));
    await executor.idle();
    expect(resultsIn(sent)[1]).toMatchObject({ failure: { code: 'VERSION_OLDER' }, disposition: 'untouched' });
    expect(host.installed).toBe('3.1.0');
  });

  test('what cannot be put back is handed to a person', async () => {
    const { result } = await carryOut({ installHalf: true, putBackFails: true }, order());
    expect(result).toMatchObject({ failure: { code: 'ROLLBACK_FAILED', phase: 'install' }, disposition: 'broken' });
  });

  test('a deploy.sh that does not move is left alone', async () => {
    const { result, host } = await carryOut({ installHangs: true }, order());
    expect(result).toMatchObject({ failure: { code: 'INSTALL_TIMEOUT' }, disposition: 'broken' });
    expect(host.deeds).not.toContain('put-back');
  });

  test.each([
    ['install', true, 'broken'],
    ['install', 'unknown', 'broken'],
    ['install', false, 'backed-out'],
    ['back-up', true, 'backed-out'],
  ] as const)('%s, whose command may still be at work (%s): %s', async (phase, atWork, disposition) => {
    const faults = { atWork, ...(phase === 'install' ? { installFails: true } : { backupDiskFull: true }) };
    const backup = { backup: 'copy', topology: 'standalone', others: [] } as const;
    const change = phase === 'install' ? {} : { ...backup, phases: ['stop', 'back-up', 'install', 'start'] as Phase[] };
    const { result, host } = await carryOut(faults, order(change));
    expect(result).toMatchObject({ outcome: 'failed', failure: { phase }, disposition });
    expect(host.deeds.at(-1)).toBe(disposition === 'broken' ? 'install' : 'start 3.0.0');
  });

  test('a way back that was begun goes on after a restart, though its own command is at work', async () => {
    const host = new FakeHost(new FakeClock(), { installHalf: true });
    const storage = new CrashingStorage();
    const first = await executorOver(host, storage);
    const dead = new Promise<void>((resolve) => {
      host.putBack = () => {
        resolve();
        return new Promise(() => {});
      };
    });
    await first.executor.accept(order());
    await dead;
    Reflect.deleteProperty(host, 'putBack');
    host.faults.atWork = true;
    const second = await executorOver(host, new CrashingStorage(storage.bytes));
    second.executor.resume();
    await second.executor.idle();
    expect(resultsIn(second.sent)).toMatchObject([{ disposition: 'backed-out' }]);
    expect(host.running?.version).toBe('3.0.0');
  });

  test('an online upgrade that was refused leaves the node untouched', async () => {
    const { result, host } = await carryOut(
      { installFails: true },
      order({ phases: ['interlock', 'install-online', 'verify'] }),
    );
    expect(result).toMatchObject({ failure: { code: 'DEPLOY_MARK_FAILED' }, disposition: 'untouched' });
    expect(host.running?.version).toBe('3.0.0');
  });

  test('an online upgrade that started the new version, and after which nobody can look, is never put back', async () => {
    const online = order({ phases: ['interlock', 'install-online', 'verify'] });
    const { result, host, executor, sent } = await carryOut({ fallsOnline: true }, online);
    expect(result).toMatchObject({ outcome: 'failed', disposition: 'broken', newVersionStarted: true });
    await executor.accept(order({ id: 'run/back/1', phases: ['put-back', 'start', 'verify'] }));
    await executor.idle();
    expect(resultsIn(sent)[1]).toMatchObject({ failure: { code: 'VERSION_OLDER' }, disposition: 'untouched' });
    expect(host.deeds).toEqual(['install-online']);
  });

  test('nor is one whose agent died under it, and whose next agent cannot look', async () => {
    const online = order({ phases: ['interlock', 'install-online', 'verify'] });
    const host = new FakeHost(new FakeClock());
    const storage = new CrashingStorage();
    const first = await executorOver(host, storage);
    const dead = new Promise<void>((resolve) => {
      host.installOnline = () => {
        resolve();
        return new Promise(() => {});
      };
    });
    await first.executor.accept(online);
    await dead;
    host.running = null;
    host.faults.silentLooks = 2;
    const second = await executorOver(host, new CrashingStorage(storage.bytes));
    second.executor.resume();
    await second.executor.idle();
    expect(resultsIn(second.sent)).toMatchObject([{ disposition: 'broken', newVersionStarted: true }]);
    expect(host.deeds).toEqual([]);
  });

  test('a node of a single-replica cluster is put back and not started', async () => {
    const { result, host } = await carryOut(
      { installHalf: true },
      order({ phases: ['install'], topology: 'single-replica' }),
      (it) => {
        it.running = null;
      },
    );
    expect(result).toMatchObject({ disposition: 'backed-out' });
    expect(host).toMatchObject({ installed: '3.0.0', running: null });
  });
});

describe('looking', () => {
  test('a witness counts its soak anew after a bad sample', async () => {
    const host = new FakeHost(new FakeClock());
    const { executor, sent } = await executorOver(host, new CrashingStorage());
    const startedAtMs = host.clock.now();
    const action = order({
      id: 'run/witness/1',
      phases: ['witness'],
      to: '3.0.0',
      kwdbId: 1,
      subject: { kwdbId: 3, startedAfterMs: 0 },
    });
    await executor.accept(action);
    setImmediate(() => {
      host.faults.unhealthyLooks = 1;
    });
    await executor.idle();
    expect(resultsIn(sent)[0]).toMatchObject({ outcome: 'succeeded' });
    expect(host.clock.now() - startedAtMs).toBeGreaterThan(action.soakMs + action.sampleGapMs);
  });

  test('settings get the values of the ledger', async () => {
    const ledger = [{ name: 'server.time_until_store_dead' as const, value: '17m0s' }];
    const { result, host } = await carryOut({}, order({ phases: ['restore-settings'], ledger }));
    expect(result).toMatchObject({ outcome: 'succeeded' });
    expect(host.deeds).toEqual(['set 17m0s']);
  });

  test('a setting in another spelling is left as it is', async () => {
    const ledger = [{ name: 'server.time_until_store_dead' as const, value: '30m' }];
    const { host } = await carryOut({}, order({ phases: ['restore-settings'], ledger }));
    expect(host.deeds).toEqual([]);
  });

  test('a check carries the answer', async () => {
    const { result } = await carryOut({}, order({ phases: ['check'] }));
    expect(result.health?.view.nodes).toHaveLength(3);
  });
});

/** Ends one life at a write to the journal, and lets a second one finish. */
async function crashAndResume(faults: Faults, action: Action, crashAt: number, keeps: number) {
  const host = new FakeHost(new FakeClock(), { ...faults });
  const storage = new CrashingStorage(undefined, crashAt, keeps);
  const first = await executorOver(host, storage);
  // The controller delivers until it has a result: here until the process dies.
  void first.executor.accept(action);
  const ended = first.executor.idle().then(() => 'ended' as const);
  const died = await Promise.race([storage.crashed.then(() => 'died' as const), ended]);
  if (died === 'ended') return { host, finished: true, results: resultsIn(first.sent) };
  const second = await executorOver(host, new CrashingStorage(storage.bytes));
  second.executor.resume();
  await second.executor.accept(action);
  await second.executor.idle();
  return { host, finished: false, results: second.executor.unacknowledged() };
}

describe('a crash at every write of the journal', () => {
  test.each([
    ['a good upgrade', {}, order()],
    ['an online upgrade', {}, order({ phases: ['interlock', 'install-online', 'verify'] })],
    ['an online upgrade that leaves half', { installHalf: true }, order({ phases: ['interlock', 'install-online'] })],
    ['a failing installation', { installHalf: true }, order()],
    ['a version that does not start', { crashOnStart: true }, order()],
    ['a drain that fails', { drainFails: true }, order()],
  ] as const)('%s ends the same', async (_name, faults, action) => {
    const plain = await carryOut({ ...faults }, action);
    const { outcome, disposition, newVersionStarted, failure } = plain.result;
    for (const keeps of [0, 0.5, 1]) {
      for (let crashAt = 1; ; crashAt++) {
        const { host, finished, results } = await crashAndResume(faults, action, crashAt, keeps);
        const where = `crash at write ${crashAt}, of which ${keeps} is kept`;
        expect(results, where).toHaveLength(1);
        expect(results[0], where).toMatchObject({ outcome, disposition, newVersionStarted });
        expect(results[0]?.failure?.code, where).toBe(failure?.code);
        expect(host.installed, where).toBe(plain.host.installed);
        expect(host.running?.version, where).toBe(plain.host.running?.version);
        if (finished) break;
      }
    }
  });
});

describe('backups', () => {
  const copied = order({
    phases: ['stop', 'back-up', 'install', 'start', 'verify'],
    backup: 'copy',
    topology: 'standalone',
    others: [],
  });
  const source = { set: 'run-1', version: '3.0.0', manifestSha256: 'b'.repeat(64) };

  test('a copy is made once the node is stopped, before anything is installed, and its receipt is in the result', async () => {
    const { result, host } = await carryOut({}, copied);
    expect(host.deeds).toEqual(['stop', 'back-up', 'install', 'start 3.1.0']);
    expect(result).toMatchObject({ outcome: 'succeeded', backup: { place: '/backups/n1/run', version: '3.0.0' } });
  });

  test('a disk that fills up in the copy: nothing is installed, and the old version serves again', async () => {
    const { result, host } = await carryOut({ backupDiskFull: true }, copied);
    expect(result).toMatchObject({ failure: { code: 'DISK_FULL', phase: 'back-up' }, disposition: 'backed-out' });
    expect(host.deeds).toEqual(['stop', 'back-up', 'start 3.0.0']);
    expect(host).toMatchObject({ installed: '3.0.0', running: { version: '3.0.0' } });
    expect(result.backup).toBeUndefined();
  });

  test('the receipt is told though the install failed afterwards', async () => {
    const { result } = await carryOut({ installFails: true }, copied);
    expect(result).toMatchObject({ outcome: 'failed', disposition: 'backed-out', backup: { policy: 'copy' } });
  });

  test('a retry does not put a copy of what the new version opened in the place of the good one', async () => {
    const { result, host, executor, sent } = await carryOut({ crashOnStart: true }, copied);
    expect(result).toMatchObject({ outcome: 'failed', disposition: 'broken', newVersionStarted: true });
    host.faults.crashOnStart = false;
    await executor.accept({ ...copied, id: 'run/upgrade:n1/2', attempt: 2 });
    await executor.idle();
    expect(resultsIn(sent)[1]).toMatchObject({ outcome: 'succeeded' });
    expect(host.deeds.filter((deed) => deed === 'back-up')).toHaveLength(1);
  });

  test('a running node is not copied, nor restored; only the operator’s command is run while it serves', async () => {
    const copy = await carryOut({}, order({ phases: ['back-up'], backup: 'copy' }));
    expect(copy.result).toMatchObject({ failure: { code: 'DEPLOY_STILL_RUNNING' }, disposition: 'untouched' });
    const restored = await carryOut({}, order({ phases: ['restore'], restore: source }));
    expect(restored.result).toMatchObject({ failure: { code: 'DEPLOY_STILL_RUNNING' }, disposition: 'untouched' });
    for (const { host } of [copy, restored]) expect(host.deeds).toEqual([]);
    const command = await carryOut({}, order({ phases: ['back-up'], backup: 'command' }));
    expect(command.result).toMatchObject({ outcome: 'succeeded', backup: { policy: 'command' } });
  });

  test('a damaged backup is found without anything being touched', async () => {
    const { result, host } = await carryOut(
      { backupDamaged: true },
      order({ phases: ['check-backup'], restore: source }),
    );
    expect(result).toMatchObject({ failure: { code: 'BACKUP_DAMAGED' }, disposition: 'untouched' });
    expect(host.deeds).toEqual(['check-backup']);
  });

  test('a restore that fails puts back what was there, and starts nothing', async () => {
    const action = order({ phases: ['restore'], restore: source, from: '3.1.0', to: '3.0.0' });
    const { result, host } = await carryOut({ restoreFails: true }, action, (it) => {
      it.running = null;
    });
    expect(result).toMatchObject({ failure: { code: 'RESTORE_FAILED' }, disposition: 'backed-out' });
    expect(host.deeds).toEqual(['restore', 'put-data-back']);
    expect(host.running).toBeNull();
  });

  test('files in place that name what this host does not have are put back: nothing could be started from them', async () => {
    const action = order({ phases: ['restore'], restore: source, from: '3.1.0', to: '3.0.0' });
    const { result, host } = await carryOut({}, action, (it) => {
      it.running = null;
      const restored = async () => {
        expect(it.deeds).toEqual(['restore']);
        throw new FleetError('RESTORE_FAILED', 'no such image');
      };
      Object.assign(it, { restored });
    });
    expect(result).toMatchObject({ failure: { code: 'RESTORE_FAILED' }, disposition: 'backed-out' });
    expect(host.deeds).toEqual(['restore', 'put-data-back']);
  });

  test('a database that comes up while a backup is staged keeps its data', async () => {
    const action = order({ phases: ['restore'], restore: source, from: '3.1.0', to: '3.0.0' });
    const { result, host } = await carryOut({ startsWhileStaging: true }, action, (it) => {
      it.running = null;
    });
    expect(result).toMatchObject({ failure: { code: 'DEPLOY_STILL_RUNNING' }, disposition: 'untouched' });
    expect(host.deeds).toEqual([]);
  });

  test('killed at any write of its journal, the restore is done once it is let go on', async () => {
    const action = order({ phases: ['restore'], restore: source, from: '3.1.0', to: '3.0.0' });
    for (let crashAt = 1; crashAt <= 6; crashAt++) {
      const host = new FakeHost(new FakeClock(), {});
      host.running = null;
      const storage = new CrashingStorage(new Uint8Array(), crashAt, 0.5);
      const first = await executorOver(host, storage);
      await Promise.race([first.executor.accept(action).then(() => first.executor.idle()), storage.crashed]);
      const again = await executorOver(host, new CrashingStorage(storage.bytes));
      await again.executor.accept(action);
      again.executor.resume();
      await again.executor.idle();
      expect(resultsIn(again.sent).at(-1), `crash at write ${crashAt}`).toMatchObject({ outcome: 'succeeded' });
      expect(host.deeds).not.toContain('put-data-back');
    }
  });
});
