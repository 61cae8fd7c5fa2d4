import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  compareVersions,
  type Extension,
  type ExtensionKind,
  FleetError,
  formatVersion,
  isVersion,
  normalVersion,
  parseVersion,
  sameVersion,
  transition,
  type Version,
} from '../src/index.ts';

const KINDS: ExtensionKind[] = ['alpha', 'beta', 'hotfix', 'enhance', 'patch'];
const small = fc.integer({ min: 0, max: 3 });
const extension: fc.Arbitrary<Extension> = fc.record({ kind: fc.constantFrom(...KINDS), number: small });
/** Few distinct values, so that pairs often share the basic version and the first extension. */
const version: fc.Arbitrary<Version> = fc.record({
  basic: fc.tuple(fc.constant(3), fc.integer({ min: 0, max: 1 }), fc.integer({ min: 0, max: 1 })),
  extensions: fc.array(extension, { maxLength: 2 }),
});
const sameBasic = fc
  .tuple(version, fc.array(extension, { maxLength: 2 }))
  .map(([from, extensions]): [Version, Version] => [from, { ...from, extensions }]);
const pair = fc.oneof(fc.tuple(version, version), sameBasic);

const step = (from: string, to: string) => transition(parseVersion(from), parseVersion(to));
const outcome = (from: string, to: string) => {
  const result = step(from, to);
  return result.verdict === 'refused' ? result.code : result.verdict;
};

describe('parsing', () => {
  it('comes back from its normal form', () => {
    fc.assert(
      fc.property(version, (one) => {
        expect(parseVersion(formatVersion(one))).toEqual(one);
      }),
    );
  });

  it.each([
    ['3.1.0', '3.1.0'],
    ['V3.1.0', '3.1.0'],
    [' v3.1.0\n', '3.1.0'],
    ['3.1.0 hotfix1', '3.1.0-hotfix1'],
    ['3.1.0-hotfix1', '3.1.0-hotfix1'],
    ['3.1.0_Hotfix1Beta2', '3.1.0-hotfix1beta2'],
    ['3.1.0.patch12', '3.1.0-patch12'],
    ['3.1.0alpha', '3.1.0-alpha'],
    ['3.1.0-alpha0', '3.1.0-alpha'],
    ['03.01.00', '3.1.0'],
  ])('takes %j for %s', (text, normal) => {
    expect(normalVersion(text)).toBe(normal);
  });

  it.each([
    '',
    ' ',
    '3',
    '3.1',
    '3.1.0.0',
    '3.1.x',
    '-3.1.0',
    '3.1.0-1',
    '3.1.0-rc1',
    '3.1.0-hotfix1beta2alpha3',
    '3.1.0 - hotfix1',
    '3.1.0\nrm -rf /',
    'VV3.1.0',
    '3.1.0-',
    '１.2.3',
    '1234567.0.0',
  ])('refuses %j', (text) => {
    expect(() => parseVersion(text)).toThrowError(expect.objectContaining({ code: 'VERSION_INVALID' }));
  });

  it('refuses any other text with VERSION_INVALID and nothing else', () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string({ unit: 'binary-ascii', maxLength: 300 }),
          fc.string({ unit: fc.constantFrom(...'3.10-Vhotfixbeta ') }),
        ),
        (text) => {
          if (isVersion(text)) return parseVersion(text).basic.length === 3;
          try {
            parseVersion(text);
            return false;
          } catch (error) {
            return error instanceof FleetError && error.code === 'VERSION_INVALID' && error.message.length < 120;
          }
        },
      ),
    );
  });

  it('knows one version by its spellings', () => {
    expect(sameVersion('V3.1.0', '3.1.0')).toBe(true);
    expect(sameVersion('3.1.0 hotfix1', '3.1.0-hotfix1')).toBe(true);
    expect(sameVersion('3.1.0', '3.1.0-hotfix1')).toBe(false);
  });

  it('tells what is no version without throwing', () => {
    expect(isVersion('V3.1.0 hotfix1')).toBe(true);
    expect(isVersion('unknown')).toBe(false);
    expect(isVersion('')).toBe(false);
  });
});

