/** Reads what people type: durations, backups, numbers. Each says what it wants when it gets something else. */
import { type Backup, durationMs } from '@kwfleet/core';
import { InvalidArgumentError } from 'commander';

/** `500ms`, `30s`, `5m`, `1.5h`, `2d`, in milliseconds. */
export function parseDuration(text: string): number {
  const ms = durationMs(text);
  if (ms === undefined) throw new InvalidArgumentError('Write a duration like 500ms, 30s, 5m or 2h.');
  return ms;
}

/** A moment, in milliseconds: `2026-12-01T22:00`, by the clock of this machine, or with a zone: `2026-12-01T22:00+01:00`. */
export function parseMoment(text: string): number {
  const shape = /^\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2})?(Z|[+-]\d{2}:\d{2})?$/;
  const ms = shape.test(text.trim()) ? Date.parse(text.trim().replace(' ', 'T')) : Number.NaN;
  if (Number.isNaN(ms))
    throw new InvalidArgumentError('Write a moment like 2026-12-01T22:00 or 2026-12-01T22:00+01:00.');
  return ms;
}

/** `copy`, `command`, `attested:WHERE` or `none:REASON`. */
export function parseBackup(text: string): Backup {
  if (text === 'copy' || text === 'command') return { policy: text };
  const at = text.indexOf(':');
  const [policy, rest] = [text.slice(0, at), text.slice(at + 1).trim()];
  if (policy === 'attested' && rest !== '') return { policy, where: rest };
  if (policy === 'none' && rest !== '') return { policy, reason: rest };
  throw new InvalidArgumentError(
    'Write copy, command, attested:WHERE the backup lies, or none:REASON why there is none.',
  );
}

/** A backup as `parseBackup` reads it. */
export function writeBackup(backup: Backup): string {
  if (backup.policy === 'none') return `none:${backup.reason}`;
  return backup.policy === 'attested' ? `attested:${backup.where}` : backup.policy;
}

/** A moment that is past: as `parseMoment` reads it, or how long ago it was (`2h`). */
export function parsePast(text: string): number {
  const agoMs = durationMs(text);
  return agoMs === undefined ? parseMoment(text) : Date.now() - agoMs;
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
