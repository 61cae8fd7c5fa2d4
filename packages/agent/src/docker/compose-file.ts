/**
 * Where a compose service's image is written, and the same files with another one: nothing changes but the bytes of that
 * value. Pure; whether the result means what it should is asked of compose itself.
 */
import { isAlias, isMap, isScalar, type Pair, parseDocument, type Scalar, type YAMLMap } from 'yaml';

/** A text of one of the project's files. */
export type ProjectFile = { readonly path: string; readonly text: string };

/** One file with other bytes at one place. */
export type Edit = { readonly path: string; readonly text: string; readonly what: string };
export type Refusal = { readonly refused: string };

/** The image site of one file. Offsets count UTF-16 units of its text. */
type Site =
  | { readonly kind: 'absent' }
  | { readonly kind: 'value'; readonly from: number; readonly to: number; readonly value: string }
  | { readonly kind: 'alias'; readonly from: number; readonly to: number }
  /** The service has no image of its own here; one could be written at `at`. */
  | { readonly kind: 'inherited'; readonly at: number; readonly indent: string }
  | { readonly kind: 'refused'; readonly why: string };

/** The characters of an image reference; none of them needs a quote in YAML or in an env file. */
const REFERENCE = /^[A-Za-z0-9][\w.:/@-]{0,400}$/;
const VARIABLE = /\$(?:(\$)|(\w+)|\{(\w+)(?:(:?[-?+])([^}]*))?\})/g;

export type ImageWish = {
  readonly service: string;
  /** In the order in which compose reads them: a later one overrides. */
  readonly files: readonly ProjectFile[];
  /** What variables are taken from, when there is such a file. */
  readonly environment: ProjectFile | undefined;
  readonly image: string;
};

/**
 * The one edit that gives the service the image: in the file whose value counts, or in the env file where the value is
 * a variable's. A reason instead when there is none that is sure to be small.
 */
export function imageEdit({ service, files, environment, image }: ImageWish): Edit | Refusal {
  if (!REFERENCE.test(image)) return { refused: `"${image}" is no image reference` };
  let inherited: { readonly file: ProjectFile; readonly site: Site & { kind: 'inherited' } } | undefined;
  for (const file of files.toReversed()) {
    const site = siteIn(file.text, service);
    switch (site.kind) {
      case 'absent':
        continue;
      case 'refused':
        return { refused: `${file.path}: ${site.why}` };
      case 'inherited':
        inherited = { file, site };
        continue;
      case 'alias':
        return replaced(file, site, image, 'the alias in its image');
      case 'value':
        if (!site.value.includes('$')) return replaced(file, site, quoted(file, site, image), 'its image');
        return variableEdit({ file, site, files, environment, image });
      default:
        return site satisfies never;
    }
  }
  if (inherited === undefined) return { refused: `none of the project's files has the service ${service}` };
  const { file, site } = inherited;
  const line = `image: ${image}${newlineOf(file.text)}${site.indent}`;
  return replaced(file, { from: site.at, to: site.at }, line, 'an image of its own');
}

const newlineOf = (text: string): string => (text.includes('\r\n') ? '\r\n' : '\n');

function replaced(
  { path, text }: ProjectFile,
  { from, to }: { readonly from: number; readonly to: number },
  value: string,
  what: string,
): Edit {
  return { path, text: text.slice(0, from) + value + text.slice(to), what };
}

/** In the quotes that the value had. */
function quoted({ text }: ProjectFile, { from }: { readonly from: number }, value: string): string {
  const quote = text[from];
  return quote === '"' || quote === "'" ? quote + value + quote : value;
}

function siteIn(text: string, service: string): Site {
  const document = parseDocument(text, { merge: true, prettyErrors: false });
  const refuse = (why: string): Site => ({ kind: 'refused', why });
  if (document.errors.length > 0) return refuse(`is no YAML: ${document.errors[0]?.message}`);
  const root = document.contents;
  if (!isMap(root)) return { kind: 'absent' };
  // Files without `services` and `version` are of the first format, which has the services at its top.
  const services = root.has('services') ? valueAt(root, 'services') : root.has('version') ? undefined : root;
  if (isAlias(services)) return refuse('its services are an alias');
  const found = isMap(services) ? valueAt(services, service) : undefined;
  if (found === undefined || found === null) return { kind: 'absent' };
  if (isAlias(found)) return refuse(`the service ${service} is an alias of another one`);
  if (!isMap(found)) return { kind: 'absent' };
  if (found.has('build')) return refuse(`the service ${service} is built here; its image is not one to exchange`);
  return siteOf(text, found, refuse);
}

function siteOf(text: string, service: YAMLMap, refuse: (why: string) => Site): Site {
  const own = pairOf(service, 'image');
  if (own === undefined) return inheritedSite(text, service, refuse);
  const value = own.value;
  const [from, to] = (value as { range?: [number, number, number] } | null)?.range ?? [0, 0];
  if (isAlias(value)) return { kind: 'alias', from, to };
  if (!isScalar(value) || typeof value.value !== 'string') return refuse('the image is no text');
  const { type } = value as Scalar;
  if (type !== 'PLAIN' && type !== 'QUOTE_DOUBLE' && type !== 'QUOTE_SINGLE')
    return refuse('the image is a block of text');
  return { kind: 'value', from, to, value: value.value };
}

