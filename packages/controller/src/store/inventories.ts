/** Questions for everything a cluster holds, and their answers. */
import type { Inventory } from '@kwfleet/core';
import type { InventoryAnswer } from '@kwfleet/protocol';
import type { Sql } from './database.ts';
import { newId } from './ids.ts';
import { CHANNELS } from './notices.ts';

/** An answer is read by whoever asked; what nobody came for is removed after this long. */
const KEPT_MS = 3_600_000;

/** Asks the agent of a node, wherever its stream is. Answers the question's id. */
export async function askForInventory(sql: Sql, node: string): Promise<string> {
  const request = newId('inventory');
  await sql.execute('DELETE FROM inventories WHERE asked_at_ms < now_ms() - $1', [KEPT_MS]);
  await sql.execute('INSERT INTO inventories (request, node, asked_at_ms) VALUES ($1, $2, now_ms())', [request, node]);
  await sql.execute('SELECT pg_notify($1, $2)', [CHANNELS.inventory, `${node} ${request}`]);
  return request;
}

/** Keeps the first answer of the node that was asked; any other changes nothing. */
export async function storeInventory(sql: Sql, node: string, answer: InventoryAnswer): Promise<void> {
  await sql.execute(
    `UPDATE inventories SET inventory = $3, failure = $4
     WHERE request = $1 AND node = $2 AND inventory IS NULL AND failure IS NULL`,
    [
      answer.request,
      node,
      answer.inventory === undefined ? null : JSON.stringify(answer.inventory),
      answer.failure ?? (answer.inventory === undefined ? 'the agent sent no inventory' : null),
    ],
  );
}

/** Undefined until it is answered. */
export async function findInventory(
  sql: Sql,
  request: string,
): Promise<{ readonly inventory?: Inventory; readonly failure?: string } | undefined> {
  const [row] = await sql.query<{ inventory: Inventory | null; failure: string | null }>(
    'SELECT inventory, failure FROM inventories WHERE request = $1 AND (inventory IS NOT NULL OR failure IS NOT NULL)',
    [request],
  );
  if (row === undefined) return undefined;
  return { ...(row.inventory && { inventory: row.inventory }), ...(row.failure !== null && { failure: row.failure }) };
}
