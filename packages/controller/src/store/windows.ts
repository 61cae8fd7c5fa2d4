/** Maintenance windows by name. What they mean is said by core/windows. */
import { FleetError, type Window } from '@kwfleet/core';
import type { Sql } from './database.ts';
import { rolloutUsingWindow } from './rollouts.ts';

type Row = { name: string; body: Window; changedAtMs: number };

const SELECT = 'SELECT name, body, changed_at_ms AS "changedAtMs" FROM windows';

/**
 * Windows that were read before: the same object as long as nobody changed it, so that what was reckoned of it once (see
 * core/windows/spans.ts) is not reckoned anew at every decision.
 */
const known = new Map<string, { readonly text: string; readonly window: Window }>();
const KNOWN_MAX = 1_000;

function same({ name, body }: Row): Window {
  const text = JSON.stringify(body);
  const before = known.get(name);
  if (before?.text === text) return before.window;
  if (known.size >= KNOWN_MAX) known.clear();
  known.set(name, { text, window: body });
  return body;
}

export async function allWindows(sql: Sql): Promise<Window[]> {
  return (await sql.query<Row>(`${SELECT} ORDER BY name`)).map(same);
}

/** Of these names, those that there are. */
export async function someWindows(sql: Sql, names: readonly string[]): Promise<ReadonlyMap<string, Window>> {
  if (names.length === 0) return new Map();
  const rows = await sql.query<Row>(`${SELECT} WHERE name = ANY ($1)`, [names]);
  return new Map(rows.map((row) => [row.name, same(row)]));
}

/** All of these, in this order. Throws WINDOW_UNKNOWN. */
export async function needWindows(sql: Sql, names: readonly string[]): Promise<Window[]> {
  const found = await someWindows(sql, names);
  return names.map((name) => {
    const window = found.get(name);
    if (window === undefined) throw new FleetError('WINDOW_UNKNOWN', `there is no window "${name}"`);
    return window;
  });
}

/** Makes the window, or takes the place of the one of this name; answers whether it was new. */
export async function putWindow(sql: Sql, window: Window, by: string): Promise<boolean> {
  const [row] = await sql.query<{ isNew: boolean }>(
    `INSERT INTO windows (name, body, changed_at_ms, changed_by) VALUES ($1, $2, now_ms(), $3)
     ON CONFLICT (name) DO UPDATE SET body = excluded.body, changed_at_ms = now_ms(), changed_by = excluded.changed_by
     RETURNING xmax = 0 AS "isNew"`,
    [window.name, JSON.stringify(window), by],
  );
  return row?.isNew === true;
}

/** Whether there was such a window. Throws WINDOW_IN_USE while a run or rollout that is not ended names it. */
export async function deleteWindow(sql: Sql, name: string): Promise<boolean> {
  const [run] = await sql.query<{ id: string }>(
    `SELECT id FROM runs WHERE status NOT IN ('succeeded', 'failed', 'aborted')
       AND state #> '{timing,windows}' ? $1 LIMIT 1`,
    [name],
  );
  if (run !== undefined) throw new FleetError('WINDOW_IN_USE', `run ${run.id} works in the window "${name}"`);
  const rollout = await rolloutUsingWindow(sql, name);
  if (rollout !== undefined) throw new FleetError('WINDOW_IN_USE', `rollout ${rollout} works in the window "${name}"`);
  return (await sql.execute('DELETE FROM windows WHERE name = $1', [name])) > 0;
}
