/** The stream to the controller: it is made again whenever it breaks, and what must not be lost is said again. */
import * as grpc from '@grpc/grpc-js';
import type { Action, PackageInfo } from '@kwfleet/core';
import {
  type AgentMessage,
  agentGateway,
  type ControllerMessage,
  type Peer,
  PROTOCOL,
  type Welcome,
} from '@kwfleet/protocol';
import type { Logger } from 'pino';
import { askOnce, controllerClient } from './controller-client.ts';
import type { Identity } from './enroll.ts';
import { readPackage } from './sources.ts';
import type { FileExchange } from './transfer/courier.ts';
import { fileExchange } from './transfer/exchange.ts';
import { Waiting } from './waiting.ts';

type Stream = grpc.ClientDuplexStream<AgentMessage, ControllerMessage>;

export type LinkOptions = {
  readonly address: string;
  /** Undefined: plaintext. */
  readonly identity: Identity | undefined;
  readonly node: string;
  readonly agentVersion: string;
  readonly log: Logger;
  /** What the controller must know before all else on a new stream: the report, and results it has not stored. */
  readonly opening: () => readonly AgentMessage[];
  readonly inHand: () => string[];
  readonly onAction: (action: Action) => Promise<void>;
  readonly onResultStored: (action: string) => Promise<void>;
  /** Wanted now; it also tells of these images. */
  readonly onReportRequest: (images: readonly PackageInfo[]) => void;
  readonly onPrefetch: (wanted: PackageInfo) => void;
  readonly onInventoryRequest: (request: string) => void;
};

const FIRST_BACKOFF_MS = 200;
const MAX_BACKOFF_MS = 10_000;
/** A controller that does not welcome within this time is taken for dead. */
const WELCOME_MS = 15_000;
/** A stream that lived for less says nothing good of the next: the pause before it grows on. */
const STEADY_MS = 2000;
/** One chunk of a package must follow another within this time. */
const FETCH_QUIET_MS = 30_000;

const CHANNEL: grpc.ChannelOptions = {
  'grpc.keepalive_time_ms': 20_000,
  'grpc.keepalive_timeout_ms': 10_000,
  'grpc.keepalive_permit_without_calls': 1,
  'grpc.initial_reconnect_backoff_ms': FIRST_BACKOFF_MS,
  'grpc.max_reconnect_backoff_ms': MAX_BACKOFF_MS,
  'grpc.max_receive_message_length': 16 * 1024 * 1024,
};

export class Link {
  readonly #options: LinkOptions;
  readonly #client: grpc.Client;
  /** Set from the welcome to the end of the stream. */
  #stream: Stream | null = null;
  readonly #waiting = new Waiting();
  /** The newest of each kind that the stream cannot take just now. */
  readonly #newest = new Map<string, AgentMessage>();
  #welcomed: (welcome: Welcome) => void = () => {};

  constructor(options: LinkOptions) {
    this.#options = options;
    this.#client = controllerClient(options.address, options.identity, CHANNEL);
  }

  get connected(): boolean {
    return this.#stream !== null;
  }

  /** Called at every welcome, before any order of its stream. */
  whenWelcomed(then: (welcome: Welcome) => void): void {
    this.#welcomed = then;
  }

  /**
   * Sends, or keeps until the stream takes more: progress and output one after the other, bounded, also while there is no
   * stream; of reports, holdings and packages fetched ahead the newest. Results go out at once: they are in the journal,
   * from where each new stream begins. False when the message is dropped: a heartbeat, since a newer one follows, and
   * without a stream all that the next one begins with, or that is asked for again.
   */
  send(message: AgentMessage): boolean {
    const stream = this.#stream;
    const ordered = 'progress' in message || 'output' in message;
    if (stream === null) {
      if (ordered) this.#waiting.push(message);
      return ordered;
    }
    if ('result' in message) this.#writeNewest(stream, 'report');
    // An inventory that cannot be sent is asked for again by whoever wants it.
    if (!stream.writableNeedDrain || 'result' in message || 'inventory' in message) {
      stream.write(message);
      return true;
    }
    const kind = kindOf(message);
    if (ordered) this.#waiting.push(message);
    else if (kind !== undefined) this.#newest.set(kind, message);
    return ordered || kind !== undefined;
  }

  /** Keeps a stream until `signal` aborts; never rejects. */
  async run(signal: AbortSignal): Promise<void> {
    let backoffMs = FIRST_BACKOFF_MS;
    while (!signal.aborted) {
      const begunMs = performance.now();
      const ended = await this.#once(signal);
      if (signal.aborted) break;
      if (ended.welcomed && performance.now() - begunMs >= STEADY_MS) backoffMs = FIRST_BACKOFF_MS;
      const { log, address } = this.#options;
      log.warn({ controller: address, reason: ended.reason }, 'no stream to the controller; trying again');
      await pause(backoffMs * (0.5 + Math.random() / 2), signal);
      backoffMs = Math.min(backoffMs * 2, MAX_BACKOFF_MS);
    }
    this.#client.close();
  }

