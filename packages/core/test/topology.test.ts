import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  deriveClusters,
  freshestHealth,
  freshestView,
  LOST_AFTER_MS,
  members,
  type NodeFacts,
  type NodeReport,
  nodeState,
  type Topology,
  topologyOf,
} from '../src/index.ts';
import { facts, fleet, health, installation, NOW, report, row, START_MODE, view, withReport } from './builders.ts';

const TOPOLOGIES = Object.keys(START_MODE) as Topology[];

describe('the two witnesses of a topology', () => {
  const witness = (change: Partial<NodeReport>) => topologyOf(report(1, ['multi-replica', 3], change));

  it.each(TOPOLOGIES.flatMap((recorded) => TOPOLOGIES.map((running): [Topology, Topology] => [recorded, running])))(
    'MODE %s, start mode of %s',
    (recorded, running) => {
      const found = witness({
        installation: installation({ topology: recorded }),
        view: view([row(1, { startMode: START_MODE[running] })]),
      });
      expect(found).toEqual(
        recorded === running
          ? { verdict: 'agreed', topology: recorded }
          : { verdict: 'disagreed', message: expect.stringContaining(START_MODE[running]) },
      );
    },
  );

  const { topology: _, ...withoutTopology } = installation();
  it.each([
    ['MODE does not tell', { installation: withoutTopology }],
    ['nothing is installed', { installation: undefined }],
    ['the database does not answer', { view: undefined }],
    ['the database does not list the node', { view: view([row(2)]) }],
    ['the node never told who it is', { identity: undefined }],
    ['the row has no start mode', { view: view([row(1, { startMode: undefined as never })]) }],
    ['the start mode is a new one', { view: view([row(1, { startMode: 'start-everything' })]) }],
    ['the start mode is the name of what every object has', { view: view([row(1, { startMode: 'constructor' })]) }],
  ])('unknown when %s', (_case, change) => {
    expect(witness(change as Partial<NodeReport>).verdict).toBe('unknown');
  });

  it("reads its own row, not another node's", () => {
    const found = witness({ view: view([row(1), row(2, { startMode: START_MODE['single-replica'] })]) });
    expect(found.verdict).toBe('agreed');
  });
});

describe('clusters', () => {
  it('are grouped by the id of the database and ordered', () => {
    const other = facts(7, report(7, ['standalone', 7], { identity: { clusterId: 'b0', kwdbId: 7 } }));
    const clusters = deriveClusters([...fleet('multi-replica', 3).toReversed(), other]);
    expect(clusters.map(({ id, nodes }) => [id, nodes.map(({ node }) => node)])).toEqual([
      ['b0', ['n7']],
      ['c1', ['n1', 'n2', 'n3']],
    ]);
  });

  it('do not depend on the order in which nodes report', () => {
    const nodes = fleet('single-replica', 6);
    fc.assert(
      fc.property(fc.shuffledSubarray(nodes, { minLength: nodes.length }), (shuffled) => {
        expect(deriveClusters(shuffled)).toEqual(deriveClusters(nodes));
      }),
    );
  });

  it('leave out a node whose database never answered', () => {
    const { identity: _, ...silent } = report(9, ['multi-replica', 3]);
    const [cluster, ...rest] = deriveClusters([...fleet('multi-replica', 3), facts(9, silent)]);
    expect(rest).toEqual([]);
    expect(cluster?.nodes.map(({ node }) => node)).toEqual(['n1', 'n2', 'n3']);
  });

  it('have a topology only when all nodes that tell it tell one', () => {
    const nodes = fleet('multi-replica', 3);
    const { topology: _, ...mute } = installation();
    expect(deriveClusters(withReport(nodes, 2, () => ({ installation: mute })))[0]?.topology).toBe('multi-replica');
    const mixed = withReport(nodes, 2, () => ({ installation: installation({ topology: 'single-replica' }) }));
    expect(deriveClusters(mixed)[0]).not.toHaveProperty('topology');
  });

  it('miss every member that the database lists and no agent reports', () => {
    const [cluster] = deriveClusters(fleet('multi-replica', 5).slice(0, 3));
    expect(cluster?.missing).toEqual([
      { kwdbId: 4, address: '10.0.0.4:26257' },
      { kwdbId: 5, address: '10.0.0.5:26257' },
    ]);
  });

  it('miss a node that never came up, though its address is not known', () => {
    const { address: _, ...noAddress } = row(2, { isLive: false });
    const [cluster] = deriveClusters([facts(1, report(1, ['multi-replica', 1], { view: view([row(1), noAddress]) }))]);
    expect(cluster?.missing).toEqual([{ kwdbId: 2 }]);
  });

  it('do not miss a node that the database has finished removing', () => {
    const rows = [row(1), row(2, { isDecommissioning: true, isLive: false })];
    const [cluster] = deriveClusters([facts(1, report(1, ['multi-replica', 1], { view: view(rows) }))]);
    expect(cluster?.missing).toEqual([]);
  });

  it('count as members: those leaving that still live, and those that are merely down', () => {
    const rows = [
      row(1),
      row(2, { isLive: false }),
      row(3, { isDecommissioning: true }),
      row(4, { isDecommissioning: true, isLive: false }),
    ];
    expect(members(rows).map(({ kwdbId }) => kwdbId)).toEqual([1, 2, 3]);
  });
});

