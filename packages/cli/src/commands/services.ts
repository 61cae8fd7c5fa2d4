/** `controller`, `agent` and `demo`: what runs in this process. Loaded only when asked for; a client needs none of it. */
import type { Topology } from '@kwfleet/core';
import { type Command, Option } from 'commander';
import { parseCount } from '../arguments.ts';
import { type Context, examples } from '../context.ts';
import { CliError, EXIT } from '../exit.ts';

type DemoFlags = { topology: Topology; nodes?: number; fleet?: true; clusters: number; exit?: true };

const AGENT_CONFIG = '/etc/kwfleet/agent.yaml';

/** Adds the commands that run the parts of the system. */
export function addServices(program: Command, context: Context): void {
  program
    .command('controller')
    .helpGroup('Run the parts:')
    .description('Run a controller: REST on 7080, agents on 7090')
    .option('--config <FILE>', 'its configuration; without one, defaults and an embedded PostgreSQL')
    .addHelpText('after', examples('kwfleet controller', 'kwfleet controller --config /etc/kwfleet/controller.yaml'))
    .action(({ config }: { config?: string }) => runController(context, config));
  program
    .command('agent')
    .helpGroup('Run the parts:')
    .description('Run the agent of this host')
    .option('--config <FILE>', 'its configuration', AGENT_CONFIG)
    .addHelpText('after', examples('kwfleet agent', 'kwfleet agent --config ./agent.yaml'))
    .action(async ({ config }: { config: string }) => {
      const { loadAgentConfig, runAgent } = await whole(() => import('@kwfleet/agent'));
      const loaded = await loadAgentConfig(config);
      await context.untilInterrupted((signal) => runAgent(loaded, { signal }));
    });
  addDemo(program, context);
}

function addDemo(program: Command, context: Context): void {
  program
    .command('demo')
    .helpGroup('Run the parts:')
    .description('Upgrade a cluster of stand-in nodes on this machine, before your eyes; touches nothing outside')
    .addOption(
      new Option('--topology <TOPOLOGY>', 'of the cluster')
        .choices(['multi-replica', 'single-replica', 'standalone'])
        .default('multi-replica'),
    )
    .option('--nodes <N>', 'how many nodes (default: 3, standalone: 1)', parseCount)
    .option('--fleet', 'instead: a rollout over many clusters in waves, with a window, approvals and failures')
    .option('--clusters <N>', 'with --fleet: how many', parseCount, 60)
    .option('--exit', 'end when the upgrade has ended, with its exit code')
    .addHelpText(
      'after',
      examples(
        'kwfleet demo',
        'kwfleet demo --topology single-replica --nodes 5 --exit',
        'kwfleet demo --fleet --exit',
      ),
    )
    .action(async (flags: DemoFlags) => {
      if (flags.fleet) {
        const { fleetDemo } = await whole(() => import('../fleet-demo/fleet-demo.ts'));
        const { clusters, exit = false } = flags;
        context.exitCode = await context.untilInterrupted((signal) => fleetDemo({ clusters, exit, signal }));
        return;
      }
      const { demo } = await whole(() => import('../demo.ts'));
      context.exitCode = await demo({ ...flags, exit: flags.exit === true });
    });
}

async function runController(context: Context, file: string | undefined): Promise<void> {
  const { loadControllerConfig, startController } = await whole(() => import('@kwfleet/controller'));
  // From before the start on: a Ctrl-C while PostgreSQL starts must not leave it behind.
  await context.untilInterrupted(async (signal) => {
    const controller = await startController(loadControllerConfig(file));
    context.errors.lines([
      `kwfleet controller: REST ${controller.restUrl}, agents ${controller.grpcAddress}`,
      'Ctrl-C ends it; upgrades that run are taken up again at the next start.',
    ]);
    await aborted(signal);
    await controller.close();
  });
}

const aborted = (signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener('abort', () => resolve(), { once: true });
  });

/** Loads a part, or says that it is not there. */
async function whole<T>(load: () => Promise<T>): Promise<T> {
  try {
    return await load();
  } catch (error) {
    if (!(error instanceof Error) || !('code' in error) || error.code !== 'ERR_MODULE_NOT_FOUND') throw error;
    throw new CliError(EXIT.error, `A part of kwfleet is not installed here: ${error.message}`, {
      remedy: 'Install kwfleet whole: this command needs more than the client.',
    });
  }
}
