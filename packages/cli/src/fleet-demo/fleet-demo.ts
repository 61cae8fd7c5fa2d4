/**
 * `kwfleet demo --fleet`: a rollout over many clusters before your eyes: three waves, a window, two people who must agree, a
 * cluster whose installation fails and one that nobody reaches. What KWDB and hosts would be is light; controller,
 * database, streams and agents are real. At the end the hosts themselves tell whether it went as the file says.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { ROLLOUT_ENDED, type RolloutView } from '@kwfleet/core';
import color from 'picocolors';
import { allFree } from '../free-ports.ts';
import { rolloutPage } from '../render/rollout-page.ts';
import { theme } from '../render/theme.ts';
import { type Expectation, findFaults } from './account.ts';
import { Fleet, FROM, TO } from './fleet.ts';

export type FleetDemoOptions = {
  readonly clusters: number;
  /** End after the rollout instead of staying up. */
  readonly exit: boolean;
  readonly ports: readonly [number, number];
  readonly signal: AbortSignal;
  readonly say: (text: string) => void;
};

export type FleetDemoResult = {
  readonly view: RolloutView;
  /** What is not as the file says, by what the hosts wrote down. */
  readonly faults: readonly string[];
  readonly expected: Expectation;
  readonly events: Fleet['events'];
};

const LIMIT = 20;
const BUDGET = 2;
/** The window opens so long after it is made: long enough to see that nothing happens before. */
const OPENS_IN_MS = 12_000;
const PATIENCE_MS = 600_000;
const LOOK_MS = 500;
const SMALLEST = 6;

const file = (): string => `name: fleet-demo
to: ${TO}
select: {versions: ["<${TO}"]}
waves:
  - {name: canary, count: 1}
  - {name: early, select: {labels: {ring: early}}}
  - {name: rest}
limits: {clusters: ${LIMIT}, hosts: 60, per: {label: site, clusters: 12}}
soak: 2s
failures: {budget: ${BUDGET}, wave: continue}
approval: two-people
windows: [tonight]
backup: {policy: none, reason: this is a demo}
options: {soak: 0s, sampleGap: 200ms}
`;

/** From now on for six hours, by UTC, to the second. */
function windowFile(opensAtMs: number): string {
  const at = new Date(opensAtMs).toISOString();
  return `name: tonight\nzone: UTC\nopen:\n  - {dates: [${at.slice(0, 10)}], at: "${at.slice(11, 19)}", for: 6h}\n`;
}

const PORTS = [7080, 7090] as const;
const INTERRUPTED = 130;

/** The command: resolves with its exit code, 0 when all went as the file says. */
export async function fleetDemo(options: Pick<FleetDemoOptions, 'clusters' | 'exit' | 'signal'>): Promise<number> {
  const say = (text: string): void => void process.stdout.write(`${text}\n`);
  say(color.bold(`A rollout over ${Math.max(SMALLEST, options.clusters)} clusters, on this machine`));
  say(color.dim('Hosts and KWDB are played: each only remembers what is installed and runs. Everything else is real.'));
  const ports = (await allFree(PORTS)) ? PORTS : ([0, 0] as const);
  try {
    return exitCodeOf(await runFleetDemo({ ...options, ports, say }));
  } catch (error) {
    if (!options.signal.aborted) throw error;
    return INTERRUPTED;
  }
}

/** Runs the demo to the end of its rollout; rejects when it is interrupted, or does not end in time. */
export async function runFleetDemo(options: FleetDemoOptions): Promise<FleetDemoResult> {
  const { say, signal } = options;
  const count = Math.max(SMALLEST, options.clusters);
  const startedMs = Date.now();
  // Neither the canary nor of the same wave: what fails must not keep the others from being seen.
  const [failing, unreachable] = [count - 1, count - 2];
  const fleet = await Fleet.create({ clusters: count, failing, ports: options.ports });
  try {
    const until = async (what: string, look: () => Promise<boolean>): Promise<void> => {
      const deadlineMs = Date.now() + PATIENCE_MS;
      while (!(await look())) {
        signal.throwIfAborted();
        if (Date.now() > deadlineMs) throw new Error(`not within ${PATIENCE_MS / 1000} s: ${what}`);
        await sleep(LOOK_MS);
      }
    };
    await fleet.introduce(until);
    await fleet.addPackage(TO);
    const nodes = fleet.clusters.reduce((sum, { hosts }) => sum + hosts.length, 0);
    say(
      `up in ${seconds(Date.now() - startedMs)}: controller ${fleet.controller.restUrl}, ${count} clusters, ${nodes} nodes at ${FROM}, ${nodes} agents`,
    );
    const result = await walk(fleet, { failing, unreachable }, until, say);
    tell(result, say);
    say(`\nthe whole demo took ${seconds(Date.now() - startedMs)}`);
    if (!options.exit) await stayUp(fleet, signal, say);
    return result;
  } finally {
    await fleet.close();
  }
}

