import { describe, expect, it } from 'vitest';
import {
  type ClusterHealth,
  deriveClusters,
  ERRORS,
  HEALTH_MAX_AGE_MS,
  type Installation,
  LOST_AFTER_MS,
  makePlan,
  type NodeFacts,
  type Topology,
} from '../src/index.ts';
import {
  allAt,
  BACKUP,
  codesOf,
  type DraftWish,
  draft,
  fleet,
  host,
  installation,
  NEW,
  NOW,
  OLD,
  OLD_PACKAGE,
  pkg,
  row,
  view,
  withHealth,
  withInstallation,
  withReport,
  withRow,
} from './builders.ts';

const three = fleet('multi-replica', 3);
const health2 = (change: (old: ClusterHealth) => Partial<ClusterHealth>) => withHealth(three, change);
const rowChanged = (change: Parameters<typeof row>[1]) => health2((old) => withRow(old, 2, change ?? {}));
const at = (recorded: string) => withInstallation(three, 2, { versions: { ...allAt(OLD), recorded } });
const linked = (change: Partial<NodeFacts>) => three.map((one) => (one.node === 'n2' ? { ...one, ...change } : one));
const packaged = (change: Parameters<typeof pkg>[0]): DraftWish => ({ packages: [pkg(change)] });
const rpmPackage = (change: Parameters<typeof pkg>[0] = {}) => pkg({ family: 'rpm', ...change });
const containers = [1, 2, 3].reduce(
  (nodes, id) => withInstallation(nodes, id, { method: 'script-container' }),
  three as NodeFacts[],
);
const rpmThree = three.map((one) => ({
  ...one,
  report: {
    ...one.report,
    host: host({ distribution: { id: 'openEuler', versionId: '24.03', family: 'rpm' } }),
  },
}));
const without = <K extends keyof Installation>(key: K): Omit<Installation, K> => {
  const { [key]: _, ...rest } = installation();
  return rest;
};

it.each<[Topology, number]>([
  ['standalone', 1],
  ['multi-replica', 3],
  ['multi-replica', 9],
  ['single-replica', 1],
  ['single-replica', 4],
])('a healthy %s cluster of %i passes every check', (topology, size) => {
  const { checks, blocked, plan } = draft(fleet(topology, size));
  expect(checks.filter(({ verdict }) => verdict !== 'pass')).toEqual([]);
  expect(blocked).toBe(false);
  expect(plan).toBeDefined();
});

it('rpm hosts whose version before is in the registry pass every check', () => {
  const { checks, blocked, plan } = draft(rpmThree, { packages: [rpmPackage({ version: OLD }), rpmPackage()] });
  expect(checks.filter(({ verdict }) => verdict !== 'pass')).toEqual([]);
  expect(blocked).toBe(false);
  expect(plan?.previousPackage).toMatchObject({ version: OLD, family: 'rpm' });
});

it('rpm hosts of two versions need the packages of both, and are told of the one that lacks', () => {
  const two = withInstallation(rpmThree, 2, { versions: allAt('3.0.5') });
  const [first, second] = [rpmPackage({ version: OLD }), rpmPackage({ version: '3.0.5' })];
  const { checks, plan } = draft(two, { packages: [first, second, rpmPackage()] });
  expect(checks.filter(({ verdict }) => verdict === 'block')).toEqual([]);
  expect([plan?.previousPackage, plan?.otherPreviousPackages]).toEqual([first, [second]]);
  for (const [has, lacks, node] of [
    [second, OLD, 'n1'],
    [first, '3.0.5', 'n2'],
  ] as const) {
    const missing = draft(two, { packages: [has, rpmPackage()] }).checks.filter(({ verdict }) => verdict === 'block');
    expect(missing.map((check) => check.node)).toEqual(node === 'n1' ? ['n1', 'n3'] : ['n2']);
    for (const { code, message } of missing) {
      expect([code, message]).toEqual([
        'PREVIOUS_PACKAGE_MISSING',
        expect.stringContaining(`no rpm package of ${lacks}`),
      ]);
    }
  }
});

it('rpm hosts have no way back without it', () => {
  const { checks, blocked } = draft(rpmThree, { packages: [rpmPackage()] });
  expect(codesOf(checks, 'block')).toEqual(['PREVIOUS_PACKAGE_MISSING']);
  expect(blocked).toBe(true);
});

