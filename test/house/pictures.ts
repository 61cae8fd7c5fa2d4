/**
 * The state machines of a run and of a step, as pictures: drawn from what the engine itself does in some thousand games
 * of its test model, so that a picture cannot say what the code does not do. The same games each time.
 */
import { apply, type RunState, type Topology } from '@kwfleet/core';
import { draft, fleet, planOf } from '../../packages/core/test/builders.ts';
import { approvalFor, WINDOWS } from '../../packages/core/test/conditions.ts';
import { HOUR, MINUTE, Model, SECOND } from '../../packages/core/test/model.ts';

const GAMES = 600;
const MOVES = 60;
const TOPOLOGIES: readonly Topology[] = ['multi-replica', 'single-replica', 'standalone'];
const WAITS = [SECOND, 6 * SECOND, 31 * SECOND, 61 * SECOND, 3 * MINUTE, 16 * MINUTE, 7 * HOUR];

/** Numerical Recipes' generator: enough for games, and the same everywhere. */
function dice(seed: number): (sides: number) => number {
  let state = seed >>> 0;
  return (sides) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * sides);
  };
}

const at = <T>(list: readonly T[], index: number): T | undefined => list[index % Math.max(1, list.length)];

function play(seed: number): Model {
  const roll = dice(seed);
  const topology = TOPOLOGIES[seed % TOPOLOGIES.length] ?? 'standalone';
  const plan = planOf(draft(fleet(topology, topology === 'standalone' ? 1 : 3)));
  const approval = seed % 4 === 0 ? approvalFor(plan, [1, 1]) : undefined;
  const model = new Model(plan, approval, seed % 5 === 0 ? WINDOWS : undefined);
  const calm = roll(24);
  for (let move = 0; move < MOVES && !model.ended; move++) {
    model.settle();
    const order = at(model.orders, roll(9));
    const node = at(model.hosts, roll(9))?.node ?? '';
    const kind = move < calm ? 0 : roll(12);
    if (kind <= 5 && order !== undefined) model.finish(order);
    else if (kind === 6 && order !== undefined) model.finish(order, { disposition: 'broken', code: 'START_FAILED' });
    else if (kind === 7) model.disconnect(node);
    else if (kind === 8) model.reconnect(node);
    else if (kind === 9) model.wait(at(WAITS, roll(7)) ?? SECOND);
    else if (kind === 10)
      model.request(at(['pause', 'resume', 'retry', 'retry', 'abort'] as const, roll(5)) ?? 'retry');
    else if (kind === 11) model.approve('bo', at(['start', 'irreversible'] as const, roll(2)));
    else model.wait(model.state.wait === undefined ? 2 * SECOND : HOUR);
  }
  return model;
}

/** `FROM --> TO: EVENT` for every change that was seen, by what `pick` takes from a state. */
function edges(models: readonly Model[], pick: (state: RunState) => ReadonlyMap<string, string>): string[] {
  const seen = new Set<string>();
  for (const model of models) {
    let state = model.initial;
    for (const event of model.events) {
      const before = pick(state);
      state = apply(model.plan, state, event);
      for (const [key, after] of pick(state)) {
        const from = before.get(key);
        if (from !== undefined && from !== after) seen.add(`${from} --> ${after}: ${event.type}`);
      }
    }
  }
  return [...seen].sort();
}

const stepsOf = (state: RunState) => new Map(Object.entries(state.steps).map(([id, { status }]) => [id, status]));

function diagram(begins: readonly string[], lines: readonly string[], ends: readonly string[]): string {
  const all = [...begins.map((begin) => `[*] --> ${begin}`), ...lines, ...ends.map((end) => `${end} --> [*]`)];
  return ['```mermaid', 'stateDiagram-v2', ...all.map((line) => `  ${line}`), '```'].join('\n');
}

/** The section of docs/architecture.md. */
export function stateMachines(): string {
  const models = Array.from({ length: GAMES }, (_, seed) => play(seed));
  const run = edges(models, (state) => new Map([['run', state.status]]));
  const step = edges(models, stepsOf);
  return [
    `Drawn from the engine itself: every change of status that it made in ${GAMES} games of its test model, with the event`,
    'that made it. `apply.ts` is where events change the state, `decide.ts` what makes them.',
    '',
    '### A run',
    '',
    diagram(['planned', 'awaiting_approval'], run, ['succeeded', 'aborted']),
    '',
    '### A step of a run',
    '',
    'A step that is reset is asked again: a gate that said no, a look from a node whose agent went away.',
    '',
    diagram(['pending'], step, ['succeeded']),
  ].join('\n');
}
