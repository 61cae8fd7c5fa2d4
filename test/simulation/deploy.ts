/**
 * deploy.sh on a host: a long command that outlives the agent, is not atomic, copies `.version` last, and can fail,
 * hang, or go on as an orphan after its parent was killed. Source: KWDB facts, "`deploy.sh upgrade`" and its table.
 */
import type { Host } from './host.ts';

export type CommandKind = 'install' | 'put-back' | 'online';
type State = 'running' | 'exited' | 'lost';
/** Where a run of it goes wrong. `half`: old packages gone; `maintainer`: new binary there, package half-configured. */
type Course = 'good' | 'early' | 'half' | 'maintainer' | 'binary-stays';

export class DeployCommand {
  readonly kind: CommandKind;
  readonly version: string;
  readonly action: string;
  readonly #host: Host;
  state: State = 'running';
  exitCode = 0;
  words = '';
  /** Counts its steps: a sign of life for whoever watches. */
  moved = 0;
  /** Killed alone: its children go on, and nobody is left to say how they ended. */
  orphan = false;
  hung = false;
  /** Set when the whole group is gone: no step of it happens any more. */
  #dead = false;

  constructor(host: Host, kind: CommandKind, version: string, action: string) {
    this.#host = host;
    this.kind = kind;
    this.version = version;
    this.action = action;
  }

  begin(): void {
    const { node, world } = this.#host;
    world.tell({ type: 'command-began', node, kind: this.kind, version: this.version, action: this.action });
    this.#step(world.random.int(50, 600), () => this.#check());
  }

  #check(): void {
    const host = this.#host;
    const locked = [...host.commands.values()].some((other) => other !== this && other.orphan);
    if (locked) {
      this.#end(1, 'dpkg: error: dpkg frontend lock is held by another process');
      return;
    }
    // Only the way back goes round the version check.
    if (this.kind !== 'put-back' && host.packages.recorded === this.version) {
      this.#end(1, 'The upgrade conditions are not met.( --> )');
      return;
    }
    if (this.kind !== 'online') {
      this.#exchange(() => this.#end(0, '[UPGRADE COMPLETED]'));
      return;
    }
    if (host.process === null) {
      this.#end(1, 'KaiwuDB upgrade failed: the database does not answer');
      return;
    }
    if (!host.database.mark(host)) {
      this.#end(1, 'KaiwuDB change status failed: another node is not live');
      return;
    }
    this.#exchange(() => this.#restart());
  }

  #course(): Course {
    const { faults, world } = this.#host;
    if (faults.strikes('binaryStays')) return 'binary-stays';
    if (!faults.strikes('installFails')) return 'good';
    return world.random.pick(['early', 'half', 'half', 'maintainer'] as const);
  }

  /** Old packages out, new ones in, `.version` last. */
  #exchange(then: () => void): void {
    const host = this.#host;
    const { world, faults } = host;
    const { random } = world;
    const course = this.#course();
    if (course === 'early') {
      this.#step(300, () => this.#end(1, 'Package server does not exist.'));
      return;
    }
    const before = host.packages.binary;
    const pause = () => {
      const hangs = faults.strikes('installHangs');
      this.hung = hangs;
      return hangs ? random.int(5_000, 2_000_000) : random.int(100, 4_000);
    };
    this.#step(pause(), () => {
      host.packages = { ...host.packages, package: undefined, binary: undefined, half: true };
      if (course === 'half')
        return this.#step(500, () => this.#end(1, 'Pipe create failed: dpkg: error processing archive'));
      this.#step(pause(), () => {
        const binary = course === 'binary-stays' ? before : this.version;
        host.packages = { ...host.packages, package: this.version, binary, half: course === 'maintainer' };
        if (course === 'maintainer') {
          return this.#step(300, () => this.#end(1, 'Pipe create failed: post-installation script returned 1'));
        }
        this.#step(pause(), () => {
          host.packages = { ...host.packages, recorded: this.version };
          then();
        });
      });
    });
  }

  /** The online route: the new version is started with `--upgrade-complete`, and waited for up to ten minutes. */
  #restart(): void {
    const host = this.#host;
    const { process } = host;
    host.completesUpgrade = true;
    host.stop('system', this.action);
    this.#await(
      host.world.nowMs + 120_000,
      () => host.process !== process,
      () => {
        host.start('system', this.action);
        this.#await(
          host.world.nowMs + 600_000,
          () => host.process?.joined === true,
          () => this.#end(0, '[UPGRADE COMPLETED]'),
        );
      },
    );
  }

  #await(untilMs: number, isTrue: () => boolean, then: () => void): void {
    this.#step(1_000, () => {
      if (isTrue()) return then();
      if (this.#host.world.nowMs >= untilMs)
        return this.#end(1, 'KaiwuDB upgrade failed: the database does not answer');
      this.#await(untilMs, isTrue, then);
    });
  }

  #step(delayMs: number, run: () => void): void {
    this.#host.world.after(delayMs, () => {
      if (this.#dead) return;
      this.moved++;
      this.hung = false;
      run();
    });
  }

  #end(exitCode: number, words: string): void {
    this.#dead = true;
    this.orphan = false;
    if (this.state !== 'running') return;
    this.state = 'exited';
    this.exitCode = exitCode;
    this.words = words;
    this.#told(exitCode === 0 ? 'exit 0' : `exit 1 (${words})`);
  }

  /** kill -9 of deploy.sh alone: what it started goes on. */
  killAlone(): void {
    if (this.state !== 'running') return;
    this.state = 'lost';
    this.orphan = true;
    this.#told('killed, its children go on');
  }

  /** The whole group: nothing of it goes on, and half of the work is done. */
  kill(): void {
    this.#dead = true;
    this.orphan = false;
    if (this.state !== 'running') return;
    this.state = 'lost';
    this.#told('killed');
  }

  #told(how: string): void {
    const { node, world } = this.#host;
    if (this.#host.command === this) this.#host.command = null;
    world.tell({ type: 'command-ended', node, kind: this.kind, how, action: this.action });
  }
}
