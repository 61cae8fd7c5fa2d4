/** Backups as the agents' receipts tell of them. */
import {
  areOfOneMoment,
  type BackupPart,
  type BackupReceipt,
  type BackupSet,
  judgeSet,
  type Page,
  type Plan,
  type RunState,
} from '@kwfleet/core';
import type { Sql } from './database.ts';
import { type PageRequest, pageOf, positionOf, rowsFor } from './page.ts';

/** Stores what an order's result says of its backup, and what the host removed for it. Call it in the result's transaction. */
export async function storeBackup(sql: Sql, run: string, node: string, receipt: BackupReceipt): Promise<void> {
  await sql.execute(
    `INSERT INTO backups (run, node, receipt, made_at_ms, stored_at_ms) VALUES ($1, $2, $3, $4, now_ms())
     ON CONFLICT (run, node) DO UPDATE SET receipt = EXCLUDED.receipt, made_at_ms = EXCLUDED.made_at_ms,
       stored_at_ms = EXCLUDED.stored_at_ms, removed_at_ms = NULL WHERE EXCLUDED.made_at_ms >= backups.made_at_ms`,
    [run, node, JSON.stringify(receipt), receipt.madeAtMs],
  );
  await sql.execute(
    'UPDATE backups SET removed_at_ms = now_ms() WHERE node = $1 AND run = ANY ($2) AND run <> $3 AND removed_at_ms IS NULL',
    [node, receipt.removed, run],
  );
}

type Row = {
  readonly run: string;
  readonly cluster: string;
  readonly plan: Plan;
  readonly steps: RunState['steps'];
  readonly createdAtMs: number;
};
type PartRow = {
  readonly run: string;
  readonly node: string;
  readonly receipt: BackupReceipt;
  readonly removedAtMs: number | null;
};

const SELECT = `SELECT id AS run, cluster, plan, state->'steps' AS steps, created_at_ms AS "createdAtMs" FROM runs`;

export async function listBackups(
  sql: Sql,
  request: PageRequest & { cluster?: string | undefined },
): Promise<Page<BackupSet>> {
  const rows = await sql.query<Row>(
    `${SELECT} WHERE EXISTS (SELECT 1 FROM backups WHERE backups.run = runs.id)
       AND (created_at_ms, id) < ($1, $2) AND ($3::text IS NULL OR cluster = $3)
     ORDER BY created_at_ms DESC, id DESC LIMIT $4`,
    [...positionOf(request.cursor), request.cluster ?? null, rowsFor(request)],
  );
  const parts = await partsOf(sql, rows);
  return pageOf(
    rows,
    request,
    (row) => [row.createdAtMs, row.run],
    (row) => setOf(row, parts),
  );
}

export async function findBackup(sql: Sql, run: string): Promise<BackupSet | undefined> {
  const rows = await sql.query<Row>(`${SELECT} WHERE id = $1 AND EXISTS (SELECT 1 FROM backups WHERE run = $1)`, [run]);
  const [row] = rows;
  return row && setOf(row, await partsOf(sql, rows));
}

/**
 * The newest of a cluster's backups that it can be restored from, but for the one that `run` makes; undefined when there is
 * none among the latest, or the run's own is whole with its first copy.
 */
export async function standingBackup(sql: Sql, run: string): Promise<string | undefined> {
  const rows = await sql.query<{ cluster: string; plan: Plan }>('SELECT cluster, plan FROM runs WHERE id = $1', [run]);
  const [row] = rows;
  if (row === undefined || row.plan.nodes.length === 1) return undefined;
  const { items } = await listBackups(sql, { cluster: row.cluster });
  return items.find((set) => set.id !== run && judgeSet(set).length === 0)?.id;
}

async function partsOf(sql: Sql, rows: readonly Row[]): Promise<readonly PartRow[]> {
  return sql.query<PartRow>(
    'SELECT run, node, receipt, removed_at_ms AS "removedAtMs" FROM backups WHERE run = ANY ($1) ORDER BY node',
    [rows.map(({ run }) => run)],
  );
}

function setOf({ run, cluster, plan, steps }: Row, all: readonly PartRow[]): BackupSet {
  const rows = all.filter((part) => part.run === run);
  const parts = rows.map(({ node, receipt, removedAtMs }): BackupPart => {
    const { place, sizeBytes, files, manifestSha256, madeAtMs, version } = receipt;
    const kwdbId = plan.nodes.find((candidate) => candidate.node === node)?.kwdbId ?? 0;
    const removed = removedAtMs === null ? {} : { removedAtMs };
    return { node, kwdbId, place, sizeBytes, files, manifestSha256, madeAtMs, version, ...removed };
  });
  const [first] = rows;
  const policy = first?.receipt.policy ?? 'copy';
  return {
    id: run,
    cluster,
    policy,
    version: first?.receipt.version ?? '',
    oneMoment: areOfOneMoment(
      plan,
      { steps },
      rows.map(({ node }) => node),
    ),
    nodes: plan.nodes.length,
    parts,
  };
}
