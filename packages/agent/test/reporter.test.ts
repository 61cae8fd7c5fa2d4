import { setTimeout as sleep } from 'node:timers/promises';
import { FleetError, type NodeReport } from '@kwfleet/core';
import type { AgentMessage } from '@kwfleet/protocol';
import pino from 'pino';
import { expect, onTestFinished, test } from 'vitest';
import { systemClock } from '../src/clock.ts';
import { Reporter, type ReporterOptions } from '../src/reporter.ts';
import { FakeClock, FakeHost } from './fake-host.ts';

test('a look that began before the executor told how the node is tells nothing any more', async () => {
  const host = new FakeHost(new FakeClock());
  const sent: AgentMessage[] = [];
  const looks: PromiseWithResolvers<NodeReport>[] = [];
  const stopping = new AbortController();
  const reporter = new Reporter({
    observer: {
      observe: () => {
        const look = Promise.withResolvers<NodeReport>();
        looks.push(look);
        return look.promise;
      },
      pulse: async () => ({ serving: true, ready: true }),
      health: () => host.health(),
    },
    link: { connected: true, send: (message) => sent.push(message) > 0 },
    heartbeatMs: 5,
    busy: () => true,
    seen: () => {},
    clock: systemClock,
    log: pino({ level: 'silent' }),
  });
  const versions = () =>
    sent.flatMap((message) => ('report' in message ? message.report.installation?.versions.binary : []));
  const begun = (count: number) => expect.poll(() => looks.length).toBe(count);
  const done = reporter.run(stopping.signal);
  await begun(1);
  const before = await host.observe();
  host.installed = '3.1.0';
  const after = await host.observe();
  expect(reporter.told(after).installation?.versions.binary).toBe('3.1.0');
  looks[0]?.resolve(before);
  await begun(2);
  expect(versions()).toEqual([]);
  expect(reporter.latest?.installation?.versions.binary).toBe('3.1.0');
  host.installed = '3.2.0';
  looks[1]?.resolve(await host.observe());
  await expect.poll(versions).toEqual(['3.2.0']);
  stopping.abort();
  looks[2]?.resolve(after);
  await done;
});

test('a pulse that was asked for before the executor told how the node is tells nothing any more', async () => {
  const host = new FakeHost(new FakeClock());
  const sent: AgentMessage[] = [];
  const pulses: PromiseWithResolvers<{ serving: boolean; ready: boolean }>[] = [];
  const looking = Promise.withResolvers<NodeReport>();
  const stopping = new AbortController();
  const reporter = new Reporter({
    observer: {
      // Until it has looked at everything, heartbeats go out.
      observe: () => looking.promise,
      pulse: () => {
        const pulse = Promise.withResolvers<{ serving: boolean; ready: boolean }>();
        pulses.push(pulse);
        return pulse.promise;
      },
      health: () => host.health(),
    },
    link: { connected: true, send: (message) => sent.push(message) > 0 },
    heartbeatMs: 5,
    busy: () => false,
    seen: () => {},
    clock: systemClock,
    log: pino({ level: 'silent' }),
  });
  const done = reporter.run(stopping.signal);
  await expect.poll(() => pulses.length).toBe(1);
  const started = { ...(await host.observe()), serving: true, ready: true };
  reporter.told(started);
  sent.length = 0;
  pulses[0]?.resolve({ serving: false, ready: false });
  const beats = () => sent.flatMap((message) => ('heartbeat' in message ? message.heartbeat.serving : []));
  await expect.poll(() => beats().length).toBeGreaterThan(2);
  expect(beats()).not.toContain(false);
  stopping.abort();
  looking.resolve(started);
  pulses[1]?.resolve({ serving: true, ready: true });
  await done;
});

/** A reporter that beats every few milliseconds, over a node that `change` says how it is seen. */
async function reporting(change: (host: FakeHost) => Partial<ReporterOptions>) {
  const host = new FakeHost(new FakeClock());
  const sent: AgentMessage[] = [];
  const stopping = new AbortController();
  const reporter = new Reporter({
    observer: { observe: () => host.observe(), pulse: async () => SERVES, health: () => host.health() },
    link: { connected: true, send: (message) => sent.push(message) > 0 },
    heartbeatMs: 2,
    busy: () => false,
    seen: () => {},
    clock: systemClock,
    log: pino({ level: 'silent' }),
    ...change(host),
  });
  await reporter.prepare();
  const done = reporter.run(stopping.signal);
  onTestFinished(async () => {
    stopping.abort();
    await done;
  });
  return {
    reporter,
    sent,
    beats: () => sent.flatMap((message) => ('heartbeat' in message ? message.heartbeat : [])),
    reports: () => sent.flatMap((message) => ('report' in message ? message.report : [])),
  };
}