describe('order', () => {
  it('runs from alpha over beta and the release to the extensions, joined ones before what they lead to', () => {
    const ascending = [
      '3.0.9-patch9',
      '3.1.0-alpha1',
      '3.1.0-alpha2',
      '3.1.0-beta1',
      '3.1.0-beta10',
      '3.1.0',
      '3.1.0-hotfix1alpha1',
      '3.1.0-hotfix1beta1',
      '3.1.0-hotfix1beta2',
      '3.1.0-hotfix1',
      '3.1.0-hotfix2',
      '3.1.1-alpha1',
      '3.1.10',
      '3.2.0',
      '10.0.0',
    ].map(parseVersion);
    for (const [i, a] of ascending.entries()) {
      for (const [j, b] of ascending.entries()) expect(compareVersions(a, b)).toBe(Math.sign(i - j));
    }
  });

  it('is antisymmetric', () => {
    fc.assert(
      fc.property(pair, ([a, b]) => {
        expect(compareVersions(a, b) + compareVersions(b, a)).toBe(0);
      }),
    );
  });

  it('is transitive, also through equals', () => {
    fc.assert(
      fc.property(version, version, version, (a, b, c) => {
        const [first, second, third] = [a, b, c].sort(compareVersions) as [Version, Version, Version];
        expect(compareVersions(first, second)).toBeLessThanOrEqual(0);
        expect(compareVersions(second, third)).toBeLessThanOrEqual(0);
        expect(compareVersions(first, third)).toBeLessThanOrEqual(0);
        if (compareVersions(a, b) === 0) expect(compareVersions(a, c)).toBe(compareVersions(b, c));
      }),
      { numRuns: 1000 },
    );
  });

  it('calls one version equal to itself', () => {
    fc.assert(
      fc.property(version, (one) => {
        expect(compareVersions(one, structuredClone(one))).toBe(0);
      }),
    );
  });
});

