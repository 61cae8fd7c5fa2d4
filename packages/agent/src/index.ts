/**
 * kwfleet-agent: observes a database host, carries out orders, journals them, reports.
 *
 * From the outside in: the process and its link to the controller; the state machine that carries orders out; its memory;
 * what it drives; what it sees.
 */
export { AGENT_VERSION, runAgent } from './agent.ts';
export type { Backups } from './backup/backups.ts';
export { type Clock, systemClock } from './clock.ts';
export { type AgentConfig, loadAgentConfig, parseAgentConfig } from './config.ts';
export { cleanOutput, judgeOutput, OutputCleaner, type OutputVerdict } from './deploy-output.ts';
export { DeadlineError, type Driver, Stopping, type Watch } from './driver/driver.ts';
export { ScriptBareDriver, type ScriptBareOptions } from './driver/script-bare.ts';
export type { Parts } from './executor/action-run.ts';
export { Executor } from './executor/executor.ts';
export { DetachedProcesses, TransientUnits } from './host/long-commands.ts';
export { ProcessServices } from './host/process-services.ts';
export type { LongCommandSpec, LongCommandState, LongCommands, ServiceManager, UnitState } from './host/services.ts';
export { Systemd } from './host/systemd.ts';
export { FileStorage } from './journal/file-storage.ts';
export { Journal, type JournalStorage } from './journal/journal.ts';
export type { JournalRecord, JournalState } from './journal/records.ts';
export { Link, type LinkOptions } from './link.ts';
export { Observer, type ObserverOptions } from './observe.ts';
export { PackageCache } from './packages.ts';
export { Reporter, type ReporterOptions } from './reporter.ts';
export type { PackageSource } from './sources.ts';
