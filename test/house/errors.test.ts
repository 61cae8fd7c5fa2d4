import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ERRORS } from '@kwfleet/core';
import { describe, expect, it } from 'vitest';

const page = await readFile(join(import.meta.dirname, '../../docs/reference/errors.md'), 'utf8');

/** Codes of the reference, from its table's first column. */
const documented = [...page.matchAll(/^\| `([A-Z_]+)` \|/gm)].map(([, code]) => code ?? '');

describe('docs/reference/errors.md', () => {
  it('explains every error code', () => {
    expect(Object.keys(ERRORS).filter((code) => !documented.includes(code))).toEqual([]);
  });

  it('explains none that does not exist, and none twice', () => {
    expect(documented.filter((code) => !(code in ERRORS))).toEqual([]);
    expect(new Set(documented).size).toBe(documented.length);
  });
});
