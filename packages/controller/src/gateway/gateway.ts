/** The gRPC server: agents' streams, packages for them, and enrollment. */
import * as grpc from '@grpc/grpc-js';
import { FleetError } from '@kwfleet/core';
import {
  type AgentMessage,
  agentGateway,
  type ControllerMessage,
  type EnrollResponse,
  enrollment,
  type FetchCall,
  type FindPeersRequest,
  type FindPeersResponse,
  type MetadataFile,
  PackageGiver,
  type RenewCertificateRequest,
} from '@kwfleet/protocol';
import type { Logger } from 'pino';
import type { ControllerConfig } from '../config.ts';
import type { PackageRegistry } from '../packages/registry.ts';
import { pendingActions } from '../store/actions.ts';
import type { Database } from '../store/database.ts';
import { currentStreams } from '../store/nodes.ts';
import type { Notices } from '../store/notices.ts';
import { somePackages } from '../store/packages.ts';
import { pendingPrefetches } from '../store/prefetches.ts';
import type { TransferFiles } from '../transfers/files.ts';
import type { Repository } from '../trust/repository.ts';
import type { Authority } from './authority.ts';
import { openCallers, REFUSED } from './callers.ts';
import { type Caller, serverCredentials } from './credentials.ts';
import { enrollHandler, renewCertificate } from './enroll.ts';
import { type MetadataCall, sendMetadata } from './fetch-metadata.ts';
import { givePackage, namePeers, Seeds } from './give-package.ts';
import { collectHeartbeats } from './heartbeats.ts';
import { Session, type SessionContext, SILENT_BEATS, type Stream } from './session.ts';
import { transferFileCalls } from './transfer-files.ts';

export type Gateway = {
  /** `HOST:PORT`. */
  readonly address: string;
  /** Nodes whose agent speaks to this controller now. */
  connected(): number;
  /** Bytes of packages that this controller has sent. */
  sentBytes(): number;
  close(): Promise<void>;
};

export type GatewayParts = {
  readonly config: ControllerConfig;
  readonly database: Database;
  readonly notices: Notices;
  readonly registry: PackageRegistry;
  readonly repository: Repository;
  readonly transfers: TransferFiles;
  /** Undefined: plaintext, on a loopback listener only. */
  readonly authority: Authority | undefined;
  readonly log: Logger;
};

/** A notice may be lost: pending actions are looked for this often all the same. */
const TICK_MS = 1_000;
const CLOSE_MS = 3_000;
const REMOVED = 'this node was removed from the fleet';
const SUPERSEDED = 'a newer stream of this node took over';

export async function startGateway(parts: GatewayParts): Promise<Gateway> {
  const { config, database, notices, registry, repository, transfers, authority, log } = parts;
  const { heartbeatMs } = config;
  const heartbeats = collectHeartbeats(database, Math.min(1_000, heartbeatMs), SILENT_BEATS * heartbeatMs, log);
  const sessions = openSessions(parts, { database, heartbeats, heartbeatMs, log });

  const callers = await openCallers(authority !== undefined, { database, notices, log });
  const giver = new PackageGiver(config.giving, (error, sha256) =>
    log.error({ err: error, sha256 }, 'a package could not be sent'),
  );
  const certifying = { authority, database, log };
  const giving = { database, registry, giver, seeds: new Seeds(), log };
  const server = new grpc.Server({
    'grpc.keepalive_time_ms': 20_000,
    'grpc.keepalive_timeout_ms': 10_000,
    'grpc.max_receive_message_length': 16 * 1024 * 1024,
  });
  server.addService(agentGateway, {
    connect(call: Stream) {
      if (callers.refuses(call)) return refuse(call);
      sessions.open(call, callers.of(call));
    },
    fetchPackage(call: FetchCall) {
      if (callers.refuses(call)) return refuse(call);
      void givePackage(call, callers.of(call)?.node ?? call.request.node, giving);
    },
    findPeers(
      call: grpc.ServerUnaryCall<FindPeersRequest, FindPeersResponse>,
      answer: grpc.sendUnaryData<FindPeersResponse>,
    ) {
      if (callers.refuses(call)) return refuse(call);
      void namePeers(call, answer, callers.of(call)?.node ?? call.request.node, giving);
    },
    fetchMetadata(call: MetadataCall, answer: grpc.sendUnaryData<MetadataFile>) {
      if (callers.refuses(call)) return refuse(call);
      void sendMetadata(call, answer, repository, log);
    },
    renewCertificate(
      call: grpc.ServerUnaryCall<RenewCertificateRequest, EnrollResponse>,
      answer: grpc.sendUnaryData<EnrollResponse>,
    ) {
      if (callers.refuses(call)) return refuse(call);
      renewCertificate(call, answer, callers.of(call), certifying);
    },
    ...transferFileCalls(transfers, callers, log),
  });
  server.addService(enrollment, { enroll: enrollHandler(certifying) });

  const port = await bind(server, config.grpc, authority);
  const stopListening = [
    notices.on('action', () => sessions.look()),
    notices.on('stream', sessions.attachedSomewhere),
    notices.on('ask', (payload) => void sessions.ask(payload)),
    notices.on('inventory', sessions.askForInventory),
  ];
  const ticker = setInterval(() => sessions.look(), TICK_MS);
  return {
    address: `${bracketed(config.grpc.host)}:${port}`,
    connected: () => sessions.count(),
    sentBytes: () => giver.sentBytes,
    async close() {
      clearInterval(ticker);
      for (const stop of stopListening) stop();
      callers.close();
      sessions.closeAll();
      await shutdown(server);
      await heartbeats.close();
    },
  };
}

