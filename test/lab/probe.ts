import { existsSync, readFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { cgroupMount } from './cgroup.ts';
import { labBase } from './place.ts';
import { run } from './process.ts';

export type Probe = { ok: true } | { ok: false; reason: string };

const CAP_NET_ADMIN = 12;
const CAP_SYS_ADMIN = 21;
const TOOLS = ['ip', 'nft', 'nsenter', 'unshare', 'setpriv', 'mount', 'pivot_root', 'hostname'];
const SYSTEMD = '/lib/systemd/systemd';

/** Can this machine boot test hosts? If not, the first thing that is missing, by name. */
export async function probeLab(): Promise<Probe> {
  const reason = missingRight() ?? missingTool() ?? (await missingCgroup()) ?? (await missingKernelPart());
  return reason === undefined ? { ok: true } : { ok: false, reason };
}

/**
 * For suites: `describe.skipIf(!(await labHere()))`. Prints why the lab cannot run, so that a skip is never silent, and
 * throws instead under KWFLEET_REQUIRE_LAB=1.
 */
export async function labHere(): Promise<boolean> {
  const probe = await probeLab();
  if (probe.ok) return true;
  const message = `the lab cannot run here: ${probe.reason}`;
  if (process.env.KWFLEET_REQUIRE_LAB === '1') throw new Error(message);
  console.error(`SKIPPED: ${message}`);
  return false;
}

function missingRight(): string | undefined {
  if (process.platform !== 'linux') return `Linux is needed, this is ${process.platform}`;
  if (process.getuid?.() !== 0) return 'not root';
  const mask = /^CapEff:\s*([0-9a-f]+)/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '0';
  const has = (bit: number) => ((BigInt(`0x${mask}`) >> BigInt(bit)) & 1n) === 1n;
  if (!has(CAP_SYS_ADMIN)) return 'CAP_SYS_ADMIN is missing';
  if (!has(CAP_NET_ADMIN)) return 'CAP_NET_ADMIN is missing';
  return undefined;
}

function missingTool(): string | undefined {
  if (!existsSync(SYSTEMD)) return `${SYSTEMD} is not installed`;
  const path = `${process.env.PATH ?? ''}:/usr/sbin:/usr/bin:/sbin:/bin`.split(delimiter);
  const missing = TOOLS.find((tool) => !path.some((directory) => existsSync(join(directory, tool))));
  return missing === undefined ? undefined : `the command ${missing} is not installed`;
}

async function missingCgroup(): Promise<string | undefined> {
  const mount = await cgroupMount();
  if (mount === undefined) return 'cgroup2 is not mounted anywhere';
  const path = join(mount, `kwfleet-lab-probe-${process.pid}`);
  const tried = await run(['sh', '-c', 'mkdir "$1" && rmdir "$1"', 'sh', path], { allowFailure: true });
  return tried.exitCode === 0 ? undefined : `no cgroup can be made below ${mount}: ${tried.stderr.trim()}`;
}

async function missingKernelPart(): Promise<string | undefined> {
  const spaces = ['unshare', '--mount', '--pid', '--uts', '--ipc', '--net', '--cgroup', '--fork', 'true'];
  const tried = await run(spaces, { allowFailure: true });
  if (tried.exitCode !== 0) return `namespaces cannot be made: ${tried.stderr.trim()}`;
  if ((await labBase()) === undefined) return 'no directory can be the upper layer of an overlay (try KWFLEET_LAB_DIR)';
  return undefined;
}
