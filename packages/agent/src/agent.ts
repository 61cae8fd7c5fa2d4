/** The agent as a process: its parts put together, started, and ended in order. */
import { createHash } from 'node:crypto';
import { mkdir, realpath, stat } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { FleetError, type NodeReport } from '@kwfleet/core';
import { type Logger, pino } from 'pino';
import manifest from '../package.json' with { type: 'json' };
import { HostBackups } from './backup/backups.ts';
import { systemClock } from './clock.ts';
import type { AgentConfig } from './config.ts';
import { bringImage, containersOf } from './containers.ts';
import { ScriptFinder } from './deployment/script.ts';
import { ScriptContainerFinder } from './deployment/script-container.ts';
import { SourceFinder } from './deployment/source.ts';
import { SourceRecords } from './deployment/source-record.ts';
import { Compose } from './docker/compose.ts';
import { ComposeDriver } from './driver/compose.ts';
import { DockerRunDriver } from './driver/docker-run.ts';
import { HostDriver } from './driver/host-driver.ts';
import { ScriptBareDriver } from './driver/script-bare.ts';
import { ScriptContainerDriver } from './driver/script-container.ts';
import { SourceDriver } from './driver/source.ts';
import { enrolledIdentity, type Identity, readIdentity, renewedIdentity } from './enroll.ts';
import { Executor } from './executor/executor.ts';
import { DetachedProcesses, TransientUnits } from './host/long-commands.ts';
import { ProcessServices } from './host/process-services.ts';
import type { LongCommands, ServiceManager } from './host/services.ts';
import { Systemd } from './host/systemd.ts';
import { FileStorage } from './journal/file-storage.ts';
import { Journal } from './journal/journal.ts';
import { Link, pause } from './link.ts';
import { Observer } from './observe.ts';
import { Reporter } from './reporter.ts';
import { ServiceNotify } from './service-notify.ts';
import { Supply } from './supply.ts';
import { Courier } from './transfer/courier.ts';
import { Transfers } from './transfer/transfers.ts';

export const AGENT_VERSION: string = manifest.version;

/** The main loop counts as stuck when its beat is this much late. */
const STUCK_MS = 30_000;
const ENROLL_RETRY_MS = 5000;
const RENEWAL_LOOK_MS = 3_600_000;

/**
 * Runs the agent until `signal` aborts, then resolves: no order is taken any more, long commands go on by themselves and
 * are found again. Throws CONFIG_INVALID or ENROLLMENT_INVALID when it cannot start.
 */
export async function runAgent(
  config: AgentConfig,
  options: { readonly signal: AbortSignal; readonly log?: Logger },
): Promise<void> {
  const { signal } = options;
  const log = options.log ?? pino({ level: config.logLevel, base: { node: config.node } });
  await mkdir(config.stateDir, { recursive: true, mode: 0o700 });
  const lock = await lockState(config.stateDir);
  const notify = new ServiceNotify(log);
  try {
    while (!signal.aborted) {
      const identity = await identityOf(config, log, signal);
      if (!signal.aborted) await live(config, identity, { signal, notify, log });
    }
  } finally {
    lock?.close();
    log.info('agent stopped');
  }
}

type Process = { readonly signal: AbortSignal; readonly notify: ServiceNotify; readonly log: Logger };

/** One life under one identity: until the agent is to end, or has the next certificate. */
async function live(
  config: AgentConfig,
  identity: Identity | undefined,
  { signal, notify, log }: Process,
): Promise<void> {
  const parts = await assemble(config, identity, log);
  await parts.supply.open();
  await parts.reporter.prepare();
  parts.executor.resume();
  await notify.ready(`node ${config.node}, controller ${config.controller.address}`);
  log.info({ controller: config.controller.address, version: AGENT_VERSION }, 'agent started');
  const beating = () => systemClock.elapsed() - parts.reporter.beatAtMs < config.heartbeatMs + STUCK_MS;
  const renewed = new AbortController();
  const over = AbortSignal.any([signal, renewed.signal]);
  await Promise.all([
    parts.link.run(over),
    parts.reporter.run(over),
    notify.watchdog(beating, over),
    renew(config, identity, parts.executor, over, log).then(() => renewed.abort()),
    stopAtEnd(parts, () => (signal.aborted ? notify.stopping() : undefined), over),
  ]);
  await parts.storage.close();
}

type AgentParts = {
  readonly executor: Executor;
  readonly link: Link;
  readonly reporter: Reporter;
  readonly storage: FileStorage;
  readonly supply: Supply;
};

