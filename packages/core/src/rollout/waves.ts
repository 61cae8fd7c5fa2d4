/** Which cluster goes in which wave. */
import { type Selectable, selects } from '../selector.ts';
import type { RolloutFile } from './file.ts';

export type WaveOf = { readonly name: string; readonly clusters: readonly string[] };

/** The clusters that a rollout is about, in the order in which they are taken: by name. */
export function chosen<T extends Selectable>({ select = {}, except }: RolloutFile, clusters: readonly T[]): T[] {
  return clusters
    .filter((cluster) => selects(select, cluster) && !(except !== undefined && selects(except, cluster)))
    .toSorted((a, b) => a.name.localeCompare(b.name, 'en') || a.id.localeCompare(b.id, 'en'));
}

/**
 * Each wave takes of what the waves before it left: so many, so many percent of all chosen (rounded up), those that it
 * selects, or all. `left` are clusters that no wave took.
 */
export function assignWaves(file: RolloutFile, clusters: readonly Selectable[]): { waves: WaveOf[]; left: string[] } {
  let rest = [...clusters];
  const waves = file.waves.map(({ name, count, percent, select }): WaveOf => {
    const most =
      count ??
      (percent === undefined ? rest.length : Math.ceil((clusters.length * Number.parseInt(percent, 10)) / 100));
    const taken = select === undefined ? rest.slice(0, most) : rest.filter((cluster) => selects(select, cluster));
    rest = rest.filter((cluster) => !taken.includes(cluster));
    return { name, clusters: taken.map(({ id }) => id) };
  });
  return { waves, left: rest.map(({ id }) => id) };
}
