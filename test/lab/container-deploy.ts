/** KWDB in containers on test hosts: images made of the stand-in, and the ways in which people start them. */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Topology } from '@kwfleet/core';
import { makeCertificates } from '../standin/certificates.ts';
import { buildBaseLayer, buildPackage, type PackageFaults, unpackPackage } from '../standin/package.ts';
import type { Deploy, DeployedNode } from './fleet.ts';
import { type LabHost, until } from './host.ts';
import { run } from './process.ts';

const DIST = join(import.meta.dirname, '../../dist');
const STARTS: Readonly<Record<Topology, string>> = {
  standalone: 'start-single-node',
  'multi-replica': 'start',
  'single-replica': 'start-single-replica',
};
/** In the container; on the host /var/lib/kaiwudb, and /var/lib/standin for knobs and record. */
export const STORE = '/kaiwudb/deploy/kwdb-container';
export const RECORD = '/var/lib/standin/standin-record.jsonl';
const ENGINE_MS = 180_000;

/**
 * Whether this machine has an engine, and these programs, to run inside hosts. Throws under KWFLEET_REQUIRE_DOCKER=1 when
 * it has not.
 */
export function dockerHere(...more: readonly string[]): boolean {
  const programs = ['/usr/sbin/dockerd', '/usr/bin/docker-compose', ...more];
  const missing = programs.filter((program) => !existsSync(program));
  if (missing.length === 0) return true;
  const message = `the suites on containers cannot run here: ${missing.join(' and ')} missing`;
  if (process.env.KWFLEET_REQUIRE_DOCKER === '1') throw new Error(message);
  console.error(`SKIPPED: ${message}`);
  return false;
}

/** Packages and image archives of one suite, in a directory of the checkout, which every host sees. */
export class ImageShelf {
  readonly directory: string;
  readonly #base: string;
  readonly #images = new Map<string, Promise<string>>();

  private constructor(directory: string, base: string) {
    this.directory = directory;
    this.#base = base;
  }

  static async create(): Promise<ImageShelf> {
    await mkdir(DIST, { recursive: true });
    const directory = await mkdtemp(join(DIST, 'images-'));
    return new ImageShelf(directory, await buildBaseLayer(join(directory, 'base.tar'), { node: false }));
  }