describe('steps between versions', () => {
  it.each([
    // basic versions
    ['3.0.0', '3.1.0', 'legal'],
    ['3.0.0', '4.0.0', 'legal'],
    ['3.0.0-hotfix3', '3.1.0-alpha1', 'legal'],
    ['3.1.0', '3.0.0', 'VERSION_OLDER'],
    ['3.1.0-alpha1', '3.0.9-patch9', 'VERSION_OLDER'],
    ['3.10.0', '3.9.0', 'VERSION_OLDER'],
    ['3.1.0', 'V3.1.0', 'VERSION_EQUAL'],
    ['3.1.0-hotfix1beta1', '3.1.0 hotfix1beta1', 'VERSION_EQUAL'],
    // previews
    ['3.1.0-alpha1', '3.1.0-alpha2', 'legal'],
    ['3.1.0-alpha2', '3.1.0-alpha1', 'VERSION_OLDER'],
    ['3.1.0-alpha1', '3.1.0-beta1', 'legal'],
    ['3.1.0-beta1', '3.1.0-alpha2', 'VERSION_OLDER'],
    ['3.1.0-beta1', '3.1.0-beta2', 'legal'],
    ['3.1.0-beta2', '3.1.0-beta1', 'VERSION_OLDER'],
    ['3.1.0-alpha1', '3.1.0', 'legal'],
    ['3.1.0-beta1', '3.1.0', 'legal'],
    ['3.1.0', '3.1.0-alpha1', 'VERSION_REFUSED'],
    ['3.1.0', '3.1.0-beta1', 'VERSION_REFUSED'],
    // the release and its extensions
    ['3.1.0', '3.1.0-hotfix1', 'legal'],
    ['3.1.0', '3.1.0-enhance1', 'legal'],
    ['3.1.0', '3.1.0-patch1', 'legal'],
    ['3.1.0', '3.1.0-hotfix1beta1', 'legal'],
    // knowingly stricter than deploy.sh, which would let the host go back
    ['3.1.0-hotfix1', '3.1.0', 'VERSION_OLDER'],
    ['3.1.0-enhance1', '3.1.0', 'VERSION_OLDER'],
    ['3.1.0-patch1', '3.1.0', 'VERSION_OLDER'],
    ['3.1.0-hotfix2', '3.1.0-hotfix1', 'VERSION_OLDER'],
    ['3.1.0-enhance2', '3.1.0-enhance1', 'VERSION_OLDER'],
    ['3.1.0-patch2', '3.1.0-patch1', 'VERSION_OLDER'],
    // one kind, rising
    ['3.1.0-patch1', '3.1.0-patch2', 'legal'],
    ['3.1.0-hotfix1', '3.1.0-hotfix2', 'unsupported'],
    ['3.1.0-enhance1', '3.1.0-enhance2', 'unsupported'],
    // joined
    ['3.1.0-hotfix1beta1', '3.1.0-hotfix1beta2', 'legal'],
    ['3.1.0-hotfix1beta2', '3.1.0-hotfix1beta1', 'VERSION_OLDER'],
    ['3.1.0-hotfix1alpha1', '3.1.0-hotfix1beta1', 'legal'],
    ['3.1.0-hotfix1beta1', '3.1.0-hotfix1alpha2', 'VERSION_OLDER'],
    ['3.1.0-hotfix1beta1', '3.1.0-hotfix1', 'legal'],
    ['3.1.0-hotfix1', '3.1.0-hotfix1beta1', 'VERSION_REFUSED'],
    ['3.1.0-hotfix1patch1', '3.1.0-hotfix1', 'VERSION_OLDER'],
    ['3.1.0-hotfix1beta1', '3.1.0-hotfix2beta1', 'unsupported'],
    ['3.1.0-patch1beta1', '3.1.0-patch2', 'legal'],
    ['3.1.0-hotfix1beta1', '3.1.0-patch1', 'unsupported'],
    ['3.1.0-hotfix1beta1', '3.1.0', 'VERSION_OLDER'],
  ])('%s → %s: %s', (from, to, expected) => {
    expect(outcome(from, to)).toBe(expected);
  });

  const branches = ['hotfix', 'enhance', 'patch'] as const;
  const mixed = branches.flatMap((a) => branches.filter((b) => b !== a).map((b): [string, string] => [a, b]));
  it.each(mixed)('%s and %s are branches of their own, whatever their numbers', (a, b) => {
    for (const [from, to] of [
      [1, 1],
      [1, 2],
      [2, 1],
    ]) {
      expect(outcome(`3.1.0-${a}${from}`, `3.1.0-${b}${to}`)).toBe('unsupported');
    }
  });

  it.each(branches.flatMap((a) => (['alpha', 'beta'] as const).map((b): [string, string] => [a, b])))(
    '%s does not go back to %s, and %2$s goes on to it',
    (branch, preview) => {
      expect(outcome(`3.1.0-${branch}1`, `3.1.0-${preview}9`)).toBe('VERSION_REFUSED');
      expect(outcome(`3.1.0-${preview}9`, `3.1.0-${branch}1`)).toBe('legal');
    },
  );

  it('are never legal in both directions', () => {
    fc.assert(
      fc.property(pair, ([a, b]) => {
        expect([transition(a, b).verdict, transition(b, a).verdict]).not.toEqual(['legal', 'legal']);
      }),
      { numRuns: 2000 },
    );
  });

  it('are legal only to what is newer in the order', () => {
    fc.assert(
      fc.property(pair, ([from, to]) => {
        if (transition(from, to).verdict === 'legal') expect(compareVersions(from, to)).toBe(-1);
      }),
      { numRuns: 5000 },
    );
  });

  it('are refused with VERSION_EQUAL exactly when nothing would change', () => {
    fc.assert(
      fc.property(pair, ([from, to]) => {
        const result = transition(from, to);
        const equal = result.verdict === 'refused' && result.code === 'VERSION_EQUAL';
        expect(equal).toBe(formatVersion(from) === formatVersion(to));
      }),
    );
  });

  it('are refused with VERSION_OLDER when the basic version goes back, and legal when it rises', () => {
    fc.assert(
      fc.property(version, version, (from, to) => {
        const basic = compareVersions({ ...from, extensions: [] }, { ...to, extensions: [] });
        if (basic > 0) expect(transition(from, to)).toMatchObject({ verdict: 'refused', code: 'VERSION_OLDER' });
        if (basic < 0) expect(transition(from, to).verdict).toBe('legal');
      }),
    );
  });

  it('never leave the way back open to the bypass, but between branches', () => {
    fc.assert(
      fc.property(pair, ([from, to]) => {
        if (transition(from, to).verdict !== 'unsupported') return;
        const [a, b] = [from.extensions[0]?.kind, to.extensions[0]?.kind];
        if (a === b) expect(compareVersions(from, to)).toBe(-1);
        else expect(branches).toEqual(expect.arrayContaining([a, b]));
      }),
      { numRuns: 2000 },
    );
  });

  it('say both versions in the reason', () => {
    expect(step('3.1.0', '3.0.0')).toMatchObject({ reason: expect.stringContaining('3.1.0 → 3.0.0') });
  });
});
