import fc from 'fast-check';
import { expect, it } from 'vitest';
import { nameParts, tagOf } from '../src/docker/image-name.ts';

it.each([
  ['kwdb/kwdb:3.1.0', { repository: 'kwdb/kwdb', tag: '3.1.0' }],
  ['kaiwudb', { repository: 'kaiwudb', tag: 'latest' }],
  ['registry.example.net:5000/kwdb/kwdb', { repository: 'registry.example.net:5000/kwdb/kwdb', tag: 'latest' }],
  [
    'registry.example.net:5000/kwdb:3.1.0-hotfix1',
    { repository: 'registry.example.net:5000/kwdb', tag: '3.1.0-hotfix1' },
  ],
  [`sha256:${'a'.repeat(64)}`, undefined],
  [`kwdb/kwdb@sha256:${'a'.repeat(64)}`, undefined],
  [`kwdb/kwdb:3.1.0@sha256:${'a'.repeat(64)}`, undefined],
])('%s', (name, parts) => expect(nameParts(name)).toEqual(parts));

it('a version is always a tag', () =>
  fc.assert(fc.property(fc.string(), (version) => /^[\w.-]*$/.test(tagOf(version)))));
