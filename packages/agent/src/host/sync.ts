/** Trees of files that must survive a power cut. */
import { FleetError } from '@kwfleet/core';
import { runShort, wordsOf } from './run.ts';

const SYNC_TIMEOUT_MS = 10 * 60_000;

/**
 * All that was written below `directory` is on disk when this resolves. Without it a
 * power cut leaves names with nothing in them. Throws INSTALL_FAILED when the disk does not take it.
 */
export async function syncTree(directory: string): Promise<void> {
  const ended = await runShort('sync', ['-f', directory], { timeoutMs: SYNC_TIMEOUT_MS });
  if (ended.exitCode === 0) return;
  throw new FleetError('INSTALL_FAILED', `${directory} could not be written to disk`, { words: wordsOf(ended) });
}
