/**
 * How a container was made, read back from its inspection, so that another one can be made alike with another image.
 * What is the image's own default is left out: the new image's default comes through.
 */
import { isDeepStrictEqual } from 'node:util';
import type Docker from 'dockerode';
import type { ContainerInspect, ContainerSpec, ImageInspect, RestartPolicy } from './engine.ts';

type Config = ContainerInspect['Config'] & Readonly<Record<string, unknown>>;
type ImageConfig = Partial<ContainerInspect['Config']> & Readonly<Record<string, unknown>>;
type Networks = Readonly<Record<string, Docker.EndpointSettings>>;

export type Recreation = {
  readonly spec: ContainerSpec;
  /** Networks to connect before the start: engines of an API before 1.44 take but one at the creation. */
  readonly networks: Networks;
};

/** From this minor version of the API on a creation takes several networks, and MAC addresses of each. Source: its history. */
const NETWORKS_AT_CREATION = 44;

/** Config fields that the image gives a default for, apart from those that need a merge. */
const DEFAULTED = ['User', 'WorkingDir', 'StopSignal', 'Healthcheck', 'Shell'] as const;
/** Config fields that are this container's alone. */
const OWN = [
  'Domainname',
  'AttachStdin',
  'AttachStdout',
  'AttachStderr',
  'Tty',
  'OpenStdin',
  'StdinOnce',
  'ArgsEscaped',
  'NetworkDisabled',
  'MacAddress',
  'StopTimeout',
] as const;
const ENDPOINT = ['IPAMConfig', 'Links', 'DriverOpts', 'GwPriority'] as const;

/**
 * `old`: the inspection of a stopped container (its networks then show what was asked for, not what was given), and of
 * its image. `name` and `policy` replace what a preparation for the exchange changed. `apiMinor`: of the engine's API.
 */
export function recreation(
  old: ContainerInspect,
  oldImage: ImageInspect,
  next: { readonly name: string; readonly image: string; readonly policy: RestartPolicy; readonly apiMinor: number },
): Recreation {
  const { name, image, policy, apiMinor } = next;
  const { MacAddress, ...config } = configOf(old, (oldImage.Config ?? {}) as ImageConfig);
  const [primary, others] = networksOf(old);
  const atOnce = apiMinor >= NETWORKS_AT_CREATION;
  const endpoints = atOnce && primary !== undefined ? { ...withMac(primary, MacAddress), ...others } : primary;
  const spec = {
    ...config,
    ...(atOnce || MacAddress === undefined ? {} : { MacAddress }),
    name,
    Image: image,
    HostConfig: { ...hostConfigOf(old, name), RestartPolicy: policy },
    ...(endpoints === undefined ? {} : { NetworkingConfig: { EndpointsConfig: endpoints } }),
  } as ContainerSpec;
  return { spec, networks: atOnce && primary !== undefined ? {} : others };
}

/** The container's own MAC address is its first network's since API 1.44, which takes it nowhere else. */
function withMac(primary: Networks, mac: unknown): Networks {
  if (typeof mac !== 'string' || mac === '') return primary;
  return Object.fromEntries(
    Object.entries(primary).map(([name, endpoint]) => [name, { ...endpoint, MacAddress: endpoint.MacAddress ?? mac }]),
  );
}

function configOf(old: ContainerInspect, image: ImageConfig): Record<string, unknown> {
  const config = old.Config as Config;
  const made: Record<string, unknown> = {};
  for (const key of OWN) if (config[key] !== undefined) made[key] = config[key];
  for (const key of DEFAULTED) {
    if (config[key] !== undefined && !isDeepStrictEqual(config[key], image[key])) made[key] = config[key];
  }
  if (hasOwnHostname(old)) made.Hostname = config.Hostname;
  const theirs = new Set(image.Env ?? []);
  made.Env = (config.Env ?? []).filter((line) => !theirs.has(line));
  made.Labels = without(config.Labels, image.Labels);
  made.ExposedPorts = without(config.ExposedPorts, image.ExposedPorts);
  made.Volumes = without(config.Volumes, image.Volumes);
  return { ...made, ...commandOf(config, image) };
}

/**
 * An engine takes the image's command only together with its entrypoint, so a container without a command has an
 * entrypoint of its own, even where the two are alike.
 */
function commandOf(config: Config, image: ImageConfig): Record<string, unknown> {
  const own = listOf(config.Entrypoint);
  const theirs = listOf(image.Entrypoint);
  const command = config.Cmd ?? [];
  const bare = command.length === 0 && (image.Cmd ?? []).length > 0;
  const sameEntrypoint = isDeepStrictEqual(own, theirs) && !bare;
  const sameCommand = isDeepStrictEqual(command, image.Cmd ?? []);
  return {
    ...(sameEntrypoint ? {} : { Entrypoint: own }),
    ...(sameEntrypoint && sameCommand ? {} : { Cmd: command }),
  };
}

