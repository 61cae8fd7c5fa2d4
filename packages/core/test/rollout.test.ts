import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  applyRollout,
  assignWaves,
  chosen,
  decideRollout,
  initialRollout,
  nextStart,
  ROLLOUT_ENDED,
  type RolloutCluster,
  type RolloutEvent,
  type RolloutFacts,
  RolloutFile,
  type RolloutState,
  type RunFact,
  readRollout,
  readWindow,
  rolloutChoices,
  type Selectable,
} from '../src/index.ts';
import { NOW } from './builders.ts';

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;

const FILE = `
name: autumn
to: 3.1.0
waves:
  - name: canary
    count: 1
  - name: rest
backup: {policy: none, reason: a test}
`;

const read = (text: string): RolloutFile => {
  const written = readRollout(text);
  if ('mistakes' in written) throw new Error(JSON.stringify(written.mistakes));
  return written.value;
};

describe('mistakes in a rollout file come with line, column and what was expected', () => {
  const mistakesOf = (text: string) => {
    const written = readRollout(text);
    return 'mistakes' in written
      ? written.mistakes.map(({ line, column, message }) => `${line}:${column} ${message}`)
      : [];
  };
  it.each([
    [
      'a key that there is not',
      FILE.replace('to:', 'too: 3.1.0\nto:'),
      /^3:1 expected one of the keys name, to, .*found "too"$/,
    ],
    ['a key that is missing', FILE.replace('to: 3.1.0\n', ''), /^2:1 expected the key "to": a version like 3.1.0$/],
    [
      'a duration without a unit',
      FILE.replace('    count: 1', '    count: 1\n    soak: 30'),
      /^7:11 expected a duration like 90m, 6h or 1d, found 30$/,
    ],
    ['a version that is none', FILE.replace('3.1.0', 'three'), /^3:5 expected a version like 3.1.0 or 3.1.0-hotfix1$/],
    [
      'two ways to fill a wave',
      FILE.replace('count: 1', 'count: 1\n    percent: 10%'),
      /^5:5 expected at most one of count, percent and select$/,
    ],
    ['a wave after the rest', `${FILE.replace('    count: 1\n', '')}`, /^6:5 expected no wave after "canary"/],
    [
      'two waves of one name',
      FILE.replace('name: rest', 'name: canary'),
      /^7:11 expected a name that no other wave has$/,
    ],
    [
      'a count that is none',
      FILE.replace('count: 1', 'count: many'),
      /^6:12 expected a whole number from 1 on, found "many"$/,
    ],
    [
      'an odd label value',
      `${FILE}select: {labels: {site: {a: 1}}}`,
      /^9:25 expected a value, a list of values, or "\*"/,
    ],
    [
      'a start with two times',
      `${FILE}start: {zone: UTC, at: 2026-12-01, every: {weekly: [mon], at: "01:00"}}`,
      /^9:8 expected exactly one of at and every$/,
    ],
    [
      'a zone that there is not',
      `${FILE}start:\n  zone: Mars/Olympus\n  at: 2026-12-01`,
      /^10:9 expected an IANA time zone/,
    ],
    [
      'a recurrence without days',
      `${FILE}start:\n  zone: UTC\n  every: {at: "01:00"}`,
      /^11:10 expected exactly one of weekly, monthly and dates$/,
    ],
    ['YAML that is none', 'name: [a\nto: 3', /^2:/],
    ['a key twice', `${FILE}to: 3.2.0`, /^9:1 Map keys must be unique/],
    ['a backup that is none', FILE.replace('{policy: none, reason: a test}', 'yes'), /^8:9 expected/],
    [
      'a backup that expires while the waves soak',
      `${FILE.replace('{policy: none, reason: a test}', '{policy: attested, where: tape}')}soak: 24h`,
      /^8:9 expected a maxAgeMs above 86400000, what its waves soak/,
    ],
    [
      'aliases without end',
      `a: &a [1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]`,
      /^1:1 expected a file with at most 100 uses/,
    ],
  ])('%s', (_, text, expected) => {
    const mistakes = mistakesOf(text);
    expect(mistakes[0]).toMatch(expected);
  });

  it('there are none in what the documentation shows', () => {
    const page = readFileSync(new URL('../../../docs/rollouts.md', import.meta.url), 'utf8');
    const [window = '', rollout = '', ...others] = [...page.matchAll(/^```yaml\n(.*?)^```/gms)].map(
      ([, text = '']) => text,
    );
    expect(readWindow(window)).not.toHaveProperty('mistakes');
    expect(mistakesOf(rollout)).toEqual([]);
    expect(others).toEqual([]);
    // Every key there is is shown.
    for (const key of Object.keys(RolloutFile.properties)) expect(rollout).toMatch(new RegExp(`^#? *${key}:`, 'm'));
  });

  it('JSON is read too, and a whole file has none', () => {
    expect(mistakesOf(FILE)).toEqual([]);
    expect(mistakesOf(JSON.stringify(read(FILE), undefined, 2))).toEqual([]);
    expect(mistakesOf('{"name": "x",\n "to": 7}')).toContain('2:8 expected a version like 3.1.0, found 7');
  });
});

