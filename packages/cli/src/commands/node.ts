/** `node remove`: a host that left the fleet. */
import type { Command } from 'commander';
import { consents, needsConsent } from '../consent.ts';
import { type Context, examples } from '../context.ts';
import { oneLine } from '../render/text.ts';

/** Adds `node ...`. */
export function addNode(program: Command, context: Context): void {
  const node = program.command('node').helpCommand(false).helpGroup('Fleet:').description('Let a node leave the fleet');
  node.addHelpText('after', examples('kwfleet node remove db7'));
  node
    .command('remove')
    .description('Forget a node that is gone for good, and let its certificate open nothing any more')
    .argument('NODE', 'its name, as `kwfleet nodes` lists it')
    .option('--yes', 'do not ask')
    .addHelpText('after', examples('kwfleet node remove db7', 'kwfleet node remove db7 --yes'))
    .action(async (name: string, flags: { yes?: true }, command: Command) => {
      needsConsent(context, flags, 'kwfleet nodes');
      const question = `Remove ${oneLine(name)}? Its agent is turned away until it is enrolled anew; its runs and backups stay.`;
      if (!(await consents(question, flags))) return context.terminal.line('Nothing was changed.');
      await context.client(command).removeNode(name);
      context.terminal.line(`node ${oneLine(name)} is removed`);
    });
}
