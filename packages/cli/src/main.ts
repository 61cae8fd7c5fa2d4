/** The command `kwfleet`: reads the arguments, runs one command, and turns what came of it into an exit code. */
import { readFileSync } from 'node:fs';
import { Command, CommanderError, Help } from 'commander';
import { DEFAULT_SERVER } from './client.ts';
import { addAccess } from './commands/access.ts';
import { addApprovals } from './commands/approvals.ts';
import { addBackups } from './commands/backups.ts';
import { addCluster } from './commands/cluster.ts';
import { addHealth } from './commands/health.ts';
import { addInventory } from './commands/inventory.ts';
import { addKeys } from './commands/keys.ts';
import { addNode } from './commands/node.ts';
import { addNotifications } from './commands/notifications.ts';
import { addPackages } from './commands/packages.ts';
import { addPlan } from './commands/plan.ts';
import { addRollouts } from './commands/rollouts.ts';
import { addRoot } from './commands/root.ts';
import { addRuns } from './commands/runs.ts';
import { addServices } from './commands/services.ts';
import { addTransfer } from './commands/transfer.ts';
import { addWindows } from './commands/windows.ts';
import { Context, examples } from './context.ts';
import { EXIT, errorLines, exitOfError } from './exit.ts';
import type { Output } from './terminal.ts';

export type Surroundings = { readonly env: NodeJS.ProcessEnv; readonly out: Output; readonly err: Output };

/** Runs one command line (without `node` and the script) and returns its exit code. Never throws. */
export async function main(argv: readonly string[], given: Partial<Surroundings> = {}): Promise<number> {
  const { env = process.env, out = process.stdout, err = process.stderr } = given;
  const context = new Context(env, out, err);
  try {
    // Without a word, the help is what is wanted; it goes where help goes, and is no error.
    await createProgram(context).parseAsync(argv.length === 0 ? ['--help'] : argv, { from: 'user' });
    return context.exitCode;
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.done : EXIT.refused;
    const { colors } = context.errors.theme;
    errorLines(error, context.errors.width()).forEach((line, at) => {
      context.errors.line(at === 0 ? colors.red(line) : line);
    });
    return exitOfError(error);
  }
}

/** All commands. */
export function createProgram(context: Context): Command {
  const { terminal, errors } = context;
  const program = new Command('kwfleet')
    .description('Upgrades KWDB clusters, node by node, as the manual says, and stops where a person must look.')
    .version(ownVersion(), '-V, --version', 'print the version')
    .helpOption('-h, --help', 'print this help')
    .option('--server <URL>', `the controller (or KWFLEET_SERVER; default: ${DEFAULT_SERVER})`)
    .exitOverride()
    .configureHelp(helpStyle(context))
    .configureOutput({
      writeOut: (text) => void terminal.out.write(text),
      writeErr: (text) => void errors.out.write(text),
      outputError: (text, write) => write(text.replace(/^error: /, 'kwfleet: ')),
      getOutHelpWidth: () => Math.min(terminal.out.columns ?? 100, 100),
      getErrHelpWidth: () => Math.min(errors.out.columns ?? 100, 100),
      getOutHasColors: () => terminal.theme.colors.isColorSupported,
      getErrHasColors: () => errors.theme.colors.isColorSupported,
    })
    .addHelpText('after', '\nEnvironment:\n  KWFLEET_SERVER  address of the controller\n  KWFLEET_TOKEN   your token')
    .addHelpText(
      'after',
      '\nExit codes: 0 done, 1 error, 2 refused by a check or bad input, 3 held, 4 failed or aborted',
    )
    .addHelpText('after', examples('kwfleet demo', 'kwfleet plan prod-east --to 3.1.0'));
  addPlan(program, context);
  addApprovals(program, addRuns(program, context), context);
  addBackups(program, context);
  addInventory(program, context);
  addHealth(program, context);
  addCluster(program, context);
  addNode(program, context);
  addTransfer(program, context);
  addPackages(program, context);
  addKeys(program, context);
  addRoot(program, context);
  addRollouts(program, context);
  addWindows(program, context);
  addNotifications(program, context);
  addAccess(program, context);
  addServices(program, context);
  program.helpCommand('help [COMMAND]', 'print the help of a command').commandsGroup('Help:');
  return program;
}

function helpStyle({ terminal }: Context): Partial<Help> {
  return {
    showGlobalOptions: true,
    styleTitle: (text) => terminal.theme.colors.bold(text),
    // `--version` is of no use below a command, where `--to` is what names one.
    visibleGlobalOptions(command) {
      return Help.prototype.visibleGlobalOptions.call(this, command).filter(({ long }) => long !== '--version');
    },
  };
}

function ownVersion(): string {
  const text = readFileSync(new URL('../package.json', import.meta.url), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}