const cluster = (n: number, change: Partial<Selectable> = {}): Selectable => ({
  id: `id${n}`,
  name: `c${String(n).padStart(2, '0')}`,
  labels: { site: n % 2 === 0 ? 'even' : 'odd' },
  versions: ['3.0.0'],
  methods: ['script-bare'],
  topology: 'standalone',
  ...change,
});

describe('waves', () => {
  it('take by count, percentage of all, selector, and the rest, each what is left', () => {
    const file = read(
      FILE.replace(
        /waves:[\s\S]*backup/,
        'waves:\n  - {name: canary, count: 1}\n  - {name: odd, select: {labels: {site: odd}}}\n  - {name: some, percent: 25%}\n  - {name: rest}\nbackup',
      ),
    );
    const all = Array.from({ length: 9 }, (_, i) => cluster(i));
    const { waves, left } = assignWaves(file, all);
    expect(waves.map(({ clusters }) => clusters)).toEqual([
      ['id0'],
      ['id1', 'id3', 'id5', 'id7'],
      ['id2', 'id4', 'id6'],
      ['id8'],
    ]);
    expect(left).toEqual([]);
  });

  it('are made of what is selected and not excepted, by name', () => {
    const file = read(`${FILE}select: {versions: ["<3.1.0"], labels: {site: [even, odd]}}\nexcept: {clusters: [c04]}`);
    const all = [cluster(4), cluster(2), cluster(6, { versions: ['3.1.0'] }), cluster(1), cluster(8, { labels: {} })];
    expect(chosen(file, all).map(({ name }) => name)).toEqual(['c01', 'c02']);
  });
});

/** A rollout with clusters whose runs a test ends as it likes. */
class Walk {
  readonly file: RolloutFile;
  state: RolloutState;
  readonly runs = new Map<string, RunFact>();
  readonly granted = new Set<string>();
  readonly windows: RolloutFacts['windows'];
  nowMs = NOW;
  readonly events: RolloutEvent[] = [];
  readonly hosts: Record<string, number>;
  readonly looks: string[] = [];
  unhealthy = new Set<string>();
  blocked = new Set<string>();
  approvals: string[] = [];

  constructor(
    file: RolloutFile,
    hosts: Record<string, number>,
    startAtMs?: number,
    windows: RolloutFacts['windows'] = new Map(),
  ) {
    this.file = file;
    this.hosts = hosts;
    this.windows = windows;
    this.state = initialRollout('r1', startAtMs);
  }

  apply(event: RolloutEvent): void {
    this.events.push(event);
    this.state = applyRollout(this.state, event);
  }

