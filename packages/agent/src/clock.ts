/** Time as the executor sees it: passed in, so that a simulator can own it. */
export interface Clock {
  /** Milliseconds since the epoch, by a clock that people and daemons set: for what is written down, never for how long. */
  now(): number;
  /** Milliseconds since some moment of this process's life; it never jumps. */
  elapsed(): number;
  sleep(ms: number): Promise<void>;
}

export const systemClock: Clock = {
  now: () => Date.now(),
  elapsed: () => performance.now(),
  sleep: (ms) => new Promise((resolve) => setTimeout(resolve, ms)),
};
