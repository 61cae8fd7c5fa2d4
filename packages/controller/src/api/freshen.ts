/** A plan is made of what is true now: the agents of its cluster are asked first. */
import { setTimeout as pause } from 'node:timers/promises';
import type { Database } from '../store/database.ts';
import { askForReports, someNodes } from '../store/nodes.ts';
import { readFleet } from './fleet.ts';

/** An agent asks its database several questions for a report. One that takes longer is planned on with what it said last. */
const PATIENCE_MS = 8_000;
const LOOK_EVERY_MS = 50;

/** Asks every connected agent of the cluster for a report, and waits until all have answered or patience is over. */
export async function freshen(database: Database, idOrName: string): Promise<void> {
  const before = (await readFleet(database)).cluster(idOrName).nodes;
  const asked = before.filter(({ connected }) => connected);
  if (asked.length === 0) return;
  const known = new Map(asked.map(({ node, report }) => [node, report.observedAtMs]));
  await askForReports(database, [...known.keys()]);
  for (let waitedMs = 0; waitedMs < PATIENCE_MS; waitedMs += LOOK_EVERY_MS) {
    await pause(LOOK_EVERY_MS);
    const now = await someNodes(database, [...known.keys()]);
    if (now.every(({ node, connected, report }) => !connected || known.get(node) !== report.observedAtMs)) return;
  }
}
