import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, chown, mkdir, readFile, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { execa } from 'execa';
import pg from 'pg';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { controllerConfig, startController } from '../src/index.ts';
import { postgresAccount } from '../src/postgres/account.ts';
import { findBinaries } from '../src/postgres/binaries.ts';
import { startEmbeddedPostgres } from '../src/postgres/embedded.ts';
import { log, temporaryDirectory, until } from './support.ts';

let directory: string;
const children: ChildProcess[] = [];

beforeEach(async (context) => {
  directory = await temporaryDirectory();
  const missing = await findBinaries(postgresAccount(), join(directory, 'binaries'), undefined).then(
    () => undefined,
    (error: Error) => error.message,
  );
  if (missing !== undefined) context.skip(`no PostgreSQL on this machine: ${missing}`);
});
afterEach(async () => {
  for (const child of children.splice(0)) child.kill('SIGKILL');
  const pid = await postmaster();
  if (pid !== undefined) process.kill(pid, 'SIGQUIT');
  await until('PostgreSQL is gone', async () => (await postmaster()) === undefined);
  await rm(directory, { recursive: true, force: true });
});

const settings = () => ({ data_dir: directory, rest: { port: 0 }, grpc: { port: 0 }, log_level: 'silent' });

/** The pid of the server in the directory, when it lives. */
async function postmaster(): Promise<number | undefined> {
  const text = await readFile(join(directory, 'postgres/data/postmaster.pid'), 'utf8').catch(() => '');
  const pid = Number(text.split('\n')[0]);
  const alive = pid > 1 && (await stat(`/proc/${pid}`).catch(() => undefined)) !== undefined;
  return alive ? pid : undefined;
}

/** A controller in a process of its own; answers its REST address. */
async function controllerProcess(): Promise<{ child: ChildProcess; url: string }> {
  const entry = join(import.meta.dirname, '../src/index.ts');
  const code = `const { startController, controllerConfig } = await import(${JSON.stringify(entry)});
    console.log((await startController(controllerConfig(${JSON.stringify(settings())}))).restUrl);`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', code], { stdio: ['ignore', 'pipe', 'inherit'] });
  children.push(child);
  const [url] = (await once(createInterface(child.stdout), 'line')) as [string];
  return { child, url };
}

it('outlives a controller that is killed, and is taken over by the next', async () => {
  const { child, url } = await controllerProcess();
  const made = await fetch(`${url}/v1/tokens`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: '{"role":"viewer","name":"kept"}',
  });
  expect(made.status).toBe(201);
  const pid = await postmaster();
  child.kill('SIGKILL');
  await once(child, 'exit');
  expect(await postmaster()).toBe(pid);

  const next = await startController(controllerConfig(settings()));
  expect(await postmaster()).toBe(pid);
  expect(await (await fetch(`${next.restUrl}/v1/tokens`)).text()).toContain('kept');
  await next.close();
  expect(await postmaster()).toBeUndefined();
});

it('comes back when it dies; meanwhile the controller answers 503 and goes on', async () => {
  const controller = await startController(controllerConfig(settings()));
  try {
    const first = await postmaster();
    process.kill(first ?? 0, 'SIGKILL');
    const problem = await until('the loss is told', async () => {
      const answer = await fetch(`${controller.restUrl}/v1/clusters`);
      return answer.status === 503 && ((await answer.json()) as { code: string });
    });
    expect(problem).toMatchObject({ code: 'UNAVAILABLE' });
    expect((await fetch(`${controller.restUrl}/healthz`)).status).toBe(200);
    await until('it is ready again', async () => (await fetch(`${controller.restUrl}/readyz`)).status === 200);
    expect(await postmaster()).not.toBe(first);
  } finally {
    await controller.close();
  }
});

it('listens on no port, in a directory that is closed to others, and belongs to one controller', async () => {
  const server = await startEmbeddedPostgres(directory, log);
  try {
    expect((await stat(server.connection.host)).mode & 0o077).toBe(0);
    expect((await stat(join(directory, 'postgres'))).mode & 0o077).toBe(0);
    const command = await readFile(`/proc/${server.pid}/cmdline`, 'utf8');
    expect(command).toContain('listen_addresses=\0');
    await expect(startEmbeddedPostgres(directory, log, 500)).rejects.toMatchObject({
      code: 'UNAVAILABLE',
      message: expect.stringContaining('another controller'),
    });
    expect(await postmaster()).toBe(server.pid);
  } finally {
    await server.stop();
  }
});

it('runs the programs that came through npm, for a database that was made by them', async (context) => {
  const account = postgresAccount();
  const copyTo = join(directory, 'postgres', 'binaries');
  await mkdir(join(directory, 'postgres'), { recursive: true });
  await chmod(directory, 0o711);
  if (account) await chown(join(directory, 'postgres'), account.uid, account.gid);
  const packaged = await findBinaries(account, copyTo, 18).catch(() => undefined);
  if (packaged === undefined) return context.skip('the npm package has no programs for this machine');
  const data = join(directory, 'postgres', 'data');
  const made = await execa(join(packaged.bin, 'initdb'), ['-D', data, '-U', 'kwfleet', '--no-sync', '--auth=trust'], {
    ...(account && { uid: account.uid, gid: account.gid }),
    env: { LC_ALL: 'C' },
  });
  expect(made.exitCode).toBe(0);
  const server = await startEmbeddedPostgres(directory, log);
  try {
    const client = new pg.Client(server.connection);
    await client.connect();
    const { rows } = await client.query('SHOW server_version');
    await client.end();
    expect(rows[0].server_version).toMatch(/^18/);
  } finally {
    await server.stop();
  }
});

it('finds a short directory for its socket when the data lies too deep', async () => {
  const deep = join(directory, 'd'.repeat(120));
  await chmod(directory, 0o711);
  const server = await startEmbeddedPostgres(deep, log);
  try {
    expect(server.connection.host.length).toBeLessThan(90);
    expect((await stat(server.connection.host)).mode & 0o077).toBe(0);
  } finally {
    await server.stop();
    await rm(server.connection.host, { recursive: true, force: true });
  }
});

it('says which directory keeps its account out', async (context) => {
  if (postgresAccount() === undefined) return context.skip('only as root does it switch to another account');
  const closed = join(directory, 'closed');
  await chmod(directory, 0o711);
  await mkdir(closed, { mode: 0o700 });
  const refused = { code: 'CONFIG_INVALID', message: expect.stringContaining(closed) };
  await expect(startEmbeddedPostgres(join(closed, 'data'), log)).rejects.toMatchObject(refused);
});
