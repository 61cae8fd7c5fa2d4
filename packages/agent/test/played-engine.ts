/** An engine in memory, for rules about several containers; real ones are played on test hosts (test/lab). */
import { FleetError } from '@kwfleet/core';
import type { ContainerInspect, Engine } from '../src/docker/engine.ts';

type Made = { readonly running: boolean; readonly policy?: string; readonly labels?: Record<string, string> };

export class PlayedEngine {
  readonly containers = new Map<string, ContainerInspect>();
  /** Ids of images, by their names. */
  readonly images = new Map([['kwdb:3.0.0', 'sha256:old']]);
  /** What the engine says to a stop; undefined: it stops. */
  refusal: string | undefined;

  /** A node of KWDB whose data are on the host. */
  make(name: string, { running, policy = 'no', labels = {} }: Made): void {
    this.containers.set(name, {
      Id: `id-${name}`,
      Name: `/${name}`,
      Path: './kwbase',
      Args: ['start-single-node', '--insecure', '--store=/data'],
      Image: 'sha256:old',
      Config: { Image: 'kwdb:3.0.0', WorkingDir: '/kaiwudb/bin', Labels: labels, User: '', Hostname: name },
      HostConfig: { RestartPolicy: { Name: policy, MaximumRetryCount: 0 }, AutoRemove: false },
      NetworkSettings: { Networks: {}, Ports: {} },
      Mounts: [{ Type: 'bind', Source: '/var/lib/kaiwudb', Destination: '/data' }],
      State: { Running: running, Restarting: false, Status: running ? 'running' : 'exited', Pid: 7, ExitCode: 0 },
    } as unknown as ContainerInspect);
  }

  policyOf(name: string): string | undefined {
    return this.containers.get(name)?.HostConfig.RestartPolicy?.Name;
  }

  get engine(): Engine {
    const byId = (id: string) => [...this.containers.values()].find(({ Id, Name }) => Id === id || Name === `/${id}`);
    const turn = (id: string, running: boolean) => {
      const found = byId(id);
      if (found !== undefined) Object.assign(found.State, { Running: running, Status: running ? 'running' : 'exited' });
    };
    return {
      present: async () => true,
      answers: async () => true,
      info: async () => ({ root: '/var/lib/docker', architecture: 'amd64' }),
      containers: async () =>
        [...this.containers.values()].map(({ Id, Name, Config, Path, Args }) => ({
          Id,
          Names: [Name],
          Labels: Config.Labels,
          Command: [Path, ...Args].join(' '),
        })),
      container: async (id: string) => structuredClone(byId(id)),
      image: async (name: string) => {
        const id = this.images.get(name) ?? [...this.images.values()].find((known) => known === name);
        return id === undefined ? undefined : { Id: id };
      },
      tag: async (id: string, repository: string, tag: string) => void this.images.set(`${repository}:${tag}`, id),
      removeImage: async (name: string) => void this.images.delete(name),
      setRestartPolicy: async (id: string, policy: object) => {
        Object.assign(byId(id)?.HostConfig ?? {}, { RestartPolicy: policy });
      },
      start: async (id: string) => turn(id, true),
      stop: async (id: string) => {
        if (this.refusal !== undefined) throw new FleetError('ENGINE_FAILED', 'no', { words: this.refusal });
        turn(id, false);
      },
    } as unknown as Engine;
  }
}
