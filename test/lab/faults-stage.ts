/** One fleet on which runs are played with faults in them, and what its hosts' own records prove afterwards. */
import { join } from 'node:path';
import type { Hold, Phase, RunView, StepKind, StepState, Topology } from '@kwfleet/core';
import type { RecordLine } from '../standin/rig.ts';
import type { WorkloadCounts } from '../standin/workload.ts';
import type { Death, Place, Row } from './faults.ts';
import { STRIKES } from './faults-strikes.ts';
import { Fleet } from './fleet.ts';
import { type LabHost, type LabProcess, until } from './host.ts';

const FIRST_VERSION = '3.0.0';
const SEEN_MS = 600_000;
const SETTLED_MS = 900_000;
const RETRIES = 2;
/** Files that no upgrade may alter (I5). */
const KEPT_FILES = '/etc/kaiwudb/certs/ca.crt /etc/kaiwudb/info/MODE /etc/kaiwudb/info/NODE /var/lib/kaiwudb/marker';
/** Long enough to strike in the middle of each phase; short enough that a hold for want of progress is not waited for long. */
const KNOBS = { drainMs: 1_200, readyDelayMs: 2_000 };
const OPTIONS = { soakMs: 1_500, deadline: { idleMs: 45_000, ceilingMs: 300_000 } };
const PACKAGE_FAULTS = { installDelaySeconds: 2 };

/** Reasons a run may be held for after each death; none means that it must go on by itself. */
const TRUE_REASONS: Readonly<Record<Death, readonly string[]>> = {
  agent: [],
  controller: [],
  PostgreSQL: [],
  'deploy.sh': ['INSTALL_FAILED', 'INSTALL_LOST'],
  "deploy.sh's unit": ['INSTALL_LOST'],
  network: ['AGENT_LOST', 'INTERLOCK_REFUSED', 'VERIFY_TIMEOUT', 'FETCH_FAILED', 'GATE_CLOSED', 'NODE_NOT_LIVE'],
  host: [
    'AGENT_LOST',
    'START_FAILED',
    'INTERLOCK_REFUSED',
    'INSTALL_LOST',
    'VERIFY_TIMEOUT',
    'NODE_NOT_LIVE',
    'GATE_CLOSED',
  ],
  'disk full': ['DISK_FULL', 'INSTALL_FAILED', 'AGENT_LOST'],
};

/** A host was down from our own doing. */
type Crash = { readonly host: LabHost; readonly atMs: number };

export class Stage {
  readonly fleet: Fleet;
  readonly topology: Topology;
  readonly #kept: readonly string[];
  #patch = 0;
  #crashes: Crash[] = [];

  private constructor(fleet: Fleet, topology: Topology, kept: readonly string[]) {
    this.fleet = fleet;
    this.topology = topology;
    this.#kept = kept;
  }

  static async create(topology: Topology): Promise<Stage> {
    const smallDisks = [{ path: '/var/lib/kwfleet', megabytes: 512 }];
    const fleet = await Fleet.create({ topology, version: FIRST_VERSION, knobs: KNOBS, smallDisks });
    const mark =
      'mkdir -p /etc/kaiwudb/certs; echo ours >/etc/kaiwudb/certs/ca.crt; echo ours >/var/lib/kaiwudb/marker';
    for (const host of fleet.hosts) await host.shell(mark);
    return new Stage(fleet, topology, await keptSums(fleet));
  }

  /**
   * Upgrades to the next patch version with a fault at each place, and tells each outcome as it goes. Places whose moment was
   * over before it was seen are returned. Throws when the run does not end well, or the records tell of a violation.
   */
  async play(places: readonly Place[], tell: (row: Row) => void): Promise<Place[]> {
    const version = `3.1.${++this.#patch}`;
    await this.fleet.addPackage({ version, faults: PACKAGE_FAULTS });
    this.#crashes = [];
    const clients = this.topology === 'multi-replica' ? startClients(this.fleet) : undefined;
    const sinceMs = Date.now();
    const run = await this.fleet.begin(version, OPTIONS);
    const missed: Place[] = [];
    for (const place of places) {
      const row = await this.#strike(run, place);
      if (row === undefined) missed.push(place);
      else tell(row);
      if (row?.ok === false) throw new Error(`${row.topology}, ${row.moment}, ${row.death}: ${row.outcome}`);
    }
    const end = await this.#settle(run, () => false, []);
    if (end.status !== 'succeeded')
      throw new Error(`the run ended as ${end.status}: ${end.hold?.message ?? end.reason}`);
    await this.#judge(version, sinceMs, await clients?.stop());
    return missed;
  }

