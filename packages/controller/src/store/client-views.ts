/** What clients felt during a run: recorded by whoever drove them, shown in its report. */
import type { ClientView } from '@kwfleet/core';
import type { Sql } from './database.ts';

/** One of each source; said again, it takes the place of what was said before. */
export async function putClientView(sql: Sql, run: string, view: ClientView, by: string): Promise<void> {
  await sql.execute(
    `INSERT INTO client_views (run, source, view, at_ms, recorded_by) VALUES ($1, $2, $3, now_ms(), $4)
     ON CONFLICT (run, source) DO UPDATE SET view = excluded.view, at_ms = now_ms(), recorded_by = excluded.recorded_by`,
    [run, view.source, JSON.stringify(view), by],
  );
}

export async function clientViewsOf(sql: Sql, run: string): Promise<ClientView[]> {
  const rows = await sql.query<{ view: ClientView }>(
    'SELECT view FROM client_views WHERE run = $1 ORDER BY source LIMIT 50',
    [run],
  );
  return rows.map(({ view }) => view);
}