  /** Files of transfers, over the same connection. */
  get exchange(): FileExchange {
    return fileExchange(this.#client);
  }

  /** The bytes of a package from `offset` on. Rejects with FETCH_FAILED when the controller does not have it. */
  async *fetchPackage(sha256: string, offset: number): AsyncGenerator<Uint8Array> {
    const { node } = this.#options;
    yield* readPackage(this.#client, { sha256, offset, node }, FETCH_QUIET_MS);
  }

  /** Agents near here that hold the package. Rejects when the controller cannot be asked. */
  async findPeers(sha256: string): Promise<readonly Peer[]> {
    const { node } = this.#options;
    return (await askOnce(this.#client, agentGateway.findPeers, { sha256, node }, FETCH_QUIET_MS)).peers;
  }

  /** A metadata file of the package repository, or undefined when there is none. Rejects when it cannot be asked for. */
  fetchMetadata(name: string): Promise<Uint8Array | undefined> {
    return askOnce(this.#client, agentGateway.fetchMetadata, { name }, FETCH_QUIET_MS).then(
      ({ data }) => data,
      (error: grpc.ServiceError) => {
        if (error.code === grpc.status.NOT_FOUND) return undefined;
        throw error;
      },
    );
  }

  /** One stream, from the hello to its end. */
  #once(signal: AbortSignal): Promise<{ readonly welcomed: boolean; readonly reason: string }> {
    const { node, agentVersion, inHand, log } = this.#options;
    const { path, requestSerialize, responseDeserialize } = agentGateway.connect;
    const stream = this.#client.makeBidiStreamRequest(path, requestSerialize, responseDeserialize);
    let welcomed = false;
    return new Promise((resolve) => {
      const timer = setTimeout(() => finish('no welcome from the controller'), WELCOME_MS);
      const onAbort = () => finish('the agent stops');
      const finish = (reason: string) => {
        clearTimeout(timer);
        signal.removeEventListener('abort', onAbort);
        if (this.#stream === stream) this.#stream = null;
        // A last word that is written already still goes out.
        if (signal.aborted) stream.end();
        else stream.cancel();
        resolve({ welcomed, reason });
      };
      signal.addEventListener('abort', onAbort);
      stream.on('error', (error: grpc.ServiceError) => finish(error.details || error.message));
      stream.on('end', () => finish('the controller ended the stream'));
      stream.on('drain', () => this.#flush());
      stream.on('data', (message: ControllerMessage) => {
        if ('welcome' in message) {
          if (message.welcome.protocol !== PROTOCOL)
            return finish(`protocol ${message.welcome.protocol} is not spoken here`);
          clearTimeout(timer);
          welcomed = true;
          this.#open(stream, message.welcome);
          return;
        }
        this.#handle(message).catch((error: unknown) => {
          log.error({ err: error }, 'a message of the controller could not be handled');
          // An order that cannot be journalled is not taken: the stream is dropped, and the order comes again. All else is
          // said again on the next stream, whenever that is.
          if ('action' in message) finish(error instanceof Error ? error.message : String(error));
        });
      });
      stream.write({ hello: { node, agentVersion, protocol: PROTOCOL, inHand: inHand() } });
      if (signal.aborted) onAbort();
    });
  }

  #open(stream: Stream, welcome: Welcome): void {
    const { opening, log, address } = this.#options;
    this.#newest.clear();
    for (const message of opening()) stream.write(message);
    this.#stream = stream;
    log.info({ controller: address }, 'connected to the controller');
    this.#flush();
    this.#welcomed(welcome);
  }

  #flush(): void {
    while (this.#stream !== null && !this.#stream.writableNeedDrain) {
      const [kind] = this.#newest.keys();
      if (kind !== undefined) {
        this.#writeNewest(this.#stream, kind);
        continue;
      }
      const message = this.#waiting.shift();
      if (message === undefined) return;
      this.#stream.write(message);
    }
  }

  #writeNewest(stream: Stream, kind: string): void {
    const message = this.#newest.get(kind);
    if (message === undefined) return;
    this.#newest.delete(kind);
    stream.write(message);
  }

  async #handle(message: ControllerMessage): Promise<void> {
    const { onAction, onResultStored, onReportRequest, onPrefetch, onInventoryRequest } = this.#options;
    if ('action' in message) await onAction(message.action);
    else if ('resultStored' in message) await onResultStored(message.resultStored.action);
    else if ('reportRequest' in message) onReportRequest(message.reportRequest.images);
    else if ('prefetch' in message) onPrefetch(message.prefetch.package);
    else if ('inventoryRequest' in message) onInventoryRequest(message.inventoryRequest.request);
  }
}

/** Of what only the newest counts; undefined for all else. */
function kindOf(message: AgentMessage): string | undefined {
  if ('report' in message) return 'report';
  if ('holdings' in message) return 'holdings';
  return 'prefetched' in message ? `prefetched ${message.prefetched.sha256}` : undefined;
}

/** Resolves after `ms`, or at once when the signal aborts. */
export function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener('abort', done);
  });
}
