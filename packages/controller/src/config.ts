/** The controller's configuration: a YAML file, checked here once; everything else takes the typed result. */
import { readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';
import { FleetError, HEALTH_THRESHOLDS, type Thresholds } from '@kwfleet/core';
import type { GivingLimits } from '@kwfleet/protocol';
import Type, { type Static } from 'typebox';
import Schema from 'typebox/schema';
import { parse } from 'yaml';
import { RETENTION, type Retention } from './housekeeping.ts';
import { isLoopback } from './network.ts';
import { checkTargets, NotificationSettings, type Target } from './notifications/targets.ts';

const strict = { additionalProperties: false } as const;
const Port = Type.Integer({ minimum: 0, maximum: 65_535 });
const Host = Type.String({ minLength: 1, maxLength: 253 });
const Path = Type.String({ minLength: 1 });
const Days = Type.Integer({ minimum: 1, maximum: 36_500 });

/** The file as people write it. Every field has a default; port 0 takes a free one. */
export const ControllerSettings = Type.Partial(
  Type.Object({
    data_dir: Path,
    rest: Type.Partial(
      Type.Object({
        host: Host,
        port: Port,
        tls: Type.Object({ certificate: Path, key: Path }, strict),
        /** Says on purpose that tokens may cross the network unencrypted. */
        plaintext: Type.Boolean(),
        /** From one address; this machine's own are not counted. */
        requests_per_minute: Type.Integer({ minimum: 10, maximum: 1_000_000 }),
      }),
      strict,
    ),
    grpc: Type.Partial(
      Type.Object({
        host: Host,
        port: Port,
        /** Further names and addresses by which agents reach this controller; they go into its certificate. */
        names: Type.Array(Host),
        /** No TLS at all; only for a listener on this machine. */
        insecure: Type.Boolean(),
      }),
      strict,
    ),
    database: Type.Partial(Type.Object({ url: Type.String({ minLength: 1 }) }), strict),
    packages: Type.Partial(
      Type.Object({
        max_bytes: Type.Integer({ minimum: 1 }),
        /** From where the controller may take packages by itself: absolute directories, beginnings of addresses. */
        sources: Type.Array(Type.String({ pattern: '^(/|https?://[^/]+/(.*/)?$)', maxLength: 1000 }), {
          maxItems: 100,
        }),
        /** Packages sent to agents at once; the others wait, or take it from their peers. */
        max_transfers: Type.Integer({ minimum: 1, maximum: 1000 }),
        /** Of all of them together. */
        max_bytes_per_second: Type.Integer({ minimum: 1_048_576 }),
      }),
      strict,
    ),
    health: Type.Partial(
      Type.Object({
        /** Something worse, or better, is told of a node once it has lasted so long. */
        worse_after_ms: Type.Integer({ minimum: 0, maximum: 3_600_000 }),
        better_after_ms: Type.Integer({ minimum: 0, maximum: 3_600_000 }),
      }),
      strict,
    ),
    /** How much of transfers may lie here on its way. */
    transfers: Type.Partial(Type.Object({ max_bytes: Type.Integer({ minimum: 1 }) }), strict),
    notifications: NotificationSettings,
    /** How long what is kept, in days. */
    retention: Type.Partial(
      Type.Object({
        /** Runs that ended; 0, the default, keeps them for ever. */
        runs_days: Type.Integer({ minimum: 0, maximum: 36_500 }),
        output_days: Days,
        health_days: Days,
        notifications_days: Days,
        plans_days: Days,
      }),
      strict,
    ),
    heartbeat_ms: Type.Integer({ minimum: 50, maximum: 60_000 }),
    log_level: Type.Union([
      Type.Literal('debug'),
      Type.Literal('info'),
      Type.Literal('warn'),
      Type.Literal('error'),
      Type.Literal('silent'),
    ]),
  }),
  strict,
);
export type ControllerSettings = Static<typeof ControllerSettings>;

export type ControllerConfig = {
  readonly dataDir: string;
  readonly rest: {
    readonly host: string;
    readonly port: number;
    readonly tls?: { readonly certificate: string; readonly key: string };
    readonly plaintext: boolean;
    readonly requestsPerMinute: number;
  };
  readonly grpc: {
    readonly host: string;
    readonly port: number;
    readonly names: readonly string[];
    readonly insecure: boolean;
  };
  /** Absent: the embedded PostgreSQL. */
  readonly databaseUrl?: string;
  readonly packageMaxBytes: number;
  readonly packageSources: readonly string[];
  readonly giving: GivingLimits;
  readonly health: Thresholds;
  readonly transfersMaxBytes: number;
  readonly targets: readonly Target[];
  readonly retention: Retention;
  readonly heartbeatMs: number;
  readonly logLevel: string;
};

const PACKAGE_MAX_BYTES = 8 * 1024 ** 3;
const MAX_TRANSFERS = 16;
const TRANSFERS_MAX_BYTES = 64 * 1024 ** 3;
const HEARTBEAT_MS = 5_000;
const REQUESTS_PER_MINUTE = 1_200;
const checker = Schema.Compile(ControllerSettings);

/** Checks settings and fills in the defaults. Throws CONFIG_INVALID, naming the field. */
export function controllerConfig(settings: unknown = {}): ControllerConfig {
  if (!checker.Check(settings)) throw invalid(settings);
  const given = settings as ControllerSettings;
  const config: ControllerConfig = {
    dataDir: resolve(given.data_dir ?? defaultDataDir()),
    rest: {
      host: given.rest?.host ?? '127.0.0.1',
      port: given.rest?.port ?? 7080,
      plaintext: given.rest?.plaintext ?? false,
      requestsPerMinute: given.rest?.requests_per_minute ?? REQUESTS_PER_MINUTE,
      ...(given.rest?.tls && { tls: given.rest.tls }),
    },
    grpc: {
      host: given.grpc?.host ?? '127.0.0.1',
      port: given.grpc?.port ?? 7090,
      names: given.grpc?.names ?? [],
      insecure: given.grpc?.insecure ?? false,
    },
    ...(given.database?.url !== undefined && { databaseUrl: given.database.url }),
    packageMaxBytes: given.packages?.max_bytes ?? PACKAGE_MAX_BYTES,
    packageSources: given.packages?.sources ?? [],
    giving: {
      atOnce: given.packages?.max_transfers ?? MAX_TRANSFERS,
      bytesPerSecond: given.packages?.max_bytes_per_second,
    },
    health: {
      ...HEALTH_THRESHOLDS,
      worseAfterMs: given.health?.worse_after_ms ?? HEALTH_THRESHOLDS.worseAfterMs,
      betterAfterMs: given.health?.better_after_ms ?? HEALTH_THRESHOLDS.betterAfterMs,
    },
    transfersMaxBytes: given.transfers?.max_bytes ?? TRANSFERS_MAX_BYTES,
    retention: {
      runsDays: given.retention?.runs_days ?? RETENTION.runsDays,
      outputDays: given.retention?.output_days ?? RETENTION.outputDays,
      healthDays: given.retention?.health_days ?? RETENTION.healthDays,
      notificationsDays: given.retention?.notifications_days ?? RETENTION.notificationsDays,
      plansDays: given.retention?.plans_days ?? RETENTION.plansDays,
    },
    targets: checkTargets(given.notifications?.targets ?? []),
    heartbeatMs: given.heartbeat_ms ?? HEARTBEAT_MS,
    logLevel: given.log_level ?? 'info',
  };
  refuseOpenListeners(config);
  return config;
}

/** Reads the file; without one, the defaults. Throws CONFIG_INVALID. */
export function loadControllerConfig(file?: string): ControllerConfig {
  if (file === undefined) return controllerConfig();
  try {
    return controllerConfig(parse(readFileSync(file, 'utf8')) ?? {});
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new FleetError('CONFIG_INVALID', `${file}: ${reason}`, { cause: error });
  }
}

function refuseOpenListeners(config: ControllerConfig): void {
  if (config.grpc.insecure && !isLoopback(config.grpc.host)) {
    throw new FleetError('CONFIG_INVALID', `grpc.insecure needs a loopback host; grpc.host is ${config.grpc.host}`);
  }
  const { host, tls, plaintext } = config.rest;
  if (!isLoopback(host) && tls === undefined && !plaintext) {
    const how = 'give rest.tls, or say rest.plaintext: true where something else encrypts';
    throw new FleetError('CONFIG_INVALID', `rest.host ${host} would send tokens in clear: ${how}`);
  }
}

function defaultDataDir(): string {
  return process.getuid?.() === 0
    ? '/var/lib/kwfleet-controller'
    : join(homedir(), '.local', 'share', 'kwfleet', 'controller');
}

function invalid(settings: unknown): FleetError {
  const first = checker.Errors(settings)[1][0];
  const unknown = first?.keyword === 'additionalProperties' ? first.params.additionalProperties.join(', ') : '';
  const field = [first?.instancePath?.slice(1).replaceAll('/', '.'), unknown].filter(Boolean).join('.');
  return new FleetError('CONFIG_INVALID', `${field || 'the configuration'}: ${first?.message ?? 'is not valid'}`);
}
