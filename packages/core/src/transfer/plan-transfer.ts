/** From two clusters and what they hold to the plan of a transfer. Source: KWDB facts, "the any-version path". */
import type { Phase } from '../action.ts';
import type { NodeFacts } from '../facts.ts';
import { type CheckResult, DEFAULT_OPTIONS, type Plan, type PlanNode, type Step } from '../plan.ts';
import type { PlanDraft } from '../planner/make-plan.ts';
import { type Cluster, LOST_AFTER_MS } from '../topology.ts';
import { isVersion, normalVersion } from '../version.ts';
import { checkTransfer, type TransferSide } from './check-transfer.ts';
import type {
  Inventory,
  InventoryDatabase,
  NewDatabase,
  TransferContent,
  TransferOptions,
  TransferUnit,
} from './model.ts';
import { isKnownPrivilege } from './sql.ts';

export type TransferWish = {
  readonly source: Omit<TransferSide, 'node'>;
  readonly target: Omit<TransferSide, 'node'>;
  readonly options: TransferOptions & { readonly seed: number };
  readonly nowMs: number;
};

const CONCURRENCY = 2;
const SAMPLE_ROWS = 500;
/** A large table takes its time, and KWDB tells little of how far it is. */
const CEILING_MS = 48 * 3_600_000;

/** Makes the plan and its checks; touches nothing. The run is the target's; the source takes part in it. */
export function makeTransferPlan({ source, target, options, nowMs }: TransferWish): PlanDraft {
  const from: TransferSide = { ...source, node: transferNode(source.cluster, nowMs) };
  const into: TransferSide = { ...target, node: transferNode(target.cluster, nowMs) };
  const checks = checkTransfer({ source: from, target: into, nowMs });
  const blocked = checks.some(({ verdict }) => verdict === 'block' || verdict === 'unknown');
  return { ...planOf(from, into, options, checks), checks, blocked };
}

/** The node of a cluster that would export or import: the first that serves and is heard. */
export function transferNode({ nodes }: Cluster, nowMs: number): NodeFacts | undefined {
  return nodes.find(
    ({ connected, lastSeenMs, report }) => connected && nowMs - lastSeenMs <= LOST_AFTER_MS && report.ready,
  );
}

function planOf(
  source: TransferSide,
  target: TransferSide,
  options: TransferWish['options'],
  checks: readonly CheckResult[],
): { plan?: Plan } {
  const [exporter, importer] = [source.node, target.node].map(planNode);
  const { topology } = target.cluster;
  if (exporter === undefined || importer === undefined || topology === undefined) return {};
  if (source.inventory === undefined || target.inventory === undefined) return {};
  if (checks.some(({ code }) => code === 'TRANSFER_SAME_CLUSTER')) return {};
  const ceilingMs = options.ceilingMs ?? CEILING_MS;
  const transfer = contentOf(source.inventory, target.inventory, {
    source: { cluster: source.cluster.id, node: exporter.node, version: exporter.from },
    sample: { seed: options.seed, rows: options.sampleRows ?? SAMPLE_ROWS },
  });
  const plan: Plan = {
    format: 1,
    kind: 'transfer',
    cluster: target.cluster.id,
    topology,
    to: importer.from,
    options: { ...DEFAULT_OPTIONS, deadline: { ...DEFAULT_OPTIONS.deadline, ceilingMs } },
    transfer,
    nodes: [exporter, importer],
    steps: [],
    backOut: [],
  };
  return { plan: { ...plan, steps: stepsOf(plan, transfer, options.concurrency ?? CONCURRENCY) } };
}

function planNode(facts: NodeFacts | undefined): PlanNode | undefined {
  const installation = facts?.report.installation;
  const identity = facts?.report.identity;
  const recorded = installation?.versions.recorded;
  if (facts === undefined || installation === undefined || identity === undefined) return undefined;
  if (recorded === undefined || !isVersion(recorded)) return undefined;
  return {
    node: facts.node,
    kwdbId: identity.kwdbId,
    address: `${installation.address}:${installation.port}`,
    method: installation.method,
    from: normalVersion(recorded),
  };
}

