/**
 * What the agent is about to do to a container, and has done: written with fsync before each deed, so that whatever
 * finds a renamed or missing container afterwards knows whose it is.
 */
import { mkdir, open, readFile, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { FleetError } from '@kwfleet/core';
import Type, { type Static, type TSchema } from 'typebox';
import Value from 'typebox/value';
import type { Intent } from '../deployment/container.ts';
import { syncDirectory } from '../journal/file-storage.ts';
import { LABELS } from './compose.ts';
import type { ContainerInspect, Engine } from './engine.ts';

/** One JSON value in a file that survives a power cut whole, or not at all. */
export class DurableFile<Schema extends TSchema> {
  readonly #file: string;
  readonly #schema: Schema;

  constructor(file: string, schema: Schema) {
    this.#file = file;
    this.#schema = schema;
  }

  /** Undefined when there is none. Throws when it is not what this agent writes: guessing would cost a database. */
  async read(): Promise<Static<Schema> | undefined> {
    let text: string;
    try {
      text = await readFile(this.#file, 'utf8');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
      throw error;
    }
    try {
      const value: unknown = JSON.parse(text);
      if (Value.Check(this.#schema, value)) return value;
    } catch {}
    throw new FleetError('INSTALLATION_HALF_DONE', `${this.#file} is not what this agent writes`);
  }

  async write(value: Static<Schema>): Promise<void> {
    await mkdir(dirname(this.#file), { recursive: true, mode: 0o700 });
    const fresh = `${this.#file}.new`;
    const handle = await open(fresh, 'w', 0o600);
    try {
      await handle.writeFile(JSON.stringify(value));
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(fresh, this.#file);
    await syncDirectory(dirname(this.#file));
  }

  async remove(): Promise<void> {
    await rm(this.#file, { force: true });
  }
}

/** An engine would start a stopped container again when it restarts itself: the policy that was taken away meanwhile. */
export const Restrained = Type.Object({
  container: Type.String(),
  policy: Type.Object({ Name: Type.String(), MaximumRetryCount: Type.Integer() }),
});
export type Restrained = Static<typeof Restrained>;

const Policy = Type.Object({ Name: Type.String(), MaximumRetryCount: Type.Integer() });

/** A container that was made by hand is being replaced by one of another image. */
export const RunExchange = Type.Object({
  kind: Type.Literal('run'),
  /** The name that both have in turn. */
  name: Type.String(),
  /** The old container, its name meanwhile, and the restart policy that both have when they run. */
  old: Type.String(),
  keptAs: Type.String(),
  policy: Policy,
  from: Type.String(),
  to: Type.String(),
  /** Id of the new image. */
  image: Type.String(),
  /** The new container, once it is whole. */
  new: Type.Optional(Type.String()),
});
export type RunExchange = Static<typeof RunExchange>;

/** The container of a compose service is being made anew, from a file that names another image. */
export const ComposeExchange = Type.Object({
  kind: Type.Literal('compose'),
  project: Type.Object({
    name: Type.String(),
    service: Type.String(),
    directory: Type.String(),
    files: Type.Array(Type.String()),
    environment: Type.Optional(Type.String()),
    version: Type.String(),
  }),
  compatibility: Type.Boolean(),
  /** The file that is edited, and its copy from before. */
  file: Type.String(),
  keptAs: Type.String(),
  from: Type.String(),
  to: Type.String(),
  /** Ids of both images. */
  oldImage: Type.String(),
  image: Type.String(),
  /** The file's text with the new image. */
  edited: Type.String(),
  /** The old container as it was: compose may have removed it, and made no other yet. */
  snapshot: Type.Unknown(),
  new: Type.Optional(Type.String()),
});
export type ComposeExchange = Static<typeof ComposeExchange>;

export const Exchange = Type.Union([RunExchange, ComposeExchange]);
export type Exchange = Static<typeof Exchange>;

/** The agent's own records of what it does to containers. */
export class ContainerRecords {
  readonly exchange: DurableFile<typeof Exchange>;
  readonly restrained: DurableFile<typeof Restrained>;
  readonly #engine: Engine;

  constructor(stateDir: string, engine: Engine) {
    this.exchange = new DurableFile(join(stateDir, 'docker/exchange.json'), Exchange);
    this.restrained = new DurableFile(join(stateDir, 'docker/restrained.json'), Restrained);
    this.#engine = engine;
  }

  /** The exchange in hand, when it is one of containers made by hand. */
  async run(): Promise<RunExchange | undefined> {
    const exchange = await this.exchange.read();
    return exchange?.kind === 'run' ? exchange : undefined;
  }

  /** The same of a compose project. */
  async compose(): Promise<ComposeExchange | undefined> {
    const exchange = await this.exchange.read();
    return exchange?.kind === 'compose' ? exchange : undefined;
  }

  /** Which container counts on this host, whatever a killed attempt left. */
  async intent(): Promise<Intent> {
    const exchange = await this.exchange.read();
    if (exchange === undefined) return { theirs: [] };
    const theirs = exchange.kind === 'run' ? [exchange.old] : [];
    if (exchange.new !== undefined) {
      const made = await this.#engine.container(exchange.new);
      // A person may have taken it away, and run another one: that is then found by what it runs.
      return { theirs, ...(made === undefined ? {} : { current: made }) };
    }
    return exchange.kind === 'run' ? this.#halfRun(exchange) : this.#halfCompose(exchange);
  }

  async #halfRun({ old, name }: RunExchange): Promise<Intent> {
    const [current, half] = await Promise.all([this.#engine.container(old), this.#engine.container(name)]);
    if (current === undefined) return { theirs: [] };
    return {
      current,
      theirs: half === undefined || half.Id === old ? [] : [half.Id],
      halfDone: `${name} was put aside, and the one that takes its place is not whole`,
    };
  }

  async #halfCompose({ project, snapshot }: ComposeExchange): Promise<Intent> {
    const all = await serviceContainers(this.#engine, project);
    const old = snapshot as ContainerInspect;
    const stopped = { Running: false, Restarting: false, Status: 'created', Pid: 0, ExitCode: 0 };
    const current = all.find(({ Id }) => Id === old.Id) ?? all[0];
    return {
      current: current ?? { ...old, State: { ...old.State, ...stopped } },
      theirs: [],
      halfDone: `the service ${project.service} of the project ${project.name} is being made anew`,
    };
  }
}

/** The containers of a compose service, those that `compose run` made left out. */
export async function serviceContainers(
  engine: Engine,
  { name, service }: { readonly name: string; readonly service: string },
): Promise<ContainerInspect[]> {
  const mine = (await engine.containers()).filter(
    ({ Labels }) =>
      Labels[LABELS.project] === name && Labels[LABELS.service] === service && Labels[LABELS.oneOff] !== 'True',
  );
  const found = await Promise.all(mine.map(({ Id }) => engine.container(Id)));
  return found.filter((inspect) => inspect !== undefined);
}
