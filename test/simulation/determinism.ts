/** A simulated world has no clock, chance or timer but its own: whoever reaches for a real one is told so. */

const REAL = {
  now: Date.now,
  random: Math.random,
  setTimeout: globalThis.setTimeout,
  setInterval: globalThis.setInterval,
  setImmediate: globalThis.setImmediate,
};

const forbidden = (name: string) => () => {
  throw new Error(`${name} was called in a simulated world: take time and chance from what is passed in`);
};

/** Runs `work`, which must be synchronous, with real time and chance out of reach. */
export function withoutRealTime<T>(work: () => T): T {
  Date.now = forbidden('Date.now');
  Math.random = forbidden('Math.random');
  globalThis.setTimeout = forbidden('setTimeout') as unknown as typeof setTimeout;
  globalThis.setInterval = forbidden('setInterval') as unknown as typeof setInterval;
  globalThis.setImmediate = forbidden('setImmediate') as unknown as typeof setImmediate;
  try {
    return work();
  } finally {
    Date.now = REAL.now;
    Math.random = REAL.random;
    globalThis.setTimeout = REAL.setTimeout;
    globalThis.setInterval = REAL.setInterval;
    globalThis.setImmediate = REAL.setImmediate;
  }
}

/** Runs `work` from a callback of the event loop, where promise jobs can be drained. */
export function fromEventLoop<T>(work: () => T): Promise<T> {
  return new Promise((resolve, reject) => {
    REAL.setImmediate(() => {
      try {
        resolve(work());
      } catch (error) {
        reject(error);
      }
    });
  });
}
