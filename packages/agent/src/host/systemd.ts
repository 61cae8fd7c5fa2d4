import { basename, dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { FleetError } from '@kwfleet/core';
import { runShort, wordsOf } from './run.ts';
import type { ServiceManager, UnitState } from './services.ts';

const QUERY_TIMEOUT_MS = 10_000;
const QUERY_TRIES = 6;
const QUERY_PAUSE_MS = 1_000;
const ACTIVE_STATES = ['active', 'inactive', 'failed', 'activating', 'deactivating'] as const;

/** Parses `systemctl show`: `Name=value` lines. */
export function parseUnit(text: string): UnitState {
  const values = new Map(
    text.split('\n').map((line) => {
      const at = line.indexOf('=');
      return [line.slice(0, at), line.slice(at + 1)] as const;
    }),
  );
  const active = ACTIVE_STATES.find((state) => state === values.get('ActiveState'));
  const pid = Number(values.get('MainPID') ?? 0);
  const since = Date.parse(isoOf(values.get('ExecMainStartTimestamp') ?? ''));
  return {
    exists: values.get('LoadState') !== 'not-found' && values.get('LoadState') !== undefined,
    // `reloading`, `maintenance` and what later versions add: there is a process, and it is in motion.
    active: active ?? (pid > 0 ? 'activating' : 'inactive'),
    enabled: /^(enabled|enabled-runtime)$/.test(values.get('UnitFileState') ?? ''),
    mainPid: pid > 0 ? pid : null,
    startedAtMs: pid > 0 && Number.isFinite(since) ? since : null,
  };
}

/** Of `systemctl show`: what lies in /run goes with the host's next start, and what adds to every service is not this one's. */
export function unitFiles(unit: string, text: string): string[] {
  const told = (name: string) => new RegExp(`^${name}=(.*)$`, 'm').exec(text)?.[1]?.split(' ') ?? [];
  const own = told('DropInPaths')
    .map(dirname)
    .filter((directory) => basename(directory) === `${unit}.service.d`);
  return [...new Set([...told('FragmentPath'), ...own])].filter((path) => path !== '' && !path.startsWith('/run/'));
}

/** `Mon 2026-11-23 06:42:19 UTC`; asked for in UTC. */
function isoOf(stamp: string): string {
  const match = /(\d{4}-\d{2}-\d{2}) (\d{2}:\d{2}:\d{2})/.exec(stamp);
  return match === null ? '' : `${match[1]}T${match[2]}Z`;
}

/** `Name=value` lines of these properties, joined by commas. Throws SERVICE_MANAGER_SILENT. */
export async function showUnit(unit: string, properties: string): Promise<string> {
  let words = '';
  for (let tries = 0; tries < QUERY_TRIES; tries++) {
    // Silent for a moment while it re-executes itself, and for good while the host goes down with this agent.
    if (tries > 0) await sleep(QUERY_PAUSE_MS);
    const ended = await runShort('systemctl', ['show', `--property=${properties}`, `${unit}.service`], {
      timeoutMs: QUERY_TIMEOUT_MS,
      env: { TZ: 'UTC' },
    });
    if (ended.exitCode === 0) return ended.stdout;
    words = wordsOf(ended);
  }
  throw new FleetError('SERVICE_MANAGER_SILENT', `systemd does not tell the state of ${unit}`, { words });
}

/**
 * Runs a program that has systemd change something; `name` is for the error. A "no" counts from a systemd that answers: one
 * that goes down, with this agent, fails every call before it is gone, and none of that is to be remembered as what came of
 * an order. Throws SERVICE_MANAGER_SILENT.
 */
export async function haveDone(argv: readonly string[], name: string, timeoutMs: number): Promise<void> {
  const [file, ...args] = argv;
  const ended = await runShort(file as string, args, { timeoutMs });
  if (ended.exitCode === 0) return;
  await showUnit('kwfleet-agent', 'LoadState');
  throw new Error(`${name}: ${wordsOf(ended)}`);
}

/** systemd, through `systemctl` with arguments of its own making: no shell, no unit name from outside. */
export class Systemd implements ServiceManager {
  readonly kind = 'systemd';
  readonly #sudo: boolean;

  constructor(options: { readonly sudo: boolean }) {
    this.#sudo = options.sudo;
  }

  async state(unit: string): Promise<UnitState> {
    return parseUnit(await showUnit(unit, 'LoadState,ActiveState,UnitFileState,MainPID,ExecMainStartTimestamp'));
  }

  async files(unit: string): Promise<readonly string[]> {
    return unitFiles(unit, await showUnit(unit, 'FragmentPath,DropInPaths'));
  }

  start(unit: string, timeoutMs: number): Promise<void> {
    return this.#change(['start', `${unit}.service`], timeoutMs);
  }

  stop(unit: string, timeoutMs: number): Promise<void> {
    return this.#change(['stop', `${unit}.service`], timeoutMs);
  }

  reload(): Promise<void> {
    return this.#change(['daemon-reload'], 30_000);
  }

  setEnabled(unit: string, enabled: boolean): Promise<void> {
    return this.#change([enabled ? 'enable' : 'disable', `${unit}.service`], 30_000);
  }

  #change(args: readonly string[], timeoutMs: number): Promise<void> {
    const sudo = this.#sudo ? ['sudo', '-n'] : [];
    return haveDone([...sudo, 'systemctl', '--no-ask-password', ...args], `systemctl ${args.join(' ')}`, timeoutMs);
  }
}
