/** A rollout as people write it: which clusters, to which version, in which order, how fast, and when to stop. */
import Type, { type Static } from 'typebox';
import { durationMs, knownDurationMs } from '../duration.ts';
import { ATTESTED_MAX_AGE_MS, Backup, type PlanOptions, Route } from '../plan.ts';
import { Selector } from '../selector.ts';
import { isVersion } from '../version.ts';
import { checkWindow, DurationText, LocalMoment, OpeningRule, type Window } from '../windows/window.ts';
import { type BrokenRule, readWritten, type Written } from '../written.ts';

const strict = { additionalProperties: false } as const;
const Name = Type.String({
  pattern: '^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$',
  description: 'a name of letters, digits, ".", "_" and "-"',
});
const Count = Type.Integer({ minimum: 1, maximum: 100_000, description: 'a whole number from 1 on' });
const WaveFailure = Type.Union([Type.Literal('continue'), Type.Literal('pause')], {
  description: '"continue" or "pause"',
});
const Percent = Type.String({ pattern: '^(100|[1-9]?\\d)%$', description: 'a percentage like "10%"' });

/** Takes clusters that no wave before it took: so many, so many percent of all, those that it selects, or all that are left. */
export const WaveFile = Type.Object(
  {
    name: Name,
    count: Type.Optional(Count),
    percent: Type.Optional(Percent),
    select: Type.Optional(Selector),
    /** After it, before the next; instead of the rollout's. */
    soak: Type.Optional(DurationText),
    onFailure: Type.Optional(WaveFailure),
    /** A policy whose people must agree before this wave begins. */
    approval: Type.Optional(Name),
  },
  { ...strict, description: 'a wave: a name, and possibly one of count, percent and select' },
);
export type WaveFile = Static<typeof WaveFile>;

export const Limits = Type.Object(
  {
    clusters: Type.Optional(Count),
    hosts: Type.Optional(Count),
    /** The same for all clusters that have one value of a label. */
    per: Type.Optional(
      Type.Object(
        {
          label: Type.String({ minLength: 1, maxLength: 63, description: 'the name of a label, like site' }),
          clusters: Type.Optional(Count),
          hosts: Type.Optional(Count),
        },
        { ...strict, description: 'limits for each value of a label: label, clusters, hosts' },
      ),
    ),
  },
  { ...strict, description: 'how much at once: clusters, hosts, per' },
);
export type Limits = Static<typeof Limits>;

export const Start = Type.Object(
  {
    zone: Type.String({ minLength: 1, maxLength: 64, description: 'an IANA time zone like Europe/Berlin' }),
    at: Type.Optional(LocalMoment),
    every: Type.Optional(
      Type.Object(
        {
          weekly: OpeningRule.properties.weekly,
          monthly: OpeningRule.properties.monthly,
          dates: OpeningRule.properties.dates,
          at: OpeningRule.properties.at,
        },
        { ...strict, description: 'a recurrence: one of weekly, monthly or dates, with at' },
      ),
    ),
    missed: Type.Optional(
      Type.Union([Type.Literal('run'), Type.Literal('skip')], { description: '"run" (catch up) or "skip"' }),
    ),
    /** It was missed when it could not begin within so long. */
    grace: Type.Optional(DurationText),
  },
  { ...strict, description: 'when it begins: zone, with at or every' },
);
export type Start = Static<typeof Start>;

export const RolloutFile = Type.Object(
  {
    name: Name,
    to: Type.String({ minLength: 1, maxLength: 60, description: 'a version like 3.1.0' }),
    select: Type.Optional(Selector),
    except: Type.Optional(Selector),
    waves: Type.Array(WaveFile, { minItems: 1, maxItems: 100, description: 'a list of at least one wave' }),
    limits: Type.Optional(Limits),
    soak: Type.Optional(DurationText),
    failures: Type.Optional(
      Type.Object(
        {
          budget: Type.Optional(
            Type.Union([Type.Integer({ minimum: 0, maximum: 100_000 }), Percent], {
              description: 'how many clusters may fail: a number like 2, or a percentage like "5%"',
            }),
          ),
          wave: Type.Optional(WaveFailure),
        },
        { ...strict, description: 'what failures do: budget, wave' },
      ),
    ),
    /** A policy whose people must agree to the rollout as a whole; policies that select its clusters count too. */
    approval: Type.Optional(Name),
    windows: Type.Optional(Type.Array(Name, { minItems: 1, maxItems: 20, description: 'a list of names of windows' })),
    prefetch: Type.Optional(DurationText),
    backup: Backup,
    options: Type.Optional(
      Type.Object(
        {
          route: Type.Optional(Type.Union(Route.anyOf, { description: '"offline" or "online"' })),
          soak: Type.Optional(DurationText),
          sampleGap: Type.Optional(DurationText),
          concurrency: Type.Optional(Count),
          bypassVersionCheck: Type.Optional(Type.Boolean({ description: 'true or false' })),
        },
        { ...strict, description: 'options of each upgrade: route, soak, sampleGap, concurrency, bypassVersionCheck' },
      ),
    ),
    start: Type.Optional(Start),
  },
  { ...strict, description: 'a rollout: name, to, waves, backup and more' },
);
export type RolloutFile = Static<typeof RolloutFile>;

