/**
 * Units run as plain processes, for machines without systemd: the demo and the tests. It reads the same unit files
 * systemd would and keeps what it knows under `<root>/run/kwfleet-services`, so that any process that opens the same
 * root finds the same services.
 */
import { spawn } from 'node:child_process';
import * as fs from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { isLiving, livingProcesses, processStat } from './process-stat.ts';
import type { ServiceManager, UnitState } from './services.ts';

/** What is kept of a started unit. A PID alone proves nothing: it is compared with the start time of its process. */
type Running = { readonly pid: number; readonly startTicks: string; readonly startedAtMs: number };
/** `running: null` says that a start failed before there was a process. */
type Kept = { readonly running: Running | null; readonly stopped: boolean };

type Unit = {
  readonly execStart: readonly string[];
  readonly environment: Readonly<Record<string, string>>;
  readonly workingDirectory: string;
  readonly stopTimeoutMs: number;
};

const DEFAULT_STOP_TIMEOUT_MS = 90_000;
const KILL_GRACE_MS = 5_000;
const POLL_MS = 20;

/** The service manager of one root directory. */
export class ProcessServices implements ServiceManager {
  readonly kind = 'process';
  readonly #root: string;

  constructor(root: string) {
    this.#root = root;
  }

  async state(unit: string): Promise<UnitState> {
    const kept = this.#kept(unit);
    const running = aliveOrNull(kept?.running ?? null);
    return {
      exists: fs.existsSync(this.#unitFile(unit)),
      active: running !== null ? 'active' : kept === null || kept.stopped ? 'inactive' : 'failed',
      enabled: fs.existsSync(this.#enabledFile(unit)),
      mainPid: running?.pid ?? null,
      startedAtMs: running?.startedAtMs ?? null,
    };
  }

  /** As with systemd's simple units, success means that a process was made, not that it works or even exists still. */
  async start(unit: string, _timeoutMs: number): Promise<void> {
    if ((await this.state(unit)).active === 'active') return;
    const parsed = this.#read(unit);
    fs.mkdirSync(this.#stateDirectory(), { recursive: true });
    const running = await launch(parsed, join(this.#stateDirectory(), `${baseName(unit)}.log`));
    this.#keep(unit, { running, stopped: false });
  }

  async stop(unit: string, timeoutMs: number): Promise<void> {
    const running = this.#kept(unit)?.running ?? null;
    if (running !== null) await this.#end(unit, running, timeoutMs);
    if (this.#kept(unit) !== null) this.#keep(unit, { running: null, stopped: true });
  }

  async #end(unit: string, running: Running, timeoutMs: number): Promise<void> {
    const patienceMs = Math.min(timeoutMs, this.#stopTimeoutMs(unit));
    signalAll(running, 'SIGTERM');
    if (await allGone(running, patienceMs)) return;
    signalAll(running, 'SIGKILL');
    if (await allGone(running, KILL_GRACE_MS)) return;
    throw new Error(`${baseName(unit)}.service: processes ${members(running).join(', ')} survive SIGKILL`);
  }

  #stopTimeoutMs(unit: string): number {
    try {
      return this.#read(unit).stopTimeoutMs;
    } catch {
      // A unit whose file is gone can still be stopped.
      return DEFAULT_STOP_TIMEOUT_MS;
    }
  }

  /** Unit files are read at every start, so there is nothing to do. */
  async reload(): Promise<void> {}

  /** Nothing starts these units with the host; the link lies where systemd keeps its own, for `state` to report. */
  async setEnabled(unit: string, enabled: boolean): Promise<void> {
    const link = this.#enabledFile(unit);
    fs.rmSync(link, { force: true });
    if (!enabled) return;
    fs.mkdirSync(dirname(link), { recursive: true });
    fs.symlinkSync(this.#unitFile(unit), link);
  }

  #unitFile(unit: string): string {
    return join(this.#root, 'etc/systemd/system', `${baseName(unit)}.service`);
  }

  #enabledFile(unit: string): string {
    return join(this.#root, 'etc/systemd/system/multi-user.target.wants', `${baseName(unit)}.service`);
  }

  #stateDirectory(): string {
    return join(this.#root, 'run/kwfleet-services');
  }

  #kept(unit: string): Kept | null {
    try {
      return JSON.parse(fs.readFileSync(join(this.#stateDirectory(), `${baseName(unit)}.json`), 'utf8')) as Kept;
    } catch {
      return null;
    }
  }

  #keep(unit: string, kept: Kept): void {
    const file = join(this.#stateDirectory(), `${baseName(unit)}.json`);
    fs.writeFileSync(`${file}.${process.pid}`, JSON.stringify(kept));
    fs.renameSync(`${file}.${process.pid}`, file);
  }

  #read(unit: string): Unit {
    let text: string;
    try {
      text = fs.readFileSync(this.#unitFile(unit), 'utf8');
    } catch {
      throw new Error(`Unit ${baseName(unit)}.service not found.`);
    }
    return parseUnit(text);
  }
}

function baseName(unit: string): string {
  const name = unit.replace(/\.service$/, '');
  if (!/^[\w@.-]+$/.test(name)) throw new Error(`Invalid unit name "${unit}".`);
  return name;
}

/** Reads the few settings of a unit that matter to a plain process. */
export function parseUnit(text: string): Unit {
  const settings = [...text.matchAll(/^([A-Za-z]+)=(.*)$/gm)].map(
    ([, name = '', value = '']) => [name, value] as const,
  );
  const all = (wanted: string): string[] => settings.filter(([name]) => name === wanted).map(([, value]) => value);
  const environment: Record<string, string> = {};
  for (const value of all('Environment')) Object.assign(environment, assignments(splitWords(value)));
  for (const value of all('EnvironmentFile')) Object.assign(environment, readEnvironmentFile(value));
  const execStart = all('ExecStart').at(-1);
  if (execStart === undefined) throw new Error('Unit has no ExecStart= setting.');
  return {
    execStart: splitWords(execStart).flatMap((word) => expand(word, environment)),
    environment,
    workingDirectory: all('WorkingDirectory').at(-1) ?? '/',
    stopTimeoutMs: parseSeconds(all('TimeoutStopSec').at(-1)),
  };
}

function parseSeconds(value: string | undefined): number {
  const seconds = Number(/^(\d+(?:\.\d+)?)s?$/.exec(value ?? '')?.[1] ?? Number.NaN);
  return Number.isNaN(seconds) ? DEFAULT_STOP_TIMEOUT_MS : seconds * 1000;
}

/** A leading `-` lets the file be missing, as with systemd. */
function readEnvironmentFile(value: string): Record<string, string> {
  const optional = value.startsWith('-');
  try {
    const lines = fs.readFileSync(optional ? value.slice(1) : value, 'utf8').split('\n');
    return assignments(lines.filter((line) => !/^\s*(?:[#;]|$)/.test(line)).map((line) => line.replace(/["']/g, '')));
  } catch (error) {
    if (optional) return {};
    throw new Error(`Failed to load environment files: ${String(error)}`);
  }
}

function assignments(words: readonly string[]): Record<string, string> {
  const pairs = words.map((word) => /^\s*(\w+)=(.*)$/.exec(word)).filter((match) => match !== null);
  return Object.fromEntries(pairs.map(([, name = '', value = '']) => [name, value.trim()]));
}

function splitWords(line: string): string[] {
  return [...line.matchAll(/(?:"[^"]*"|'[^']*'|[^\s"'])+/g)].map(([word]) => word.replace(/["']/g, ''));
}

/** `$NAME` alone becomes any number of words, `${NAME}` inside a word exactly its value. */
function expand(word: string, environment: Readonly<Record<string, string>>): string[] {
  const alone = /^\$(\w+)$/.exec(word);
  if (alone !== null) return splitWords(environment[alone[1] ?? ''] ?? '');
  return [word.replace(/\$\{(\w+)\}/g, (_whole, name: string) => environment[name] ?? '')];
}

/** Starts the command in a session of its own; null when there is no such program, which systemd finds out too late. */
async function launch(unit: Unit, logFile: string): Promise<Running | null> {
  const [program = '', ...rest] = unit.execStart;
  const log = fs.openSync(logFile, 'a');
  try {
    const child = spawn(program, rest, {
      cwd: fs.existsSync(unit.workingDirectory) ? unit.workingDirectory : '/',
      env: { ...inheritedEnvironment(), ...unit.environment },
      detached: true,
      stdio: ['ignore', log, log],
    });
    await new Promise<void>((resolve) => {
      child.once('spawn', resolve);
      child.once('error', (error) => {
        fs.writeSync(log, `Failed at step EXEC: ${error.message}\n`);
        resolve();
      });
    });
    child.unref();
    if (child.pid === undefined) return null;
    // A process that ended at once leaves no start time; its PID must then never be taken for another's.
    return { pid: child.pid, startTicks: processStat(child.pid)?.startTicks ?? 'gone', startedAtMs: Date.now() };
  } finally {
    fs.closeSync(log);
  }
}

/** Services start with a clean environment; knobs of the stand-ins are let through. */
function inheritedEnvironment(): Record<string, string> {
  const kept = Object.entries(process.env).filter(([name]) => name.startsWith('KW_STANDIN_'));
  const path = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
  return { PATH: path, ...Object.fromEntries(kept.map(([name, value]) => [name, value ?? ''])) };
}

function aliveOrNull(running: Running | null): Running | null {
  if (running === null) return null;
  const stat = processStat(running.pid);
  return stat !== null && stat.startTicks === running.startTicks && isLiving(stat) ? running : null;
}

/** The processes of the unit that are left: those of its session. */
function members(running: Running): number[] {
  const leader = processStat(running.pid);
  // Another process has the PID by now, which the kernel allows only when the session is empty.
  if (leader !== null && leader.startTicks !== running.startTicks) return [];
  return livingProcesses(({ session }) => session === running.pid);
}

function signalAll(running: Running, signal: NodeJS.Signals): void {
  for (const pid of members(running)) {
    try {
      process.kill(pid, signal);
    } catch {
      // It ended by itself in between.
    }
  }
}

async function allGone(running: Running, timeoutMs: number): Promise<boolean> {
  const deadline = Date.now() + timeoutMs;
  while (members(running).length > 0) {
    if (Date.now() >= deadline) return false;
    await sleep(POLL_MS);
  }
  return true;
}
