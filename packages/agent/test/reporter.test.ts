import type { NodeReport } from '@kwfleet/core';
import type { AgentMessage } from '@kwfleet/protocol';
import pino from 'pino';
import { expect, test } from 'vitest';
import { Reporter } from '../src/reporter.ts';
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
    link: { connected: true, send: (message) => void sent.push(message) },
    heartbeatMs: 5,
    busy: () => true,
    seen: () => {},
    now: Date.now,
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
    link: { connected: true, send: (message) => void sent.push(message) },
    heartbeatMs: 5,
    busy: () => false,
    seen: () => {},
    now: Date.now,
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
