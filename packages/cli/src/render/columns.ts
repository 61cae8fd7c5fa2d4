/** Tables: aligned columns without borders, never wider than the terminal. Pure. */
import stringWidth from 'string-width';
import { pad, truncate } from './text.ts';

const GAP = '  ';

/**
 * The lines of a table. When it is too wide, the widest columns give way first; a cell that is cut ends in `mark`.
 * `width` undefined (output to a file or a pipe) cuts nothing.
 */
export function columns(rows: readonly (readonly string[])[], width?: number, mark = '…'): string[] {
  const count = Math.max(0, ...rows.map((row) => row.length));
  const widths = Array.from({ length: count }, (_, at) =>
    Math.max(0, ...rows.map((row) => stringWidth(row[at] ?? ''))),
  );
  if (width !== undefined) narrow(widths, width - GAP.length * Math.max(0, count - 1));
  return rows.map((row) =>
    widths
      .map((room, at) => pad(truncate(row[at] ?? '', room, mark), room))
      .join(GAP)
      .trimEnd(),
  );
}

const NARROWEST = 4;

function narrow(widths: number[], room: number): void {
  let over = widths.reduce((sum, width) => sum + width, 0) - room;
  while (over > 0) {
    const widest = widths.indexOf(Math.max(...widths));
    const width = widths[widest] ?? 0;
    if (width <= NARROWEST) return;
    widths[widest] = width - 1;
    over -= 1;
  }
}
