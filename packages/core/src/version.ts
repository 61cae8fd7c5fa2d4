/**
 * KWDB's version order and which steps between versions deploy.sh takes.
 * A version is three numbers and, possibly, an extension: one of alpha, beta, hotfix, enhance, patch with a
 * number, or two of them joined (`hotfix1beta2`). Source: KWDB facts, "Version rules of the package".
 */
import { FleetError } from './errors.ts';

export type ExtensionKind = 'alpha' | 'beta' | 'hotfix' | 'enhance' | 'patch';
export type Extension = { readonly kind: ExtensionKind; readonly number: number };
export type Version = {
  readonly basic: readonly [number, number, number];
  /** None for a release, one, or two where they are joined: the first is what the second leads to. */
  readonly extensions: readonly Extension[];
};

const KIND_RANK: Record<ExtensionKind, number> = { alpha: 0, beta: 1, hotfix: 3, enhance: 3, patch: 3 };
const RELEASE_RANK = 2;
const PATTERN = /^v?(\d{1,6})\.(\d{1,6})\.(\d{1,6})(?:[-_. ]?((?:(?:alpha|beta|hotfix|enhance|patch)\d{0,6}){1,2}))?$/i;

/** A fleet speaks of a handful of versions, over and over: what each says is read once. Forgotten when it is full. */
const READ_LIMIT = 500;
const TEXT_LIMIT = 60;
const read = new Map<string, Version>();

function readVersion(text: string): Version | undefined {
  const known = read.get(text);
  if (known !== undefined) return known;
  const match = PATTERN.exec(text.trim());
  if (match === null) return undefined;
  const extensions = [...(match[4] ?? '').toLowerCase().matchAll(/(alpha|beta|hotfix|enhance|patch)(\d*)/g)].map(
    ([, kind, number]): Extension => Object.freeze({ kind: kind as ExtensionKind, number: Number(number || 0) }),
  );
  const basic = Object.freeze([Number(match[1]), Number(match[2]), Number(match[3])] as const);
  const version: Version = Object.freeze({ basic, extensions: Object.freeze(extensions) });
  if (read.size >= READ_LIMIT) read.clear();
  if (text.length <= TEXT_LIMIT) read.set(text, version);
  return version;
}

/** Parses `3.1.0`, `V3.1.0`, `3.1.0-hotfix1`, `3.1.0 hotfix1beta2`. Throws VERSION_INVALID. */
export function parseVersion(text: string): Version {
  const version = readVersion(text);
  if (version === undefined) throw new FleetError('VERSION_INVALID', `"${text.slice(0, 60)}" is not a KWDB version`);
  return version;
}

/** The normal form: `3.1.0`, `3.1.0-hotfix1beta2`. */
export function formatVersion({ basic, extensions }: Version): string {
  const extension = extensions.map(({ kind, number }) => `${kind}${number || ''}`).join('');
  return extension === '' ? basic.join('.') : `${basic.join('.')}-${extension}`;
}

/** Whether a text names a version at all: a host may tell anything, above all after an interrupted install. */
export const isVersion = (text: string): boolean => readVersion(text) !== undefined;

/** Parses and formats: the one spelling that is stored and compared. */
export const normalVersion = (text: string): string => formatVersion(parseVersion(text));

/**
 * Whether what a binary, a package or a database tells fits this version: the same basic version, and the same extension
 * where it tells one. Build tags are known to be basic (`V3.1.0`); only `.version` always has the extension. A text
 * that is no version fits none. Source: KWDB facts, `kwbase version` and `build`.
 */
export function tellsVersion(told: string, version: string): boolean {
  const [what, wanted] = [readVersion(told), readVersion(version)];
  if (what === undefined || wanted === undefined) return false;
  if (compareNumbers(what.basic, wanted.basic) !== 0) return false;
  return what.extensions.length === 0 || isSame(what, wanted);
}

/** Whether two spellings name one version. Throws VERSION_INVALID. */
export function sameVersion(a: string, b: string): boolean {
  return isSame(parseVersion(a), parseVersion(b));
}

const isSame = (a: Version, b: Version): boolean => a === b || formatVersion(a) === formatVersion(b);

function compareNumbers(a: readonly number[], b: readonly number[]): number {
  for (let i = 0; i < Math.max(a.length, b.length); i++) {
    const difference = (a[i] ?? 0) - (b[i] ?? 0);
    if (difference !== 0) return Math.sign(difference);
  }
  return 0;
}

/** An extension as numbers that sort: alpha before beta before the release before hotfix, enhance and patch. */
function rank(version: Version): number[] {
  const [first, second] = version.extensions;
  if (first === undefined) return [RELEASE_RANK];
  const head = [KIND_RANK[first.kind], first.number];
  return second === undefined ? [...head, RELEASE_RANK] : [...head, KIND_RANK[second.kind], second.number];
}

