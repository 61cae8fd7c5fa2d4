/** Test hosts with a real systemd as PID 1, several on one machine, on a network of their own. Needs root. */
export { cleanStaleLabs, createLab, type Forward, type Lab } from './lab.ts';
export type { HostOptions, LabHost, SmallDisk } from './machine.ts';
export { labHere, type Probe, probeLab } from './probe.ts';
export { CommandError, type CommandOptions, type CommandResult, type LabProcess } from './process.ts';
export { until } from './wait.ts';