  /** Undefined when the moment was over before it was seen. */
  async #strike(run: string, { cell, node }: Place): Promise<Row | undefined> {
    const { moment, death, topology } = cell;
    const first = await this.#view(run);
    const name = first.plan.nodes[node]?.node ?? '';
    const id = `${moment.step}:${name}`;
    const seen = await this.#seen(run, id, moment.phases);
    if (seen === undefined) return undefined;
    const host = this.fleet.hosts.find((candidate) => candidate.name === (seen.executor ?? name));
    if (host === undefined) throw new Error(`no host ${seen.executor}`);
    if (moment.name === 'install') await inTheMiddle(host);
    if (seen.phase === 'drain') await isDraining(host);
    const startedMs = performance.now();
    const holds: Hold[] = [];
    const stepOver = (view: RunView) => view.steps[id]?.status === 'succeeded';
    const felt = async () => {
      const view = await this.#view(run);
      return view.status !== 'running' || stepOver(view);
    };
    if (death === 'host') this.#crashes.push({ host, atMs: Date.now() });
    await STRIKES[death]({ fleet: this.fleet, host, felt });
    if (death === 'host') await this.#operatorStarts(host, seen.phase ?? moment.step);
    const end = await this.#settle(run, stepOver, holds).catch((error: Error) => error);
    const seconds = (performance.now() - startedMs) / 1000;
    const codes = [...new Set(holds.map(({ code, selfClearing }) => (selfClearing ? `${code} (cleared)` : code)))];
    const row = { topology, moment: moment.name, death, node: host.name, holds: codes, seconds };
    const bad = end instanceof Error ? end.message : untrue(death, holds, [name, host.name]);
    if (bad !== undefined) return { ...row, outcome: `FAILED: ${bad}`, ok: false };
    return { ...row, outcome: codes.length === 0 ? 'went on' : outcomeOf(holds), ok: true };
  }

  /** Waits until the step is under way, in the phase that is wanted; undefined when it is over, or beyond it. */
  async #seen(run: string, id: string, phases: readonly Phase[] | undefined): Promise<StepState | undefined> {
    const found = await until(
      `step ${id} is under way${phases === undefined ? '' : ` in ${phases.join(' or ')}`}`,
      async () => {
        const view = await this.#view(run);
        const step = view.steps[id];
        const order = view.plan.steps.find((candidate) => candidate.id === id)?.phases ?? [];
        if (step === undefined) throw new Error(`the run has no step ${id}`);
        if (view.status === 'held' && !view.hold?.selfClearing) throw new Error(`held: ${view.hold?.message}`);
        if (step.status === 'succeeded' || step.status === 'failed') return 'over';
        if (step.status !== 'running') return undefined;
        if (phases === undefined) return step;
        if (step.phase === undefined) return undefined;
        if (phases.includes(step.phase)) return step;
        const last = Math.max(...phases.map((phase) => order.indexOf(phase)));
        return order.indexOf(step.phase) > last ? 'over' : undefined;
      },
      SEEN_MS,
    );
    return found === 'over' ? undefined : found;
  }

  /** Waits until `done`, or the run ended. A hold that waits for a person is answered with a retry; all are kept in `holds`. */
  async #settle(run: string, done: (view: RunView) => boolean, holds: Hold[]): Promise<RunView> {
    let retries = 0;
    return until(
      `run ${run} goes on`,
      async () => {
        const view = await this.#view(run);
        if (done(view) || ['succeeded', 'failed', 'aborted'].includes(view.status)) return view;
        const { hold } = view;
        if (view.status !== 'held' || hold === undefined) return undefined;
        // A retry is taken at the run's next decision: until then the hold is still the one that was answered.
        if (holds.some(({ sinceMs }) => sinceMs === hold.sinceMs)) return undefined;
        holds.push(hold);
        if (hold.selfClearing) return undefined;
        if (++retries > RETRIES) throw new Error(`held again after ${RETRIES} retries: ${hold.code}: ${hold.message}`);
        await this.#mend(hold);
        await this.fleet.retry(run);
        return undefined;
      },
      SETTLED_MS,
    );
  }

  /** A step of a single-replica cluster that only looks starts nothing: an operator does what its hold says. */
  async #mend(hold: Hold): Promise<void> {
    if (this.topology !== 'single-replica' || hold.step?.startsWith('verify:') !== true) return;
    const host = this.fleet.hosts.find(({ name }) => name === hold.node);
    await host?.exec(['systemctl', 'start', 'kaiwudb']);
  }

  /** The controller may be down on purpose: then it is asked again. */
  async #view(run: string): Promise<RunView> {
    return until('the controller answers', () => this.fleet.client.run(run).catch(() => undefined));
  }

  /** KWDB's unit is not enabled: what served when the host went down is started by hand, unless the run had begun with it. */
  async #operatorStarts(host: LabHost, phase: Phase | StepKind): Promise<void> {
    const { event } = (await this.fleet.record(host)).at(-1) ?? { event: '' };
    const touched = ['drain', 'stop', 'install', 'start', 'verify'].includes(phase);
    if (!touched && event !== 'stop') await host.exec(['systemctl', 'start', 'kaiwudb']);
  }

  async #judge(version: string, sinceMs: number, counts: WorkloadCounts | undefined): Promise<void> {
    const { fleet } = this;
    const records = await Promise.all(
      fleet.hosts.map(async (host) => (await fleet.record(host)).filter(({ atMs }) => atMs >= sinceMs)),
    );
    const wrong = [
      ...records.flatMap((record, at) =>
        record.at(-1)?.event === 'ready' && record.at(-1)?.version === version
          ? []
          : [`${fleet.hosts[at]?.name} ends as ${JSON.stringify(record.at(-1))}`],
      ),
      ...(this.topology === 'multi-replica' ? this.#awayTogether(records) : []),
      ...(this.topology === 'single-replica' ? await this.#barriers(records, version) : []),
      ...(await keptSums(fleet)).flatMap((sum, at) =>
        sum === this.#kept[at] ? [] : [`files of ${at} were altered: ${sum}`],
      ),
    ];
    if (counts !== undefined && counts.lostAcknowledged > 0) wrong.push(`lost writes: ${JSON.stringify(counts)}`);
    if (counts !== undefined && counts.acknowledged === 0) wrong.push('the clients wrote nothing');
    if (wrong.length > 0) throw new Error(`the records tell: ${wrong.join('; ')}`);
  }

  /** I1: nothing is taken down while another node is away, by us or by the fault. */
  #awayTogether(records: readonly (readonly RecordLine[])[]): string[] {
    const away = records.map((record, at) => this.#absences(record, this.fleet.hosts[at]));
    return records.flatMap((record, at) =>
      record
        .filter(({ event }) => event === 'draining' || event === 'stop')
        .flatMap(({ event, atMs }) =>
          away.flatMap((spans, other) =>
            other !== at && spans.some(({ fromMs, toMs }) => fromMs <= atMs && atMs < toMs)
              ? [
                  `${this.fleet.hosts[at]?.name} was ${event} at ${atMs} while ${this.fleet.hosts[other]?.name} was away`,
                ]
              : [],
          ),
        ),
    );
  }

  #absences(record: readonly RecordLine[], host: LabHost | undefined): { fromMs: number; toMs: number }[] {
    const crashes = this.#crashes.filter((crash) => crash.host === host).map(({ atMs }) => ({ atMs, event: 'crash' }));
    const events = [...record, ...crashes].toSorted((a, b) => a.atMs - b.atMs);
    const spans: { fromMs: number; toMs: number }[] = [];
    for (const { event, atMs } of events) {
      const open = spans.at(-1);
      const isAway = open !== undefined && open.toMs === Number.POSITIVE_INFINITY;
      if (event === 'ready' && isAway) open.toMs = atMs;
      if (['draining', 'stop', 'crash'].includes(event) && !isAway) {
        spans.push({ fromMs: atMs, toMs: Number.POSITIVE_INFINITY });
      }
    }
    return spans;
  }

  /** I3, from the records and from when the new `.version` was written, which is deploy.sh's last step. */
  async #barriers(records: readonly (readonly RecordLine[])[], version: string): Promise<string[]> {
    const installs = await Promise.all(
      this.fleet.hosts.map(async (host) => {
        const { stdout } = await host.exec(['stat', '-c', '%.Y', '/etc/kaiwudb/info/.version']);
        return Number(stdout.trim()) * 1000;
      }),
    );
    const all = records.flat();
    const old = all.filter((line) => line.version !== version);
    const lastOld = Math.max(...old.map(({ atMs }) => atMs), 0);
    const firstNew = Math.min(...all.filter((line) => line.version === version).map(({ atMs }) => atMs));
    return [
      ...(Math.min(...installs) < lastOld ? ['something was installed before all were stopped'] : []),
      ...(firstNew < Math.max(...installs) ? ['something was started before all were installed'] : []),
      ...(firstNew < lastOld ? ['a new version ran beside an old one'] : []),
    ];
  }
}

