import { createHash } from 'node:crypto';
import canonicalize from 'canonicalize';
import type { RolloutFile } from './file.ts';
import type { WaveOf } from './waves.ts';

/**
 * SHA-256 over the canonical JSON of what is approved of a rollout: its file, which cluster goes in which wave, and the
 * hash of each cluster's plan. `plans` are by cluster; empty where none could be made.
 */
export function hashRollout(
  file: RolloutFile,
  waves: readonly WaveOf[],
  plans: Readonly<Record<string, string>>,
): string {
  const text = canonicalize({ file, waves, plans });
  if (text === undefined) throw new TypeError('a rollout must be plain JSON');
  return createHash('sha256').update(text).digest('hex');
}
