/** Asking a person before anything begins. */
import type { Context } from './context.ts';
import { badInput } from './exit.ts';

type Flags = { yes?: true; json?: true };

/**
 * Throws where nobody could be asked and `--yes` is absent; called before anything is asked of the controller. `look`
 * is the command that shows what there is to agree to.
 */
export function needsConsent({ terminal }: Context, { yes, json }: Flags, look: string): void {
  const canAsk = terminal.isTTY && process.stdin.isTTY === true && !json;
  if (yes || canAsk) return;
  throw badInput('There is no terminal to ask for your consent.', `Look at \`${look}\`, then give --yes.`);
}

/** Whether the person says yes now, or said so with `--yes`. */
export async function consents(message: string, { yes }: Flags): Promise<boolean> {
  if (yes) return true;
  // Loaded only where somebody is asked.
  const { confirm } = await import('@clack/prompts');
  return (await confirm({ message, initialValue: false })) === true;
}
