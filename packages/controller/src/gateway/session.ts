/** One agent's stream: what comes is stored in the order it came, what is due for the node is sent. */
import { randomUUID } from 'node:crypto';
import * as grpc from '@grpc/grpc-js';
import { type Action, FleetError, type PackageInfo } from '@kwfleet/core';
import { type AgentMessage, type ControllerMessage, type Hello, PROTOCOL } from '@kwfleet/protocol';
import type { Logger } from 'pino';
import { isRevoked } from '../store/access.ts';
import { storeOutput, storeProgress, storeResult } from '../store/actions.ts';
import type { Database } from '../store/database.ts';
import { storeInventory } from '../store/inventories.ts';
import { attachStream, databaseNow, detachStream, storeReport } from '../store/nodes.ts';
import { storeHoldings } from '../store/peers.ts';
import { endPrefetch, type PendingPrefetch } from '../store/prefetches.ts';
import { REFUSED } from './callers.ts';
import type { Caller } from './credentials.ts';
import type { Heartbeats } from './heartbeats.ts';

export type Stream = grpc.ServerDuplexStream<AgentMessage, ControllerMessage>;

export type SessionContext = {
  readonly database: Database;
  readonly heartbeats: Heartbeats;
  readonly heartbeatMs: number;
  readonly log: Logger;
  /** The session speaks for its node from now on. */
  readonly attached: (session: Session) => void;
  readonly ended: (session: Session) => void;
};

/** A stream that was silent for so many heartbeats is half-open: nobody is there any more. */
export const SILENT_BEATS = 3;
/** The first heartbeat comes after the first report, which may take its time. */
const HELLO_MS = 10_000;
/** Above this, the agent is made to wait (HTTP/2 flow control). */
const QUEUE_MAX = 64;

export class Session {
  readonly stream = randomUUID();
  readonly #call: Stream;
  readonly #context: SessionContext;
  /** From the certificate; undefined on a plaintext listener, where the hello is believed. */
  readonly #caller: Caller | undefined;
  readonly #queue: AgentMessage[] = [];
  readonly #sent = new Set<string>();
  readonly #watch: NodeJS.Timeout;
  #node: string | undefined;
  #heardAtMs = performance.now();
  #working = false;
  #over = false;

