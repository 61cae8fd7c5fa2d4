/**
 * Commands that outlive the agent. Each has a directory `<directory>/<id>` with `out`, `exit` and `pid`. The end is
 * known by the exit status file alone: deploy.sh's progress bar can hold the output open for ever.
 */
import { spawn } from 'node:child_process';
import { constants } from 'node:fs';
import { access, mkdir, open, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { listDirectory } from './mode.ts';
import { livingProcesses } from './process-stat.ts';
import type { LongCommandSpec, LongCommandState, LongCommands } from './services.ts';
import { haveDone, showUnit } from './systemd.ts';

/**
 * The one shell text: it takes the command as its arguments and writes the exit status with a rename, so that the
 * file is there only when it is whole. $1 is the directory; the rest is the command.
 */
const WRAPPER = 'd=$1; shift; "$@" >"$d/out" 2>&1 </dev/null; echo $? >"$d/exit.tmp"; mv "$d/exit.tmp" "$d/exit"';

/**
 * The same, telling its process group first: an agent that dies right after the launch must find it again. With a rename:
 * a file that is empty for a moment would tell a look at that moment that the command is lost.
 */
const GROUP_WRAPPER = `echo $$ >"$1/pid.tmp"; mv "$1/pid.tmp" "$1/pid"; ${WRAPPER}`;

const CHUNK_BYTES = 64 * 1024;
const ID_PATTERN = /^[a-z0-9-]{1,180}$/;
const MANAGER_TIMEOUT_MS = 20_000;
const KILL_GRACE_MS = 10_000;
const POLL_MS = 10;

abstract class FiledCommands implements LongCommands {
  protected readonly directory: string;

  constructor(directory: string) {
    this.directory = directory;
  }

  /** Starts the wrapper outside the agent's own process group and cgroup. */
  protected abstract launch(id: string, spec: LongCommandSpec): Promise<void>;
  protected abstract isRunning(id: string): Promise<boolean>;
  abstract kill(id: string): Promise<void>;

  protected path(id: string, name = ''): string {
    if (!ID_PATTERN.test(id)) throw new Error(`"${id}" is no id of a long command`);
    return join(this.directory, id, name);
  }

  async start(id: string, spec: LongCommandSpec): Promise<void> {
    if ((await this.state(id)).status !== 'absent') return;
    await mkdir(this.path(id), { recursive: true, mode: 0o700 });
    // Written before the launch: whoever finds it without anything running knows that the command was lost.
    await writeFile(this.path(id, 'argv.json'), JSON.stringify(spec.argv));
    try {
      await this.launch(id, spec);
    } catch (error) {
      if (!(await this.isRunning(id))) await rm(this.path(id), { recursive: true, force: true });
      throw error;
    }
  }

  async state(id: string): Promise<LongCommandState> {
    // Running is asked first: what ends between the two questions has its exit status by the second.
    const running = await this.isRunning(id);
    // A power cut can leave its name with nothing in it: that tells of no end.
    const exitCode = Number.parseInt((await readIfThere(this.path(id, 'exit'))) ?? '', 10);
    if (Number.isInteger(exitCode)) return { status: 'exited', exitCode };
    if (running) return { status: 'running' };
    return (await readIfThere(this.path(id, 'argv.json'))) === null ? { status: 'absent' } : { status: 'lost' };
  }

  async output(id: string, offset: number): Promise<Uint8Array> {
    try {
      const handle = await open(this.path(id, 'out'), constants.O_RDONLY);
      try {
        const { buffer, bytesRead } = await handle.read(Buffer.alloc(CHUNK_BYTES), 0, CHUNK_BYTES, offset);
        return buffer.subarray(0, bytesRead);
      } finally {
        await handle.close();
      }
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return new Uint8Array();
      throw error;
    }
  }

  async remove(id: string): Promise<void> {
    await this.kill(id);
    await rm(this.path(id), { recursive: true, force: true });
  }

  async list(): Promise<string[]> {
    return (await listDirectory(this.directory)).filter((name) => ID_PATTERN.test(name));
  }
}

async function readIfThere(file: string): Promise<string | null> {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
}

/** Each command a transient unit: its cgroup is its own, so it survives the agent and is ended whole. */
export class TransientUnits extends FiledCommands {
  readonly #prefix: readonly string[];

  constructor(directory: string, options: { readonly sudo: boolean }) {
    super(directory);
    this.#prefix = options.sudo ? ['sudo', '-n'] : [];
  }

  protected async launch(id: string, spec: LongCommandSpec): Promise<void> {
    const argv = ['/bin/sh', '-c', WRAPPER, 'kwfleet', this.path(id), ...spec.argv];
    const environment = Object.entries(spec.env).map(([name, value]) => `--setenv=${name}=${value}`);
    await this.#run('systemd-run', [
      `--unit=${unitOf(id)}`,
      '--collect',
      '--quiet',
      '--no-ask-password',
      '--property=KillMode=control-group',
      // What deploy.sh leaves behind (its progress bar) is not worth the default 90 s of patience.
      '--property=TimeoutStopSec=10',
      `--description=kwfleet: ${spec.argv[0]}`,
      `--working-directory=${spec.cwd}`,
      ...environment,
      '--',
      // systemd replaces $NAME in a command line; two of them are one dollar sign.
      ...argv.map((word) => word.replaceAll('$', '$$$$')),
    ]);
  }

  protected async isRunning(id: string): Promise<boolean> {
    const [, state = ''] = /^ActiveState=(.*)$/m.exec(await showUnit(unitOf(id), 'ActiveState')) ?? [];
    return ['active', 'activating', 'deactivating', 'reloading'].includes(state);
  }

  async kill(id: string): Promise<void> {
    if (await this.isRunning(id)) await this.#run('systemctl', ['--no-ask-password', 'stop', `${unitOf(id)}.service`]);
  }

  #run(program: string, args: readonly string[]): Promise<void> {
    return haveDone([...this.#prefix, program, ...args], program, MANAGER_TIMEOUT_MS);
  }
}

