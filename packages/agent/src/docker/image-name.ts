/** Names of images, as people and compose files write them. */

/** `host:5000/kwdb/kwdb:3.1.0` in its two parts; undefined for what names an image for ever: an id, or a digest. */
export function nameParts(name: string): { readonly repository: string; readonly tag: string } | undefined {
  if (name === '' || name.startsWith('sha256:') || name.includes('@')) return undefined;
  const tag = /:([^/:]+)$/.exec(name)?.[1];
  return tag === undefined ? { repository: name, tag: 'latest' } : { repository: name.slice(0, -tag.length - 1), tag };
}

/** A version as a tag: an engine takes no other characters. */
export const tagOf = (version: string): string => version.replace(/[^\w.-]/g, '-');
