import { existsSync } from 'node:fs';
import { mkdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { killCgroup, makeCgroup } from './cgroup.ts';
import { namespacePath, type Plug } from './network.ts';
import { type CommandOptions, type CommandResult, LabProcess, type ProcessOptions, run } from './process.ts';
import { deadline, until } from './wait.ts';

export interface SmallDisk {
  /** Where the host sees it. */
  path: string;
  megabytes: number;
  /** `ext4` (default) is a file on a loop device and outlives a crash; `tmpfs` needs no loop device and does not. */
  kind?: 'ext4' | 'tmpfs';
}

export interface HostOptions {
  /** At most 13 characters, also the hostname. */
  name?: string;
  address?: string;
  smallDisks?: SmallDisk[];
  /** Directories of the machine that the host sees, read-only, at the same path. The checkout is always among them. */
  share?: string[];
}

export interface HostParts {
  name: string;
  directory: string;
  cgroup: string;
  /** The lab's /etc/hosts, one file for all hosts of the lab. */
  hostsFile: string;
  plug: Plug;
  smallDisks: SmallDisk[];
  share: string[];
}

const INIT_SCRIPT = join(import.meta.dirname, 'init.sh');
const INSIDE_ENV = {
  PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
  HOME: '/root',
  USER: 'root',
  LANG: 'C.UTF-8',
};
const INIT_TIMEOUT_MS = 60_000;
const BOOT_TIMEOUT_MS = 300_000;
const SHUTDOWN_TIMEOUT_MS = 300_000;
const CRASH_TIMEOUT_MS = 60_000;
const NAMESPACES = ['--mount', '--propagation', 'slave', '--pid', '--uts', '--ipc', '--fork', '--kill-child'];

/** One host of a lab: a systemd of its own over the machine's files. */
export class LabHost {
  readonly name: string;
  readonly address: string;
  readonly #parts: HostParts;
  #launcher: LabProcess | undefined;
  #initPid: number | undefined;
  #settled: Promise<void> = Promise.resolve();

  constructor(parts: HostParts) {
    this.name = parts.name;
    this.address = parts.plug.address;
    this.#parts = parts;
  }

  get running(): boolean {
    return this.#launcher?.running === true && this.#initPid !== undefined;
  }

  /** The host's PID 1 as the machine sees it. */
  get initPid(): number {
    if (!this.running || this.#initPid === undefined) throw new Error(`host ${this.name} is not running`);
    return this.#initPid;
  }

  /** Boots the host for the first time. The same as `boot`. */
  start(timeoutMs = BOOT_TIMEOUT_MS): Promise<void> {
    return this.boot(timeoutMs);
  }

  /** Boots the host (again) on its own disk and waits until systemd has started all it wants. */
  boot(timeoutMs = BOOT_TIMEOUT_MS): Promise<void> {
    if (this.#launcher?.running) throw new Error(`host ${this.name} is running already`);
    const booted = this.#boot(timeoutMs);
    this.#settled = booted.catch(() => {});
    return booted;
  }

  /** Resolves when no boot is under way (any more), whatever came of it. */
  get settled(): Promise<void> {
    return this.#settled;
  }

  /** Powers off as an operator would: every unit is stopped first. */
  async shutdown(timeoutMs = SHUTDOWN_TIMEOUT_MS): Promise<void> {
    const launcher = this.#launcher;
    // Node has no name for real-time signals; SIGRTMIN+4 asks systemd to power off.
    await run(['kill', '-s', 'RTMIN+4', String(this.initPid)]);
    if (launcher) await deadline(launcher.exited, timeoutMs, () => `host ${this.name} did not power off`);
    await this.#lost();
  }

  /** Power loss: the cable is dead first, so that no dying process says goodbye; then everything is killed. */
  async crash(): Promise<void> {
    await this.#parts.plug.pull();
    // Init before its launcher, which then reaps it; else a zombie is left to the machine's PID 1.
    if (this.running) process.kill(this.initPid, 'SIGKILL');
    else await this.#launcher?.kill();
    const stuck = () => `host ${this.name} does not die`;
    if (this.#launcher) await deadline(this.#launcher.exited, CRASH_TIMEOUT_MS, stuck);
    await this.#lost();
  }

  /** Takes the host off the network; what it sends and what is sent to it is lost. Lasts over a reboot. */
  async cutOff(): Promise<void> {
    await this.#parts.plug.cutOff();
  }

  /** Ends `cutOff`. */
  async heal(): Promise<void> {
    await this.#parts.plug.heal();
  }

  /** Silently loses what this host sends to one address (that direction only). Lasts over a reboot. */
  async dropTo(address: string): Promise<void> {
    await this.#parts.plug.drop(address);
  }

  /** Ends `dropTo`. */
  async undrop(address: string): Promise<void> {
    await this.#parts.plug.undrop(address);
  }

  /** Runs a command inside, as root, with a clean environment. */
  async exec(argv: readonly string[], options: CommandOptions = {}): Promise<CommandResult> {
    const { env, cwd, ...rest } = options;
    return run([...this.#enter(), ...insideEnv(env, cwd), ...argv], rest, { leaderReaps: true });
  }

  /** Starts a command inside and returns at once. It ends with the host, or by `kill`. */
  spawn(argv: readonly string[], options: ProcessOptions = {}): LabProcess {
    const { env, cwd, input } = options;
    const inside = [...this.#enter(), ...insideEnv(env, cwd), ...argv];
    return new LabProcess(inside, input === undefined ? {} : { input }, { leaderReaps: true });
  }

  /** Runs a bash script inside; it stops at the first command that fails. */
  // --norc: with `input` its stdin is a socket, which bash takes for a remote shell, and it would read its rc file.
  async shell(script: string, options: CommandOptions = {}): Promise<CommandResult> {
    return this.exec(['bash', '--norc', '-euo', 'pipefail', '-c', script], options);
  }

  /** Writes a file inside, parents included, with the mode it shall have from its first moment. */
  async writeFile(path: string, content: string | Uint8Array, mode = 0o644): Promise<void> {
    const script =
      'umask 077; mkdir -p -m 755 "$(dirname "$1")" && cat >"$1.lab" && chmod "$2" "$1.lab" && mv "$1.lab" "$1"';
    await this.exec(['sh', '-c', script, 'sh', path, mode.toString(8)], { input: content });
  }

  async readFile(path: string): Promise<string> {
    return (await this.exec(['cat', path])).stdout;
  }

  /** What an author wants to see when a host misbehaves: failed units, waiting jobs, the end of the journal. */
  async describe(): Promise<string> {
    const script = 'systemctl --failed --no-legend; systemctl list-jobs --no-legend; journalctl -b --no-pager -n 60';
    const { stdout, stderr } = await this.exec(['sh', '-c', script], { allowFailure: true, timeoutMs: 10_000 });
    return `host ${this.name}:\n${stdout}${stderr}`;
  }

  #enter(): string[] {
    const join = 'echo 0 >"$1/exec/cgroup.procs" 2>/dev/null || :; shift; exec "$@"';
    const spaces = ['-m', '-u', '-i', '-n', '-p', '-C', '-r', '-w'];
    return ['sh', '-c', join, 'sh', this.#parts.cgroup, 'nsenter', '-t', String(this.initPid), ...spaces];
  }

  async #prepareDirectory(): Promise<void> {
    const { directory, smallDisks, share } = this.#parts;
    for (const name of ['upper', 'work', 'root', 'docker']) await mkdir(join(directory, name), { recursive: true });
    await rm(join(directory, 'init.pid'), { force: true });
    const lines = share.map((path) => `share ${path} ${path}`);
    for (const [index, disk] of smallDisks.entries()) lines.push(await mountLine(directory, index, disk));
    await writeFile(join(directory, 'mounts'), lines.map((line) => `${line}\n`).join(''));
  }

  async #boot(timeoutMs: number): Promise<void> {
    await this.#lost();
    const { directory, cgroup, name, hostsFile, plug } = this.#parts;
    await this.#prepareDirectory();
    await makeCgroup(cgroup);
    await plug.attach();
    // pdeathsig and --kill-child: when the test process is killed, its hosts die with it.
    const outer = ['setpriv', '--pdeathsig', 'KILL', 'nsenter', `--net=${namespacePath(plug.namespace)}`];
    const init = ['sh', INIT_SCRIPT, 'enter', cgroup, directory, name, hostsFile];
    this.#launcher = new LabProcess([...outer, 'unshare', ...NAMESPACES, ...init]);
    this.#initPid = await this.#waitForInit(this.#launcher);
    await this.#waitForSystemd(timeoutMs);
    await makeCgroup(join(cgroup, 'exec'));
  }

  async #waitForInit(launcher: LabProcess): Promise<number> {
    const path = join(this.#parts.directory, 'init.pid');
    return until(
      `host ${this.name}: init`,
      async () => {
        if (!launcher.running) throw new Error(`host ${this.name} did not boot:\n${launcher.stderr()}`);
        return existsSync(path) && Number(await readFile(path, 'utf8'));
      },
      INIT_TIMEOUT_MS,
    );
  }

  async #waitForSystemd(timeoutMs: number): Promise<void> {
    const settled = async () => {
      if (!this.running) throw new Error(`host ${this.name} died while booting:\n${this.#launcher?.stderr()}`);
      // Before systemd listens this fails at once; the poll asks again.
      const ask = ['systemctl', 'is-system-running', '--wait'];
      const { stdout } = await this.exec(ask, { allowFailure: true, timeoutMs });
      return stdout.trim() === 'running' || stdout.trim() === 'degraded';
    };
    await until(`host ${this.name} booted`, settled, timeoutMs).catch(async (error: Error) => {
      throw new Error(`${error.message}\n${this.running ? await this.describe() : ''}`);
    });
  }

  /** Clears what a host that is down leaves on the machine; its disk stays. */
  async #lost(): Promise<void> {
    this.#launcher = undefined;
    this.#initPid = undefined;
    await killCgroup(this.#parts.cgroup);
    await this.#parts.plug.detach();
  }
}

function insideEnv(env: NodeJS.ProcessEnv | undefined, cwd: string | undefined): string[] {
  const all = Object.entries({ ...INSIDE_ENV, ...env });
  const where = cwd === undefined ? [] : ['--chdir', cwd];
  return ['env', '-i', ...where, ...all.flatMap(([key, value]) => (value === undefined ? [] : [`${key}=${value}`]))];
}

async function mountLine(directory: string, index: number, disk: SmallDisk): Promise<string> {
  const size = disk.megabytes * 1024 * 1024;
  if (disk.kind === 'tmpfs') return `tmpfs ${size} ${disk.path}`;
  const image = join(directory, `disk${index}.ext4`);
  if (!existsSync(image)) {
    await writeFile(image, '', { mode: 0o600 });
    await truncate(image, size);
    // No journal and no reserve for root: nearly all of so small a disk shall be for files.
    await run(['mkfs.ext4', '-q', '-F', '-m', '0', '-O', '^has_journal', image]);
  }
  return `ext4 ${image} ${disk.path}`;
}
