/**
 * What the agent asks of the program that does the heavy work (`bin/backup-work.mjs`), and what it answers. The program is
 * a long command of its own: it runs as root in a cgroup of its own, outlives the agent, and its output is streamed.
 */
import type { BackupReceipt } from '@kwfleet/core';

/** One of the places that make up a node. `path` is where it lies on this host, links in it resolved. */
export type Root = {
  /** `data`, `certificates`, `configuration-1`, `definition-1`, ...: its name inside a backup. */
  readonly name: string;
  readonly path: string;
};

/** Begins the name of a root that is copied for people and never put back: it names the version that was installed then. */
export const DEFINITION = 'definition-';

export const isPutBack = ({ name }: { readonly name: string }): boolean => !name.startsWith(DEFINITION);

/** Whose copy it is: all of it is in the manifest, and compared again before a restore. */
export type Identity = {
  /** The run that made it: copies of one run are a set. */
  readonly set: string;
  readonly cluster: string;
  readonly node: string;
  readonly kwdbId: number;
  /** The version whose data these are. */
  readonly version: string;
};

export type Retention = {
  /** How many whole copies of this node are kept, the one just made among them. */
  readonly keep: number;
  /** The newest set, as the controller knows them, that can bring the cluster back; its copy stays beside the one just made. */
  readonly stands?: string;
};

export type Work =
  /** Measures what a copy would take, and refuses when it does not fit. Touches nothing but a file of its own, and a copy that was kept beyond the number. */
  | (Retention & {
      readonly work: 'prepare';
      readonly directory: string;
      readonly roots: readonly Root[];
      readonly node: string;
      readonly set: string;
    })
  | (Retention & {
      readonly work: 'copy';
      readonly directory: string;
      readonly roots: readonly Root[];
      readonly identity: Identity;
      /** The order: what another order left unfinished is not gone on with. */
      readonly action: string;
    })
  | {
      readonly work: 'check';
      readonly directory: string;
      readonly roots: readonly Root[];
      readonly identity: Identity;
      readonly manifestSha256: string;
    }
  | {
      /** `stage` touches nothing of the node; `restore` exchanges what is staged. */
      readonly work: 'stage' | 'restore';
      readonly directory: string;
      readonly roots: readonly Root[];
      readonly identity: Identity;
      readonly manifestSha256: string;
      /** Names what is moved aside. */
      readonly run: string;
      /** Where the program remembers how far it came. */
      readonly stateFile: string;
    }
  | {
      readonly work: 'put-back' | 'discard';
      readonly roots: readonly Root[];
      readonly run: string;
      readonly stateFile: string;
    };

export type Outcome =
  | { readonly ok: true; readonly receipt?: Omit<BackupReceipt, 'policy'> }
  | { readonly ok: false; readonly code: string; readonly message: string };

/** Says how far the work is: one line, for a person. */
export type Say = (line: string) => void;
