/** The edit of a project, tried by compose itself before any file is touched. */
import { randomUUID } from 'node:crypto';
import { rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import {
  type Compose,
  type ComposeProgram,
  LABELS,
  type Project,
  projectArguments,
  type ResolvedProject,
  readProjectFile,
  unfit,
} from './compose.ts';
import { type Edit, imageEdit } from './compose-file.ts';
import type { ContainerInspect } from './engine.ts';
import { writeFailure } from './replace-file.ts';

export type ProjectEdit = Edit & {
  readonly program: ComposeProgram;
  /** Whether the container was made with `--compatibility`. */
  readonly compatibility: boolean;
};

/**
 * The edit that gives the container's service the image `reference`, and nothing else anything. Throws COMPOSE_UNFIT when
 * the files are not those that the container was made from, or when more than the one image would change.
 */
export async function editOf(
  compose: Compose,
  project: Project,
  inspect: ContainerInspect,
  reference: string,
): Promise<ProjectEdit> {
  const program = await compose.program(project.version);
  const compatibility = await modeOf(compose, program, project, inspect);
  const before = await compose.config(program, projectArguments(project, compatibility));
  const runs = inspect.Config.Image;
  const names = before.services?.[project.service]?.image;
  if (names !== runs) {
    const said = names === undefined ? 'no image' : names;
    throw unfit(`the files give the service ${project.service} ${said}, while its container is of ${runs}`);
  }
  const files = await Promise.all(project.files.map(readProjectFile));
  const environment = project.environment === undefined ? undefined : await readProjectFile(project.environment);
  const edit = imageEdit({ service: project.service, files, environment, image: reference });
  if ('refused' in edit) throw unfit(edit.refused);
  const after = await triedConfig(compose, program, project, edit, compatibility);
  refuseSideEffects(project, before, after, reference);
  return { ...edit, program, compatibility };
}

/** How the container was made: with or without `--compatibility`, told by the hash that compose left on it. */
async function modeOf(
  compose: Compose,
  program: ComposeProgram,
  project: Project,
  inspect: ContainerInspect,
): Promise<boolean> {
  const made = inspect.Config.Labels?.[LABELS.hash];
  for (const compatibility of [false, true]) {
    const args = projectArguments(project, compatibility);
    if ((await compose.hash(program, args, project.service)) === made) return compatibility;
  }
  // Compose 2 puts into its hash what cannot be seen afterwards, and needs no mode to honour a file's limits.
  if (program.major !== '1') return false;
  throw unfit(`the service ${project.service} is not as its files would make it now: apply them first (up -d)`);
}

/** What compose makes of the project with the edited text in the place of the file, which itself stays as it is. */
async function triedConfig(
  compose: Compose,
  program: ComposeProgram,
  project: Project,
  edit: Edit,
  compatibility: boolean,
): Promise<ResolvedProject> {
  // Beside the file: what extends it, or is named by a relative path, is found from there.
  const tried = join(dirname(edit.path), `.kwfleet-tried-${randomUUID()}.yml`);
  try {
    await writeFile(tried, edit.text, { mode: 0o600, flag: 'wx' }).catch((error: unknown) => {
      throw writeFailure(error, dirname(edit.path));
    });
    const instead = (path: string) => (path === edit.path ? tried : path);
    const files = project.files.map(instead);
    const environment = project.environment === undefined ? undefined : instead(project.environment);
    return await compose.config(program, projectArguments({ ...project, files, environment }, compatibility));
  } finally {
    await rm(tried, { force: true });
  }
}

function refuseSideEffects(
  { service }: Project,
  before: ResolvedProject,
  after: ResolvedProject,
  reference: string,
): void {
  const now = after.services?.[service];
  if (now?.image !== reference) throw unfit(`the edit would give the service ${service} ${now?.image ?? 'no image'}`);
  const undone = {
    ...after,
    services: { ...after.services, [service]: { ...now, image: before.services?.[service]?.image } },
  };
  if (isDeepStrictEqual(undone, before)) return;
  const others = Object.keys(after.services ?? {}).filter(
    (name) => !isDeepStrictEqual(undone.services[name], before.services?.[name]),
  );
  const what = others.length > 0 ? `the services ${others.join(', ')}` : 'the rest of the project';
  throw unfit(`an image for ${service} alone is not to be had in these files: ${what} would change too`);
}
