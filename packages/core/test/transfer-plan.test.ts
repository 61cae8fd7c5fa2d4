import { describe, expect, it } from 'vitest';
import {
  actionFor,
  actionId,
  apply,
  type Cluster,
  decide,
  deriveClusters,
  eventOfResult,
  type Inventory,
  initialState,
  makeTransferPlan,
  type NodeFacts,
  type Plan,
  type RunState,
  type TransferOptions,
  type TransferOutcome,
} from '../src/index.ts';
import { codesOf, facts, NOW, planOf, report, withInstallation, withReport } from './builders.ts';

const SHA = 'a'.repeat(64);

function cluster(id: string, change: (nodes: NodeFacts[]) => NodeFacts[] = (nodes) => nodes): Cluster {
  const made = report(1, ['standalone', 1], { identity: { clusterId: id, kwdbId: 1 } });
  const [found] = deriveClusters(change([{ ...facts(1, made), node: `${id}-n1` }]));
  if (found === undefined) throw new Error('no cluster');
  return found;
}

const inventory = (change: Partial<Inventory> = {}): Inventory => ({
  observedAtMs: NOW,
  databases: [],
  users: [],
  memberships: [],
  grants: [],
  clusterSettings: [],
  knownSettings: ['sql.defaults.distsql'],
  ...change,
});

const ref = (table: string, schema = 'public') => ({ schema, table });
const database = (name: string, change: Partial<Inventory['databases'][number]> = {}) => ({
  name,
  engine: 'relational' as const,
  schemas: [],
  tables: [],
  notCarried: [],
  foreignKeys: [],
  ...change,
});

const FULL = inventory({
  databases: [
    database('defaultdb'),
    database('shop', { schemas: ['sales'], tables: [ref('orders'), ref('regions', 'sales'), ref('empty')] }),
    database('metrics', { engine: 'timeseries', tables: [ref('cpu'), ref('disk')] }),
    database('hollow', { engine: 'timeseries' }),
  ],
  users: [{ name: 'ann', isRole: false, options: [] }],
  memberships: [{ role: 'readers', member: 'ann', isAdmin: false }],
  grants: [{ database: 'shop', grantee: 'ann', privilege: 'SELECT' }],
  clusterSettings: [
    { name: 'sql.defaults.distsql', value: 'off' },
    { name: 'retired.setting', value: '1' },
  ],
});

type Wish = {
  source?: Cluster;
  target?: Cluster;
  of?: Inventory | undefined;
  into?: Inventory | undefined;
  options?: TransferOptions;
};

const draft = ({ source = cluster('old'), target = cluster('new'), options = {}, ...told }: Wish = {}) =>
  makeTransferPlan({
    source: { cluster: source, name: 'old', inventory: 'of' in told ? told.of : FULL },
    target: {
      cluster: target,
      name: 'new',
      inventory: 'into' in told ? told.into : inventory({ databases: [database('defaultdb')] }),
    },
    options: { seed: 1, ...options },
    nowMs: NOW,
  });

describe('the plan of a transfer', () => {
  it('makes databases and users first, then each unit in three steps, then privileges and settings', () => {
    const plan = planOf(draft({ options: { concurrency: 1 } }));
    expect(plan.steps.map(({ id }) => id)).toEqual([
      'recreate:new-n1:databases',
      'recreate:new-n1:users',
      ...[1, 2, 3, 4].flatMap((n) => [`export:old-n1:u${n}`, `import:new-n1:u${n}`, `compare:new-n1:u${n}`]),
      'recreate:new-n1:grants',
      'recreate:new-n1:settings',
    ]);
    expect(plan.transfer?.units.map(({ database: name, tables }) => [name, tables.length])).toEqual([
      ['shop', 1],
      ['shop', 1],
      ['shop', 1],
      ['metrics', 2],
    ]);
    // IMPORT DATABASE makes a time-series database, but none without tables.
    expect(plan.transfer?.databases.map(({ name }) => name)).toEqual(['defaultdb', 'shop', 'hollow']);
    expect(plan.transfer?.clusterSettings.map(({ name }) => name)).toEqual(['sql.defaults.distsql']);
    expect(plan).toMatchObject({ kind: 'transfer', cluster: 'new', transfer: { source: { cluster: 'old' } } });
  });

  it.each([1, 2, 3])('has at most %d units under way, and privileges only after all', (concurrency) => {
    const { steps } = planOf(draft({ options: { concurrency } }));
    const needsOf = (id: string): Set<string> => {
      const all = new Set<string>();
      const add = (name: string) => {
        for (const need of steps.find((step) => step.id === name)?.needs ?? []) {
          all.add(need);
          add(need);
        }
      };
      add(id);
      return all;
    };
    // As many lanes as may be under way; in each, a unit waits for the one before.
    for (const n of [1, 2, 3, 4].filter((unit) => unit > concurrency)) {
      expect(needsOf(`export:old-n1:u${n}`)).toContain(`compare:new-n1:u${n - concurrency}`);
    }
    const before = needsOf('recreate:new-n1:grants');
    for (const n of [1, 2, 3, 4]) expect(before).toContain(`compare:new-n1:u${n}`);
    expect(needsOf('import:new-n1:u1')).toContain('recreate:new-n1:databases');
  });

  it('is the same for the same seed', () => {
    expect(planOf(draft())).toEqual(planOf(draft()));
    expect(planOf(draft({ options: { seed: 2 } as TransferOptions })).transfer?.sample.seed).toBe(2);
  });
});

