/** The people whose agreement a policy asks for: some quick, some slow, one the requester, one with an older plan in hand. */
import { type Demand, hashPlan, type Plan, type RunApproval } from '@kwfleet/core';
import { Random } from './random.ts';
import type { Simulation } from './simulation.ts';
import type { Run } from './store.ts';

export const REQUESTER = 'operator';
const PEOPLE = [REQUESTER, 'ann', 'bo', 'cai'];
const LOOK_MS = 4_000;

/** Plans are never edited: each is hashed once. */
const hashes = new WeakMap<Plan, string>();

export function hashOf(plan: Plan): string {
  const hash = hashes.get(plan) ?? hashPlan(plan);
  hashes.set(plan, hash);
  return hash;
}

export class Approvers {
  readonly #sim: Simulation;
  readonly #random: Random;
  readonly demand: Demand;

  constructor(sim: Simulation, seed: number) {
    this.#sim = sim;
    // Dice of their own: who approves when does not change what else happens to a seed's world.
    this.#random = new Random(seed ^ 0x5eed);
    const requirement = (approvers: number) => ({
      policies: ['production'],
      approvers,
      requesterMayApprove: false,
      validForMs: this.#random.int(5, 30) * 60_000,
    });
    const start = this.#random.chance(0.4) ? requirement(this.#random.int(1, 2)) : undefined;
    const irreversible = this.#random.chance(0.3) ? requirement(1) : undefined;
    this.demand = { ...(start && { start }), ...(irreversible && { irreversible }) };
    if (start !== undefined || irreversible !== undefined) this.#look();
  }

  /** As the controller makes it for a new run. */
  approvalOf(plan: Plan): RunApproval | undefined {
    if (Object.keys(this.demand).length === 0) return undefined;
    const { nowMs } = this.#sim.world;
    return { hash: hashOf(plan), requester: REQUESTER, requestedAtMs: nowMs, ...this.demand, given: [] };
  }

  #look(): void {
    const run = this.#sim.store.activeRun;
    if (run !== undefined && this.#random.chance(0.6)) this.#say(run);
    this.#sim.world.after(LOOK_MS, () => this.#look());
  }

  #say({ id, plan, state }: Run): void {
    const scope = state.status === 'awaiting_approval' ? 'start' : 'irreversible';
    if (this.demand[scope] === undefined) return;
    const person = this.#random.pick(PEOPLE);
    const hash = this.#random.chance(0.8) ? hashOf(plan) : 'f'.repeat(64);
    this.#sim.store.approve(id, { scope, person, hash });
  }
}
