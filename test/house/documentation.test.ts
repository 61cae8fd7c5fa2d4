import { execFile } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { ERRORS } from '@kwfleet/core';
import { describe, expect, it } from 'vitest';

const TOP = join(import.meta.dirname, '../..');
const KWFLEET = join(TOP, 'packages/cli/bin/kwfleet.mjs');
const PAGES = [
  'README.md',
  'CONTRIBUTING.md',
  ...readdirSync(join(TOP, 'docs'), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.md'))
    .map((name) => join('docs', name)),
];
const read = (page: string): string => readFileSync(join(TOP, page), 'utf8');

/** Command lines of kwfleet in a page: in shell blocks and in code within the text. */
function commands(page: string): string[][] {
  const text = read(page);
  const blocks = [...text.matchAll(/^```shell\n(.*?)^```/gms)].flatMap(([, body = '']) => body.split('\n'));
  const spans = [...text.replaceAll(/^```.*?^```/gms, '').matchAll(/`([^`\n]+)`/g)].map(([, code = '']) => code);
  return [...blocks, ...spans]
    .map((line) => /^(?:npx )?kwfleet (.+)$/.exec(line.trim())?.[1])
    .filter((line) => line !== undefined)
    .map((line) => line.split(/\s+/));
}

/** The subcommand, without arguments (which are upper case, or files) and options. */
function subcommand(words: readonly string[]): string[] {
  const end = words.findIndex((word) => !/^[a-z]+$/.test(word));
  return words.slice(0, end < 0 ? words.length : end).slice(0, 2);
}

const helps = new Map<string, Promise<string>>();
function helpOf(words: readonly string[]): Promise<string> {
  const key = words.join(' ');
  const known =
    helps.get(key) ?? promisify(execFile)(process.execPath, [KWFLEET, ...words, '--help']).then(({ stdout }) => stdout);
  helps.set(key, known);
  return known;
}

describe.each(PAGES)('%s', (page) => {
  it('names commands and options that there are', async () => {
    for (const words of commands(page)) {
      const help = await helpOf(subcommand(words));
      expect(help, `${words.join(' ')}: is there such a command?`).toContain(`kwfleet ${subcommand(words).join(' ')}`);
      for (const option of words.filter((word) => word.startsWith('--'))) {
        expect(help, `${words.join(' ')}: is there ${option}?`).toContain(option.replace(/[=.].*$/, ''));
      }
    }
  });

  it('names npm scripts that there are', () => {
    const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> };
    for (const [, name = ''] of read(page).matchAll(/npm run ([a-z:]+)/g)) expect(Object.keys(scripts)).toContain(name);
  });

  it('links to pages that there are', () => {
    for (const [, target = ''] of read(page).matchAll(/\]\(([^)#]+)\)/g)) {
      if (/^https?:/.test(target)) continue;
      expect(existsSync(join(TOP, dirname(page), target)), `${page}: ${target}`).toBe(true);
    }
  });

  it('names error codes that there are', () => {
    for (const [, code = ''] of read(page).matchAll(/\b([A-Z]{4,}_[A-Z_]{3,})\b/g)) {
      const known = code in ERRORS || /^(KWFLEET|KAIWUDB|NO_COLOR|NODE_EXTRA)/.test(code);
      expect(known, `${page}: ${code}`).toBe(true);
    }
  });
});
