/** The person at the console: plans, starts, presses at random while there are troubles, and sensibly when they are over. */
import {
  type BackupSet,
  deriveClusters,
  ENDED,
  kindOf,
  legalChoices,
  makePlan,
  makeWholePlan,
  type PackageInfo,
  type Plan,
} from '@kwfleet/core';
import { NEW, OLD } from './releases.ts';
import type { Simulation } from './simulation.ts';
import type { Run } from './store.ts';

const LOOK_MS = 3_000;
/** What a plan is blocked by may also pass with time alone: a report that is late, an answer that is too old. */
const PLAN_AGAIN_MS = 10_000;
const RETRIES = 4;

const packageOf = (version: string, digit: string): PackageInfo => ({
  sha256: digit.repeat(64),
  fileName: `KWDB-${version}.tar.gz`,
  sizeBytes: 1_000_000,
  unpackedBytes: 2_000_000,
  version,
  kind: 'bare',
  architecture: 'amd64',
  family: 'deb',
});

export class Operator {
  readonly #sim: Simulation;
  readonly #options: Parameters<typeof makePlan>[0]['options'];
  readonly #packages: PackageInfo[];
  readonly #mends: boolean;
  /** Aborts what is held, even while there are troubles, and plans again at once. */
  readonly #impatient: boolean;
  readonly #runsWanted: number;
  /** Once the upgrade succeeded, goes back to the version before and its copies. */
  readonly #goesBack: boolean;
  readonly #replaced: 'keep' | 'remove';
  #retriesLeft = RETRIES;
  #heldSinceMs: number | undefined;
  /** Since when all agents are connected. */
  #backSinceMs: number | undefined;
  plan: Plan | undefined;
  /** Why no plan could be made, when none could. */
  blocked = '';
  /** When it was last tried in vain, and the edition of the facts it was tried on. */
  #triedAtMs = Number.NEGATIVE_INFINITY;
  #triedOn = -1;
  /** Nothing is left to be done or waited for. */
  done = false;

