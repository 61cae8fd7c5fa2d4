/** A copy of what is installed, made of real files by the real dpkg-deb; that dpkg takes it is shown on test hosts. */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { expect, onTestFinished, test } from 'vitest';
import { findKept, keepInstalled } from '../src/driver/kept-version.ts';
import { dpkgRecords } from '../src/host/package-database.ts';
import { witnessSyncs } from './sync-witness.ts';

const STATUS = `Package: kaiwudb-server
Status: install ok installed
Version: 3.0.0
Architecture: amd64
Maintainer: nobody <nobody@example.org>
Description: a database
`;

test('the copy of the installed version is on disk before it has its name', async () => {
  const root = await mkdtemp(join(tmpdir(), 'kwfleet-kept-'));
  onTestFinished(() => rm(root, { recursive: true, force: true }));
  const files = {
    'var/lib/dpkg/status': STATUS,
    'var/lib/dpkg/info/kaiwudb-server.list': '/.\n/usr\n/usr/local\n/usr/local/kwbase\n',
    'usr/local/kwbase': 'a program',
    'etc/kaiwudb/info/.version': '3.0.0\n',
  };
  for (const [path, content] of Object.entries(files)) {
    await mkdir(dirname(join(root, path)), { recursive: true });
    await writeFile(join(root, path), content);
  }
  const directory = join(root, 'state/kept/3.0.0');
  await mkdir(dirname(directory), { recursive: true });
  const syncs = await witnessSyncs(directory);
  await keepInstalled(root, await dpkgRecords(root), directory);
  expect(await syncs()).toEqual([`-f ${directory}.new`]);
  expect((await findKept(directory))?.packages).toEqual([join(directory, 'kaiwudb-server_3.0.0_amd64.deb')]);
});
