import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  admit,
  checkWindow,
  DAYS,
  DEFAULT_STEP_TIMES,
  estimateMs,
  knownDurationMs,
  nextFit,
  type OpeningRule,
  openSpans,
  shown,
  type Window,
  windowsOf,
} from '../src/index.ts';
import { planFor } from './builders.ts';

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
const ZONES = ['Europe/Berlin', 'America/New_York', 'Australia/Lord_Howe', 'Asia/Shanghai', 'Africa/Casablanca'];
const [YEARS_FROM, YEARS_TO] = [Date.UTC(2020, 0, 1), Date.UTC(2030, 0, 1)];

/** What the clocks of a zone show, as if it were UTC; by Intl alone, so that nothing is asked of what is tested. */
function clocksOf(zone: string): (ms: number) => number {
  const format = new Intl.DateTimeFormat('en-US', {
    timeZone: zone,
    calendar: 'iso8601',
    hourCycle: 'h23',
    year: 'numeric',
    month: 'numeric',
    day: 'numeric',
    hour: 'numeric',
    minute: 'numeric',
    second: 'numeric',
  });
  return (ms) => {
    const parts = Object.fromEntries(format.formatToParts(ms).map(({ type, value }) => [type, Number(value)]));
    const { year = 0, month = 1, day = 1, hour = 0, minute = 0, second = 0 } = parts;
    return Date.UTC(year, month - 1, day, hour, minute, second);
  };
}

/** Every moment within the years at which the clocks of the zone are changed. */
function changesOf(zone: string): number[] {
  const clock = clocksOf(zone);
  const offset = (ms: number) => clock(ms) - ms;
  const changes: number[] = [];
  for (let day = YEARS_FROM; day < YEARS_TO; day += DAY) {
    if (offset(day) === offset(day + DAY)) continue;
    let [before, after] = [day, day + DAY];
    while (after - before > MINUTE) {
      const middle = before + Math.floor((after - before) / (2 * MINUTE)) * MINUTE;
      if (offset(middle) === offset(before)) before = middle;
      else after = middle;
    }
    changes.push(after);
  }
  return changes;
}

const window = (zone: string, open: OpeningRule[], more: Partial<Window> = {}): Window => ({
  name: 'w',
  zone,
  open,
  ...more,
});
const utc = (text: string): number => Date.parse(`${text}Z`);
const twoDigits = (n: number) => String(n).padStart(2, '0');

/** Whether the rule is open when its clocks have shown this at most: the stated rule, written the other way round. */
function isOpenBy({ weekly, at, for: duration }: OpeningRule, highestShown: number): boolean {
  const [hour = 0, minute = 0] = at.split(':').map(Number);
  const midnight = Math.floor(highestShown / DAY) * DAY;
  return [0, 1, 2].some((daysBefore) => {
    const date = midnight - daysBefore * DAY;
    // 1970-01-01 was a Thursday, and DAYS begin with Monday.
    const day = DAYS[(Math.floor(date / DAY) + 3) % 7];
    if (!weekly?.some((wanted) => wanted === day)) return false;
    const start = date + hour * HOUR + minute * MINUTE;
    return start <= highestShown && highestShown < start + knownDurationMs(duration);
  });
}

const ruleArbitrary = fc
  .record({
    weekly: fc.subarray([...DAYS], { minLength: 1 }),
    // Mostly the small hours: that is when clocks are changed.
    hour: fc.oneof(fc.integer({ min: 0, max: 4 }), fc.integer({ min: 0, max: 23 })),
    minute: fc.integer({ min: 0, max: 59 }),
    minutes: fc.oneof(fc.integer({ min: 1, max: 180 }), fc.integer({ min: 1, max: 36 * 60 })),
  })
  .map(
    ({ weekly, hour, minute, minutes }): OpeningRule => ({
      weekly,
      at: `${twoDigits(hour)}:${twoDigits(minute)}`,
      for: `${minutes}m`,
    }),
  );

