import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parse } from 'yaml';
import { imageEdit, type ProjectFile } from '../src/docker/compose-file.ts';

const NEW = 'kwdb/kwdb:3.1.0';
const file = (text: string, path = 'docker-compose.yml'): ProjectFile => ({ path, text });
/** `«TAG»` stands for the variable TAG. */
const withVariables = (text: string) => text.replaceAll('«', ['$', '{'].join('')).replaceAll('»', '}');
const edit = (text: string, environment?: string) =>
  imageEdit({
    service: 'kwdb',
    files: [file(withVariables(text))],
    environment: environment === undefined ? undefined : file(environment, '.env'),
    image: NEW,
  });

/** Fixtures with the old image between ‹ and ›: what lies outside must be the same bytes afterwards. */
const FIXTURES: Readonly<Record<string, string>> = {
  plain: 'services:\n  kwdb:\n    image: ‹kwdb/kwdb:3.0.0›\n    command: ./kwbase start\n',
  'comments, odd order, blank lines':
    '# top\nversion: "3.3"\n\nservices:\n\n  # the database\n  kwdb:   # here\n    ports: ["26257:26257"]\n\n    image:    ‹kwdb/kwdb:3.0.0›   # pinned\n  web:\n    image: kwdb/kwdb:3.0.0\n# end',
  'double quotes': 'services:\n  kwdb:\n    image: "‹kwdb/kwdb:3.0.0›"\n',
  'single quotes': "services:\n  kwdb:\n    image: '‹kwdb/kwdb:3.0.0›'\n",
  'windows line ends': 'services:\r\n  kwdb:\r\n    image: ‹kwdb/kwdb:3.0.0›\r\n    restart: always\r\n',
  tabs: 'services:\n  kwdb:\n    image:\t‹kwdb/kwdb:3.0.0›\t# x\n',
  'one line': 'services: {kwdb: {image: ‹kwdb/kwdb:3.0.0›, command: [./kwbase, start]}, web: {image: nginx}}\n',
  'its own anchor': 'services:\n  kwdb:\n    image: &image ‹kwdb/kwdb:3.0.0›\n    labels: {a: b}\n',
  'an alias': 'x-image: &image kwdb/kwdb:3.0.0\nservices:\n  kwdb:\n    image: ‹*image›\n  tool:\n    image: *image\n',
  'another service with the same image':
    'services:\n  a:\n    image: kwdb/kwdb:3.0.0\n  kwdb:\n    image: ‹kwdb/kwdb:3.0.0›\n  z:\n    image: kwdb/kwdb:3.0.0\n',
  'a merged base, its own image':
    'x-base: &base\n  image: old:1\n  restart: always\nservices:\n  kwdb:\n    <<: *base\n    image: ‹kwdb/kwdb:3.0.0›\n',
  'by digest': `services:\n  kwdb:\n    image: ‹kwdb/kwdb@sha256:${'a'.repeat(64)}›\n`,
  'the first format': 'kwdb:\n  image: ‹kwdb/kwdb:3.0.0›\n  net: host\n',
  'a quoted key': 'services:\n  "kwdb":\n    "image": ‹kwdb/kwdb:3.0.0›\n',
  'not ascii':
    'services:\n  # 数据库 — база\n  kwdb:\n    labels:\n      owner: "дба 🙂"\n    image: ‹kwdb/kwdb:3.0.0›\n',
  'a default in a variable': 'services:\n  kwdb:\n    image: kwdb/kwdb:«KWDB_TAG:-‹3.0.0›»\n',
  'a whole default': 'services:\n  kwdb:\n    image: "«KWDB_IMAGE-‹kwdb/kwdb:3.0.0›»"\n',
};

