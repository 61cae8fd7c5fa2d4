/** `package add` and `packages`: the vendor's packages that clusters are upgraded to. */
import { openAsBlob } from 'node:fs';
import { stat } from 'node:fs/promises';
import { basename } from 'node:path';
import type { PackageView } from '@kwfleet/core';
import type { Command } from 'commander';
import { type Context, examples } from '../context.ts';
import { badInput, CliError, EXIT } from '../exit.ts';
import { columns } from '../render/columns.ts';
import { bytes, dayTime, oneLine } from '../render/text.ts';
import type { Theme } from '../render/theme.ts';

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
    });
  const group = program
    .command('package')
    .helpCommand(false)
    .helpGroup('Fleet:')
    .description('Add a package to upgrade to');
  group.addHelpText('after', examples('kwfleet package add ./KWDB-3.1.0-ubuntu22.04-x86_64-deb.tar.gz'));
  group
    .command('add')
    .description("Send a vendor's package to the controller, which reads and verifies it")
    .argument('FILE', 'the .tar.gz as the vendor ships it')
    .option('--json', 'print the API object')
    .addHelpText('after', examples('kwfleet package add ./KWDB-3.1.0-ubuntu22.04-x86_64-deb.tar.gz'))
    .action(async (file: string, { json }: { json?: true }, command: Command) => {
      const added = await send(file, context, command);
      if (json) return context.terminal.json(added);
      const { glyphs, colors } = context.terminal.theme;
      context.terminal.lines([
        `${colors.green(glyphs.done)} ${oneLine(added.fileName)} added: ${added.version}, ${packageFacts(added)}`,
        `  sha256 ${added.sha256}`,
      ]);
    });
}

const packageFacts = (pkg: PackageView): string =>
  [pkg.kind, pkg.architecture, pkg.family, bytes(pkg.sizeBytes)].join(', ');

async function send(file: string, context: Context, command: Command): Promise<PackageView> {
  const found = await stat(file).catch((error: Error) => error);
  if (found instanceof Error)
    throw badInput(`${file} cannot be read: ${found.message}`, 'Check the path of the package.');
  if (!found.isFile()) throw badInput(`${file} is not a file.`, "Give the vendor's .tar.gz itself.");
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
    return await context.client(command).addPackage(basename(file), body, stall.signal);
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
    oneLine(pkg.fileName),
  ]);
  const heading = ['VERSION', 'KIND', 'ARCH', 'FAMILY', 'SIZE', 'ADDED', 'FILE'];
  const [first = '', ...rest] = columns([heading, ...rows], width, theme.glyphs.ellipsis);
  return [theme.colors.dim(first), ...rest];
}
