/** `root init`, `change`, `sign` and `show`: whose keys agents accept packages from. */

import { writeFile } from 'node:fs/promises';
import type { TrustView } from '@kwfleet/core';
import { contentsOf, newRoot, type RootContents, readMetadata } from '@kwfleet/protocol/tuf';
import type { Command } from 'commander';
import { parseCount, parseDuration } from '../arguments.ts';
import type { Client } from '../client.ts';
import { type Context, examples } from '../context.ts';
import { badInput } from '../exit.ts';
import { publicKeyOf } from '../key-file.ts';
import { publishList } from '../package-list.ts';
import { dayTime } from '../render/text.ts';
import {
  askToSign,
  collect,
  evaluationWarning,
  keeperOf,
  openKeys,
  type SigningFlags,
  signAndSubmit,
  signingOptions,
} from '../signing.ts';
import { followRoot, keepRoot } from '../trusted-root.ts';

const DAY_MS = 86_400_000;
const VALID_MS = 730 * DAY_MS;

type InitFlags = SigningFlags & {
  readonly rootKey?: string[];
  readonly packageKey?: string[];
  readonly threshold?: number;
  readonly packageThreshold?: number;
  readonly valid?: number;
};

type ChangeFlags = InitFlags & {
  readonly removeRootKey?: string[];
  readonly removePackageKey?: string[];
  readonly newController?: true;
};

/** Adds the commands of the root of trust. */
export function addRoot(program: Command, context: Context): void {
  const group = program
    .command('root')
    .helpCommand(false)
    .helpGroup('Trust:')
    .description('Say whose keys agents accept packages from');
  group.addHelpText('after', examples('kwfleet root init --key ~/kwfleet.key', 'kwfleet root show'));
  addInit(group, context);
  addChange(group, context);
  addSign(group, context);
  addShow(group, context);
}

function keyOptions(command: Command): Command {
  return signingOptions(command)
    .option('--root-key <KEY>', 'a further key that may change the root: a public half, or its file', collect)
    .option('--package-key <KEY>', 'a key that may sign packages (default: those of the root)', collect)
    .option('--threshold <N>', 'how many root keys must sign a change', parseCount)
    .option('--package-threshold <N>', 'how many package keys must sign the list', parseCount)
    .option('--valid <DURATION>', 'after how long it must be signed anew (default: 730d)', parseDuration);
}

function addInit(group: Command, context: Context): void {
  keyOptions(group.command('init'))
    .description("Hand packages over from the controller's evaluation key to people's keys")
    .addHelpText(
      'after',
      examples(
        'kwfleet root init --key ~/kwfleet.key',
        'kwfleet root init --key a.key --key b.key --key c.key --threshold 2',
      ),
    )
    .action(async (flags: InitFlags, command: Command) => {
      const client = context.client(command);
      const view = await client.trust();
      if (!view.evaluation) throw badInput("People's keys are in charge already.", 'Use `kwfleet root change`.');
      const keys = await openKeys(flags);
      const rootKeys = [...new Set([...keys.map((key) => key.public), ...(await publicKeys(flags.rootKey))])];
      const packageKeys = flags.packageKey === undefined ? rootKeys : await publicKeys(flags.packageKey);
      const contents: RootContents = {
        version: view.root.version + 1,
        expiresAtMs: client.nowMs() + (flags.valid ?? VALID_MS),
        root: { keys: rootKeys, threshold: flags.threshold ?? 1 },
        targets: { keys: packageKeys, threshold: flags.packageThreshold ?? 1 },
        online: { keys: [view.online], threshold: 1 },
      };
      const root = newRoot(contents);
      contentsOf(root);
      await askToSign(context, describe(contents), flags);
      let after = await signAndSubmit(client, 'root', root, keys);
      if (after.root.version === contents.version) {
        await keepRoot(keeperOf(flags), root);
        // Agents need a list, if an empty one: until there is one they refuse all packages anyway.
        if (keys.some((key) => packageKeys.includes(key.public))) after = await publishList(client, [], keys);
      }
      context.terminal.lines(rootPage(after));
      if (after.root.version === contents.version) {
        context.terminal.line('Packages that are there already need a signature now: `kwfleet package sign FILE`.');
      }
    });
}

function addChange(group: Command, context: Context): void {
  keyOptions(group.command('change'))
    .option('--remove-root-key <KEY>', 'a key that may no longer change the root', collect)
    .option('--remove-package-key <KEY>', 'a key that may no longer sign packages', collect)
    .option('--new-controller', 'let the key of the controller that answers take the place of the one before')
    .description('Make the next root: add and remove keys, change thresholds, or only make it valid for longer')
    .addHelpText(
      'after',
      examples(
        'kwfleet root change --key old.key --root-key new.key --package-key new.key --remove-root-key old.key --remove-package-key old.key',
      ),
    )
    .action(async (flags: ChangeFlags, command: Command) => {
      const client = context.client(command);
      const keys = await openKeys(flags);
      const view = await client.trust();
      if (view.evaluation) throw badInput('There is no root of people yet.', 'Use `kwfleet root init`.');
      const { root } = await followRoot(client, keeperOf(flags));
      const now = contentsOf(root);
      if (!now.online.keys.includes(view.online) && flags.newController !== true) {
        throw badInput(
          `The controller's key is ${view.online}, the root has ${now.online.keys.join()}.`,
          'If this is a new controller of yours, give --new-controller.',
        );
      }
      const contents = await changed(now, flags, view.online, client.nowMs());
      const next = newRoot(contents);
      contentsOf(next);
      await askToSign(context, describe(contents), flags);
      const after = await signAndSubmit(client, 'root', next, keys);
      if (after.root.version === contents.version) await keepRoot(keeperOf(flags), next);
      context.terminal.lines(rootPage(after));
    });
}

