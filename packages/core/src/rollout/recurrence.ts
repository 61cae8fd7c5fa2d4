/** When a rollout begins, and when the one after it does. */
import { Temporal } from 'temporal-polyfill';
import { firstOpen } from '../windows/spans.ts';
import { normalMoment } from '../windows/window.ts';
import { EVERY_FOR, type Start } from './file.ts';

const DAY_MS = 86_400_000;
const LOOK_AHEAD_DAYS = [8, 40, 800] as const;

/**
 * The first start after `afterMs`; undefined when there is none within two years. A time that the clocks jump over counts
 * as the moment of the jump, one that comes twice counts the first time, as for windows.
 */
export function nextStart(start: Start, afterMs: number): number | undefined {
  if (start.at !== undefined) {
    // The instant at which a freeze from this moment begins is computed the same way; `firstOpen` of a date does it.
    const [date = '', time = '00:00:00'] = normalMoment(start.at).split('T');
    const at = Temporal.PlainDateTime.from(`${date}T12:00`).toZonedDateTime(start.zone).epochMilliseconds;
    return firstOf({ dates: [date], at: time }, start.zone, at - 2 * DAY_MS, 4);
  }
  if (start.every === undefined) return undefined;
  for (const days of LOOK_AHEAD_DAYS) {
    const found = firstOf(start.every, start.zone, afterMs, days);
    if (found !== undefined) return found;
  }
  return undefined;
}

function firstOf(every: NonNullable<Start['every']>, zone: string, afterMs: number, days: number): number | undefined {
  const window = { name: 'start', zone, open: [{ ...every, for: EVERY_FOR }] };
  return firstOpen([window], afterMs, afterMs + days * DAY_MS, ({ startMs }) => startMs > afterMs)?.startMs;
}
