/** Reads what people type: durations, backups, numbers. Each says what it wants when it gets something else. */
import type { Backup } from '@kwfleet/core';
import { InvalidArgumentError } from 'commander';

const UNIT_MS: Record<string, number> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** `500ms`, `30s`, `5m`, `1.5h`, `2d`, in milliseconds. */
export function parseDuration(text: string): number {
  const match = /^(\d{1,9}(?:\.\d{1,3})?)(ms|s|m|h|d)$/.exec(text.trim());
  const unit = UNIT_MS[match?.[2] ?? ''];
  if (match === null || unit === undefined)
    throw new InvalidArgumentError('Write a duration like 500ms, 30s, 5m or 2h.');
  return Math.round(Number(match[1]) * unit);
}

/** A duration as `parseDuration` reads it, in the largest unit that loses nothing. */
export function writeDuration(ms: number): string {
  const unit = ['d', 'h', 'm', 's'].find((name) => ms > 0 && ms % (UNIT_MS[name] ?? 1) === 0) ?? 'ms';
  return `${ms / (UNIT_MS[unit] ?? 1)}${unit}`;
}

/** `attested:WHERE` or `none:REASON`. */
export function parseBackup(text: string): Backup {
  const at = text.indexOf(':');
  const [policy, rest] = [text.slice(0, at), text.slice(at + 1).trim()];
  if (policy === 'attested' && rest !== '') return { policy, where: rest };
  if (policy === 'none' && rest !== '') return { policy, reason: rest };
  throw new InvalidArgumentError('Write attested:WHERE the backup lies, or none:REASON why there is none.');
}

/** `key=value`. */
export function parseLabel(text: string): [string, string] {
  const match = /^([A-Za-z0-9][A-Za-z0-9._/-]{0,62})=(.{0,200})$/.exec(text);
  if (match?.[1] === undefined) throw new InvalidArgumentError('Write a label like environment=production.');
  return [match[1], match[2] ?? ''];
}

/** A whole number from 1 on. */
export function parseCount(text: string): number {
  if (!/^[1-9]\d{0,8}$/.test(text)) throw new InvalidArgumentError('Write a whole number from 1 on.');
  return Number(text);
}

/** An argument as a POSIX shell takes it. */
export const shellQuote = (text: string): string =>
  /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
