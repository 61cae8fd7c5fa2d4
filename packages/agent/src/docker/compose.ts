/** A compose project as its container's labels tell it, and the compose program of this host. */
import { constants } from 'node:fs';
import { access, readFile, stat } from 'node:fs/promises';
import { basename, isAbsolute, join } from 'node:path';
import { FleetError } from '@kwfleet/core';
import { parse } from 'yaml';
import { runShort, wordsOf } from '../host/run.ts';
import type { ProjectFile } from './compose-file.ts';
import type { ContainerInspect } from './engine.ts';

export const LABELS = {
  project: 'com.docker.compose.project',
  service: 'com.docker.compose.service',
  workingDir: 'com.docker.compose.project.working_dir',
  files: 'com.docker.compose.project.config_files',
  environment: 'com.docker.compose.project.environment_file',
  version: 'com.docker.compose.version',
  hash: 'com.docker.compose.config-hash',
  oneOff: 'com.docker.compose.oneoff',
} as const;

const PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
const CONFIG_TIMEOUT_MS = 60_000;
/** A compose file is a few KiB. */
const FILE_LIMIT_BYTES = 4 * 1024 * 1024;

export type Project = {
  readonly name: string;
  readonly service: string;
  readonly directory: string;
  /** Absolute, in the order in which compose reads them. */
  readonly files: readonly string[];
  /** The env file that variables are taken from, when there is one. */
  readonly environment: string | undefined;
  /** Of the compose that made the container: `1.29.2`. */
  readonly version: string;
};

/** Throws COMPOSE_UNFIT when a label is missing, or a file is not where it says. */
export async function projectOf({ Config }: Pick<ContainerInspect, 'Config'>): Promise<Project> {
  const label = (name: keyof typeof LABELS): string => {
    const value = Config.Labels?.[LABELS[name]];
    if (value === undefined || value === '') throw unfit(`the container has no label ${LABELS[name]}`);
    return value;
  };
  const directory = label('workingDir');
  const files: string[] = [];
  for (const named of label('files').split(',')) files.push(await fileAt(named, directory));
  const given = Config.Labels?.[LABELS.environment]?.split(',')[0];
  const environment = given === undefined || given === '' ? join(directory, '.env') : given;
  const isThere = (await stat(environment).catch(() => null))?.isFile() === true;
  if (given !== undefined && given !== '' && !isThere) throw unfit(`the project's env file ${given} is gone`);
  return {
    name: label('project'),
    service: label('service'),
    directory,
    files,
    environment: isThere ? environment : undefined,
    version: Config.Labels?.[LABELS.version] ?? '',
  };
}

/** Compose 1 tells files as they were given to it, from wherever that was. */
async function fileAt(named: string, directory: string): Promise<string> {
  const places = isAbsolute(named) ? [named] : [join(directory, named), join(directory, basename(named))];
  for (const place of places) if ((await stat(place).catch(() => null))?.isFile() === true) return place;
  throw unfit(`the project's file ${named} is not in ${directory} any more`);
}

/** Reads a file of the project. Throws COMPOSE_UNFIT for one that is no UTF-8, or huge. */
export async function readProjectFile(path: string): Promise<ProjectFile> {
  const bytes = await readFile(path);
  const text = bytes.toString('utf8');
  if (bytes.length > FILE_LIMIT_BYTES || !Buffer.from(text).equals(bytes)) {
    throw unfit(`${path} is no text in UTF-8 of a size that a compose file has`);
  }
  return { path, text };
}

export const unfit = (message: string, words?: string): FleetError =>
  new FleetError('COMPOSE_UNFIT', message, words === undefined ? {} : { words });

/** The compose program, as the start of an argument list. */
export type ComposeProgram = { readonly argv: readonly [string, ...string[]]; readonly major: string };

export class Compose {
  readonly #environment: Readonly<Record<string, string>>;

  constructor(options: { readonly socket: string }) {
    this.#environment = { PATH, HOME: '/root', LC_ALL: 'C.UTF-8', DOCKER_HOST: `unix://${options.socket}` };
  }

  /** What a compose run needs; no variable of the agent's own reaches a project. */
  get environment(): Readonly<Record<string, string>> {
    return this.#environment;
  }

  /** `docker-compose` or `docker compose`, that of the generation which made the project where both are here. */
  async program(version: string): Promise<ComposeProgram> {
    const found: ComposeProgram[] = [];
    for (const argv of await candidates()) {
      const told = await this.#run(argv, ['version', '--short']);
      const major = /^v?(\d+)\./.exec(told.stdout.trim())?.[1];
      if (told.exitCode === 0 && major !== undefined) found.push({ argv, major });
    }
    const [own = version] = version.replace(/^v/, '').split('.');
    const chosen = found.find(({ major }) => major === own || (own !== '1' && major !== '1')) ?? found[0];
    if (chosen === undefined) throw unfit('neither docker-compose nor the compose plugin of docker is on this host');
    return chosen;
  }

  /** The project as compose itself puts it together from these files. Throws COMPOSE_UNFIT with compose's own words. */
  async config(program: ComposeProgram, args: readonly string[]): Promise<ResolvedProject> {
    const ended = await this.#run(program.argv, [...args, 'config']);
    if (ended.exitCode !== 0) throw unfit('compose does not take the files of the project', wordsOf(ended));
    const content = parse(ended.stdout) as { services?: Record<string, { image?: unknown }> };
    return content as ResolvedProject;
  }

  /** Hash of a service's configuration, as the label of its container has it. */
  async hash(program: ComposeProgram, args: readonly string[], service: string): Promise<string | undefined> {
    const ended = await this.#run(program.argv, [...args, 'config', `--hash=${service}`]);
    return ended.exitCode === 0 ? ended.stdout.trim().split(/\s+/).at(-1) : undefined;
  }

  /** Throws COMPOSE_UNFIT when compose cannot speak to the engine: the files alone do not tell that. */
  async reach(program: ComposeProgram, args: readonly string[], service: string): Promise<void> {
    const ended = await this.#run(program.argv, [...args, 'ps', '-q', service]);
    if (ended.exitCode !== 0) throw unfit('compose on this host cannot speak to its engine', wordsOf(ended));
  }

  #run(argv: readonly [string, ...string[]], args: readonly string[]) {
    const [file, ...before] = argv;
    return runShort(file, [...before, ...args], { timeoutMs: CONFIG_TIMEOUT_MS, env: this.#environment, cwd: '/' });
  }
}

export type ResolvedProject = {
  readonly services?: Readonly<Record<string, { readonly image?: string } & Readonly<Record<string, unknown>>>>;
} & Readonly<Record<string, unknown>>;

async function candidates(): Promise<[string, ...string[]][]> {
  const found: [string, ...string[]][] = [];
  for (const [name, ...more] of [['docker-compose'], ['docker', 'compose']] as const) {
    for (const directory of PATH.split(':')) {
      const file = join(directory, name);
      const isThere = await access(file, constants.X_OK).then(
        () => true,
        () => false,
      );
      if (isThere) {
        found.push([file, ...more]);
        break;
      }
    }
  }
  return found;
}

/** The arguments that name a project; `files` and `environment` may be others than its own, to try them. */
export function projectArguments(
  { name, directory, files, environment }: Pick<Project, 'name' | 'directory' | 'files' | 'environment'>,
  compatibility: boolean,
): string[] {
  return [
    ...(compatibility ? ['--compatibility'] : []),
    ...['--project-name', name, '--project-directory', directory],
    ...files.flatMap((file) => ['--file', file]),
    ...(environment === undefined ? [] : ['--env-file', environment]),
  ];
}
