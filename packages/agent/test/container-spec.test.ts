import { describe, expect, it } from 'vitest';
import type { ContainerInspect, ImageInspect } from '../src/docker/engine.ts';
import { recreation } from '../src/docker/spec.ts';

const ID = '0123456789abcdef'.repeat(4);
const NEXT = { name: 'kwdb', image: 'kwdb:3.1.0', policy: { Name: 'always', MaximumRetryCount: 0 }, apiMinor: 41 };

type Change = {
  readonly config?: Record<string, unknown>;
  readonly host?: Record<string, unknown>;
  readonly networks?: Record<string, unknown>;
  readonly mounts?: readonly unknown[];
  readonly image?: Record<string, unknown>;
};

function recreated({ config = {}, host = {}, networks = {}, mounts = [], image = {} }: Change, apiMinor = 41) {
  const old = {
    Id: ID,
    Name: '/kwdb-kwfleet-3.0.0',
    Config: { Hostname: ID.slice(0, 12), Cmd: ['./kwbase', 'start'], Entrypoint: null, Env: [], ...config },
    HostConfig: { NetworkMode: 'default', ...host },
    NetworkSettings: { Networks: networks },
    Mounts: mounts,
  } as unknown as ContainerInspect;
  return recreation(old, { Config: { Cmd: ['sh'], ...image } } as unknown as ImageInspect, { ...NEXT, apiMinor });
}

const specOf = (change: Change) => recreated(change).spec as unknown as Record<string, never>;

