/** How each death is done to a fleet, and how it is undone. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Death } from './faults.ts';
import type { Fleet } from './fleet.ts';
import { type LabHost, until } from './host.ts';

const STATE_DIR = '/var/lib/kwfleet';
/** How long a fault lasts that ends by itself, unless its effect is seen before. */
const LASTS_MS = 6_000;

export type Strike = {
  readonly fleet: Fleet;
  /** The host that carries out the step in which the fault comes. */
  readonly host: LabHost;
  /** Whether what the fault was to bring about is there: the step ended, or the run holds. */
  readonly felt: () => Promise<boolean>;
};

/** Does it, undoes it, and comes back when what died is up again. */
export const STRIKES: Readonly<Record<Death, (strike: Strike) => Promise<void>>> = {
  agent: async ({ host }) => {
    const before = await mainPid(host, 'kwfleet-agent');
    await host.exec(['kill', '-9', String(before)]);
    await until(
      'systemd starts the agent again',
      async () => {
        const now = await mainPid(host, 'kwfleet-agent');
        return now > 0 && now !== before;
      },
      30_000,
    );
  },
  controller: async ({ fleet }) => {
    await fleet.controllerProcess?.kill('SIGKILL');
    await fleet.startController();
  },
  PostgreSQL: async ({ fleet }) => {
    const file = join(fleet.lab.directory, 'controller/data/postgres/data/postmaster.pid');
    const pid = async () => Number((await readFile(file, 'utf8').catch(() => '0')).split('\n')[0]);
    const before = await pid();
    process.kill(before, 'SIGKILL');
    await until(
      'the controller has its PostgreSQL back',
      async () => {
        const up = (await pid()) !== before;
        return (
          up &&
          fleet.client.clusters().then(
            () => true,
            () => false,
          )
        );
      },
      60_000,
    );
  },
  'deploy.sh': async ({ host }) => {
    const unit = await commandUnit(host);
    await host.shell(`pid=$(systemctl show -p MainPID --value ${unit}); kill -9 $(pgrep -P "$pid")`);
  },
  "deploy.sh's unit": async ({ host }) => {
    await host.exec(['systemctl', 'kill', '--signal=KILL', await commandUnit(host)]);
  },
  network: async ({ fleet, host, felt }) => {
    await host.cutOff();
    try {
      const away = async () => (await fleet.client.nodes()).some(({ id, connected }) => id === host.name && !connected);
      await until('the cut is felt', async () => (await felt()) && (await away()), LASTS_MS).catch(() => {});
    } finally {
      await host.heal();
    }
  },
  host: async ({ host }) => {
    await host.crash();
    await host.boot();
  },
  'disk full': async ({ host, felt }) => {
    const free = `$(df --output=avail -B1 ${STATE_DIR} | tail -1)`;
    const fill = `cd ${STATE_DIR}; fallocate -l ${free} filler || :; cat /dev/zero >filler2 2>&1 || :`;
    await host.exec(['sh', '-c', fill], { allowFailure: true });
    try {
      await until('the full disk is felt', felt, LASTS_MS).catch(() => {});
    } finally {
      await host.exec(['rm', '-f', `${STATE_DIR}/filler`, `${STATE_DIR}/filler2`]);
    }
  },
};

async function mainPid(host: LabHost, unit: string): Promise<number> {
  return Number((await host.exec(['systemctl', 'show', '-p', 'MainPID', '--value', unit])).stdout);
}

/** The transient unit in which deploy.sh runs. */
async function commandUnit(host: LabHost): Promise<string> {
  const list = ['systemctl', 'list-units', '--plain', '--no-legend', '--state=active', 'kwfleet-cmd-*'];
  return until('deploy.sh runs', async () => (await host.exec(list)).stdout.split(' ')[0] || undefined);
}
