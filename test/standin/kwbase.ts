/**
 * A stand-in for the `kwbase` binary, on node's builtins alone, so that a package can carry it.
 *
 * It is what every test of the upgrade tool is judged by, so it must not be kinder than KWDB: liveness is a record
 * that goes stale, a crash without a drain stalls the ranges it led, a restarted replica is behind until it has
 * caught up, a mark set by `node upgrade` outlives everything but `--upgrade-complete`.
 *
 * Order: types, files, wire, cluster state, data, SQL, server, command line.
 */
import { createHash, randomUUID } from 'node:crypto';
import * as fs from 'node:fs';
import * as http from 'node:http';
import * as https from 'node:https';
import * as net from 'node:net';
import * as os from 'node:os';
import * as path from 'node:path';
import * as tls from 'node:tls';
import { fileURLToPath } from 'node:url';
import { type SqlSession, StatementError, Tables } from './tables.ts';
import { TransferFiles, type TransferKnobs } from './transfer-files.ts';

// ---------------------------------------------------------------------------------------------------------- types

/** What can be made to go wrong, or take time: in `<dirname of store>/standin.json` or in the package's kwbase.json. */
export type Knobs = {
  /** Time between two heartbeats; KWDB's 4.5 s unless told. */
  readonly heartbeatMs?: number;
  /** How long after its last heartbeat a node still counts as live; KWDB's 30 s unless told. */
  readonly livenessMs?: number;
  /** Nothing listens for so long after the start. */
  readonly startDelayMs?: number;
  /** Not ready for so long after it joined. */
  readonly readyDelayMs?: number;
  /** Least time a restarted replica stays behind. */
  readonly catchUpMs?: number;
  /** Added for every write it missed (1 ms unless told). */
  readonly catchUpPerWriteMs?: number;
  /** How long a drain takes before the process ends. */
  readonly drainMs?: number;
  /** Never finishes a drain: SIGTERM has no end. */
  readonly drainHangs?: boolean;
  /** Crashes at its start: with `true` after it has converted the data, which then are lost to the older version. */
  readonly crashOnStart?: boolean | 'before-data';
  /** Crashes so long after it became ready. */
  readonly crashAfterReadyMs?: number;
  readonly neverReady?: boolean;
  /** Heartbeats are not renewed. */
  readonly neverLive?: boolean;
  /** `node status` through this node never answers. */
  readonly hangStatus?: boolean;
  /** SQL through this node never answers. */
  readonly hangSql?: boolean;
  /** The build it claims in `node status`. */
  readonly reportBuild?: string;
  /** Ranges reported unavailable or under-replicated on top of the true ones. */
  readonly extraUnavailable?: number;
  readonly extraUnderreplicated?: number;
  /** That many writes are acknowledged and thrown away. */
  readonly loseWrites?: number;
  /** `--upgrade-complete` does not clear the mark. */
  readonly keepMark?: boolean;
  /** `node upgrade` fails. */
  readonly refuseMark?: boolean;
  readonly jobs?: readonly Job[];
  /** Every statement of a client is kept in `statements.jsonl` beside this file. */
  readonly recordStatements?: boolean;
} & TransferKnobs;

export type Job = {
  readonly job_id: string;
  readonly job_type: string;
  readonly description: string;
  readonly status: string;
};

export type BuildInfo = { readonly version: string; readonly buildTag: string; readonly faults?: Knobs };

type StartMode = 'start-single-node' | 'start' | 'start-single-replica';

/** One node as the others know it. Heartbeat, state and mark change apart, each under its own clock. */
type NodeRecord = {
  id: number;
  address: string;
  /** Whether the address came by gossip since the asked node started; kept nowhere: NULL in `node status` if not. */
  heard: boolean;
  heartbeatAtMs: number;
  livenessMs: number;
  stateSeq: number;
  startedAtMs: number;
  updatedAtMs: number;
  build: string;
  startMode: StartMode;
  ready: boolean;
  behind: boolean;
  draining: boolean;
  sessions: number;
  jobs: readonly Job[];
  extraUnavailable: number;
  extraUnderreplicated: number;
  markSeq: number;
  upgrading: boolean;
  decommissioned: boolean;
};

type Setting = { value: string; seq: number };
type Settings = Record<string, Setting>;
type Version = number;
type Entry = { k: string; v: string; ver: Version };
type Row = readonly (string | number | boolean | null)[];
type Table = { readonly columns: readonly string[]; readonly rows: readonly Row[]; readonly tag?: string };
type Message = Record<string, unknown>;

/** An error for the client, in KWDB's way of saying it. */
class SqlError extends Error {
  readonly code: string;
  constructor(code: string, message: string) {
    super(message);
    this.code = code;
  }
}

const RANGES = 12;
const REPLICAS = 3;
const STORE_DEAD_DEFAULT = '30m0s';
const STORE_DEAD_UPGRADING = '3h0m0s';
const PEER_TIMEOUT_MS = 1500;
/** The first byte of a TLS connection. */
const TLS_HANDSHAKE = 0x16;
/** A statement that finds no lease holder or no quorum waits so long before it fails; KWDB waits for ever. */
const STATEMENT_TIMEOUT_MS = 5000;

const DEFAULT_SETTINGS: Readonly<Record<string, string>> = {
  'server.time_until_store_dead': STORE_DEAD_DEFAULT,
  'cluster.preserve_downgrade_option': '',
  'kv.allocator.load_based_rebalancing': 'leases and replicas',
  'kv.snapshot_rebalance.max_rate': '8.0 MiB',
  'server.shutdown.drain_wait': '0s',
  'server.shutdown.query_wait': '10s',
  'diagnostics.reporting.enabled': 'true',
  'sql.defaults.distsql': 'auto',
};

// ---------------------------------------------------------------------------------------------------------- files

function readJson<T>(file: string): T | null {
  try {
    return JSON.parse(fs.readFileSync(file, 'utf8')) as T;
  } catch {
    return null;
  }
}

function writeJsonDurably(file: string, value: unknown): void {
  const temporary = `${file}.tmp`;
  const handle = fs.openSync(temporary, 'w');
  fs.writeSync(handle, JSON.stringify(value));
  fs.fsyncSync(handle);
  fs.closeSync(handle);
  fs.renameSync(temporary, file);
}

/** Where knobs and record lie: beside the data, unless a container needs them on its volume. */
function standinHome(store: string): string {
  return process.env.KW_STANDIN_HOME ?? path.dirname(store);
}

/** The build this file was packed with: `bin/kwbase.json` of the installation it lies in. */
function loadBuildInfo(): BuildInfo {
  const here = path.dirname(fileURLToPath(import.meta.url));
  const info =
    readJson<BuildInfo>(path.join(here, '../bin/kwbase.json')) ?? readJson<BuildInfo>(path.join(here, 'kwbase.json'));
  return info ?? { version: '3.1.0', buildTag: 'V3.1.0' };
}

/** Knobs of the package, overridden by the host's own file, read anew whenever that file changes. */
class KnobFile {
  readonly #file: string;
  readonly #packaged: Knobs;
  #stamp = '';
  #knobs: Knobs;

  constructor(file: string, packaged: Knobs) {
    this.#file = file;
    this.#packaged = packaged;
    this.#knobs = packaged;
  }

  get(): Knobs {
    let stamp = 'absent';
    try {
      const stat = fs.statSync(this.#file, { bigint: true });
      stamp = `${stat.mtimeNs} ${stat.size} ${stat.ino}`;
    } catch {}
    if (stamp !== this.#stamp) {
      const own = stamp === 'absent' ? {} : readJson<Knobs>(this.#file);
      // A file caught half written keeps the old knobs; the next look reads it again.
      if (own !== null) {
        this.#stamp = stamp;
        this.#knobs = { ...this.#packaged, ...own };
      }
    }
    return this.#knobs;
  }

  get heartbeatMs(): number {
    return this.get().heartbeatMs ?? Number(process.env.KW_STANDIN_HEARTBEAT_MS ?? 4500);
  }

  get livenessMs(): number {
    return this.get().livenessMs ?? Number(process.env.KW_STANDIN_LIVENESS_MS ?? 30_000);
  }
}

/** Key/value pairs in an append-only file; a write is acknowledged once its line is synced to disk. */
class Log {
  readonly entries = new Map<string, Entry>();
  #handle: fs.promises.FileHandle | null = null;
  #queue: { line: string; done: () => void; failed: (error: unknown) => void }[] = [];
  #flushing = false;

  async open(file: string): Promise<void> {
    this.#load(file);
    this.#handle = await fs.promises.open(file, 'a');
  }

  #load(file: string): void {
    if (!fs.existsSync(file)) return;
    const text = fs.readFileSync(file, 'utf8');
    // A crash can leave half a line at the end: it was never acknowledged, so it is cut off.
    const whole = text.slice(0, text.lastIndexOf('\n') + 1);
    for (const line of whole.split('\n')) {
      if (line !== '') this.#keep(JSON.parse(line) as Entry);
    }
    if (whole.length < text.length) fs.truncateSync(file, Buffer.byteLength(whole));
  }

  #keep(entry: Entry): boolean {
    const old = this.entries.get(entry.k);
    if (old !== undefined && old.ver >= entry.ver) return false;
    this.entries.set(entry.k, entry);
    return true;
  }

