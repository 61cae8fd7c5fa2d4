import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
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

it('outlives a controller that is killed, and is taken over by the next', { timeout: 60_000 }, async () => {
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

it('comes back when it dies; meanwhile the controller answers 503 and goes on', { timeout: 60_000 }, async () => {
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

it('listens on no port, in a directory that is closed to others, and belongs to one controller', {
  timeout: 60_000,
}, async () => {
  const server = await startEmbeddedPostgres(directory, log);
  try {
    expect((await stat(server.connection.host)).mode & 0o077).toBe(0);
    expect((await stat(join(directory, 'postgres'))).mode & 0o077).toBe(0);
    const command = await readFile(`/proc/${server.pid}/cmdline`, 'utf8');
    expect(command).toContain('listen_addresses=\0');
    await expect(startEmbeddedPostgres(directory, log)).rejects.toMatchObject({
      code: 'UNAVAILABLE',
      message: expect.stringContaining('another controller'),
    });
    expect(await postmaster()).toBe(server.pid);
  } finally {
    await server.stop();
  }
});
