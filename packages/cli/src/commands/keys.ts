/** `key create` and `key show`: the keys that people sign packages with. They stay with people. */
import type { Command } from 'commander';
import { type Context, examples } from '../context.ts';
import { createKeyFile, publicKeyOf } from '../key-file.ts';
import { newPassphrase } from '../passphrase.ts';

/** Adds the commands of signing keys. They ask no controller. */
export function addKeys(program: Command, context: Context): void {
  const group = program
    .command('key')
    .helpCommand(false)
    .helpGroup('Trust:')
    .description('Make the keys that people sign packages with; they stay on your machine');
  group.addHelpText('after', examples('kwfleet key create ~/kwfleet.key'));
  group
    .command('create')
    .description('Make an ed25519 key, encrypted by a passphrase, in a file that only you can read')
    .argument('FILE', 'where nothing lies yet')
    .option('--passphrase-file <FILE>', 'read the passphrase from its first line, or from /dev/fd/N')
    .addHelpText('after', examples('kwfleet key create ~/kwfleet.key'))
    .action(async (file: string, { passphraseFile }: { passphraseFile?: string }) => {
      const publicKey = await createKeyFile(file, await newPassphrase(file, passphraseFile));
      context.terminal.lines([
        `${file} holds your key. Keep it, and a copy elsewhere; without the passphrase it is worth nothing.`,
        'Its public half, for others to add with `kwfleet root change --root-key KEY`:',
        `  ${publicKey}`,
      ]);
    });
  group
    .command('show')
    .description('Print the public half of a key')
    .argument('FILE', 'a key file')
    .addHelpText('after', examples('kwfleet key show ~/kwfleet.key'))
    .action(async (file: string) => context.terminal.line(await publicKeyOf(file)));
}