/** -1, 0 or 1. Hotfix, enhance and patch of one number are equals in order: no step between them is legal anyway. */
export function compareVersions(a: Version, b: Version): number {
  return compareNumbers(a.basic, b.basic) || compareNumbers(rank(a), rank(b));
}

/** Whether `a` comes before `b`; false where one of them is no version. */
export const isOlder = (a: string, b: string): boolean =>
  isVersion(a) && isVersion(b) && compareVersions(parseVersion(a), parseVersion(b)) < 0;

export type Transition =
  | { readonly verdict: 'legal' }
  /** deploy.sh takes it only with --bypass-version-check. */
  | { readonly verdict: 'unsupported'; readonly reason: string }
  | {
      readonly verdict: 'refused';
      readonly code: 'VERSION_OLDER' | 'VERSION_EQUAL' | 'VERSION_REFUSED';
      readonly reason: string;
    };

const refused = (code: 'VERSION_OLDER' | 'VERSION_EQUAL' | 'VERSION_REFUSED', reason: string): Transition => ({
  verdict: 'refused',
  code,
  reason,
});

/** Whether a host may go from one version to another in place. Source: KWDB facts, "Version rules of the package". */
export function transition(from: Version, to: Version): Transition {
  const step = `${formatVersion(from)} → ${formatVersion(to)}`;
  const basic = compareNumbers(from.basic, to.basic);
  if (basic > 0) return refused('VERSION_OLDER', `${step} goes back; KWDB is never downgraded in place`);
  if (basic < 0) return { verdict: 'legal' };
  if (formatVersion(from) === formatVersion(to))
    return refused('VERSION_EQUAL', `${formatVersion(from)} is there already`);
  return extensionTransition(from, to, step);
}

function isPreview(extension: Extension | undefined): boolean {
  return extension?.kind === 'alpha' || extension?.kind === 'beta';
}

function extensionTransition(from: Version, to: Version, step: string): Transition {
  const [oldFirst, oldSecond] = from.extensions;
  const [newFirst, newSecond] = to.extensions;
  if (isPreview(newFirst)) {
    if (oldFirst === undefined) return refused('VERSION_REFUSED', `${step}: a release does not go back to a preview`);
    if (!isPreview(oldFirst)) {
      return refused('VERSION_REFUSED', `${step}: ${oldFirst.kind} does not go back to ${newFirst?.kind}`);
    }
  }
  if (newFirst === undefined) {
    return isPreview(oldFirst)
      ? { verdict: 'legal' }
      : refused('VERSION_OLDER', `${step} drops what ${oldFirst?.kind} brought`);
  }
  if (oldFirst === undefined) return { verdict: 'legal' };
  if (oldFirst.kind !== newFirst.kind) return mixedTransition(oldFirst, newFirst, step);
  if (oldFirst.number > newFirst.number) return refused('VERSION_OLDER', `${step} goes back`);
  if (oldFirst.number < newFirst.number) return sameKindTransition(oldFirst.kind, step);
  return joinedTransition(oldSecond, newSecond, step);
}

function mixedTransition(from: Extension, to: Extension, step: string): Transition {
  if (from.kind === 'beta' && to.kind === 'alpha')
    return refused('VERSION_OLDER', `${step}: beta does not go back to alpha`);
  if (isPreview(from)) return { verdict: 'legal' };
  return { verdict: 'unsupported', reason: `${step}: ${from.kind} and ${to.kind} are branches of their own` };
}

/**
 * From one number to a higher one of the same kind. The released deploy.sh (V3.0.0 to V3.2.1, run over all pairs)
 * takes alpha, beta and patch, and wants the bypass for hotfix and enhance, although its own comments suggest otherwise.
 */
function sameKindTransition(kind: ExtensionKind, step: string): Transition {
  if (kind !== 'hotfix' && kind !== 'enhance') return { verdict: 'legal' };
  return { verdict: 'unsupported', reason: `${step}: deploy.sh takes one ${kind} to another only with the bypass` };
}

function joinedTransition(from: Extension | undefined, to: Extension | undefined, step: string): Transition {
  if (from === undefined)
    return refused('VERSION_REFUSED', `${step}: a finished extension does not go back to a preview of itself`);
  if (to === undefined) {
    return isPreview(from) ? { verdict: 'legal' } : refused('VERSION_OLDER', `${step} drops what ${from.kind} brought`);
  }
  const order = compareNumbers([KIND_RANK[from.kind], from.number], [KIND_RANK[to.kind], to.number]);
  return order < 0 ? { verdict: 'legal' } : refused('VERSION_OLDER', `${step} goes back`);
}