it('a package that nobody signed is told apart from none', () => {
  const [cluster] = deriveClusters(three);
  if (cluster === undefined) throw new Error('no cluster');
  const wish = { cluster, to: NEW, packages: [OLD_PACKAGE], options: { backup: BACKUP }, nowMs: NOW };
  expect(codesOf(makePlan({ ...wish, unsigned: [pkg()] }).checks, 'block')).toEqual(['PACKAGE_UNSIGNED']);
  expect(codesOf(makePlan(wish).checks, 'block')).toEqual(['PACKAGE_UNKNOWN']);
});

describe('blocks', () => {
  const CASES: [string, string, NodeFacts[], DraftWish][] = [
    ['PACKAGE_UNKNOWN', 'no package of the target', three, { packages: [OLD_PACKAGE] }],
    ['NODE_MISSING', 'a node without an agent', three.slice(0, 2), {}],
    [
      'TOPOLOGY_DISAGREES',
      'MODE against the start mode',
      withInstallation(three, 2, { topology: 'single-replica' }),
      {},
    ],
    [
      'TOPOLOGY_DISAGREES',
      'nodes of two topologies, each sure of its own',
      withReport(three, 2, () => ({
        installation: installation({ topology: 'single-replica' }),
        view: view([row(2, { startMode: 'start-single-replica' })], { observedAtMs: NOW - 50_000 }),
      })),
      {},
    ],
    ['TOPOLOGY_DISAGREES', 'a standalone instance of two', fleet('standalone', 2), {}],
    ['METHODS_MIXED', 'two deployment methods', withInstallation(three, 2, { method: 'source' }), {}],
    ['CLUSTER_TOO_SMALL', 'two nodes', fleet('multi-replica', 2), {}],
    ['CLUSTER_TOO_SMALL', 'one node', fleet('multi-replica', 1), {}],
    ['BACKUP_REQUIRED', 'no word of a backup', three, { options: { backup: undefined as never } }],
    ['NODE_UNREACHABLE', 'an agent that is not connected', linked({ connected: false }), {}],
    ['NODE_UNREACHABLE', 'a silent agent', linked({ lastSeenMs: NOW - LOST_AFTER_MS - 1 }), {}],
    ['NOT_INSTALLED', 'no installation', withReport(three, 2, () => ({ installation: undefined as never })), {}],
    [
      'NOT_INSTALLED',
      'no unit',
      withInstallation(three, 2, { unit: { exists: false, active: 'inactive', enabled: false } }),
      {},
    ],
    [
      'NODE_MARKED_UPGRADING',
      'a container that the database says is marked',
      withReport(
        withInstallation(containers, 2, { condition: 'marked-upgrading', conditionDetail: 'marked' }),
        2,
        () => ({
          view: view([row(1), row(2, { isAvailable: false }), row(3)], { kwdbId: 2 }),
        }),
      ),
      { packages: [pkg({ kind: 'container', family: 'any' })] },
    ],
    [
      'NODE_MARKED_UPGRADING',
      'a mark',
      withInstallation(three, 2, { condition: 'marked-upgrading', conditionDetail: 'the database lists it so' }),
      {},
    ],
    [
      'INSTALLATION_HALF_DONE',
      'half a package',
      withInstallation(three, 2, { condition: 'package-half-installed' }),
      {},
    ],
    ['INSTALLATION_HALF_DONE', 'an old process', withInstallation(three, 2, { condition: 'process-behind' }), {}],
    ['NODE_NOT_RUNNING', 'a stopped database', withReport(three, 2, () => ({ serving: false })), {}],
    ['METHOD_MISMATCH', 'a bare package for a container', withInstallation(three, 2, { method: 'docker-run' }), {}],
    [
      'ROUTE_UNSUPPORTED',
      'a container to be upgraded while it runs',
      withInstallation(three, 2, { method: 'docker-run' }),
      { ...packaged({ kind: 'container' }), options: { route: 'online' } },
    ],
    ['CONTAINER_UNFIT', 'a container that goes with its data', withInstallation(three, 2, { unfit: 'it is --rm' }), {}],
    ['METHOD_MISMATCH', 'a container package', three, packaged({ kind: 'container' })],
    ['ARCHITECTURE_MISMATCH', 'a package for arm64', three, packaged({ architecture: 'arm64' })],
    ['DISTRIBUTION_MISMATCH', 'a package for rpm', three, packaged({ family: 'rpm' })],
    [
      'PREVIOUS_PACKAGE_MISSING',
      'rpm with the package of another version than the node has',
      withInstallation(rpmThree, 2, { versions: allAt('3.0.5') }),
      { packages: [rpmPackage(), rpmPackage({ version: OLD })] },
    ],
    [
      'VERSION_UNSUPPORTED',
      'between branches',
      at('3.1.0 patch1'),
      { to: '3.1.0-hotfix1', packages: [pkg({ version: '3.1.0-hotfix1' })] },
    ],
    ['VERSION_OLDER', 'a newer node', at('3.2.0'), {}],
    [
      'VERSION_REFUSED',
      'a release to a preview',
      at('3.1.0'),
      { to: '3.1.0-beta1', packages: [pkg({ version: '3.1.0-beta1' })] },
    ],
    [
      'PRIVILEGES_MISSING',
      'an agent without rights',
      withReport(three, 2, () => ({ host: host({ privileges: 'none' }) })),
      {},
    ],
    [
      'DISK_FULL',
      "the agent's disk",
      withReport(three, 2, () => ({ host: host({ freeBytes: { agent: 1, install: 1e12, data: 1e12 } }) })),
      {},
    ],
    [
      'DISK_FULL',
      'the install disk',
      withReport(three, 2, () => ({ host: host({ freeBytes: { agent: 1e12, install: 1, data: 1e12 } }) })),
      {},
    ],
    ['NODE_NOT_LIVE', 'a node down', rowChanged({ isLive: false }), {}],
    ['NODE_NOT_AVAILABLE', 'a node marked', rowChanged({ isAvailable: false }), {}],
    ['RANGES_UNAVAILABLE', 'lost ranges', health2(() => ({ rangesUnavailable: 1 })), {}],
    ['RANGES_UNDERREPLICATED', 'thin ranges', health2(() => ({ rangesUnderreplicated: 1 })), {}],
    [
      'JOBS_RUNNING',
      'an import',
      health2(() => ({ jobs: [{ id: '1', type: 'IMPORT', description: '', status: 'running' }] })),
      {},
    ],
  ];

  it.each(CASES)('%s: %s', (code, _case, nodes, wish) => {
    const { checks, blocked } = draft(nodes, wish);
    expect(codesOf(checks, 'block')).toContain(code);
    expect(blocked).toBe(true);
  });

  it.each(CASES.filter(([, , nodes]) => nodes !== three && nodes.length === 3))(
    '%s names the node and only that: %s',
    (code, _case, nodes, wish) => {
      const named = draft(nodes, wish).checks.filter((check) => check.code === code && check.verdict === 'block');
      expect(named.every(({ node }) => node === undefined || node === 'n2')).toBe(true);
    },
  );

  it('each with a message and a remedy, in words', () => {
    for (const [, , nodes, wish] of CASES) {
      for (const check of draft(nodes, wish).checks) {
        expect(Object.hasOwn(ERRORS, check.code)).toBe(true);
        expect(check.message).not.toBe('');
        if (check.verdict !== 'pass') expect(check.remedy).toBeTruthy();
      }
    }
  });

  it('VERSION_EQUAL when nothing is left to do', () => {
    const done = fleet('multi-replica', 3).map((one) => ({
      ...one,
      report: { ...one.report, installation: installation({ versions: allAt(NEW) }) },
    }));
    const { checks, blocked } = draft(done);
    expect(codesOf(checks, 'block')).toEqual(['VERSION_EQUAL']);
    expect(blocked).toBe(true);
  });
});

