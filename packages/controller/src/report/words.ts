/** Words and numbers that every form of a report writes alike. Times are UTC: a report is read anywhere. */
import { kindOf, type Plan } from '@kwfleet/core';

/** `2026-11-25 18:57:03 UTC`. */
export const time = (atMs: number | undefined): string =>
  atMs === undefined ? '-' : `${new Date(atMs).toISOString().slice(0, 19).replace('T', ' ')} UTC`;

/** `18:57:03`: where the day is clear. */
export const clock = (atMs: number): string => new Date(atMs).toISOString().slice(11, 19);

/** `0.4 s`, `12 s`, `4 min 05 s`, `2 h 07 min`, `3 d 4 h`. */
export function lasted(fromMs: number | undefined, toMs: number | undefined): string {
  if (fromMs === undefined || toMs === undefined) return '-';
  const ms = Math.max(0, toMs - fromMs);
  if (ms < 10_000) return `${(ms / 1000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1000);
  const two = (n: number) => String(n).padStart(2, '0');
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3_600) return `${Math.floor(seconds / 60)} min ${two(seconds % 60)} s`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3_600)} h ${two(Math.floor(seconds / 60) % 60)} min`;
  return `${Math.floor(seconds / 86_400)} d ${Math.floor(seconds / 3_600) % 24} h`;
}

/** The columns of what clients saw. */
export const CLIENTS_HEAD = [
  'Told by',
  'Requests',
  'Acknowledged writes',
  'Needed another try',
  'Failed',
  'Acknowledged and lost',
  'Longest stall',
];

/** `Upgrade of prod-east to 3.1.0`. */
export function titleOf(plan: Plan, clusterName: string): string {
  const kind = kindOf(plan);
  const name = `${kind.charAt(0).toUpperCase()}${kind.slice(1)} of ${clusterName}`;
  return kind === 'upgrade' ? `${name} to ${plan.to}` : name;
}

/** The versions that a node told last; one where all that it told are the same. */
export function versionWords(versions: Readonly<Record<string, string | undefined>>): string {
  const told = Object.entries(versions).filter((entry): entry is [string, string] => entry[1] !== undefined);
  const distinct = new Set(told.map(([, version]) => version.replace(/^V/, '')));
  if (distinct.size === 0) return 'not told';
  return distinct.size === 1
    ? String([...distinct][0])
    : told.map(([where, version]) => `${where} ${version}`).join(', ');
}
