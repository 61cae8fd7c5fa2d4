/**
 * When windows are open, as spans of real time.
 *
 * A window is written in the time that clocks of its zone show, and means it. There is one rule for the days on which the
 * clocks are changed: **it opens at the first moment at which the clocks show its start, or something later, and closes at
 * the first moment at which they show its end, or something later.** So
 * - a start or end that the clocks jump over in spring counts as the moment of the jump. A window 02:30-04:00 in Berlin is
 *   open from 03:00 to 04:00 that day; one that lies in the jump as a whole does not open that day;
 * - a start or end that comes twice in autumn counts the first time;
 * - a window across a change is shorter or longer by the change, and begins and ends when its clocks say so.
 */
import { Temporal } from 'temporal-polyfill';
import { knownDurationMs } from '../duration.ts';
import { DAYS, type Freeze, normalMoment, OPEN_MAX_MS, type OpeningRule, WEEKS, type Window } from './window.ts';

/** From `startMs` on, and until before `endMs`. */
export type Span = { readonly startMs: number; readonly endMs: number };

const DAY_MS = 86_400_000;

/**
 * The spans that are open at some moment from `fromMs` until before `untilMs`, in order, apart from each other. What one of
 * the windows opens is open; what one of them freezes is not. A span may begin before `fromMs` and end after `untilMs`.
 */
export function openSpans(windows: readonly Window[], fromMs: number, untilMs: number): Span[] {
  return spansOfDays(windows, fromMs, untilMs).filter(({ startMs, endMs }) => endMs > fromMs && startMs < untilMs);
}

/** The first of `openSpans` that `suits`; asked at every decision of every run, so it looks at no more than it must. */
export function firstOpen(
  windows: readonly Window[],
  fromMs: number,
  untilMs: number,
  suits: (span: Span) => boolean = () => true,
): Span | undefined {
  const spans = spansOfDays(windows, fromMs, untilMs);
  for (let at = firstIndex(spans, ({ endMs }) => endMs > fromMs); at < spans.length; at++) {
    const span = spans[at] as Span;
    if (span.startMs >= untilMs) return undefined;
    if (suits(span)) return span;
  }
  return undefined;
}

