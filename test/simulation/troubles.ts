/** Brings the troubles that come by themselves, until their time is over; then undoes what would not pass by itself. */
import type { TimedFault } from './faults.ts';
import type { Host } from './host.ts';
import type { Simulation } from './simulation.ts';

type Trouble = (sim: Simulation) => string | undefined;

const someHost = ({ world, hosts }: Simulation): Host => world.random.pick(hosts);

/** In one direction, or in both. */
export function cutLink(sim: Simulation, node: string, forMs: number): string {
  const { cut } = sim.wire(node);
  const how = sim.world.random.pick(['up', 'down', 'both'] as const);
  cut.up ||= how !== 'down';
  cut.down ||= how !== 'up';
  sim.world.after(forMs, () => {
    cut.up = false;
    cut.down = false;
  });
  return `the link of ${node} is cut (${how}) for ${forMs} ms`;
}

const TROUBLES: Readonly<Record<Exclude<TimedFault, 'operatorPresses'>, Trouble>> = {
  agentCrash(sim) {
    const agent = sim.agents.get(someHost(sim).node);
    if (agent?.life.alive !== true) return undefined;
    sim.crashAgent(agent);
    return `${agent.life.name} crashes`;
  },
  agentAway(sim) {
    const agent = sim.agents.get(someHost(sim).node);
    if (agent?.life.alive !== true) return undefined;
    const forMs = sim.world.random.int(30_000, 90_000);
    sim.crashAgent(agent, forMs);
    return `${agent.life.name} is gone for ${forMs} ms`;
  },
  agentRestart(sim) {
    const agent = sim.agents.get(someHost(sim).node);
    if (agent?.life.alive !== true || agent.executor === undefined) return undefined;
    void agent.executor.stop().then(() => sim.crashAgent(agent));
    return `${agent.life.name} is restarted`;
  },
  hostCrash(sim) {
    const host = someHost(sim);
    if (!host.up) return undefined;
    const downMs = sim.world.random.int(5_000, 60_000);
    sim.crashHost(host, downMs);
    return `${host.node} goes down for ${downMs} ms`;
  },
  controllerCrash(sim) {
    const controller = sim.someController();
    if (controller === undefined) return undefined;
    sim.crashController(controller);
    return `${controller.life.name} crashes`;
  },
  controllerFreeze(sim) {
    const controller = sim.someController();
    if (controller === undefined) return undefined;
    const forMs = sim.world.random.int(1_000, 60_000);
    controller.life.frozenUntilMs = sim.world.nowMs + forMs;
    // Another is started where this one seems dead; both live on.
    if (sim.controllers.length === 1) sim.world.after(sim.world.random.int(1_000, 15_000), () => sim.startController());
    return `${controller.life.name} freezes for ${forMs} ms`;
  },
  agentFreeze(sim) {
    const agent = sim.agents.get(someHost(sim).node);
    if (agent?.life.alive !== true) return undefined;
    const forMs = sim.world.random.int(1_000, 60_000);
    agent.life.frozenUntilMs = sim.world.nowMs + forMs;
    return `${agent.life.name} freezes for ${forMs} ms`;
  },
  storeDown(sim) {
    const forMs = sim.world.random.int(1_000, 40_000);
    sim.store.down = true;
    sim.world.after(forMs, () => {
      sim.store.down = false;
    });
    return `PostgreSQL is away for ${forMs} ms`;
  },
  linkCut(sim) {
    const { node } = someHost(sim);
    const forMs = sim.world.random.chance(0.7)
      ? sim.world.random.int(500, 20_000)
      : sim.world.random.int(20_000, 120_000);
    return cutLink(sim, node, forMs);
  },
  databaseCrash(sim) {
    const host = someHost(sim);
    if (host.process === null) return undefined;
    host.crash(host.process.pid, 'own');
    if (sim.world.random.chance(0.5)) sim.world.after(5_000, () => host.up && host.start('own'));
    return `the database of ${host.node} crashes`;
  },
  clockJump(sim) {
    const host = someHost(sim);
    const { random } = sim.world;
    const byMs = random.pick([-1, 1]) * (random.chance(0.7) ? random.int(500, 20_000) : random.int(20_000, 3_600_000));
    host.jumpClock(byMs);
    return `the clock of ${host.node} jumps by ${byMs} ms`;
  },
  diskFull(sim) {
    const host = someHost(sim);
    const forMs = sim.world.random.int(1_000, 60_000);
    host.disk.full = true;
    sim.world.after(forMs, () => {
      host.disk.full = false;
    });
    return `the disk of ${host.node} is full for ${forMs} ms`;
  },
  commandKilled(sim) {
    const host = sim.hosts.find(({ command }) => command !== null);
    if (host === undefined) return undefined;
    if (sim.world.random.chance(0.5)) host.command?.killAlone();
    else host.command?.kill();
    return `deploy.sh of ${host.node} is killed`;
  },
  job(sim) {
    const { nowMs, random } = sim.world;
    const job = { id: `job${nowMs}`, sinceMs: nowMs, untilMs: nowMs + random.int(5_000, 120_000) };
    sim.database.jobs.push(job);
    return `an import runs for ${job.untilMs - nowMs} ms`;
  },
};

export function beginTroubles(sim: Simulation): void {
  const { world, faults } = sim;
  for (const [kind, strike] of Object.entries(TROUBLES) as [keyof typeof TROUBLES, Trouble][]) {
    const meanMs = faults.plan.timed[kind];
    if (meanMs === 0) continue;
    const next = () => {
      if (!faults.active) return;
      const text = strike(sim);
      if (text !== undefined) world.tell({ type: 'fault', text });
      world.after(world.random.waitMs(text === undefined ? meanMs / 4 : meanMs), next);
    };
    world.after(world.random.waitMs(meanMs), next);
  }
  world.after(faults.plan.untilMs, () => endTroubles(sim));
}

/** From here on nothing new goes wrong; links heal, clocks keep, disks have room. What is broken on hosts stays broken. */
function endTroubles(sim: Simulation): void {
  sim.faults.active = false;
  sim.store.down = false;
  for (const host of sim.hosts) {
    host.disk.full = false;
    const { cut } = sim.wire(host.node);
    cut.up = false;
    cut.down = false;
  }
  sim.world.tell({ type: 'fault', text: 'no more troubles' });
}
