/**
 * How the container of the node was made, in a file that copies hold: the engine forgets it with the container, and then
 * nobody could make another like it.
 */
import { mkdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { replaceFile } from '../journal/file-storage.ts';
import type { ContainerInspect } from './engine.ts';

export class MadeRecord {
  readonly file: string;
  #kept = '';
  #writing: Promise<void> = Promise.resolve();

  constructor(stateDir: string) {
    this.file = join(stateDir, 'docker/container.json');
  }

  /** Of one that runs, when it differs from what was kept. Its environment can hold secrets: nobody else reads the file. */
  keep(inspect: ContainerInspect): Promise<void> {
    const text = textOf(inspect);
    if (inspect.State.Running && text !== this.#kept) {
      this.#kept = text;
      this.#writing = this.#writing.then(() => this.#write(text));
    }
    return this.#writing;
  }

  async #write(text: string): Promise<void> {
    try {
      await mkdir(dirname(this.file), { recursive: true, mode: 0o700 });
      await replaceFile(this.file, text);
    } catch {
      // Not worth a look at the node; the next one tries again.
      this.#kept = '';
    }
  }
}

/** What does not change while it runs, as `docker inspect` tells it. */
function textOf({ Name, Path, Args, Config, HostConfig, Mounts, NetworkSettings }: ContainerInspect): string {
  const { Networks } = NetworkSettings;
  return `${JSON.stringify({ Name, Path, Args, Config, HostConfig, Mounts, NetworkSettings: { Networks } }, null, 2)}\n`;
}