describe('the checks of a transfer', () => {
  const blocks = (wish: Wish) => codesOf(draft(wish).checks, 'block');

  it('pass for a fresh target', () => {
    const { checks, blocked } = draft();
    expect(blocked).toBe(false);
    expect(codesOf(checks, 'warn')).toEqual(['TRANSFER_NOT_CARRIED', 'TRANSFER_PASSWORDS']);
  });

  it('block what is in the way on the target', () => {
    const holds = (found: ReturnType<typeof database>) => inventory({ databases: [found] });
    expect(blocks({ into: holds(database('shop', { tables: [ref('other')] })) })).toContain(
      'TRANSFER_TARGET_NOT_EMPTY',
    );
    expect(blocks({ into: holds(database('shop', { notCarried: ['VIEW public.v'] })) })).toContain(
      'TRANSFER_TARGET_NOT_EMPTY',
    );
    expect(blocks({ into: holds(database('metrics', { engine: 'timeseries' })) })).toContain(
      'TRANSFER_TARGET_NOT_EMPTY',
    );
    expect(blocks({ into: holds(database('shop')) })).toEqual([]);
    expect(blocks({ into: holds(database('elsewhere', { tables: [ref('x')] })) })).toEqual([]);
  });

  it('block a transfer of nothing, into itself, and what nobody told', () => {
    const one = cluster('old');
    expect(blocks({ source: one, target: one })).toEqual(['TRANSFER_SAME_CLUSTER']);
    expect(blocks({ of: inventory() })).toContain('TRANSFER_NOTHING');
    expect(codesOf(draft({ of: undefined }).checks, 'unknown')).toContain('TRANSFER_UNKNOWN');
    expect(draft({ into: undefined })).toMatchObject({ blocked: true });
    expect(draft({ into: undefined }).plan).toBeUndefined();
  });

  it('block a side whose node does not serve, is not ours to read, or has jobs running', () => {
    const change = (work: (nodes: NodeFacts[]) => NodeFacts[]) =>
      cluster('new', (nodes) => work(nodes.map((node) => ({ ...node, node: 'n1' }))));
    const down = change((nodes) => withReport(nodes, 1, () => ({ ready: false })));
    expect(blocks({ target: down })).toContain('NODE_NOT_RUNNING');
    expect(blocks({ target: change((nodes) => withInstallation(nodes, 1, { method: 'compose' })) })).toContain(
      'METHOD_UNSUPPORTED',
    );
    const sudo = change((nodes) => withReport(nodes, 1, ({ host }) => ({ host: { ...host, privileges: 'sudo' } })));
    expect(blocks({ target: sudo })).toContain('PRIVILEGES_MISSING');
    const busy = change((nodes) =>
      withReport(nodes, 1, ({ health }) => ({
        ...(health && {
          health: { ...health, jobs: [{ id: '7', type: 'IMPORT', description: 'x', status: 'running' }] },
        }),
      })),
    );
    expect(blocks({ target: busy })).toContain('JOBS_RUNNING');
  });

  it('name what is left behind', () => {
    const left = inventory({
      databases: [
        database('shop', { tables: [ref('orders')], notCarried: ['VIEW public.newest'], foreignKeys: [ref('orders')] }),
      ],
    });
    const told = draft({ of: left })
      .checks.map(({ message }) => message)
      .join('\n');
    expect(told).toContain('shop: VIEW public.newest');
    expect(told).toContain('shop.public.orders');
  });

  it('name each privilege and option of a user that this version does not know, and carry the others', () => {
    const grant = { database: 'shop', grantee: 'ann' };
    const told = draft({
      of: {
        ...FULL,
        users: [{ name: 'ann', isRole: false, options: ['CREATEROLE', 'VIEWACTIVITY', 'VALID UNTIL=2030-01-01'] }],
        grants: [
          { ...grant, grantee: 'public', privilege: 'SELECT' },
          { ...grant, privilege: 'ZONECONFIG' },
          { ...grant, schema: 'sales', table: 'regions', privilege: 'BACK UP' },
        ],
      },
    });
    const messages = told.checks.filter(({ code }) => code === 'TRANSFER_NOT_CARRIED').map(({ message }) => message);
    expect(messages).toContain(
      'these privileges are not carried: ZONECONFIG on shop of ann, BACK UP on shop.sales.regions of ann',
    );
    expect(messages).toContain('these options of users are not carried: VIEWACTIVITY of ann');
    expect(planOf(told).transfer?.grants).toEqual([{ ...grant, grantee: 'public', privilege: 'SELECT' }]);
  });
});

