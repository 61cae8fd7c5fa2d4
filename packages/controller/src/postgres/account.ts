/** PostgreSQL refuses to run as root: which account it runs under, and whether that account can reach a path. */
import { readFileSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { FleetError } from '@kwfleet/core';

export type Account = { readonly name: string; readonly uid: number; readonly gid: number };

const CANDIDATES = ['postgres', 'nobody'];

/** The account to switch to, or undefined when this process is not root and PostgreSQL simply runs as it. */
export function postgresAccount(): Account | undefined {
  if (process.getuid?.() !== 0) return undefined;
  const lines = readFileSync('/etc/passwd', 'utf8').split('\n');
  for (const wanted of CANDIDATES) {
    const [name, , uid, gid] = lines.find((line) => line.startsWith(`${wanted}:`))?.split(':') ?? [];
    if (name !== undefined && Number(uid) > 0) return { name, uid: Number(uid), gid: Number(gid) };
  }
  throw new FleetError('UNAVAILABLE', `PostgreSQL cannot run as root, and there is no user ${CANDIDATES.join(' or ')}`);
}

/** The first parent of `path` that the account cannot pass through, or undefined when it reaches the path. */
export function blockedBy(path: string, account: Account | undefined): string | undefined {
  if (account === undefined) return undefined;
  const parents: string[] = [];
  for (let parent = dirname(path); ; parent = dirname(parent)) {
    parents.push(parent);
    if (parent === dirname(parent)) break;
  }
  return parents.reverse().find((parent) => !mayTraverse(parent, account));
}

function mayTraverse(directory: string, account: Account): boolean {
  const { uid, gid, mode } = statSync(directory);
  if (uid === account.uid) return (mode & 0o100) !== 0;
  if (gid === account.gid) return (mode & 0o010) !== 0;
  return (mode & 0o001) !== 0;
}
