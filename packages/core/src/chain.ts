/** Hash chains: each record's hash covers the one before, so that nothing can be altered or left out unseen. */
import { createHash } from 'node:crypto';
import canonicalize from 'canonicalize';

export type Link = { readonly seq: number; readonly prevHash: string; readonly hash: string };

/** SHA-256 over the previous hash and the record's canonical JSON. */
export function linkHash(prevHash: string, record: object): string {
  const text = canonicalize(record);
  if (text === undefined) throw new TypeError('a chained record must be plain JSON');
  return createHash('sha256').update(prevHash).update('\n').update(text).digest('hex');
}

/** The seq of the first link that does not follow from the one before, or undefined when the chain is whole. */
export function firstBroken<T extends Link>(links: readonly T[], record: (link: T) => object): number | undefined {
  let prevHash = '';
  let seq = 0;
  for (const link of links) {
    const follows = link.seq === seq + 1 && link.prevHash === prevHash;
    if (!follows || link.hash !== linkHash(prevHash, record(link))) return link.seq;
    ({ seq, hash: prevHash } = link);
  }
  return undefined;
}

/** One event of a run as its chain has it. */
export type ChainedEvent = Link & { readonly atMs: number; readonly event: unknown };

export type ChainKind = 'run' | 'rollout';

/** What the hash of an event of a run, or of a rollout, covers. */
export const chainedRecord =
  (id: string, kind: ChainKind = 'run') =>
  ({ seq, atMs, event }: Omit<ChainedEvent, 'hash' | 'prevHash'>) => ({ [kind]: id, seq, atMs, event });

/** The history of a run or a rollout as a report carries it: whoever has it can follow the chain without asking anybody. */
export type ReportedHistory = {
  readonly kind: ChainKind;
  readonly id: string;
  /** Hash of the last event: what a report is compared by. Empty where there are no events. */
  readonly head: string;
  readonly events: readonly ChainedEvent[];
};

/** Why a reported history is not whole, or undefined when it is. */
export function flawOfHistory({ kind, id, head, events }: ReportedHistory): string | undefined {
  const brokenAt = firstBroken(events, chainedRecord(id, kind));
  if (brokenAt !== undefined) return `event ${brokenAt} does not follow from the one before it`;
  return (events.at(-1)?.hash ?? '') === head ? undefined : 'its last events are missing';
}
