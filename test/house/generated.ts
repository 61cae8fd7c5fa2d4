/** Part of `npm run check`: the generated descriptor is what proto/ says now. */
import { execFile } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

const top = join(import.meta.dirname, '../..');
const work = await mkdtemp(join(tmpdir(), 'kwfleet-generated-'));
try {
  const fresh = join(work, 'descriptor.json');
  const pbjs = join(top, 'node_modules/.bin/pbjs');
  await promisify(execFile)(pbjs, [
    '-t',
    'json',
    '-p',
    join(top, 'proto'),
    '-o',
    fresh,
    join(top, 'proto/gateway.proto'),
  ]);
  const committed = await readFile(join(top, 'packages/protocol/src/generated/descriptor.json'), 'utf8');
  if (committed.trim() !== (await readFile(fresh, 'utf8')).trim()) {
    console.error(
      'packages/protocol/src/generated is not what proto/ says: run `npm run generate` and commit the result',
    );
    process.exitCode = 1;
  }
} finally {
  await rm(work, { recursive: true, force: true });
}