type Until = (what: string, look: () => Promise<boolean>) => Promise<void>;

async function walk(
  fleet: Fleet,
  { failing, unreachable }: { failing: number; unreachable: number },
  until: Until,
  say: (text: string) => void,
): Promise<FleetDemoResult> {
  const [lost, broken] = [fleet.clusters[unreachable], fleet.clusters[failing]];
  if (lost === undefined || broken === undefined) throw new Error('the fleet is too small');
  await fleet.cutOff(lost);
  say(`the agents of ${lost.options.name} fall silent; installations in ${broken.options.name} will fail`);
  await fleet.as().putPolicy('two-people', { approvers: 2, labels: { ring: 'nobody' } });
  const opensAtMs = Math.ceil((Date.now() + OPENS_IN_MS) / 1000) * 1000;
  await fleet.as().putWindow({ file: windowFile(opensAtMs) });
  say(`\n${color.bold('The file of the rollout')}\n${file().replaceAll(/^/gm, '  ')}`);
  const { id } = await fleet.as('ann').createRollout({ file: file() });
  const look = () => fleet.as().rollout(id);
  await until('it waits for people', async () => (await look()).status === 'awaiting_approval');
  for (const person of ['bo', 'cai'] as const) {
    const { hash = '' } = await look();
    await fleet.as(person).approveRollout(id, { hash });
    say(`${color.green('✔')} ${person} agrees to ${hash.slice(0, 12)}`);
  }
  const approvedAtMs = Date.now();
  let seen = 0;
  await until('the rollout ends', async () => {
    for (const { seq, message } of await fleet.as().rolloutEvents(id, seen)) {
      seen = seq;
      say(`  ${new Date().toISOString().slice(11, 19)}  ${message}`);
    }
    const { status, pause } = await look();
    // Nobody is here to resume it: more went wrong than the file allows for.
    if (pause !== undefined) throw new Error(`the rollout paused: ${pause.message}`);
    return ROLLOUT_ENDED.has(status);
  });
  const view = await look();
  const nameOf = (cluster: string) => view.clusters[cluster]?.name ?? cluster;
  const expected: Expectation = {
    waves: view.waves.map(({ name, clusters }) => ({ name, clusters: clusters.map(nameOf) })),
    clusters: new Map(
      fleet.clusters.map(({ options, hosts }) => [options.name, { nodes: hosts.length, topology: options.topology }]),
    ),
    notBeforeMs: Math.max(opensAtMs, approvedAtMs),
    target: TO,
    failing: broken.options.name,
    unreachable: lost.options.name,
    limit: LIMIT,
  };
  return { view, faults: findFaults(fleet.events, expected), expected, events: fleet.events };
}

function tell({ view, faults, events, expected }: FleetDemoResult, say: (text: string) => void): void {
  say('');
  for (const line of rolloutPage(view, { width: 110, theme: theme({ unicode: true, color: color.isColorSupported }) }))
    say(line);
  say(`\n${color.bold('What the hosts wrote down themselves')}`);
  for (const { name, clusters } of expected.waves) {
    const own = events.filter(({ cluster }) => clusters.includes(cluster));
    const [first, last] = [own[0], own.at(-1)];
    const at = (ms: number | undefined) => (ms === undefined ? '-' : new Date(ms).toISOString().slice(11, 23));
    const ups = own.filter(({ event, version }) => event === 'up' && version === TO).length;
    say(
      `  ${name.padEnd(8)} ${String(clusters.length).padStart(3)} clusters, first down ${at(first?.atMs)}, last up ${at(last?.atMs)}, ${ups} nodes at ${TO}`,
    );
  }
  if (faults.length === 0) {
    say(
      color.green(
        '  in order: waves one after the other, nothing before window and approvals, every cluster by its own procedure',
      ),
    );
  }
  for (const fault of faults) say(color.red(`  ${fault}`));
}

/** 0 when it went as its file says: all but the two are there, and the two are named. */
export function exitCodeOf({ view, faults, expected }: FleetDemoResult): number {
  const bad = Object.values(view.clusters).filter(({ status }) => status === 'failed' || status === 'held');
  const names = bad.map(({ name }) => name).sort();
  const asSaid = names.join() === [expected.failing, expected.unreachable].sort().join();
  return faults.length === 0 && view.status === 'incomplete' && asSaid ? 0 : 1;
}

async function stayUp(fleet: Fleet, signal: AbortSignal, say: (text: string) => void): Promise<void> {
  const server =
    fleet.controller.restUrl === 'http://127.0.0.1:7080' ? '' : `KWFLEET_SERVER=${fleet.controller.restUrl} `;
  say(`\nIt stays up. In another terminal:\n  ${server}npx kwfleet rollouts\n  ${server}npx kwfleet clusters`);
  say('Ctrl-C ends the demo and removes all of it.');
  await sleep(2 ** 31 - 1, undefined, { signal }).catch(() => {});
}

const seconds = (ms: number): string => `${(ms / 1000).toFixed(1)} s`;
