import { randomBytes } from 'node:crypto';

/** `run-20261123-064028-7f3a9c`: sorts by time, can be read out over the telephone, holds no slash. */
export function newId(kind: string, nowMs: number = Date.now()): string {
  const [date, time] = new Date(nowMs).toISOString().split(/[T.]/);
  return `${kind}-${date?.replaceAll('-', '')}-${time?.replaceAll(':', '')}-${randomBytes(3).toString('hex')}`;
}
