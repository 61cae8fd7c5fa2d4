/** KWDB built from source on test hosts: a tree of its own user's, started by hand or by a unit that somebody wrote. */
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Topology } from '@kwfleet/core';
import { buildTree, type PackageOptions } from '../standin/package.ts';
import type { DeployedNode, Fleet } from './fleet.ts';
import type { LabHost } from './host.ts';

export const TREE = '/opt/kwdb/install';
export const UNIT = 'kwdb-by-hand';
/** What the process by hand is given beside its command, to be found again after every restart. */
export const GIVEN = { MARK: 'a "quoted" $mark', LANG: 'C' } as const;
export const OPEN_FILES = 4321;

const STARTS: Readonly<Record<Topology, string>> = {
  standalone: 'start-single-node',
  'multi-replica': 'start',
  'single-replica': 'start-single-replica',
};

/** Hosts with an even last number run it by a unit. */
export const hasUnit = (host: LabHost): boolean => Number(host.address.split('.').at(-1)) % 2 === 0;

export async function addTree(fleet: Fleet, options: Omit<PackageOptions, 'outDir'>): Promise<void> {
  await fleet.addPackageFile(await buildTree({ ...options, outDir: fleet.lab.directory }));
}

export function bySource(directory: string): (host: LabHost, node: DeployedNode) => Promise<void> {
  return async (host, node) => {
    const file = await buildTree({ version: node.version, outDir: `${directory}/${host.name}` });
    await host.writeFile('/opt/kwdb/tree.tar.gz', await readFile(file));
    await host.writeFile('/var/lib/standin.json', JSON.stringify(node.knobs));
    await host.shell(
      `useradd --system --user-group --no-create-home kwdb
       tar -C /opt/kwdb -xzf /opt/kwdb/tree.tar.gz; rm /opt/kwdb/tree.tar.gz
       mkdir -p /var/lib/kaiwudb; touch /var/lib/standin-record.jsonl
       chown -R kwdb: /opt/kwdb /var/lib/kaiwudb /var/lib/standin-record.jsonl`,
    );
    const start = [STARTS[node.topology], ...flagsOf(host, node)];
    if (hasUnit(host)) await startByUnit(host, start);
    else await startByHand(host, start);
  };
}

/** Where the source lies on a host, and how it is built there: a line of agent.yaml, as its administrator writes it. */
const SOURCE = '/opt/src/kwdb';
export const BUILD = {
  source: {
    build: {
      directory: SOURCE,
      steps: [
        ['echo', 'configured'],
        ['bash', 'build.sh'],
      ],
    },
  },
};

/** A source whose build takes some seconds and ends with `exitCode`; what it leaves tells `version`. */
export async function laySource(host: LabHost, directory: string, version: string, exitCode: number): Promise<void> {
  const file = await buildTree({ version, outDir: `${directory}/${host.name}` });
  await host.writeFile(`${SOURCE}/prebuilt.tar.gz`, await readFile(file));
  const lines = [
    'for i in 1 2 3 4; do echo "compiling part $i of 4"; sleep 1; done',
    'tar -xzf prebuilt.tar.gz',
    'id -un',
  ];
  await host.writeFile(`${SOURCE}/build.sh`, `${lines.join('\n')}\nexit ${exitCode}\n`);
  await host.shell(`rm -rf ${SOURCE}/install; chown -R kwdb: /opt/src`);
}

/** A package that says no more than what is to be built. */
export async function addBuild(fleet: Fleet, version: string): Promise<void> {
  const top = join(fleet.lab.directory, 'kwfleet-build');
  await mkdir(top, { recursive: true });
  const architecture = process.arch === 'arm64' ? 'arm64' : 'amd64';
  await writeFile(join(top, 'build.json'), JSON.stringify({ version, architecture }));
  const file = join(fleet.lab.directory, `kwdb-${version}-build.tar.gz`);
  await fleet.lab.execInNetwork(['tar', '-C', fleet.lab.directory, '-czf', file, 'kwfleet-build']);
  await fleet.addPackageFile(file);
}

function flagsOf(host: LabHost, { topology, peers }: DeployedNode): string[] {
  const members = [host.address, ...peers].map((address) => `${address}:26257`);
  return [
    '--insecure',
    '--listen-addr=0.0.0.0:26257',
    `--advertise-addr=${host.address}:26257`,
    '--http-addr=0.0.0.0:8080',
    // From where it is started, as people write it.
    '--store=../../../../var/lib/kaiwudb',
    ...(topology === 'standalone' ? [] : [`--join=${members.join(',')}`]),
  ];
}

/** As from somebody's shell: in the tree's bin, with limits and an output of its own. */
async function startByHand(host: LabHost, start: readonly string[]): Promise<void> {
  const environment = Object.entries({ ...GIVEN, LD_LIBRARY_PATH: `${TREE}/lib` }).map(
    ([key, value]) => `${key}=${value}`,
  );
  const script = `ulimit -n ${OPEN_FILES}; umask 0027; cd ${TREE}/bin
    exec setsid setpriv --reuid=kwdb --regid=kwdb --clear-groups env "$@" >>/opt/kwdb/kwdb.log 2>&1 &`;
  await host.exec(['bash', '-c', script, 'bash', ...environment, './kwbase', ...start]);
}

async function startByUnit(host: LabHost, start: readonly string[]): Promise<void> {
  const unit = `[Service]
User=kwdb
WorkingDirectory=${TREE}/bin
Environment=LD_LIBRARY_PATH=${TREE}/lib
ExecStart=${TREE}/bin/kwbase ${start.join(' ')}
TimeoutStopSec=300
[Install]
WantedBy=multi-user.target
`;
  await host.writeFile(`/etc/systemd/system/${UNIT}.service`, unit);
  await host.shell(`systemctl daemon-reload; systemctl enable --now ${UNIT}`);
}

/** The process of the node; kwbase also runs for questions. */
export const FIND = `pgrep -f '^(\\./|${TREE}/bin/)kwbase start'`;

/** How the node's process was started, without what differs from start to start. */
export async function processOf(host: LabHost): Promise<string> {
  const { stdout } = await host.shell(
    `pid=$(${FIND}); cd /proc/$pid
     tr '\\0' '\\n' <cmdline | tail -n +2; readlink cwd
     tr '\\0' '\\n' <environ | grep -E '^(MARK|LANG|LD_LIBRARY_PATH)='; grep -E '^(Uid|Gid|Umask)' status
     grep 'open files' limits; readlink fd/1 | grep -v socket || :`,
  );
  // The kernel tells the place that the link leads to.
  return stdout.replaceAll(/install-[0-9.]+(-[0-9a-f]{12})?/g, 'install');
}
