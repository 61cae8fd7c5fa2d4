/** What goes wrong, when and how often: drawn from the seed. Each seed has a few kinds of trouble, at rates of its own (swarm testing). */
import type { Random } from './random.ts';

/** Troubles that come by themselves; the value is the mean time between two, 0 for never. */
const TIMED = {
  agentCrash: [8_000, 90_000],
  agentAway: [8_000, 80_000],
  agentRestart: [20_000, 120_000],
  hostCrash: [40_000, 300_000],
  controllerCrash: [10_000, 120_000],
  controllerFreeze: [15_000, 120_000],
  storeDown: [20_000, 120_000],
  linkCut: [10_000, 120_000],
  databaseCrash: [30_000, 300_000],
  clockJump: [20_000, 200_000],
  diskFull: [20_000, 200_000],
  commandKilled: [5_000, 40_000],
  job: [30_000, 200_000],
  operatorPresses: [8_000, 80_000],
  agentFreeze: [15_000, 120_000],
} as const;

/** Troubles of a single act; the value is the chance. */
const CHANCES = {
  /** A process dies around one effect of its own. */
  processCrash: [0.0005, 0.01],
  messageLost: [0.002, 0.05],
  messageDoubled: [0.01, 0.3],
  messageLate: [0.01, 0.2],
  answerLost: [0.002, 0.03],
  fetchFails: [0.1, 0.5],
  backupDiskFull: [0.02, 0.3],
  restoreFails: [0.05, 0.4],
  drainFails: [0.1, 0.6],
  stopHangs: [0.05, 0.4],
  installFails: [0.05, 0.6],
  installHangs: [0.05, 0.3],
  binaryStays: [0.05, 0.4],
  startCrashes: [0.05, 0.5],
  neverReady: [0.05, 0.3],
  startsOld: [0.05, 0.4],
  flaps: [0.1, 0.6],
  healsSlowly: [0.2, 1],
  reportLate: [0.1, 0.5],
  /** The link dies under an order that takes a node down, and lives again long after. */
  orderStranded: [0.1, 0.6],
} as const;

export type TimedFault = keyof typeof TIMED;
export type ChanceFault = keyof typeof CHANCES;

export type FaultPlan = {
  readonly untilMs: number;
  readonly timed: Readonly<Record<TimedFault, number>>;
  readonly chances: Readonly<Record<ChanceFault, number>>;
};

const within = (random: Random, [low, high]: readonly [number, number]): number => low + random.float() * (high - low);

function draw<K extends string>(random: Random, table: Readonly<Record<K, readonly [number, number]>>, share: number) {
  return Object.fromEntries(
    Object.entries<readonly [number, number]>(table).map(([kind, range]) => [
      kind,
      random.chance(share) ? within(random, range) : 0,
    ]),
  ) as Record<K, number>;
}

/**
 * One seed in ten has no trouble at all; in the others a kind is in with a chance that is itself drawn. Half of the
 * seeds have two that come by themselves as often as they ever do: much needs two at the right moment.
 */
export function drawFaults(random: Random): FaultPlan {
  const share = random.chance(0.1) ? 0 : 0.06 + random.float() * 0.3;
  const timed = draw(random, TIMED, share);
  if (share > 0 && random.chance(0.5)) {
    const kinds = Object.keys(TIMED) as TimedFault[];
    for (let pair = 0; pair < 2; pair++) {
      const kind = random.pick(kinds);
      timed[kind] = TIMED[kind][0] * 2;
    }
  }
  return { untilMs: random.int(20_000, 320_000), timed, chances: draw(random, CHANCES, share) };
}

/** The faults of one run as it goes: they stop when their time is over. */
export class Faults {
  readonly plan: FaultPlan;
  readonly #random: Random;
  active = true;

  constructor(plan: FaultPlan, random: Random) {
    this.plan = plan;
    this.#random = random;
  }

  /** Whether this trouble comes now. */
  strikes(fault: ChanceFault): boolean {
    return this.active && this.#random.chance(this.plan.chances[fault]);
  }
}

export function describeFaults({ untilMs, timed, chances }: FaultPlan): string {
  const kinds = [
    ...Object.entries(timed).map(([kind, ms]) => [kind, ms > 0 ? `every ${(ms / 1000).toFixed(0)} s` : '']),
    ...Object.entries(chances).map(([kind, chance]) => [kind, chance > 0 ? `${(chance * 100).toFixed(1)} %` : '']),
  ].filter(([, how]) => how !== '');
  const list = kinds.map(([kind, how]) => `${kind} ${how}`).join(', ');
  return `${list === '' ? 'none' : list}; until ${(untilMs / 1000).toFixed(0)} s`;
}
