/** A maintenance window as people write it: when it opens, by the clocks of a place, for how long, for which clusters. */
import Type, { type Static } from 'typebox';
import { DURATION_PATTERN, knownDurationMs } from '../duration.ts';
import { Selector } from '../selector.ts';
import { type BrokenRule, readWritten, type Written } from '../written.ts';

const strict = { additionalProperties: false } as const;

export const DAYS = ['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'] as const;
export type Day = (typeof DAYS)[number];
export const WEEKS = ['first', 'second', 'third', 'fourth', 'last'] as const;

const Name = Type.String({
  pattern: '^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$',
  description: 'a name of letters, digits, ".", "_" and "-"',
});
const TimeOfDay = Type.String({
  pattern: '^([01]\\d|2[0-3]):[0-5]\\d(:[0-5]\\d)?$',
  description: 'a time of day like "22:00"',
});
const DayName = Type.Unsafe<Day>(Type.Enum([...DAYS], { description: `one of ${DAYS.join(', ')}` }));
const DateOnly = Type.String({ pattern: '^\\d{4}-\\d{2}-\\d{2}$', description: 'a date like 2026-12-24' });
/** A moment by the clocks of the window's zone; a date alone is its midnight. */
export const LocalMoment = Type.String({
  pattern: '^\\d{4}-\\d{2}-\\d{2}([T ]([01]\\d|2[0-3]):[0-5]\\d(:[0-5]\\d)?)?$',
  description: 'a date like 2026-12-24, or a moment like "2026-12-24 18:00"',
});
export const DurationText = Type.String({ pattern: DURATION_PATTERN, description: 'a duration like 90m, 6h or 1d' });

/** One opening that comes again: on days of the week, of the month, or on dates. Exactly one of the three. */
export const OpeningRule = Type.Object(
  {
    weekly: Type.Optional(
      Type.Array(DayName, { minItems: 1, maxItems: 7, description: 'a list of days, like [mon, thu]' }),
    ),
    monthly: Type.Optional(
      Type.Array(
        Type.Union(
          [
            Type.Integer({ minimum: 1, maximum: 31 }),
            Type.String({ pattern: `^(last|(${WEEKS.join('|')}) (${DAYS.join('|')}))$` }),
          ],
          { description: 'a day from 1 to 31, "last", or a weekday like "first sun" or "last fri"' },
        ),
        { minItems: 1, maxItems: 62, description: 'a list of days of the month, like [1, 15, "last", "first sun"]' },
      ),
    ),
    dates: Type.Optional(
      Type.Array(DateOnly, { minItems: 1, maxItems: 366, description: 'a list of dates, like [2026-12-05]' }),
    ),
    at: TimeOfDay,
    for: DurationText,
  },
  { ...strict, description: 'an opening: one of weekly, monthly or dates, with at and for' },
);
export type OpeningRule = Static<typeof OpeningRule>;

/** Nothing starts from `from` until `until`, whatever is open. */
export const Freeze = Type.Object(
  {
    from: LocalMoment,
    until: LocalMoment,
    reason: Type.Optional(Type.String({ maxLength: 200, description: 'why, in up to 200 characters' })),
  },
  { ...strict, description: 'a freeze: from and until, and a reason' },
);
export type Freeze = Static<typeof Freeze>;

export const Window = Type.Object(
  {
    name: Name,
    zone: Type.String({ minLength: 1, maxLength: 64, description: 'an IANA time zone like Europe/Berlin' }),
    /** The clusters it is about; without it, all that are upgraded under it. */
    clusters: Type.Optional(Selector),
    /** Without any opening it only freezes. */
    open: Type.Array(OpeningRule, { maxItems: 50, description: 'a list of openings' }),
    freezes: Type.Optional(Type.Array(Freeze, { maxItems: 200, description: 'a list of freezes' })),
  },
  { ...strict, description: 'a window: name, zone, open, and possibly clusters and freezes' },
);
export type Window = Static<typeof Window>;

/** A window that is open longer than this at a stretch is no window. It also bounds how far back an opening is looked for. */
export const OPEN_MAX_MS = 7 * 86_400_000;

/** What the schema cannot say: the zone exists, each opening is of one kind, dates are dates, freezes end after they begin. */
export function checkWindow(window: Window): BrokenRule[] {
  const mistakes: BrokenRule[] = [];
  if (!isZone(window.zone)) mistakes.push({ path: ['zone'], expected: 'an IANA time zone like Europe/Berlin' });
  for (const [i, rule] of window.open.entries()) {
    const kinds = (['weekly', 'monthly', 'dates'] as const).filter((kind) => rule[kind] !== undefined);
    const path = ['open', i] as const;
    if (kinds.length !== 1) mistakes.push({ path, expected: 'exactly one of weekly, monthly and dates' });
    const forMs = knownDurationMs(rule.for);
    if (forMs < 1000 || forMs > OPEN_MAX_MS)
      mistakes.push({ path: [...path, 'for'], expected: 'a duration from 1s to 7d' });
    for (const [at, date] of (rule.dates ?? []).entries()) {
      if (!isDate(date)) mistakes.push({ path: [...path, 'dates', at], expected: 'a date that the calendar has' });
    }
  }
  for (const [i, { from, until }] of (window.freezes ?? []).entries()) {
    const path = ['freezes', i] as const;
    for (const [key, moment] of Object.entries({ from, until })) {
      if (!isDate(moment.slice(0, 10)))
        mistakes.push({ path: [...path, key], expected: 'a date that the calendar has' });
    }
    if (normalMoment(from) >= normalMoment(until))
      mistakes.push({ path: [...path, 'until'], expected: 'a moment after from' });
  }
  return mistakes;
}

/** A window as it is written in a YAML or JSON file. */
export const readWindow = (text: string): Written<Window> => readWritten(text, Window, checkWindow);

/** `2026-12-24` and `2026-12-24 18:00` in one form, which sorts. */
export function normalMoment(moment: string): string {
  const [date = '', time = '00:00:00'] = moment.split(/[T ]/);
  return `${date}T${time.length === 5 ? `${time}:00` : time}`;
}

function isZone(zone: string): boolean {
  // Offsets are valid for Intl and are not what a window means: they know no daylight-saving time.
  if (!/^[A-Za-z]/.test(zone)) return false;
  try {
    new Intl.DateTimeFormat('en', { timeZone: zone });
    return true;
  } catch {
    return false;
  }
}

function isDate(date: string): boolean {
  const parsed = new Date(`${date}T00:00:00Z`);
  return !Number.isNaN(parsed.getTime()) && parsed.toISOString().startsWith(date);
}
