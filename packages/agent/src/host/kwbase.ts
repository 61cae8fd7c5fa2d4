/**
 * Questions to the database through `kwbase`, the one client that speaks every secure mode. Statements are constants
 * of this file: nothing from outside becomes SQL or an argument but addresses the database itself named.
 */
import {
  type ClusterHealth,
  type ClusterView,
  FleetError,
  isVersion,
  LedgerEntry,
  type NodeRow,
  type Security,
} from '@kwfleet/core';
import Value from 'typebox/value';
import { csvRecords, parseCsv } from './csv.ts';
import { type Ended, runShort, wordsOf } from './run.ts';

const VERSION_TIMEOUT_MS = 10_000;

const SQL = {
  clusterId: 'SELECT kwdb_internal.cluster_id()',
  ranges:
    "SELECT sum((metrics->>'ranges.unavailable')::DECIMAL)::INT, sum((metrics->>'ranges.underreplicated')::DECIMAL)::INT FROM kwdb_internal.kv_store_status",
  jobs: "SELECT job_id, job_type, description, status FROM [SHOW JOBS] WHERE status IN ('pending','running','paused','reverting')",
  leases: 'SELECT lease_holder, count(*) FROM kwdb_internal.ranges GROUP BY lease_holder',
  sessions: 'SELECT node_id, count(*) FROM kwdb_internal.cluster_sessions GROUP BY node_id',
} as const;

const SETTINGS = ['version', 'server.time_until_store_dead', 'cluster.preserve_downgrade_option'] as const;

/** Runs `kwbase` with arguments of this file's making, for `timeoutMs` at most. Never rejects. */
export type KwbaseRunner = (args: readonly string[], timeoutMs: number, outputBytes?: number) => Promise<Ended>;

export type KwbaseOptions = {
  readonly run: KwbaseRunner;
  /** `HOST:PORT` where this node's own database is asked. */
  readonly host: string;
  /** See securityArguments. */
  readonly security: readonly string[];
  readonly clock: () => number;
  /** How long one question may take; then it counts as not answered. */
  readonly timeoutMs: number;
};

/** A binary on this host. */
export function localRunner(binary: {
  readonly file: string;
  /** The directory of the libraries that belong to it. */
  readonly libraries: string;
  /** The user as whom sudo runs it, who can read its certificates; absent: the agent's own. */
  readonly asUser?: string;
  /** The same for an agent that is root and needs no sudo for it. */
  readonly user?: { readonly uid: number; readonly gid: number };
}): KwbaseRunner {
  const library = `LD_LIBRARY_PATH=${binary.libraries}`;
  const options = { cwd: '/', ...(binary.user === undefined ? {} : { user: binary.user }) };
  return (args, timeoutMs, outputBytes) => {
    const sudo = binary.asUser === undefined ? [] : behindSudo(binary.asUser, timeoutMs);
    // sudo drops the variable from its environment; env sets it behind sudo's back.
    const [file, ...before] = [...sudo, '/usr/bin/env', library, binary.file];
    return runShort(file as string, [...before, ...args], {
      ...options,
      timeoutMs,
      ...(outputBytes && { outputBytes }),
    });
  };
}

/**
 * The agent cannot kill what runs as another user: timeout does it there. The seconds have five digits, so that a line of
 * sudoers can name them without letting anything else through.
 */
function behindSudo(user: string, timeoutMs: number): string[] {
  // A moment later than the agent's own limit, which is the one that is told.
  const seconds = Math.min(99_999, Math.ceil(timeoutMs / 1000) + 1);
  return ['sudo', '-n', '-u', user, '/usr/bin/timeout', '-s', 'KILL', String(seconds).padStart(5, '0')];
}

/** The version in what `kwbase version` prints. */
export function kwbaseVersion(text: string): string | undefined {
  return /^KaiwuDB Version:\s*(\S+)/m.exec(text)?.[1];
}

/** How `kwbase` is told to speak; `certificates` is the directory as the one who runs it sees it. */
export function securityArguments(security: Security, certificates: string): string[] {
  if (security === 'insecure') return ['--insecure'];
  return [`--certs-dir=${certificates}`, ...(security === 'tlcp' ? ['--tlcp'] : [])];
}

/** One node's `kwbase`. Every question rejects with KWBASE_FAILED and kwbase's own words. */
export class Kwbase {
  readonly #options: KwbaseOptions;

  constructor(options: KwbaseOptions) {
    this.#options = options;
  }