describe.each(ZONES)('windows in %s', (zone) => {
  const clock = clocksOf(zone);
  const changes = changesOf(zone);
  // Where the clocks are never changed, ordinary days must be right all the same.
  const moments = changes.length > 0 ? changes : [utc('2026-03-29T01:00'), utc('2030-10-27T01:00')];

  it('are tested against the changes of ten years', () => {
    // Casablanca goes by Ramadan, and by what its government announces: newer zone data may know fewer.
    if (zone === 'Africa/Casablanca') expect(changes.length).toBeGreaterThan(10);
    else expect(changes.length).toBe(zone === 'Asia/Shanghai' ? 0 : 20);
  });

  it('are open exactly when the stated rule says so, minute by minute, around every change', () => {
    for (const change of moments) {
      const [from, until] = [change - 26 * HOUR, change + 26 * HOUR];
      const highest: number[] = [];
      let high = 0;
      for (let at = from - 6 * HOUR; at < until; at += MINUTE) {
        high = Math.max(high, clock(at));
        if (at >= from) highest.push(high);
      }
      fc.assert(
        fc.property(ruleArbitrary, (rule) => {
          const spans = openSpans([window(zone, [rule])], from, until);
          highest.forEach((shownHighest, i) => {
            const at = from + i * MINUTE;
            const open = spans.some(({ startMs, endMs }) => startMs <= at && at < endMs);
            if (open !== isOpenBy(rule, shownHighest)) {
              throw new Error(`${JSON.stringify(rule)} at ${new Date(at).toISOString()}: ${open}`);
            }
          });
        }),
        { numRuns: 8 },
      );
    }
  });

  it('admit only what fits, and say the first moment at which it does', () => {
    const arbitrary = fc.tuple(
      fc.array(ruleArbitrary, { minLength: 1, maxLength: 3 }),
      fc.integer({ min: -2 * 24 * 60, max: 2 * 24 * 60 }),
      fc.integer({ min: 1, max: 600 }),
      fc.constantFrom(...moments),
      fc.integer({ min: -6, max: 6 }),
    );
    fc.assert(
      fc.property(arbitrary, ([rules, offsetMinutes, needMinutes, change, freezeDay]) => {
        const nowMs = change + offsetMinutes * MINUTE;
        const needMs = needMinutes * MINUTE;
        const date = (ms: number) => new Date(ms).toISOString().slice(0, 10);
        const freezes = [{ from: date(change + freezeDay * DAY), until: date(change + (freezeDay + 2) * DAY) }];
        const windows = [window(zone, rules, { freezes })];
        const frozenAt = (at: number) =>
          freezes.some(({ from, until }) => {
            const local = new Date(clock(at)).toISOString();
            return local >= from && local < until;
          });
        const spans = openSpans(windows, nowMs, nowMs + 40 * DAY);
        const fits = (at: number) =>
          spans.some(({ startMs, endMs }) => startMs <= at && at < endMs && endMs - at >= needMs);
        const admission = admit(windows, nowMs, needMs);
        expect(admission.go).toBe(fits(nowMs));
        if (admission.go) {
          for (let at = nowMs; at < nowMs + needMs; at += 7 * MINUTE) expect(frozenAt(at)).toBe(false);
          return;
        }
        const { untilMs } = admission.wait;
        expect(untilMs).toBe(nextFit(windows, nowMs, needMs));
        if (untilMs === undefined) return;
        expect(untilMs > nowMs + 39 * DAY || fits(untilMs)).toBe(true);
        let tooLate: number | undefined;
        for (let at = nowMs; at < untilMs; at += 13 * MINUTE) if (fits(at)) tooLate = at;
        expect(tooLate).toBeUndefined();
      }),
      { numRuns: 100 },
    );
  });
});

