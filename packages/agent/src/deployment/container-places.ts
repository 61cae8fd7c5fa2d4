/** What makes up a node that runs in a container, on its host; and why a copy of it would not hold the node. */
import { posix } from 'node:path';
import { isWithin } from '../backup/tree.ts';
import { type ContainerCommand, onHost } from '../docker/command.ts';
import { projectOf } from '../docker/compose.ts';
import type { ContainerInspect, Engine } from '../docker/engine.ts';
import { securityOf, storeObstacle, storeOf } from '../host/start-command.ts';
import type { Site } from './deployment.ts';

type Places = NonNullable<Site['places']>;
type Mount = ContainerInspect['Mounts'][number];

/** For a container that people made, from the files of a compose project or by parameters, which the agent keeps in `made`. */
export async function containerPlaces(
  engine: Engine,
  inspect: ContainerInspect,
  command: ContainerCommand,
  made: string,
): Promise<Places> {
  const data = onHost(inspect, storeOf(command, inspect.Config.WorkingDir));
  const certificates = certificatesOf(inspect, command);
  const definition = [...(await projectFiles(inspect)), made];
  const obstacle = await containerObstacle(engine, inspect, command);
  return {
    // Those within the data are copied with them.
    ...(certificates === undefined || (data !== undefined && isWithin(certificates, data)) ? {} : { certificates }),
    configuration: [],
    definition,
    ...(obstacle === undefined ? {} : { obstacle }),
  };
}

/** Why the directory on the host would not hold the data of the container, or not while it is stopped; undefined when it would. */
export async function containerObstacle(
  engine: Engine,
  inspect: ContainerInspect,
  command: ContainerCommand,
): Promise<string | undefined> {
  const several = storeObstacle(command);
  if (several !== undefined) return several;
  const store = storeOf(command, inspect.Config.WorkingDir);
  const mounts = (inspect.Mounts ?? []).filter(({ Type }) => Type !== 'tmpfs');
  const within = mounts.find(({ Destination }) => Destination !== store && isWithin(Destination, store));
  if (within !== undefined)
    return `${within.Destination} is mounted within the store ${store}: a copy would leave it out`;
  const paths = [store, ...(securityOf(command) === 'insecure' ? [] : [command.flags.get('certs-dir') ?? ''])];
  for (const path of paths) {
    const mount = deepest(mounts, path);
    const reason = mount === undefined ? undefined : await volumeObstacle(engine, mount);
    if (reason !== undefined) return `${path} lies in the volume ${mount?.Name}, ${reason}`;
  }
  return undefined;
}

function certificatesOf(inspect: ContainerInspect, command: ContainerCommand): string | undefined {
  return securityOf(command) === 'insecure' ? undefined : onHost(inspect, command.flags.get('certs-dir') ?? '');
}

function deepest(mounts: readonly Mount[], path: string): Mount | undefined {
  return mounts
    .filter(({ Destination }) => isWithin(path, posix.normalize(Destination)))
    .sort((a, b) => b.Destination.length - a.Destination.length)[0];
}

/** Of a plain volume the engine keeps a directory; others it mounts for as long as a container runs. */
async function volumeObstacle(engine: Engine, { Type, Name, Driver }: Mount): Promise<string | undefined> {
  if (Type !== 'volume' || Name === undefined) return undefined;
  if (Driver !== 'local') return `whose driver is ${Driver}: what it holds is not the host's to copy`;
  const options = Object.entries((await engine.volume(Name))?.Options ?? {});
  if (options.length === 0) return undefined;
  const said = options.map(([name, value]) => `${name}=${value}`).join(' ');
  return `which the engine mounts only while the container runs (${said})`;
}

/** Those of a project that are gone cannot be copied: whoever upgrades it is told so. */
async function projectFiles(inspect: ContainerInspect): Promise<string[]> {
  const project = await projectOf(inspect).catch(() => undefined);
  if (project === undefined) return [];
  const { files, environment } = project;
  return [...new Set([...files, ...(environment === undefined ? [] : [environment])])];
}
