import { compareVersions, parseVersion } from '@kwfleet/core';

export const OLD = '3.0.0';
export const NEW = '3.1.0';

const ranks = new Map<string, number>();

function rankOf(version: string): number {
  const known = ranks.get(version);
  if (known !== undefined) return known;
  const rank = compareVersions(parseVersion(version), parseVersion(OLD));
  ranks.set(version, rank);
  return rank;
}

/** Orders the two releases of a simulated world; parsed once, since this is asked at every start. */
export const compareReleases = (a: string, b: string): number => rankOf(a) - rankOf(b);
