/** Waiting for a condition, never for ever. */
import { setTimeout as pause } from 'node:timers/promises';

/**
 * Asks every `everyMs` until the answer is neither undefined nor false; undefined when `withinMs` have passed without one.
 * The answer itself must be bounded.
 */
export async function eventually<T>(
  ask: () => Promise<T | undefined | false> | T | undefined | false,
  { withinMs, everyMs }: { withinMs: number; everyMs: number },
): Promise<T | undefined> {
  const endMs = performance.now() + withinMs;
  for (;;) {
    const answer = await ask();
    if (answer !== undefined && answer !== false) return answer;
    if (performance.now() >= endMs) return undefined;
    await pause(everyMs);
  }
}
