/** Backups of this host's node, as the executor asks for them: the heavy work is a long command, the agent only watches. */
import { mkdir, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import {
  type Action,
  BackupReceipt,
  ERRORS,
  type ErrorCode,
  FleetError,
  type NodeReport,
  type RestoreOrder,
} from '@kwfleet/core';
import Value from 'typebox/value';
import { type Work as LongWork, runLong } from '../driver/deploy-run.ts';
import type { Watch } from '../driver/driver.ts';
import type { LongCommands } from '../host/services.ts';
import { syncDirectory } from '../journal/file-storage.ts';
import { commandEnvironment, readCommandManifest, requireCommand } from './command.ts';
import { DEFINITION, type Identity, type Outcome, type Retention, type Root, type Work } from './spec.ts';

/** All that the executor asks of backups. Every call is safe to repeat, and finds what an earlier agent process left running. */
export interface Backups {
  /** Sees that the backup of the order can be made, before anything is stopped. Throws DISK_FULL or BACKUP_UNSUPPORTED. */
  prepare(action: Action, report: NodeReport, watch: Watch): Promise<void>;
  /** Makes it and sees that it is good; leaves a receipt. Throws BACKUP_FAILED or DISK_FULL. */
  make(action: Action, report: NodeReport, watch: Watch): Promise<void>;
  /** The receipt of the backup that this order made, also after a restart of the agent. */
  made(action: Action): Promise<BackupReceipt | undefined>;
  /** Reads every file of the order's backup again. Throws BACKUP_MISSING, BACKUP_DAMAGED or DISK_FULL. */
  check(action: Action, report: NodeReport, watch: Watch): Promise<void>;
  /** Puts it beside what is there, read again, and touches nothing else. Throws BACKUP_DAMAGED, DISK_FULL or RESTORE_FAILED. */
  stage(action: Action, report: NodeReport, watch: Watch): Promise<void>;
  /** Exchanges the two by renames; what was there is kept beside. Throws RESTORE_FAILED. */
  restore(action: Action, report: NodeReport, watch: Watch): Promise<void>;
  /** Undoes a restore of this run, as far as it came. */
  putBack(action: Action, report: NodeReport, watch: Watch): Promise<void>;
  /** Removes what a restore of this run moved aside. */
  discard(action: Action, report: NodeReport, watch: Watch): Promise<void>;
}

/** `backup` of agent.yaml. */
export type BackupConfig = {
  readonly directory: string;
  /** How many whole copies of the node are kept. */
  readonly keep: number;
  /** The operator's own backup command: an absolute path. */
  readonly command: string | undefined;
};

export type HostBackupsOptions = {
  readonly node: string;
  readonly root: string;
  readonly stateDir: string;
  readonly commands: LongCommands;
  readonly config: BackupConfig;
};

const PROGRAM = fileURLToPath(new URL('../../bin/backup-work.mjs', import.meta.url));
/** Specifications, outcomes and receipts of so many orders are kept. */
const PLACES_KEPT = 64;
const PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

export class HostBackups implements Backups {
  readonly #options: HostBackupsOptions;

  constructor(options: HostBackupsOptions) {
    this.#options = options;
  }

  async prepare(action: Action, report: NodeReport, watch: Watch): Promise<void> {
    const { config } = this.#options;
    if (action.backup === 'command') return void (await requireCommand(config.command));
    const { directory } = config;
    const [roots, node, set] = [this.#copied(report), this.#options.node, action.run];
    const work: Work = { work: 'prepare', directory, roots, node, set, ...this.#retention(action) };
    await this.#work(action, 'prepare', work, watch);
  }

  async make(action: Action, report: NodeReport, watch: Watch): Promise<void> {
    if ((await this.made(action)) !== undefined) return;
    const receipt =
      action.backup === 'command'
        ? await this.#command(action, report, watch)
        : await this.#copy(action, report, watch);
    await this.#writeReceipt(action, receipt);
  }

  async made(action: Action): Promise<BackupReceipt | undefined> {
    if (action.backup === undefined || !action.phases.includes('back-up')) return undefined;
    const text = await readFile(this.#receiptFile(action), 'utf8').catch(() => '');
    try {
      const kept = JSON.parse(text) as { action?: unknown; receipt?: unknown };
      return kept.action === action.id && Value.Check(BackupReceipt, kept.receipt) ? kept.receipt : undefined;
    } catch {
      return undefined;
    }
  }

  async check(action: Action, report: NodeReport, watch: Watch): Promise<void> {
    const { set, version, manifestSha256 } = restoreOf(action);
    const identity = this.#identity(action, set, version);
    const { directory } = this.#options.config;
    const roots = this.#copied(report);
    await this.#work(action, 'check', { work: 'check', directory, roots, identity, manifestSha256 }, watch);
  }

  stage(action: Action, report: NodeReport, watch: Watch): Promise<void> {
    return this.#restore('stage', action, report, watch);
  }

  restore(action: Action, report: NodeReport, watch: Watch): Promise<void> {
    return this.#restore('restore', action, report, watch);
  }

  async #restore(name: 'stage' | 'restore', action: Action, report: NodeReport, watch: Watch): Promise<void> {
    const { set, version, manifestSha256 } = restoreOf(action);
    const identity = this.#identity(action, set, version);
    const { directory } = this.#options.config;
    const [run, roots, stateFile] = [action.run, this.#roots(report), this.#stateFile(action)];
    const work: Work = { work: name, directory, roots, identity, manifestSha256, run, stateFile };
    await this.#work(action, name, work, watch);
  }

  async putBack(action: Action, report: NodeReport, watch: Watch): Promise<void> {
    const [run, roots, stateFile] = [action.run, this.#roots(report), this.#stateFile(action)];
    await this.#work(action, 'put-data-back', { work: 'put-back', roots, run, stateFile }, watch);
  }

  async discard(action: Action, report: NodeReport, watch: Watch): Promise<void> {
    const [run, roots, stateFile] = [action.run, this.#roots(report), this.#stateFile(action)];
    await this.#work(action, 'discard', { work: 'discard', roots, run, stateFile }, watch);
  }

  async #copy(action: Action, report: NodeReport, watch: Watch): Promise<BackupReceipt> {
    const { directory } = this.#options.config;
    const identity = this.#identity(action, action.run, action.from);
    const roots = this.#copied(report);
    const work: Work = { work: 'copy', directory, roots, identity, action: action.id, ...this.#retention(action) };
    const outcome = await this.#work(action, 'back-up', work, watch);
    if (outcome.receipt === undefined) throw new FleetError('BACKUP_FAILED', 'the copy ended without a receipt');
    return { policy: 'copy', ...outcome.receipt };
  }

  /** The operator's command: the contract is in docs/backup.md. */
  async #command(action: Action, report: NodeReport, watch: Watch): Promise<BackupReceipt> {
    const { config, commands } = this.#options;
    const command = await requireCommand(config.command);
    const place = await this.#place(action);
    const manifestFile = join(place, 'command-manifest.json');
    const identity = this.#identity(action, action.run, action.from);
    const env = { PATH, ...commandEnvironment(identity, this.#told(report), manifestFile) };
    const spec = { argv: [command] as [string], cwd: place, env };
    const { exitCode, output } = await runLong({
      commands,
      action,
      work: 'back-up',
      spec,
      watch,
      sign: async () => '',
    });
    if (exitCode !== 0) {
      const words = output.slice(-4000);
      throw new FleetError('BACKUP_FAILED', `${command} ended with exit status ${exitCode}`, { words });
    }
    return readCommandManifest(manifestFile, identity);
  }

  /** Runs one piece of work to its end, or finds the one that an earlier agent process started. */
  async #work(action: Action, name: LongWork, work: Work, watch: Watch): Promise<Outcome & { ok: true }> {
    const place = await this.#place(action);
    const specFile = join(place, `${name}.spec.json`);
    const outcomeFile = join(place, `${name}.outcome.json`);
    await writeDurably(specFile, JSON.stringify(work));
    const spec = {
      argv: [process.execPath, PROGRAM, specFile, outcomeFile] as [string, ...string[]],
      cwd: place,
      env: { PATH },
    };
    const { commands } = this.#options;
    const { output } = await runLong({ commands, action, work: name, spec, watch, sign: async () => '' });
    const outcome = await readOutcome(outcomeFile);
    if (outcome?.ok === true) return outcome;
    const [code, fallback] =
      outcome === undefined ? ['BACKUP_FAILED', 'the work ended without an outcome'] : [outcome.code, outcome.message];
    throw new FleetError(isCode(code) ? code : 'BACKUP_FAILED', fallback, { words: output.slice(-4000) });
  }

  #retention({ standingBackup: stands }: Action): Retention {
    const { keep } = this.#options.config;
    return { keep, ...(stands === undefined ? {} : { stands }) };
  }

  #identity(action: Action, set: string, version: string): Identity {
    const { cluster, kwdbId } = action;
    return { set, cluster, node: this.#options.node, kwdbId, version };
  }

  /** Throws BACKUP_UNSUPPORTED when a plain copy of the node's places would not hold it, or they are not known. */
  #copied(report: NodeReport): Root[] {
    const roots = this.#told(report);
    const obstacle = report.installation?.places?.obstacle;
    if (obstacle !== undefined) throw new FleetError('BACKUP_UNSUPPORTED', obstacle);
    return roots;
  }

  /** Throws BACKUP_UNSUPPORTED when the deployment does not tell its places. */
  #told(report: NodeReport): Root[] {
    const roots = this.#roots(report);
    if (roots.length > 0) return roots;
    throw new FleetError('BACKUP_UNSUPPORTED', 'this agent does not know which places make up the node');
  }

  /** Data first. None while the node is not seen: the middle of a restore may hide it, and its own record tells then. */
  #roots({ installation }: NodeReport): Root[] {
    if (installation?.places === undefined) return [];
    const { dataDir, places } = installation;
    const at = (name: string, path: string): Root => ({ name, path: join(this.#options.root, path) });
    return [
      at('data', dataDir),
      ...(places.certificates === undefined ? [] : [at('certificates', places.certificates)]),
      ...places.configuration.map((path, index) => at(`configuration-${index + 1}`, path)),
      ...(places.definition ?? []).map((path, index) => at(`${DEFINITION}${index + 1}`, path)),
    ];
  }

  /** A directory for the specification and the outcome of one order's work. */
  async #place(action: Action): Promise<string> {
    const place = join(this.#options.stateDir, 'backup-work', action.id.replace(/[^\w.-]+/g, '_').slice(-200));
    await mkdir(place, { recursive: true, mode: 0o700 });
    await this.#tidy(place);
    return place;
  }

  /** What is left of orders long past goes; what a restore remembers stays until it is undone or discarded. */
  async #tidy(current: string): Promise<void> {
    const home = dirname(current);
    const old = (await readdir(home)).filter((name) => !name.includes('.restore.json')).map((name) => join(home, name));
    const dated = await Promise.all(old.map(async (path) => ({ path, atMs: (await stat(path)).mtimeMs })));
    dated.sort((a, b) => b.atMs - a.atMs);
    for (const { path } of dated.slice(PLACES_KEPT)) {
      if (path !== current) await rm(path, { recursive: true, force: true });
    }
  }

  #receiptFile(action: Action): string {
    return join(this.#options.stateDir, 'backup-work', `${action.run.replace(/[^\w.-]+/g, '_')}.receipt.json`);
  }

  #stateFile(action: Action): string {
    return join(this.#options.stateDir, 'backup-work', `${action.run.replace(/[^\w.-]+/g, '_')}.restore.json`);
  }

  async #writeReceipt(action: Action, receipt: BackupReceipt): Promise<void> {
    const file = this.#receiptFile(action);
    await mkdir(dirname(file), { recursive: true, mode: 0o700 });
    await writeDurably(file, JSON.stringify({ action: action.id, receipt }));
  }
}

const isCode = (code: string): code is ErrorCode => Object.hasOwn(ERRORS, code);

function restoreOf(action: Action): RestoreOrder {
  if (action.restore === undefined) throw new FleetError('ACTION_INVALID', `${action.id} names no backup`);
  return action.restore;
}

async function readOutcome(file: string): Promise<Outcome | undefined> {
  const text = await readFile(file, 'utf8').catch(() => '');
  try {
    return JSON.parse(text) as Outcome;
  } catch {
    return undefined;
  }
}

async function writeDurably(file: string, text: string): Promise<void> {
  const handle = await open(`${file}.new`, 'w', 0o600);
  try {
    await handle.writeFile(text);
    await handle.sync();
  } finally {
    await handle.close();
  }
  await rename(`${file}.new`, file);
  await syncDirectory(dirname(file));
}