/** A line of its own above the first key of a block. */
function inheritedSite(text: string, service: YAMLMap, refuse: (why: string) => Site): Site {
  const [first] = service.items;
  const at = (first?.key as { range?: [number, number, number] } | undefined)?.range?.[0];
  if (service.flow === true || at === undefined) return refuse('the service has no image of its own, and is one line');
  const lineStart = text.lastIndexOf('\n', at - 1) + 1;
  const indent = text.slice(lineStart, at);
  if (indent.trim() !== '') return refuse('the service has no image of its own, and its first key shares a line');
  return { kind: 'inherited', at, indent };
}

const pairOf = (map: YAMLMap, key: string): Pair | undefined =>
  map.items.find((pair) => isScalar(pair.key) && pair.key.value === key);
const valueAt = (map: YAMLMap, key: string): unknown => pairOf(map, key)?.value;

type VariableSite = {
  readonly file: ProjectFile;
  readonly site: Site & { kind: 'value' };
  readonly files: readonly ProjectFile[];
  readonly environment: ProjectFile | undefined;
  readonly image: string;
};

/** `repo:${TAG}`: the variable's value in the env file, or its default where the env file has none. */
function variableEdit({ file, site, files, environment, image }: VariableSite): Edit | Refusal {
  const { value } = site;
  const found = [...value.matchAll(VARIABLE)];
  if (found.some(([, dollar, , , operator]) => dollar !== undefined || /[?+]/.test(operator ?? ''))) {
    return { refused: `${file.path}: the image "${value}" is put together in a way that is not followed` };
  }
  const known = environment === undefined ? new Map<string, string>() : environmentOf(environment.text);
  for (const match of found) {
    const name = match[2] ?? match[3] ?? '';
    const before = resolve(value.slice(0, match.index), known);
    const after = resolve(value.slice(match.index + match[0].length), known);
    const fits = image.startsWith(before) && image.endsWith(after) && image.length > before.length + after.length;
    if (!fits) continue;
    const wanted = image.slice(before.length, image.length - after.length);
    const uses = [...files.map(({ text }) => text), environment?.text ?? ''].map((text) => usesOf(text, name));
    if (uses.reduce((sum, count) => sum + count, 0) > 1) {
      return { refused: `${file.path}: the variable ${name} of the image is used elsewhere too` };
    }
    if (environment !== undefined && known.has(name)) return environmentEdit(environment, name, wanted);
    if (match[5] !== undefined) return defaultEdit(file, site, match, wanted);
  }
  return { refused: `${file.path}: no single variable makes "${value}" into ${image}` };
}

function resolve(text: string, known: ReadonlyMap<string, string>): string {
  return text.replace(VARIABLE, (_all, _dollar, plain, braced, operator, fallback: string | undefined) => {
    const value = known.get(plain ?? braced ?? '');
    const missing = value === undefined || (operator === ':-' && value === '');
    return missing ? (fallback ?? '') : value;
  });
}

const usesOf = (text: string, name: string): number =>
  [...text.matchAll(VARIABLE)].filter(([, , plain, braced]) => (plain ?? braced) === name).length;

function defaultEdit(
  file: ProjectFile,
  site: Site & { kind: 'value' },
  match: RegExpMatchArray,
  wanted: string,
): Edit | Refusal {
  const source = file.text.slice(site.from, site.to);
  const old = match[0];
  // Quotes and escapes could make the source differ from the value.
  if (source.split(old).length !== 2)
    return { refused: `${file.path}: the default in "${source}" cannot be told apart` };
  const fresh = `${old.slice(0, old.length - 1 - (match[5] ?? '').length)}${wanted}}`;
  return replaced(
    file,
    site,
    source.replace(old, () => fresh),
    `the default in its image`,
  );
}

const ASSIGNMENT = /^([ \t]*(?:export[ \t]+)?)([A-Za-z_]\w*)([ \t]*=[ \t]*)("[^"\n]*"|'[^'\n]*'|[^\n]*)$/gm;

/** Values of an env file. Source: compose's own documentation of its env file. */
function environmentOf(text: string): Map<string, string> {
  return new Map([...text.matchAll(ASSIGNMENT)].map(([, , name = '', , raw = '']) => [name, plainValue(raw)]));
}

function plainValue(raw: string): string {
  const quote = raw[0];
  if ((quote === '"' || quote === "'") && raw.at(-1) === quote && raw.length > 1) return raw.slice(1, -1);
  return raw.replace(/\s+#.*$/, '').trim();
}

function environmentEdit(file: ProjectFile, name: string, wanted: string): Edit | Refusal {
  const lines = [...file.text.matchAll(ASSIGNMENT)].filter((match) => match[2] === name);
  const [line, ...more] = lines;
  if (line === undefined || more.length > 0) return { refused: `${file.path} gives ${name} more than once` };
  const [, start = '', , equals = '', raw = ''] = line;
  const from = line.index + start.length + name.length + equals.length;
  const old = plainValue(raw);
  const at = raw.indexOf(old);
  return replaced(file, { from: from + at, to: from + at + old.length }, wanted, `the variable ${name}`);
}
