/** What went wrong with a call of the engine, in words for an operator. */
import { FleetError } from '@kwfleet/core';

/** The HTTP status that the engine answered with; undefined when it did not answer. */
export const statusOf = (error: unknown): number | undefined =>
  (error as { statusCode?: number } | undefined)?.statusCode;

/** Nobody listens, the connection broke, or no answer came in time. */
export function isSilent(error: unknown): boolean {
  const { code } = error as NodeJS.ErrnoException;
  return statusOf(error) === undefined && ['ECONNREFUSED', 'ENOENT', 'ECONNRESET', 'EPIPE'].includes(code ?? '');
}

/** The failure of a call that was to `what`, by what is the matter: ENGINE_SILENT, DISK_FULL or ENGINE_FAILED. */
export function failed(what: string, error: unknown): FleetError {
  if ((error as NodeJS.ErrnoException).code === 'EACCES') {
    return new FleetError('ENGINE_SILENT', 'the agent may not speak to the Docker engine', { cause: error });
  }
  const words = wordsOfError(error);
  if (/^(Abort|Timeout)Error$/.test((error as Error).name)) {
    return new FleetError('ENGINE_SILENT', `the Docker engine did not ${what} in time`, { words, cause: error });
  }
  if (/no space left on device/i.test(words)) {
    return new FleetError('DISK_FULL', `no space left for the Docker engine to ${what}`, { words, cause: error });
  }
  return new FleetError('ENGINE_FAILED', `the Docker engine could not ${what}`, { words, cause: error });
}

/** The engine's own words. */
export function wordsOfError(error: unknown): string {
  const said = (error as { json?: { message?: string } }).json?.message;
  return (said ?? (error instanceof Error ? error.message : String(error))).slice(-2000);
}
