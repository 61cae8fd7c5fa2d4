/** A plan is made of what is true now: the agents of its cluster are asked first. */
import { setTimeout as pause } from 'node:timers/promises';
import { isVersion, type NodeFacts, sameVersion, takesPackage } from '@kwfleet/core';
import { IMAGES_ASKED_MAX } from '@kwfleet/protocol';
import type { Database } from '../store/database.ts';
import { askForReports, someNodes } from '../store/nodes.ts';
import { allPackages } from '../store/packages.ts';
import { readFleet } from './fleet.ts';

/** An agent asks its database several questions for a report. One that takes longer is planned on with what it said last. */
const PATIENCE_MS = 8_000;
/** Where it asks a registry of images too. */
const PATIENCE_WITH_IMAGES_MS = 15_000;
const LOOK_EVERY_MS = 50;

/**
 * Asks every connected agent of the clusters (by id or name) for a report, and waits until all have answered or patience
 * is over. A cluster that is gone has nobody to ask. `to`: what is planned to be installed; hosts that run images then tell whether they can have it.
 */
export async function freshen(database: Database, clusters: readonly string[], to?: string): Promise<void> {
  const fleet = await readFleet(database);
  const before = clusters.flatMap((idOrName) => fleet.nodesOf(idOrName));
  const asked = before.filter(({ connected }) => connected);
  if (asked.length === 0) return;
  const known = new Map(asked.map(({ node, report }) => [node, report.observedAtMs]));
  const [pulling, others] = [asked.filter(pullsImages), asked.filter((facts) => !pullsImages(facts))];
  const images = pulling.length === 0 ? [] : await imagesOf(database, to);
  await askForReports(database, namesOf(others), []);
  await askForReports(database, namesOf(pulling), images);
  const answered = ({ node, connected, report }: NodeFacts) =>
    !connected ||
    (known.get(node) !== report.observedAtMs && (others.some((one) => one.node === node) || tellsOf(report, images)));
  const untilMs = Date.now() + (images.length === 0 ? PATIENCE_MS : PATIENCE_WITH_IMAGES_MS);
  while (Date.now() < untilMs) {
    // Reading much is not done often.
    await pause(LOOK_EVERY_MS * Math.min(10, clusters.length));
    if ((await someNodes(database, [...known.keys()])).every(answered)) return;
  }
}

const namesOf = (nodes: readonly NodeFacts[]): string[] => nodes.map(({ node }) => node);

const pullsImages = ({ report: { installation } }: NodeFacts): boolean =>
  installation !== undefined && takesPackage(installation.method, 'image');

/** The packages of this version that are images; who signed them is the agents' question. */
async function imagesOf(database: Database, to: string | undefined): Promise<string[]> {
  if (to === undefined || !isVersion(to)) return [];
  return (await allPackages(database))
    .filter(({ kind, version }) => kind === 'image' && sameVersion(version, to))
    .map(({ sha256 }) => sha256)
    .slice(0, IMAGES_ASKED_MAX);
}

function tellsOf({ host }: NodeFacts['report'], images: readonly string[]): boolean {
  const told = new Set(host.surroundings?.images.map(({ digest }) => digest));
  return images.every((digest) => told.has(digest));
}
