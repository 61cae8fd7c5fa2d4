/** Which clusters something is about: by labels, names, versions, methods and topologies. */
import Type, { type Static } from 'typebox';
import { Method, Topology } from './facts.ts';
import { compareVersions, isVersion, parseVersion } from './version.ts';

const VERSION = '[0-9][0-9A-Za-z.\\- ]{0,59}';
const strict = { additionalProperties: false } as const;
const LabelValue = Type.String({ maxLength: 200 });

/** Every key that is given must fit; of a list, one. An empty selector fits every cluster. */
export const Selector = Type.Object(
  {
    labels: Type.Optional(
      Type.Record(
        Type.String({ pattern: '^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$' }),
        Type.Union([LabelValue, Type.Array(LabelValue, { minItems: 1, maxItems: 100 })], {
          description: 'a value, a list of values, or "*" for any value',
        }),
        {
          maxProperties: 64,
          additionalProperties: false,
          description: 'labels and their values, like `env: production`',
        },
      ),
    ),
    clusters: Type.Optional(
      Type.Array(Type.String({ minLength: 1, maxLength: 253, description: 'the name or id of a cluster' }), {
        minItems: 1,
        maxItems: 10_000,
        description: 'a list of names or ids of clusters',
      }),
    ),
    versions: Type.Optional(
      Type.Array(
        Type.String({
          pattern: `^(<|<=|>|>=)?${VERSION}$`,
          description: 'a version like 3.0.0, or one with <, <=, > or >= before it',
        }),
        { minItems: 1, maxItems: 100, description: 'a list of versions, like [3.0.0] or ["<3.1.0"]' },
      ),
    ),
    methods: Type.Optional(
      Type.Array(
        Type.Union(Method.anyOf, { description: 'one of script-bare, script-container, compose, docker-run, source' }),
        { minItems: 1, maxItems: 10, description: 'a list of deployment methods' },
      ),
    ),
    topologies: Type.Optional(
      Type.Array(Type.Union(Topology.anyOf, { description: 'one of standalone, multi-replica, single-replica' }), {
        minItems: 1,
        maxItems: 3,
        description: 'a list of topologies',
      }),
    ),
  },
  { ...strict, description: 'a map with labels, clusters, versions, methods or topologies' },
);
export type Selector = Static<typeof Selector>;

/** What a selector looks at. */
export type Selectable = {
  readonly id: string;
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  /** Versions and methods found on its nodes, each once. */
  readonly versions: readonly string[];
  readonly methods: readonly string[];
  readonly topology?: string | undefined;
};

/** Whether the cluster is meant. A version or method fits when any node of the cluster has it. */
export function selects(selector: Selector, cluster: Selectable): boolean {
  const { labels = {}, clusters, versions, methods, topologies } = selector;
  return (
    Object.entries(labels).every(([key, wanted]) => fitsLabel(cluster.labels[key], wanted)) &&
    (clusters === undefined || clusters.includes(cluster.id) || clusters.includes(cluster.name)) &&
    (versions === undefined ||
      cluster.versions.some((version) => versions.some((want) => fitsVersion(version, want)))) &&
    (methods === undefined || cluster.methods.some((method) => methods.some((want) => want === method))) &&
    (topologies === undefined || topologies.some((want) => want === cluster.topology))
  );
}

function fitsLabel(value: string | undefined, wanted: string | readonly string[]): boolean {
  if (value === undefined) return false;
  return (typeof wanted === 'string' ? [wanted] : wanted).some((want) => want === '*' || want === value);
}

function fitsVersion(version: string, wanted: string): boolean {
  const [, sign = '', bound = ''] = /^(<=|>=|<|>)?(.*)$/.exec(wanted) ?? [];
  if (!isVersion(version) || !isVersion(bound)) return version === bound;
  const order = compareVersions(parseVersion(version), parseVersion(bound));
  switch (sign) {
    case '<':
      return order < 0;
    case '<=':
      return order <= 0;
    case '>':
      return order > 0;
    case '>=':
      return order >= 0;
    default:
      return order === 0;
  }
}
