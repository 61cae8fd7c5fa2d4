/** May something that takes so long begin now? If not, why, and when may it? */
import { Temporal } from 'temporal-polyfill';
import { writeDuration } from '../duration.ts';
import { type Selectable, selects } from '../selector.ts';
import { firstOpen, freezeAt, type Span } from './spans.ts';
import type { Window } from './window.ts';

const DAY_MS = 86_400_000;
/** How far the next opening is looked for, in steps that grow: most windows open within days. */
const LOOK_AHEAD_DAYS = [8, 40, 800] as const;
/** A window that stays open longer than this is said to stay open for this. */
const OPEN_AHEAD_MS = 15 * DAY_MS;

export type Wait = {
  readonly code: 'WINDOW_CLOSED' | 'WINDOW_FROZEN' | 'WINDOW_TOO_SHORT' | 'WINDOW_NEVER';
  /** Why, and until when, by the clocks of the window's zone. */
  readonly message: string;
  /** Absent when it will never come true as the windows are. */
  readonly untilMs?: number;
};

export type Admission =
  | { readonly go: true; readonly closesAtMs: number }
  | { readonly go: false; readonly wait: Wait };

/** Of these windows, those about this cluster. */
export const windowsOf = (windows: readonly Window[], cluster: Selectable): Window[] =>
  windows.filter((window) => window.clusters === undefined || selects(window.clusters, cluster));

/**
 * Whether work of `needMs` may begin at `nowMs`: one of the windows is open, none is frozen, and it stays so for that long.
 * Without any window the answer is no: whoever needs none does not ask.
 */
export function admit(windows: readonly Window[], nowMs: number, needMs: number): Admission {
  const zone = windows.find(({ open }) => open.length > 0)?.zone ?? 'UTC';
  const now = firstOpen(windows, nowMs, nowMs + OPEN_AHEAD_MS);
  const isOpen = now !== undefined && now.startMs <= nowMs;
  if (isOpen && now.endMs - nowMs >= needMs) return { go: true, closesAtMs: now.endMs };
  const next = nextFit(windows, nowMs, needMs);
  const until = next === undefined ? {} : { untilMs: next };
  const then = next === undefined ? '' : `; next is ${shown(next, zone)}`;
  const frozen = freezeAt(windows, nowMs);
  if (next === undefined) {
    return { go: false, wait: { code: 'WINDOW_NEVER', message: neverMessage(windows, nowMs, needMs) } };
  }
  if (frozen !== undefined) {
    const { freeze, window } = frozen;
    const why = freeze.reason === undefined ? '' : ` (${freeze.reason})`;
    const message = `frozen until ${freeze.until} in ${window.zone}${why}${then}`;
    return { go: false, wait: { code: 'WINDOW_FROZEN', message, ...until } };
  }
  if (isOpen) {
    const message = `it needs about ${rounded(needMs)}, and the window closes in ${rounded(now.endMs - nowMs)}${then}`;
    return { go: false, wait: { code: 'WINDOW_TOO_SHORT', message, ...until } };
  }
  return { go: false, wait: { code: 'WINDOW_CLOSED', message: `its window is closed${then}`, ...until } };
}

/** The next moment from `nowMs` on at which work of `needMs` may begin; undefined when there is none within two years. */
export function nextFit(windows: readonly Window[], nowMs: number, needMs: number): number | undefined {
  for (const days of LOOK_AHEAD_DAYS) {
    const fits = ({ startMs, endMs }: Span) => endMs - Math.max(startMs, nowMs) >= needMs;
    const span = firstOpen(windows, nowMs, nowMs + days * DAY_MS, fits);
    if (span !== undefined) return Math.max(span.startMs, nowMs);
  }
  return undefined;
}

function neverMessage(windows: readonly Window[], nowMs: number, needMs: number): string {
  const names = windows.map(({ name }) => name).join(', ') || 'none';
  if (nextFit(windows, nowMs, 1) === undefined) return `no window opens within two years (windows: ${names})`;
  return `it needs about ${rounded(needMs)}, and no window stays open for so long (windows: ${names})`;
}

/** A moment as the clocks of a zone show it: `2026-11-28 22:00 Europe/Berlin`. */
export function shown(ms: number, zone: string): string {
  const at = Temporal.Instant.fromEpochMilliseconds(ms).toZonedDateTimeISO(zone).toPlainDateTime();
  const smallestUnit = at.second === 0 ? 'minute' : 'second';
  return `${at.toString({ smallestUnit }).replace('T', ' ')} ${zone}`;
}

/** As far as people care: `45s`, `75m`, `27h`. */
function rounded(ms: number): string {
  const unitMs = ms < 60_000 ? 1_000 : ms < 10 * 3_600_000 ? 60_000 : 3_600_000;
  return writeDuration(Math.max(1, Math.round(ms / unitMs)) * unitMs);
}
