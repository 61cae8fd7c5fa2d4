import { describe, expect, it } from 'vitest';
import {
  type ClusterHealth,
  type Condition,
  type Finding,
  type Installation,
  judgeCluster,
  judgeGate,
  judgeInstalled,
  judgeRejoined,
  judgeServing,
  judgeSpare,
  judgeStopped,
  type NodeReport,
} from '../src/index.ts';
import { allAt, health, installation, NEW, NOW, OLD, row, STARTED, serving, withRow } from './builders.ts';

const codes = (findings: Finding[]): string[] => findings.map(({ code }) => code);
const THREE = [1, 2, 3];
const healthy = (change: Partial<ClusterHealth> = {}) =>
  health(
    THREE.map((id) => row(id)),
    change,
  );

describe('whether a node is back, seen from another', () => {
  const STOPPED_AT = NOW - 60_000;
  const subject = { kwdbId: 2, startedAfterMs: STARTED };
  const back = { build: `V${NEW}`, startedAtMs: STOPPED_AT + 20_000, updatedAtMs: NOW - 1_000 };
  const seen = withRow(healthy(), 2, back);
  const judge = (of: ClusterHealth) => judgeRejoined(of, subject, THREE, NEW);

  it('is back: a new start, a record renewed since, the target, live, available, ranges whole', () => {
    expect(judge(seen)).toEqual([]);
  });

  it('is not back while its record still says live and available but tells the old start', () => {
    const stale = withRow(seen, 2, { startedAtMs: STARTED, isLive: true, isAvailable: true });
    expect(judge(stale)).toMatchObject([{ code: 'VERIFY_TIMEOUT', message: expect.stringContaining('old start') }]);
  });

  it('is not back while its start is one before the last', () => {
    expect(codes(judge(withRow(seen, 2, { startedAtMs: STARTED - 1 })))).toEqual(['VERIFY_TIMEOUT']);
  });

  it('is not back until it renewed its record after the start', () => {
    const once = withRow(seen, 2, { updatedAtMs: back.startedAtMs });
    expect(judge(once)).toMatchObject([{ code: 'VERIFY_TIMEOUT', message: expect.stringContaining('not renewed') }]);
    expect(judge(withRow(seen, 2, { updatedAtMs: back.startedAtMs + 1 }))).toEqual([]);
  });

  it('is not proven by the node itself', () => {
    const own = { ...seen, view: { ...seen.view, kwdbId: 2 } };
    expect(judge(own)).toMatchObject([{ code: 'VERIFY_TIMEOUT', message: expect.stringContaining('itself') }]);
  });

  it.each([
    ['its start is not told', { startedAtMs: undefined }],
    ['its renewal is not told', { updatedAtMs: undefined }],
  ])('is not back when %s', (_case, change) => {
    expect(codes(judge(withRow(seen, 2, change as object)))).toEqual(['VERIFY_TIMEOUT']);
  });

  it('is not back when it is not listed', () => {
    expect(codes(judge(health([row(1), row(3)])))).toEqual(['VERIFY_TIMEOUT']);
  });

  it.each([
    ['the old version', { build: `V${OLD}` }, 'VERIFY_WRONG_VERSION'],
    ['a build that is no version', { build: 'dirty' }, 'VERIFY_WRONG_VERSION'],
    ['no build', { build: undefined }, 'VERSION_UNKNOWN'],
    ['not live', { isLive: false }, 'NODE_NOT_LIVE'],
    ['still marked upgrading', { isAvailable: false }, 'NODE_NOT_AVAILABLE'],
  ])('speaks against: %s', (_case, change, code) => {
    expect(codes(judge(withRow(seen, 2, change as object)))).toEqual([code]);
  });

  it('waits for the whole cluster, not for the node alone', () => {
    expect(codes(judge({ ...seen, rangesUnderreplicated: 1 }))).toEqual(['RANGES_UNDERREPLICATED']);
    expect(codes(judge(withRow(seen, 3, { isLive: false })))).toEqual(['NODE_NOT_LIVE']);
  });
});

