import { defineConfig } from 'vitest/config';

// `unit` needs Node alone; `host` starts real servers and processes on this machine; `simulation` simulates; `lab` boots hosts with systemd (root).
export default defineConfig({
  test: {
    projects: [
      // Deadlines are for what hangs: on a busy machine, seconds of a processor are minutes by the clock.
      {
        test: {
          name: 'unit',
          include: ['packages/*/test/**/*.test.ts'],
          testTimeout: 300_000,
          hookTimeout: 300_000,
          expect: { poll: { timeout: 120_000 } },
        },
      },
      {
        test: {
          name: 'host',
          include: ['test/{standin,e2e,house}/**/*.test.ts'],
          testTimeout: 900_000,
          hookTimeout: 600_000,
          expect: { poll: { timeout: 120_000 } },
        },
      },
      { test: { name: 'simulation', include: ['test/simulation/**/*.test.ts'], testTimeout: 600_000 } },
      {
        test: {
          name: 'lab',
          include: ['test/lab/**/*.test.ts'],
          testTimeout: 900_000,
          hookTimeout: 600_000,
          expect: { poll: { timeout: 120_000 } },
          fileParallelism: false,
        },
      },
    ],
  },
});
