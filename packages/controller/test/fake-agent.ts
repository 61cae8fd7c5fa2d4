/** As much of an agent as the controller sees. */
import type * as grpc from '@grpc/grpc-js';
import type { NodeReport } from '@kwfleet/core';
import { type AgentMessage, agentGateway, type ControllerMessage, PROTOCOL } from '@kwfleet/protocol';
import { until } from './support.ts';

/** Often, while the controllers of tests are patient: an agent that was not run for a while must not seem lost. */
const BEAT_MS = 250;
/** For the controllers of tests. */
export const HEARTBEAT_MS = 20_000;

/** An agent's end of the stream: what came, and how it ended. */
export class Agent {
  readonly received: ControllerMessage[] = [];
  status: grpc.StatusObject | undefined;
  readonly #call: grpc.ClientDuplexStream<AgentMessage, ControllerMessage>;

  #report: (() => NodeReport) | undefined;
  #beats: NodeJS.Timeout | undefined;

  constructor(client: grpc.Client) {
    const { path, requestSerialize, responseDeserialize } = agentGateway.connect;
    this.#call = client.makeBidiStreamRequest(path, requestSerialize, responseDeserialize);
    this.#call.on('data', (message: ControllerMessage) => {
      this.received.push(message);
      if ('reportRequest' in message && this.#report !== undefined) this.send({ report: this.#report() });
    });
    this.#call.on('error', () => {});
    this.#call.on('status', (status) => {
      this.status = status;
    });
  }

  send(message: AgentMessage): void {
    this.#call.write(message);
  }

  hello(node: string, change: { protocol?: number; inHand?: string[] } = {}): this {
    this.send({ hello: { node, agentVersion: '0.1.0', protocol: PROTOCOL, inHand: [], ...change } });
    return this;
  }

  /** Beats until it is closed. */
  beating(): this {
    const beat = () => this.send({ heartbeat: { clockMs: Date.now(), serving: true, ready: true } });
    this.#beats = setInterval(beat, BEAT_MS);
    return this;
  }

  /** Reports now, and whenever it is asked; another time, what takes its place. */
  reporting(report: () => NodeReport): this {
    this.#report = report;
    this.send({ report: report() });
    return this;
  }

  close(): void {
    clearInterval(this.#beats);
    this.#call.cancel();
  }

  ended = () => until('the stream ends', () => this.status);
  got = <K extends string>(kind: K) =>
    until(
      `a ${kind} comes`,
      () => this.received.find((message) => kind in message) as Extract<ControllerMessage, Record<K, unknown>>,
    );
}
