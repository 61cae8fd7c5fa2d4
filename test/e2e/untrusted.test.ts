import { appendFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, it } from 'vitest';
import { Playground } from './playground.ts';

/** Upgrades that end before they begin, because hosts do not trust the package. The nodes' own records tell. */
let playground: Playground;
let cluster: string;
let file: string;
let sha256: string;

beforeAll(async () => {
  playground = await Playground.create({ topology: 'multi-replica' });
  file = await playground.buildPackage({ version: '3.1.0' });
  cluster = (await playground.client.clusters())[0]?.name ?? '';
});
afterEach((context) => {
  if (context.task.result?.state === 'fail') console.error(playground.logs());
});
afterAll(() => playground?.close());

/** Runs the command line; answers all that it printed. */
async function kwfleet(code: number, ...args: string[]): Promise<string> {
  const ran = await playground.kwfleet(...args);
  expect(ran.code, `${args.join(' ')}\n${ran.stdout}${ran.stderr}`).toBe(code);
  return ran.stdout + ran.stderr;
}

/** An upgrade that is held, and then aborted: no node was stopped, drained or exchanged. */
async function heldUntouched(code: string): Promise<void> {
  const args = ['--to', '3.1.0', '--backup', 'none:test', '--soak', '100ms', '--sample-gap', '100ms'];
  expect(await kwfleet(3, 'upgrade', cluster, ...args, '--yes', '--watch')).toContain(code);
  const [run] = await playground.client.runs();
  await playground.client.choose(run?.id ?? '', 'abort');
  await expect
    .poll(async () => (await playground.client.run(run?.id ?? '')).status, { timeout: 120_000 })
    .toBe('aborted');
  const touched = playground.rig.nodes.flatMap((node) =>
    node.record().filter(({ event }) => event === 'stop' || event === 'draining'),
  );
  expect(touched).toEqual([]);
  for (const node of playground.rig.nodes) expect(node.read('etc/kaiwudb/info/.version')).toContain('3.0.0');
}

it('what nobody signed is not even planned, once people are in charge', async () => {
  const passphrase = join(playground.rig.directory, 'passphrase');
  const key = join(playground.rig.directory, 'my.key');
  writeFileSync(passphrase, 'correct horse battery\n');
  await kwfleet(0, 'key', 'create', key, '--passphrase-file', passphrase);
  const signing = ['--key', key, '--passphrase-file', passphrase, '--yes'];
  await kwfleet(0, 'root', 'init', ...signing);
  const { id } = JSON.parse(await kwfleet(0, 'package', 'add', file, '--json')) as { id: string };
  sha256 = id;
  const plan = ['plan', cluster, '--to', '3.1.0', '--backup', 'none:test'];
  expect(await kwfleet(2, ...plan)).toContain('PACKAGE_UNSIGNED');
  await kwfleet(0, 'package', 'sign', file, ...signing);
  expect(await kwfleet(0, ...plan)).not.toContain('PACKAGE_UNSIGNED');
});

it('a package that was exchanged at the controller holds the run, and no node is touched', async () => {
  const stored = join(playground.rig.directory, 'controller/packages', `${sha256}.tar.gz`);
  const bytes = readFileSync(stored);
  const other = Buffer.from(bytes);
  other[1000] = (other[1000] as number) ^ 1;
  writeFileSync(stored, other);
  await heldUntouched('PACKAGE_CORRUPT');
  writeFileSync(stored, bytes);
});

it('a host that knows another root holds the run, and no node is touched', async () => {
  for (const [i, agent] of playground.agents.entries()) {
    await agent.end();
    const config = join(playground.rig.directory, `n${i + 1}.yaml`);
    appendFileSync(config, `packages:\n  root_sha256: ${'f'.repeat(64)}\n`);
    agent.start();
  }
  await playground.healthy();
  await heldUntouched('TRUST_ROOT_UNKNOWN');
});