describe('whether a node serves the target', () => {
  const before = { pid: 99, startedAtMs: STARTED - 1_000 };
  const judge = (change: Partial<NodeReport> = {}, mark: Parameters<typeof judgeServing>[2] = before) =>
    codes(judgeServing(serving(NEW, change), NEW, mark));
  const installed = (change: Partial<Installation>) => ({
    installation: installation({ versions: allAt(NEW), ...change }),
  });
  const unit = installation().unit;

  it('does: four versions, a new process, ready', () => {
    expect(judge()).toEqual([]);
    expect(judge({}, {})).toEqual([]);
  });

  it('does not as the process from before', () => {
    expect(judge({}, { pid: unit.mainPid, startedAtMs: unit.startedAtMs })).toEqual(['VERIFY_TIMEOUT']);
  });

  it('tells a process from one before that had its number', () => {
    expect(judge({}, { pid: unit.mainPid, startedAtMs: STARTED - 1 })).toEqual([]);
    expect(judge({}, { pid: 1, startedAtMs: unit.startedAtMs })).toEqual([]);
  });

  it.each(['recorded', 'package', 'binary', 'running'] as const)('does not when %s tells another version', (place) => {
    expect(judge(installed({ versions: { ...allAt(NEW), [place]: OLD } }))).toEqual(['VERIFY_WRONG_VERSION']);
  });

  it.each(['recorded', 'package', 'binary', 'running'] as const)('does not when %s tells none', (place) => {
    const { [place]: _, ...versions } = allAt(NEW);
    expect(judge(installed({ versions }))).toEqual(['VERSION_UNKNOWN']);
  });

  it.each(['recorded', 'package', 'binary', 'running'] as const)(
    'does not, and does not throw, when %s tells garbage',
    (place) => {
      expect(judge(installed({ versions: { ...allAt(NEW), [place]: '3.1.0-1~dirty' } }))).toEqual([
        'VERIFY_WRONG_VERSION',
      ]);
    },
  );

  it.each([
    ['the unit failed', installed({ unit: { ...unit, active: 'failed' } }), 'NODE_NOT_RUNNING'],
    ['the unit is activating', installed({ unit: { ...unit, active: 'activating' } }), 'NODE_NOT_RUNNING'],
    [
      'the unit has no process',
      installed({ unit: { exists: true, active: 'active', enabled: true } }),
      'NODE_NOT_RUNNING',
    ],
    ['health does not answer', { serving: false }, 'VERIFY_TIMEOUT'],
    ['it takes no clients', { ready: false }, 'VERIFY_TIMEOUT'],
    ['nothing is installed', { installation: undefined }, 'NOT_INSTALLED'],
  ] as [string, Partial<NodeReport>, string][])('does not when %s', (_case, change, code) => {
    expect(judge(change)).toEqual([code]);
  });
});

describe('whether the target is installed whole', () => {
  it.each<[Condition, string[]]>([
    ['clean', []],
    ['binary-missing', ['INSTALLATION_HALF_DONE']],
    ['package-half-installed', ['INSTALLATION_HALF_DONE']],
    ['version-file-behind', ['INSTALLATION_HALF_DONE']],
    ['process-behind', []],
    ['marked-upgrading', []],
  ])('%s', (condition, expected) => {
    const report = serving(NEW, { installation: installation({ versions: allAt(NEW), condition }) });
    expect(codes(judgeInstalled(report, NEW))).toEqual(expected);
  });
});

describe('whether the database is stopped', () => {
  const unit = installation().unit;
  const judge = (active: Installation['unit']['active'], isServing: boolean) =>
    codes(
      judgeStopped(serving(OLD, { serving: isServing, installation: installation({ unit: { ...unit, active } }) })),
    );

  it.each(['inactive', 'failed'] as const)('it is when the unit is %s and nothing answers', (active) => {
    expect(judge(active, false)).toEqual([]);
    expect(judge(active, true)).toEqual(['STOP_FAILED']);
  });

  it.each(['active', 'activating', 'deactivating'] as const)('it is not when the unit is %s', (active) => {
    expect(judge(active, false)).toEqual(['STOP_FAILED']);
  });

  it('it is not when something answers, though no installation is found', () => {
    const { installation: _, ...bare } = serving(OLD);
    expect(codes(judgeStopped(bare))).toEqual(['STOP_FAILED']);
    expect(codes(judgeStopped({ ...bare, serving: false }))).toEqual([]);
  });
});

describe('whether a cluster can spare a node', () => {
  it('can: every node of the plan live and available, none else, ranges whole', () => {
    expect(judgeSpare(healthy(), THREE)).toEqual([]);
  });

  it.each([
    ['a node is down', { isLive: false }, 'NODE_NOT_LIVE'],
    ['a node is marked upgrading', { isAvailable: false }, 'NODE_NOT_AVAILABLE'],
    ['a node drains', { isDraining: true }, 'NODE_NOT_AVAILABLE'],
    ['a node is being decommissioned', { isDecommissioning: true }, 'NODE_NOT_AVAILABLE'],
    ['a node of the plan was decommissioned', { isDecommissioning: true, isLive: false }, 'NODE_MISSING'],
  ])('cannot while %s', (_case, change, code) => {
    expect(judgeSpare(withRow(healthy(), 3, change), THREE)).toMatchObject([{ code, kwdbId: 3, severity: 'block' }]);
  });

  it('cannot while a node of the plan is not listed, or one is listed that is not in the plan', () => {
    expect(judgeSpare(health([row(1), row(2)]), THREE)).toMatchObject([{ code: 'NODE_MISSING', kwdbId: 3 }]);
    expect(judgeSpare(healthy(), [1, 2])).toMatchObject([{ code: 'NODE_MISSING', kwdbId: 3 }]);
  });

  it('does not mind a node that was removed for good', () => {
    const rows = [...THREE.map((id) => row(id)), row(4, { isDecommissioning: true, isLive: false })];
    expect(judgeSpare(health(rows), THREE)).toEqual([]);
  });

  it.each([
    ['ranges are unavailable', { rangesUnavailable: 1 }, ['RANGES_UNAVAILABLE']],
    ['ranges lack replicas', { rangesUnderreplicated: 2 }, ['RANGES_UNDERREPLICATED']],
    ['both', { rangesUnavailable: 1, rangesUnderreplicated: 2 }, ['RANGES_UNAVAILABLE', 'RANGES_UNDERREPLICATED']],
    ['unavailable ranges are not told', { rangesUnavailable: undefined }, ['HEALTH_UNKNOWN']],
    ['ranges that lack replicas are not told', { rangesUnderreplicated: undefined }, ['HEALTH_UNKNOWN']],
  ])('cannot when %s', (_case, change, expected) => {
    expect(codes(judgeSpare(healthy(change as Partial<ClusterHealth>), THREE))).toEqual(expected);
  });
});

