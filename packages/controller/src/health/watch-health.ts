/** Looks at the whole fleet every moment, and keeps how it is and how it was. One controller at a time does it. */
import {
  type ClusterSummary,
  type HealthRecord,
  healthId,
  type NodeState,
  type NodeView,
  nextHealth,
  type Thresholds,
  worstState,
} from '@kwfleet/core';
import type { Logger } from 'pino';
import { type Fleet, readFleetIn } from '../api/fleet.ts';
import type { Database, Sql } from '../store/database.ts';
import {
  allHealth,
  appendHealth,
  forgetHealth,
  type HealthChange,
  type HealthKind,
  type HealthRow,
  lookAlone,
  putHealth,
} from '../store/health.ts';

/** Heartbeats are stored as they come; what they say of a node's health is looked at this often. */
const LOOK_MS = 2_000;

export type HealthWatch = { stop(): Promise<void> };

/** Told of what changed, in the transaction that keeps it. */
export type OnHealthChange = (sql: Sql, changes: readonly HealthChange[], fleet: Fleet) => Promise<void>;

export function watchHealth(
  database: Database,
  thresholds: Thresholds,
  onChange: OnHealthChange,
  log: Logger,
): HealthWatch {
  let looking: Promise<void> | undefined;
  const timer = setInterval(() => {
    looking ??= lookAtHealth(database, thresholds, onChange)
      .catch((error: unknown) => log.warn({ err: error }, 'the health of the fleet could not be looked at'))
      .then(() => {
        looking = undefined;
      });
  }, LOOK_MS);
  return {
    async stop() {
      clearInterval(timer);
      await looking;
    },
  };
}

/** One look. Nothing is written where nothing changed. */
export function lookAtHealth(database: Database, thresholds: Thresholds, onChange: OnHealthChange): Promise<void> {
  return database.transaction(async (sql) => {
    if (!(await lookAlone(sql))) return;
    const fleet = await readFleetIn(sql);
    const look = new Look(await allHealth(sql), fleet, thresholds);
    await putHealth(sql, look.rows);
    await forgetHealth(sql, look.gone());
    await appendHealth(sql, look.changes, fleet.nowMs);
    if (look.changes.length > 0) await onChange(sql, look.changes, fleet);
  });
}

type Seen = { readonly state: NodeState; readonly detail: string };

class Look {
  /** Records that are others than before. */
  readonly rows: HealthRow[] = [];
  readonly changes: HealthChange[] = [];
  readonly #before: Map<string, HealthRow>;
  readonly #seen = new Set<string>();
  readonly #fleet: Fleet;
  readonly #thresholds: Thresholds;

  constructor(before: readonly HealthRow[], fleet: Fleet, thresholds: Thresholds) {
    this.#before = new Map(before.map((row) => [keyOf(row), row]));
    this.#fleet = fleet;
    this.#thresholds = thresholds;
    for (const cluster of fleet.clusters()) this.#cluster(cluster);
    for (const node of fleet.nodes()) if (node.cluster === undefined) this.#node(node, null);
  }

  gone(): HealthRow[] {
    return [...this.#before.values()].filter((row) => !this.#seen.has(keyOf(row)));
  }

  #cluster({ id, nodes }: ClusterSummary): void {
    const told = nodes.map((node) => ({ node, record: this.#node(node, id) }));
    const unwell = told.filter(({ record }) => record.state !== 'healthy');
    const state = worstState(told.map(({ record }) => record.state));
    const detail = unwell.map(({ node, record }) => `${node.id} is ${record.state}: ${record.detail}`).join('; ');
    // Its nodes are damped already: what is told of them is told of it at once.
    const at = { worseAfterMs: 0, betterAfterMs: 0, flapChanges: Number.MAX_SAFE_INTEGER, flapWindowMs: 0 };
    this.#put('cluster', id, id, { state, detail }, at);
  }

  #node(node: NodeView, cluster: string | null): HealthRecord {
    return this.#put('node', healthId(node), cluster, node, this.#thresholds);
  }

  #put(kind: HealthKind, id: string, cluster: string | null, seen: Seen, thresholds: Thresholds): HealthRecord {
    const before = this.#before.get(keyOf({ kind, id }))?.record;
    this.#seen.add(keyOf({ kind, id }));
    const record = nextHealth(before, seen, this.#fleet.nowMs, thresholds);
    if (JSON.stringify(record) !== JSON.stringify(sorted(before, record)))
      this.rows.push({ kind, id, cluster, record });
    if (record.state === before?.state) return record;
    const run = cluster === null ? undefined : this.#fleet.runOf(cluster);
    const was = before && { was: before.state };
    this.changes.push({ kind, id, cluster, ...was, state: record.state, detail: record.detail, run });
    return record;
  }
}

const keyOf = ({ kind, id }: Pick<HealthRow, 'kind' | 'id'>) => `${kind} ${id}`;

/** jsonb gives the fields back in an order of its own. */
function sorted(before: HealthRecord | undefined, like: HealthRecord): object | undefined {
  return before && Object.fromEntries(Object.keys(like).map((key) => [key, before[key as keyof HealthRecord]]));
}