const SERVES = { serving: true, ready: true };
const SILENT = { serving: false, ready: false };

test.each(['pulse', 'observe'] as const)(
  'a node that cannot be looked at (%s) is not told to serve, and again when it can',
  async (fails) => {
    let silent = false;
    const refuse = () => {
      if (silent) throw new FleetError('ENGINE_SILENT', 'no answer');
    };
    const { reporter, sent, beats } = await reporting((host) => ({
      busy: () => true,
      observer: {
        observe: async () => {
          if (silent) await sleep(10);
          if (fails === 'observe') refuse();
          return host.observe();
        },
        pulse: async () => {
          if (fails === 'pulse') refuse();
          return SERVES;
        },
        health: () => host.health(),
      },
    }));
    await expect.poll(() => beats().at(-1)).toMatchObject(SERVES);
    silent = true;
    await expect.poll(() => beats().at(-1)).toMatchObject(SILENT);
    expect(reporter.latest).toMatchObject(SILENT);
    sent.length = 0;
    await expect.poll(() => beats().length).toBeGreaterThan(10);
    for (const beat of beats()) expect(beat).toMatchObject(SILENT);
    silent = false;
    await expect.poll(() => beats().at(-1)).toMatchObject(SERVES);
    expect(reporter.latest).toMatchObject(SERVES);
  },
);

test('a report that is wanted of a node that cannot be looked at: one try a beat, and it is told when it can', async () => {
  let silent = true;
  let looks = 0;
  const { reporter, beats, reports } = await reporting((host) => ({
    observer: {
      observe: async () => {
        looks++;
        if (silent && looks > 1) throw new FleetError('ENGINE_SILENT', 'no answer');
        return host.observe();
      },
      pulse: async () => SERVES,
      health: () => host.health(),
    },
  }));
  // What would be told has been told: only that it is wanted makes it due.
  reporter.welcomed(2);
  reporter.request();
  await expect.poll(() => beats().length).toBeGreaterThan(20);
  expect(looks).toBeLessThan(beats().length * 2 + 10);
  expect(reports()).toEqual([]);
  silent = false;
  await expect.poll(() => reports().length).toBe(1);
});

test('a node that cannot be looked at at the start is reported once it can', async () => {
  let looks = 0;
  const { reporter, reports } = await reporting((host) => ({
    // It is not when the next look would be due anyhow.
    clock: { now: Date.now, elapsed: () => 0 },
    observer: {
      observe: async () => {
        if (looks++ < 3) throw new FleetError('ENGINE_SILENT', 'no answer');
        return { ...(await host.observe()), ...SILENT };
      },
      pulse: async () => SILENT,
      health: () => host.health(),
    },
  }));
  await expect.poll(() => reports().length).toBe(1);
  expect(reporter.latest?.installation?.versions.binary).toBe('3.0.0');
});

test('a report that the link did not take is told again', async () => {
  const tries: AgentMessage[] = [];
  await reporting(() => ({
    busy: () => true,
    link: {
      connected: true,
      send: (message) => !('report' in message) || tries.push(message) > 2,
    },
  }));
  await expect.poll(() => tries.length).toBe(3);
});

test('a clock that is set back delays neither reports nor checks', async () => {
  let beats = 0;
  let checks = 0;
  const { reports } = await reporting((host) => ({
    // Each beat is half a minute, and the host's own clock runs backwards.
    clock: { now: () => 1e12 - beats * 30_000, elapsed: () => beats++ * 30_000 },
    observer: {
      observe: () => host.observe(),
      pulse: async () => SERVES,
      health: () => {
        checks++;
        return host.health();
      },
    },
  }));
  await expect.poll(() => reports().length).toBeGreaterThan(3);
  await expect.poll(() => checks).toBeGreaterThan(3);
});