  get host(): string {
    return this.#options.host;
  }

  /** The version the installed binary tells of itself, `V3.1.0`; undefined when it tells none. */
  async version(): Promise<string | undefined> {
    const ended = await this.#options.run(['version'], VERSION_TIMEOUT_MS);
    return ended.exitCode === 0 ? kwbaseVersion(ended.stdout) : undefined;
  }

  /** Every node as the asked one lists it. */
  async nodeStatus(host = this.host): Promise<(NodeRow & { readonly sqlAddress?: string })[]> {
    const text = await this.#ask(['node', 'status', '--all', '--format=csv'], host);
    return csvRecords(fromHeader(text, 'id,')).map(nodeRow);
  }

  async clusterId(host = this.host): Promise<string> {
    const id = (await this.#sql(SQL.clusterId, host))[1]?.[0];
    if (typeof id !== 'string' || id === '') throw new FleetError('KWBASE_FAILED', 'the database told no cluster id');
    return id;
  }

  /** Marks nothing and stops nothing: the node hands its leases and clients over and goes on running. */
  async drain(timeoutMs: number): Promise<void> {
    await this.#ask(['node', 'drain'], this.host, timeoutMs);
  }

  /** The view through `host`; `own` names the address by which the asked node is found among the rows. */
  async view(clusterId: string, own: string, host = this.host): Promise<ClusterView> {
    const rows = await this.nodeStatus(host);
    const kwdbId = ownId(rows, own);
    if (kwdbId === undefined) {
      throw new FleetError('KWBASE_FAILED', `the node that answered (${own}) is not among those it lists`);
    }
    const nodes = rows.map(({ sqlAddress: _, ...row }) => row);
    return { clusterId, kwdbId, observedAtMs: this.#options.clock(), nodes };
  }

  /** Ranges that are unavailable and under-replicated; undefined when the answer has no numbers. */
  async ranges(host = this.host): Promise<Pick<ClusterHealth, 'rangesUnavailable' | 'rangesUnderreplicated'>> {
    const [unavailable, underreplicated] = (await this.#sql(SQL.ranges, host))[1] ?? [];
    return {
      ...(isCount(unavailable) ? { rangesUnavailable: Number(unavailable) } : {}),
      ...(isCount(underreplicated) ? { rangesUnderreplicated: Number(underreplicated) } : {}),
    };
  }

  /** The rest of a cluster check. A question that fails leaves its field out: unknown. */
  async details(host = this.host): Promise<Omit<ClusterHealth, 'view'>> {
    const [jobs, leases, sessions, settings] = await Promise.all([
      optional(this.#jobs(host)),
      optional(this.#counts(SQL.leases, host)),
      optional(this.#counts(SQL.sessions, host)),
      optional(this.#settings(host)),
    ]);
    return {
      ...(jobs === undefined ? {} : { jobs }),
      ...(leases === undefined ? {} : { leases }),
      ...(sessions === undefined ? {} : { sessions }),
      ...(settings === undefined ? {} : { settings }),
    };
  }

  /** The value is checked against the ledger's own pattern, so that no other text becomes a part of the statement. */
  async setSetting(entry: LedgerEntry, host = this.host): Promise<void> {
    if (!Value.Check(LedgerEntry, entry)) {
      throw new FleetError('ACTION_INVALID', 'the order names no setting that may be changed');
    }
    await this.#sql(`SET CLUSTER SETTING ${entry.name} = '${entry.value}'`, host);
  }

  /**
   * What statements of a transfer answer in one session, as printed one after the other; the first that fails ends it. They
   * come whole from the core's sql.ts.
   */
  query(
    statements: readonly string[],
    options: { readonly timeoutMs: number; readonly outputBytes?: number; readonly database?: string },
  ): Promise<string> {
    const texts = statements.flatMap((statement) => ['-e', statement]);
    const database = options.database === undefined ? [] : [`--database=${options.database}`];
    return this.#ask(['sql', '--format=csv', ...texts, ...database], this.host, options.timeoutMs, options.outputBytes);
  }

  /** The arguments that run statements one after the other in one session; for those that take longer than the agent lives. */
  sqlArguments(statements: readonly string[], database?: string): string[] {
    const texts = statements.flatMap((statement) => ['-e', statement]);
    const session = database === undefined ? [] : [`--database=${database}`];
    return ['sql', '--format=csv', ...texts, ...session, `--host=${this.host}`, ...this.#options.security];
  }

  async #jobs(host: string): Promise<NonNullable<ClusterHealth['jobs']>> {
    const rows = await this.#sql(SQL.jobs, host);
    return rows.slice(1).map(([id, type, description, status]) => ({
      id: id ?? '',
      type: type ?? '',
      description: (description ?? '').slice(0, 500),
      status: status ?? '',
    }));
  }

  async #counts(statement: string, host: string): Promise<{ kwdbId: number; count: number }[]> {
    const rows = (await this.#sql(statement, host)).slice(1).filter(([id]) => isCount(id));
    return rows.map(([id, count]) => ({ kwdbId: Number(id), count: Number(count ?? 0) }));
  }

  async #settings(host: string): Promise<{ name: string; value: string }[]> {
    return Promise.all(
      SETTINGS.map(async (name) => {
        const value = (await this.#sql(`SHOW CLUSTER SETTING ${name}`, host))[1]?.[0];
        return { name, value: value ?? '' };
      }),
    );
  }

  async #sql(statement: string, host: string): Promise<(string | null)[][]> {
    return parseCsv(await this.#ask(['sql', '--format=csv', '-e', statement], host));
  }

  async #ask(
    args: readonly string[],
    host: string,
    timeoutMs = this.#options.timeoutMs,
    outputBytes?: number,
  ): Promise<string> {
    const argv = [...args, `--host=${host}`, ...this.#options.security];
    const ended = await this.#options.run(argv, timeoutMs, outputBytes);
    if (ended.exitCode === 0) return ended.stdout;
    const question = args.slice(0, 2).join(' ');
    throw new FleetError('KWBASE_FAILED', `kwbase ${question} through ${host} failed`, { words: wordsOf(ended) });
  }
}

async function optional<T>(question: Promise<T>): Promise<T | undefined> {
  try {
    return await question;
  } catch (error) {
    if (error instanceof FleetError) return undefined;
    throw error;
  }
}

/** kwbase may print warnings before the table. */
function fromHeader(text: string, start: string): string {
  const at = text.startsWith(start) ? 0 : text.indexOf(`\n${start}`) + 1;
  return text.startsWith(start) || at > 0 ? text.slice(at) : '';
}

const isCount = (value: string | null | undefined): value is string =>
  value !== null && value !== undefined && /^\d+$/.test(value);

/** Several rows can have one address when a removed node's was used again: the living one is meant, then the newest. */
export function ownId(rows: readonly (NodeRow & { readonly sqlAddress?: string })[], own: string): number | undefined {
  const mine = rows
    .filter((row) => row.address === own || row.sqlAddress === own)
    .sort((a, b) => Number(b.isLive) - Number(a.isLive) || b.kwdbId - a.kwdbId);
  return (mine[0] ?? (rows.length === 1 ? rows[0] : undefined))?.kwdbId;
}

/** One record of `node status`. An empty or NULL field is unknown; a flag that is missing is false. */
export function nodeRow(record: Readonly<Record<string, string | null>>): NodeRow & { readonly sqlAddress?: string } {
  const text = (name: string) => (record[name] === null || record[name] === '' ? undefined : record[name]);
  const time = (name: string) => parseTime(text(name));
  const build = text('build');
  const fields = {
    address: text('address'),
    sqlAddress: text('sql_address'),
    // A tag that is no version (a build of one's own) cannot be compared: then the build is unknown.
    build: build !== undefined && isVersion(build) ? build : undefined,
    startedAtMs: time('started_at'),
    updatedAtMs: time('updated_at'),
    startMode: text('start_mode'),
  };
  return {
    kwdbId: Number(record.id),
    ...Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)),
    isAvailable: record.is_available === 'true',
    isLive: record.is_live === 'true',
    isDecommissioning: record.is_decommissioning === 'true',
    isDraining: record.is_draining === 'true',
  };
}

/** `2026-11-23 06:42:19.123456+00:00`, in milliseconds. */
function parseTime(text: string | undefined): number | undefined {
  const match = /^(\d{4}-\d{2}-\d{2})[ T](\d{2}:\d{2}:\d{2})(?:\.(\d{1,9}))?(Z|[+-]\d{2}:?\d{2})?/.exec(text ?? '');
  if (match === null) return undefined;
  const [, day, time, fraction = '0', zone = 'Z'] = match;
  const ms = Date.parse(`${day}T${time}.${fraction.slice(0, 3).padEnd(3, '0')}${zone}`);
  return Number.isFinite(ms) ? ms : undefined;
}