describe('a window on the days of a change in Berlin', () => {
  const spring = '2026-03-29';
  const autumn = '2026-10-25';
  const span = (date: string, at: string, duration: string) => {
    const rule: OpeningRule = { dates: [date], at, for: duration };
    return openSpans([window('Europe/Berlin', [rule])], utc(`${date}T00:00`) - DAY, utc(`${date}T00:00`) + 2 * DAY).map(
      ({ startMs, endMs }) => [
        new Date(startMs).toISOString().slice(11, 16),
        new Date(endMs).toISOString().slice(11, 16),
      ],
    );
  };

  it('02:30-04:00 in spring is open from the jump, 03:00, to 04:00', () => {
    expect(span(spring, '02:30', '90m')).toEqual([['01:00', '02:00']]);
  });
  it('that lies in the hour that is left out does not open', () => {
    expect(span(spring, '02:10', '40m')).toEqual([]);
  });
  it('that ends in the hour that is left out closes at the jump', () => {
    expect(span(spring, '01:00', '90m')).toEqual([['00:00', '01:00']]);
  });
  it('02:30-04:00 in autumn opens the first time the clocks show 02:30', () => {
    expect(span(autumn, '02:30', '90m')).toEqual([['00:30', '03:00']]);
  });
  it('01:00-02:30 in autumn closes the first time the clocks show 02:30, and does not open again', () => {
    expect(span(autumn, '01:00', '90m')).toEqual([['23:00', '00:30']]);
  });
  it('from 22:00 for six hours ends at 04:00 by the clocks, whatever they did in between', () => {
    expect(span('2026-03-28', '22:00', '6h')).toEqual([['21:00', '02:00']]);
    expect(span('2026-10-24', '22:00', '6h')).toEqual([['20:00', '03:00']]);
  });
});

describe('rules of the calendar', () => {
  const days = (open: OpeningRule[], from: string, until: string) =>
    openSpans([window('UTC', open)], utc(from), utc(until)).map(({ startMs }) =>
      new Date(startMs).toISOString().slice(0, 10),
    );
  const at = { at: '01:00', for: '1h' };

  it('open on days of the month, on the last, and on the nth weekday', () => {
    expect(days([{ monthly: [31, 'last'], ...at }], '2026-01-01', '2026-03-01')).toEqual(['2026-01-31', '2026-02-28']);
    expect(days([{ monthly: ['first sun', 'third wed', 'last fri'], ...at }], '2026-11-01', '2026-12-01')).toEqual([
      '2026-11-01',
      '2026-11-18',
      '2026-11-27',
    ]);
  });

  it('are joined where they touch, so that what is longer than one of them fits', () => {
    const open: OpeningRule[] = [
      { weekly: ['sat'], at: '20:00', for: '4h' },
      { weekly: ['sun'], at: '00:00', for: '6h' },
    ];
    expect(openSpans([window('UTC', open)], utc('2026-11-28'), utc('2026-11-30'))).toEqual([
      { startMs: utc('2026-11-28T20:00'), endMs: utc('2026-11-29T06:00') },
    ]);
  });

  it('give way to a freeze of any of the windows', () => {
    const open: OpeningRule[] = [{ weekly: [...DAYS], at: '00:00', for: '1d' }];
    const freeze = window('UTC', [], {
      freezes: [{ from: '2026-12-20', until: '2027-01-04 06:00', reason: 'holidays' }],
    });
    const both = [window('UTC', open), freeze];
    const during = admit(both, utc('2026-12-24T12:00'), HOUR);
    expect(during).toMatchObject({ go: false, wait: { code: 'WINDOW_FROZEN', untilMs: utc('2027-01-04T06:00') } });
    expect(during.go || during.wait.message).toContain('holidays');
    expect(admit(both, utc('2026-12-19T22:00'), 2 * HOUR)).toEqual({ go: true, closesAtMs: utc('2026-12-20T00:00') });
    expect(admit(both, utc('2026-12-19T22:01'), 2 * HOUR)).toMatchObject({ go: false });
  });

  it('say when nothing will ever fit, and when nothing opens', () => {
    const night = window('Europe/Berlin', [{ weekly: ['sun'], at: '02:00', for: '2h' }]);
    expect(admit([night], utc('2026-11-25'), 4 * HOUR)).toMatchObject({ go: false, wait: { code: 'WINDOW_NEVER' } });
    // Two hours by the clocks are three on the night in autumn in which one of them comes twice.
    expect(admit([night], utc('2026-11-25'), 3 * HOUR)).toMatchObject({ wait: { untilMs: utc('2027-10-31T00:00') } });
    expect(admit([night], utc('2026-11-25'), HOUR)).toMatchObject({
      wait: { code: 'WINDOW_CLOSED', message: 'its window is closed; next is 2026-11-29 02:00 Europe/Berlin' },
    });
    expect(admit([], utc('2026-11-25'), 0)).toMatchObject({ go: false, wait: { code: 'WINDOW_NEVER' } });
    expect(shown(utc('2026-11-25T00:00:05'), 'Asia/Shanghai')).toBe('2026-11-25 08:00:05 Asia/Shanghai');
  });

  it('hold for the clusters that they select', () => {
    const cluster = {
      id: 'c',
      name: 'sales',
      labels: { site: 'north' },
      versions: ['3.0.0'],
      methods: ['script-bare'],
    };
    const north = window('UTC', [], { clusters: { labels: { site: ['north', 'south'] } } });
    const old = window('UTC', [], { clusters: { versions: ['<3.0.0'] } });
    const all = window('UTC', []);
    expect(windowsOf([north, old, all], cluster)).toEqual([north, all]);
  });
});