  constructor(call: Stream, caller: Caller | undefined, context: SessionContext) {
    this.#call = call;
    this.#caller = caller;
    this.#context = context;
    this.#watch = setInterval(() => this.#lookForSilence(), Math.max(20, context.heartbeatMs / 2));
    call.on('data', (message: AgentMessage) => this.#take(message));
    call.on('end', () => this.end(grpc.status.OK, 'the agent left'));
    call.on('error', (error: Error) => this.end(grpc.status.INVALID_ARGUMENT, error.message));
    call.on('cancelled', () => this.end(grpc.status.CANCELLED, 'the connection broke'));
  }

  /** The node's name, once it said hello. */
  get node(): string | undefined {
    return this.#node;
  }

  /** Sends those that this stream was not sent yet: a stream loses nothing without breaking, and then there is a new one. */
  deliver(actions: readonly Action[]): void {
    for (const action of actions) {
      if (this.#over || this.#sent.has(action.id)) continue;
      this.#sent.add(action.id);
      this.#call.write({ action });
    }
  }

  /** Packages to fetch ahead; each once, until it is asked for anew. */
  prefetch(wanted: readonly PendingPrefetch[]): void {
    for (const { package: info, askedAtMs } of wanted) {
      const key = `${info.sha256}@${askedAtMs}`;
      if (this.#over || this.#sent.has(key)) continue;
      this.#sent.add(key);
      this.#call.write({ prefetch: { package: info } });
    }
  }

  /** A full report, now, that also tells of these images. */
  ask(images: readonly PackageInfo[]): void {
    if (!this.#over) this.#call.write({ reportRequest: { images } });
  }

  /** Everything that the node's cluster holds. */
  askForInventory(request: string): void {
    if (!this.#over) this.#call.write({ inventoryRequest: { request } });
  }

  /** Ends the stream with a status the agent can read, once; the agent comes back by itself. */
  end(code: grpc.status, details: string): void {
    if (this.#over) return;
    this.#over = true;
    clearInterval(this.#watch);
    this.#queue.length = 0;
    if (code === grpc.status.OK) this.#call.end();
    else this.#call.emit('error', { code, details });
    this.#context.ended(this);
    const { database, log } = this.#context;
    if (this.#node === undefined) return;
    log.info({ node: this.#node, code: grpc.status[code], details }, 'agent disconnected');
    // Should this fail, the link runs out by itself.
    void detachStream(database, this.#node, this.stream).catch((error: unknown) =>
      log.warn({ err: error, node: this.#node }, 'could not note that the agent is gone'),
    );
  }

  #lookForSilence(): void {
    const { heartbeatMs } = this.#context;
    const limitMs = this.#node === undefined ? HELLO_MS : SILENT_BEATS * heartbeatMs;
    if (performance.now() - this.#heardAtMs <= limitMs) return;
    this.end(grpc.status.DEADLINE_EXCEEDED, `nothing was heard for ${limitMs} ms`);
  }

  #take(message: AgentMessage): void {
    this.#heardAtMs = performance.now();
    if (this.#over) return;
    this.#queue.push(message);
    if (this.#queue.length >= QUEUE_MAX) this.#call.pause();
    if (!this.#working) void this.#work();
  }

  async #work(): Promise<void> {
    this.#working = true;
    try {
      for (let message = this.#queue.shift(); message !== undefined && !this.#over; message = this.#queue.shift()) {
        await this.#handle(message);
        if (this.#call.isPaused() && this.#queue.length < QUEUE_MAX / 2) this.#call.resume();
      }
    } catch (error) {
      this.#fail(error);
    } finally {
      this.#working = false;
    }
  }

  /** What could not be stored was not acknowledged: the agent says it again on its next stream. */
  #fail(error: unknown): void {
    const { log } = this.#context;
    if (error instanceof FleetError && error.code === 'UNAVAILABLE') {
      log.warn({ err: error, node: this.#node }, 'an agent is sent away: the database does not answer');
      this.end(grpc.status.UNAVAILABLE, error.message);
    } else {
      log.error({ err: error, node: this.#node }, 'an agent is sent away: its message could not be handled');
      this.end(grpc.status.INTERNAL, 'the controller failed; see its log');
    }
  }

  async #handle(message: AgentMessage): Promise<void> {
    if ('hello' in message) return this.#hello(message.hello);
    const node = this.#node;
    if (node === undefined) return this.end(grpc.status.FAILED_PRECONDITION, 'the first message must be hello');
    const { database, heartbeats } = this.#context;
    if ('heartbeat' in message) return heartbeats.heard({ node, stream: this.stream, ...message.heartbeat });
    if ('report' in message) {
      await heartbeats.reported({ node, stream: this.stream });
      return database.transaction((sql) => storeReport(sql, node, message.report, this.stream));
    }
    heartbeats.heard({ node, stream: this.stream });
    if ('progress' in message) return database.transaction((sql) => storeProgress(sql, node, message.progress));
    if ('inventory' in message) return storeInventory(database, node, message.inventory);
    if ('output' in message) return database.transaction((sql) => storeOutput(sql, node, message.output));
    if ('holdings' in message) return storeHoldings(database, node, message.holdings);
    if ('prefetched' in message) return endPrefetch(database, node, message.prefetched);
    return this.#result(node, message);
  }

  async #result(node: string, { result }: Extract<AgentMessage, { result: unknown }>): Promise<void> {
    const { database, log } = this.#context;
    const stored = await database.transaction((sql) => storeResult(sql, node, result));
    if (stored === 'foreign') {
      log.error({ node, action: result.action }, 'an agent sent the result of another node');
      return this.end(grpc.status.PERMISSION_DENIED, `${result.action} is not an action of ${node}`);
    }
    // Of an unknown action nobody will ever ask: acknowledged all the same, or it would come again for ever.
    if (stored === 'unknown') log.warn({ node, action: result.action }, 'the result of an unknown action is dropped');
    this.#sent.add(result.action);
    if (!this.#over) this.#call.write({ resultStored: { action: result.action } });
  }

  async #hello(hello: Hello): Promise<void> {
    const { database, heartbeatMs, log, attached } = this.#context;
    if (this.#node !== undefined) return this.end(grpc.status.FAILED_PRECONDITION, 'hello was said already');
    const caller = this.#caller;
    if (caller !== undefined && caller.node !== hello.node) {
      const details = `the certificate is of ${caller.node}, not of ${hello.node}`;
      log.error({ certified: caller.node, claimed: hello.node }, 'an agent claims to be another');
      return this.end(grpc.status.PERMISSION_DENIED, details);
    }
    if (hello.protocol !== PROTOCOL) {
      const details = `the agent speaks protocol ${hello.protocol}, this controller ${PROTOCOL}: upgrade the older of both`;
      return this.end(grpc.status.FAILED_PRECONDITION, details);
    }
    const linkMs = SILENT_BEATS * heartbeatMs;
    const clockMs = await database.transaction(async (sql) => {
      if (caller !== undefined && (await isRevoked(sql, caller.serial))) return undefined;
      await attachStream(sql, hello.node, this.stream, linkMs);
      return databaseNow(sql);
    });
    if (clockMs === undefined) return this.end(grpc.status.UNAUTHENTICATED, REFUSED.details ?? '');
    if (this.#over) return void (await detachStream(database, hello.node, this.stream));
    this.#node = hello.node;
    for (const action of hello.inHand) this.#sent.add(action);
    this.#call.write({ welcome: { clockMs, protocol: PROTOCOL, heartbeatMs } });
    log.info({ node: hello.node, agentVersion: hello.agentVersion }, 'agent connected');
    attached(this);
  }
}
