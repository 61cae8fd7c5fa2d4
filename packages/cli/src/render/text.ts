/** Text for terminals: widths, truncation, durations, times. Pure. */
import { stripVTControlCharacters } from 'node:util';
import sliceAnsi from 'slice-ansi';
import stringWidth from 'string-width';
import wrapAnsi from 'wrap-ansi';

/** Takes everything out of foreign text that could move the cursor or colour the screen. Of `a\rb`, `b` was visible. */
export function clean(text: string): string {
  return stripVTControlCharacters(text)
    .replace(/\r+(?=\n|$)/g, '')
    .replace(/[^\n]*\r/g, '')
    .replace(/\t/g, '  ')
    .replace(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, '');
}

/** As `clean`, on one line. */
export const oneLine = (text: string): string =>
  clean(text)
    .replace(/\s*\n\s*/g, ' ')
    .trim();

/** Cuts to a width in columns (a Chinese sign takes two), ending in `mark` where something was cut. */
export function truncate(text: string, width: number, mark = '…'): string {
  if (stringWidth(text) <= width) return text;
  const room = Math.max(0, width - stringWidth(mark));
  return width <= 0 ? '' : `${sliceAnsi(text, 0, room)}${mark}`;
}

/** Pads to a width in columns. */
export function pad(text: string, width: number): string {
  return text + ' '.repeat(Math.max(0, width - stringWidth(text)));
}

/** `left` and `right` at the two ends of a line; when both do not fit, `left` is cut. */
export function ends(left: string, right: string, width: number, mark = '…'): string {
  if (right === '') return truncate(left, width, mark);
  const room = width - stringWidth(right) - 2;
  if (room < 10) return truncate(left, width, mark);
  return `${pad(truncate(left, room, mark), room)}  ${right}`;
}

/** Wraps at words, each line with the same indent. */
export function wrap(text: string, width: number, indent: string): string[] {
  const room = Math.max(10, width - stringWidth(indent));
  return wrapAnsi(text, room, { hard: true })
    .split('\n')
    .map((line) => `${indent}${line}`);
}

/** `850ms`, `12s`, `4m 05s`, `2h 07m`, `3d 04h`. */
export function duration(ms: number): string {
  if (ms < 0) return '0s';
  if (ms > 0 && ms < 1000) return `${Math.round(ms)}ms`;
  const seconds = Math.floor(ms / 1000);
  const two = (n: number) => String(n).padStart(2, '0');
  if (seconds < 60) return `${seconds}s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m ${two(seconds % 60)}s`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)}h ${two(Math.floor(seconds / 60) % 60)}m`;
  return `${Math.floor(seconds / 86_400)}d ${two(Math.floor(seconds / 3600) % 24)}h`;
}

/** As `duration`, for a clock that ticks on the screen: never milliseconds. */
export const elapsed = (ms: number): string => duration(Math.max(0, Math.floor(ms / 1000) * 1000));

/** How a duration that a person chose is written back: `30s`, `1m 30s`, `5m`, `6h`. */
export function roundDuration(ms: number): string {
  return duration(ms).replace(/ 00[smh]$/, '');
}

/** Time of day in the terminal's own time zone: `22:41:07`. */
export function clock(ms: number): string {
  const at = new Date(ms);
  return [at.getHours(), at.getMinutes(), at.getSeconds()].map((n) => String(n).padStart(2, '0')).join(':');
}

/** Day and time in the terminal's own time zone: `2026-11-23 22:41`. */
export function dayTime(ms: number): string {
  const at = new Date(ms);
  const day = [at.getFullYear(), at.getMonth() + 1, at.getDate()].map((n) => String(n).padStart(2, '0')).join('-');
  return `${day} ${clock(ms).slice(0, 5)}`;
}

/** `1.2 GiB`. */
export function bytes(count: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let value = count;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`;
}

/** `1 node`, `3 nodes`. */
export const count = (n: number, one: string, many = `${one}s`): string => `${n} ${n === 1 ? one : many}`;