  /** Resolves when the entry is on disk. */
  append(entry: Entry): Promise<void> {
    return new Promise((done, failed) => {
      const kept = (): void => {
        this.#keep(entry);
        done();
      };
      this.#queue.push({ line: `${JSON.stringify(entry)}\n`, done: kept, failed });
      void this.#flush();
    });
  }

  async #flush(): Promise<void> {
    if (this.#flushing) return;
    this.#flushing = true;
    while (this.#queue.length > 0) {
      const batch = this.#queue.splice(0);
      try {
        await this.#handle?.appendFile(batch.map((item) => item.line).join(''));
        await this.#handle?.datasync();
        for (const item of batch) item.done();
      } catch (error) {
        for (const item of batch) item.failed(error);
      }
    }
    this.#flushing = false;
  }
}

// ----------------------------------------------------------------------------------------------------------- wire

function splitAddress(address: string, defaultPort: number): { host: string; port: number } {
  const colon = address.lastIndexOf(':');
  if (colon < 0) return { host: address, port: defaultPort };
  return { host: address.slice(0, colon) || '0.0.0.0', port: Number(address.slice(colon + 1)) };
}

/** How a process speaks to others, as `--insecure` or `--certs-dir` tell it. */
type Security = {
  /** What both sides must hold alike: `insecure`, or a digest of the authority's certificate. */
  readonly auth: string;
  /** Absent where nothing is encrypted: insecure, and TLCP, which the stand-in cannot speak. */
  readonly tls?: { readonly ca: string; readonly cert: string; readonly key: string };
};

/** A connection to one node that carries many requests, each a JSON line; reconnects by itself. */
export class Link {
  /** Why the last connection could not be made or was lost. */
  failure: Error | undefined;
  readonly #address: string;
  readonly #tls: Security['tls'];
  #socket: net.Socket | null = null;
  #nextId = 1;
  #lastAnswerMs = 0;
  readonly #pending = new Map<number, { resolve: (answer: Message) => void; reject: (error: Error) => void }>();

  constructor(address: string, secure?: Security['tls']) {
    this.#address = address;
    this.#tls = secure;
  }

