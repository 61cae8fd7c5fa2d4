/**
 * `kwfleet demo`: a cluster of stand-in nodes, their agents and a controller on this machine, and one upgrade before
 * your eyes. It runs the very commands a person would type, and lets the nodes and a client tell what happened.
 */
import { spawn } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Topology } from '@kwfleet/core';
import color from 'picocolors';
// The stand-ins are part of the checkout, not of an installation; this module is loaded by the demo alone.
import { Playground } from '../../../test/e2e/playground.ts';
import type { RecordLine } from '../../../test/standin/rig.ts';
import { startWorkload, type Workload, type WorkloadCounts } from '../../../test/standin/workload.ts';
import { allFree } from './free-ports.ts';

export type DemoOptions = {
  readonly topology: Topology;
  /** How many nodes; by default three, or one when standalone. */
  readonly nodes?: number | undefined;
  /** End after the upgrade instead of staying up. */
  readonly exit: boolean;
};

const FROM = '3.0.0';
const TO = '3.1.0';
const PORTS = [7080, 7090] as const;
/** Liveness far shorter than KWDB's 30 s, so that the demo is quick; still long enough to be stale after a restart. */
const KNOBS = { heartbeatMs: 500, livenessMs: 3_000, catchUpMs: 1_000, readyDelayMs: 500 };

const INTERRUPTED = 130;

const say = (text = ''): void => void process.stdout.write(`${text}\n`);
const seconds = (ms: number): string => `${(ms / 1000).toFixed(1)} s`;

/** Runs the demo; resolves with the exit code of the upgrade, or 1 when something is not as it must be. */
export async function demo({ topology, nodes, exit }: DemoOptions): Promise<number> {
  const startedMs = Date.now();
  const count = nodes ?? (topology === 'standalone' ? 1 : 3);
  say(color.bold(`A ${topology} cluster of ${count} stand-in KWDB node${count > 1 ? 's' : ''}, on this machine`));
  say(color.dim('KWDB itself is not here: the nodes are stand-ins that behave like it. Everything else is real.'));
  const ended = endOnSignal();
  const ports = (await allFree(PORTS)) ? PORTS : undefined;
  const playground = await Playground.create({ topology, nodes: count, knobs: KNOBS, ...(ports ? { ports } : {}) });
  try {
    ended.throwIfAborted();
    await Promise.all([playground.addPackage({ version: FROM }), playground.addPackage({ version: TO })]);
    say(
      color.yellow(
        'EVALUATION: the controller signed these packages with a key made on the spot; see docs/packages.md',
      ),
    );
    const [cluster] = await playground.client.clusters();
    if (cluster === undefined) throw new Error('the controller shows no cluster');
    say(
      `up in ${seconds(Date.now() - startedMs)}: controller ${playground.url}, ${count} agents, ${count} nodes at ${FROM}\n`,
    );
    const workload = topology === 'multi-replica' ? clients(playground) : undefined;
    const code = await upgrade(playground, cluster.name);
    ended.throwIfAborted();
    const honest = await tell(playground, workload);
    say(`\nthe whole demo took ${seconds(Date.now() - startedMs)}`);
    if (!exit) await stayUp(playground, ended);
    return code === 0 && !honest ? 1 : code;
  } catch (error) {
    if (!ended.aborted) throw error;
    return INTERRUPTED;
  } finally {
    await playground.close();
  }
}

/** From before anything is started: a demo that is interrupted takes all that it started with it. */
function endOnSignal(): AbortSignal {
  const ended = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.once(signal, () => ended.abort());
  return ended.signal;
}

function clients(playground: Playground): Workload {
  const addresses = playground.rig.nodes.map(({ installed }) => installed.host);
  say(`clients write and read through all ${addresses.length} nodes from here on, 40 times a second`);
  return startWorkload({ addresses, ratePerSecond: 40, retry: 'once-on-another-node' });
}

/** Types the command for you, and shows what it prints. */
function upgrade(playground: Playground, cluster: string): Promise<number> {
  const args = [
    'upgrade',
    cluster,
    '--to',
    TO,
    '--backup',
    'none:this is a demo',
    '--soak',
    '2s',
    '--sample-gap',
    '1s',
  ];
  say(
    `\n${color.green('$')} ${color.bold(`kwfleet ${args.map((arg) => (arg.includes(' ') ? `'${arg}'` : arg)).join(' ')} --yes --watch`)}\n`,
  );
  const child = spawn(process.execPath, [process.argv[1] ?? '', ...args, '--yes', '--watch'], {
    env: { ...process.env, KWFLEET_SERVER: playground.url },
    stdio: 'inherit',
  });
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code) => resolve(code ?? 1));
  });
}

/** What the nodes wrote down themselves, and what the clients felt. False when an acknowledged write is gone. */
async function tell(playground: Playground, workload: Workload | undefined): Promise<boolean> {
  say(`\n${color.bold('What each node recorded itself')}`);
  for (const [i, node] of playground.rig.nodes.entries()) say(`  n${i + 1}  ${history(node.record())}`);
  if (workload === undefined) return true;
  const counts = await workload.stop();
  await record(playground, counts);
  say(`\n${color.bold('What the clients felt')}`);
  say(`  ${felt(counts)}`);
  return counts.lostAcknowledged === 0 && counts.failedAfterRetry === 0;
}

/** What the clients felt belongs into the report of the run. */
async function record({ client }: Playground, counts: WorkloadCounts): Promise<void> {
  const [run] = await client.runs();
  if (run === undefined) return;
  const { attempted, acknowledged, failedFirstTry, failedAfterRetry, lostAcknowledged, maxStallMs } = counts;
  const felt = { attempted, acknowledged, failedFirstTry, failedAfterRetry, lostAcknowledged };
  await client.recordClientView(run.id, { source: 'demo workload', ...felt, maxStallMs: Math.round(maxStallMs) });
}

function history(record: readonly RecordLine[]): string {
  const stop = record.findLast(({ event }) => event === 'stop');
  const ready = record.findLast(({ event }) => event === 'ready');
  if (stop === undefined || ready === undefined || ready.atMs < stop.atMs) return 'was not restarted';
  const at = (ms: number) => new Date(ms).toISOString().slice(11, 23);
  return `${stop.version} stopped ${at(stop.atMs)}, ${ready.version} ready ${at(ready.atMs)}: away for ${seconds(ready.atMs - stop.atMs)}`;
}

function felt(counts: WorkloadCounts): string {
  const { attempted, acknowledged, failedFirstTry, failedAfterRetry, lostAcknowledged, maxStallMs } = counts;
  return [
    `${attempted} requests, ${acknowledged} acknowledged writes`,
    `${failedFirstTry} needed another node, ${failedAfterRetry} failed after one retry`,
    `${lostAcknowledged} acknowledged writes lost, longest stall ${seconds(maxStallMs)}`,
  ].join('; ');
}

async function stayUp(playground: Playground, ended: AbortSignal): Promise<void> {
  const server = playground.url === 'http://127.0.0.1:7080' ? '' : `KWFLEET_SERVER=${playground.url} `;
  say(`\nIt stays up. In another terminal:\n  ${server}npx kwfleet clusters\n  ${server}npx kwfleet runs`);
  say(`The REST API is described at ${playground.url}/docs. Ctrl-C ends the demo and removes all of it.`);
  await sleep(2 ** 31 - 1, undefined, { signal: ended }).catch(() => {});
}
