/** One run of the simulator: from a seed to what came of it. */
import type { Plan, Topology } from '@kwfleet/core';
import { describeEvidence } from './evidence.ts';
import { describeFaults } from './faults.ts';
import { Operator } from './operator.ts';
import type { Safeguard } from './safeguards.ts';
import { Simulation, type Violation } from './simulation.ts';
import { beginTroubles } from './troubles.ts';
import { assertDrains, BEGIN_MS } from './world.ts';

/** However it goes, a simulated world ends after this long. */
const WORLD_MAX_MS = 4 * 3_600_000;
const EVENTS_MAX = 400_000;

export type Wish = {
  readonly seed: number;
  readonly topology?: Topology | undefined;
  readonly without?: Safeguard | undefined;
};

export type Outcome = {
  readonly seed: number;
  readonly topology: Topology;
  /** Of the last run: `succeeded`, `held`, `aborted`, ... or `not planned`. */
  readonly status: string;
  readonly violations: readonly Violation[];
  readonly hash: number;
  readonly events: number;
  /** How long it took in the world's own time. */
  readonly tookMs: number;
  readonly plan: Plan | undefined;
  /** Both written on demand: they are long. */
  readonly faults: () => string;
  readonly trace: () => string[];
};

const TOPOLOGIES: readonly Topology[] = [
  'multi-replica',
  'multi-replica',
  'multi-replica',
  'single-replica',
  'single-replica',
  'standalone',
];

export function simulate({ seed, topology: wanted, without }: Wish): Outcome {
  assertDrains();
  const topology = wanted ?? (TOPOLOGIES[seed % TOPOLOGIES.length] as Topology);
  const sim = new Simulation(seed, topology, without);
  const { world, store, chronicle } = sim;
  const operator = new Operator(sim);
  beginTroubles(sim);
  let events = 0;
  while (!operator.done && world.nowMs - BEGIN_MS < WORLD_MAX_MS && events < EVENTS_MAX && world.step()) {
    events++;
    if (sim.violations.length > 0 && without !== undefined) break;
  }
  // What is cut off at its first violation is not judged by how it ends.
  if (operator.done || sim.violations.length === 0) chronicle.end();
  return {
    seed,
    topology,
    status: [...store.runs.values()].at(-1)?.state.status ?? `not planned: ${operator.blocked}`,
    violations: sim.violations,
    hash: world.hash >>> 0,
    events,
    tookMs: world.nowMs - BEGIN_MS,
    plan: operator.plan,
    faults: () => describeFaults(sim.faults.plan),
    trace: () =>
      chronicle.trace.map(
        ({ atMs, evidence }) => `${((atMs - BEGIN_MS) / 1000).toFixed(3).padStart(9)} ${describeEvidence(evidence)}`,
      ),
  };
}
