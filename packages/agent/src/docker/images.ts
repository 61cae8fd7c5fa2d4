/** Images on this host: brought here, tried before anything is stopped, and asked for the version inside them. */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { FleetError, type PackageInfo, tellsVersion } from '@kwfleet/core';
import Type, { type Static } from 'typebox';
import { versionIn } from '../deployment/deployment.ts';
import type { Watch } from '../driver/driver.ts';
import { kwbaseVersion } from '../host/kwbase.ts';
import { wordsOf } from '../host/run.ts';
import type { PackageCache } from '../packages.ts';
import { debianName, type Engine, type ImageInspect } from './engine.ts';
import { DurableFile } from './exchange.ts';
import { nameParts, tagOf } from './image-name.ts';

/** `kwbase` as a container calls it, and where. */
export type Program = { readonly kwbase: string; readonly workingDir: string };

export type ReadyImage = {
  readonly id: string;
  /** What a container is made from, and what `docker ps` then shows: `kwdb/kwdb:3.1.0`. */
  readonly reference: string;
};

/** What was learned of images, by their ids, and which image came out of which package. */
const Learned = Type.Object({
  versions: Type.Record(Type.String(), Type.String()),
  packages: Type.Record(Type.String(), Type.Object({ id: Type.String(), reference: Type.String() })),
});
type Learned = Static<typeof Learned>;

type Loaded = {
  readonly id: string;
  /** The names that the archive gave it. */
  readonly loaded: readonly string[];
  /** Whose they were. */
  readonly before: ReadonlyMap<string, string>;
  readonly version: string;
};

const VERSION_TIMEOUT_MS = 60_000;
/** An image that told no version is not asked again at every look. */
const MUTE_MS = 60_000;
const REMEMBERED = 50;
/** A throw-away is known by it, should it outlive this agent. */
export const THROW_AWAY = 'kwfleet.throw-away';

export class Images {
  readonly #engine: Engine;
  readonly #packages: PackageCache;
  readonly #file: DurableFile<typeof Learned>;
  readonly #now: () => number;
  #learned: Learned | undefined;
  readonly #muteUntilMs = new Map<string, number>();

  constructor(options: {
    readonly engine: Engine;
    readonly packages: PackageCache;
    readonly stateDir: string;
    readonly now: () => number;
  }) {
    this.#engine = options.engine;
    this.#packages = options.packages;
    this.#file = new DurableFile(join(options.stateDir, 'docker/images.json'), Learned);
    this.#now = options.now;
  }

  /**
   * The package's image is in the engine afterwards, fits this host, and its `kwbase` told the version that it should
   * have. Throws ENGINE_FAILED, PACKAGE_CORRUPT, ARCHITECTURE_MISMATCH, METHOD_MISMATCH or VERIFY_WRONG_VERSION.
   */
  async ensure(wanted: PackageInfo, program: Program, watch: Watch): Promise<ReadyImage> {
    if (wanted.kind === 'image') await this.#packages.vouch(wanted, watch);
    const place = wanted.kind === 'image' ? undefined : await this.#packages.ensure(wanted, watch);
    const known = await this.#known(wanted);
    if (known !== undefined) return known;
    const reference = place === undefined ? await this.#pull(wanted, watch) : await this.#load(wanted, place, watch);
    const image = await this.#engine.image(reference);
    if (image === undefined) throw new FleetError('PACKAGE_CORRUPT', `${reference} was brought here and is not there`);
    await this.#refuseMisfit(image, wanted, program, watch);
    const ready = { id: image.Id, reference };
    await this.#learn({ packages: { [wanted.sha256]: ready } });
    return ready;
  }

