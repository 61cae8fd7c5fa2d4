/**
 * Rows of RFC 4180 text as `kwbase --format=csv` prints it: quoted fields may hold commas, quotes and newlines. An
 * unquoted NULL is null; `""` and `"NULL"` are the texts they look like.
 */
export function parseCsv(text: string): (string | null)[][] {
  const rows: (string | null)[][] = [];
  let row: (string | null)[] = [];
  let at = 0;
  while (at < text.length) {
    const field = text[at] === '"' ? quotedField(text, at + 1) : plainField(text, at);
    row.push(field.value);
    at = field.end;
    if (text[at] === ',') {
      at += 1;
      if (at === text.length) row.push('');
      continue;
    }
    if (text[at] === '\r') at += 1;
    if (text[at] === '\n') at += 1;
    rows.push(row);
    row = [];
  }
  if (row.length > 0) rows.push(row);
  return rows;
}

type Field = { readonly value: string | null; readonly end: number };

function quotedField(text: string, start: number): Field {
  let value = '';
  let at = start;
  while (at < text.length) {
    if (text[at] !== '"') value += text[at];
    else if (text[at + 1] === '"') {
      value += '"';
      at += 1;
    } else return { value, end: at + 1 };
    at += 1;
  }
  return { value, end: at };
}

function plainField(text: string, start: number): Field {
  let end = start;
  while (end < text.length && !',\r\n'.includes(text[end] as string)) end += 1;
  const value = text.slice(start, end);
  return { value: value === 'NULL' ? null : value, end };
}

/** One record a row, keyed by the names of the first row. Lines before it that are no header must be gone. */
export function csvRecords(text: string): Record<string, string | null>[] {
  const [header, ...rows] = parseCsv(text);
  if (header === undefined) return [];
  return rows.map((row) => Object.fromEntries(header.map((name, column) => [name ?? '', row[column] ?? null])));
}