function contentOf(
  source: Inventory,
  target: Inventory,
  fixed: Pick<TransferContent, 'source' | 'sample'>,
): TransferContent {
  const known = new Set(target.knownSettings);
  return {
    ...fixed,
    units: source.databases.flatMap(unitsOf),
    databases: source.databases.flatMap(newDatabase),
    users: source.users,
    memberships: source.memberships,
    grants: source.grants.filter(({ privilege }) => isKnownPrivilege(privilege)),
    clusterSettings: source.clusterSettings.filter(({ name }) => known.has(name)),
  };
}

function unitsOf({ name, engine, tables }: InventoryDatabase): TransferUnit[] {
  if (engine === 'timeseries') return tables.length === 0 ? [] : [{ engine, database: name, tables }];
  return tables.map((table) => ({ engine, database: name, tables: [table] }));
}

function newDatabase({ name, engine, schemas, tables }: InventoryDatabase): NewDatabase[] {
  return engine === 'timeseries' && tables.length > 0 ? [] : [{ name, engine, schemas }];
}

/**
 * Databases and users first; then each unit exported, imported and compared, `concurrency` of them one behind the other,
 * so that no more of their files are under way; privileges once the tables are there, settings last.
 */
function stepsOf(plan: Plan, content: TransferContent, concurrency: number): Step[] {
  const [exporter, importer] = plan.nodes as [PlanNode, PlanNode];
  const { deadline } = plan.options;
  const step = (
    kind: 'export' | 'import' | 'compare' | 'recreate',
    part: string,
    needs: readonly string[],
    title: string,
    changes: readonly string[],
  ): Step => {
    const { node } = kind === 'export' ? exporter : importer;
    const phases: Phase[] = [kind];
    return {
      id: `${kind}:${node}:${part}`,
      kind,
      node,
      executor: 'self',
      needs: [...needs],
      phases,
      deadline,
      title,
      changes: [...changes],
    };
  };
  const made = (
    part: 'databases' | 'users' | 'grants' | 'settings',
    needs: readonly string[],
    count: number,
    what: string,
  ) =>
    count === 0
      ? []
      : [step('recreate', part, needs, `make ${count} ${what} on ${importer.node}`, [`${what} of the target`])];
  const first = [
    ...made('databases', [], content.databases.length, 'databases'),
    ...made('users', [], content.users.length + content.memberships.length, 'users and memberships'),
  ];
  const steps = [...first];
  const lanes: string[] = [];
  for (const [index, unit] of content.units.entries()) {
    const lane = index % concurrency;
    const before = lanes[lane] === undefined ? first.map(({ id }) => id) : [lanes[lane]];
    const name = unitName(unit);
    const exported = step('export', partOf(index), before, `export ${name} on ${exporter.node}`, []);
    const imported = step('import', partOf(index), [exported.id], `import ${name} on ${importer.node}`, [
      `${name} of the target is made`,
    ]);
    const compared = step('compare', partOf(index), [imported.id], `compare rows and samples of ${name}`, []);
    steps.push(exported, imported, compared);
    lanes[lane] = compared.id;
  }
  const compared = lanes.length === 0 ? first.map(({ id }) => id) : lanes;
  const grants = made('grants', compared, content.grants.length, 'privileges');
  const after = grants.length === 0 ? compared : grants.map(({ id }) => id);
  return [...steps, ...grants, ...made('settings', after, content.clusterSettings.length, 'cluster settings')];
}

export const unitName = ({ engine, database, tables }: TransferUnit): string =>
  engine === 'timeseries' ? `time-series database ${database}` : `${database}.${tables[0]?.schema}.${tables[0]?.table}`;

/** A step's part, from the place of its unit in the plan. */
const partOf = (index: number): string => `u${index + 1}`;

/** The part of a step's id: `u3`, `grants`; undefined where it has none. */
export const stepPart = (id: string): string | undefined => id.split(':')[2];

/** The unit that a step is about. */
export function unitOf(content: TransferContent, id: string): TransferUnit | undefined {
  const place = /^u([1-9]\d{0,5})$/.exec(stepPart(id) ?? '');
  return place === null ? undefined : content.units[Number(place[1]) - 1];
}
