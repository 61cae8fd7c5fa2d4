const UNIT_MS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** A duration as people write it: `500ms`, `30s`, `5m`, `1.5h`, `2d`. */
export const DURATION_PATTERN = '^\\d{1,9}(\\.\\d{1,3})?(ms|s|m|h|d)$';
const DURATION = new RegExp(DURATION_PATTERN);

/** In milliseconds, or undefined when it is not written like one. */
export function durationMs(text: string): number | undefined {
  const trimmed = text.trim();
  if (!DURATION.test(trimmed)) return undefined;
  const unit = /[a-z]+$/.exec(trimmed)?.[0] ?? '';
  return Math.round(Number(trimmed.slice(0, -unit.length)) * (UNIT_MS[unit] ?? Number.NaN));
}

/** The same of a text that was checked before; anything else is a bug. */
export function knownDurationMs(text: string): number {
  const ms = durationMs(text);
  if (ms === undefined) throw new Error(`"${text}" is no duration`);
  return ms;
}

/** A duration as `durationMs` reads it, in the largest unit that loses nothing. */
export function writeDuration(ms: number): string {
  const unit = ['d', 'h', 'm', 's'].find((name) => ms > 0 && ms % (UNIT_MS[name] ?? 1) === 0) ?? 'ms';
  return `${ms / (UNIT_MS[unit] ?? 1)}${unit}`;
}