  /** A container package as a .tar.gz. */
  package(version: string, faults?: PackageFaults): Promise<string> {
    const given = faults === undefined ? {} : { faults };
    return buildPackage({ version, method: 'container', outDir: this.directory, baseLayer: this.#base, ...given });
  }

  /** The path of a KaiwuDB.tar; made once, however many hosts ask for it at once. */
  image(version: string, faults?: PackageFaults): Promise<string> {
    const name = `unpacked-${version}${faults === undefined ? '' : `-${JSON.stringify(faults)}`}`;
    const made = this.#images.get(name) ?? this.#unpack(join(this.directory, name), version, faults);
    this.#images.set(name, made);
    return made;
  }

  async #unpack(place: string, version: string, faults: PackageFaults | undefined): Promise<string> {
    await unpackPackage(await this.package(version, faults), place);
    return join(place, 'kaiwudb_install/packages/KaiwuDB.tar');
  }

  /** The same image as engines from 25 on save it: an OCI layout with a manifest of the older form beside. */
  async layout(version: string): Promise<string> {
    const tree = join(this.directory, `layout-${version}`);
    const blobs = join(tree, 'blobs/sha256');
    const parts = join(this.directory, `parts-${version}`);
    await Promise.all([blobs, parts].map((path) => mkdir(path, { recursive: true })));
    await run(['tar', '-C', parts, '-xf', await this.image(version)]);
    const [image] = JSON.parse(await readFile(join(parts, 'manifest.json'), 'utf8')) as [SavedImage];
    const keep = async (data: Buffer, mediaType: string) => {
      const digest = createHash('sha256').update(data).digest('hex');
      await writeFile(join(blobs, digest), data);
      return { mediaType: `application/vnd.oci.image.${mediaType}`, digest: `sha256:${digest}`, size: data.length };
    };
    const config = await keep(await readFile(join(parts, image.Config)), 'config.v1+json');
    const layers = [];
    for (const layer of image.Layers) layers.push(await keep(await readFile(join(parts, layer)), 'layer.v1.tar'));
    const manifest = await keep(Buffer.from(JSON.stringify({ schemaVersion: 2, config, layers })), 'manifest.v1+json');
    const pathOf = ({ digest }: { digest: string }) => `blobs/sha256/${digest.replace('sha256:', '')}`;
    const older = { Config: pathOf(config), RepoTags: image.RepoTags, Layers: layers.map(pathOf) };
    const texts = {
      'manifest.json': [older],
      'index.json': { schemaVersion: 2, manifests: [manifest] },
      'oci-layout': { imageLayoutVersion: '1.0.0' },
    };
    for (const [name, value] of Object.entries(texts)) await writeFile(join(tree, name), JSON.stringify(value));
    const file = join(this.directory, `layout-${version}.tar`);
    await run(['tar', '-C', tree, '-cf', file, 'blobs', ...Object.keys(texts)]);
    return file;
  }

  remove(): Promise<void> {
    return rm(this.directory, { recursive: true, force: true });
  }
}

type SavedImage = { readonly Config: string; readonly RepoTags: readonly string[]; readonly Layers: readonly string[] };

/** What this host's engine itself saves of a version that it then forgets; the path is the test's own. */
export async function savedBy(host: LabHost, shelf: ImageShelf, version: string): Promise<string> {
  const [name, file] = [`kaiwudb:${version}`, `/var/lib/saved-${version}.tar`];
  await host.exec(['docker', 'load', '-i', await shelf.image(version)], { timeoutMs: ENGINE_MS });
  await host.exec(['docker', 'save', '-o', file, name], { timeoutMs: ENGINE_MS });
  await host.exec(['docker', 'rmi', name]);
  return `/proc/${host.initPid}/root${file}`;
}

/** What every container of the suites is given: Node, which is not in the image, and a place for knobs and record. */
const GIVEN = [
  ['-v', `${process.execPath}:${process.execPath}:ro`],
  ['-v', '/var/lib/standin:/standin'],
  ['-e', 'KW_STANDIN_HOME=/standin'],
] as const;

/** The command of a node: listening everywhere, known by its host's address. */
export function startArguments(host: LabHost, { topology, peers }: DeployedNode): string[] {
  return [
    './kwbase',
    STARTS[topology],
    '--insecure',
    '--listen-addr=0.0.0.0:26257',
    `--advertise-addr=${host.address}:26257`,
    '--http-addr=0.0.0.0:8080',
    `--store=${STORE}`,
    ...(topology === 'standalone'
      ? []
      : [`--join=${[host.address, ...peers].map((address) => `${address}:26257`).join(',')}`]),
  ];
}

/** The engine runs, the image is in it, and the directories that are mounted are there. */
export async function prepareEngine(host: LabHost, image: string, { knobs }: DeployedNode): Promise<void> {
  await host.exec(['mkdir', '-p', '/var/lib/kaiwudb', '/var/lib/standin']);
  await host.writeFile('/var/lib/standin/standin.json', JSON.stringify(knobs));
  await host.exec(['systemctl', 'start', 'docker'], { timeoutMs: ENGINE_MS });
  await host.exec(['docker', 'load', '-i', image], { timeoutMs: ENGINE_MS });
}

/** In the container, of a secure node. */
const CERTS = '/kaiwudb/certs';

/**
 * `docker run` as the manual has it; hosts with an even last number use the host's own network. `tls`: with certificates of
 * this one host, from a directory of the operator's own.
 */
export function byDockerRun(shelf: ImageShelf, { tls = false } = {}): Deploy {
  return async (host, node) => {
    await prepareEngine(host, await shelf.image(node.version), node);
    const even = Number(host.address.split('.').at(-1)) % 2 === 0;
    const network = even ? ['--network', 'host'] : ['-p', '26257:26257', '-p', '8080:8080'];
    const given = ['--restart', 'always', '--ipc', 'shareable', '-w', '/kaiwudb/bin', ...GIVEN.flat()];
    // A volume of the engine's own where there is one node, a directory of the host's where there are several.
    const mounts = ['-v', `${node.topology === 'standalone' ? 'kwdb-data' : '/var/lib/kaiwudb'}:${STORE}`];
    if (tls) mounts.push('-v', `/srv/kwdb-certs:${CERTS}:ro`);
    const image = `kaiwudb:${node.version}`;
    const command = startArguments(host, node).map((word) =>
      tls && word === '--insecure' ? `--certs-dir=${CERTS}` : word,
    );
    for (const [name, text] of Object.entries(tls ? await makeCertificates([host.address]) : {})) {
      await host.writeFile(`/srv/kwdb-certs/${name}`, text, 0o600);
    }
    await host.exec(['docker', 'run', '-d', '--name', 'kwdb', ...network, ...given, ...mounts, image, ...command], {
      timeoutMs: ENGINE_MS,
    });
  };
}

/**
 * A project of three services, as people write them: the image comes through a variable of the env file on the first
 * host, through a merged base on the second, and stands in an override on the others. `literal`: in an override everywhere; a
 * variable for a tag cannot hold a digest.
 */
export function byCompose(shelf: ImageShelf, { literal = false } = {}): Deploy {
  return async (host, node) => {
    await prepareEngine(host, await shelf.image(node.version), node);
    const [files, environment] = composeFiles(literal ? '' : host.name, host, node);
    for (const [name, text] of Object.entries(files)) await host.writeFile(`${PROJECT}/${name}`, text, 0o640);
    if (environment !== undefined) await host.writeFile(`${PROJECT}/.env`, environment, 0o600);
    await host.writeFile(`${PROJECT}/sidecar.env`, 'SIDE=car\n');
    const named = Object.keys(files).flatMap((name) => ['-f', name]);
    await host.exec(['docker-compose', '-p', 'fleet-db', ...named, 'up', '-d'], { cwd: PROJECT, timeoutMs: ENGINE_MS });
  };
}

export const PROJECT = '/srv/kwdb';

function composeFiles(style: string, host: LabHost, node: DeployedNode): [Record<string, string>, string | undefined] {
  const image = `kaiwudb:${node.version}`;
  const variable = (name: string) => `$${'{'}${name}}`;
  const even = Number(host.address.split('.').at(-1)) % 2 === 0;
  const network = even ? 'network_mode: host' : 'ports: ["26257:26257", "8080:8080"]';
  const service = (lead: string) => `  kwdb:   # the database
    ${lead}
    restart: always
    ${network}
    working_dir: /kaiwudb/bin
    environment:
      KW_STANDIN_HOME: /standin
    volumes:
      - '${process.execPath}:${process.execPath}:ro'
      - /var/lib/standin:/standin
      - /var/lib/kaiwudb:${STORE}
      - /anonymous
    command: ${JSON.stringify(startArguments(host, node))}
`;
  const others = `  sidecar:
    image: ${image}   # the same image on purpose
    command: sleep 100000
    env_file: sidecar.env
    stop_grace_period: 1s
  tool:
    image: ${image}
    profiles: [tools]
    command: sleep 1
`;
  const head = `# written by hand; keep it so\nversion: "3.8"\n`;
  switch (style) {
    case 'h1': {
      const lead = `image: "kaiwudb:${variable('KWDB_TAG')}"`;
      return [
        { 'docker-compose.yml': `${head}services:\n${service(lead)}${others}` },
        `# versions\nKWDB_TAG=${node.version}\n`,
      ];
    }
    case 'h2': {
      const base = `x-base: &base\n  image: ${image}\n  init: true\n\n`;
      return [{ 'docker-compose.yml': `${head}${base}services:\n${service('<<: *base')}${others}` }, undefined];
    }
    default: {
      const override = `version: "3.8"\nservices:\n  kwdb: {image: ${image}}\n`;
      return [
        { 'base.yml': `${head}services:\n${service('image: kaiwudb:0.0.0')}${others}`, 'override.yml': override },
        undefined,
      ];
    }
  }
}

const MODES: Readonly<Record<Topology, string>> = {
  standalone: 'single',
  'multi-replica': 'multi-replication',
  'single-replica': 'single-replication',
};

/** As the vendor's script leaves a container installation; its ulimits and privileges an engine in the lab cannot give. */
export function byScript(shelf: ImageShelf): Deploy {
  return async (host, node) => {
    await prepareEngine(host, await shelf.image(node.version), node);
    const image = `kaiwudb:${node.version}`;
    const join = [host.address, ...node.peers].map((address) => `${address}:26257`).join(',');
    const start = [
      `/kaiwudb/bin/kwbase  ${STARTS[node.topology]} $KAIWUDB_START_ARG --insecure`,
      `--listen-addr=0.0.0.0:26257 --advertise-addr=${host.address}:26257 --http-addr=0.0.0.0:8080`,
      `--store=/kaiwudb/deploy/kaiwudb-container ${node.topology === 'standalone' ? '' : `--join ${join}`}`,
    ].join(' ');
    await host.writeFile(
      '/etc/kaiwudb/script/docker-compose.yml',
      `version: '3.3'
services:
  kaiwudb-container:
    image: ${image}
    container_name: kaiwudb-container
    hostname: kaiwudb-container
    ports:
      - 8080:8080
      - 26257:26257
    volumes:
      - /etc/kaiwudb/certs:/kaiwudb/certs
      - /var/lib/kaiwudb:/kaiwudb/deploy/kaiwudb-container
      - /var/lib/standin:/standin
      - ${process.execPath}:${process.execPath}:ro
    networks:
      - default
    restart: on-failure
    ipc: shareable
    environment:
      - KW_STANDIN_HOME=/standin
    env_file:
      - /etc/kaiwudb/script/kaiwudb_env
    working_dir: /kaiwudb/bin
    command:
      - /bin/bash
      - -c
      - |
        ${start}
`,
    );
    await host.writeFile('/etc/kaiwudb/script/kaiwudb_env', 'KAIWUDB_START_ARG=\n');
    const mode = [
      'container',
      MODES[node.topology],
      image,
      '/var/lib/kaiwudb',
      '26257',
      '8080',
      'root',
      'insecure',
      'false',
    ];
    await host.writeFile('/etc/kaiwudb/info/MODE', `${[...mode, host.address].join('\n')}\n`);
    if (node.topology !== 'standalone')
      await host.writeFile('/etc/kaiwudb/info/NODE', `${node.peers.join(' ')}\n22\nroot\n`);
    await host.writeFile('/etc/kaiwudb/info/.version', `${node.version}\n\n`);
    await host.writeFile('/etc/systemd/system/kaiwudb.service', UNIT);
    await host.shell('mkdir -p /etc/kaiwudb/certs; systemctl daemon-reload; systemctl start kaiwudb', {
      timeoutMs: ENGINE_MS,
    });
  };
}

const UNIT = `[Unit]
Description=KaiwuDB Service
After=network.target
[Service]
User=root
Type=simple
WorkingDirectory=/etc/kaiwudb/script
ExecStart=/usr/bin/docker-compose --compatibility up
ExecStop=/usr/bin/docker-compose stop
[Install]
WantedBy=multi-user.target
`;

export type Inspected = {
  readonly Id: string;
  readonly Name: string;
  readonly Config: { readonly Image: string };
  readonly HostConfig: { readonly RestartPolicy: { readonly Name: string } };
  readonly State: { readonly Running: boolean; readonly StartedAt: string };
} & Readonly<Record<string, unknown>>;

export async function inspect(host: LabHost, name: string): Promise<Inspected | undefined> {
  const { exitCode, stdout } = await host.exec(['docker', 'inspect', '--type', 'container', name], {
    allowFailure: true,
  });
  return exitCode === 0 ? (JSON.parse(stdout) as Inspected[])[0] : undefined;
}

/** The names of all containers on a host. */
export async function containersOn(host: LabHost): Promise<string[]> {
  const { stdout } = await host.exec(['docker', 'ps', '-a', '--format', '{{.Names}}']);
  return stdout.split('\n').filter((name) => name !== '');
}

/** As soon as `moment`, a shell condition, is true: the agent is killed, and the engine is started anew. */
export async function killInTheMiddle(host: LabHost, moment: string): Promise<void> {
  const script = `for i in $(seq 3000); do if ${moment}; then
    kill -9 $(systemctl show -p MainPID --value kwfleet-agent); exit 0; fi; sleep 0.02; done; exit 1`;
  await host.shell(script);
  await host.exec(['systemctl', 'restart', 'docker'], { timeoutMs: ENGINE_MS });
  const answers = async () => (await host.exec(['docker', 'info'], { allowFailure: true })).exitCode === 0;
  await until(`the engine of ${host.name} is back`, answers);
}
