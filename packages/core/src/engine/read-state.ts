import Schema from 'typebox/schema';
import { FleetError } from '../errors.ts';
import type { Plan } from '../plan.ts';
import { RunState, STATE_FORMAT } from './state.ts';

type Stored = Record<string, unknown> & { format: number };

/**
 * What brings a stored state from one format to the next, so that a run in flight survives the upgrade of the controller
 * itself. Added to when the format changes, never changed afterwards.
 */
const UPGRADES: Readonly<Record<number, (state: Stored, plan: Plan) => Stored>> = {
  // Format 2 knows the way back of an abort: its steps, and whether a person gave up even that.
  1: (state, plan) => ({
    ...state,
    format: 2,
    abandoned: false,
    steps: {
      ...(state.steps as object),
      ...Object.fromEntries((plan.backOut ?? []).map(({ id }) => [id, { status: 'pending', attempt: 0 }])),
    },
  }),
  // Format 3 knows approvals: no policy asked anything of a run from before.
  2: (state) => ({ ...state, format: 3 }),
};

const checker = Schema.Compile(RunState);

/**
 * A stored state as this version of the engine knows it. Throws STATE_NEWER for one of a newer kwfleet, which a controller
 * must leave alone, and INTERNAL for one that is damaged.
 */
export function readState(stored: unknown, plan: Plan): RunState {
  let state = stored as Stored;
  if (typeof state?.format !== 'number') throw new FleetError('INTERNAL', 'a stored run has no format');
  if (state.format > STATE_FORMAT) {
    throw new FleetError(
      'STATE_NEWER',
      `the run is stored in format ${state.format}; this controller knows ${STATE_FORMAT}`,
    );
  }
  while (state.format < STATE_FORMAT) {
    const upgrade = UPGRADES[state.format];
    if (upgrade === undefined) throw new FleetError('INTERNAL', `nothing reads format ${state.format} of a stored run`);
    state = upgrade(state, plan);
  }
  if (checker.Check(state)) return state;
  const [, errors] = checker.Errors(state);
  throw new FleetError('INTERNAL', `a stored run is damaged: ${errors[0]?.instancePath} ${errors[0]?.message}`);
}
