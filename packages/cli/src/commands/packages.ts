/** `packages`, `package add` and `package prefetch`: the vendor's packages that clusters are upgraded to. */
import { openAsBlob } from 'node:fs';
import { stat } from 'node:fs/promises';
import { basename } from 'node:path';
import type { ImportRequest, PackageView, PrefetchView } from '@kwfleet/core';
import type { Command } from 'commander';
import type { Client } from '../client.ts';
import { type Context, examples } from '../context.ts';
import { badInput, CliError, EXIT } from '../exit.ts';
import { columns } from '../render/columns.ts';
import { bytes, dayTime, oneLine } from '../render/text.ts';
import type { Theme } from '../render/theme.ts';
import { collect, evaluationWarning, openKeys } from '../signing.ts';
import { addPackageSign, packageNamed, signPackages } from './package-sign.ts';

/** Adds the commands of the package registry. */
export function addPackages(program: Command, context: Context): void {
  program
    .command('packages')
    .helpGroup('Fleet:')
    .description('List the packages that clusters can be upgraded to')
    .option('--json', 'print the API objects')
    .addHelpText('after', examples('kwfleet packages'))
    .action(async ({ json }: { json?: true }, command: Command) => {
      const items = await context.client(command).packages();
      if (json) return context.terminal.json({ items });
      context.terminal.lines(packageTable(items, context.terminal.theme, context.terminal.width()));
      if ((await context.client(command).trust()).evaluation) evaluationWarning(context);
    });
  const group = program
    .command('package')
    .helpCommand(false)
    .helpGroup('Fleet:')
    .description('Add packages to upgrade to, sign them, and bring them to hosts ahead of time');
  group.addHelpText('after', examples('kwfleet package add ./KWDB-3.1.0-ubuntu22.04-x86_64-deb.tar.gz'));
  group
    .command('add')
    .description('Send a package to the controller, which reads and verifies it')
    .argument('[FILE]', "the vendor's .tar.gz, a built tree, or an image as docker save writes it (KaiwuDB.tar)")
    .option('--from <SOURCE>', 'instead of FILE: a path on the controller, or an address, that packages.sources allows')
    .option('--sha256 <HASH>', 'take only the file with this SHA-256; needed for an address')
    .option('--image <REFERENCE>', 'instead of FILE: a container image by its digest, like repo/kwdb@sha256:...')
    .option('--as <VERSION>', 'the version of an image; of a file only where its tag and label do not tell it')
    .option('--architecture <NAME>', 'of the image of --image: amd64 or arm64')
    .option('--key <FILE>', 'sign it too, as `package sign` does; may be given several times', collect)
    .option('--passphrase-file <FILE>', 'read the passphrase from its first line, or from /dev/fd/N')
    .option('--yes', 'sign without asking')
    .option('--json', 'print the API object')
    .addHelpText(
      'after',
      examples(
        'kwfleet package add ./KWDB-3.1.0-ubuntu22.04-x86_64-deb.tar.gz',
        'kwfleet package add ./KWDB-3.1.0-ubuntu22.04-x86_64-deb.tar.gz --key ~/kwfleet.key',
        'kwfleet package add ./KaiwuDB.tar --as 3.1.0',
        'kwfleet package add --from https://mirror.example.net/kwdb/KWDB-3.1.0.tar.gz --sha256 HASH',
        'kwfleet package add --image registry.example.net/kwdb/kwdb@sha256:DIGEST --as 3.1.0 --architecture amd64',
      ),
    )
    .action(async (file: string | undefined, flags: AddFlags, command: Command) => {
      const client = context.client(command);
      const wanted = wantedOf(file, flags);
      const signing = flags.key === undefined ? undefined : { ...flags, key: flags.key };
      // The passphrase first: nobody waits for an upload to be told that it was mistyped.
      const keys = signing === undefined ? [] : await openKeys(signing);
      const added =
        file === undefined
          ? await client.importPackage(wanted as ImportRequest)
          : await send(file, flags.as, context, client);
      const { evaluation } = await client.trust();
      if (signing !== undefined && !evaluation) {
        await signPackages(context, client, {
          keys,
          flags: signing,
          infos: [await packageNamed(client, file ?? added.id, flags.as)],
        });
      }
      const shown = signing === undefined ? added : await client.package(added.id);
      if (flags.json) context.terminal.json(shown);
      else context.terminal.lines(addedLines(shown, context.terminal.theme));
      if (evaluation) evaluationWarning(context);
    });
  addPackageSign(group, context);
  addPrefetch(group, context);
}