const listOf = (value: string | string[] | null | undefined): string[] =>
  value === null || value === undefined ? [] : typeof value === 'string' ? [value] : value;

/** Without `--hostname` it is the beginning of the container's id; on another's network it is that one's. */
function hasOwnHostname({ Id, Config, HostConfig }: ContainerInspect): boolean {
  const mode = HostConfig.NetworkMode ?? '';
  if (mode === 'host' || mode.startsWith('container:') || HostConfig.UTSMode === 'host') return false;
  return Config.Hostname !== '' && Config.Hostname !== Id.slice(0, 12);
}

function without<T>(own: Record<string, T> | null | undefined, theirs: Record<string, T> | null | undefined) {
  const kept = Object.entries(own ?? {}).filter(([key, value]) => !isDeepStrictEqual(theirs?.[key], value));
  return Object.fromEntries(kept);
}

function hostConfigOf(old: ContainerInspect, name: string): Record<string, unknown> {
  const host = old.HostConfig as Docker.HostConfig & Record<string, unknown>;
  const anonymous = anonymousVolumes(old);
  const mounts = (host.Mounts ?? []).map((mount) => {
    const volume = anonymous.get(mount.Target);
    if (mount.Type !== 'volume' || (mount.Source ?? '') !== '' || volume === undefined) return mount;
    anonymous.delete(mount.Target);
    return { ...mount, Source: volume.name };
  });
  const covered = new Set((host.Mounts ?? []).map(({ Target }) => Target));
  const binds = [...anonymous]
    .filter(([destination]) => !covered.has(destination))
    .map(([destination, { name: volume, mode }]) => `${volume}:${destination}${mode === '' ? '' : `:${mode}`}`);
  return {
    ...host,
    ContainerIDFile: '',
    Binds: [...(host.Binds ?? []), ...binds],
    ...(host.Mounts === undefined ? {} : { Mounts: mounts }),
    Links: (host.Links ?? []).map((link: string) => linkOf(link, name)),
  };
}

/** Volumes that nobody named, by where they are mounted: another container gets them by the names the engine gave. */
function anonymousVolumes(old: ContainerInspect): Map<string, { name: string; mode: string }> {
  const declared = new Set(Object.keys(old.Config.Volumes ?? {}));
  const bound = new Set((old.HostConfig.Binds ?? []).map((bind) => bind.split(':')[1]));
  for (const { Target, Type } of old.HostConfig.Mounts ?? []) if (Type === 'volume') declared.add(Target);
  const volumes = (old.Mounts ?? []).filter(
    ({ Type, Name, Destination }) =>
      Type === 'volume' && Name !== undefined && declared.has(Destination) && !bound.has(Destination),
  );
  return new Map(
    volumes.map(({ Name = '', Destination, RW, Mode }) => [
      Destination,
      { name: Name, mode: RW ? (Mode ?? '').replace(/\bro\b/, '') : 'ro' },
    ]),
  );
}

/** `/db:/kwdb/alias`, as an engine tells it, is `db:alias`, as it takes it. */
function linkOf(link: string, name: string): string {
  const [source = '', target = ''] = link.split(':');
  const alias = target.slice(target.lastIndexOf('/') + 1);
  return `${source.replace(/^\//, '')}:${alias === '' ? name : alias}`;
}

/** The network it was made on, and the others. */
function networksOf(old: ContainerInspect): [Networks | undefined, Networks] {
  const mode = old.HostConfig.NetworkMode ?? 'default';
  if (mode === 'host' || mode === 'none' || mode.startsWith('container:')) return [undefined, {}];
  const all = Object.entries(old.NetworkSettings.Networks ?? {}) as [string, Docker.EndpointSettings][];
  const isPrimary = ([name, { NetworkID }]: [string, Docker.EndpointSettings]) =>
    name === mode || NetworkID === mode || (mode === 'default' && name === 'bridge');
  const primary = all.find(isPrimary);
  const others = all.filter((entry) => entry !== primary);
  const cleaned = (entries: typeof all) =>
    Object.fromEntries(entries.map(([name, endpoint]) => [name, endpointOf(endpoint, old.Id)]));
  return [primary === undefined ? undefined : cleaned([primary]), cleaned(others)];
}

/** What was asked of a network: not the addresses that it gave. */
function endpointOf(endpoint: Docker.EndpointSettings, id: string): Docker.EndpointSettings {
  const told = endpoint as Docker.EndpointSettings & Record<string, unknown>;
  const asked = ENDPOINT.filter((key) => told[key] !== undefined && told[key] !== null).map((key) => [key, told[key]]);
  const aliases = (endpoint.Aliases ?? []).filter((alias) => alias !== id.slice(0, 12));
  const mac = endpoint.MacAddress ?? '';
  return {
    ...Object.fromEntries(asked),
    ...(aliases.length > 0 ? { Aliases: aliases } : {}),
    // An engine tells it of a stopped container only when it was asked for.
    ...(mac === '' ? {} : { MacAddress: mac }),
  } as Docker.EndpointSettings;
}