  /** Does what is decided until nothing is. */
  settle(): void {
    for (let turns = 0; ; turns++) {
      if (turns > 500) throw new Error('it does not settle');
      const { runs, windows, granted } = this;
      const decisions = decideRollout(this.file, this.state, { runs, windows, granted }, this.nowMs);
      if (decisions.length === 0) return;
      if (!decisions.every((decision) => this.#do(decision))) return;
    }
  }

  /** Returns whether anything came of it. */
  #do(decision: ReturnType<typeof decideRollout>[number]): boolean {
    const atMs = this.nowMs;
    switch (decision.do) {
      case 'record':
        this.apply(decision.event);
        break;
      case 'check': {
        const all = Object.keys(this.hosts).map((id) => cluster(Number(id.slice(2))));
        const { waves } = assignWaves(this.file, chosen(this.file, all));
        const clusters = Object.fromEntries(
          waves.flatMap((wave) => wave.clusters.map((id): [string, RolloutCluster] => [id, this.#cluster(id)])),
        );
        this.apply({ type: 'rollout-checked', waves, clusters, hash: 'h', approvals: this.approvals, atMs });
        break;
      }
      case 'ask':
        this.apply({ type: 'approval-asked', scope: decision.scope, atMs });
        break;
      case 'start': {
        const run = `run-${decision.cluster}`;
        this.runs.set(decision.cluster, { run, status: 'running' });
        this.apply({ type: 'cluster-started', cluster: decision.cluster, run, atMs });
        break;
      }
      case 'look': {
        const wave = this.state.waves.find(({ name }) => name === decision.wave);
        const upgraded = wave?.clusters.filter((id) => this.state.clusters[id]?.status === 'succeeded') ?? [];
        const unwell = upgraded.filter((id) => this.unhealthy.has(id));
        this.looks.push(decision.time);
        if (unwell.length > 0 && decision.time === 'again') return false;
        if (unwell.length > 0 && decision.time === 'first') {
          this.apply({ type: 'wave-unwell', wave: decision.wave, message: unwell.join(), atMs });
          break;
        }
        for (const id of unwell) {
          this.apply({ type: 'cluster-failed', cluster: id, code: 'CLUSTER_UNHEALTHY', message: 'down', atMs });
        }
        this.apply({ type: 'wave-ended', wave: decision.wave, atMs });
        break;
      }
      default:
        decision satisfies never;
    }
    return true;
  }

  #cluster(id: string): RolloutCluster {
    const { name, labels } = cluster(Number(id.slice(2)));
    const why = this.blocked.has(id) ? { code: 'NODE_UNREACHABLE', message: 'gone' } : {};
    const place = labels.site as string;
    return {
      name,
      hosts: this.hosts[id] ?? 1,
      place,
      status: 'waiting',
      estimateMs: HOUR,
      windows: [...this.windows.keys()],
      ...why,
    };
  }

  get running(): string[] {
    return Object.entries(this.state.clusters).flatMap(([id, { status }]) => (status === 'running' ? [id] : []));
  }

  /** What its run came to; `lost`: held, until its agent is back. */
  end(id: string, what: 'succeeded' | 'held' | 'lost' | 'running' | 'aborted' = 'succeeded'): void {
    const selfClearing = what === 'lost';
    const hold = {
      code: selfClearing ? 'AGENT_LOST' : 'INSTALL_FAILED',
      message: 'broken',
      remedy: '',
      choices: ['abort' as const],
      selfClearing,
      sinceMs: this.nowMs,
    };
    const status = selfClearing ? 'held' : what;
    this.runs.set(id, { run: `run-${id}`, status, ...(status === 'held' && { hold }) });
    this.settle();
  }

  pass(ms: number): void {
    this.nowMs += ms;
    this.settle();
  }
}

const hostsOf = (count: number, hosts = 1) =>
  Object.fromEntries(Array.from({ length: count }, (_, i) => [`id${i}`, hosts]));

describe('a rollout', () => {
  it('walks its waves in order, soaks between them, and succeeds', () => {
    const walk = new Walk(read(`${FILE}soak: 30m`), hostsOf(3));
    walk.settle();
    expect(walk.running).toEqual(['id0']);
    walk.end('id0');
    expect(walk.running).toEqual([]);
    walk.pass(30 * MINUTE - 1);
    expect(walk.running).toEqual([]);
    walk.pass(1);
    expect(walk.running).toEqual(['id1', 'id2']);
    for (const id of ['id1', 'id2']) walk.end(id);
    expect(walk.state).toMatchObject({ status: 'succeeded', reason: '3 of 3 clusters are at the target' });
  });

  it('pauses by itself when failures exceed the budget, counts what is held, and goes on when told to', () => {
    const walk = new Walk(read(`${FILE}failures: {budget: 1}\nlimits: {clusters: 1}`), hostsOf(5));
    walk.settle();
    walk.end('id0', 'held');
    expect(walk.running).toEqual(['id1']);
    walk.end('id1', 'aborted');
    expect(walk.state).toMatchObject({ status: 'paused', pause: { code: 'ROLLOUT_BUDGET_SPENT' } });
    expect(walk.state.pause?.message).toContain('c00 (INSTALL_FAILED), c01 (RUN_NOT_SUCCEEDED)');
    expect(rolloutChoices(walk.state)).toEqual(['resume', 'abort']);
    walk.apply({ type: 'rollout-resumed', by: 'ann', atMs: walk.nowMs });
    walk.settle();
    expect(walk.running).toEqual(['id2']);
    // Whoever mends the first gets it counted.
    walk.end('id0');
    for (const id of ['id2', 'id3', 'id4']) walk.end(id);
    expect(walk.state.status).toBe('incomplete');
    expect(walk.state.reason).toContain('4 of 5 clusters are at the target; not there: c01');
  });

  it('stops a wave at its first failure where its file says so', () => {
    const walk = new Walk(
      read(`${FILE.replace('count: 1', 'count: 2\n    onFailure: pause')}failures: {budget: 5}`),
      hostsOf(4),
    );
    walk.settle();
    walk.end('id0', 'held');
    expect(walk.state).toMatchObject({ status: 'paused', pause: { code: 'ROLLOUT_WAVE_FAILED' } });
    expect(walk.running).toEqual(['id1']);
  });

  it('pauses before the first wave when checks block more than the budget, and asks them again when resumed', () => {
    const walk = new Walk(read(FILE), hostsOf(3));
    walk.blocked.add('id2');
    walk.settle();
    expect(walk.state).toMatchObject({ status: 'paused', pause: { code: 'ROLLOUT_CHECKS_BLOCK' } });
    expect(walk.runs.size).toBe(0);
    walk.blocked.clear();
    walk.apply({ type: 'rollout-resumed', by: 'ann', atMs: walk.nowMs });
    walk.settle();
    expect(walk.events.filter(({ type }) => type === 'rollout-checked')).toHaveLength(2);
    expect(walk.running).toEqual(['id0']);
  });

  it('waits for those who must agree, to the whole and to a wave', () => {
    const walk = new Walk(read(FILE), hostsOf(2));
    walk.approvals = ['start', 'wave:rest'];
    walk.settle();
    expect(walk.state.status).toBe('awaiting_approval');
    expect(walk.runs.size).toBe(0);
    walk.pass(HOUR);
    expect(walk.state.asked).toEqual(['start']);
    walk.granted.add('start');
    walk.settle();
    walk.end('id0');
    expect(walk.state.status).toBe('awaiting_approval');
    expect(walk.running).toEqual([]);
    walk.granted.add('wave:rest');
    walk.settle();
    expect(walk.running).toEqual(['id1']);
  });

  it('starts nothing outside of its windows, but early enough to fetch', () => {
    // NOW is 2027-01-15T08:00Z.
    const nights = { name: 'nights', zone: 'UTC', open: [{ weekly: ['fri' as const], at: '22:00', for: '2h' }] };
    const walk = new Walk(
      read(`${FILE}windows: [nights]\nprefetch: 30m`),
      hostsOf(2),
      undefined,
      new Map([['nights', nights]]),
    );
    walk.settle();
    expect(walk.running).toEqual([]);
    walk.pass(13 * HOUR + 30 * MINUTE - 1);
    expect(walk.running).toEqual([]);
    walk.pass(1);
    expect(walk.running).toEqual(['id0']);
    // The second does not fit any more: it takes an hour, and forty minutes are left.
    walk.pass(110 * MINUTE);
    walk.end('id0');
    expect(walk.running).toEqual([]);
    walk.pass(7 * 24 * HOUR - 2 * HOUR - 20 * MINUTE + 40 * MINUTE);
    expect(walk.running).toEqual(['id1']);
  });

  it('fails a cluster that no window will ever let in', () => {
    const short = { name: 'nights', zone: 'UTC', open: [{ weekly: ['fri' as const], at: '22:00', for: '30m' }] };
    const walk = new Walk(
      read(`${FILE}windows: [nights]\nfailures: {budget: 9}`),
      hostsOf(1),
      undefined,
      new Map([['nights', short]]),
    );
    walk.settle();
    expect(walk.state).toMatchObject({ status: 'incomplete', clusters: { id0: { code: 'WINDOW_NEVER' } } });
  });

  it('looks after the soak whether what it upgraded is well, and gives what is not a minute', () => {
    const walk = new Walk(read(`${FILE}soak: 30m`), hostsOf(2));
    walk.unhealthy.add('id0');
    walk.settle();
    walk.end('id0');
    expect(walk.looks).toEqual([]);
    walk.pass(30 * MINUTE);
    walk.pass(MINUTE - 1);
    expect(walk.looks).toEqual(['first', 'again', 'again']);
    expect(walk.state).toMatchObject({ status: 'running', clusters: { id0: { status: 'succeeded' } } });
    walk.pass(1);
    expect(walk.looks.at(-1)).toBe('last');
    expect(walk.state).toMatchObject({ status: 'paused', clusters: { id0: { code: 'CLUSTER_UNHEALTHY' } } });
    expect(walk.running).toEqual([]);
  });

  it('goes on as soon as what was unwell after the soak is well', () => {
    const walk = new Walk(read(FILE), hostsOf(2));
    walk.unhealthy.add('id0');
    walk.settle();
    walk.end('id0');
    expect(walk.running).toEqual([]);
    walk.unhealthy.clear();
    walk.pass(1_000);
    expect(walk.running).toEqual(['id1']);
    expect(walk.state).toMatchObject({ status: 'running', clusters: { id0: { status: 'succeeded' } } });
  });

  it('takes a hold that may end by itself for a failure only when it lasts, and waits for what is at work again', () => {
    const walk = new Walk(read(FILE), hostsOf(2));
    walk.settle();
    walk.end('id0', 'lost');
    expect(walk.state).toMatchObject({ status: 'running', clusters: { id0: { status: 'running' } } });
    walk.pass(MINUTE - 1);
    expect(walk.state.status).toBe('running');
    walk.pass(1);
    expect(walk.state).toMatchObject({ status: 'paused', clusters: { id0: { code: 'AGENT_LOST' } } });
    walk.apply({ type: 'rollout-resumed', by: 'ann', atMs: walk.nowMs });
    walk.settle();
    expect(walk.running).toEqual(['id1']);
    walk.end('id0', 'running');
    walk.end('id1');
    // Every wave is done, and the first cluster is at work again.
    expect(walk.state.waves.every(({ status }) => status === 'done')).toBe(true);
    expect(walk.state.status).toBe('running');
    walk.end('id0');
    expect(walk.state).toMatchObject({ status: 'succeeded', reason: '2 of 2 clusters are at the target' });
  });

  it('aborted, begins nothing more and ends with what is under way', () => {
    const walk = new Walk(read(`${FILE}limits: {clusters: 2}`.replace('count: 1', 'count: 4')), hostsOf(5));
    walk.settle();
    walk.apply({ type: 'abort-requested', by: 'ann', atMs: walk.nowMs });
    walk.settle();
    expect(walk.state.status).toBe('running');
    walk.end('id0');
    walk.end('id1');
    expect(walk.state.status).toBe('aborted');
    expect(walk.runs.size).toBe(2);
  });

  it('begins at its start, catches up after an outage, or skips it, as its file says', () => {
    const start = (missed: string) => read(`${FILE}start: {zone: UTC, at: 2027-01-16, ${missed}}`);
    const at = NOW + 16 * HOUR;
    expect(nextStart(start('missed: run').start ?? { zone: 'UTC' }, NOW)).toBe(at);
    for (const [missed, lateMs, begins] of [
      ['missed: run', 5 * HOUR, true],
      ['missed: skip', 15 * MINUTE, true],
      ['missed: skip', 15 * MINUTE + 1, false],
      ['missed: skip, grace: 1h', 59 * MINUTE, true],
    ] as const) {
      const walk = new Walk(start(missed), hostsOf(1), at);
      walk.pass(16 * HOUR - 1);
      expect(walk.state.status).toBe('scheduled');
      walk.nowMs = at + lateMs;
      walk.settle();
      expect([missed, lateMs, walk.running.length > 0]).toEqual([missed, lateMs, begins]);
      if (!begins) expect(walk.state).toMatchObject({ status: 'aborted', reason: expect.stringContaining('missed') });
    }
  });
});

describe('recurring starts', () => {
  it('come at the time that the clocks show, over every change of them', () => {
    const start = { zone: 'Europe/Berlin', every: { weekly: ['sun' as const], at: '02:30' } };
    const iso = (ms: number | undefined) => new Date(ms ?? 0).toISOString().slice(0, 16);
    expect(iso(nextStart(start, Date.UTC(2026, 2, 23)))).toBe('2026-03-29T01:00');
    expect(iso(nextStart(start, Date.UTC(2026, 9, 19)))).toBe('2026-10-25T00:30');
    // The second time that the clocks show 02:30 that night is none.
    expect(iso(nextStart(start, Date.UTC(2026, 9, 25, 0, 30)))).toBe('2026-11-01T01:30');
    expect(nextStart({ zone: 'UTC', every: { dates: ['2020-01-01'], at: '00:00' } }, NOW)).toBeUndefined();
  });

  it.each(['Europe/Berlin', 'America/New_York', 'Australia/Lord_Howe', 'Asia/Shanghai', 'Africa/Casablanca'])(
    'one a day, never none and never two, in %s',
    (zone) => {
      const arbitrary = fc.tuple(
        fc.integer({ min: 0, max: 23 }),
        fc.integer({ min: 0, max: 59 }),
        fc.integer({ min: 0, max: 3_600 }),
      );
      fc.assert(
        fc.property(arbitrary, ([hour, minute, day]) => {
          const at = `${String(hour).padStart(2, '0')}:${String(minute).padStart(2, '0')}`;
          const every = { weekly: ['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'] as ('mon' | 'tue')[], at };
          let ms = Date.UTC(2020, 0, 1) + day * 24 * HOUR;
          const first = nextStart({ zone, every }, ms) ?? 0;
          ms = first;
          for (let i = 1; i <= 8; i++) {
            const next = nextStart({ zone, every }, ms) ?? 0;
            expect(Math.abs(next - ms - 24 * HOUR)).toBeLessThanOrEqual(HOUR);
            ms = next;
          }
        }),
        { numRuns: 60 },
      );
    },
  );
});

describe('whatever runs come to', () => {
  it('limits hold, waves stay in order, no cluster is started twice, and the rollout ends', () => {
    const wish = fc.record({
      hosts: fc.array(fc.integer({ min: 1, max: 5 }), { minLength: 1, maxLength: 14 }),
      clusters: fc.integer({ min: 1, max: 6 }),
      most: fc.integer({ min: 5, max: 9 }),
      perPlace: fc.integer({ min: 1, max: 3 }),
      budget: fc.integer({ min: 0, max: 4 }),
      onFailure: fc.constantFrom('continue', 'pause'),
    });
    const outcomes = fc.infiniteStream(fc.constantFrom('succeeded', 'succeeded', 'succeeded', 'held', 'aborted'));
    fc.assert(
      fc.property(
        wish,
        outcomes,
        fc.infiniteStream(fc.nat(99)),
        ({ hosts, clusters, most, perPlace, budget, onFailure }, ends, picks) => {
          const file = read(
            `${FILE.replace('- name: rest', '- {name: half, percent: 50%}\n  - name: rest')}limits: {clusters: ${clusters}, hosts: ${most}, per: {label: site, clusters: ${perPlace}}}\nfailures: {budget: ${budget}, wave: ${onFailure}}\nsoak: 1m`,
          );
          const walk = new Walk(file, Object.fromEntries(hosts.map((count, i) => [`id${i}`, count])));
          for (let moves = 0; !ROLLOUT_ENDED.has(walk.state.status); moves++) {
            if (moves > 200) throw new Error(`it does not end: ${JSON.stringify(walk.state)}`);
            walk.settle();
            const { running, state } = walk;
            const at = running.map((id) => state.clusters[id] as RolloutCluster);
            expect(at.length).toBeLessThanOrEqual(clusters);
            expect(at.reduce((sum, one) => sum + one.hosts, 0)).toBeLessThanOrEqual(most);
            for (const place of ['even', 'odd']) {
              expect(at.filter((one) => one.place === place).length).toBeLessThanOrEqual(perPlace);
            }
            const waves = state.waves.filter((wave) => wave.clusters.some((id) => running.includes(id)));
            expect(waves.length).toBeLessThanOrEqual(1);
            const id = running[(picks.next().value ?? 0) % Math.max(1, running.length)];
            if (id !== undefined) walk.end(id, ends.next().value);
            else if (state.status === 'paused') walk.apply({ type: 'rollout-resumed', by: 'ann', atMs: walk.nowMs });
            else walk.pass(MINUTE);
            const unseen = Object.entries(walk.state.clusters).filter(
              ([one, { status }]) => (status === 'failed' || status === 'held') && !walk.state.accepted.includes(one),
            );
            if (unseen.length > budget) expect(['paused', 'incomplete']).toContain(walk.state.status);
          }
          const started = walk.events.filter(({ type }) => type === 'cluster-started');
          expect(started).toHaveLength(hosts.length);
        },
      ),
      { numRuns: 200 },
    );
  });
});