describe('mistakes in a window', () => {
  it.each([
    [{ zone: 'Europe/Nowhere' }, ['zone']],
    [{ zone: '+02:00' }, ['zone']],
    [{ open: [{ at: '01:00', for: '1h' }] }, ['open', 0]],
    [{ open: [{ weekly: ['mon'], dates: ['2026-01-01'], at: '01:00', for: '1h' }] }, ['open', 0]],
    [{ open: [{ weekly: ['mon'], at: '01:00', for: '8d' }] }, ['open', 0, 'for']],
    [{ open: [{ dates: ['2026-02-29'], at: '01:00', for: '1h' }] }, ['open', 0, 'dates', 0]],
    [{ freezes: [{ from: '2026-02-30', until: '2026-03-01' }] }, ['freezes', 0, 'from']],
    [{ freezes: [{ from: '2026-03-01', until: '2026-03-01 00:00' }] }, ['freezes', 0, 'until']],
  ] as [Partial<Window>, (string | number)[]][])('%j', (change, path) => {
    const mistakes = checkWindow({ ...window('UTC', [{ weekly: ['mon'], at: '01:00', for: '1h' }]), ...change });
    expect(mistakes.map((mistake) => mistake.path)).toEqual([path]);
  });
});

describe('the estimate of a plan', () => {
  it('is the longest way through its steps, what each witness sits out in it', () => {
    const times = { ...DEFAULT_STEP_TIMES, fetch: 1000, gate: 10, upgrade: 100, witness: 1 };
    const rolling = planFor('multi-replica', 3);
    const oneNode = 10 + 100 + 1 + rolling.options.sampleGapMs + rolling.options.soakMs;
    expect(estimateMs(rolling, times)).toBe(1000 + 3 * oneNode);
    expect(estimateMs(rolling, times, rolling.steps.slice(-3))).toBe(oneNode);
  });

  it('counts rounds of installs where not all may install at once', () => {
    const times = { ...DEFAULT_STEP_TIMES, fetch: 0, gate: 0, stop: 10, install: 100, start: 1, verify: 5 };
    const plan = planFor('single-replica', 5);
    const within = (concurrency: number) => estimateMs({ ...plan, options: { ...plan.options, concurrency } }, times);
    expect(within(8)).toBe(116);
    expect(within(2)).toBe(316);
  });
});