/** What the controller is to take by itself; undefined for a file that is sent. */
function wantedOf(file: string | undefined, flags: AddFlags): ImportRequest | undefined {
  const { from, image, sha256, as: version, architecture } = flags;
  if ([file, from, image].filter((given) => given !== undefined).length !== 1) {
    throw badInput('Give one of FILE, --from and --image.');
  }
  if (image !== undefined) {
    if (version === undefined || (architecture !== 'amd64' && architecture !== 'arm64')) {
      throw badInput('An image does not tell what it is.', 'Give --as VERSION and --architecture amd64 or arm64.');
    }
    return { image, version, architecture };
  }
  if (architecture !== undefined) throw badInput('--architecture is for --image.', 'A file tells it.');
  if (from === undefined) return undefined;
  const given = version === undefined ? {} : { version };
  if (!/^https?:/.test(from)) return { path: from, ...(sha256 && { sha256 }), ...given };
  if (sha256 === undefined) throw badInput('What comes from an address is pinned.', 'Give --sha256 HASH.');
  return { url: from, sha256, ...given };
}

type AddFlags = {
  from?: string;
  sha256?: string;
  image?: string;
  as?: string;
  architecture?: string;
} & AddSigning;
type AddSigning = { key?: string[]; passphraseFile?: string; yes?: true; json?: true };

function addedLines(added: PackageView, { glyphs, colors }: Theme): string[] {
  return [
    `${colors.green(glyphs.done)} ${oneLine(added.fileName)} added: ${added.version}, ${packageFacts(added)}`,
    `  sha256 ${added.sha256}`,
    ...(added.signed ? [] : ['  not signed yet, agents refuse it: kwfleet package sign FILE --key KEY']),
  ];
}

function addPrefetch(group: Command, context: Context): void {
  group
    .command('prefetch')
    .description('Bring a package to the hosts of clusters now, so that no window is spent on it')
    .argument('SHA256', 'the package, as `kwfleet packages --json` names it')
    .option('--cluster <CLUSTER>', 'a cluster, by name or id; may be given several times', collect)
    .option('--label <NAME=VALUE>', 'clusters with this label; with several, those that have all', collect)
    .option('--status', 'only show how far it is')
    .option('--json', 'print the API objects')
    .addHelpText('after', examples('kwfleet package prefetch SHA256 --label site=berlin'))
    .action(async (id: string, flags: PrefetchFlags, command: Command) => {
      const client = context.client(command);
      if (flags.status !== true) {
        const labels = Object.fromEntries((flags.label ?? []).map(labelOf));
        const { cluster: clusters } = flags;
        await client.prefetch(id, { ...(clusters && { clusters }), ...(flags.label && { labels }) });
      }
      const items = await client.prefetches(id);
      if (flags.json) return context.terminal.json({ items });
      context.terminal.lines(prefetchTable(items, context.terminal.theme, context.terminal.width()));
    });
}

type PrefetchFlags = { cluster?: string[]; label?: string[]; status?: true; json?: true };

function labelOf(text: string): [string, string] {
  const at = text.indexOf('=');
  if (at < 1) throw badInput(`"${text}" is no label.`, 'Write it like site=berlin.');
  return [text.slice(0, at), text.slice(at + 1)];
}