async function assemble(config: AgentConfig, identity: Identity | undefined, log: Logger): Promise<AgentParts> {
  const { services, commands, sudo } = await hostOf(config);
  const { root, stateDir, statusTimeoutMs } = config;
  const { now } = systemClock;
  const source = sourceOf(config, services);
  const supply: Supply = new Supply({
    config,
    identity,
    link: () => link,
    bringImage: (wanted, watch) => bringImage(containers, wanted, watch),
    log,
  });
  const { packages } = supply;
  const containers = containersOf(config, packages, sudo);
  const scriptContainers = new ScriptContainerFinder({ ...containers, root, services, now, statusTimeoutMs });
  const compose = new Compose({ socket: config.docker.socket });
  const observer = new Observer({
    root,
    stateDir,
    now,
    agentVersion: AGENT_VERSION,
    backup: config.backup,
    finders: [
      new ScriptFinder({ root, services, now, statusTimeoutMs, sudo }),
      scriptContainers,
      containers.finder,
      ...(source === undefined ? [] : [source.finder]),
    ],
    images: containers.answers,
  });
  const shared = { root, stateDir, services, commands, observer, packages, sudo, environment: environmentOf(config) };
  const driver = new HostDriver({
    observer,
    commands,
    packages,
    methods: {
      'script-bare': new ScriptBareDriver(shared),
      ...(source === undefined
        ? {}
        : { source: new SourceDriver({ ...shared, records: source.records, build: config.source.build }) }),
      'script-container': new ScriptContainerDriver({ ...containers, ...shared, finder: scriptContainers }),
      'docker-run': new DockerRunDriver({ ...containers, observer }),
      compose: new ComposeDriver({ ...containers, observer, commands, compose }),
    },
  });
  const transfers = new Transfers({
    root,
    stateDir,
    observer,
    commands,
    now,
    environment: environmentOf(config),
    courier: new Courier({
      offerFile: (ref) => link.exchange.offerFile(ref),
      putFile: (ref, offset, bytes) => link.exchange.putFile(ref, offset, bytes),
      fetchFile: (ref, offset) => link.exchange.fetchFile(ref, offset),
    }),
  });
  const storage = new FileStorage(join(config.stateDir, 'journal'));
  const journal = await Journal.open(storage);
  const executor: Executor = new Executor({
    node: config.node,
    driver,
    backups: new HostBackups({ node: config.node, root, stateDir, commands, config: config.backup }),
    journal,
    clock: systemClock,
    transfers,
    send: (message) => {
      if ('progress' in message) log.info(message.progress, 'progress');
      if ('result' in message) log.info({ action: message.result.action, outcome: message.result.outcome }, 'result');
      link.send('report' in message ? { report: reporter.told(message.report) } : message);
    },
  });
  const link: Link = new Link({
    address: config.controller.address,
    identity,
    node: config.node,
    agentVersion: AGENT_VERSION,
    log,
    opening: () => [
      ...(reporter.latest === undefined ? [] : [{ report: reporter.latest }]),
      ...executor.unacknowledged().map((result) => ({ result })),
    ],
    inHand: () => executor.inHand(),
    onAction: (action) => executor.accept(action),
    onResultStored: (action) => executor.acknowledge(action),
    onReportRequest: (images) => {
      containers.answers.ask(images);
      reporter.request();
    },
    onPrefetch: (wanted) => supply.prefetch(wanted),
    onInventoryRequest: (request) => void tellInventory(request, transfers, link, log),
  });
  const { heartbeatMs } = config;
  const busy = () => executor.busy;
  const seen = (report: NodeReport) => void executor.saw(report);
  const reporter: Reporter = new Reporter({ observer, link, heartbeatMs, busy, seen, clock: systemClock, log });
  link.whenWelcomed((welcome) => {
    executor.welcomed(welcome.clockMs);
    reporter.welcomed(welcome.heartbeatMs);
    supply.welcomed();
  });
  return { executor, link, reporter, storage, supply };
}

async function tellInventory(request: string, transfers: Transfers, link: Link, log: Logger): Promise<void> {
  try {
    link.send({ inventory: { request, inventory: await transfers.inventory() } });
  } catch (error) {
    log.warn({ err: error }, 'the database does not tell what it holds');
    const words = error instanceof FleetError && error.words !== undefined ? `: ${error.words}` : '';
    link.send({ inventory: { request, failure: `${error instanceof Error ? error.message : String(error)}${words}` } });
  }
}

