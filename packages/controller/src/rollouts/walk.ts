/** Walks all rollouts, turn by turn. */
import type { Logger } from 'pino';
import { type Loop, startLoop } from '../runner/loop.ts';
import type { Database } from '../store/database.ts';
import { activeRollouts } from '../store/rollouts.ts';
import { advanceRollout } from './turn.ts';

/** Agents that lost their controller, or that could not be heard because the database was away, are back within this time. */
const SETTLED_MS = 30_000;

/** `owner`: this controller, among those that share the database. Start it once agents can connect. */
export function startRollouts(database: Database, owner: string, log: Logger): Loop {
  let listeningSinceMs: number | undefined;
  const isSettled = () => listeningSinceMs !== undefined && performance.now() - listeningSinceMs >= SETTLED_MS;
  return startLoop({
    active: async () => {
      try {
        const ids = await activeRollouts(database);
        listeningSinceMs ??= performance.now();
        return ids;
      } catch (error) {
        listeningSinceMs = undefined;
        throw error;
      }
    },
    advance: (id) => advanceRollout(database, owner, id, isSettled()),
    onError: (error, rollout) => log.error({ err: error, rollout }, 'a turn of a rollout failed; it is tried again'),
  });
}
