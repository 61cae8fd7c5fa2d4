/** Orders to agents: what is due for whom, and what came back. */
import type { Action, ActionProgress, ActionResult } from '@kwfleet/core';
import type { ActionOutput } from '@kwfleet/protocol';
import { storeBackup } from './backups.ts';
import type { Sql } from './database.ts';
import { CHANNELS } from './notices.ts';
import { insertInput } from './runs.ts';

/** Of one action; what comes after is cut off. The host keeps all of it. */
const OUTPUT_MAX_BYTES = 4 * 1024 * 1024;

/** Actions of these nodes that have not ended, oldest first. */
export async function pendingActions(sql: Sql, nodes: readonly string[]): Promise<Action[]> {
  const rows = await sql.query<{ action: Action }>(
    'SELECT action FROM actions WHERE node = ANY ($1) AND ended_at_ms IS NULL ORDER BY created_at_ms, id',
    [nodes],
  );
  return rows.map(({ action }) => action);
}

/** `stored`: now or earlier. `unknown`: no such action. `foreign`: the action of another node. */
export type Stored = 'stored' | 'unknown' | 'foreign';

/** Stores a result once: the same one again changes nothing. Call it in a transaction. */
export async function storeResult(sql: Sql, node: string, result: ActionResult): Promise<Stored> {
  const [action] = await sql.query<{ run: string; node: string }>('SELECT run, node FROM actions WHERE id = $1', [
    result.action,
  ]);
  if (action === undefined) return 'unknown';
  if (action.node !== node) return 'foreign';
  // Of two results for one action the second sees the first. The run before the action, as the runner's commit does.
  await sql.execute('SELECT 1 FROM runs WHERE id = $1 FOR UPDATE', [action.run]);
  const known = await sql.query(`SELECT 1 FROM run_inputs WHERE action = $1 AND type = 'result'`, [result.action]);
  if (known.length > 0) return 'stored';
  await insertInput(sql, action.run, { type: 'result', action: result.action, body: result });
  await sql.execute('UPDATE actions SET ended_at_ms = coalesce(ended_at_ms, now_ms()) WHERE id = $1', [result.action]);
  if (result.backup !== undefined) await storeBackup(sql, action.run, node, result.backup);
  return 'stored';
}

/** Stores how far an action is; nothing when it has ended or is not this node's. */
export async function storeProgress(sql: Sql, node: string, progress: ActionProgress): Promise<void> {
  const [action] = await sql.query<{ run: string }>(
    'SELECT run FROM actions WHERE id = $1 AND node = $2 AND ended_at_ms IS NULL',
    [progress.action, node],
  );
  if (action) await insertInput(sql, action.run, { type: 'progress', action: progress.action, body: progress });
}

/** Stores a piece of a command's output; nothing when it came before, is not this node's, or there is too much already. */
export async function storeOutput(sql: Sql, node: string, output: ActionOutput): Promise<void> {
  const [action] = await sql.query<{ run: string; bytes: number; known: boolean }>(
    `SELECT run, (SELECT coalesce(sum(octet_length(text)), 0)::bigint FROM action_output WHERE action = actions.id) AS bytes,
       EXISTS (SELECT 1 FROM action_output WHERE action = actions.id AND position = $3) AS known
     FROM actions WHERE id = $1 AND node = $2`,
    [output.action, node, output.offset],
  );
  if (action === undefined || action.known || action.bytes >= OUTPUT_MAX_BYTES) return;
  // PostgreSQL's text holds every character but NUL.
  const text = output.text.replaceAll('\0', '\u2400').slice(0, OUTPUT_MAX_BYTES);
  await sql.execute(
    `WITH counted AS (UPDATE runs SET output_seq = output_seq + 1 WHERE id = $2 RETURNING output_seq)
     INSERT INTO action_output (action, run, seq, position, at_ms, text)
     SELECT $1, $2, output_seq, $3, now_ms(), $4 FROM counted ON CONFLICT (action, position) DO NOTHING`,
    [output.action, action.run, output.offset, text],
  );
  await sql.execute('SELECT pg_notify($1, $2)', [CHANNELS.history, action.run]);
}
