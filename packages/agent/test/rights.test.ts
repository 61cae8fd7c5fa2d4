/** How root's rights are asked for, by what reaches sudo. That sudoers allow it is played on test hosts (test/lab). */
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { requireRights, requireUnitRights, runAsRoot } from '../src/host/rights.ts';

/**
 * A `sudo` first in the path that notes how it was called. It refuses what `refuses` matches, as the real one does that
 * would ask for a password, and carries out the rest: `systemd-run` by running what is behind `--`.
 */
async function sudoThat(refuses = '^$') {
  const directory = await mkdtemp(join(tmpdir(), 'kwfleet-rights-'));
  const calls = join(directory, 'calls');
  const { PATH } = process.env;
  onTestFinished(async () => {
    process.env.PATH = PATH;
    await rm(directory, { recursive: true, force: true });
  });
  const program = async (name: string, body: string) => {
    await writeFile(join(directory, name), `#!/bin/sh\n${body}\n`);
    await chmod(join(directory, name), 0o755);
  };
  await program(
    'sudo',
    `echo "$*" >>${calls}
if echo "$*" | grep -Eq -- '${refuses}'; then echo 'sudo: a password is required' >&2; exit 1; fi
[ "$1" = -n ] || exit 9
shift
[ "$1" = -l ] && exit 0
[ "$1" = /usr/bin/sudo ] || exec "$@"`,
  );
  await program(
    'systemd-run',
    'while [ "$1" != -- ]; do shift; done; shift; case "$1" in /usr/bin/sudo) shift; exec sudo "$@";; esac; exec "$@"',
  );
  process.env.PATH = `${directory}:${PATH}`;
  const called = async () => (await readFile(calls, 'utf8').catch(() => '')).split('\n').slice(0, -1);
  return { called, directory };
}

const systemd = { kind: 'systemd' } as const;
const agent = { root: '/', sudo: true, services: systemd };

test('an agent that is root asks nobody', async () => {
  const { called } = await sudoThat('.');
  expect(await runAsRoot({ ...agent, sudo: false }, ['/bin/echo', 'done'])).toMatchObject({
    exitCode: 0,
    stdout: 'done',
  });
  expect(await called()).toEqual([]);
});

test('another goes through a unit of its own, which is what one line of sudoers allows', async () => {
  const { called } = await sudoThat();
  expect(await runAsRoot(agent, ['/bin/echo', 'a b', '$HOME'])).toMatchObject({ exitCode: 0 });
  const [line] = await called();
  expect(line).toMatch(/^-n systemd-run --unit=kwfleet-short-\d+-\d+ .*--no-ask-password -- \/bin\/echo a b \$\$HOME$/);
  await runAsRoot(agent, ['/bin/true']);
  expect((await called())[1]?.split(' ')[2]).not.toBe(line?.split(' ')[2]);
});

test('without systemd it is sudo alone', async () => {
  const { called } = await sudoThat();
  await runAsRoot({ ...agent, services: { kind: 'process' } }, ['/bin/true']);
  expect(await called()).toEqual(['-n /bin/true']);
});

test('rights are proven by what deploy.sh will do, within such a unit', async () => {
  const { called } = await sudoThat();
  await requireRights(agent);
  const calls = await called();
  expect(calls[0]).toBe('-n true');
  expect(calls[1]).toMatch(/systemd-run .* -- \/usr\/bin\/sudo -n true$/);
  // Root itself is asked too: deploy.sh calls sudo even for root.
  const root = await sudoThat();
  await requireRights({ ...agent, sudo: false });
  expect(await root.called()).toEqual(['-n true']);
});

test('root is refused too where its sudo would ask', async () => {
  await sudoThat('^-n true');
  await expect(requireRights({ ...agent, sudo: false })).rejects.toMatchObject({ code: 'DEPLOY_PASSWORD' });
});

test.each([
  ['sudo asks for a password', '^-n true', 'DEPLOY_PASSWORD'],
  ['sudo does not start units', 'systemd-run', 'DEPLOY_PASSWORD'],
])('%s: that is found before anything is stopped', async (_, refuses, code) => {
  await sudoThat(refuses);
  await expect(requireRights(agent)).rejects.toMatchObject({ code, words: expect.stringContaining('password') });
});

test('no sudo is told apart from one that refuses, and is not needed under a root of its own', async () => {
  const { directory } = await sudoThat();
  process.env.PATH = join(directory, 'nothing');
  await expect(requireRights(agent)).rejects.toMatchObject({ code: 'SUDO_MISSING' });
  await requireRights({ ...agent, root: '/tmp/somewhere' });
});

test('a unit of another name needs lines of its own, and they are told', async () => {
  const { called } = await sudoThat('-l systemctl .* (start|enable) kwdb-node');
  await requireUnitRights(agent, 'other');
  expect(await called()).toHaveLength(4);
  const refusal = requireUnitRights(agent, 'kwdb-node');
  await expect(refusal).rejects.toMatchObject({ code: 'PRIVILEGES_MISSING' });
  await expect(refusal).rejects.toThrow(
    /ALL = \(root\) NOPASSWD: \/usr\/bin\/systemctl --no-ask-password start kwdb-node\.service, \/usr\/bin\/systemctl --no-ask-password enable kwdb-node\.service"$/,
  );
});

test('an agent that is root needs none', async () => {
  const { called } = await sudoThat('.');
  await requireUnitRights({ ...agent, sudo: false }, 'kwdb-node');
  expect(await called()).toEqual([]);
});