describe('unknown blocks', () => {
  it.each<[string, string, NodeFacts[]]>([
    ['TOPOLOGY_UNKNOWN', 'no MODE', withReport(three, 2, () => ({ installation: without('topology') }))],
    ['TOPOLOGY_UNKNOWN', 'no start mode', withReport(three, 2, () => ({ view: undefined as never }))],
    ['VERSION_UNKNOWN', 'no .version', withInstallation(three, 2, { versions: {} })],
    ['VERSION_UNKNOWN', 'a .version of garbage', at('\u0000\u0000\u0000')],
    ['HEALTH_UNKNOWN', 'ranges not told', health2(() => ({ rangesUnavailable: undefined as never }))],
    ['HEALTH_UNKNOWN', 'jobs not told', health2(() => ({ jobs: undefined as never }))],
    [
      'HEALTH_UNKNOWN',
      'an old answer',
      health2((old) => ({ view: { ...old.view, observedAtMs: NOW - HEALTH_MAX_AGE_MS - 1 } })),
    ],
    [
      'HEALTH_UNKNOWN',
      'no answer',
      three.map((one) => ({ ...one, report: { ...one.report, health: undefined as never } })),
    ],
  ])('%s: %s', (code, _case, nodes) => {
    const { checks, blocked } = draft(nodes);
    expect(codesOf(checks, 'unknown')).toEqual([code]);
    expect(blocked).toBe(true);
  });

  it('a cluster of which nothing is known but its id', () => {
    const nodes = three.map((one) => ({
      ...one,
      report: {
        host: one.report.host,
        serving: true,
        ready: true,
        identity: { clusterId: 'c1', kwdbId: Number(one.node.slice(1)) },
        observedAtMs: NOW,
      },
    }));
    expect(draft(nodes)).toMatchObject({ blocked: true });
    expect(draft(nodes)).not.toHaveProperty('plan');
  });

  it('a cluster without nodes', () => {
    const empty = { id: 'c1', nodes: [], missing: [] };
    const wish = { cluster: empty, to: NEW, packages: [pkg()], options: {}, nowMs: NOW };
    expect(makePlan(wish)).toMatchObject({ blocked: true });
  });

  it('an answer of just the allowed age is still good', () => {
    const nodes = health2((old) => ({ view: { ...old.view, observedAtMs: NOW - HEALTH_MAX_AGE_MS } }));
    expect(draft(nodes).blocked).toBe(false);
  });

  it('the age of an answer is told by the clock of the host that asked', () => {
    const behind = health2((old) => ({ view: { ...old.view, observedAtMs: NOW - 600_000 } })).map((one) => ({
      ...one,
      clockSkewMs: -599_000,
    }));
    expect(codesOf(draft(behind).checks, 'unknown')).toEqual([]);
  });
});