describe('the preparation of a multi-replica cluster', () => {
  const job = { id: '7', type: 'SCHEMA CHANGE', description: 'add a column', status: 'running' };

  it('is done when nothing speaks against', () => {
    expect(judgeCluster(healthy(), THREE)).toEqual([]);
  });

  it.each([
    ['a job runs', { jobs: [job] }, ['JOBS_RUNNING']],
    ['jobs are not told', { jobs: undefined }, ['HEALTH_UNKNOWN']],
    ['leases are not told', { leases: undefined }, ['HEALTH_UNKNOWN']],
    ['sessions are not told', { sessions: undefined }, ['HEALTH_UNKNOWN']],
  ])('is not when %s', (_case, change, expected) => {
    const findings = judgeCluster(healthy(change as Partial<ClusterHealth>), THREE);
    expect(findings.map(({ code, severity }) => [code, severity])).toEqual(expected.map((code) => [code, 'block']));
  });

  it.each([
    ['one node has all leases', { leases: [{ kwdbId: 1, count: 30 }] }, ['LEASES_UNEVEN']],
    [
      'one node has nine of ten',
      {
        leases: [
          { kwdbId: 1, count: 27 },
          { kwdbId: 2, count: 3 },
        ],
      },
      ['LEASES_UNEVEN'],
    ],
    ['there are hardly any leases', { leases: [{ kwdbId: 1, count: 3 }] }, []],
    [
      'two nodes share',
      {
        leases: [
          { kwdbId: 1, count: 15 },
          { kwdbId: 2, count: 15 },
        ],
      },
      [],
    ],
    [
      'clients sit on one node',
      {
        sessions: [
          { kwdbId: 2, count: 9 },
          { kwdbId: 1, count: 0 },
        ],
      },
      ['CLIENTS_ON_ONE_NODE'],
    ],
    ['there are no clients', { sessions: [] }, []],
  ])('warns only: %s', (_case, change, expected) => {
    const findings = judgeCluster(healthy(change), THREE);
    expect(findings.map(({ code, severity }) => [code, severity])).toEqual(expected.map((code) => [code, 'warn']));
  });
});

describe('the gate of each topology', () => {
  const lacking = healthy({ rangesUnderreplicated: 3, leases: undefined as never, sessions: undefined as never });

  it.each(['single-replica', 'standalone'] as const)(
    '%s: all live and available, no other, and no job; ranges have one replica each',
    (topology) => {
      expect(judgeGate(topology, lacking, THREE)).toEqual([]);
      expect(judgeGate(topology, withRow(lacking, 2, { isLive: false }), THREE)).toMatchObject([
        { code: 'NODE_NOT_LIVE', kwdbId: 2 },
      ]);
      expect(judgeGate(topology, withRow(lacking, 2, { isAvailable: false }), THREE)).toMatchObject([
        { code: 'NODE_NOT_AVAILABLE', kwdbId: 2 },
      ]);
      expect(judgeGate(topology, lacking, [1, 2, 3, 4])).toMatchObject([{ code: 'NODE_MISSING', kwdbId: 4 }]);
      // One that joined since would run on, at the old version, while the others are upgraded.
      expect(judgeGate(topology, lacking, [1, 2])).toMatchObject([{ code: 'NODE_MISSING', kwdbId: 3 }]);
      const left = withRow(lacking, 3, { isLive: false, isDecommissioning: true });
      expect(judgeGate(topology, left, [1, 2])).toEqual([]);
      const { jobs: _, ...mute } = lacking;
      expect(codes(judgeGate(topology, mute, THREE))).toEqual(['HEALTH_UNKNOWN']);
      const job = { id: '7', type: 'IMPORT', description: '', status: 'paused' };
      expect(codes(judgeGate(topology, { ...lacking, jobs: [job] }, THREE))).toEqual(['JOBS_RUNNING']);
    },
  );

  it('multi-replica: the whole preparation', () => {
    expect(codes(judgeGate('multi-replica', lacking, THREE))).toEqual([
      'RANGES_UNDERREPLICATED',
      'HEALTH_UNKNOWN',
      'HEALTH_UNKNOWN',
    ]);
  });
});
