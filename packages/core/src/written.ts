/** Files that people write, YAML or JSON: read, checked against a schema, and every mistake told with its line and column. */
import Type, { type Static } from 'typebox';
import Schema from 'typebox/schema';
import { isMap, isPair, isScalar, isSeq, LineCounter, type Node, type Pair, parseDocument } from 'yaml';

export const Mistake = Type.Object({
  line: Type.Integer({ minimum: 1 }),
  column: Type.Integer({ minimum: 1 }),
  /** `waves[0].soak`; empty for the file as a whole. */
  path: Type.String(),
  /** `expected a duration like 90m, 6h or 1d, found 30`. */
  message: Type.String(),
});
export type Mistake = Static<typeof Mistake>;

export type Path = readonly (string | number)[];
/** A rule that no schema can say, broken by a file that fits its schema. */
export type BrokenRule = { readonly path: Path; readonly expected: string };
export type Written<T> = { readonly value: T } | { readonly mistakes: readonly Mistake[] };

export const FILE_MAX_BYTES = 256 * 1024;
/** More than this many at once help nobody. */
const MISTAKES_MAX = 20;
/** YAML's aliases can make a small text huge. */
const ALIASES_MAX = 100;

/** Reads a file of this schema; `check` looks at what fits it. Never throws for what is written in it. */
export function readWritten<T extends Type.TSchema>(
  text: string,
  schema: T,
  check: (value: Static<T>) => readonly BrokenRule[] = () => [],
): Written<Static<T>> {
  if (text.length > FILE_MAX_BYTES) return { mistakes: [wholeFile(`a file of at most ${FILE_MAX_BYTES} bytes`)] };
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false, uniqueKeys: true });
  if (document.errors.length > 0) {
    const mistakes = document.errors.map(
      ({ pos, message }): Mistake => ({ ...place(lines, pos[0]), path: '', message }),
    );
    return { mistakes: mistakes.slice(0, MISTAKES_MAX) };
  }
  let value: unknown;
  try {
    value = document.toJS({ maxAliasCount: ALIASES_MAX });
  } catch {
    return { mistakes: [wholeFile(`a file with at most ${ALIASES_MAX} uses of aliases`)] };
  }
  const checker = Schema.Compile(schema);
  const findings = checker.Check(value) ? check(value as Static<T>) : misfits(schema, checker.Errors(value)[1], value);
  if (findings.length === 0) return { value: value as Static<T> };
  const mistakes = findings.slice(0, MISTAKES_MAX).map((finding) => mistakeOf(finding, document.contents, lines));
  return { mistakes: mistakes.toSorted((a, b) => a.line - b.line || a.column - b.column) };
}

/** `rollout.yaml:12:9: waves[0].soak: expected a duration ...`, as compilers tell it. */
export const mistakeLine = (file: string, { line, column, path, message }: Mistake): string =>
  `${file}:${line}:${column}: ${path === '' ? '' : `${path}: `}${message}`;

type Located = BrokenRule & { readonly key?: boolean; readonly found?: string };

const wholeFile = (expected: string): Mistake => ({ line: 1, column: 1, path: '', message: `expected ${expected}` });

type SchemaError = { readonly keyword: string; readonly instancePath: string; readonly params: object };

/** What does not fit, each place once. */
function misfits(schema: Type.TSchema, errors: readonly SchemaError[], value: unknown): Located[] {
  const found = new Map<string, Located>();
  for (const { keyword, instancePath, params } of errors) {
    const path = pathOf(instancePath);
    if (keyword === 'additionalProperties') continue;
    if (keyword === 'required') {
      const { requiredProperties = [] } = params as { requiredProperties?: string[] };
      for (const name of requiredProperties) {
        const { expected } = describe(schema, [...path, name]);
        found.set(`${instancePath}/${name}`, { path, expected: `the key "${name}": ${expected}` });
      }
      continue;
    }
    if (keyword === 'boolean') {
      const parent = describe(schema, path.slice(0, -1)).schema;
      const known = Object.keys((parent as { properties?: object }).properties ?? {}).join(', ');
      const expected = known === '' ? 'a key of letters, digits, ".", "_", "/" and "-"' : `one of the keys ${known}`;
      found.set(instancePath, { path, expected, key: true, found: `"${path.at(-1)}"` });
      continue;
    }
    const at = describe(schema, path);
    found.set(at.path.join('/'), { path: at.path, expected: at.expected, found: shownValue(valueAt(value, at.path)) });
  }
  return [...found.values()];
}

const pathOf = (pointer: string): (string | number)[] =>
  pointer
    .split('/')
    .slice(1)
    .map((part) => part.replaceAll('~1', '/').replaceAll('~0', '~'))
    .map((part) => (/^\d+$/.test(part) ? Number(part) : part));

type AnySchema = {
  readonly description?: string;
  readonly type?: string;
  readonly anyOf?: readonly AnySchema[];
  readonly properties?: Readonly<Record<string, AnySchema>>;
  readonly patternProperties?: Readonly<Record<string, AnySchema>>;
  readonly items?: AnySchema;
};

/** What belongs at a path. A choice between several is told as a whole, at its own place. */
function describe(schema: Type.TSchema, path: Path): { expected: string; path: Path; schema: AnySchema } {
  let here = schema as AnySchema;
  let depth = 0;
  for (const part of path) {
    if (here.anyOf !== undefined) break;
    const next: AnySchema | undefined =
      typeof part === 'number'
        ? here.items
        : (here.properties?.[part] ?? Object.values(here.patternProperties ?? {})[0]);
    if (next === undefined) break;
    here = next;
    depth++;
  }
  const kinds: Readonly<Record<string, string>> = {
    object: 'a map',
    array: 'a list',
    string: 'a text',
    integer: 'a whole number',
  };
  const expected = here.description ?? kinds[here.type ?? ''] ?? 'something else';
  return { expected, path: path.slice(0, depth), schema: here };
}

const valueAt = (value: unknown, path: Path): unknown =>
  path.reduce<unknown>((at, part) => (at as Record<string | number, unknown> | null | undefined)?.[part], value);

function shownValue(value: unknown): string {
  if (value === undefined || value === null) return 'nothing';
  const text = JSON.stringify(value);
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

function mistakeOf({ path, expected, key = false, found }: Located, root: Node | null, lines: LineCounter): Mistake {
  let node: Node | null = root;
  let keyNode: Node | null = null;
  for (const part of path) {
    let next: Node | null = null;
    if (isMap(node)) {
      const pair: Pair | undefined = node.items.find(
        (item) => isPair(item) && isScalar(item.key) && String(item.key.value) === String(part),
      );
      keyNode = (pair?.key as Node | undefined) ?? keyNode;
      // A key without a value has the key's own place.
      next = (pair?.value as Node | null | undefined) ?? (pair?.key as Node | undefined) ?? null;
    } else if (isSeq(node) && typeof part === 'number') next = (node.items[part] as Node | undefined) ?? null;
    if (next === null) break;
    node = next;
  }
  const at = (key ? keyNode : node)?.range?.[0] ?? 0;
  const message = `expected ${expected}${found === undefined ? '' : `, found ${found}`}`;
  return { ...place(lines, at), path: written(path), message };
}

function place(lines: LineCounter, offset: number): { line: number; column: number } {
  const { line, col } = lines.linePos(offset);
  return { line: Math.max(1, line), column: Math.max(1, col) };
}

const written = (path: Path): string =>
  path.map((part, i) => (typeof part === 'number' ? `[${part}]` : i === 0 ? part : `.${part}`)).join('');
