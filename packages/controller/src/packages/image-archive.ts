/**
 * A container image as `docker save` writes it: layers, the image's configuration, and `manifest.json`, which names them.
 * Engines up to 24 keep each layer in a folder of its own, later ones lay all into `blobs/sha256` (an OCI layout) and write
 * the same `manifest.json` beside. Format: Docker Image Specification v1.2; OCI Image Layout.
 */
import { posix } from 'node:path';
import { FleetError, isVersion, normalVersion } from '@kwfleet/core';
import type { ReadEntry } from 'tar';
import Type, { type Static, type TSchema } from 'typebox';
import Value from 'typebox/value';

/** Configurations and manifests are a few KiB of JSON; layers are what is large. */
const JSON_MAX_BYTES = 1024 * 1024;
/** All that is kept while the archive goes by. */
const KEPT_MAX_BYTES = 16 * 1024 * 1024;
const OPENING = new Set([0x7b, 0x5b]);
const LABEL_VERSION = 'org.opencontainers.image.version';
const MANIFEST = 'manifest.json';

const Manifest = Type.Array(
  Type.Object({
    Config: Type.String({ minLength: 1, maxLength: 500 }),
    RepoTags: Type.Optional(Type.Union([Type.Null(), Type.Array(Type.String({ maxLength: 500 }), { maxItems: 100 })])),
    Layers: Type.Array(Type.String({ minLength: 1, maxLength: 500 }), { minItems: 1, maxItems: 500 }),
  }),
  { minItems: 1, maxItems: 100 },
);
const ImageConfig = Type.Object({
  architecture: Type.String({ minLength: 1, maxLength: 40 }),
  os: Type.String(),
  rootfs: Type.Object({}),
  config: Type.Optional(
    Type.Union([
      Type.Null(),
      Type.Object({ Labels: Type.Optional(Type.Union([Type.Null(), Type.Record(Type.String(), Type.String())])) }),
    ]),
  ),
});
type ImageConfig = Static<typeof ImageConfig>;

/** Whether an archive that begins with this entry is an image's: packages have one folder of their own at the top. */
export function isOfImageArchive(path: string): boolean {
  return /^(manifest\.json|index\.json|oci-layout|repositories|blobs(\/.*)?|[0-9a-f]{64}(\/.*|\.json|\.tar)?)$/.test(
    path,
  );
}

export class ImageArchive {
  readonly #kept = new Map<string, Buffer[]>();
  #keptBytes = 0;

  /** Throws PACKAGE_UNSAFE for a second file of one path, of which another reader may take the other. */
  take(entry: ReadEntry, path: string, before: ReadonlySet<string>): void {
    if (entry.type === 'Directory') return;
    if (before.has(path)) throw new FleetError('PACKAGE_UNSAFE', `${path} is in the archive twice`);
    if (entry.size === 0 || entry.size > JSON_MAX_BYTES) return;
    const chunks: Buffer[] = [];
    let isJson: boolean | undefined;
    entry.on('data', (chunk) => {
      const bytes = Buffer.from(chunk);
      isJson ??= OPENING.has(bytes[0] ?? 0);
      if (!isJson) return;
      this.#keptBytes += bytes.length;
      if (this.#keptBytes <= KEPT_MAX_BYTES) chunks.push(bytes);
    });
    this.#kept.set(path, chunks);
  }

  /**
   * What the one image in it is. The version: as it was given, else of the tag, the label, or the file's name (`named`); the
   * host asks `kwbase` itself before anything is stopped. Throws PACKAGE_INCOMPLETE, or PACKAGE_TOO_LARGE.
   */
  conclude(
    paths: ReadonlySet<string>,
    named: string | undefined,
    given: string | undefined,
  ): { readonly version: string; readonly architecture: string } {
    if (this.#keptBytes > KEPT_MAX_BYTES) {
      throw new FleetError('PACKAGE_TOO_LARGE', `what describes the image is more than ${KEPT_MAX_BYTES} bytes`);
    }
    if (!paths.has(MANIFEST)) throw incomplete(`${MANIFEST} is missing: it is not what docker save writes`);
    const [image, ...others] = this.#json(MANIFEST, Manifest);
    if (image === undefined || others.length > 0) throw incomplete(`it holds ${others.length + 1} images, not one`);
    const missing = [image.Config, ...image.Layers].find((path) => !paths.has(posix.normalize(path)));
    if (missing !== undefined) throw incomplete(`${shown(missing)}, which ${MANIFEST} names, is missing`);
    const config = this.#json(posix.normalize(image.Config), ImageConfig);
    if (config.os !== 'linux') throw incomplete(`the image is for ${shown(config.os)}, not for linux`);
    return { version: versionOf(given, image.RepoTags ?? [], config, named), architecture: config.architecture };
  }

  #json<Schema extends TSchema>(path: string, schema: Schema): Static<Schema> {
    let value: unknown;
    try {
      value = JSON.parse(Buffer.concat(this.#kept.get(path) ?? []).toString('utf8'));
    } catch (cause) {
      throw new FleetError('PACKAGE_INCOMPLETE', `${shown(path)} of the image is no JSON`, { cause });
    }
    if (!Value.Check(schema, value)) throw incomplete(`${shown(path)} of the image is not as docker save writes it`);
    return value;
  }
}

/** A label may be that of the image it was made from, so the tag comes first. */
function versionOf(
  given: string | undefined,
  tags: readonly string[],
  { config }: ImageConfig,
  named: string | undefined,
): string {
  if (given !== undefined) return normalVersion(given);
  const candidates = [...tags.map((tag) => /:([^:/]+)$/.exec(tag)?.[1]), config?.Labels?.[LABEL_VERSION], named];
  const told = candidates.find((text) => text !== undefined && isVersion(text));
  if (told !== undefined) return normalVersion(told);
  throw incomplete("neither its tag, its label nor the file's name tells the version of the image: give it (--as)");
}

const incomplete = (message: string) => new FleetError('PACKAGE_INCOMPLETE', message);
const shown = (text: string): string => JSON.stringify(text).slice(0, 120);