describe('the run of a transfer', () => {
  const outcome: TransferOutcome = {
    files: [{ path: 'n1.0.csv', sizeBytes: 3, sha256: SHA }],
    digests: [{ ...ref('orders'), rows: 3, columns: ['id'], order: ['id'], sampledRows: 3, sha256: SHA }],
    rejectFiles: [],
  };
  const bySide = new Map<string, NodeFacts>([
    ['old-n1', { ...facts(1, report(1, ['standalone', 1])), node: 'old-n1' }],
    ['new-n1', { ...facts(1, report(1, ['standalone', 1])), node: 'new-n1' }],
  ]);

  /** Dispatches what is due and lets it end as told, until `stop` is due or the run stands. */
  function walk(plan: Plan, from: RunState, failing: Record<string, string> = {}) {
    let state = from;
    const orders: ReturnType<typeof actionFor>[] = [];
    for (let turn = 0; turn < 200; turn++) {
      const decisions = decide(plan, state, { nodes: bySide }, NOW);
      if (decisions.length === 0) break;
      for (const decision of decisions) {
        if (decision.do === 'record') {
          state = apply(plan, state, decision.event);
          continue;
        }
        const action = actionFor(plan, state, decision.step, { executor: decision.executor, epoch: 1, nowMs: 0 });
        orders.push(action);
        const { step, attempt } = action;
        state = apply(plan, state, { type: 'step-dispatched', step, attempt, executor: action.node, atMs: NOW });
        const code = failing[step];
        const event = eventOfResult(
          plan,
          state,
          {
            action: actionId(state.run, step, attempt),
            outcome: code === undefined ? 'succeeded' : 'failed',
            ...(code === undefined
              ? {}
              : { failure: { code, message: 'told to fail', phase: action.phases[0] ?? 'check' } }),
            disposition: code === undefined ? 'done' : step.startsWith('import') ? 'broken' : 'untouched',
            newVersionStarted: false,
            phases: [],
            report: report(1, ['standalone', 1]),
            ...(step.startsWith('export') ? { transfer: outcome } : {}),
          },
          NOW,
        );
        if (event !== undefined) state = apply(plan, state, event);
      }
    }
    return { state, orders };
  }

  const plan = planOf(draft({ options: { concurrency: 1 } }));
  const begin = () => initialState('run-1', plan);

  it('gives each step what the one before brought, and ends when all compare equal', () => {
    const { state, orders } = walk(plan, begin());
    expect(state).toMatchObject({ status: 'succeeded', reason: 'every table was imported and compares equal' });
    expect(state.steps['export:old-n1:u1']?.result?.transfer).toEqual({ ...outcome, files: [] });
    const order = (id: string) => orders.find(({ step }) => step === id)?.transfer;
    expect(order('export:old-n1:u1')).toMatchObject({ directory: 'kwfleet-run-1-u1-1', files: [], digests: [] });
    expect(order('import:new-n1:u1')).toMatchObject({
      files: outcome.files,
      digests: outcome.digests,
      mayReplace: false,
    });
    expect(order('compare:new-n1:u1')).toMatchObject({ digests: outcome.digests });
    expect(order('recreate:new-n1:grants')).toMatchObject({ grants: FULL.grants, users: [] });
    expect(order('recreate:new-n1:users')).toMatchObject({
      users: FULL.users,
      memberships: FULL.memberships,
      grants: [],
    });
  });

  it('holds a table that does not compare equal, and on a retry does all of it anew, and nothing else', () => {
    const held = walk(plan, begin(), { 'compare:new-n1:u2': 'TRANSFER_MISMATCH' });
    expect(held.state).toMatchObject({
      status: 'held',
      hold: { code: 'TRANSFER_MISMATCH', choices: ['retry', 'abort'] },
    });
    const retried = apply(plan, held.state, { type: 'retry-requested', by: 'ann', atMs: NOW });
    const { state, orders } = walk(plan, retried);
    expect(state.status).toBe('succeeded');
    expect(orders.slice(0, 3).map(({ step, attempt }) => [step, attempt])).toEqual([
      ['export:old-n1:u2', 2],
      ['import:new-n1:u2', 2],
      ['compare:new-n1:u2', 2],
    ]);
    expect(orders.some(({ step }) => step.endsWith('u1'))).toBe(false);
    expect(orders[1]?.transfer).toMatchObject({ mayReplace: true, directory: 'kwfleet-run-1-u2-2' });
  });

  it('lets a table be replaced only by the step that began to import it, however often that fails', () => {
    let { state } = walk(plan, begin(), { 'import:new-n1:u1': 'TRANSFER_ROWS_REJECTED' });
    expect(state.hold?.code).toBe('TRANSFER_ROWS_REJECTED');
    const retry = () => apply(plan, state, { type: 'retry-requested', by: 'ann', atMs: NOW });
    // The next attempt fails before it touches anything; the table is still this run's own.
    ({ state } = walk(plan, retry(), { 'export:old-n1:u1': 'KWBASE_FAILED' }));
    const { orders } = walk(plan, retry());
    expect(orders.find(({ step }) => step === 'import:new-n1:u1')?.transfer?.mayReplace).toBe(true);
    expect(orders.find(({ step }) => step === 'import:new-n1:u2')?.transfer?.mayReplace).toBe(false);
  });
});
