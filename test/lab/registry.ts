/** A registry of container images on a lab's network: Debian's docker-registry, over plain HTTP. */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { stringify } from 'yaml';
import type { Deploy } from './fleet.ts';
import type { Lab, LabHost, LabProcess } from './host.ts';
import { CONTROLLER_ADDRESS } from './network.ts';

export const REGISTRY_PROGRAM = '/usr/bin/docker-registry';
const ADDRESS = `${CONTROLLER_ADDRESS}:5000`;
const PUSH_MS = 60_000;

export class ImageRegistry {
  readonly #lab: Lab;
  readonly #file: string;
  #process: LabProcess | undefined;

  private constructor(lab: Lab, file: string) {
    this.#lab = lab;
    this.#file = file;
  }

  /** Not started yet. What is pushed to it outlives a stop. */
  static async create(lab: Lab): Promise<ImageRegistry> {
    const directory = join(lab.directory, 'registry');
    await mkdir(directory);
    const file = join(directory, 'config.yml');
    const settings = {
      version: 0.1,
      storage: { filesystem: { rootdirectory: directory } },
      http: { addr: ADDRESS },
    };
    await writeFile(file, stringify(settings));
    return new ImageRegistry(lab, file);
  }

  async start(): Promise<void> {
    this.#process = this.#lab.spawnInNetwork([REGISTRY_PROGRAM, 'serve', this.#file]);
    await this.#process.waitForOutput(/listening on/);
  }

  async stop(): Promise<void> {
    await this.#process?.kill();
  }

  /** Pushes what is in a KaiwuDB.tar from this host, which forgets it; returns the reference by digest. */
  async push(host: LabHost, archive: string, loadedAs: string): Promise<string> {
    const repository = `${ADDRESS}/kwdb/kwdb`;
    const name = `${repository}:pushed`;
    await host.exec(['docker', 'load', '-i', archive], { timeoutMs: PUSH_MS });
    await host.exec(['docker', 'tag', loadedAs, name]);
    const { stdout } = await host.exec(['docker', 'push', name], { timeoutMs: PUSH_MS });
    await host.exec(['docker', 'rmi', name, loadedAs]);
    const digest = /digest: (sha256:[0-9a-f]{64})/.exec(stdout)?.[1];
    if (digest === undefined) throw new Error(`docker push told no digest:\n${stdout}`);
    return `${repository}@${digest}`;
  }
}

/** The same deployment, on hosts whose engines are told that this registry has no certificate. */
export function withRegistry(deploy: Deploy): Deploy {
  return async (host, node) => {
    const settings = { 'insecure-registries': [ADDRESS] };
    await host.writeFile('/etc/docker/daemon.json', JSON.stringify(settings));
    await deploy(host, node);
  };
}