describe('the freshest answer', () => {
  const at = (kwdbId: number, observedAtMs: number, clockSkewMs = 0): NodeFacts => {
    const seen = view([row(kwdbId)], { kwdbId, observedAtMs });
    const told = health([row(kwdbId)], { view: seen });
    return facts(kwdbId, report(kwdbId, ['multi-replica', 3], { view: seen, health: told }), { clockSkewMs });
  };

  it('is the newest of all, wherever it stands', () => {
    fc.assert(
      fc.property(fc.uniqueArray(fc.integer({ min: 1, max: 1_000_000 }), { minLength: 1, maxLength: 9 }), (times) => {
        const nodes = times.map((time, index) => at(index + 1, time));
        const newest = Math.max(...times);
        expect(freshestView(nodes)?.observedAtMs).toBe(newest);
        expect(freshestHealth(nodes)?.view.observedAtMs).toBe(newest);
      }),
    );
  });

  it('is none when no node could ask', () => {
    const { view: _, health: __, ...mute } = report(1, ['multi-replica', 3]);
    expect(freshestView([facts(1, mute)])).toBeUndefined();
    expect(freshestHealth([facts(1, mute)])).toBeUndefined();
    expect(freshestView([])).toBeUndefined();
  });

  it('is not that of a host whose clock runs ahead', () => {
    const ahead = at(1, NOW - 100_000 + 600_000, 600_000);
    const right = at(2, NOW - 1_000);
    expect(freshestView([ahead, right])?.kwdbId).toBe(2);
    expect(freshestHealth([ahead, right])?.view.kwdbId).toBe(2);
  });
});

describe("a node's state", () => {
  const stateOf = (change: Partial<NodeReport>, link: Partial<NodeFacts> = {}) =>
    nodeState(facts(1, report(1, ['multi-replica', 3], change), link), NOW);

  it('healthy, with nothing to say', () => {
    expect(stateOf({})).toEqual({ state: 'healthy', detail: '' });
  });

  it.each([
    ['unknown', 'agent was last heard', {}, { connected: false }],
    ['unknown', 'agent was last heard 16 s ago', {}, { lastSeenMs: NOW - LOST_AFTER_MS - 1_000 }],
    ['degraded', 'not installed', { installation: undefined }, {}],
    ['down', 'does not serve', { serving: false }, {}],
    ['degraded', 'does not take clients', { ready: false }, {}],
    [
      'degraded',
      'process-behind: why',
      { installation: installation({ condition: 'process-behind', conditionDetail: 'why' }) },
      {},
    ],
    ['degraded', 'marked upgrading', { view: view([row(1, { isAvailable: false })]) }, {}],
  ])('%s: %s', (state, detail, change, link) => {
    expect(stateOf(change as Partial<NodeReport>, link)).toEqual({ state, detail: expect.stringContaining(detail) });
  });

  it('is judged by what is not heard before what was last said', () => {
    expect(stateOf({ serving: false }, { connected: false }).state).toBe('unknown');
  });

  it('stays healthy up to the limit of silence', () => {
    expect(stateOf({}, { lastSeenMs: NOW - LOST_AFTER_MS }).state).toBe('healthy');
  });

  it('is that of a node without a view, when the database is not asked', () => {
    const { view: _, ...blind } = report(1, ['multi-replica', 3]);
    expect(nodeState(facts(1, blind), NOW).state).toBe('healthy');
  });
});
