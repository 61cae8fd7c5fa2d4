import type { AgentMessage } from '@kwfleet/protocol';
import { expect, it } from 'vitest';
import { PhaseWatch } from '../src/executor/phase-watch.ts';
import { FakeClock } from './fake-host.ts';

const MINUTE_MS = 60_000;

it.each([15 * MINUTE_MS, MINUTE_MS])(
  'tells of what moves without new words, within the idle limit of %i ms, and seldom',
  async (idleMs) => {
    const clock = new FakeClock();
    const toldAtMs: number[] = [];
    const watch = new PhaseWatch({
      action: 'a1',
      deadline: { idleMs, ceilingMs: 1000 * MINUTE_MS },
      startedAtMs: clock.now(),
      clock,
      send: (message: AgentMessage) => void ('progress' in message && toldAtMs.push(clock.elapsed())),
      stopping: () => false,
      fence: async () => {},
    });
    watch.begin('fetch', 'building, step 1 of 1: make');
    const [minutes, everyMs] = [90, Math.min(MINUTE_MS, idleMs / 3)];
    for (let seconds = 0; seconds < minutes * 60; seconds++) {
      await watch.pause();
      watch.moved(`${seconds} lines`);
    }
    const gaps = toldAtMs.slice(1).map((atMs, at) => atMs - (toldAtMs[at] ?? 0));
    expect(Math.max(...gaps)).toBeLessThanOrEqual(everyMs);
    expect(toldAtMs.length).toBeLessThanOrEqual(1 + (minutes * MINUTE_MS) / everyMs);
    expect(clock.elapsed() - (toldAtMs.at(-1) ?? 0)).toBeLessThanOrEqual(everyMs);
    // What does not move is not told.
    const before = toldAtMs.length;
    for (let seconds = 0; seconds * 1000 < idleMs; seconds++) {
      watch.moved('the same line');
      await watch.pause();
    }
    expect(toldAtMs.length - before).toBeLessThanOrEqual(1);
    await expect(watch.pause()).rejects.toThrow();
  },
);
