/** Root's rights on a host whose agent may not be root: through sudo, and never so that a password is asked for. */
import { userInfo } from 'node:os';
import { FleetError } from '@kwfleet/core';
import { type Ended, runShort, wordsOf } from './run.ts';
import type { ServiceManager } from './services.ts';

const ASK_TIMEOUT_MS = 5000;
const EDIT_TIMEOUT_MS = 20_000;

export type Rights = {
  readonly root: string;
  readonly sudo: boolean;
  readonly services: Pick<ServiceManager, 'kind'>;
};

let runs = 0;

/** A name for a unit that ends by itself at once. */
export function shortUnit(): string {
  runs += 1;
  return `kwfleet-short-${process.pid}-${runs}`;
}

/**
 * Runs a short command as root. With sudo it goes through systemd-run, as long commands do: so one line of sudoers is
 * enough for all of them.
 */
export function runAsRoot({ sudo, services }: Rights, argv: readonly [string, ...string[]]): Promise<Ended> {
  const [file, ...args] = argv;
  if (!sudo) return runShort(file, args, { timeoutMs: EDIT_TIMEOUT_MS });
  if (services.kind !== 'systemd') return runShort('sudo', ['-n', ...argv], { timeoutMs: EDIT_TIMEOUT_MS });
  // systemd replaces $NAME in a command line; two of them are one dollar sign.
  const words = argv.map((word) => word.replaceAll('$', '$$$$'));
  const options = [`--unit=${shortUnit()}`, '--collect', '--quiet', '--wait', '--pipe', '--no-ask-password'];
  return runShort('sudo', ['-n', 'systemd-run', ...options, '--', ...words], { timeoutMs: EDIT_TIMEOUT_MS });
}

/**
 * deploy.sh calls sudo even for root, and would ask for a password and wait a minute: asked for before anything is
 * stopped. Throws SUDO_MISSING or DEPLOY_PASSWORD.
 */
export async function requireRights(rights: Rights): Promise<void> {
  if (rights.root !== '/') return;
  const asked = await runShort('sudo', ['-n', 'true'], { timeoutMs: ASK_TIMEOUT_MS });
  if (asked.missing) throw new FleetError('SUDO_MISSING', 'deploy.sh needs sudo, which is not installed');
  if (asked.exitCode !== 0) {
    throw new FleetError('DEPLOY_PASSWORD', 'sudo would ask for a password', { words: wordsOf(asked) });
  }
  if (!rights.sudo) return;
  // What deploy.sh itself will do, in a unit of its own like its own.
  const proven = await runAsRoot(rights, ['/usr/bin/sudo', '-n', 'true']);
  if (proven.exitCode === 0) return;
  throw new FleetError('DEPLOY_PASSWORD', 'sudo does not let the agent run deploy.sh', { words: wordsOf(proven) });
}

/** What is asked of the service manager for a unit in the course of an upgrade. */
const VERBS = ['stop', 'start', 'enable', 'disable'] as const;

/**
 * A unit that is not called as KWDB's own scripts call theirs is in no sudoers file that comes with the agent: asked before
 * anything is stopped. Throws PRIVILEGES_MISSING with the lines that are missing.
 */
export async function requireUnitRights({ sudo, services }: Omit<Rights, 'root'>, unit: string): Promise<void> {
  if (!sudo || services.kind !== 'systemd') return;
  const missing: string[] = [];
  for (const verb of VERBS) {
    const command = ['systemctl', '--no-ask-password', verb, `${unit}.service`];
    const allowed = await runShort('sudo', ['-n', '-l', ...command], { timeoutMs: ASK_TIMEOUT_MS });
    if (allowed.exitCode !== 0) missing.push(`/usr/bin/${command.join(' ')}`);
  }
  if (missing.length === 0) return;
  const line = `${userInfo().username} ALL = (root) NOPASSWD: ${missing.join(', ')}`;
  throw new FleetError('PRIVILEGES_MISSING', `sudo does not let the agent handle ${unit}: sudoers lack "${line}"`);
}