  /** Rejects when the node cannot be reached, closes, or does not answer in time (0: waits for ever). */
  request(message: Message, timeoutMs: number): Promise<Message> {
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      const askedMs = Date.now();
      const giveUp = (): void => {
        settle(() => reject(new Error('timeout')));
        // Nothing at all came: the connection may be cut. A new one finds out, this one would wait for TCP.
        if (this.#lastAnswerMs < askedMs) this.#socket?.destroy();
      };
      const timer = timeoutMs > 0 ? setTimeout(giveUp, timeoutMs) : null;
      const settle = (act: () => void): void => {
        if (timer !== null) clearTimeout(timer);
        this.#pending.delete(id);
        act();
      };
      this.#pending.set(id, {
        resolve: (answer) => settle(() => resolve(answer)),
        reject: (error) => settle(() => reject(error)),
      });
      this.#connected().write(`${JSON.stringify({ ...message, id })}\n`);
    });
  }

  #connected(): net.Socket {
    if (this.#socket !== null && !this.#socket.destroyed) return this.#socket;
    const to = { ...splitAddress(this.#address, 26257), noDelay: true };
    const socket = this.#tls === undefined ? net.connect(to) : tls.connect({ ...to, servername: '', ...this.#tls });
    this.#socket = socket;
    readLines(socket, (line) => {
      const answer = JSON.parse(line) as Message;
      this.#lastAnswerMs = Date.now();
      this.#pending.get(answer.id as number)?.resolve(answer);
    });
    socket.on('error', (error) => {
      this.failure = error;
    });
    socket.on('close', () => {
      if (this.#socket === socket) this.#socket = null;
      for (const waiting of [...this.#pending.values()]) waiting.reject(new Error('connection lost'));
    });
    return socket;
  }

  close(): void {
    this.#socket?.destroy();
  }
}

function readLines(socket: net.Socket, take: (line: string) => void): void {
  let rest = '';
  socket.setEncoding('utf8');
  socket.on('data', (chunk: string) => {
    const lines = (rest + chunk).split('\n');
    rest = lines.pop() ?? '';
    if (rest.length > 64 * 1024 * 1024) socket.destroy();
    for (const line of lines) take(line);
  });
}

const sleep = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

// -------------------------------------------------------------------------------------------------- cluster state

/** What is on disk beside the data: who the node is and what it knows of the cluster. */
type Persisted = { clusterId: string; nodeId: number; records: NodeRecord[]; settings: Settings };

function emptyRecord(id: number, address: string): NodeRecord {
  return {
    id,
    address,
    heard: false,
    heartbeatAtMs: 0,
    livenessMs: 0,
    stateSeq: 0,
    startedAtMs: 0,
    updatedAtMs: 0,
    build: '',
    startMode: 'start',
    ready: false,
    behind: false,
    draining: false,
    sessions: 0,
    jobs: [],
    extraUnavailable: 0,
    extraUnderreplicated: 0,
    markSeq: 0,
    upgrading: false,
    decommissioned: false,
  };
}

/** The cluster as one node sees it: merged from gossip, newest wins, part by part. */
class View {
  readonly records = new Map<number, NodeRecord>();
  settings: Settings = {};

  load(persisted: Persisted): void {
    this.settings = persisted.settings;
    for (const record of persisted.records) {
      // Its clock starts anew, so that whatever a peer says of it counts as news.
      this.records.set(record.id, { ...record, heard: false, ready: false, stateSeq: 0 });
    }
  }

  /** Whether anything changed that must survive a restart. */
  merge(records: readonly NodeRecord[], settings: Settings): boolean {
    let durable = false;
    for (const incoming of records) durable = this.#mergeRecord(incoming) || durable;
    for (const [name, setting] of Object.entries(settings)) {
      if ((this.settings[name]?.seq ?? 0) >= setting.seq) continue;
      this.settings[name] = setting;
      durable = true;
    }
    return durable;
  }

  #mergeRecord(incoming: NodeRecord): boolean {
    const known = this.records.get(incoming.id);
    const record = known ?? emptyRecord(incoming.id, incoming.address);
    this.records.set(incoming.id, record);
    record.heard ||= incoming.heard;
    if (incoming.heartbeatAtMs > record.heartbeatAtMs) {
      record.heartbeatAtMs = incoming.heartbeatAtMs;
      record.livenessMs = incoming.livenessMs;
    }
    if (incoming.stateSeq > record.stateSeq) {
      const { heard, heartbeatAtMs, livenessMs, markSeq, upgrading, decommissioned } = record;
      Object.assign(record, incoming, { heard, heartbeatAtMs, livenessMs, markSeq, upgrading, decommissioned });
    }
    const remarked = incoming.markSeq > record.markSeq;
    if (remarked) {
      record.markSeq = incoming.markSeq;
      record.upgrading = incoming.upgrading;
      record.decommissioned = incoming.decommissioned;
    }
    return known === undefined || remarked;
  }

  mark(id: number, change: { upgrading?: boolean; decommissioned?: boolean }): void {
    const record = this.records.get(id);
    if (record === undefined) return;
    Object.assign(record, change);
    record.markSeq = Math.max(Date.now(), record.markSeq + 1);
  }

  set(name: string, value: string): void {
    this.settings[name] = { value, seq: Math.max(Date.now(), (this.settings[name]?.seq ?? 0) + 1) };
  }

  setting(name: string): string | null {
    return this.settings[name]?.value ?? DEFAULT_SETTINGS[name] ?? null;
  }

  nodes(): NodeRecord[] {
    return [...this.records.values()].sort((a, b) => a.id - b.id);
  }

  members(): NodeRecord[] {
    return this.nodes().filter((record) => !record.decommissioned);
  }

  isLive(record: NodeRecord): boolean {
    return !record.decommissioned && Date.now() < record.heartbeatAtMs + record.livenessMs;
  }
}

/** Where a range lives: neighbours on a ring of nodes, so that replicas and leases spread evenly. */
function replicasOf(range: number, members: readonly NodeRecord[], replicas: number): NodeRecord[] {
  const count = Math.min(replicas, members.length);
  return Array.from({ length: count }, (_, i) => members[(range + i) % members.length] as NodeRecord);
}

function rangeOf(key: string): number {
  return createHash('sha256').update(key).digest().readUInt32BE(0) % RANGES;
}

type RangeState = {
  readonly range: number;
  readonly replicas: readonly NodeRecord[];
  readonly leaseHolder: NodeRecord | null;
  readonly unavailable: boolean;
  readonly underreplicated: boolean;
};

function rangeStates(view: View, replicas: number): RangeState[] {
  const members = view.members();
  return Array.from({ length: members.length === 0 ? 0 : RANGES }, (_, range) => {
    const placed = replicasOf(range, members, replicas);
    const live = placed.filter((record) => view.isLive(record));
    const quorum = Math.floor(placed.length / 2) + 1;
    // A lease may be taken from a node that drains, or whose record has expired, never from one that merely is silent.
    const leaseHolder = live.length < quorum ? undefined : live.find((record) => record.ready && !record.draining);
    return {
      range,
      replicas: placed,
      leaseHolder: leaseHolder ?? null,
      unavailable: live.length < quorum,
      underreplicated: live.length < placed.length || live.some((record) => record.behind),
    };
  });
}

/** The node that speaks for a range in the statistics. */
function reporterOf(state: RangeState, view: View): number {
  const live = state.replicas.find((record) => view.isLive(record));
  return (state.leaseHolder ?? live ?? state.replicas[0])?.id ?? 0;
}

// ----------------------------------------------------------------------------------------------------------- node

type ServerOptions = {
  readonly mode: StartMode;
  readonly address: string;
  readonly listen: { readonly host: string; readonly port: number };
  readonly http: { readonly host: string; readonly port: number };
  readonly store: string;
  readonly join: readonly string[];
  readonly upgradeComplete: boolean;
  readonly security: Security;
};

class Server {
  readonly #options: ServerOptions;
  readonly #info: BuildInfo;
  readonly #knobs: KnobFile;
  readonly #view = new View();
  readonly #log = new Log();
  readonly #links = new Map<string, Link>();
  readonly #startedAtMs = Date.now();
  readonly #clients = new Set<net.Socket>();
  #clusterId: string | null = null;
  #nodeId = 0;
  #lastVersion = 0;
  #stopping = false;
  #draining = false;
  #behind = true;
  #readyOnce = false;
  #heartbeatOnce = false;
  #caughtUpWith = '';
  #lost = 0;
  #tables: Tables | undefined;
  #transfers: TransferFiles | undefined;

  constructor(options: ServerOptions, info: BuildInfo) {
    this.#options = options;
    this.#info = info;
    this.#knobs = new KnobFile(path.join(standinHome(options.store), 'standin.json'), info.faults ?? {});
  }

  // --- life

  /** Runs until a signal ends the process. */
  async run(): Promise<void> {
    fs.mkdirSync(this.#options.store, { recursive: true });
    this.#loadState();
    this.#record('start');
    if (this.#knobs.get().crashOnStart === 'before-data') this.#crash('panic: the stand-in was told to crash at start');
    this.#checkFormat();
    process.on('SIGTERM', () => void this.#stop());
    process.on('SIGINT', () => void this.#stop());
    const knobs = this.#knobs.get();
    if (knobs.crashOnStart === true) this.#crash('panic: the stand-in was told to crash at start');
    if (knobs.startDelayMs !== undefined) await sleep(knobs.startDelayMs);
    await this.#log.open(path.join(this.#options.store, 'log.jsonl'));
    for (const entry of this.#log.entries.values()) this.#lastVersion = Math.max(this.#lastVersion, entry.ver);
    await this.#listen();
    this.#record('serving');
    await this.#joinCluster();
    await this.#becomeReady();
  }

  #crash(text: string): never {
    process.stderr.write(`${text}\n`);
    this.#record('crash');
    process.exit(2);
  }

  #record(event: string): void {
    const line = {
      atMs: Date.now(),
      event,
      pid: process.pid,
      version: this.#info.version,
      nodeId: this.#nodeId,
      address: this.#options.address,
      upgradeComplete: this.#options.upgradeComplete,
    };
    try {
      fs.appendFileSync(
        path.join(standinHome(this.#options.store), 'standin-record.jsonl'),
        `${JSON.stringify(line)}\n`,
      );
    } catch (error) {
      process.stderr.write(`stand-in: no record: ${String(error)}\n`);
    }
  }

  /** The data carry the version that wrote them: a newer binary converts them for good, an older one stays out. */
  #checkFormat(): void {
    const file = path.join(this.#options.store, 'FORMAT.json');
    const format = readJson<{ version: string; convertedFrom?: string }>(file);
    if (format !== null && compareVersions(this.#info.version, format.version) < 0) {
      this.#record('refused');
      fail(
        `store ${this.#options.store}, last used with version ${format.version}, is too new for this binary (version ${this.#info.version})`,
      );
    }
    if (format?.version === this.#info.version) return;
    writeJsonDurably(file, { version: this.#info.version, convertedFrom: format?.version });
  }

  #stateFile(): string {
    return path.join(this.#options.store, 'cluster.json');
  }

  #loadState(): void {
    const persisted = readJson<Persisted>(this.#stateFile());
    if (persisted === null) return;
    this.#clusterId = persisted.clusterId;
    this.#nodeId = persisted.nodeId;
    this.#view.load(persisted);
  }

  #saveState(): void {
    if (this.#clusterId === null) return;
    const state: Persisted = {
      clusterId: this.#clusterId,
      nodeId: this.#nodeId,
      records: this.#view.nodes(),
      settings: this.#view.settings,
    };
    writeJsonDurably(this.#stateFile(), state);
  }

  async #stop(): Promise<void> {
    if (this.#stopping) return;
    this.#stopping = true;
    await this.#drain();
    if (this.#knobs.get().drainHangs === true) return;
    this.#record('stop');
    process.exit(0);
  }

  /** Hands the leases over and lets what is under way end; the liveness record is left to expire by itself. */
  async #drain(): Promise<void> {
    if (!this.#draining) {
      this.#draining = true;
      this.#record('draining');
      if (this.#clusterId !== null) {
        this.#publish();
        await Promise.race([this.#gossip(), sleep(300)]);
      }
    }
    await sleep(this.#knobs.get().drainMs ?? 50);
  }

  // --- becoming part of the cluster

  async #joinCluster(): Promise<void> {
    if (this.#options.mode === 'start-single-node') this.#form([]);
    while (this.#clusterId === null) {
      await this.#tryJoin();
      if (this.#clusterId === null) await sleep(100);
    }
    this.#ownRecord();
    this.#saveState();
    await this.#gossip();
    if (this.#options.upgradeComplete && this.#knobs.get().keepMark !== true) this.#clearMark();
    this.#publish();
    await this.#heartbeat();
    void this.#heartbeatLoop();
  }

  #peersToJoin(): string[] {
    return this.#options.join.filter((address) => address !== this.#options.address);
  }

  /** Joins a cluster that a peer knows; forms one when every peer is new too and this address is the lowest. */
  async #tryJoin(): Promise<void> {
    const peers = this.#peersToJoin();
    const answers = await Promise.all(
      peers.map((peer) => this.#ask(peer, { op: 'hello', address: this.#options.address })),
    );
    const known = answers.find((answer) => typeof answer?.clusterId === 'string');
    if (known !== undefined && known !== null) {
      const joined = await this.#ask(String(known.former), { op: 'join', address: this.#options.address });
      if (joined?.clusterId !== undefined && this.#clusterId === null) this.#adopt(joined);
      return;
    }
    const lowest = [this.#options.address, ...peers].sort()[0];
    if (peers.length > 0 && answers.every((answer) => answer !== null) && lowest === this.#options.address) {
      this.#form(peers);
    }
  }

  #form(peers: readonly string[]): void {
    if (this.#clusterId !== null) return;
    this.#clusterId = randomUUID();
    this.#nodeId = 1;
    [this.#options.address, ...[...peers].sort()].forEach((address, i) => {
      this.#view.records.set(i + 1, emptyRecord(i + 1, address));
    });
    this.#view.set('version', basicVersion(this.#info.version));
    this.#saveState();
  }

  #adopt(joined: Message): void {
    this.#clusterId = String(joined.clusterId);
    this.#nodeId = Number(joined.nodeId);
    this.#view.merge(joined.records as NodeRecord[], joined.settings as Settings);
    this.#saveState();
  }

  #admit(address: string): Message {
    if (this.#clusterId === null) return { error: 'node not initialized' };
    const nodes = this.#view.nodes();
    const id = nodes.find((record) => record.address === address)?.id ?? nodes.length + 1;
    if (!this.#view.records.has(id)) this.#view.records.set(id, emptyRecord(id, address));
    this.#saveState();
    return { clusterId: this.#clusterId, nodeId: id, records: this.#view.nodes(), settings: this.#view.settings };
  }

  #clearMark(): void {
    this.#view.mark(this.#nodeId, { upgrading: false });
    this.#view.set('server.time_until_store_dead', STORE_DEAD_DEFAULT);
    this.#saveState();
  }

  async #becomeReady(): Promise<void> {
    await this.#catchUp();
    await sleep(this.#knobs.get().readyDelayMs ?? 0);
    while (!this.#heartbeatOnce || this.#knobs.get().neverReady === true) await sleep(50);
    this.#readyOnce = true;
    if (this.#draining) return;
    this.#record('ready');
    this.#publish();
    await this.#gossip();
    const crashAfter = this.#knobs.get().crashAfterReadyMs;
    if (crashAfter !== undefined) setTimeout(() => this.#crash('panic: the stand-in was told to crash'), crashAfter);
  }

  #isReady(): boolean {
    const own = this.#view.records.get(this.#nodeId);
    return this.#readyOnce && !this.#behind && !this.#draining && own !== undefined && this.#view.isLive(own);
  }

  // --- gossip and liveness

  #ownRecord(): NodeRecord {
    let own = this.#view.records.get(this.#nodeId);
    if (own === undefined) {
      own = emptyRecord(this.#nodeId, this.#options.address);
      this.#view.records.set(this.#nodeId, own);
    }
    return own;
  }

  /** Writes what changed about this node into its own record, for the next gossip to carry. */
  #publish(): void {
    const knobs = this.#knobs.get();
    const own = this.#ownRecord();
    Object.assign(own, {
      address: this.#options.address,
      heard: true,
      stateSeq: Math.max(Date.now(), own.stateSeq + 1),
      startedAtMs: this.#startedAtMs,
      build: knobs.reportBuild ?? this.#info.buildTag,
      startMode: this.#options.mode,
      ready: this.#readyOnce && !this.#behind && !this.#draining,
      behind: this.#behind,
      draining: this.#draining,
      sessions: this.#clients.size,
      jobs: knobs.jobs ?? [],
      extraUnavailable: knobs.extraUnavailable ?? 0,
      extraUnderreplicated: knobs.extraUnderreplicated ?? 0,
    });
  }

  async #heartbeatLoop(): Promise<void> {
    while (!this.#stopping) {
      await sleep(this.#knobs.heartbeatMs);
      await this.#heartbeat();
      this.#finalizeVersion();
      if (this.#behind === false && this.#membership() !== this.#caughtUpWith) void this.#catchUp();
    }
  }

  /** A heartbeat counts once a quorum of the nodes has it, as a write to the liveness range does. */
  async #heartbeat(): Promise<void> {
    if (this.#knobs.get().neverLive === true || this.#stopping) return;
    const atMs = Date.now();
    this.#publish();
    const heardBy = await this.#gossip();
    if (!this.#hasLivenessQuorum(heardBy)) return;
    const own = this.#ownRecord();
    own.heartbeatAtMs = atMs;
    own.updatedAtMs = atMs;
    own.livenessMs = this.#knobs.livenessMs;
    own.stateSeq += 1;
    this.#heartbeatOnce = true;
    await this.#gossip();
  }

  #hasLivenessQuorum(heardBy: ReadonlySet<number>): boolean {
    const members = this.#view.members();
    if (this.#options.mode === 'start-single-replica') return members[0] === undefined || heardBy.has(members[0].id);
    return members.filter((record) => heardBy.has(record.id)).length >= Math.floor(members.length / 2) + 1;
  }

  /** Exchanges all that is known with every node that answers; says which did, itself included. */
  async #gossip(): Promise<Set<number>> {
    const heardBy = new Set([this.#nodeId]);
    const others = this.#view.nodes().filter((record) => record.id !== this.#nodeId);
    const message = {
      op: 'gossip',
      clusterId: this.#clusterId,
      records: this.#view.nodes(),
      settings: this.#view.settings,
    };
    await Promise.all(
      others.map(async (record) => {
        const answer = await this.#ask(record.address, message);
        if (answer === null || answer.records === undefined) return;
        heardBy.add(record.id);
        this.#absorb(answer);
      }),
    );
    return heardBy;
  }

  #absorb(message: Message): void {
    if (this.#view.merge(message.records as NodeRecord[], message.settings as Settings)) this.#saveState();
  }

  /** Once every member runs a newer version, the cluster takes it over, unless an operator holds it back. */
  #finalizeVersion(): void {
    const builds = this.#view.members().map((record) => basicVersion(record.build));
    if (builds.some((build) => build !== basicVersion(this.#info.version))) return;
    if (this.#view.setting('version') === builds[0] || this.#view.setting('cluster.preserve_downgrade_option') !== '')
      return;
    if (compareVersions(builds[0] ?? '', this.#view.setting('version') ?? '') <= 0) return;
    this.#view.set('version', builds[0] ?? '');
    this.#saveState();
  }

  async #ask(address: string, message: Message, timeoutMs = PEER_TIMEOUT_MS): Promise<Message | null> {
    let link = this.#links.get(address);
    if (link === undefined) {
      link = new Link(address, this.#options.security.tls);
      this.#links.set(address, link);
    }
    try {
      return await link.request({ ...message, auth: this.#options.security.auth }, timeoutMs);
    } catch {
      return null;
    }
  }

  // --- data

  #replicas(): number {
    return this.#options.mode === 'start' ? REPLICAS : 1;
  }

  #membership(): string {
    return this.#view
      .members()
      .map((record) => record.id)
      .join();
  }

  /** Fetches what this node missed; it is behind, and serves nothing, until every range of its own is covered. */
  async #catchUp(): Promise<void> {
    this.#behind = true;
    const membership = this.#membership();
    for (;;) {
      const missed = await this.#pullMissedWrites();
      if (missed !== null) {
        const knobs = this.#knobs.get();
        const perWriteMs = knobs.catchUpPerWriteMs ?? 1;
        if (missed > 0 || knobs.catchUpMs !== undefined) {
          this.#publish();
          await this.#gossip();
          await sleep((knobs.catchUpMs ?? 0) + missed * perWriteMs);
        }
        break;
      }
      await sleep(100);
    }
    this.#caughtUpWith = membership;
    this.#behind = false;
    this.#publish();
    await this.#gossip();
  }

  /** How many writes were missed, or null while too few replicas answer to know all of them. */
  async #pullMissedWrites(): Promise<number | null> {
    const members = this.#view.members();
    const heard = new Set([this.#nodeId]);
    let missed = 0;
    for (const record of members) {
      if (record.id === this.#nodeId || this.#replicas() === 1) continue;
      const answer = await this.#ask(record.address, { op: 'dump', ranges: this.#ownRanges() }, 10_000);
      if (answer === null || answer.entries === undefined) continue;
      heard.add(record.id);
      const newer = (answer.entries as Entry[]).filter(
        (entry) => entry.ver > (this.#log.entries.get(entry.k)?.ver ?? 0),
      );
      await Promise.all(newer.map((entry) => this.#store(entry)));
      missed += newer.length;
    }
    for (const range of this.#ownRanges()) {
      const placed = replicasOf(range, members, this.#replicas());
      if (placed.filter((record) => heard.has(record.id)).length < Math.floor(placed.length / 2) + 1) return null;
    }
    return missed;
  }

  #ownRanges(): number[] {
    const members = this.#view.members();
    return Array.from({ length: RANGES }, (_, range) => range).filter((range) =>
      replicasOf(range, members, this.#replicas()).some((record) => record.id === this.#nodeId),
    );
  }

  async #store(entry: Entry): Promise<void> {
    this.#lastVersion = Math.max(this.#lastVersion, entry.ver);
    await this.#log.append(entry);
  }

  /** Sends a statement on a key to the node that leads its range, and waits while none does. */
  async #onLeaseHolder(key: string, message: Message): Promise<Message> {
    const deadline = Date.now() + STATEMENT_TIMEOUT_MS;
    for (let attempt = 0; Date.now() < deadline; attempt++) {
      const state = rangeStates(this.#view, this.#replicas())[rangeOf(key)];
      const holder = state?.leaseHolder;
      if (holder !== null && holder !== undefined) {
        const request = { ...message, op: 'exec', retry: attempt > 0 };
        const answer =
          holder.id === this.#nodeId ? await this.#execute(request) : await this.#ask(holder.address, request);
        if (answer !== null && answer.again !== true) return answer;
      }
      await sleep(50);
    }
    throw new SqlError('XXUUU', `range r${rangeOf(key) + 1} is unavailable: no lease holder or no quorum`);
  }

  /** Runs a read or write of one key as the leader of its range; `again` when a quorum did not answer. */
  async #execute(request: Message): Promise<Message> {
    if (!this.#isReady()) return { again: true };
    const key = String(request.k);
    const placed = replicasOf(rangeOf(key), this.#view.members(), this.#replicas());
    const quorum = Math.floor(placed.length / 2) + 1;
    const found = await this.#onReplicas(placed, { op: 'get', k: key }, quorum);
    if (found === null) return { again: true };
    const newest = found.map((answer) => answer.entry as Entry | null).reduce(newerEntry, null);
    if (request.v === undefined) return { entry: newest };
    const value = String(request.v);
    if (request.insert === true && newest !== null) {
      // A retry that finds its own first attempt has succeeded already.
      return request.retry === true && newest.v === value ? {} : { duplicate: true };
    }
    this.#lastVersion = Math.max(this.#lastVersion + 1, (newest?.ver ?? 0) + 1, Date.now() * 1000);
    const entry: Entry = { k: key, v: value, ver: this.#lastVersion };
    return (await this.#onReplicas(placed, { op: 'put', entry }, quorum)) === null ? { again: true } : {};
  }

  /** The answers of the first quorum of replicas, or null when too few answer. */
  #onReplicas(placed: readonly NodeRecord[], message: Message, quorum: number): Promise<Message[] | null> {
    return new Promise((resolve) => {
      const good: Message[] = [];
      let left = placed.length;
      for (const record of placed) {
        const asked = record.id === this.#nodeId ? this.#onReplica(message) : this.#ask(record.address, message);
        void Promise.resolve(asked)
          .catch(() => null)
          .then((answer) => {
            left -= 1;
            if (answer !== null && answer.error === undefined) good.push(answer);
            if (good.length >= quorum) resolve(good);
            else if (left === 0) resolve(null);
          });
      }
    });
  }

  async #onReplica(message: Message): Promise<Message> {
    if (message.op === 'put') {
      await this.#store(message.entry as Entry);
      return {};
    }
    // What a replica that is behind says of a key proves nothing.
    if (this.#behind) return { error: 'behind' };
    return { entry: this.#log.entries.get(String(message.k)) ?? null };
  }

  /** Every pair of the table; fails when some range cannot be read. */
  async #scan(): Promise<Map<string, string>> {
    this.#needReady('');
    const states = rangeStates(this.#view, this.#replicas());
    if (states.some((state) => state.leaseHolder === null)) throw new SqlError('XXUUU', 'a range is unavailable');
    const all = Array.from({ length: RANGES }, (_, range) => range);
    const heard = new Set<number>();
    const found = new Map<string, Entry>();
    for (const record of this.#view.members()) {
      const own = record.id === this.#nodeId;
      const answer = own ? this.#dump(all) : await this.#ask(record.address, { op: 'dump', ranges: all }, 5000);
      if (answer === null || answer.behind !== false) continue;
      heard.add(record.id);
      for (const entry of answer.entries as Entry[]) {
        const newest = newerEntry(found.get(entry.k) ?? null, entry);
        if (newest !== null) found.set(entry.k, newest);
      }
    }
    for (const state of states) {
      const answered = state.replicas.filter((record) => heard.has(record.id)).length;
      if (answered < Math.floor(state.replicas.length / 2) + 1) throw new SqlError('XXUUU', 'a range is unavailable');
    }
    return new Map([...found].map(([k, entry]) => [k, entry.v]));
  }

  #dump(ranges: readonly number[]): Message {
    const wanted = new Set(ranges);
    const entries = [...this.#log.entries.values()].filter((entry) => wanted.has(rangeOf(entry.k)));
    return { entries, behind: this.#behind };
  }

  // --- what clients ask

  /** Answers one request; SqlErrors become error answers. */
  async answer(message: Message): Promise<Message> {
    const { auth } = this.#options.security;
    if (message.auth !== auth) return { error: securityError(auth) };
    try {
      return await this.#dispatch(message);
    } catch (error) {
      if (error instanceof SqlError) return { error: error.message, code: error.code };
      return { error: String(error), code: 'XX000' };
    }
  }

  async #dispatch(message: Message): Promise<Message> {
    switch (message.op) {
      case 'hello':
        return { clusterId: this.#clusterId, former: this.#view.records.get(1)?.address };
      case 'join':
        return this.#admit(String(message.address));
      case 'gossip':
        if (this.#clusterId === null || message.clusterId !== this.#clusterId) return { error: 'another cluster' };
        this.#absorb(message);
        return { records: this.#view.nodes(), settings: this.#view.settings };
      case 'dump':
        return this.#dump(message.ranges as number[]);
      case 'get':
      case 'put':
        return this.#onReplica(message);
      case 'exec':
        return this.#execute(message);
      case 'init':
        return this.#initialize();
      default:
        return this.#dispatchClient(message);
    }
  }

  async #dispatchClient(message: Message): Promise<Message> {
    if (this.#clusterId === null) throw new SqlError('57P03', 'node is waiting for the cluster to be initialized');
    // A draining node takes no new SQL connection, and `node status` is one.
    const draining = this.#draining && message.op !== 'drain';
    if (draining) throw new SqlError('57P01', 'server is not accepting clients');
    switch (message.op) {
      case 'status':
        if (this.#knobs.get().hangStatus === true) await new Promise(() => {});
        return { ...this.#status(message) };
      case 'upgrade':
        return this.#markUpgrading(Number(message.node));
      case 'decommission':
        return this.#decommission(Number(message.node));
      case 'drain':
        await this.#drain();
        return {};
      case 'sql':
        if (this.#knobs.get().hangSql === true) await new Promise(() => {});
        return this.#statements(message);
      default:
        throw new SqlError('0A000', `unknown request ${String(message.op)}`);
    }
  }

  #initialize(): Message {
    if (this.#clusterId !== null) return { error: 'cluster has already been initialized' };
    this.#form(this.#peersToJoin());
    return {};
  }

  async #markUpgrading(id: number): Promise<Message> {
    const record = this.#view.records.get(id);
    if (record === undefined) throw new SqlError('42704', `node ${id} does not exist`);
    const blocking = this.#view.members().filter((node) => !this.#view.isLive(node) || node.upgrading);
    if (blocking.length > 0 || this.#knobs.get().refuseMark === true) {
      const ids = blocking.map((node) => `n${node.id}`).join(', ');
      throw new SqlError('XX000', `can not upgrade node ${id}: every node must be live or decommissioned (${ids})`);
    }
    this.#view.mark(id, { upgrading: true });
    this.#view.set('server.time_until_store_dead', STORE_DEAD_UPGRADING);
    this.#saveState();
    await this.#gossip();
    return {};
  }

  async #decommission(id: number): Promise<Message> {
    if (!this.#view.records.has(id)) throw new SqlError('42704', `node ${id} does not exist`);
    if (this.#ownRecord().upgrading)
      throw new SqlError('XX000', 'decommission is unavailable while a node is upgrading');
    this.#view.mark(id, { decommissioned: true });
    this.#saveState();
    await this.#gossip();
    return {};
  }

  #status(message: Message): Table {
    const states = rangeStates(this.#view, this.#replicas());
    const all = message.all === true;
    const groups: Column[][] = [STATUS_COLUMNS];
    if (all || message.ranges === true) groups.push(RANGE_COLUMNS);
    if (all || message.stats === true) groups.push(STATS_COLUMNS);
    if (all || message.decommission === true) groups.push(DECOMMISSION_COLUMNS);
    const columns = groups.flat();
    const wanted = message.node === undefined ? null : Number(message.node);
    const records = this.#view.nodes().filter((record) => wanted === null || record.id === wanted);
    if (wanted !== null && records.length === 0) throw new SqlError('42704', `node ${wanted} doesn't exist`);
    const shown = records.filter(
      (record) => wanted !== null || all || message.decommission === true || !this.#gone(record),
    );
    const context: StatusContext = { view: this.#view, states, entries: this.#log.entries.size };
    return {
      columns: columns.map((column) => column.name),
      rows: shown.map((record) => columns.map((column) => column.value(record, context))),
    };
  }

  #gone(record: NodeRecord): boolean {
    return record.decommissioned && Date.now() > record.heartbeatAtMs + record.livenessMs;
  }

  /** The statements of one client, one after the other in one session: what the last one answers, and the tags before. */
  async #statements(message: Message): Promise<Message> {
    const texts = Array.isArray(message.sqls) ? message.sqls.map(String) : [String(message.sql)];
    const session = { database: String(message.database ?? 'defaultdb'), searchPath: 'public' };
    const answers: Table[] = [];
    for (const text of texts) {
      this.#recordStatement(text);
      answers.push(await this.#sql(text, session));
    }
    return answers.length === 1 ? { ...answers[0] } : { answers };
  }

  #recordStatement(sql: string): void {
    if (this.#knobs.get().recordStatements !== true) return;
    const file = path.join(standinHome(this.#options.store), 'statements.jsonl');
    fs.appendFileSync(file, `${JSON.stringify({ atMs: Date.now(), sql })}\n`);
  }

  /**
   * Databases, tables and users lie on node 1 alone, and every other node asks it: enough for what is exported and
   * imported, which takes one node on each side.
   */
  async #ownSql(text: string, session: SqlSession): Promise<Table | undefined> {
    if (this.#nodeId !== 1) return undefined;
    const { store } = this.#options;
    this.#tables ??= new Tables(path.join(store, 'tables.json'));
    this.#transfers ??= new TransferFiles({
      tables: this.#tables,
      nodeId: this.#nodeId,
      store,
      knobs: () => this.#knobs.get(),
      sleep,
    });
    if (/^\s*(CREATE|ALTER|DROP|IMPORT)\b/i.test(text)) this.#refuseWhileUpgrading('schema change');
    try {
      return this.#settingsTable(text) ?? (await this.#transfers.run(text, session)) ?? this.#tables.run(text, session);
    } catch (error) {
      if (error instanceof StatementError) throw new SqlError(error.code, error.message);
      throw error;
    }
  }

  #settingsTable(text: string): Table | undefined {
    if (/^SELECT name, value FROM system\.settings ORDER BY 1$/i.test(text)) {
      const rows = Object.entries(this.#view.settings).map(([name, { value }]): Row => [name, value]);
      return { columns: ['name', 'value'], rows: rows.sort() };
    }
    if (!/^SELECT variable FROM \[SHOW ALL CLUSTER SETTINGS\] ORDER BY 1$/i.test(text)) return undefined;
    return {
      columns: ['variable'],
      rows: Object.keys(DEFAULT_SETTINGS)
        .sort()
        .map((name): Row => [name]),
    };
  }

  async #sql(text: string, session: SqlSession): Promise<Table> {
    const own = await this.#ownSql(text, session);
    if (own !== undefined) return own;
    const statement = text.trim().replace(/;\s*$/, '').replace(/\s+/g, ' ');
    for (const [pattern, run] of STATEMENTS) {
      const match = pattern.exec(statement);
      if (match !== null) return run(this.#session(), match);
    }
    throw new SqlError(
      '42601',
      `at or near "${statement.split(' ')[0] ?? ''}": syntax error: not known to the stand-in`,
    );
  }

  /** What the statements below may do. */
  #session(): Session {
    return {
      view: this.#view,
      clusterId: this.#clusterId ?? '',
      build: this.#info.buildTag,
      states: () => rangeStates(this.#view, this.#replicas()),
      read: async (key) =>
        ((await this.#onLeaseHolder(this.#needReady(key), { k: key })).entry as Entry | null)?.v ?? null,
      write: (key, value, insert) => this.#write(key, value, insert),
      scan: () => this.#scan(),
      changeSchema: () => this.#refuseWhileUpgrading('schema change'),
      set: async (name, value) => {
        this.#needReady('');
        this.#view.set(name, value);
        this.#saveState();
        await this.#gossip();
      },
    };
  }

  #needReady(key: string): string {
    if (!this.#isReady()) throw new SqlError('57P03', 'node is not ready: it starts, catches up or is not live');
    return key;
  }

  #refuseWhileUpgrading(what: string): void {
    this.#needReady('');
    if (this.#ownRecord().upgrading)
      throw new SqlError('XX000', `${what} is unavailable: node ${this.#nodeId} is upgrading`);
  }

  async #write(key: string, value: string, insert: boolean): Promise<void> {
    this.#refuseWhileUpgrading('insert');
    if (this.#lost < (this.#knobs.get().loseWrites ?? 0)) {
      this.#lost += 1;
      return;
    }
    const answer = await this.#onLeaseHolder(key, { k: key, v: value, insert });
    if (answer.duplicate === true)
      throw new SqlError('23505', `duplicate key value (k)=('${key}') violates unique constraint "primary"`);
  }

  // --- listening

  async #listen(): Promise<void> {
    await listening(this.#sqlServer(), this.#options.listen);
    await listening(this.#webServer(), this.#options.http);
  }

  /** Takes TLS where it has certificates; whoever comes without gets an answer all the same, as KWDB gives one. */
  #sqlServer(): net.Server {
    const { tls: certificates } = this.#options.security;
    if (certificates === undefined) return net.createServer((socket) => this.#accept(socket));
    const secure = tls.createServer({ ...certificates, requestCert: true }, (socket) => this.#accept(socket));
    return net.createServer((socket) => {
      socket.on('error', () => {});
      socket.once('data', (chunk) => {
        socket.pause();
        socket.unshift(chunk);
        // TLS reads from the socket by itself; the other side of it is woken.
        if (chunk[0] === TLS_HANDSHAKE) return void secure.emit('connection', socket);
        this.#accept(socket);
        socket.resume();
      });
    });
  }

  /** TLCP cannot be spoken here, nor by those who ask: a connection is taken, and ended at the first word. */
  #webServer(): net.Server {
    const { auth, tls: certificates } = this.#options.security;
    const serve = (request: http.IncomingMessage, response: http.ServerResponse): void =>
      this.#serveHttp(request, response);
    if (certificates !== undefined)
      return https.createServer({ cert: certificates.cert, key: certificates.key }, serve);
    if (auth === 'insecure') return http.createServer(serve);
    return net.createServer((socket) => {
      socket.on('error', () => {});
      socket.once('data', () => socket.destroy());
    });
  }

  #accept(socket: net.Socket): void {
    socket.on('error', () => {});
    socket.on('close', () => this.#clients.delete(socket));
    readLines(socket, (line) => {
      let message: Message;
      try {
        message = JSON.parse(line) as Message;
      } catch {
        socket.destroy();
        return;
      }
      if (message.op === 'sql') this.#clients.add(socket);
      void this.answer(message).then((answer) => {
        if (!socket.destroyed) socket.write(`${JSON.stringify({ ...answer, id: message.id })}\n`);
      });
    });
  }

  #serveHttp(request: http.IncomingMessage, response: http.ServerResponse): void {
    const url = new URL(request.url ?? '/', 'http://node');
    if (url.pathname === '/_status/vars') {
      response.end(this.#metrics());
      return;
    }
    if (url.pathname !== '/health') {
      response.writeHead(404).end();
      return;
    }
    const healthy = url.searchParams.get('ready') !== '1' || this.#isReady();
    response.writeHead(healthy ? 200 : 503, { 'content-type': 'application/json' });
    response.end(healthy ? '{}' : '{"error":"node is not ready","code":14}');
  }

  #metrics(): string {
    const states = rangeStates(this.#view, this.#replicas());
    const led = states.filter((state) => reporterOf(state, this.#view) === this.#nodeId);
    const lines: [string, number][] = [
      ['liveness_livenodes', this.#view.members().filter((record) => this.#view.isLive(record)).length],
      ['ranges', this.#ownRanges().length],
      ['ranges_unavailable', led.filter((state) => state.unavailable).length],
      ['ranges_underreplicated', led.filter((state) => state.underreplicated).length],
      ['replicas_leaseholders', led.length],
      ['sql_conns', this.#clients.size],
      ['sys_uptime', Math.floor((Date.now() - this.#startedAtMs) / 1000)],
    ];
    return lines.map(([name, value]) => `# TYPE ${name} gauge\n${name} ${value}\n`).join('');
  }
}

function newerEntry(a: Entry | null, b: Entry | null): Entry | null {
  if (a === null || b === null) return a ?? b;
  return a.ver >= b.ver ? a : b;
}

function listening(server: net.Server, at: { host: string; port: number }): Promise<void> {
  return new Promise((resolve) => {
    server.once('error', (error) => fail(`unable to listen on ${at.host}:${at.port}: ${error.message}`));
    server.listen(at.port, at.host, resolve);
  });
}

function securityError(auth: string): string {
  return auth === 'insecure'
    ? 'node is running in insecure mode'
    : 'node is running secure mode, SSL connection required';
}

function basicVersion(version: string): string {
  return /(\d+(?:\.\d+)*)/.exec(version)?.[1] ?? '0';
}

function compareVersions(a: string, b: string): number {
  const [left, right] = [basicVersion(a).split('.'), basicVersion(b).split('.')];
  for (let i = 0; i < Math.max(left.length, right.length); i++) {
    const difference = Number(left[i] ?? 0) - Number(right[i] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}

// ----------------------------------------------------------------------------------------------------- node status

type StatusContext = { readonly view: View; readonly states: readonly RangeState[]; readonly entries: number };
type Column = { readonly name: string; readonly value: (record: NodeRecord, context: StatusContext) => Row[number] };

function timestamp(ms: number): string | null {
  return ms === 0 ? null : new Date(ms).toISOString().replace('T', ' ').replace('Z', '000+00:00');
}

function reported(record: NodeRecord, { view, states }: StatusContext): RangeState[] {
  return states.filter((state) => reporterOf(state, view) === record.id);
}

const STATUS_COLUMNS: Column[] = [
  { name: 'id', value: (record) => record.id },
  { name: 'address', value: (record) => (record.heard ? record.address : null) },
  { name: 'sql_address', value: (record) => (record.heard ? record.address : null) },
  { name: 'build', value: (record) => record.build || null },
  { name: 'started_at', value: (record) => timestamp(record.startedAtMs) },
  { name: 'updated_at', value: (record) => timestamp(record.updatedAtMs) },
  { name: 'locality', value: () => '' },
  { name: 'start_mode', value: (record) => record.startMode },
  { name: 'is_available', value: (record, { view }) => view.isLive(record) && !record.upgrading },
  { name: 'is_live', value: (record, { view }) => view.isLive(record) },
];

const RANGE_COLUMNS: Column[] = [
  { name: 'replicas_leaders', value: (record, context) => leases(record, context) },
  { name: 'replicas_leaseholders', value: (record, context) => leases(record, context) },
  { name: 'ranges', value: (record, { states }) => replicasOn(record, states) },
  {
    name: 'ranges_unavailable',
    value: (record, context) =>
      reported(record, context).filter((state) => state.unavailable).length + record.extraUnavailable,
  },
  {
    name: 'ranges_underreplicated',
    value: (record, context) =>
      reported(record, context).filter((state) => state.underreplicated).length + record.extraUnderreplicated,
  },
];

const STATS_COLUMNS: Column[] = ['live_bytes', 'key_bytes', 'value_bytes', 'intent_bytes', 'system_bytes'].map(
  (name) => ({
    name,
    value: (_record, { entries }) => (name === 'intent_bytes' ? 0 : entries * 40),
  }),
);

const DECOMMISSION_COLUMNS: Column[] = [
  { name: 'gossiped_replicas', value: (record, { states }) => replicasOn(record, states) },
  { name: 'is_decommissioning', value: (record) => record.decommissioned },
  { name: 'is_draining', value: (record) => record.draining },
];

function leases(record: NodeRecord, { states }: StatusContext): number {
  return states.filter((state) => state.leaseHolder?.id === record.id).length;
}

function replicasOn(record: NodeRecord, states: readonly RangeState[]): number {
  return states.filter((state) => state.replicas.some((replica) => replica.id === record.id)).length;
}

// ------------------------------------------------------------------------------------------------------------ SQL

type Session = {
  readonly view: View;
  readonly clusterId: string;
  readonly build: string;
  readonly states: () => RangeState[];
  readonly read: (key: string) => Promise<string | null>;
  readonly write: (key: string, value: string, insert: boolean) => Promise<void>;
  readonly scan: () => Promise<Map<string, string>>;
  readonly changeSchema: () => void;
  readonly set: (name: string, value: string) => Promise<void>;
};

type Statement = (session: Session, match: RegExpExecArray) => Promise<Table> | Table;

const unquote = (text: string): string => text.replace(/''/g, "'");

function rangeTotals(session: Session): Table {
  const states = session.states();
  const nodes = session.view.nodes();
  const extra = (pick: (record: NodeRecord) => number): number => nodes.reduce((sum, record) => sum + pick(record), 0);
  return {
    columns: ['sum', 'sum'],
    rows: [
      [
        states.filter((state) => state.unavailable).length + extra((record) => record.extraUnavailable),
        states.filter((state) => state.underreplicated).length + extra((record) => record.extraUnderreplicated),
      ],
    ],
  };
}

function jobs(session: Session, statuses: readonly string[] | null): Table {
  const planted = session.view.nodes().flatMap((record) => record.jobs);
  const rows = planted
    .filter((job) => statuses === null || statuses.includes(job.status))
    .map((job) => [job.job_id, job.job_type, job.description, job.status]);
  return { columns: ['job_id', 'job_type', 'description', 'status'], rows };
}

function gossipNodes({ view, states }: Session): Table {
  const context = { view, states: states(), entries: 0 };
  const rows = view
    .nodes()
    .map((record) => [
      record.id,
      record.id,
      replicasOn(record, context.states),
      leases(record, context),
      record.build,
      view.isLive(record),
    ]);
  return { columns: ['node_id', 'id', 'ranges', 'leases', 'build_tag', 'is_live'], rows };
}

function leaseCounts(session: Session): Table {
  const context = { view: session.view, states: session.states(), entries: 0 };
  const rows = session.view.nodes().map((record): Row => [record.id, leases(record, context)]);
  return { columns: ['lease_holder', 'count'], rows: rows.filter((row) => row[1] !== 0) };
}

function sessionCounts(session: Session): Table {
  const rows = session.view
    .nodes()
    .filter((record) => session.view.isLive(record) && record.sessions > 0)
    .map((record): Row => [record.id, record.sessions]);
  return { columns: ['node_id', 'count'], rows };
}

function showSetting(session: Session, name: string): Table {
  const value = session.view.setting(name.toLowerCase());
  if (value === null) throw new SqlError('42704', `unknown setting: "${name}"`);
  return { columns: [name.toLowerCase()], rows: [[value]] };
}

async function setSetting(session: Session, name: string, literal: string): Promise<Table> {
  const plain = literal.trim();
  const fallback = DEFAULT_SETTINGS[name.toLowerCase()] ?? '';
  await session.set(name.toLowerCase(), /^default$/i.test(plain) ? fallback : normalizeValue(plain));
  return { columns: [], rows: [], tag: 'SET CLUSTER SETTING' };
}

/** A duration is stored as KWDB shows it: '30m' becomes '30m0s'. */
function normalizeValue(literal: string): string {
  const quoted = /^'(.*)'$/.exec(literal);
  const value = quoted === null ? literal : unquote(quoted[1] ?? '');
  if (/^\d+h(\d+m)?$/.test(value)) return value.includes('m') ? `${value}0s` : `${value}0m0s`;
  return /^\d+m$/.test(value) ? `${value}0s` : value;
}

async function insert(session: Session, tuples: string, isInsert: boolean): Promise<Table> {
  const pairs = [...tuples.matchAll(/\(\s*'((?:[^']|'')*)'\s*,\s*'((?:[^']|'')*)'\s*\)/g)];
  if (pairs.length === 0) throw new SqlError('42601', 'at or near "values": syntax error');
  for (const [, key, value] of pairs) await session.write(unquote(key ?? ''), unquote(value ?? ''), isInsert);
  return { columns: [], rows: [], tag: `INSERT ${pairs.length}` };
}

async function selectValue(session: Session, key: string): Promise<Table> {
  const value = await session.read(unquote(key));
  return { columns: ['v'], rows: value === null ? [] : [[value]] };
}

function schemaChange(session: Session, tag: string): Table {
  session.changeSchema();
  return { columns: [], rows: [], tag };
}

/** The SQL this stand-in knows: what an upgrade tool asks, and a table of keys and values. */
const STATEMENTS: readonly (readonly [RegExp, Statement])[] = [
  [
    /^SELECT sum\(.*ranges\.unavailable.*sum\(.*ranges\.underreplicated.*FROM kwdb_internal\.kv_store_status$/i,
    rangeTotals,
  ],
  [
    /FROM \[SHOW JOBS\] WHERE status IN \((.*)\)$/i,
    (session, match) =>
      jobs(
        session,
        [...(match[1] ?? '').matchAll(/'(\w+)'/g)].map((m) => m[1] ?? ''),
      ),
  ],
  [/^(?:SHOW JOBS|SELECT .* FROM \[SHOW JOBS\])$/i, (session) => jobs(session, null)],
  [/FROM kwdb_internal\.gossip_nodes/i, gossipNodes],
  [/^SELECT lease_holder, ?count\(\*\) FROM kwdb_internal\.ranges GROUP BY lease_holder$/i, leaseCounts],
  [/^SELECT node_id, ?count\(\*\) FROM kwdb_internal\.cluster_sessions GROUP BY node_id$/i, sessionCounts],
  [
    /^SELECT kwdb_internal\.cluster_id\(\)$/i,
    ({ clusterId }) => ({ columns: ['kwdb_internal.cluster_id'], rows: [[clusterId]] }),
  ],
  [/^SHOW CLUSTER SETTING ([\w.]+)$/i, (session, match) => showSetting(session, match[1] ?? '')],
  [
    /^SET CLUSTER SETTING ([\w.]+) ?(?:=|TO) ?(.+)$/i,
    (session, match) => setSetting(session, match[1] ?? '', match[2] ?? ''),
  ],
  [/^RESET CLUSTER SETTING ([\w.]+)$/i, (session, match) => setSetting(session, match[1] ?? '', 'DEFAULT')],
  [
    /^(INSERT|UPSERT) INTO (?:\w+\.)*kv(?: ?\(k, ?v\))? VALUES (.+)$/i,
    (session, match) => insert(session, match[2] ?? '', /^insert$/i.test(match[1] ?? '')),
  ],
  [
    /^SELECT v FROM (?:\w+\.)*kv WHERE k ?= ?'((?:[^']|'')*)'$/i,
    (session, match) => selectValue(session, match[1] ?? ''),
  ],
  [
    /^SELECT count\(\*\) FROM (?:\w+\.)*kv$/i,
    async (session) => ({ columns: ['count'], rows: [[(await session.scan()).size]] }),
  ],
  [
    /^(CREATE|ALTER|DROP) (TABLE|DATABASE|INDEX)\b/i,
    (session, match) => schemaChange(session, `${match[1]} ${match[2]}`.toUpperCase()),
  ],
  [/^SELECT version\(\)$/i, ({ build }) => ({ columns: ['version'], rows: [[`KaiwuDB ${build}`]] })],
  [/^SELECT 1 AS (\w+)$/i, (_session, [, name = '']) => ({ columns: [name], rows: [[1]] })],
  [/^SELECT 1$/i, () => ({ columns: ['?column?'], rows: [[1]] })],
];

// --------------------------------------------------------------------------------------------------- command line

type Arguments = {
  readonly words: readonly string[];
  readonly flags: ReadonlyMap<string, string>;
  /** One for every `-e`. */
  readonly executes: readonly string[];
};

const SWITCHES = new Set([
  'insecure',
  'tlcp',
  'upgrade-complete',
  'ranges',
  'stats',
  'decommission',
  'all',
  'background',
  'help',
]);

/** `--flag=value`, `--flag value`, switches and plain words; unknown flags are taken as they come. */
function parseArguments(argv: readonly string[]): Arguments {
  const words: string[] = [];
  const executes: string[] = [];
  const flags = new Map<string, string>();
  for (let i = 0; i < argv.length; i++) {
    const argument = argv[i] ?? '';
    if (argument === '-e' || argument === '--execute') executes.push(argv[++i] ?? '');
    else if (!argument.startsWith('-')) words.push(argument);
    else {
      const [, name = '', value] = /^--?([^=]+)(?:=([\s\S]*))?$/.exec(argument) ?? [];
      const takesNext = value === undefined && !SWITCHES.has(name) && !(argv[i + 1] ?? '-').startsWith('-');
      flags.set(name, value ?? (takesNext ? (argv[++i] ?? '') : 'true'));
    }
  }
  return { words, flags, executes };
}

function fail(message: string): never {
  process.stderr.write(`Error: ${message}\n`);
  process.exit(1);
}

/**
 * Certificates under KWDB's names. With `--tlcp` both sides must hold the same authority and nothing is encrypted: the
 * stand-in's whole idea of TLCP.
 */
function credentials(flags: ReadonlyMap<string, string>, party: 'node' | 'client.root'): Security {
  if (flags.has('insecure')) return { auth: 'insecure' };
  const tlcp = flags.has('tlcp');
  const directory = flags.get('certs-dir') ?? path.join(os.homedir(), '.kaiwudb-certs');
  const read = (name: string): string => fs.readFileSync(path.join(directory, name), 'utf8');
  try {
    const ca = read(tlcp ? 'tlcp_ca.crt' : 'ca.crt');
    const auth = `${tlcp ? 'tlcp' : 'tls'} ${createHash('sha256').update(ca).digest('hex')}`;
    return tlcp ? { auth } : { auth, tls: { ca, cert: read(`${party}.crt`), key: read(`${party}.key`) } };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EACCES') return fail(`cannot load certificates: ${String(error)}`);
    return fail(`problem using security settings: no certificates found; does certs dir exist? (${directory})`);
  }
}

function printVersion(info: BuildInfo): void {
  const lines = [
    ['KaiwuDB Version:', info.buildTag],
    ['Build Time:', '2025/01/01 00:00:00'],
    ['Distribution:', 'stand-in'],
    ['Platform:', `linux ${os.arch() === 'x64' ? 'amd64' : os.arch()} (x86_64-linux-gnu)`],
    ['Go Version:', 'none'],
    ['Build Type:', 'release'],
  ];
  for (const [name = '', value = ''] of lines) process.stdout.write(`${name.padEnd(18)}${value}\n`);
}

async function startServer(mode: StartMode, { flags }: Arguments, info: BuildInfo): Promise<void> {
  const listen = splitAddress(flags.get('listen-addr') ?? '0.0.0.0:26257', 26257);
  const advertised = flags.get('advertise-addr') ?? `${listen.host === '0.0.0.0' ? '127.0.0.1' : listen.host}`;
  const address = advertised.includes(':') ? advertised : `${advertised}:${listen.port}`;
  const join = (flags.get('join') ?? '').split(',').filter((peer) => peer !== '');
  const server = new Server(
    {
      mode,
      address,
      listen,
      http: splitAddress(flags.get('http-addr') ?? '0.0.0.0:8080', 8080),
      store: path.resolve((flags.get('store') ?? 'kwbase-data').replace(/^path=/, '').split(',')[0] ?? ''),
      join: join.map((peer) => (peer.includes(':') ? peer : `${peer}:26257`)),
      upgradeComplete: flags.has('upgrade-complete'),
      security: credentials(flags, 'node'),
    },
    info,
  );
  await server.run();
}

async function ask(flags: ReadonlyMap<string, string>, message: Message): Promise<Message> {
  const security = credentials(flags, 'client.root');
  const host = flags.get('host') ?? '127.0.0.1:26257';
  const link = new Link(host.includes(':') ? host : `${host}:${flags.get('port') ?? 26257}`, security.tls);
  let answer: Message;
  try {
    // No timeout of its own, as KWDB's client has none: a caller that cannot wait has to bound it.
    answer = await link.request({ ...message, auth: security.auth }, 0);
  } catch {
    return fail(dialError(link.failure));
  }
  link.close();
  return answer;
}

function dialError(failure: Error | undefined): string {
  const code = (failure as NodeJS.ErrnoException | undefined)?.code ?? '';
  // The other side spoke no TLS.
  if (code === 'ECONNRESET' || code === 'EPROTO') return securityError('insecure');
  return /CERT|SSL|TLS|SIGNED/.test(code) ? `x509: ${failure?.message}` : 'cannot dial server.';
}

async function runStatement({ flags, executes }: Arguments): Promise<void> {
  const sqls = executes.length > 0 ? executes : [fs.readFileSync(0, 'utf8')];
  const database = flags.get('database');
  const answer = await ask(flags, { op: 'sql', sqls, ...(database === undefined ? {} : { database }) });
  if (answer.error !== undefined) {
    const code = answer.code === undefined ? '' : `SQLSTATE: ${String(answer.code)}\n`;
    process.stderr.write(`ERROR: ${String(answer.error)}\n${code}Failed running "sql"\n`);
    process.exit(1);
  }
  const tables = (answer.answers ?? [answer]) as unknown as Table[];
  for (const table of tables) printTable(table, outputFormat(flags));
}

async function nodeCommand(args: Arguments): Promise<void> {
  const { words, flags } = args;
  const message: Message = { op: words[1], node: words[2] };
  for (const name of ['ranges', 'stats', 'decommission', 'all']) if (flags.has(name)) message[name] = true;
  if (!['status', 'upgrade', 'drain', 'decommission'].includes(String(words[1])))
    fail(`unknown command "${words.join(' ')}" for "kwbase"`);
  if ((words[1] === 'upgrade' || words[1] === 'decommission') && !/^\d+$/.test(words[2] ?? ''))
    fail('a node ID is needed');
  const answer = await ask(flags, message);
  if (answer.error !== undefined) fail(String(answer.error));
  if (words[1] === 'status') printTable(answer as unknown as Table, outputFormat(flags));
  else process.stdout.write(words[1] === 'drain' ? 'node is draining... ok\n' : 'ok\n');
}

async function initCommand({ flags }: Arguments): Promise<void> {
  const answer = await ask(flags, { op: 'init' });
  if (answer.error !== undefined) fail(String(answer.error));
  process.stdout.write('Cluster successfully initialized\n');
}

function outputFormat(flags: ReadonlyMap<string, string>): string {
  return flags.get('format') ?? (process.stdout.isTTY === true ? 'table' : 'tsv');
}

const shown = (value: Row[number]): string => (value === null ? 'NULL' : String(value));

function delimited(value: Row[number], separator: string): string {
  const text = shown(value);
  return text === '' || text.includes(separator) || /["\n\r]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
}

function printTable(table: Table, format: string): void {
  const lines: string[] = [];
  if (table.tag !== undefined) lines.push(table.tag);
  else if (format === 'csv' || format === 'tsv') {
    const separator = format === 'csv' ? ',' : '\t';
    for (const row of [table.columns, ...table.rows])
      lines.push(row.map((value) => delimited(value, separator)).join(separator));
  } else if (format === 'records') {
    const width = Math.max(...table.columns.map((name) => name.length));
    table.rows.forEach((row, i) => {
      lines.push(`-[ RECORD ${i + 1} ]`);
      lines.push(...row.map((value, j) => `${(table.columns[j] ?? '').padEnd(width)} | ${shown(value)}`));
    });
  } else if (format === 'table') lines.push(...drawTable(table));
  else fail(`invalid argument "${format}" for "--format" flag`);
  process.stdout.write(`${lines.join('\n')}\n`);
}

function drawTable({ columns, rows }: Table): string[] {
  const widths = columns.map((name, j) => Math.max(name.length, ...rows.map((row) => shown(row[j] ?? null).length)));
  const line = (cells: readonly string[]): string =>
    cells.map((cell, j) => ` ${cell.padEnd(widths[j] ?? 0)} `).join('|');
  const drawn = rows.map((row) => ` ${line(row.map(shown))}`);
  const rule = `-${widths.map((width) => '-'.repeat(width + 2)).join('+')}`;
  return [` ${line(columns)}`, rule, ...drawn, `(${rows.length} row${rows.length === 1 ? '' : 's'})`];
}

async function main(argv: readonly string[]): Promise<void> {
  const args = parseArguments(argv);
  const info = loadBuildInfo();
  const command = args.words[0];
  switch (command) {
    case 'version':
      return printVersion(info);
    case 'start-single-node':
    case 'start':
    case 'start-single-replica':
      return startServer(command, args, info);
    case 'init':
      return initCommand(args);
    case 'node':
      return nodeCommand(args);
    case 'sql':
      return runStatement(args);
    default:
      return fail(`unknown command "${command ?? ''}" for "kwbase"`);
  }
}

if (import.meta.main || process.env.KW_STANDIN_IMPORTED !== undefined) {
  // The name in the process table, as a real binary has it.
  fs.writeFileSync('/proc/self/comm', 'kwbase');
  if (import.meta.main) await main(process.argv.slice(2));
  else {
    // Node has made a path of its first word, which it would run once this module has come in: it never has.
    const [, first = '', ...rest] = process.argv;
    await main([path.basename(first), ...rest]);
    if (!['start', 'start-single-node', 'start-single-replica'].includes(path.basename(first))) process.exit(0);
    await new Promise(() => {});
  }
}
