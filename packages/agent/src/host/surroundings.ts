/** What lies round the database on its host: asked rarely where it changes rarely, and never by changing anything. */
import { X509Certificate } from 'node:crypto';
import { readdir, readFile, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { type Surroundings, takesPackage } from '@kwfleet/core';
import type { Deployment, Site } from '../deployment/deployment.ts';
import type { ImageAnswers } from '../docker/image-answers.ts';
import { inTheWay, listeners, programOf } from './listeners.ts';
import { CERTS_DIR } from './mode.ts';
import { findRestarters } from './restarters.ts';
import { runShort } from './run.ts';

/** The slow questions are asked again after this long. */
const FRESH_MS = 10 * 60_000;
const COMMAND_MS = 5_000;
const CERTIFICATES_MAX = 20;
const FILES_MAX = 20_000;

/** There the ports are those of the container engine's proxy. */
const IN_CONTAINERS: ReadonlySet<Site['method']> = new Set(['script-container', 'compose', 'docker-run']);

type Slow = Pick<Surroundings, 'glibc' | 'certificates' | 'restarters' | 'unread' | 'installedBytes' | 'disks'>;

export type Place = Pick<Site, 'method' | 'installDir' | 'dataDir' | 'address' | 'port' | 'httpPort' | 'security'> & {
  /** Where the certificates lie that the node is started with, as a path of this machine. */
  readonly certificates: string;
};

/** The same of a deployment that was found. */
export function placeOf({ site, endpoint }: Pick<Deployment, 'site' | 'endpoint'>, root: string): Place {
  const { authority } = endpoint;
  const { method, installDir, dataDir, address, port, httpPort, security, places } = site;
  const certificates = authority === undefined ? join(root, places?.certificates ?? CERTS_DIR) : dirname(authority);
  return { method, installDir, dataDir, address, port, httpPort, security, certificates };
}

export type SurroundingsOptions = {
  readonly root: string;
  readonly stateDir: string;
  readonly now: () => number;
  /** Absent where no container engine is looked for. */
  readonly images?: Pick<ImageAnswers, 'look'>;
};

export class SurroundingsLook {
  readonly #options: SurroundingsOptions;
  #slow: { readonly of: string; readonly atMs: number; readonly facts: Slow } | undefined;

  constructor(options: SurroundingsOptions) {
    this.#options = options;
  }

  /**
   * `isDown`: no process of the database runs, so whoever has its ports is another. `installedBytes`: what the installed
   * version occupies, where that is not its directory.
   */
  async look(
    place: Place,
    isDown: boolean,
    installedBytes: () => Promise<number | undefined> = () => sizeBelow(join(this.#options.root, place.installDir)),
  ): Promise<Surroundings> {
    const takenPorts = isDown && !IN_CONTAINERS.has(place.method) ? await this.#takenPorts(place) : [];
    const images = takesPackage(place.method, 'image') ? await this.#options.images?.look() : undefined;
    return { ...(await this.#slowly(place, installedBytes)), takenPorts, images: images ?? [] };
  }

  async #slowly(place: Place, sizeOf: () => Promise<number | undefined>): Promise<Slow> {
    const now = this.#options.now();
    const of = JSON.stringify(place);
    const known = this.#slow;
    if (known?.of === of && now >= known.atMs && now - known.atMs < FRESH_MS) return known.facts;
    const { root, stateDir } = this.#options;
    const [glibc, certificates, restarters, installedBytes, ...disks] = await Promise.all([
      glibcVersion(),
      place.security === 'insecure' ? [] : expiries(place.certificates),
      findRestarters(root),
      sizeOf(),
      ...[stateDir, join(root, place.installDir), join(root, place.dataDir)].map(diskOf),
    ]);
    const [agent = '', install = '', data = ''] = disks;
    const facts = {
      ...(glibc === undefined ? {} : { glibc }),
      certificates,
      restarters: [...restarters.found],
      unread: [...restarters.unread],
      ...(installedBytes === undefined ? {} : { installedBytes }),
      disks: { agent, install, data },
    };
    this.#slow = { of, atMs: now, facts };
    return facts;
  }

  async #takenPorts({ address, port, httpPort }: Place): Promise<Surroundings['takenPorts']> {
    const all = await listeners();
    // A real host's database listens on all of its addresses; nodes that share a machine have one each.
    const own = this.#options.root === '/' ? '0.0.0.0' : address;
    const taken = [port, httpPort].flatMap((wanted) => inTheWay(all, own, wanted).slice(0, 1));
    return Promise.all(
      taken.map(async (listener) => {
        const program = await programOf(listener);
        return { port: listener.port, ...(program === undefined ? {} : { program }) };
      }),
    );
  }
}

/** `2.36`, as `getconf` prints it; undefined where the C library is another. */
export async function glibcVersion(): Promise<string | undefined> {
  const ended = await runShort('getconf', ['GNU_LIBC_VERSION'], { timeoutMs: COMMAND_MS });
  return ended.exitCode === 0 ? /^glibc (\d{1,3}(?:\.\d{1,3}){1,2})/.exec(ended.stdout)?.[1] : undefined;
}

/** When each certificate file of the database expires; the last of an authority's bundle counts, the first of any other. */
export async function expiries(folder: string): Promise<Surroundings['certificates']> {
  const names = (await readdir(folder).catch(() => [])).filter((name) => name.endsWith('.crt')).sort();
  const read = names.slice(0, CERTIFICATES_MAX).map(async (file) => {
    const pem = await readFile(join(folder, file), 'utf8').catch(() => '');
    const ends = (pem.match(/-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----/gs) ?? []).flatMap(endOf);
    const expiresAtMs = /ca\.crt$/.test(file) ? Math.max(...ends) : (ends[0] ?? Number.NaN);
    return Number.isFinite(expiresAtMs) ? [{ file, expiresAtMs }] : [];
  });
  return (await Promise.all(read)).flat();
}

function endOf(pem: string): number[] {
  try {
    return [Date.parse(new X509Certificate(pem).validTo)];
  } catch {
    // Not one that this OpenSSL reads: nothing is known of its end.
    return [];
  }
}

/** Bytes that the files below a directory occupy; undefined when it is not there, or has too many to count. */
export async function sizeBelow(directory: string): Promise<number | undefined> {
  let files = 0;
  let bytes = 0;
  const walk = async (at: string): Promise<void> => {
    for (const entry of await readdir(at, { withFileTypes: true })) {
      if (++files > FILES_MAX) throw new Error('too many files');
      const path = join(at, entry.name);
      if (entry.isDirectory()) await walk(path);
      else if (entry.isFile()) bytes += (await stat(path)).size;
    }
  };
  try {
    await walk(directory);
    return bytes;
  } catch {
    // Gone, or being exchanged at this moment: the next look finds it.
    return undefined;
  }
}

/** The disk on which a path lies, or would lie once it is made. */
async function diskOf(path: string): Promise<string> {
  for (let at = path; ; at = dirname(at)) {
    try {
      return String((await stat(at)).dev);
    } catch (error) {
      if (at === dirname(at)) throw error;
    }
  }
}
