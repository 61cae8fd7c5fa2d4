/** A copy of every node, an upgrade, and the way back: what was written before the copy is there again, and nothing else. */
import { expect } from 'vitest';
import type { Inspected } from './container-deploy.ts';
import type { Fleet } from './fleet.ts';
import type { LabHost } from './host.ts';

/** Asks a host's database; the last line of its answer. */
export type Sql = (host: LabHost, statement: string) => Promise<string>;

/** The last line that `kwbase sql` prints when it is called by `argv`. */
export async function askBy(host: LabHost, argv: readonly string[], statement: string): Promise<string> {
  const { stdout } = await host.exec([...argv, 'sql', '--insecure', '--format=csv', '-e', statement]);
  return stdout.trim().split('\n').at(-1) ?? '';
}

const READ = "SELECT v FROM kv WHERE k = 'row'";
const write = (value: string) => `UPSERT INTO kv VALUES ('row', '${value}')`;

/**
 * What makes the copies of an upgrade: the run itself; but those of a rolling one are of no one moment, so of a multi-replica
 * cluster a plan of their own. Writes first what is to be found again.
 */
export async function copyFirst(
  fleet: Fleet,
  sql: Sql,
): Promise<{ options: Record<string, unknown>; backupOf: (run: string) => string }> {
  await sql(fleet.hosts[0] as LabHost, write('of the copy'));
  const { topology } = await fleet.healthy();
  if (topology !== 'multi-replica') return { options: { backup: { policy: 'copy' } }, backupOf: (run) => run };
  const backup = await play(fleet, { to: '3.0.0', kind: 'backup' });
  return { options: {}, backupOf: () => backup };
}

/** Writes what is to be given up, goes back to the version of the backup, and compares. */
export async function goBack(fleet: Fleet, backup: string, to: string, sql: Sql): Promise<void> {
  const [host] = fleet.hosts as [LabHost];
  expect(await fleet.client.backups()).toMatchObject([{ id: backup, version: to, problems: [] }]);
  await sql(host, write('written since'));
  expect(await sql(host, READ)).toBe('written since');
  await play(fleet, { to, kind: 'downgrade', restore: { backup } });
  expect((await fleet.healthy()).versions).toEqual([to]);
  for (const one of fleet.hosts) expect(await sql(one, READ)).toBe('of the copy');
}

/** What is not data is on the host as it was copied, but for lines with `but`: put back, or changed there and back. */
export async function sameFiles(host: LabHost, backup: string, but?: string): Promise<void> {
  const except = but === undefined ? [] : ['-I', but];
  for (const { name, path } of await rootsOf(host, backup)) {
    // The agent's own record is of the container that runs, whichever that is.
    if (name !== 'data' && !path.startsWith('/var/lib/kwfleet/'))
      await host.exec(['diff', '-r', ...except, `${placeOf(host, backup)}/files/${name}`, path]);
  }
}

type Root = { readonly name: string; readonly path: string };

/** What the copy of a host holds. */
export async function rootsOf(host: LabHost, backup: string): Promise<readonly Root[]> {
  const manifest = await host.readFile(`${placeOf(host, backup)}/manifest.json`);
  return (JSON.parse(manifest) as { roots: Root[] }).roots;
}

/** How the container was made of which a host's copy is. */
export async function madeOf(host: LabHost, backup: string): Promise<Pick<Inspected, 'Config' | 'HostConfig'>> {
  const record = (await rootsOf(host, backup)).find(({ path }) => path.endsWith('/docker/container.json'));
  return JSON.parse(await host.readFile(`${placeOf(host, backup)}/files/${record?.name}`));
}

const placeOf = (host: LabHost, backup: string): string => `/var/lib/kwfleet/backups/${host.name}/${backup}`;

async function play(
  fleet: Fleet,
  wish: { readonly to: string; readonly kind: 'backup' | 'downgrade'; readonly restore?: { readonly backup: string } },
): Promise<string> {
  const { id: cluster } = await fleet.healthy();
  const plan = await fleet.client.createPlan({ cluster, ...wish });
  expect(plan.blocked, JSON.stringify(plan.checks)).toBe(false);
  const run = (await fleet.client.createRun({ plan: plan.id, hash: plan.hash })).id;
  const ended = await fleet.settled(run);
  expect(ended.status, JSON.stringify(ended.hold)).toBe('succeeded');
  return run;
}