describe('the image in a compose file', () => {
  it.each(Object.entries(FIXTURES))('%s: only its bytes change', (name, marked) => {
    const [head = '', old = '', tail = ''] = marked.split(/[‹›]/);
    const wanted = name === 'a default in a variable' ? '3.1.0' : NEW;
    expect(edit(head + old + tail)).toMatchObject({ text: withVariables(head + wanted + tail) });
  });

  it('changes nothing but its bytes in any file', () => {
    const indent = fc.constantFrom('  ', '    ');
    const comment = fc.constantFrom('', ' # x', '   # image: none');
    const quote = fc.constantFrom('', '"', "'");
    const other = fc.constantFrom(
      'restart: always',
      'ports: ["1:1"]',
      '# image: kwdb/kwdb:3.0.0',
      'labels: {image: y}',
    );
    const image = fc.stringMatching(/^[a-z]{1,8}(\/[a-z]{1,8})?:[0-9]\.[0-9]{1,2}\.[0-9]$/);
    const shape = fc.record({ indent, comment, quote, before: fc.array(other), after: fc.array(other), image });
    fc.assert(
      fc.property(
        shape,
        fc.constantFrom('\n', '\r\n'),
        ({ indent: i, comment: c, quote: q, before, after, image: old }, n) => {
          const lines = (all: readonly string[]) => [...new Set(all)].map((line) => `${i}${i}${line}${n}`).join('');
          const ahead = new Set(before);
          const head = `services:${n}${i}kwdb:${n}${lines(before)}${i}${i}image: ${q}`;
          const tail = `${q}${c}${n}${lines(after.filter((line) => !ahead.has(line)))}`;
          const made = edit(head + old + tail);
          expect(made).toMatchObject({ text: head + NEW + tail });
          expect(parse((made as { text: string }).text).services.kwdb.image).toBe(NEW);
        },
      ),
    );
  });

  it.each([
    ['a merged base', 'x: &base\n  image: kwdb/kwdb:3.0.0\nservices:\n  kwdb:\n    <<: *base\n    restart: always\n'],
    ['extends', 'services:\n  base:\n    image: kwdb/kwdb:3.0.0\n  kwdb:\n    extends:\n      service: base\n'],
  ])('%s: the service gets an image of its own, the base keeps its', (_name, text) => {
    const made = edit(text) as { text: string };
    const [first, second] = [parse(text, { merge: true }), parse(made.text, { merge: true })];
    expect(second.services.kwdb.image).toBe(NEW);
    delete first.services.kwdb.image;
    delete second.services.kwdb.image;
    expect(second).toEqual(first);
    expect(made.text.replace(`image: ${NEW}\n    `, '')).toBe(text);
  });

  it('the last of several files that names it counts; one that does not is left alone', () => {
    const base = file('services:\n  kwdb:\n    image: kwdb/kwdb:2.9.0\n', 'base.yml');
    const over = file('services:\n  kwdb:\n    image: kwdb/kwdb:3.0.0\n', 'over.yml');
    const more = file('services:\n  kwdb:\n    labels: {a: b}\n  web: {image: nginx}\n', 'more.yml');
    const made = imageEdit({ service: 'kwdb', files: [base, over, more], environment: undefined, image: NEW });
    expect(made).toEqual({ path: 'over.yml', text: over.text.replace('kwdb/kwdb:3.0.0', NEW), what: 'its image' });
  });

  it.each([
    ['plain', 'A=1\nTAG=‹3.0.0›\nB=2\n'],
    ['quoted', '# TAG=9\nexport TAG = "‹3.0.0›"\n'],
    ['with a comment', 'TAG=‹3.0.0›   # the version'],
    ['windows line ends', 'TAG=‹3.0.0›\r\nB=2\r\n'],
  ])('a variable is changed in the env file: %s', (_name, marked) => {
    const [head = '', old = '', tail = ''] = marked.split(/[‹›]/);
    const text = 'services:\n  kwdb:\n    image: «REPO:-kwdb/kwdb»:«TAG»\n';
    expect(edit(text, head + old + tail)).toEqual({
      path: '.env',
      text: `${head}3.1.0${tail}`,
      what: 'the variable TAG',
    });
  });

  it.each([
    ['a service that is built', 'services:\n  kwdb:\n    build: .\n    image: kwdb:3\n', undefined, /built/],
    ['a service that is an alias', 'x: &k {image: a}\nservices:\n  kwdb: *k\n', undefined, /alias/],
    ['no such service', 'services:\n  other: {image: a}\n', undefined, /none of/],
    ['no YAML', 'services: [\n', undefined, /no YAML/],
    ['an image over several lines', 'services:\n  kwdb:\n    image: >-\n      kwdb:3\n', undefined, /block/],
    ['a base in one line', 'x: &b {image: a}\nservices: {kwdb: {<<: *b}}\n', undefined, /one line/],
    [
      'a variable of other things too',
      'services:\n  kwdb:\n    image: kwdb/kwdb:«T»\n  w:\n    image: w:$T\n',
      'T=1\n',
      /elsewhere/,
    ],
    ['a variable from somewhere else', 'services:\n  kwdb:\n    image: kwdb/kwdb:«T»\n', '', /no single variable/],
    [
      'a repository that a variable cannot give',
      'services:\n  kwdb:\n    image: mine/kwdb:«T»\n',
      'T=1\n',
      /no single/,
    ],
    ['a variable given twice', 'services:\n  kwdb:\n    image: kwdb/kwdb:«T»\n', 'T=1\nT=2\n', /more than once/],
    ['a required variable', 'services:\n  kwdb:\n    image: kwdb/kwdb:«T:?no»\n', 'T=1\n', /not followed/],
  ])('refuses %s', (_name, text, environment, why) => {
    expect(edit(text, environment)).toMatchObject({ refused: expect.stringMatching(why) });
  });

  it('lets nothing into a file that is no image reference', () => {
    const wish = { service: 'kwdb', files: [file('services: {kwdb: {image: a}}')], environment: undefined };
    expect(imageEdit({ ...wish, image: 'a\n  evil: true' })).toHaveProperty('refused');
  });
});
