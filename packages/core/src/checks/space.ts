/** Whether what an upgrade writes fits on the host's disks, from the sizes that package and host tell. */
import type { PackageInfo } from '../action.ts';
import { block, pass } from '../check-result.ts';
import type { NodeFacts, Surroundings } from '../facts.ts';
import type { CheckResult } from '../plan.ts';

const MIB = 1024 * 1024;
/** Logs, journals and what others write meanwhile. */
const MARGIN_BYTES = 256 * MIB;
/** The database must be able to write when it is back: it catches up, compacts and may rewrite what it stores. */
const DATA_GROWTH_BYTES = 512 * MIB;
/** How much larger files are than what they come in, where it does not tell: packages within the package are compressed. */
const UNPACK_FACTOR: Readonly<Partial<Record<PackageInfo['kind'], number>>> = {
  bare: 3,
  // A tree lies there as it is; of what is built, sources and objects take more room than what comes of them.
  tree: 1,
  build: 3,
};

/** When a check is asked: as a plan is made, or once the package lies on the host. */
export type Stage = 'planned' | 'fetched';

/**
 * - In the agent's directory: the package as it is fetched, the same unpacked, and the installed version, which is kept
 *   until the run ends.
 * - Where KWDB is installed: the new files beside the old ones, as package managers exchange them.
 * - Where its data lies: room to go on writing.
 *
 * Where KWDB runs in containers, it is installed where the engine keeps its images: see `imageNeeds`.
 *
 * What lies on one disk is added up.
 */
export function checkSpace(
  { node, report: { host } }: Pick<NodeFacts, 'node' | 'report'>,
  pkg: PackageInfo,
  stage: Stage = 'planned',
): CheckResult[] {
  const { freeBytes, surroundings } = host;
  const { agent, install } = isImage(pkg) ? imageNeeds(pkg, surroundings, stage) : fileNeeds(pkg, surroundings);
  const fetched = stage === 'planned' ? pkg.sizeBytes + pkg.unpackedBytes : 0;
  const needs: Needs = {
    agent: fetched + agent + MARGIN_BYTES,
    install: install + MARGIN_BYTES,
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

const isImage = ({ kind }: PackageInfo): boolean =>
  kind === 'container' || kind === 'image-archive' || kind === 'image';

function fileNeeds(pkg: PackageInfo, surroundings: Surroundings | undefined): Pick<Needs, 'agent' | 'install'> {
  const unpacked = pkg.installedBytes ?? (UNPACK_FACTOR[pkg.kind] ?? 1) * pkg.unpackedBytes;
  return { agent: surroundings?.installedBytes ?? unpacked, install: unpacked };
}

/**
 * An engine that loads or pulls an image writes what it gets to a file of its own first, and the layers beside. Images are
 * brought before the node goes down; deploy.sh then loads the one of its package once more, and the engine finds that it
 * has its layers. The image from before stays where it is. One that a registry has is taken to be as large as the one that runs.
 */
function imageNeeds(
  pkg: PackageInfo,
  surroundings: Surroundings | undefined,
  stage: Stage,
): Pick<Needs, 'agent' | 'install'> {
  const size = pkg.installedBytes ?? Math.max(pkg.sizeBytes, surroundings?.installedBytes ?? 0);
  const isThere = surroundings?.images.some(({ digest, state }) => digest === pkg.sha256 && state === 'present');
  const copies = isThere === true ? 0 : stage === 'planned' ? 2 : pkg.kind === 'container' ? 1 : 0;
  return { agent: 0, install: copies * size };
}

type Place = keyof NodeFacts['report']['host']['freeBytes'];
type Needs = Readonly<Record<Place, number>>;

const PLACES: readonly Place[] = ['agent', 'install', 'data'];
const NAMES: Readonly<Record<Place, string>> = {
  agent: "the agent's state directory",
  install: 'where KWDB is installed',
  data: 'the data directory',
};

const mebibytes = (bytes: number): string => `${Math.ceil(bytes / MIB)} MiB`;
