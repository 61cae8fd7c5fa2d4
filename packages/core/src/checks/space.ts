/** Whether what an upgrade writes fits on the host's disks, from the sizes that package and host tell. */
import type { PackageInfo } from '../action.ts';
import { block, pass } from '../check-result.ts';
import type { NodeFacts } from '../facts.ts';
import type { CheckResult } from '../plan.ts';

const MIB = 1024 * 1024;
/** Logs, journals and what others write meanwhile. */
const MARGIN_BYTES = 256 * MIB;
/** The database must be able to write when it is back: it catches up, compacts and may rewrite what it stores. */
const DATA_GROWTH_BYTES = 512 * MIB;
/** How much larger files are than what they come in, where it does not tell: packages within the package are compressed. */
const UNPACK_FACTOR: Readonly<Record<PackageInfo['kind'], number>> = {
  bare: 3,
  // A tree lies there as it is; of what is built, sources and objects take more room than what comes of them.
  tree: 1,
  build: 3,
  // Images are unpacked where the container engine keeps them, and the files of the host stay as they are.
  container: 0,
  'image-archive': 0,
  image: 0,
};

/** When a check is asked: as a plan is made, or once the package lies on the host. */
export type Stage = 'planned' | 'fetched';

/**
 * - In the agent's directory: the package as it is fetched, the same unpacked, and the installed version, which is kept
 *   until the run ends.
 * - Where KWDB is installed: the new files beside the old ones, as package managers exchange them.
 * - Where its data lies: room to go on writing.
 *
 * What lies on one disk is added up.
 */
export function checkSpace(
  { node, report: { host } }: Pick<NodeFacts, 'node' | 'report'>,
  pkg: PackageInfo,
  stage: Stage = 'planned',
): CheckResult[] {
  const { freeBytes, surroundings } = host;
  const unpacked = pkg.installedBytes ?? UNPACK_FACTOR[pkg.kind] * pkg.unpackedBytes;
  const kept = surroundings?.installedBytes ?? unpacked;
  const needs: Needs = {
    agent: (stage === 'planned' ? pkg.sizeBytes + pkg.unpackedBytes : 0) + kept + MARGIN_BYTES,
    install: unpacked + MARGIN_BYTES,
    data: DATA_GROWTH_BYTES,
  };
  const disks = Map.groupBy(PLACES, (place) => surroundings?.disks[place] ?? place);
  const short = [...disks.values()].flatMap((places) => {
    const need = places.reduce((sum, place) => sum + needs[place], 0);
    const free = Math.min(...places.map((place) => freeBytes[place]));
    if (free >= need) return [];
    const where = places.map((place) => NAMES[place]).join(' and ');
    return [block('DISK_FULL', `${where}: ${mebibytes(free)} free, ${mebibytes(need)} are needed`, node)];
  });
  if (short.length > 0) return short;
  const all = PLACES.map((place) => `${NAMES[place]} ${mebibytes(needs[place])}`).join(', ');
  return [pass('DISK_FULL', `there is room for what is needed: ${all}`, node)];
}

type Place = keyof NodeFacts['report']['host']['freeBytes'];
type Needs = Readonly<Record<Place, number>>;

const PLACES: readonly Place[] = ['agent', 'install', 'data'];
const NAMES: Readonly<Record<Place, string>> = {
  agent: "the agent's state directory",
  install: 'the install directory',
  data: 'the data directory',
};

const mebibytes = (bytes: number): string => `${Math.ceil(bytes / MIB)} MiB`;