  constructor(sim: Simulation) {
    const { random } = sim.world;
    this.#sim = sim;
    const idleMs = random.int(40_000, 120_000);
    const route = sim.database.topology === 'multi-replica' && random.chance(0.3) ? 'online' : 'offline';
    this.#options = {
      backup: route === 'offline' && random.chance(0.5) ? { policy: 'copy' } : { policy: 'attested', where: 'vault' },
      route,
      soakMs: random.int(30_000, 40_000),
      sampleGapMs: random.int(1_000, 6_000),
      concurrency: random.int(1, 3),
      deadline: { idleMs, ceilingMs: idleMs * random.int(2, 4) },
    };
    this.#packages = [packageOf(NEW, 'a'), ...(random.chance(0.8) ? [packageOf(OLD, 'b')] : [])];
    this.#mends = random.chance(0.7);
    this.#impatient = random.chance(0.5);
    this.#runsWanted = this.#impatient || random.chance(0.2) ? 3 : 1;
    this.#goesBack = sim.database.topology !== 'multi-replica' && this.#packages.length > 1 && random.chance(0.6);
    this.#replaced = random.pick(['keep', 'remove'] as const);
    this.#look();
    const pressEveryMs = sim.faults.plan.timed.operatorPresses;
    if (pressEveryMs > 0) this.#pressAtRandom(pressEveryMs);
  }

  /** Longer than the run may go without news before it counts as hung. */
  get patienceMs(): number {
    const { ceilingMs = 0, idleMs = 0 } = this.#options.deadline ?? {};
    return 2 * (ceilingMs + idleMs) + 400_000;
  }

  #look(): void {
    const { world } = this.#sim;
    this.#act();
    if (!this.done) world.after(this.#impatient ? LOOK_MS / 3 : LOOK_MS, () => this.#look());
  }

  #act(): void {
    const { store, faults, world } = this.#sim;
    const run = store.activeRun;
    if (run === undefined) {
      this.#plan();
      return;
    }
    // A run that waits for its window does not hang; the world's own end bounds it.
    if (run.state.status === 'scheduled') return;
    if (faults.active) {
      this.#lookInTrouble(run);
      return;
    }
    if (this.#mends) this.#mend();
    if (run.state.status === 'paused') {
      store.request(run.id, 'resume');
      return;
    }
    if (run.state.status === 'held') {
      this.#answerHold(run);
      return;
    }
    this.#heldSinceMs = undefined;
    this.done = world.nowMs - run.movedAtMs > this.patienceMs;
  }

  #lookInTrouble(run: Run): void {
    const { store, world } = this.#sim;
    if (!this.#impatient || run.state.status !== 'held' || !world.random.chance(0.7)) return;
    world.tell({ type: 'person', text: `aborts ${run.id}` });
    store.request(run.id, 'abort');
  }

  /** Waits a while; retries a few times; then leaves it: a run that is held is a legal end, when its reason is true. */
  #answerHold(run: Run): void {
    const { store, world } = this.#sim;
    this.#heldSinceMs ??= world.nowMs;
    if (world.nowMs - this.#heldSinceMs < 20_000) return;
    if (legalChoices(run.state).includes('retry') && this.#retriesLeft > 0) {
      this.#retriesLeft--;
      this.#heldSinceMs = undefined;
      world.tell({ type: 'person', text: `retries ${run.id}` });
      store.request(run.id, 'retry');
      return;
    }
    const back = this.#sim.hosts.every(({ node }) => this.#sim.agents.get(node)?.connected === true);
    this.#backSinceMs = back ? (this.#backSinceMs ?? world.nowMs) : undefined;
    const stillMs = world.nowMs - Math.max(this.#heldSinceMs, this.#backSinceMs ?? world.nowMs);
    // What has just come in may end the hold.
    const news = run.inputs.some(({ seq }) => seq > run.appliedSeq);
    this.done = !news && (stillMs > 60_000 || world.nowMs - this.#heldSinceMs > 600_000);
  }

  #plan(): void {
    const { store, world, faults, guard, hosts } = this.#sim;
    const runs = [...store.runs.values()];
    const last = runs.at(-1);
    const copies = last === undefined ? undefined : this.#copiesOf(last);
    if (
      copies === undefined &&
      last !== undefined &&
      (last.state.status === 'succeeded' || runs.length >= this.#runsWanted)
    ) {
      this.done = true;
      return;
    }
    // The same facts, so soon, make the same plan.
    if (store.nodesEdition === this.#triedOn && world.nowMs - this.#triedAtMs < PLAN_AGAIN_MS) return;
    this.#triedOn = store.nodesEdition;
    this.#triedAtMs = world.nowMs;
    const nodes = store.allNodes();
    const [cluster] = deriveClusters(nodes);
    if (cluster === undefined || nodes.length < hosts.length) return;
    const wish = { cluster, packages: this.#packages, options: this.#options, nowMs: world.nowMs };
    const draft =
      copies === undefined
        ? makePlan({ ...wish, to: NEW })
        : makeWholePlan({ ...wish, to: OLD, kind: 'downgrade', source: { set: copies, replaced: this.#replaced } });
    if (draft.plan === undefined || draft.blocked) {
      this.blocked =
        draft.checks.find(({ verdict }) => verdict === 'block' || verdict === 'unknown')?.message ?? 'no plan';
      if (!faults.active && this.#mends) {
        for (const host of hosts) host.setClock();
        this.#mend();
      }
      this.done = !faults.active && world.nowMs - world.beganMs > faults.plan.untilMs + 200_000;
      return;
    }
    this.plan = guard.plan(draft.plan);
    store.createRun(this.plan, guard.approval(this.#sim.approvers.approvalOf(this.plan)), this.#sim.windows.timing);
  }

  /** The copies of an upgrade that succeeded, where this person goes back to them once. */
  #copiesOf({ id, plan, state }: Run): BackupSet | undefined {
    if (!this.#goesBack || state.status !== 'succeeded' || kindOf(plan) !== 'upgrade') return undefined;
    const parts = plan.nodes.flatMap(({ node, kwdbId }) => {
      const step = plan.topology === 'standalone' ? `upgrade:${node}` : `back-up:${node}`;
      const backup = state.steps[step]?.result?.backup;
      return backup === undefined ? [] : [{ node, kwdbId, ...backup }];
    });
    // What was copied of a cluster of two versions brings back neither.
    if (parts.length < plan.nodes.length || parts.some(({ version }) => version !== OLD)) return undefined;
    return { id, cluster: plan.cluster, policy: 'copy', version: OLD, oneMoment: true, nodes: parts.length, parts };
  }

  #pressAtRandom(everyMs: number): void {
    const { world, store, faults } = this.#sim;
    world.after(world.random.waitMs(everyMs), () => {
      if (!faults.active || this.done) return;
      const run = store.activeRun;
      if (run !== undefined && !ENDED.has(run.state.status)) {
        const request = world.random.pick(['pause', 'resume', 'retry', 'retry', 'resume', 'abort'] as const);
        world.tell({ type: 'person', text: `presses ${request}` });
        store.request(run.id, request);
      }
      this.#pressAtRandom(everyMs);
    });
  }

  /** What a remedy says: starts what fell by itself. */
  #mend(): void {
    const { hosts, world, chronicle, database } = this.#sim;
    for (const host of hosts) {
      if (!host.up || host.process !== null || database.topology === 'single-replica') continue;
      const { packages } = host;
      const whole = !packages.half && packages.recorded === packages.binary && packages.binary === packages.package;
      const busy = this.#sim.agents.get(host.node)?.executor?.busy === true || host.command !== null;
      if (!whole || busy || chronicle.hosts.get(host.node)?.downSinceMs === undefined) continue;
      world.tell({ type: 'person', text: `starts the database of ${host.node}` });
      host.start('person');
    }
  }
}
