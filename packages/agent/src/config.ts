/** `/etc/kwfleet/agent.yaml`. Every key, its default and its meaning: docs/installation.md. */
import { readFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { isAbsolute, join } from 'node:path';
import { FleetError } from '@kwfleet/core';
import Type, { type Static } from 'typebox';
import Value from 'typebox/value';
import { parse } from 'yaml';
import type { BackupConfig } from './backup/backups.ts';
import { BUILDS } from './driver/deploy-run.ts';
import type { BuildConfig } from './driver/source-build.ts';
import type { TrustPolicy } from './trust.ts';

const address = Type.String({ pattern: '^(\\[[0-9a-fA-F:.]+\\]|[^\\s:/]+):[0-9]{1,5}$' });
const path = Type.String({ minLength: 1, maxLength: 4096 });

const words = Type.String({ minLength: 1, maxLength: 4096 });

const Build = Type.Object(
  {
    directory: path,
    steps: Type.Array(Type.Array(words, { minItems: 1, maxItems: 200 }), { minItems: 1, maxItems: BUILDS.length }),
    environment: Type.Optional(
      Type.Record(Type.String({ pattern: '^[A-Za-z_][A-Za-z0-9_]*$' }), Type.String(), { additionalProperties: false }),
    ),
    tree: Type.Optional(path),
  },
  { additionalProperties: false },
);

const File = Type.Object(
  {
    node: Type.Optional(Type.String({ pattern: '^[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?$' })),
    controller: Type.Object({ address }, { additionalProperties: false }),
    tls: Type.Optional(Type.Object({ certificate: path, key: path, authority: path }, { additionalProperties: false })),
    enrollment: Type.Optional(
      Type.Object(
        { token_file: path, authority_sha256: Type.Optional(Type.String({ pattern: '^[0-9a-fA-F:]{64,95}$' })) },
        { additionalProperties: false },
      ),
    ),
    insecure: Type.Optional(Type.Boolean()),
    state_dir: Type.Optional(path),
    root: Type.Optional(path),
    service_manager: Type.Optional(
      Type.Union([Type.Literal('auto'), Type.Literal('systemd'), Type.Literal('process')]),
    ),
    heartbeat_ms: Type.Optional(Type.Integer({ minimum: 50, maximum: 60_000 })),
    packages: Type.Optional(
      Type.Object(
        {
          trust: Type.Optional(Type.Literal('off')),
          root: Type.Optional(path),
          root_sha256: Type.Optional(Type.String({ pattern: '^[0-9a-fA-F]{64}$' })),
          cache_max_bytes: Type.Optional(Type.Integer({ minimum: 0 })),
        },
        { additionalProperties: false },
      ),
    ),
    peers: Type.Optional(
      Type.Object(
        {
          listen: address,
          address: Type.Optional(address),
          max_transfers: Type.Optional(Type.Integer({ minimum: 1, maximum: 100 })),
          max_bytes_per_second: Type.Optional(Type.Integer({ minimum: 1_048_576 })),
        },
        { additionalProperties: false },
      ),
    ),
    kwdb: Type.Optional(
      Type.Object(
        { status_timeout_ms: Type.Optional(Type.Integer({ minimum: 100, maximum: 300_000 })) },
        { additionalProperties: false },
      ),
    ),
    backup: Type.Optional(
      Type.Object(
        {
          directory: Type.Optional(path),
          keep: Type.Optional(Type.Integer({ minimum: 1, maximum: 100 })),
          command: Type.Optional(path),
        },
        { additionalProperties: false },
      ),
    ),
    docker: Type.Optional(
      Type.Object(
        {
          socket: Type.Optional(path),
          container: Type.Optional(Type.String({ pattern: '^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$' })),
          remove_old_image: Type.Optional(Type.Boolean()),
        },
        { additionalProperties: false },
      ),
    ),
    source: Type.Optional(
      Type.Object({ tree: Type.Optional(path), build: Type.Optional(Build) }, { additionalProperties: false }),
    ),
    log_level: Type.Optional(
      Type.Union(['debug', 'info', 'warn', 'error', 'silent'].map((level) => Type.Literal(level))),
    ),
  },
  { additionalProperties: false },
);

/** How the agent proves who it is and knows the controller. */
export type LinkSecurity =
  | { readonly kind: 'tls'; readonly certificate: string; readonly key: string; readonly authority: string }
  | { readonly kind: 'enrollment'; readonly tokenFile: string; readonly authoritySha256: string | undefined }
  | { readonly kind: 'insecure' };

/** How packages are given to peers. */
export type PeerConfig = {
  readonly listen: string;
  /** How peers reach it, where that is not `listen`. */
  readonly address?: string;
  readonly maxTransfers: number;
  /** Of all of them together. */
  readonly maxBytesPerSecond?: number;
};

const CACHE_MAX_BYTES = 20 * 1024 ** 3;

export type AgentConfig = {
  /** This node's name in the fleet. */
  readonly node: string;
  readonly controller: { readonly address: string };
  readonly security: LinkSecurity;
  readonly stateDir: string;
  /** Prefix of every path of KWDB; `/` but in demo and tests. */
  readonly root: string;
  readonly serviceManager: 'auto' | 'systemd' | 'process';
  readonly heartbeatMs: number;
  /** How long one question to the database may take. */
  readonly statusTimeoutMs: number;
  /** Which packages this host accepts. */
  readonly trust: TrustPolicy;
  /** How much packages may take here, those in use not counted out. */
  readonly cacheMaxBytes: number;
  /** Absent: nothing is given to peers. */
  readonly peers?: PeerConfig;
  /** Of a host whose KWDB was built from source. */
  readonly source: {
    /** The tree in use, where the processes do not tell it, or several do. */
    readonly tree: string | undefined;
    readonly build: BuildConfig | undefined;
  };
  readonly docker: {
    readonly socket: string;
    /** Which container is meant, where several run KWDB. */
    readonly container: string | undefined;
    readonly removeOldImage: boolean;
  };
  readonly logLevel: string;
  readonly backup: BackupConfig;
};

/** Copies of a node that are kept, unless told. */
const KEPT_COPIES = 2;

/** Reads and checks the file. Throws CONFIG_INVALID with the field that is wrong. */
export async function loadAgentConfig(file: string): Promise<AgentConfig> {
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch (error) {
    throw new FleetError('CONFIG_INVALID', `${file} cannot be read: ${(error as Error).message}`, { cause: error });
  }
  return parseAgentConfig(text, file);
}

/** The same from a text; `file` is for messages. */
export function parseAgentConfig(text: string, file = 'agent.yaml'): AgentConfig {
  let content: unknown;
  try {
    content = parse(text);
  } catch (error) {
    throw new FleetError('CONFIG_INVALID', `${file} is no YAML: ${(error as Error).message}`, { cause: error });
  }
  if (!Value.Check(File, content)) throw invalid(file, content);
  const { root = '/', state_dir: stateDir = '/var/lib/kwfleet', source } = content;
  const { directory = join(stateDir, 'backups'), keep = KEPT_COPIES, command } = content.backup ?? {};
  // Under a root of its own the agent does not look at this machine's engine.
  const { socket = join(root, '/var/run/docker.sock'), container, remove_old_image } = content.docker ?? {};
  const paths = {
    root,
    state_dir: stateDir,
    'backup.directory': directory,
    'backup.command': command,
    'docker.socket': socket,
    'source.tree': source?.tree,
    'source.build.directory': source?.build?.directory,
  };
  for (const [name, value] of Object.entries(paths)) {
    if (value !== undefined && !isAbsolute(value))
      throw new FleetError('CONFIG_INVALID', `${file}: ${name} must be an absolute path`);
  }
  return {
    node: content.node ?? hostname(),
    controller: content.controller,
    security: securityOf(content, file),
    stateDir,
    root,
    serviceManager: content.service_manager ?? 'auto',
    heartbeatMs: content.heartbeat_ms ?? 5000,
    statusTimeoutMs: content.kwdb?.status_timeout_ms ?? 10_000,
    trust: trustOf(content, file),
    cacheMaxBytes: content.packages?.cache_max_bytes ?? CACHE_MAX_BYTES,
    ...peersOf(content, file),
    source: { tree: source?.tree, build: buildOf(source?.build) },
    docker: { socket, container, removeOldImage: remove_old_image ?? false },
    logLevel: content.log_level ?? 'info',
    backup: { directory, keep, command },
  };
}

/** Peers must be able to prove who they are, by certificates that the controller gave them. */
function peersOf({ peers, tls, insecure }: Static<typeof File>, file: string): { peers?: PeerConfig } {
  if (peers === undefined) return {};
  const { listen, address: told, max_transfers: maxTransfers = 4, max_bytes_per_second: maxBytesPerSecond } = peers;
  const refuse = (why: string) => {
    throw new FleetError('CONFIG_INVALID', `${file}: peers: ${why}`);
  };
  if (tls !== undefined) refuse('needs the certificate of an enrollment, not one given by hand');
  if (insecure === true && !isLoopback(listen)) refuse('listen must be on loopback where there is no TLS');
  if (/^(0\.0\.0\.0|\[::\]):/.test(listen) && told === undefined) {
    refuse('give address, by which peers reach this host');
  }
  return {
    peers: { listen, maxTransfers, ...(told && { address: told }), ...(maxBytesPerSecond && { maxBytesPerSecond }) },
  };
}

function trustOf({ packages = {} }: Static<typeof File>, file: string): TrustPolicy {
  const given = Object.keys(packages).filter((name) => ['trust', 'root', 'root_sha256'].includes(name));
  if (given.length > 1) {
    throw new FleetError('CONFIG_INVALID', `${file}: packages: give one of ${given.join(' and ')}`);
  }
  const { trust, root, root_sha256: sha256 } = packages;
  if (trust === 'off') return { kind: 'off' };
  if (root !== undefined) return { kind: 'root', file: root };
  return sha256 === undefined ? { kind: 'first-contact' } : { kind: 'root-sha256', sha256: sha256.toLowerCase() };
}

function buildOf(given: Static<typeof Build> | undefined): BuildConfig | undefined {
  if (given === undefined) return undefined;
  const { directory, steps, environment = {}, tree = 'install' } = given;
  return { directory, steps: steps as unknown as BuildConfig['steps'], environment, tree };
}

function securityOf(content: Static<typeof File>, file: string): LinkSecurity {
  const { tls, enrollment, insecure, controller } = content;
  const given = Object.entries({ tls, enrollment, insecure: insecure || undefined }).filter(([, value]) => value);
  if (given.length !== 1) {
    const names = given.map(([name]) => name).join(' and ') || 'none';
    throw new FleetError('CONFIG_INVALID', `${file}: give one of tls, enrollment and insecure; ${names} is given`);
  }
  if (tls !== undefined) return { kind: 'tls', ...tls };
  if (enrollment !== undefined) {
    const { token_file: tokenFile, authority_sha256: sha256 } = enrollment;
    return { kind: 'enrollment', tokenFile, authoritySha256: sha256?.replaceAll(':', '').toLowerCase() };
  }
  if (!isLoopback(controller.address)) {
    throw new FleetError('CONFIG_INVALID', `${file}: insecure needs a controller.address on loopback`);
  }
  return { kind: 'insecure' };
}

export function isLoopback(address: string): boolean {
  const host = address.slice(0, address.lastIndexOf(':'));
  return host === 'localhost' || host === '[::1]' || /^127(\.\d{1,3}){3}$/.test(host);
}

function invalid(file: string, content: unknown): FleetError {
  const [first] = Value.Errors(File, content);
  const params = first?.params as { requiredProperties?: string[]; additionalProperties?: string[] } | undefined;
  const more = params?.requiredProperties ?? params?.additionalProperties;
  const field =
    [...(first?.instancePath ?? '').split('/').slice(1), ...(more ?? []).slice(0, 1)].join('.') || 'the file';
  return new FleetError('CONFIG_INVALID', `${file}: ${field}: ${first?.message ?? 'is not as agreed'}`);
}