const unitOf = (id: string): string => `kwfleet-cmd-${id}`;

/** Each command in a session and process group of its own; for hosts without systemd (the demo, tests). */
export class DetachedProcesses extends FiledCommands {
  protected async launch(id: string, spec: LongCommandSpec): Promise<void> {
    await writeFile(this.path(id, 'boot'), await bootId());
    const child = spawn('/bin/sh', ['-c', GROUP_WRAPPER, 'kwfleet', this.path(id), ...spec.argv], {
      cwd: spec.cwd,
      env: { PATH: process.env.PATH ?? '', ...spec.env },
      detached: true,
      stdio: 'ignore',
    });
    await new Promise<void>((resolve, reject) => {
      child.once('spawn', resolve);
      child.once('error', reject);
    });
    child.unref();
    // The wrapper writes its own pid as well; whoever looks before it ran finds this one. They are the same.
    await writeFile(this.path(id, 'pid'), `${child.pid}\n`);
  }

  protected async isRunning(id: string): Promise<boolean> {
    const pid = await this.#group(id);
    return pid !== null && (await isWrapper(pid, this.path(id)));
  }

  async kill(id: string): Promise<void> {
    const pid = await this.#group(id);
    if (pid === null) return;
    // The group's number stays taken as long as any member lives: its leader may be gone and the bar still there.
    if (!(await groupBelongs(pid, this.path(id)))) return;
    try {
      process.kill(-pid, 'SIGKILL');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
    }
    // A signal is only sent: until they are gone, they are at work beside whatever is begun next.
    for (const endMs = Date.now() + KILL_GRACE_MS; await groupLives(pid); await sleep(POLL_MS)) {
      if (Date.now() >= endMs) throw new Error(`processes of ${id} (group ${pid}) survive SIGKILL`);
    }
  }

  async #group(id: string): Promise<number | null> {
    // After a reboot the number is some other process's.
    if ((await readIfThere(this.path(id, 'boot'))) !== (await bootId())) return null;
    const text = await readIfThere(this.path(id, 'pid'));
    const pid = Number.parseInt(text ?? '', 10);
    return Number.isInteger(pid) && pid > 1 ? pid : null;
  }
}

async function bootId(): Promise<string> {
  return (await readIfThere('/proc/sys/kernel/random/boot_id'))?.trim() ?? 'unknown';
}

/** A pid can be another process's by now: the wrapper is known by its directory among its arguments. */
async function isWrapper(pid: number, directory: string): Promise<boolean> {
  const line = await readIfThere(`/proc/${pid}/cmdline`).catch(() => null);
  if (line !== null) return line.split('\0').includes(directory);
  return (await hasProc()) ? false : isAlive(pid);
}

/**
 * Whether the process group is the command's. While the leader lives it is known by its arguments; when it is gone,
 * the kernel gives its number to nobody as long as the group has members, so members are what it left.
 */
async function groupBelongs(pid: number, directory: string): Promise<boolean> {
  const line = await readIfThere(`/proc/${pid}/cmdline`).catch(() => null);
  if (line === null || line === '') return isAlive(-pid);
  return line.split('\0').includes(directory);
}

async function groupLives(pid: number): Promise<boolean> {
  return (await hasProc()) ? livingProcesses(({ group }) => group === pid).length > 0 : isAlive(-pid);
}

async function hasProc(): Promise<boolean> {
  return access('/proc/self/cmdline').then(
    () => true,
    () => false,
  );
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
