/** Lists, newest first, page by page: the cursor names the last row seen, so that new rows shift nothing. */
import { FleetError, type Page } from '@kwfleet/core';

export type PageRequest = { readonly limit?: number | undefined; readonly cursor?: string | undefined };
/** A page's length where nobody said. */
export const PAGE_LIMIT = 100;
type Position = readonly [atMs: number, id: string];

/** Values for `(at_ms, id) < ($1, $2)`: the cursor's, or what every row is below. Throws BAD_REQUEST. */
export function positionOf(cursor: string | undefined): Position {
  if (cursor === undefined) return [Number.MAX_SAFE_INTEGER, ''];
  try {
    const value: unknown = JSON.parse(Buffer.from(cursor, 'base64url').toString('utf8'));
    if (Array.isArray(value) && Number.isSafeInteger(value[0]) && typeof value[1] === 'string') {
      return [value[0], value[1]];
    }
  } catch {
    // Said below: whatever it is, it is no cursor of ours.
  }
  throw new FleetError('BAD_REQUEST', 'cursor: not one that a list gave');
}

/** One row more than is shown tells whether there is a next page. */
export const rowsFor = ({ limit = PAGE_LIMIT }: PageRequest): number => limit + 1;

/** Takes `rowsFor` rows and answers a page, with a cursor when there are more. */
export function pageOf<Row, Item>(
  rows: readonly Row[],
  { limit = PAGE_LIMIT }: PageRequest,
  position: (row: Row) => Position,
  item: (row: Row) => Item,
): Page<Item> {
  const shown = rows.slice(0, limit);
  const last = shown.at(-1);
  if (rows.length <= limit || last === undefined) return { items: shown.map(item) };
  return { items: shown.map(item), cursor: Buffer.from(JSON.stringify(position(last))).toString('base64url') };
}

/** A page of rows as they are, listed by when they were made. */
export const pageOfRows = <Row extends { readonly createdAtMs: number; readonly id: string }>(
  rows: readonly Row[],
  request: PageRequest,
): Page<Row> =>
  pageOf(
    rows,
    request,
    (row) => [row.createdAtMs, row.id],
    (row) => row,
  );

/** A page of what is in memory already, sorted by its id. */
export function pageOfSorted<Item extends { id: string }>(items: readonly Item[], request: PageRequest): Page<Item> {
  const after = request.cursor === undefined ? '' : positionOf(request.cursor)[1];
  const rest = items.filter((item) => item.id > after).sort((a, b) => (a.id < b.id ? -1 : 1));
  return pageOf(
    rest,
    request,
    (item) => [0, item.id],
    (item) => item,
  );
}
