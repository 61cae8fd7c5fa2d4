/** Where something is mounted, as this process sees it. */
import { readFile } from 'node:fs/promises';

/**
 * Every mount point. A directory of a disk can be mounted elsewhere on the same disk: no device number tells, and it can
 * neither be renamed nor, within what is renamed, be left behind.
 */
export async function mountPoints(): Promise<ReadonlySet<string>> {
  // None where there is no /proc: there only tests run.
  const text = await readFile('/proc/self/mountinfo', 'utf8').catch(() => '');
  return new Set(text.split('\n').flatMap((line) => line.split(' ')[4]?.replace(ESCAPED, unescaped) ?? []));
}

/** Spaces and the like, as three octal digits. */
const ESCAPED = /\\([0-7]{3})/g;
const unescaped = (_: string, digits: string): string => String.fromCharCode(Number.parseInt(digits, 8));