/** What the schema cannot say. */
export function checkRollout(file: RolloutFile): BrokenRule[] {
  const broken: BrokenRule[] = [];
  const add = (path: BrokenRule['path'], expected: string) => broken.push({ path, expected });
  if (!isVersion(file.to)) add(['to'], 'a version like 3.1.0 or 3.1.0-hotfix1');
  const names = new Set<string>();
  let takesRest: string | undefined;
  for (const [i, wave] of file.waves.entries()) {
    const kinds = [wave.count, wave.percent, wave.select].filter((kind) => kind !== undefined);
    if (kinds.length > 1) add(['waves', i], 'at most one of count, percent and select');
    if (names.has(wave.name)) add(['waves', i, 'name'], 'a name that no other wave has');
    if (takesRest !== undefined)
      add(['waves', i], `no wave after "${takesRest}", which takes all clusters that are left`);
    if (kinds.length === 0) takesRest ??= wave.name;
    names.add(wave.name);
  }
  const { start, backup } = file;
  if (backup.policy === 'attested' && backup.atMs === undefined) {
    const { maxAgeMs = ATTESTED_MAX_AGE_MS } = backup;
    const soaksMs = file.waves
      .slice(0, -1)
      .reduce((sum, { soak = file.soak ?? '0s' }) => sum + (durationMs(soak) ?? 0), 0);
    const expected = `a maxAgeMs above ${soaksMs}, what its waves soak: the backup expires before the last wave begins`;
    if (soaksMs >= maxAgeMs) add(['backup'], expected);
  }
  if (start !== undefined) {
    if ((start.at === undefined) === (start.every === undefined)) add(['start'], 'exactly one of at and every');
    const { at } = start;
    const probe: Window = {
      name: 'start',
      zone: start.zone,
      open: start.every === undefined ? [] : [{ ...start.every, for: EVERY_FOR }],
      ...(at === undefined ? {} : { freezes: [{ from: at, until: '9999-12-31' }] }),
    };
    for (const { path, expected } of checkWindow(probe)) {
      const where = path[0] === 'zone' ? ['zone'] : path[0] === 'open' ? ['every', ...path.slice(2)] : ['at'];
      add(['start', ...where], expected);
    }
    if (start.grace !== undefined && start.missed !== 'skip') add(['start', 'grace'], 'missed: skip beside it');
  }
  return broken;
}

/** A rollout as it is written in a YAML or JSON file. */
export const readRollout = (text: string): Written<RolloutFile> => readWritten(text, RolloutFile, checkRollout);

/** An occurrence is a moment; as an opening it is long enough that no change of the clocks swallows it. */
export const EVERY_FOR = '3h';

/**
 * The options of each cluster's plan. A backup that was attested without a time counts from when the rollout began, so
 * that the same file leads to the same plans.
 */
export function planOptions({ backup, options = {} }: RolloutFile, begunAtMs: number): Partial<PlanOptions> {
  const { route, soak, sampleGap, concurrency, bypassVersionCheck } = options;
  return {
    backup: backup.policy === 'attested' ? { ...backup, atMs: backup.atMs ?? begunAtMs } : backup,
    ...(route !== undefined && { route }),
    ...(soak !== undefined && { soakMs: knownDurationMs(soak) }),
    ...(sampleGap !== undefined && { sampleGapMs: knownDurationMs(sampleGap) }),
    ...(concurrency !== undefined && { concurrency }),
    ...(bypassVersionCheck !== undefined && { bypassVersionCheck }),
  };
}
