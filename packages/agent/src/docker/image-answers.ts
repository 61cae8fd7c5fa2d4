/** Whether the images of packages are on this host or could be pulled: asked before a plan is made, pulling nothing. */
import { FleetError, type PackageInfo, type Surroundings } from '@kwfleet/core';
import { IMAGES_ASKED_MAX } from '@kwfleet/protocol';
import type { PackageCache } from '../packages.ts';
import type { Engine } from './engine.ts';

export type ImageAnswer = Surroundings['images'][number];

export type ImageAnswersOptions = {
  readonly engine: Pick<Engine, 'image' | 'info' | 'platformsInRegistry'>;
  readonly packages: Pick<PackageCache, 'confirm'>;
  readonly now: () => number;
};

/** What a registry said counts for so long; whoever asks anew gets a new answer. */
const FRESH_MS = 10 * 60_000;
/** A registry, or a controller, that does not answer for so long has none: a report waits for it. */
const REGISTRY_MS = 5_000;
/** Nobody asks any more, so nobody is told any more. */
const ASKED_FOR_MS = 24 * 3_600_000;

type Entry = { readonly wanted: PackageInfo; readonly askedAtMs: number; told?: Told | undefined };
type Told = { readonly atMs: number; readonly answer: ImageAnswer };

export class ImageAnswers {
  readonly #options: ImageAnswersOptions;
  #asked = new Map<string, Entry>();

  constructor(options: ImageAnswersOptions) {
    this.#options = options;
  }

  /** The next looks tell of these images; their registries are asked anew. What is no image is left out. */
  ask(wanted: readonly PackageInfo[]): void {
    const images = wanted.filter(({ kind }) => kind === 'image');
    const askedAtMs = this.#options.now();
    const kept = [...this.#asked].filter(([sha256]) => !images.some((image) => image.sha256 === sha256));
    const all = [...kept, ...images.map((image): [string, Entry] => [image.sha256, { wanted: image, askedAtMs }])];
    this.#asked = new Map(all.slice(-IMAGES_ASKED_MAX));
  }

  /** The next looks tell of this one too; an answer that is fresh will do. */
  note(wanted: PackageInfo | undefined): void {
    if (wanted?.kind === 'image' && !this.#asked.has(wanted.sha256)) this.ask([wanted]);
  }

  /** Bounded; never rejects: why there is no image is the answer. */
  async look(): Promise<ImageAnswer[]> {
    const now = this.#options.now();
    for (const [sha256, { askedAtMs }] of this.#asked) {
      if (now - askedAtMs > ASKED_FOR_MS) this.#asked.delete(sha256);
    }
    return Promise.all([...this.#asked.values()].map((entry) => this.#answer(entry)));
  }

  /** The engine is asked every time: an image comes and goes. */
  async #answer(entry: Entry): Promise<ImageAnswer> {
    const { engine, now } = this.#options;
    const { sha256: digest, image = '' } = entry.wanted;
    try {
      if ((await engine.image(image)) !== undefined) return { digest, state: 'present', detail: '' };
      const { told } = entry;
      if (told !== undefined && now() >= told.atMs && now() - told.atMs < FRESH_MS) return told.answer;
      const atMs = now();
      const answer = await this.#askRegistry(entry.wanted);
      entry.told = { atMs, answer };
      return answer;
    } catch (error) {
      return { digest, state: 'unavailable', detail: wordsOf(error) };
    }
  }

  /** An image that nobody signed is not even asked for: the controller must not send this host to any address. */
  async #askRegistry(wanted: PackageInfo): Promise<ImageAnswer> {
    const { engine, packages } = this.#options;
    const { sha256: digest, image = '' } = wanted;
    try {
      await within(packages.confirm(wanted), 'who signed the package cannot be asked');
      const platforms = await engine.platformsInRegistry(image, REGISTRY_MS);
      const own = `linux/${(await engine.info()).architecture}`;
      if (platforms.length === 0 || platforms.includes(own)) {
        return { digest, state: 'pullable', detail: 'its registry has it' };
      }
      return {
        digest,
        state: 'unavailable',
        detail: `its registry has it for ${platforms.join(', ')}, not for ${own}`,
      };
    } catch (error) {
      return { digest, state: 'unavailable', detail: wordsOf(error) };
    }
  }
}

async function within<T>(work: Promise<T>, otherwise: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${otherwise}: no answer within ${REGISTRY_MS / 1000} s`)), REGISTRY_MS);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** What others said goes into a report: one line of it, cleaned, and not for ever. */
function wordsOf(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  const words = error instanceof FleetError && error.words !== undefined ? `${text}: ${error.words}` : text;
  return words.replaceAll(/[\u0000-\u001f\u007f]+/g, ' ').slice(0, 500);
}
