/** A plan is made of what is true now: the agents of its cluster are asked first. */
import { setTimeout as pause } from 'node:timers/promises';
import type { Database } from '../store/database.ts';
import { askForReports, someNodes } from '../store/nodes.ts';
import { readFleet } from './fleet.ts';

/** An agent asks its database several questions for a report. One that takes longer is planned on with what it said last. */
const PATIENCE_MS = 8_000;
const LOOK_EVERY_MS = 50;

/** Asks every connected agent of the clusters for a report, and waits until all have answered or patience is over. */
export async function freshen(database: Database, ...idsOrNames: readonly string[]): Promise<void> {
  const fleet = await readFleet(database);
  const before = idsOrNames.flatMap((idOrName) => fleet.cluster(idOrName).nodes);
  const asked = before.filter(({ connected }) => connected);
  if (asked.length === 0) return;
  const known = new Map(asked.map(({ node, report }) => [node, report.observedAtMs]));
  await askForReports(database, [...known.keys()]);
  const untilMs = Date.now() + PATIENCE_MS;
  while (Date.now() < untilMs) {
    // Reading much is not done often.
    await pause(LOOK_EVERY_MS * Math.min(10, idsOrNames.length));
    const now = await someNodes(database, [...known.keys()]);
    if (now.every(({ node, connected, report }) => !connected || known.get(node) !== report.observedAtMs)) return;
  }
}