describe('how a container is made again', () => {
  it('takes the new image, the name and the restart policy from the exchange', () => {
    const spec = specOf({ host: { RestartPolicy: { Name: 'no', MaximumRetryCount: 0 } } });
    expect(spec).toMatchObject({ name: 'kwdb', Image: 'kwdb:3.1.0', HostConfig: { RestartPolicy: NEXT.policy } });
  });

  it("leaves out what is the old image's own, so that the new image's comes through", () => {
    const image = {
      Cmd: ['./kwbase', 'start'],
      Entrypoint: ['/entry'],
      Env: ['PATH=/old', 'LANG=C'],
      Labels: { vendor: 'x', build: '1' },
      User: 'kwdb',
      WorkingDir: '/kaiwudb/bin',
      StopSignal: 'SIGTERM',
      ExposedPorts: { '26257/tcp': {} },
      Volumes: { '/data': {} },
      Healthcheck: { Test: ['CMD', 'true'] },
    };
    const spec = specOf({ config: { ...image }, image });
    expect(spec).toMatchObject({ Env: [], Labels: {}, ExposedPorts: {}, Volumes: {} });
    for (const key of ['Cmd', 'Entrypoint', 'User', 'WorkingDir', 'StopSignal', 'Healthcheck']) {
      expect(spec, key).not.toHaveProperty(key);
    }
  });

  it("keeps what differs from the image's own, in the midst of what does not", () => {
    const spec = specOf({
      config: { Env: ['PATH=/mine', 'LANG=C', 'EXTRA=1'], Labels: { vendor: 'me', build: '1' }, User: '1000' },
      image: { Env: ['PATH=/old', 'LANG=C'], Labels: { vendor: 'x', build: '1' }, User: 'kwdb' },
    });
    expect(spec).toMatchObject({ Env: ['PATH=/mine', 'EXTRA=1'], Labels: { vendor: 'me' }, User: '1000' });
  });

  it.each([
    ['a command of its own', { Cmd: ['./kwbase', 'start'], Entrypoint: ['/e'] }, { Cmd: ['./kwbase', 'start'] }],
    [
      'an entrypoint of its own',
      { Cmd: ['start'], Entrypoint: ['./kwbase'] },
      { Entrypoint: ['./kwbase'], Cmd: ['start'] },
    ],
    [
      "the image's entrypoint said again, without a command",
      { Cmd: null, Entrypoint: ['/e'] },
      { Entrypoint: ['/e'], Cmd: [] },
    ],
    [
      'an entrypoint taken away',
      { Cmd: ['./kwbase', 'start'], Entrypoint: null },
      { Entrypoint: [], Cmd: ['./kwbase', 'start'] },
    ],
  ])('%s', (_what, config, expected) => {
    const spec = specOf({ config, image: { Cmd: ['sh'], Entrypoint: ['/e'] } });
    const { Cmd, Entrypoint } = spec as { Cmd?: string[]; Entrypoint?: string[] };
    expect({ ...(Cmd === undefined ? {} : { Cmd }), ...(Entrypoint === undefined ? {} : { Entrypoint }) }).toEqual(
      expected,
    );
  });

  it('gives anonymous volumes on by the names that the engine gave, named ones and binds as they are', () => {
    const spec = specOf({
      config: { Volumes: { '/anonymous': {}, '/read-only': {}, '/bound': {} } },
      host: {
        Binds: ['/host:/bound', 'named:/named:z'],
        Mounts: [
          { Type: 'volume', Target: '/mounted' },
          { Type: 'volume', Source: 'mine', Target: '/mine' },
          { Type: 'tmpfs', Target: '/tmp' },
        ],
        VolumesFrom: ['other'],
      },
      mounts: [
        { Type: 'volume', Name: 'a1', Destination: '/anonymous', RW: true, Mode: '' },
        { Type: 'volume', Name: 'a2', Destination: '/read-only', RW: false, Mode: '' },
        { Type: 'volume', Name: 'a3', Destination: '/mounted', RW: true, Mode: 'z' },
        { Type: 'volume', Name: 'mine', Destination: '/mine', RW: true, Mode: 'z' },
        { Type: 'bind', Source: '/host', Destination: '/bound', RW: true, Mode: '' },
        { Type: 'volume', Name: 'theirs', Destination: '/from-another', RW: true, Mode: '' },
      ],
    });
    expect(spec.HostConfig).toMatchObject({
      Binds: ['/host:/bound', 'named:/named:z', 'a1:/anonymous', 'a2:/read-only:ro'],
      Mounts: [
        { Type: 'volume', Target: '/mounted', Source: 'a3' },
        { Type: 'volume', Source: 'mine', Target: '/mine' },
        { Type: 'tmpfs', Target: '/tmp' },
      ],
      VolumesFrom: ['other'],
    });
  });

  it('asks each network for what was asked before, not for what it gave', () => {
    const given = { NetworkID: 'n1', EndpointID: 'e1', IPAddress: '', Gateway: '', MacAddress: '' };
    const { spec, networks } = recreated({
      host: { NetworkMode: 'front' },
      networks: {
        front: { ...given, IPAMConfig: { IPv4Address: '10.1.0.5' }, Links: null, Aliases: ['db', ID.slice(0, 12)] },
        back: {
          ...given,
          NetworkID: 'n2',
          IPAMConfig: {},
          Links: ['other:friend'],
          Aliases: ['db2'],
          DriverOpts: null,
        },
      },
    });
    expect(spec.NetworkingConfig).toEqual({
      EndpointsConfig: { front: { IPAMConfig: { IPv4Address: '10.1.0.5' }, Aliases: ['db'] } },
    });
    expect(networks).toEqual({ back: { IPAMConfig: {}, Links: ['other:friend'], Aliases: ['db2'] } });
  });

  describe('of several networks, with a MAC address', () => {
    const given = { NetworkID: 'n1', EndpointID: '', IPAddress: '', MacAddress: '', DNSNames: ['kwdb', 'db'] };
    const change = {
      config: { MacAddress: '02:42:ac:11:00:02' },
      host: { NetworkMode: 'default' },
      networks: {
        bridge: { ...given, Aliases: null },
        back: { ...given, NetworkID: 'n2', Aliases: ['db'], MacAddress: '02:42:ac:12:00:09', GwPriority: 1 },
      },
    };

    it('names one network at the creation, and the address for the container, up to API 1.43', () => {
      const { spec, networks } = recreated(change, 43);
      expect(spec).toMatchObject({
        MacAddress: '02:42:ac:11:00:02',
        NetworkingConfig: { EndpointsConfig: { bridge: {} } },
      });
      expect(Object.keys(networks)).toEqual(['back']);
    });

    it('names all, each with its address, from API 1.44 on, which takes none for the container', () => {
      const { spec, networks } = recreated(change, 44);
      expect(spec).not.toHaveProperty('MacAddress');
      expect(spec.NetworkingConfig).toEqual({
        EndpointsConfig: {
          bridge: { MacAddress: '02:42:ac:11:00:02' },
          back: { Aliases: ['db'], MacAddress: '02:42:ac:12:00:09', GwPriority: 1 },
        },
      });
      expect(networks).toEqual({});
    });

    it('connects to the others afterwards where the first was left', () => {
      const { back } = change.networks;
      const { spec, networks } = recreated({ ...change, networks: { back } }, 52);
      expect(spec).not.toHaveProperty('NetworkingConfig');
      expect(Object.keys(networks)).toEqual(['back']);
    });
  });

  it('reads an image that leaves out what is not set, as engines of API 1.52 tell it', () => {
    const { spec } = recreated(
      { config: { User: '', WorkingDir: '', Env: ['A=1'], Labels: { own: 'x' } }, image: {} },
      52,
    );
    expect(spec).toMatchObject({ Env: ['A=1'], Labels: { own: 'x' } });
  });

  it.each(['host', 'none', 'container:abc'])('joins no network of its own with --network %s', (NetworkMode) => {
    const { spec, networks } = recreated({ host: { NetworkMode }, networks: { [NetworkMode]: {} } });
    expect(spec).not.toHaveProperty('NetworkingConfig');
    expect(networks).toEqual({});
  });

  it('keeps a hostname that was given, and none that is the id or of another namespace', () => {
    expect(specOf({ config: { Hostname: 'db-1' } })).toMatchObject({ Hostname: 'db-1' });
    expect(specOf({})).not.toHaveProperty('Hostname');
    expect(specOf({ config: { Hostname: 'db-1' }, host: { UTSMode: 'host' } })).not.toHaveProperty('Hostname');
  });

  it('turns links back into what made them', () => {
    const { HostConfig } = specOf({ host: { Links: ['/other:/kwdb-kwfleet-3.0.0/friend'] } });
    expect(HostConfig).toMatchObject({ Links: ['other:friend'] });
  });

  it('passes on every limit and right, those of this test unknown to the types too', () => {
    const host = {
      Privileged: true,
      Ulimits: [{ Name: 'memlock', Soft: -1, Hard: -1 }],
      CapAdd: ['SYS_ADMIN'],
      IpcMode: 'shareable',
      MaskedPaths: null,
      NanoCpus: 1500000000,
      SomethingNew: { of: ['a later engine'] },
    };
    expect(specOf({ host }).HostConfig).toMatchObject(host);
  });
});