  /** The same for an image that `ensure` brought and tried before: nobody is asked while the node is down. */
  async ready(wanted: PackageInfo, program: Program, watch: Watch): Promise<ReadyImage> {
    return (await this.#known(wanted)) ?? this.ensure(wanted, program, watch);
  }

  async #known(wanted: PackageInfo): Promise<ReadyImage | undefined> {
    const known = (await this.#read()).packages[wanted.sha256];
    return known !== undefined && (await this.#engine.image(known.id)) !== undefined ? known : undefined;
  }

  /** What `kwbase version` tells in an image; asked in a throw-away container once, and remembered. */
  async versionOf(image: string, program: Program): Promise<string | undefined> {
    const told = (await this.#read()).versions[image];
    if (told !== undefined) return told;
    if ((this.#muteUntilMs.get(image) ?? 0) > this.#now()) return undefined;
    const { version } = await this.#try(image, program);
    if (version === undefined) this.#muteUntilMs.set(image, this.#now() + MUTE_MS);
    return version;
  }

  /** Whether an image of KWDB was ever seen on this host. */
  async any(): Promise<boolean> {
    return Object.keys((await this.#read()).versions).length > 0;
  }

  /** A running container told the version of its image. */
  async remember(image: string, version: string): Promise<void> {
    if ((await this.#read()).versions[image] === version) return;
    await this.#learn({ versions: { [image]: version } });
  }

  async #pull(wanted: PackageInfo, watch: Watch): Promise<string> {
    const { image = '' } = wanted;
    if (!image.endsWith(`@sha256:${wanted.sha256}`)) {
      throw new FleetError('ACTION_INVALID', `${image} is not named by the digest of its package`);
    }
    watch.detail(`pulling ${image}`);
    await this.#engine.pull(image, (text) => watch.moved(text));
    return image;
  }

  /** `place`: the image's file itself, or the vendor's package that it is in. */
  async #load(wanted: PackageInfo, place: string, watch: Watch): Promise<string> {
    const file = wanted.kind === 'image-archive' ? place : join(place, 'packages/KaiwuDB.tar');
    if ((await stat(file).catch(() => null)) === null) {
      throw new FleetError('METHOD_MISMATCH', `${wanted.fileName} holds no image (packages/KaiwuDB.tar)`);
    }
    watch.detail('loading the image');
    const before = await this.#engine.imageNames();
    let loaded: string[];
    try {
      loaded = await this.#engine.load(file, (text) => watch.moved(text));
    } catch (error) {
      if (!(error instanceof FleetError) || error.code !== 'ENGINE_FAILED') throw error;
      throw new FleetError('PACKAGE_CORRUPT', `the image of ${wanted.fileName} cannot be loaded`, {
        words: error.words,
        cause: error,
      });
    }
    const found = await Promise.all(loaded.map((name) => this.#engine.image(name)));
    const [id, ...others] = new Set(found.map((image) => image?.Id));
    if (id === undefined || others.length > 0) {
      throw new FleetError('PACKAGE_CORRUPT', `${wanted.fileName} holds ${new Set(found).size} images, not one`);
    }
    return this.#nameOf({ id, loaded, before, version: wanted.version });
  }

  /**
   * Loading takes a name, `kwdb:latest`, from the image that had it. While a container is of that image it gets its name
   * back: compose files mean it by this name, and so does the way back. Returns a name of the new one's own, or its id.
   */
  async #nameOf({ id, loaded, before, version }: Loaded): Promise<string> {
    const used = new Set((await this.#engine.containers()).map(({ ImageID }) => ImageID));
    const own: string[] = [];
    for (const name of loaded) {
      const had = before.get(name);
      const parts = nameParts(name);
      if (had === undefined || had === id || !used.has(had) || parts === undefined) own.push(name);
      else await this.#engine.tag(had, parts.repository, parts.tag);
    }
    const [first] = own;
    if (first !== undefined) return first;
    const { repository = '' } = nameParts(loaded[0] ?? '') ?? {};
    const name = `${repository}:${tagOf(version)}`;
    if (before.has(name) && before.get(name) !== id) return id;
    await this.#engine.tag(id, repository, tagOf(version));
    return name;
  }

  async #refuseMisfit(image: ImageInspect, wanted: PackageInfo, program: Program, watch: Watch): Promise<void> {
    const { architecture } = await this.#engine.info();
    const built = debianName(image.Architecture);
    if (built !== architecture) {
      throw new FleetError('ARCHITECTURE_MISMATCH', `the image is for ${built}, this host is ${architecture}`);
    }
    watch.detail('asking the image for its version');
    const { version, words } = await this.#try(image.Id, program);
    if (version === undefined) {
      throw new FleetError('PACKAGE_CORRUPT', `${program.kwbase} in the image does not tell its version`, { words });
    }
    if (!tellsVersion(version, wanted.version)) {
      throw new FleetError('VERIFY_WRONG_VERSION', `kwbase in the image is ${version}, not ${wanted.version}`);
    }
  }

  async #try(image: string, { kwbase, workingDir }: Program): Promise<{ version: string | undefined; words: string }> {
    try {
      const ended = await this.#engine.runOnce(
        {
          name: `kwfleet-version-${image.replace(/^sha256:/, '').slice(0, 12)}-${this.#now().toString(36)}`,
          Image: image,
          Entrypoint: [kwbase],
          Cmd: ['version'],
          ...(workingDir === '' ? {} : { WorkingDir: workingDir }),
          Labels: { [THROW_AWAY]: 'yes' },
          NetworkDisabled: true,
          HostConfig: { NetworkMode: 'none', CapDrop: ['ALL'], ReadonlyRootfs: true },
        },
        VERSION_TIMEOUT_MS,
      );
      const version = versionIn(ended.exitCode === 0 ? kwbaseVersion(ended.stdout) : undefined);
      if (version !== undefined) await this.remember(image, version);
      return { version, words: wordsOf(ended) };
    } catch (error) {
      // An engine that cannot even make the container tells why: that is the image's answer.
      if (!(error instanceof FleetError) || error.code !== 'ENGINE_FAILED') throw error;
      return { version: undefined, words: error.words ?? error.message };
    }
  }

  async #read(): Promise<Learned> {
    // It only saves work: what cannot be read is learned again.
    this.#learned ??= (await this.#file.read().catch(() => undefined)) ?? { versions: {}, packages: {} };
    return this.#learned;
  }

  async #learn(news: Partial<Learned>): Promise<void> {
    const { versions, packages } = await this.#read();
    const newest = <T>(all: Record<string, T>) => Object.fromEntries(Object.entries(all).slice(-REMEMBERED));
    this.#learned = {
      versions: newest({ ...versions, ...news.versions }),
      packages: newest({ ...packages, ...news.packages }),
    };
    await this.#file.write(this.#learned);
  }
}
