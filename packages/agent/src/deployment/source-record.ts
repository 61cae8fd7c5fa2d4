/**
 * What is known of a source build, kept in `<state_dir>/source`: nothing else on the host says how its node is started once
 * it is stopped. Written, and on disk, while the node runs.
 */
import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import Type, { type Static } from 'typebox';
import Value from 'typebox/value';
import { replaceFile } from '../journal/file-storage.ts';

const NodeRecord = Type.Object({
  /** `/opt/kwdb/install`: what is switched, and what holds `bin/kwbase`. */
  tree: Type.String(),
  binary: Type.String(),
  /** Behind `kwbase`. */
  args: Type.Array(Type.String()),
  cwd: Type.String(),
  /** The unit of the service manager that runs it; absent where somebody started it. */
  unit: Type.Optional(Type.String()),
  environment: Type.Array(Type.String()),
  uid: Type.Integer(),
  gid: Type.Integer(),
  umask: Type.String(),
  limits: Type.Array(Type.Object({ name: Type.String(), soft: Type.String(), hard: Type.String() })),
  stdout: Type.Optional(Type.String()),
  stderr: Type.Optional(Type.String()),
  /** The process that all of this was read from. */
  process: Type.Object({
    pid: Type.Integer(),
    startTicks: Type.Integer(),
    bootId: Type.String(),
    startedAtMs: Type.Integer(),
  }),
});
export type NodeRecord = Static<typeof NodeRecord>;

/** A tree that lies beside the one in use, and may be switched to. */
const KeptTree = Type.Object({
  version: Type.String(),
  path: Type.String(),
  /** Whether the agent laid it there: only such are ever removed. */
  made: Type.Boolean(),
});
export type KeptTree = Static<typeof KeptTree>;
const KeptTrees = Type.Array(KeptTree);

const NODE = 'node.json';

export class SourceRecords {
  readonly directory: string;

  constructor(stateDir: string) {
    this.directory = join(stateDir, 'source');
  }

  /** Where the record of the node lies. */
  get nodeFile(): string {
    return join(this.directory, NODE);
  }

  async node(): Promise<NodeRecord | undefined> {
    const kept = await this.#read(NODE);
    return Value.Check(NodeRecord, kept) ? kept : undefined;
  }

  keepNode(record: NodeRecord): Promise<void> {
    return this.#write(NODE, record);
  }

  /** The oldest first. */
  async trees(): Promise<readonly KeptTree[]> {
    const kept = await this.#read('trees.json');
    return Value.Check(KeptTrees, kept) ? kept : [];
  }

  async keepTree(tree: KeptTree): Promise<void> {
    const others = (await this.trees()).filter(({ path }) => path !== tree.path);
    await this.#write('trees.json', [...others, tree]);
  }

  async forgetTree(path: string): Promise<void> {
    const others = (await this.trees()).filter((tree) => tree.path !== path);
    await this.#write('trees.json', others);
  }

  async #read(name: string): Promise<unknown> {
    try {
      return JSON.parse(await readFile(join(this.directory, name), 'utf8'));
    } catch {
      // Missing: nothing was seen yet. Never half written: see replaceFile.
      return undefined;
    }
  }

  /** The environment of a database can hold secrets: nobody else reads it. */
  async #write(name: string, value: unknown): Promise<void> {
    await mkdir(this.directory, { recursive: true, mode: 0o700 });
    await replaceFile(join(this.directory, name), JSON.stringify(value));
  }
}
