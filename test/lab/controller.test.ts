/** The controller on a host of its own, with its unit and PostgreSQL, by the very lines of docs/installation.md. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createLab, type Lab, type LabHost, labHere, until } from './host.ts';

const TOP = join(import.meta.dirname, '../..');
const UNIT = 'kwfleet-controller.service';

describe.skipIf(!(await labHere()))('a controller with its unit', () => {
  let lab: Lab;
  let host: LabHost;
  let page: string;
  /** The block of this language that comes first after these words. */
  const block = (language: string, after: string): string => {
    const from = page.indexOf(after);
    const found = new RegExp(`\`\`\`${language}\n([\\s\\S]*?)\`\`\``).exec(page.slice(from))?.[1];
    if (from < 0 || found === undefined) throw new Error(`docs/installation.md has no ${language} after "${after}"`);
    return found;
  };
  const shell = (script: string) => host.exec(['sh', '-ec', script], { timeoutMs: 120_000 });

  beforeAll(async () => {
    page = await readFile(join(TOP, 'docs/installation.md'), 'utf8');
    lab = await createLab();
    host = await lab.addHost();
    await host.start();
    // As an installation has it: the checkout at its place, which no sandbox hides.
    await shell(`mkdir -p /opt/kwfleet && mount --bind '${TOP}' /opt/kwfleet`);
    await host.writeFile('/usr/bin/kwfleet', block('sh', 'put this into `/usr/bin/kwfleet`'), 0o755);
    await host.writeFile(`/etc/systemd/system/${UNIT}`, await readFile(join(TOP, 'systemd', UNIT)));
    await shell(`install -d -o postgres /run/postgresql /var/lib/postgresql/lab
      bin=$(ls -d /usr/lib/postgresql/*/bin | tail -n 1)
      runuser -u postgres -- "$bin/initdb" -D /var/lib/postgresql/lab --auth=peer >/dev/null
      systemd-run --quiet --unit=lab-postgresql -p User=postgres "$bin/postgres" -D /var/lib/postgresql/lab -k /run/postgresql -c listen_addresses=
      until runuser -u postgres -- psql -qc 'SELECT 1' >/dev/null 2>&1; do sleep 0.2; done`);
  });
  afterAll(() => lab?.destroy());

  it('runs as the documentation installs it, reads its secrets, and keeps them from others', async () => {
    await shell(block('shell', 'It runs as a user of its own'));
    const secret = '/etc/kwfleet/oncall-secret';
    const targets = `notifications:
  targets:
    - {name: oncall, kind: webhook, url: "https://alerts.example.net/kwfleet", secret_file: ${secret}}
`;
    await shell('mkdir -p /etc/kwfleet');
    await host.writeFile(
      '/etc/kwfleet/controller.yaml',
      `${block('yaml', '`/etc/kwfleet/controller.yaml`')}${targets}`,
    );
    await host.writeFile(secret, 'a secret of more than a few letters');
    await shell(`chmod 0600 ${secret}; systemctl daemon-reload`);
    // A file that only root may read is told by its name, not waited for.
    await shell(`systemctl start ${UNIT} || :`);
    const log = async () => (await host.exec(['journalctl', '-u', UNIT, '-o', 'cat'], { allowFailure: true })).stdout;
    await until('it says what it may not read', async () => (await log()).includes(secret), 60_000);
    await shell(`systemctl stop ${UNIT}; chgrp kwfleet ${secret}; chmod 0640 ${secret}`);

    const [start = '', look = ''] = block('shell', '**Files with secrets**').split('\n');
    const answers = async () => (await host.exec(look.split(' '), { allowFailure: true })).exitCode === 0;
    await shell(start);
    await until('REST answers', answers, 120_000);
    const { stdout: status } = await host.exec(['systemctl', 'show', UNIT, '-p', 'MainPID', '-p', 'NRestarts']);
    const pid = /MainPID=(\d+)/.exec(status)?.[1];
    expect((await shell(`stat -c '%U' /proc/${pid}`)).stdout.trim()).toBe('kwfleet');
    expect((await shell(`stat -c '%U %a' /var/lib/kwfleet-controller/pki/ca.key`)).stdout.trim()).toBe('kwfleet 600');
    expect((await shell('runuser -u nobody -- kwfleet tokens --json')).stdout).toContain('items');
    await shell(`systemctl restart ${UNIT}`);
    await until('it is back', answers, 120_000);
  });
});
