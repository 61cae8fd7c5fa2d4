/** The agent's backups over a simulated host: a copy takes its time, can be cut off, can find the disk full, and rots. */
import { createHash } from 'node:crypto';
import { type Action, type BackupReceipt, FleetError, type NodeReport, type Phase } from '@kwfleet/core';
import type { Backups } from '../../packages/agent/src/backup/backups.ts';
import type { Watch } from '../../packages/agent/src/driver/driver.ts';
import type { Host } from './host.ts';
import type { Life } from './world.ts';

/** A copy as it lies on the host. */
export type SimCopy = {
  readonly version: string;
  readonly writes: number;
  readonly receipt: BackupReceipt;
  rotten: boolean;
};

export class SimBackups implements Backups {
  readonly #host: Host;
  readonly #life: Life;
  readonly #trueId: (action: Action) => string;

  constructor(host: Host, life: Life, trueId: (action: Action) => string) {
    this.#host = host;
    this.#life = life;
    this.#trueId = trueId;
  }

  prepare(): Promise<void> {
    return this.#io(50, () => {
      if (this.#host.faults.strikes('backupDiskFull')) throw new FleetError('DISK_FULL', 'a copy does not fit');
    });
  }

  /** Files are copied one by one: the database could come up in between, which the end of a real copy notices. */
  async make(action: Action, _report: NodeReport, watch: Watch): Promise<void> {
    const { world, faults } = this.#host;
    this.#deed('back-up', action);
    const began = this.#host.data.writes;
    const parts = world.random.int(1, 6);
    for (let part = 0; part < parts; part++) {
      watch.moved(`copied ${part}`);
      await watch.pause(world.random.int(100, 3_000));
      if (faults.strikes('backupDiskFull')) throw new FleetError('DISK_FULL', 'no space left for the copy');
    }
    await this.#io(20, () => {
      const { data, process, node } = this.#host;
      if (process !== null || data.writes !== began) {
        throw new FleetError('BACKUP_FAILED', 'the data changed while they were copied');
      }
      const manifestSha256 = createHash('sha256').update(`${action.run} ${node} ${data.writes}`).digest('hex');
      const receipt: BackupReceipt = {
        policy: 'copy',
        place: `/backups/${node}/${action.run}`,
        version: action.from,
        sizeBytes: 1,
        files: 1,
        manifestSha256,
        madeAtMs: this.#host.clock(),
        removed: [],
      };
      this.#host.copies.set(action.run, { ...data, receipt, rotten: false });
      this.#host.receipts.set(this.#trueId(action), receipt);
      world.tell({ type: 'copied', node, version: data.version, action: this.#trueId(action) });
    });
  }

  made(action: Action): Promise<BackupReceipt | undefined> {
    return Promise.resolve(this.#host.receipts.get(this.#trueId(action)));
  }

  async check(action: Action, _report: NodeReport, watch: Watch): Promise<void> {
    await watch.pause(this.#host.world.random.int(100, 3_000));
    await this.#io(20, () => void this.#copyOf(action));
  }

  async stage(action: Action, _report: NodeReport, watch: Watch): Promise<void> {
    await watch.pause(this.#host.world.random.int(100, 5_000));
    await this.#io(20, () => void this.#copyOf(action));
  }

  async restore(action: Action): Promise<void> {
    const { world, faults } = this.#host;
    this.#deed('restore', action);
    if (faults.strikes('restoreFails')) throw new FleetError('RESTORE_FAILED', 'the file system is read-only');
    await this.#io(20, () => {
      const host = this.#host;
      const { version, writes } = this.#copyOf(action);
      if (host.replaced.has(action.run)) return;
      host.replaced.set(action.run, host.data);
      host.data = { version, writes };
      world.tell({ type: 'data-changed', node: host.node, how: 'restored', version, action: this.#trueId(action) });
    });
  }

  async putBack(action: Action): Promise<void> {
    this.#deed('put-data-back', action);
    await this.#io(20, () => {
      const host = this.#host;
      const before = host.replaced.get(action.run);
      if (before === undefined) return;
      host.replaced.delete(action.run);
      host.data = before;
      const { version } = before;
      host.world.tell({
        type: 'data-changed',
        node: host.node,
        how: 'put back',
        version,
        action: this.#trueId(action),
      });
    });
  }

  async discard(action: Action): Promise<void> {
    this.#deed('discard-replaced', action);
    await this.#io(20, () => {
      if (!this.#host.replaced.delete(action.run)) return;
      const { node, data, world } = this.#host;
      world.tell({ type: 'data-changed', node, how: 'discarded', version: data.version, action: this.#trueId(action) });
    });
  }

  #copyOf(action: Action): SimCopy {
    const copy = this.#host.copies.get(action.restore?.set ?? '');
    if (copy === undefined) throw new FleetError('BACKUP_MISSING', 'the copy is gone');
    const { manifestSha256, version } = action.restore ?? {};
    const known = copy.receipt.manifestSha256 === manifestSha256 && copy.receipt.version === version;
    if (copy.rotten || !known) throw new FleetError('BACKUP_DAMAGED', 'a file is not as it was when it was copied');
    return copy;
  }

  #deed(deed: Phase, action: Action): void {
    if (!this.#life.alive) return;
    this.#host.world.tell({ type: 'deed', node: this.#host.node, deed, action: this.#trueId(action) });
  }

  #io<T>(meanMs: number, effect: () => T): Promise<T> {
    return this.#host.world.io(this.#life, this.#host.world.random.int(1, meanMs * 2), effect);
  }
}
