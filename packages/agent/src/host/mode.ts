/** What a script installation wrote about itself. Source: KWDB facts, "Files a script installation leaves on a host". */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { FleetError, type Method, type Security, type Topology } from '@kwfleet/core';
import { HTTP_PORT, SQL_PORT } from './start-command.ts';

export type Mode = {
  readonly method: Extract<Method, 'script-bare' | 'script-container'>;
  readonly topology: Topology;
  /** Install directory for bare, image name for container. */
  readonly place: string;
  readonly dataDir: string;
  readonly port: number;
  readonly httpPort: number;
  readonly user: string;
  readonly security: Security;
  readonly encrypted: boolean;
  readonly address: string;
};

export const INFO_DIR = '/etc/kaiwudb/info';
export const CERTS_DIR = '/etc/kaiwudb/certs';
export const SCRIPT_DIR = '/etc/kaiwudb/script';
export const ENV_FILE = `${SCRIPT_DIR}/kaiwudb_env`;
export const UNIT_FILE = '/etc/systemd/system/kaiwudb.service';
export const UNIT = 'kaiwudb';
/** What a script installation is beside its data. */
export const SCRIPT_PLACES = { certificates: CERTS_DIR, configuration: [INFO_DIR, SCRIPT_DIR, UNIT_FILE] };

const TOPOLOGIES: Readonly<Record<string, Topology>> = {
  single: 'standalone',
  'single-replication': 'single-replica',
  'multi-replication': 'multi-replica',
};
const SECURITIES: readonly Security[] = ['tls', 'tlcp', 'insecure'];

/**
 * Parses MODE. Older installs lack line 8: then `certificates` says which certificate authority lies on the host; some
 * also lack line 9. Throws TOPOLOGY_UNKNOWN or METHOD_UNSUPPORTED for a line that is not as KWDB writes it.
 */
export function parseMode(text: string, certificates: Security): Mode {
  const lines = text.split('\n').map((line) => line.trim());
  while (lines.at(-1) === '') lines.pop();
  const [kind, topologyName = '', place = '', dataDir = '', port, httpPort, user = 'kaiwudb'] = lines;
  if (kind !== 'bare' && kind !== 'container') {
    throw new FleetError('METHOD_UNSUPPORTED', `MODE names the deployment method "${kind ?? ''}"`);
  }
  const topology = TOPOLOGIES[topologyName];
  if (topology === undefined) throw new FleetError('TOPOLOGY_UNKNOWN', `MODE names the topology "${topologyName}"`);
  return {
    method: kind === 'bare' ? 'script-bare' : 'script-container',
    topology,
    place,
    dataDir,
    port: portOf(port, SQL_PORT),
    httpPort: portOf(httpPort, HTTP_PORT),
    user: user === '' ? 'kaiwudb' : user,
    security: SECURITIES.find((name) => name === lines[7]) ?? certificates,
    encrypted: lines[8] === 'true',
    address: lines.length > 7 ? (lines.at(-1) ?? '') : '',
  };
}

function portOf(text: string | undefined, fallback: number): number {
  const port = Number(text);
  return Number.isInteger(port) && port > 0 && port < 65_536 ? port : fallback;
}

/** `.version` as the reports spell it: basic version, and the extension after a space. */
export function parseVersionFile(text: string): string | undefined {
  const [basic = '', extension = ''] = text.split('\n').map((line) => line.trim());
  if (basic === '') return undefined;
  return extension === '' ? basic : `${basic} ${extension}`;
}

/** The other nodes' addresses: line 1 of NODE. */
export function parsePeers(text: string): string[] {
  return (text.split('\n')[0] ?? '').split(/\s+/).filter((peer) => peer !== '');
}

export async function readText(root: string, path: string): Promise<string | null> {
  try {
    return await readFile(join(root, path), 'utf8');
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR') return null;
    throw error;
  }
}

/** The names in a directory; none where there is no such directory. */
export async function listDirectory(directory: string): Promise<string[]> {
  try {
    return await readdir(directory);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
}

/** What the certificates on the host say of the security mode, for a MODE without line 8. */
export async function certificateSecurity(root: string): Promise<Security> {
  if ((await readText(root, `${CERTS_DIR}/tlcp_ca.crt`)) !== null) return 'tlcp';
  return (await readText(root, `${CERTS_DIR}/ca.crt`)) === null ? 'insecure' : 'tls';
}
