/** Processes as Linux's /proc tells of them. */
import { readdirSync, readFileSync } from 'node:fs';

export type ProcessStat = {
  /** One letter; Z is dead, and its parent has not taken note. */
  readonly state: string;
  readonly group: number;
  readonly session: number;
  /** When it was started, in ticks since the boot: with its number it is this process and no later one. */
  readonly startTicks: string;
};

/** Null when there is no such process. */
export function processStat(pid: number): ProcessStat | null {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/stat`, 'utf8');
  } catch {
    return null;
  }
  // The name in parentheses may hold spaces and parentheses: the fields start after the last one.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  return {
    state: fields[0] ?? '',
    group: Number(fields[2]),
    session: Number(fields[3]),
    startTicks: fields[19] ?? '',
  };
}

export const isLiving = ({ state }: ProcessStat): boolean => state !== 'Z' && state !== 'X';

/** The numbers of the processes that live and are so. */
export function livingProcesses(are: (stat: ProcessStat) => boolean): number[] {
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  return pids.map(Number).filter((pid) => {
    const stat = processStat(pid);
    return stat !== null && isLiving(stat) && are(stat);
  });
}