/** Of spans in order, the first of which `isPast` is true, as it is of all after it; their number when it is of none. */
function firstIndex(spans: readonly Span[], isPast: (span: Span) => boolean): number {
  let [low, high] = [0, spans.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (isPast(spans[middle] as Span)) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** The freeze that is in force at a moment, where there is one. */
export function freezeAt(windows: readonly Window[], nowMs: number): { freeze: Freeze; window: Window } | undefined {
  for (const window of windows) {
    for (const freeze of window.freezes ?? []) {
      const { startMs, endMs } = freezeSpan(freeze, window.zone);
      if (startMs <= nowMs && nowMs < endMs) return { freeze, window };
    }
  }
  return undefined;
}

type Days = { readonly windows: readonly Window[]; readonly firstDay: number; readonly lastDay: number };

/** The same for a whole day: kept by the first window, for as long as it lives. */
const remembered = new WeakMap<Window, (Days & { readonly spans: readonly Span[] })[]>();
const REMEMBERED_MAX = 16;

/** The spans of the whole days around a time, and possibly more. */
function spansOfDays(windows: readonly Window[], fromMs: number, untilMs: number): readonly Span[] {
  const [firstDay, lastDay] = [Math.floor(fromMs / DAY_MS), Math.ceil(untilMs / DAY_MS)];
  const [first] = windows;
  if (first === undefined) return [];
  const known = remembered.get(first) ?? [];
  remembered.set(first, known);
  const before = known.find(
    (one) =>
      one.firstDay === firstDay &&
      one.lastDay === lastDay &&
      one.windows.length === windows.length &&
      one.windows.every((window, at) => window === windows[at]),
  );
  if (before !== undefined) return before.spans;
  const opened = windows.flatMap((window) =>
    window.open.flatMap((rule) => ruleSpans(window, rule, firstDay * DAY_MS, lastDay * DAY_MS)),
  );
  const spans = subtract(merge(opened), merge(windows.flatMap(freezeSpans)));
  if (known.length >= REMEMBERED_MAX) known.length = 0;
  known.push({ windows: [...windows], firstDay, lastDay, spans });
  return spans;
}

function ruleSpans({ zone }: Window, rule: OpeningRule, fromMs: number, untilMs: number): Span[] {
  const spans: Span[] = [];
  const forMs = knownDurationMs(rule.for);
  const first = dateIn(zone, fromMs - OPEN_MAX_MS - DAY_MS);
  const last = dateIn(zone, untilMs + DAY_MS);
  for (let date = first; Temporal.PlainDate.compare(date, last) <= 0; date = date.add({ days: 1 })) {
    if (!opensOn(rule, date)) continue;
    const start = date.toPlainDateTime(Temporal.PlainTime.from(rule.at));
    const span = { startMs: firstMs(start, zone), endMs: firstMs(start.add({ milliseconds: forMs }), zone) };
    if (span.endMs > span.startMs) spans.push(span);
  }
  return spans;
}

function opensOn({ weekly, monthly, dates }: OpeningRule, date: Temporal.PlainDate): boolean {
  const day = DAYS[date.dayOfWeek - 1];
  if (weekly !== undefined) return weekly.some((wanted) => wanted === day);
  if (dates !== undefined) return dates.includes(date.toString());
  return (monthly ?? []).some((wanted) => {
    if (typeof wanted === 'number') return wanted === date.day;
    if (wanted === 'last') return date.day === date.daysInMonth;
    const [week, weekday] = wanted.split(' ');
    if (weekday !== day) return false;
    return week === 'last' ? date.day + 7 > date.daysInMonth : week === WEEKS[Math.floor((date.day - 1) / 7)];
  });
}

const freezeSpans = ({ freezes = [], zone }: Window): Span[] => freezes.map((freeze) => freezeSpan(freeze, zone));

const freezeSpan = ({ from, until }: Freeze, zone: string): Span => ({
  startMs: firstMs(Temporal.PlainDateTime.from(normalMoment(from)), zone),
  endMs: firstMs(Temporal.PlainDateTime.from(normalMoment(until)), zone),
});

const dateIn = (zone: string, ms: number): Temporal.PlainDate =>
  Temporal.Instant.fromEpochMilliseconds(ms).toZonedDateTimeISO(zone).toPlainDate();

/** The first moment at which the clocks of the zone show this, or something later. */
function firstMs(shown: Temporal.PlainDateTime, zone: string): number {
  const moment = shown.toZonedDateTime(zone, { disambiguation: 'earlier' });
  if (moment.toPlainDateTime().equals(shown)) return moment.epochMilliseconds;
  // The clocks jump over it: `earlier` is a moment before the jump, and the jump is the next change.
  const jump = moment.getTimeZoneTransition('next');
  if (jump === null) throw new Error(`${zone} does not show ${shown.toString()} and has no change after it`);
  return jump.epochMilliseconds;
}

function merge(spans: readonly Span[]): Span[] {
  const merged: Span[] = [];
  for (const span of spans.toSorted((a, b) => a.startMs - b.startMs)) {
    const last = merged.at(-1);
    if (last === undefined || span.startMs > last.endMs) merged.push(span);
    else merged[merged.length - 1] = { startMs: last.startMs, endMs: Math.max(last.endMs, span.endMs) };
  }
  return merged;
}

/** Of `spans` what no span of `cuts` covers; both in order and apart. */
function subtract(spans: readonly Span[], cuts: readonly Span[]): Span[] {
  return spans.flatMap((span) => {
    const left: Span[] = [];
    let { startMs } = span;
    for (const cut of cuts) {
      if (cut.endMs <= startMs || cut.startMs >= span.endMs) continue;
      if (cut.startMs > startMs) left.push({ startMs, endMs: cut.startMs });
      startMs = cut.endMs;
    }
    if (startMs < span.endMs) left.push({ startMs, endMs: span.endMs });
    return left;
  });
}