async function changed(now: RootContents, flags: ChangeFlags, online: string, nowMs: number): Promise<RootContents> {
  const less = async (keys: readonly string[], add?: string[], remove?: string[]) => {
    const [added, removed] = [await publicKeys(add), await publicKeys(remove)];
    const unknown = removed.find((key) => !keys.includes(key));
    if (unknown !== undefined) throw badInput(`${unknown} is not among the keys.`, 'See `kwfleet root show`.');
    return [...new Set([...keys, ...added])].filter((key) => !removed.includes(key));
  };
  return {
    version: now.version + 1,
    expiresAtMs: nowMs + (flags.valid ?? VALID_MS),
    root: {
      keys: await less(now.root.keys, flags.rootKey, flags.removeRootKey),
      threshold: flags.threshold ?? now.root.threshold,
    },
    targets: {
      keys: await less(now.targets.keys, flags.packageKey, flags.removePackageKey),
      threshold: flags.packageThreshold ?? now.targets.threshold,
    },
    online: { keys: [online], threshold: 1 },
  };
}

function addSign(group: Command, context: Context): void {
  signingOptions(group.command('sign'))
    .description('Add your signature to a root that waits for more than one')
    .addHelpText('after', examples('kwfleet root sign --key ~/kwfleet.key'))
    .action(async (flags: SigningFlags, command: Command) => {
      const client = context.client(command);
      const text = await client.trustStaged('root');
      if (text === undefined) throw badInput('No root waits for a signature.');
      const keys = await openKeys(flags);
      const before = (await client.trust()).evaluation ? undefined : await followRoot(client, keeperOf(flags));
      const root = readMetadata('root', text);
      const contents = contentsOf(root);
      const news = before === undefined ? [] : changes(contentsOf(before.root), contents);
      await askToSign(context, [...describe(contents), ...news], flags);
      const after = await signAndSubmit(client, 'root', root, keys);
      if (after.root.version === contents.version) await keepRoot(keeperOf(flags), root);
      context.terminal.lines(rootPage(after));
    });
}

function addShow(group: Command, context: Context): void {
  group
    .command('show')
    .description('Show whose keys agents accept packages from, and what waits for signatures')
    .option('--out <FILE>', 'write the root itself, for `packages.root` of agents')
    .option('--json', 'print the API object')
    .addHelpText('after', examples('kwfleet root show', 'kwfleet root show --out root.json'))
    .action(async ({ out, json }: { out?: string; json?: true }, command: Command) => {
      const client = context.client(command);
      const view = await client.trust();
      if (out !== undefined) await writeRoot(client, out, view);
      if (json) return context.terminal.json(view);
      context.terminal.lines(rootPage(view));
      if (view.evaluation) evaluationWarning(context);
    });
}

async function writeRoot(client: Client, file: string, view: TrustView): Promise<void> {
  await writeFile(file, (await client.trustMetadata(`${view.root.version}.root.json`)) ?? '', { mode: 0o644 });
}

const publicKeys = (given: string[] = []): Promise<string[]> => Promise.all(given.map(publicKeyOf));

function describe({ version, expiresAtMs, root, targets }: RootContents): string[] {
  return [
    `Root ${version}, valid until ${dayTime(expiresAtMs)}`,
    `  ${root.threshold} of these keys may change it:`,
    ...root.keys.map((key) => `    ${key}`),
    `  ${targets.threshold} of these keys may sign packages:`,
    ...targets.keys.map((key) => `    ${key}`),
  ];
}

function changes(before: RootContents, after: RootContents): string[] {
  const diff = (what: string, a: readonly string[], b: readonly string[]) => [
    ...b.filter((key) => !a.includes(key)).map((key) => `  new ${what}: ${key}`),
    ...a.filter((key) => !b.includes(key)).map((key) => `  no longer ${what}: ${key}`),
  ];
  return [
    ...diff('root key', before.root.keys, after.root.keys),
    ...diff('package key', before.targets.keys, after.targets.keys),
    ...diff('controller key', before.online.keys, after.online.keys),
  ];
}

function rootPage({ root, packages, online, staged, evaluation }: TrustView): string[] {
  const until =
    packages.version === 0 ? 'none yet' : `${packages.sha256s.length} packages, until ${dayTime(packages.expiresAtMs)}`;
  return [
    ...describe({
      version: root.version,
      expiresAtMs: root.expiresAtMs,
      root,
      targets: packages,
      online: { keys: [online], threshold: 1 },
    }),
    `  the controller's key, which can publish ${evaluation ? 'anything' : 'nothing'} by itself:`,
    `    ${online}`,
    `  sha256 ${root.sha256}`,
    packages.acceptable
      ? `Signed list: ${until}`
      : 'Signed list: agents refuse it; sign it anew with `kwfleet package sign`',
    ...Object.entries(staged).map(
      ([role, waits]) => `Waiting: ${role} ${waits.version}, signed by ${waits.signedBy.length} of ${waits.threshold}`,
    ),
  ];
}