function prefetchTable(items: readonly PrefetchView[], theme: Theme, width: number | undefined): string[] {
  if (items.length === 0) return ['No host was asked to fetch it.'];
  const rows = items.map(({ node, state, askedAtMs, code = '', message = '' }) => [
    node,
    state,
    dayTime(askedAtMs),
    oneLine(`${code} ${message}`.trim()),
  ]);
  const [first = '', ...rest] = columns([['NODE', 'STATE', 'ASKED', 'WHY'], ...rows], width, theme.glyphs.ellipsis);
  return [theme.colors.dim(first), ...rest];
}

const packageFacts = (pkg: PackageView): string =>
  [pkg.kind, pkg.architecture, pkg.family, bytes(pkg.sizeBytes)].join(', ');

async function send(file: string, version: string | undefined, context: Context, client: Client): Promise<PackageView> {
  const found = await stat(file).catch((error: Error) => error);
  if (found instanceof Error)
    throw badInput(`${file} cannot be read: ${found.message}`, 'Check the path of the package.');
  if (!found.isFile()) throw badInput(`${file} is not a file.`, 'Give the .tar.gz, or the .tar of an image, itself.');
  const stall = new Stall();
  const progress = progressLine(context, found.size);
  const body = (await openAsBlob(file)).stream().pipeThrough(
    new TransformStream<Uint8Array, Uint8Array>({
      start: () => stall.moved(SENDING_STALLED_MS),
      transform(chunk, controller) {
        stall.moved(SENDING_STALLED_MS);
        progress.sent(chunk.length);
        controller.enqueue(chunk);
      },
      flush: () => stall.moved(READING_STALLED_MS),
    }),
  );
  try {
    return await client.addPackage(basename(file), body, stall.signal, version);
  } catch (error) {
    if (!stall.signal.aborted) throw error;
    throw new CliError(EXIT.error, `${file} was not taken: nothing moved for too long.`, {
      remedy: 'See the log of the controller and the network between, then add it again.',
    });
  } finally {
    stall.over();
    progress.over();
  }
}

const SENDING_STALLED_MS = 60_000;
/** The controller unpacks and verifies some gigabytes before it answers. */
const READING_STALLED_MS = 15 * 60_000;

/** A deadline by progress: a big package on a slow line is no error, a line that stands still is. */
class Stall {
  readonly #controller = new AbortController();
  #timer: NodeJS.Timeout | undefined;

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  moved(patienceMs: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#controller.abort(), patienceMs);
  }

  over(): void {
    clearTimeout(this.#timer);
  }
}

/** How much is sent, on a terminal's error stream, so that `--json` stays clean. */
function progressLine({ errors }: Context, total: number): { sent(count: number): void; over(): void } {
  let sent = 0;
  let shown = -1;
  return {
    sent(count) {
      sent += count;
      const percent = total === 0 ? 100 : Math.floor((sent * 100) / total);
      if (!errors.isTTY || percent === shown) return;
      shown = percent;
      const words =
        percent < 100 ? `sending ${bytes(sent)} of ${bytes(total)}, ${percent}%` : 'sent; the controller reads it';
      errors.out.write(`\r\u001b[K${words}`);
    },
    over() {
      if (errors.isTTY && shown >= 0) errors.out.write('\r\u001b[K');
    },
  };
}

function packageTable(items: readonly PackageView[], theme: Theme, width: number | undefined): string[] {
  if (items.length === 0) return ['No package yet: `kwfleet package add FILE` adds one.'];
  const rows = items.map((pkg) => [
    pkg.version,
    pkg.kind,
    pkg.architecture,
    pkg.family,
    bytes(pkg.sizeBytes),
    dayTime(pkg.addedAtMs),
    pkg.signed ? 'yes' : 'no',
    oneLine(pkg.image ?? pkg.fileName),
  ]);
  const heading = ['VERSION', 'KIND', 'ARCH', 'FAMILY', 'SIZE', 'ADDED', 'SIGNED', 'FILE'];
  const [first = '', ...rest] = columns([heading, ...rows], width, theme.glyphs.ellipsis);
  return [theme.colors.dim(first), ...rest];
}
