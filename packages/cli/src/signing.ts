/** What the commands that sign have in common: their keys, their question, and what they tell of the outcome. */
import type { TrustView } from '@kwfleet/core';
import { type SigningKey, signMetadata, writeMetadata } from '@kwfleet/protocol/tuf';
import type { Command } from 'commander';
import type { Client } from './client.ts';
import { consents } from './consent.ts';
import type { Context } from './context.ts';
import { badInput } from './exit.ts';
import { openKeyFile } from './key-file.ts';
import { readPassphrase } from './passphrase.ts';

export type SigningFlags = { readonly key: string[]; readonly passphraseFile?: string; readonly yes?: true };

/** Options may come several times: commander's own lists would swallow the arguments behind them. */
export const collect = (value: string, before: string[] = []): string[] => [...before, value];

export function signingOptions(command: Command): Command {
  return command
    .requiredOption('--key <FILE>', 'sign with this key; may be given several times', collect)
    .option('--passphrase-file <FILE>', 'read the passphrase from its first line, or from /dev/fd/N')
    .option('--yes', 'sign without asking');
}

export async function openKeys({ key, passphraseFile }: SigningFlags): Promise<SigningKey[]> {
  const opened: SigningKey[] = [];
  for (const file of key) opened.push(await openKeyFile(file, () => readPassphrase(file, passphraseFile)));
  return opened;
}

/** The file beside which the root is kept: that of the first key. */
export const keeperOf = ({ key }: SigningFlags): string => key[0] ?? '';

type Signable = Parameters<typeof signMetadata>[0] & Parameters<typeof writeMetadata>[0];

/** Signs with all keys and hands it to the controller, which publishes it or waits for more signatures. */
export async function signAndSubmit(
  client: Client,
  role: 'root' | 'targets',
  metadata: Signable,
  keys: readonly SigningKey[],
): Promise<TrustView> {
  for (const key of keys) signMetadata(metadata, key);
  return client.submitTrust(role, writeMetadata(metadata));
}

/** Asks, unless told not to. Throws when the answer is no, or nobody can be asked. */
export async function askToSign(context: Context, lines: readonly string[], flags: SigningFlags): Promise<void> {
  if (flags.yes === true) return;
  context.errors.lines(lines);
  if (!context.errors.isTTY || !process.stdin.isTTY) {
    throw badInput('Nothing is signed unseen.', 'Look at what it is, and give --yes.');
  }
  if (!(await consents('Sign this?', flags))) throw badInput('Nothing was signed.');
}

/** Loud, wherever packages are shown or added while nobody's key protects them. */
export function evaluationWarning(context: Context): void {
  const { colors } = context.errors.theme;
  context.errors.lines([
    colors.yellow(
      'EVALUATION: the controller signs packages with a key made on the spot. Whoever takes the controller',
    ),
    colors.yellow('can publish packages. `kwfleet key create FILE` and `kwfleet root init --key FILE` end that.'),
  ]);
}
