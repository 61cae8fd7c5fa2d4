/** The program behind `bin/backup-work.mjs`: does one piece of work and leaves its outcome in a file. */
import { open, readFile, rename } from 'node:fs/promises';
import { FleetError } from '@kwfleet/core';
import { check } from './check.ts';
import { isFull, makeCopy, prepare } from './cold-copy.ts';
import { discard, putBack, restore, stage } from './restore.ts';
import type { Outcome, Say, Work } from './spec.ts';

/** Runs the work of `specFile`, leaves the outcome in `outcomeFile`, and answers the exit status. */
export async function runWork(specFile: string, outcomeFile: string): Promise<number> {
  const say: Say = (line) => void process.stdout.write(`${line}\n`);
  const outcome = await outcomeOf(JSON.parse(await readFile(specFile, 'utf8')) as Work, say);
  const handle = await open(`${outcomeFile}.new`, 'w', 0o644);
  try {
    await handle.writeFile(JSON.stringify(outcome));
    await handle.sync();
  } finally {
    await handle.close();
  }
  await rename(`${outcomeFile}.new`, outcomeFile);
  return outcome.ok ? 0 : 1;
}

async function outcomeOf(work: Work, say: Say): Promise<Outcome> {
  try {
    switch (work.work) {
      case 'prepare':
        await prepare(work, say);
        return { ok: true };
      case 'copy':
        return { ok: true, receipt: await makeCopy(work, say, Date.now()) };
      case 'check':
        await check(work, say);
        return { ok: true };
      case 'stage':
        await stage(work, say);
        return { ok: true };
      case 'restore':
        await restore(work, say);
        return { ok: true };
      case 'put-back':
        await putBack({ ...work, work: 'put-back' }, say);
        return { ok: true };
      case 'discard':
        await discard({ ...work, work: 'discard' }, say);
        return { ok: true };
      default:
        return work satisfies never;
    }
  } catch (error) {
    say(error instanceof Error ? error.message : String(error));
    return { ok: false, ...failureOf(work, error) };
  }
}

function failureOf(work: Work, error: unknown): { code: string; message: string } {
  const message = error instanceof Error ? error.message : String(error);
  if (isFull(error)) return { code: 'DISK_FULL', message };
  if (error instanceof FleetError) return { code: error.code, message };
  const restoring =
    work.work === 'stage' || work.work === 'restore' || work.work === 'put-back' || work.work === 'discard';
  return { code: restoring ? 'RESTORE_FAILED' : 'BACKUP_FAILED', message };
}