function refuse(call: { emit(event: 'error', error: Partial<grpc.StatusObject>): boolean }): void {
  call.emit('error', REFUSED);
}

/** The streams of this process, the newest of each node. */
function openSessions({ database, log }: GatewayParts, shared: Omit<SessionContext, 'attached' | 'ended'>) {
  const all = new Set<Session>();
  const byNode = new Map<string, Session>();
  let looking = false;
  let lookAgain = false;

  const context: SessionContext = {
    ...shared,
    attached(session) {
      const node = session.node as string;
      byNode.get(node)?.end(grpc.status.ABORTED, SUPERSEDED);
      byNode.set(node, session);
      look();
    },
    ended(session) {
      all.delete(session);
      if (session.node !== undefined && byNode.get(session.node) === session) byNode.delete(session.node);
    },
  };

  /** One question for all nodes at once, however many notices came meanwhile. */
  function look(): void {
    lookAgain = true;
    if (!looking) void deliverAll();
  }

  async function deliverAll(): Promise<void> {
    looking = true;
    try {
      while (lookAgain && byNode.size > 0) {
        lookAgain = false;
        const asked = [...byNode];
        const nodes = asked.map(([node]) => node);
        const streams = await currentStreams(database, nodes);
        for (const [node, session] of asked) {
          // Read after the session attached itself: another stream in its place is a newer one, here or elsewhere.
          const current = streams.get(node);
          if (current !== session.stream)
            session.end(grpc.status.ABORTED, current === undefined ? REMOVED : SUPERSEDED);
        }
        const actions = Map.groupBy(await pendingActions(database, nodes), ({ node }) => node);
        for (const [node, due] of actions) byNode.get(node)?.deliver(due);
        const wanted = Map.groupBy(await pendingPrefetches(database, nodes), ({ node }) => node);
        for (const [node, due] of wanted) byNode.get(node)?.prefetch(due);
      }
    } catch (error) {
      log.warn({ err: error }, 'pending actions could not be read; looking again on the next tick');
    } finally {
      looking = false;
    }
  }

  return {
    look,
    count: () => byNode.size,
    open: (call: grpc.ServerDuplexStream<AgentMessage, ControllerMessage>, caller: Caller | undefined) => {
      all.add(new Session(call, caller, context));
    },
    /** A stream, `NODE STREAM`, speaks for the node from now on: here, or at another controller. */
    attachedSomewhere(payload: string): void {
      const [node = '', stream] = payload.split(' ');
      const session = byNode.get(node);
      // The notice may be late, and the stream it names older than ours: the database is asked.
      if (session !== undefined && session.stream !== stream) look();
    },
    /** `NODE SHA256...`: a report is wanted, and what it is to tell of. */
    async ask(payload: string): Promise<void> {
      const [node = '', ...sha256s] = payload.split(' ');
      if (!byNode.has(node)) return;
      try {
        const images = sha256s.length === 0 ? [] : await somePackages(database, sha256s);
        byNode.get(node)?.ask(images);
      } catch (error) {
        log.warn({ err: error, node }, 'what a report is to tell of could not be read');
      }
    },
    /** `NODE REQUEST`. */
    askForInventory(payload: string): void {
      const [node = '', request = ''] = payload.split(' ');
      byNode.get(node)?.askForInventory(request);
    },
    closeAll(): void {
      for (const session of all) session.end(grpc.status.UNAVAILABLE, 'the controller is stopping');
    },
  };
}

function bind(server: grpc.Server, at: ControllerConfig['grpc'], authority: Authority | undefined): Promise<number> {
  return new Promise((resolve, reject) => {
    server.bindAsync(`${bracketed(at.host)}:${at.port}`, serverCredentials(authority), (error, port) => {
      if (error === null) resolve(port);
      else reject(new FleetError('UNAVAILABLE', `grpc ${at.host}:${at.port}: ${error.message}`, { cause: error }));
    });
  });
}

const bracketed = (host: string) => (host.includes(':') ? `[${host}]` : host);

function shutdown(server: grpc.Server): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(() => server.forceShutdown(), CLOSE_MS);
    server.tryShutdown(() => {
      clearTimeout(timer);
      resolve();
    });
  });
}
