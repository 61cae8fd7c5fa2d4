/**
 * The operator's own backup command. Its path is agent.yaml's alone: a controller can ask that it runs, never what runs.
 * Contract: docs/backup.md.
 */
import { createHash } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import { type BackupReceipt, FleetError } from '@kwfleet/core';
import Type from 'typebox';
import Schema from 'typebox/schema';
import type { Identity, Root } from './spec.ts';

/** What the command leaves at `KWFLEET_MANIFEST`. */
export const CommandManifest = Type.Object({
  run: Type.String(),
  cluster: Type.String(),
  node: Type.String(),
  version: Type.String(),
  /** Where the backup lies, in words that help to find it. */
  place: Type.String({ minLength: 1, maxLength: 4096 }),
  sizeBytes: Type.Integer({ minimum: 1 }),
  files: Type.Integer({ minimum: 1 }),
  madeAtMs: Type.Integer({ minimum: 1 }),
});
const checker = Schema.Compile(CommandManifest);
const MANIFEST_LIMIT_BYTES = 1024 * 1024;

/** Throws BACKUP_UNSUPPORTED for a command that is not there, cannot be run, or that others than its owner may change. */
export async function requireCommand(command: string | undefined): Promise<string> {
  if (command === undefined) throw new FleetError('BACKUP_UNSUPPORTED', 'agent.yaml names no backup.command');
  const found = await stat(command).catch(() => undefined);
  if (found?.isFile() !== true) throw new FleetError('BACKUP_UNSUPPORTED', `${command} is no file on this host`);
  if ((found.mode & 0o111) === 0) throw new FleetError('BACKUP_UNSUPPORTED', `${command} is not executable`);
  const mine = found.uid === 0 || found.uid === process.getuid?.();
  if (!mine || (found.mode & 0o022) !== 0) {
    throw new FleetError(
      'BACKUP_UNSUPPORTED',
      `${command} runs as root, and others may change it: chown root, chmod 755`,
    );
  }
  return command;
}

export function commandEnvironment(
  { set, cluster, node, version }: Identity,
  roots: readonly Root[],
  manifestFile: string,
): Record<string, string> {
  const path = (name: string) => roots.find((root) => root.name === name)?.path ?? '';
  const configuration = roots.filter(({ name }) => /^(configuration|definition)-/.test(name)).map(({ path: at }) => at);
  return {
    KWFLEET_RUN: set,
    KWFLEET_CLUSTER: cluster,
    KWFLEET_NODE: node,
    KWFLEET_VERSION: version,
    KWFLEET_DATA: path('data'),
    KWFLEET_CERTIFICATES: path('certificates'),
    KWFLEET_CONFIGURATION: configuration.join(':'),
    KWFLEET_MANIFEST: manifestFile,
  };
}

/** Throws BACKUP_FAILED when the manifest is missing, or not of what was asked for. */
export async function readCommandManifest(file: string, identity: Identity): Promise<BackupReceipt> {
  const failed = (message: string) => new FleetError('BACKUP_FAILED', `the backup command ended well, but ${message}`);
  const bytes = await readFile(file).catch(() => undefined);
  if (bytes === undefined) throw failed(`left no manifest at ${file}`);
  if (bytes.length > MANIFEST_LIMIT_BYTES) throw failed(`its manifest is larger than ${MANIFEST_LIMIT_BYTES} bytes`);
  let content: unknown;
  try {
    content = JSON.parse(bytes.toString());
  } catch {
    throw failed('its manifest is no JSON');
  }
  if (!checker.Check(content)) {
    const [, errors] = checker.Errors(content);
    throw failed(`its manifest is not as agreed: ${errors[0]?.instancePath ?? ''} ${errors[0]?.message ?? ''}`);
  }
  const expected = { run: identity.set, cluster: identity.cluster, node: identity.node, version: identity.version };
  for (const [name, value] of Object.entries(expected)) {
    const said = content[name as keyof typeof expected];
    if (said !== value) throw failed(`its manifest is of ${name} ${said}, not of ${value}`);
  }
  const { place, version, sizeBytes, files, madeAtMs } = content;
  const manifestSha256 = createHash('sha256').update(bytes).digest('hex');
  return { policy: 'command', place, version, sizeBytes, files, madeAtMs, manifestSha256, removed: [] };
}
