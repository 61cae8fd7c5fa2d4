/** `package sign`: puts packages on the list that agents accept, on the machine of the person whose key it is. */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { basename } from 'node:path';
import type { PackageInfo, PackageView, TrustView } from '@kwfleet/core';
import { packagesOf, readMetadata, type SigningKey } from '@kwfleet/protocol/tuf';
import type { Command } from 'commander';
import { parseDuration } from '../arguments.ts';
import type { Client } from '../client.ts';
import { type Context, examples } from '../context.ts';
import { badInput } from '../exit.ts';
import { publishedList, publishList } from '../package-list.ts';
import { oneLine } from '../render/text.ts';
import {
  askToSign,
  collect,
  keeperOf,
  openKeys,
  type SigningFlags,
  signAndSubmit,
  signingOptions,
} from '../signing.ts';
import { followRoot } from '../trusted-root.ts';

type Flags = SigningFlags & {
  readonly as?: string;
  readonly remove?: string[];
  readonly valid?: number;
  readonly json?: true;
};

/** What a package unpacks to is not limited on the machine of the one who signs it: nothing is unpacked here. */
const ANY_BYTES = Number.MAX_SAFE_INTEGER;

export function addPackageSign(group: Command, context: Context): void {
  signingOptions(group.command('sign'))
    .description('Sign packages, so that agents accept them; without any, sign what waits, or the same list for longer')
    .argument('[PACKAGE...]', "a package's file, which is looked into here; or the SHA-256 of one in the registry")
    .option('--as <VERSION>', "the version of an image's file that does not tell it, as it was added with")
    .option('--remove <SHA256>', 'take a package off the list: agents refuse it from then on', collect)
    .option('--valid <DURATION>', 'after how long the list must be signed anew (default: 365d)', parseDuration)
    .option('--json', 'print the API object')
    .addHelpText(
      'after',
      examples(
        'kwfleet package sign ./KWDB-3.1.0-ubuntu22.04-x86_64-deb.tar.gz --key ~/kwfleet.key',
        'kwfleet package sign --key ~/kwfleet.key',
      ),
    )
    .action(async (named: string[], flags: Flags, command: Command) => {
      const client = context.client(command);
      if ((await client.trust()).evaluation) {
        throw badInput('In evaluation the controller signs packages by itself.', 'Begin with `kwfleet root init`.');
      }
      const keys = await openKeys(flags);
      const infos: PackageInfo[] = [];
      for (const name of named) infos.push(await packageNamed(client, name, flags.as));
      const after = await signPackages(context, client, { keys, flags, infos });
      if (flags.json) return context.terminal.json(after);
      context.terminal.lines(outcome(after));
    });
}

type Wish = { readonly keys: readonly SigningKey[]; readonly flags: Flags; readonly infos: readonly PackageInfo[] };

/** Extends the published list, as far as it verifies by the root that the key's owner knows. */
export async function signPackages(context: Context, client: Client, { keys, flags, infos }: Wish): Promise<TrustView> {
  const { root, firstContact } = await followRoot(client, keeperOf(flags));
  const published = await publishedList(client, root);
  const listed = published ?? [];
  const known = [
    ...(firstContact
      ? [`Root ${root.signed.version} of the controller is new to this key. Compare it: kwfleet root show`]
      : []),
    ...(published === undefined
      ? ['The published list is not signed by the keys of this root: nothing of it is carried on.']
      : []),
  ];
  const remove = flags.remove ?? [];
  const waiting = infos.length === 0 && remove.length === 0 ? await client.trustStaged('targets') : undefined;
  if (waiting !== undefined) {
    const list = readMetadata('targets', waiting);
    await askToSign(context, [...known, ...difference(listed, packagesOf(list))], flags);
    return signAndSubmit(client, 'targets', list, keys);
  }
  const kept = listed.filter(({ sha256 }) => !remove.includes(sha256) && !infos.some((info) => info.sha256 === sha256));
  const next = [...kept, ...infos];
  await askToSign(context, [...known, ...difference(listed, next)], flags);
  return publishList(client, next, keys, flags.valid);
}

/**
 * A file is believed to be what it is seen to be here, and must be in the registry as just that. `version`: of an image's
 * file, as whoever signs it says.
 */
export async function packageNamed(client: Client, name: string, version?: string): Promise<PackageInfo> {
  const isFile = await stat(name).then(
    (found) => found.isFile(),
    () => false,
  );
  if (!isFile) {
    if (/^[0-9a-f]{64}$/.test(name)) return infoOf(await client.package(name));
    throw badInput(`${name} is neither a file nor a SHA-256.`, 'See `kwfleet packages --json` for the ids.');
  }
  const { inspectPackage } = await import('@kwfleet/controller');
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(name)) hash.update(chunk as Buffer);
  const seen = await inspectPackage(name, basename(name), ANY_BYTES, version);
  const { size: sizeBytes } = await stat(name);
  const info = infoOf(await client.package(hash.digest('hex')));
  const other = Object.entries({ ...seen, sizeBytes }).find(
    ([field, value]) => info[field as keyof PackageInfo] !== value,
  );
  if (other === undefined) return info;
  throw badInput(
    `The controller says that ${other[0]} of ${name} is ${info[other[0] as keyof PackageInfo]}; it is ${other[1]}.`,
    'Do not sign: the controller shows something that is not so.',
  );
}

/** What is signed is what the agent will be told in its order. */
function infoOf({ id: _id, addedAtMs: _at, signed: _signed, ...info }: PackageView): PackageInfo {
  return info;
}

const line = (sign: string, { version, kind, architecture, family, sha256, fileName, image }: PackageInfo): string =>
  `  ${sign} ${version} ${kind} ${architecture} ${family} ${oneLine(image ?? fileName)}\n      sha256 ${sha256}`;

function difference(before: readonly PackageInfo[], after: readonly PackageInfo[]): string[] {
  const has = (list: readonly PackageInfo[], sha256: string) => list.some((info) => info.sha256 === sha256);
  return [
    `A list of ${after.length} packages (+ new, - taken off, the others as before):`,
    ...after.map((info) => line(has(before, info.sha256) ? ' ' : '+', info)),
    ...before.filter(({ sha256 }) => !has(after, sha256)).map((info) => line('-', info)),
  ].flatMap((text) => text.split('\n'));
}

function outcome({ staged, packages }: TrustView): string[] {
  const waits = staged.targets;
  if (waits === undefined) return [`The list of ${packages.sha256s.length} packages is published; agents accept it.`];
  return [
    `The list waits: ${waits.signedBy.length} of ${waits.threshold} have signed.`,
    'Another person signs the same with `kwfleet package sign --key FILE`.',
  ];
}