/** Looked for on real hosts only: under a root of its own the agent must not find this machine's processes. */
function sourceOf(
  { root, stateDir, statusTimeoutMs, source: { tree } }: AgentConfig,
  services: ServiceManager,
): { readonly finder: SourceFinder; readonly records: SourceRecords } | undefined {
  if (root !== '/' || services.kind !== 'systemd') return undefined;
  const records = new SourceRecords(stateDir);
  return { records, finder: new SourceFinder({ records, services, now: systemClock.now, statusTimeoutMs, tree }) };
}

async function stopAtEnd(
  { executor, supply }: AgentParts,
  tell: () => Promise<void> | undefined,
  signal: AbortSignal,
): Promise<void> {
  await new Promise<void>((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });
  await tell();
  await Promise.all([executor.stop(), supply.close()]);
}

type Host = { readonly services: ServiceManager; readonly commands: LongCommands; readonly sudo: boolean };

async function hostOf(config: AgentConfig): Promise<Host> {
  const directory = join(config.stateDir, 'commands');
  const sudo = process.getuid?.() !== 0 && config.root === '/';
  const hasSystemd = await stat('/run/systemd/system').then(
    () => true,
    () => false,
  );
  const kind =
    config.serviceManager === 'auto'
      ? hasSystemd && config.root === '/'
        ? 'systemd'
        : 'process'
      : config.serviceManager;
  if (kind === 'process') {
    return { services: new ProcessServices(config.root), commands: new DetachedProcesses(directory), sudo };
  }
  if (!hasSystemd) throw new FleetError('CONFIG_INVALID', 'service_manager: this host has no systemd');
  return { services: new Systemd({ sudo }), commands: new TransientUnits(directory, { sudo }), sudo };
}

/** Under a root of its own, deploy.sh finds that root and a `systemctl` for it by the agent's own environment. */
function environmentOf(config: AgentConfig): Record<string, string> {
  if (config.root === '/') return {};
  const passed = Object.entries(process.env).filter(([name]) => name.startsWith('KW_STANDIN_') || name === 'PATH');
  return { KW_STANDIN_ROOT: config.root, ...Object.fromEntries(passed.map(([name, value]) => [name, value ?? ''])) };
}

/** Undefined on a plaintext link, or when the agent was told to end. */
async function identityOf(config: AgentConfig, log: Logger, signal: AbortSignal): Promise<Identity | undefined> {
  const { security, stateDir, node, controller } = config;
  switch (security.kind) {
    case 'insecure':
      return undefined;
    case 'tls':
      return readIdentity(security);
    case 'enrollment':
      for (;;) {
        try {
          return await enrolledIdentity(stateDir, node, controller.address, security);
        } catch (error) {
          if (!(error instanceof FleetError) || error.code !== 'UNAVAILABLE' || signal.aborted) throw error;
          log.warn({ err: error }, 'the controller cannot be reached for enrollment; trying again');
          await pause(ENROLL_RETRY_MS, signal);
        }
      }
    default:
      return security satisfies never;
  }
}

/** Resolves when the next certificate is kept, or the signal aborts. An order in hand is not disturbed for it. */
async function renew(
  { security, stateDir, node, controller }: AgentConfig,
  identity: Identity | undefined,
  executor: Executor,
  signal: AbortSignal,
  log: Logger,
): Promise<void> {
  while (!signal.aborted) {
    if (security.kind === 'enrollment' && identity !== undefined && !executor.busy) {
      try {
        if ((await renewedIdentity(stateDir, node, controller.address, identity)) !== undefined) {
          return log.info('the next certificate is kept: the agent begins anew with it');
        }
      } catch (error) {
        log.warn({ err: error }, 'the certificate could not be renewed; it is tried again');
      }
    }
    await pause(RENEWAL_LOOK_MS, signal);
  }
}

/**
 * Two agents on one journal would undo each other's fencing. A socket in Linux's abstract namespace goes with its
 * process, so nothing stale is ever left; other systems, where only tests run, go without.
 */
async function lockState(stateDir: string): Promise<Server | undefined> {
  if (process.platform !== 'linux') return undefined;
  const name = createHash('sha256')
    .update(await realpath(stateDir))
    .digest('hex');
  const server = createServer();
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error) =>
      reject(new FleetError('CONFIG_INVALID', `state_dir: another agent works in ${stateDir}`, { cause: error })),
    );
    server.listen(`\0kwfleet-agent-${name}`, resolve);
  });
  server.unref();
  return server;
}
