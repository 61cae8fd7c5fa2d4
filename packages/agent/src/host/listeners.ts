/** Who listens on TCP ports of this machine, from the kernel's own tables: nothing is started for it. */
import { readdir, readFile, readlink } from 'node:fs/promises';

export type Listener = { readonly address: string; readonly port: number; readonly inode: string };

const LISTENING = '0A';
const PROCESSES_MAX = 8192;
/** All of an IPv4 or IPv6 address's zeros: whoever listens there has the port of every address. */
const WILDCARDS: ReadonlySet<string> = new Set(['0.0.0.0', '::']);

export async function listeners(): Promise<Listener[]> {
  const tables = await Promise.all(
    ['/proc/net/tcp', '/proc/net/tcp6'].map((file) => readFile(file, 'utf8').catch(() => '')),
  );
  return tables.flatMap(parseTable);
}

/** Lines of /proc/net/tcp and tcp6: `sl local_address rem_address st ... uid timeout inode`. */
export function parseTable(text: string): Listener[] {
  return text
    .split('\n')
    .slice(1)
    .flatMap((line) => {
      const fields = line.trim().split(/\s+/);
      const [address = '', port = ''] = (fields[1] ?? '').split(':');
      if (fields[3] !== LISTENING || port === '') return [];
      return [{ address: addressOf(address), port: Number.parseInt(port, 16), inode: fields[9] ?? '' }];
    });
}

/** The kernel prints addresses as words in the machine's own byte order. */
function addressOf(hex: string): string {
  const bytes = (hex.match(/.{8}/g) ?? []).flatMap((word) => [...Buffer.from(word, 'hex')].reverse());
  if (bytes.length === 4) return bytes.join('.');
  const mapped = bytes.slice(0, 10).every((byte) => byte === 0) && bytes[10] === 0xff && bytes[11] === 0xff;
  if (mapped) return bytes.slice(12).join('.');
  return bytes.every((byte) => byte === 0) ? '::' : bytes.map((byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** Those that leave no room for a server on `address`; on a wildcard, there is room only where nobody listens at all. */
export function inTheWay(all: readonly Listener[], address: string, port: number): Listener[] {
  return all.filter(
    (one) => one.port === port && (WILDCARDS.has(address) || WILDCARDS.has(one.address) || one.address === address),
  );
}

/** The name of the program that has a socket, where this process may see it. */
export async function programOf({ inode }: Listener): Promise<string | undefined> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).slice(0, PROCESSES_MAX);
  for (const pid of pids) {
    const descriptors = await readdir(`/proc/${pid}/fd`).catch(() => []);
    for (const descriptor of descriptors) {
      const target = await readlink(`/proc/${pid}/fd/${descriptor}`).catch(() => '');
      if (target !== `socket:[${inode}]`) continue;
      const name = await readFile(`/proc/${pid}/comm`, 'utf8').catch(() => '');
      return name.trim() === '' ? undefined : `${name.trim()} (process ${pid})`;
    }
  }
  return undefined;
}
