/**
 * What is generated from the code: the wire's descriptor, the reference of errors, the pictures of the state machines. `npm run generate` writes them;
 * without `--write`, as part of `npm run check`, it says which of them is not what the code says now.
 */
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { ERRORS } from '@kwfleet/core';
import { stateMachines } from './pictures.ts';

const TOP = join(import.meta.dirname, '../..');

async function descriptor(): Promise<string> {
  const work = await mkdtemp(join(tmpdir(), 'kwfleet-generated-'));
  try {
    const file = join(work, 'descriptor.json');
    const pbjs = join(TOP, 'node_modules/.bin/pbjs');
    await promisify(execFile)(pbjs, [
      '-t',
      'json',
      '-p',
      join(TOP, 'proto'),
      '-o',
      file,
      join(TOP, 'proto/gateway.proto'),
    ]);
    return await readFile(file, 'utf8');
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

async function errorReference(): Promise<string> {
  const rows = Object.entries(ERRORS)
    .sort(([a], [b]) => a.localeCompare(b))
    .map(([code, { status, remedy }]) => `| \`${code}\` | ${status} | ${remedy.replaceAll('|', '\\|')} |`);
  return [
    '# Errors and checks',
    '',
    'Every refusal, failed step and hold carries one of these codes. They are stable: scripts may rely on them. The message',
    'beside a code says what happened and on which node; where the host said something itself, its words are kept.',
    'Over REST they come as problem documents (RFC 9457) with the HTTP status below; on the command line a refusal exits',
    'with 2, a held run with 3, a failed or aborted one with 4. Checks of a plan use the same codes: a check that passes',
    'names what it found to be all right.',
    '',
    '| code | status | what to do |',
    '| --- | --- | --- |',
    ...rows,
    '',
    '<!-- generated from packages/core/src/errors.ts by `npm run generate` -->',
    '',
  ].join('\n');
}

const FILES: Readonly<Record<string, () => Promise<string>>> = {
  'packages/protocol/src/generated/descriptor.json': descriptor,
  'docs/reference/errors.md': errorReference,
  'docs/reference/state-machines.md': async () => stateMachines(),
};

const write = process.argv.includes('--write');
for (const [file, make] of Object.entries(FILES)) {
  const fresh = await make();
  if (write) {
    await writeFile(join(TOP, file), fresh);
    continue;
  }
  const committed = await readFile(join(TOP, file), 'utf8').catch(() => '');
  if (committed.trim() === fresh.trim()) continue;
  console.error(`${file} is not what the code says: run \`npm run generate\` and commit the result`);
  process.exitCode = 1;
}
