/** A real agent over a light host: its own journal on disk, its own stream to the controller. */
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import {
  AGENT_VERSION,
  type Backups,
  Executor,
  FileStorage,
  Journal,
  Link,
  Reporter,
  systemClock,
} from '@kwfleet/agent';
import { FleetError, type NodeReport } from '@kwfleet/core';
import type { Logger } from 'pino';
import type { LightHost } from './light-host.ts';

const HEARTBEAT_MS = 5_000;

const unsupported = async (): Promise<never> => {
  throw new FleetError('BACKUP_UNSUPPORTED', 'the hosts of the demo keep no data that could be copied');
};
const NO_BACKUPS: Backups = {
  prepare: unsupported,
  make: unsupported,
  made: async () => undefined,
  check: unsupported,
  stage: unsupported,
  restore: unsupported,
  putBack: unsupported,
  discard: unsupported,
};

export type LightAgent = {
  /** Ends it as if its host had lost its network; resolves when it is gone. */
  stop(): Promise<void>;
};

/** Runs the agent of this host until it is stopped. `stateDir` is its own. */
export async function startLightAgent(
  host: LightHost,
  { address, stateDir, log }: { readonly address: string; readonly stateDir: string; readonly log: Logger },
): Promise<LightAgent> {
  const { node } = host;
  const storage = new FileStorage(join(stateDir, node, 'journal'));
  const journal = await Journal.open(storage);
  const executor: Executor = new Executor({
    node,
    driver: host,
    backups: NO_BACKUPS,
    journal,
    clock: systemClock,
    send: (message) => link.send('report' in message ? { report: reporter.told(message.report) } : message),
  });
  const link: Link = new Link({
    address,
    identity: undefined,
    node,
    agentVersion: AGENT_VERSION,
    log,
    opening: () => [
      ...(reporter.latest === undefined ? [] : [{ report: reporter.latest }]),
      ...executor.unacknowledged().map((result) => ({ result })),
    ],
    inHand: () => executor.inHand(),
    onAction: (action) => executor.accept(action),
    onResultStored: (action) => executor.acknowledge(action),
    onReportRequest: () => reporter.request(),
    onPrefetch: () => {},
    onInventoryRequest: () => {},
  });
  const reporter: Reporter = new Reporter({
    observer: host,
    link,
    heartbeatMs: HEARTBEAT_MS,
    busy: () => executor.busy,
    seen: (report: NodeReport) => void executor.saw(report),
    clock: systemClock,
    log,
  });
  link.whenWelcomed(({ clockMs, heartbeatMs }) => {
    executor.welcomed(clockMs);
    reporter.welcomed(heartbeatMs);
  });
  host.bring = (sha256) => proved(link, sha256);

  await reporter.prepare();
  executor.resume();
  const stopping = new AbortController();
  const done = Promise.all([link.run(stopping.signal), reporter.run(stopping.signal)]);
  return {
    async stop() {
      stopping.abort();
      await executor.stop();
      await done;
      await storage.close();
    },
  };
}

/** Every byte comes over the agent's own stream, and the whole is what was ordered. */
async function proved(link: Link, sha256: string): Promise<void> {
  const hash = createHash('sha256');
  for await (const bytes of link.fetchPackage(sha256, 0)) hash.update(bytes);
  const found = hash.digest('hex');
  if (found !== sha256) throw new FleetError('PACKAGE_CORRUPT', `what came has the SHA-256 ${found}`);
}