describe('warns and goes on', () => {
  it.each<[string, NodeFacts[], DraftWish]>([
    ['BACKUP_REQUIRED', three, { options: { backup: { policy: 'none', reason: 'a test cluster' } } }],
    [
      'NODE_MARKED_UPGRADING',
      withInstallation(containers, 2, { condition: 'marked-upgrading', conditionDetail: '--upgrade-complete' }),
      { packages: [pkg({ kind: 'container', family: 'any' })] },
    ],
    ['CLOCK_SKEW', linked({ clockSkewMs: -3_000 }), {}],
    ['LEASES_UNEVEN', health2(() => ({ leases: [{ kwdbId: 1, count: 30 }] })), {}],
    ['CLIENTS_ON_ONE_NODE', health2(() => ({ sessions: [{ kwdbId: 1, count: 30 }] })), {}],
  ])('%s', (code, nodes, wish) => {
    const { checks, blocked } = draft(nodes, wish);
    expect(codesOf(checks, 'warn')).toEqual([code]);
    expect(blocked).toBe(false);
  });
});

describe('the bypass of the version check', () => {
  const options = { bypassVersionCheck: true };

  it('turns an unsupported step into a warning', () => {
    const to = '3.1.0-hotfix1';
    const everywhere = three.map((one) => ({
      ...one,
      report: { ...one.report, installation: installation({ versions: allAt('3.1.0-patch1') }) },
    }));
    const { checks, blocked } = draft(everywhere, { to, packages: [pkg({ version: to })], options });
    expect(codesOf(checks, 'warn')).toEqual(['VERSION_UNSUPPORTED']);
    expect(blocked).toBe(false);
  });

  it.each([
    ['3.2.0', '3.1.0', 'VERSION_OLDER'],
    ['3.1.0 hotfix2', '3.1.0-hotfix1', 'VERSION_OLDER'],
    ['3.1.0 hotfix1', '3.1.0', 'VERSION_OLDER'],
    ['3.1.0', '3.1.0-beta1', 'VERSION_REFUSED'],
    ['3.1.0 patch1', '3.1.0-alpha1', 'VERSION_REFUSED'],
  ])('never turns %s → %s into a legal one', (from, to, code) => {
    const { checks, blocked } = draft(at(from), { to, packages: [pkg({ version: to })], options });
    expect(
      checks.filter((check) => check.node === 'n2' && check.verdict === 'block').map((check) => check.code),
    ).toEqual([code]);
    expect(blocked).toBe(true);
  });
});

describe('a node that has the target already', () => {
  it('is no obstacle: an interrupted upgrade goes on with the others', () => {
    const { checks, blocked } = draft(withInstallation(three, 2, { versions: allAt(NEW) }));
    expect(checks.find((check) => check.code === 'VERSION_EQUAL')).toMatchObject({ verdict: 'pass', node: 'n2' });
    expect(blocked).toBe(false);
  });
});

it('a target that is no version is refused before anything is asked', () => {
  const [cluster] = deriveClusters(three);
  if (cluster === undefined) throw new Error('no cluster');
  const wish = { cluster, to: 'latest', packages: [pkg()], options: {}, nowMs: NOW };
  expect(() => makePlan(wish)).toThrowError(expect.objectContaining({ code: 'VERSION_INVALID' }));
});