/**
 * Why the holds are no good answer to this death; undefined when they are. On a slow machine what died may be away for so
 * long that its agent seems lost for a while: that is true, and clears itself.
 */
function untrue(death: Death, holds: readonly Hold[], nodes: readonly string[]): string | undefined {
  const seemedLost = ({ code, selfClearing }: Hold) => code === 'AGENT_LOST' && selfClearing;
  const wrong = holds.find(
    (hold) =>
      !seemedLost(hold) &&
      (!TRUE_REASONS[death].includes(hold.code) || hold.node === undefined || !nodes.includes(hold.node)),
  );
  return wrong === undefined ? undefined : `held by ${wrong.code} of ${wrong.node}: ${wrong.message}`;
}

const outcomeOf = (holds: readonly Hold[]): string =>
  holds.every(({ selfClearing }) => selfClearing) ? 'held, went on by itself' : 'held, retry went on';

/** deploy.sh has removed the old packages and not yet installed the new. */
async function inTheMiddle(host: LabHost): Promise<void> {
  const gone = async () =>
    (await host.exec(['test', '-e', '/usr/local/kaiwudb/bin/kwbase'], { allowFailure: true })).exitCode !== 0;
  await until(`deploy.sh is in the middle on ${host.name}`, gone);
}

async function isDraining(host: LabHost): Promise<void> {
  const last = async () => (await host.readFile('/var/lib/standin-record.jsonl')).trim().split('\n').at(-1) ?? '';
  await until(`${host.name} drains`, async () => /"event":"(draining|stop)"/.test(await last()));
}

async function keptSums(fleet: Fleet): Promise<string[]> {
  return Promise.all(
    fleet.hosts.map(async (host) => (await host.exec(['sh', '-c', `sha256sum ${KEPT_FILES} 2>&1 || :`])).stdout),
  );
}

/** Clients in the lab's network, beside the controller. */
function startClients(fleet: Fleet): { stop(): Promise<WorkloadCounts> } {
  const addresses = fleet.hosts.map(({ address }) => `${address}:26257`);
  const script = join(import.meta.dirname, 'clients.ts');
  const clients: LabProcess = fleet.lab.spawnInNetwork([process.execPath, script, ...addresses]);
  return {
    async stop() {
      await clients.kill('SIGTERM', 60_000);
      return JSON.parse(clients.stdout().trim().split('\n').at(-1) ?? '') as WorkloadCounts;
    },
  };
}
