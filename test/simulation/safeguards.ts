/**
 * Safeguards, each of which can be switched off from out here, by wrapping what the program touches the world through.
 * With one off, the simulator must find a violation: else it would not notice the safeguard's loss in the code either.
 */
import type { Action, NodeReport, Plan, RunApproval } from '@kwfleet/core';
import type { AgentMessage } from '@kwfleet/protocol';
import type { Driver } from '../../packages/agent/src/driver/driver.ts';
import type { Disk } from './disk.ts';
import type { Host } from './host.ts';
import { NEW } from './releases.ts';

export const SAFEGUARDS = {
  epoch: 'agents refuse orders of a controller that is no longer in charge',
  interlock: 'the host itself asks the database before it takes its node down',
  journal: 'the agent remembers across crashes',
  gate: 'the cluster is checked before each node',
  witness: 'a node is seen from another one to be back before the next is touched',
  barrier: 'a single-replica cluster is stopped, installed and started in three closed stages',
  observe: 'what is true is looked at, not concluded',
  idempotence: 'an order that comes again changes nothing',
  approval: 'nothing is done before those have agreed whom a policy names',
  lateness: 'a host refuses what would take its node down long after it was decided',
  ledger: 'a changed setting gets its prior value back',
} as const;
export type Safeguard = keyof typeof SAFEGUARDS;

export const isSafeguard = (name: string): name is Safeguard => Object.hasOwn(SAFEGUARDS, name);

const NEVER_STALE = 1_000_000_000;

/** What lies between the program and the world; all of it passes things on as they are when nothing is off. */
export class Guard {
  readonly #off: Safeguard | undefined;
  #deliveries = 0;

  constructor(off: Safeguard | undefined) {
    this.#off = off;
  }

  plan(plan: Plan): Plan {
    if (this.#off !== 'barrier' || plan.topology !== 'single-replica') return plan;
    // Each node goes through its own stages and waits for no other.
    const steps = plan.steps.map((step) => ({
      ...step,
      needs: step.needs.filter((need) => need.endsWith(`:${step.node}`)),
    }));
    return { ...plan, steps };
  }

  approval(approval: RunApproval | undefined): RunApproval | undefined {
    return this.#off === 'approval' ? undefined : approval;
  }

  /** An order as it reaches the agent. */
  order(action: Action): Action {
    switch (this.#off) {
      case 'epoch':
        return { ...action, epoch: NEVER_STALE };
      case 'interlock':
        return { ...action, phases: action.phases.filter((phase) => phase !== 'interlock') };
      case 'witness':
        return { ...action, phases: action.phases.filter((phase) => phase !== 'witness') };
      case 'lateness': {
        const { beginByMs: _, ...whenever } = action;
        return whenever;
      }
      case 'ledger':
        return { ...action, ledger: [] };
      case 'idempotence':
        return { ...action, id: `${action.id}~${++this.#deliveries}` };
      default:
        return action;
    }
  }

  trueId(id: string): string {
    return id.split('~')[0] as string;
  }

  upward(message: AgentMessage): AgentMessage {
    if (this.#off !== 'idempotence') return message;
    if ('result' in message) return { result: { ...message.result, action: this.trueId(message.result.action) } };
    if ('progress' in message)
      return { progress: { ...message.progress, action: this.trueId(message.progress.action) } };
    return message;
  }

  /** What the agent acknowledges for a stored result. */
  acknowledgements(action: string): string[] {
    if (this.#off !== 'idempotence') return [action];
    return Array.from({ length: this.#deliveries }, (_, index) => `${action}~${index + 1}`);
  }

  inHand(actions: readonly string[]): string[] {
    return this.#off === 'idempotence' ? [] : [...actions];
  }

  readJournal(disk: Disk): Uint8Array {
    if (this.#off === 'journal') disk.replace(new Uint8Array());
    return disk.read();
  }

  driver(driver: Driver, host: Host): Driver {
    if (this.#off !== 'gate' && this.#off !== 'observe') return driver;
    const off = this.#off;
    return new Proxy(driver, {
      get(target, name: keyof Driver) {
        if (off === 'observe' && name === 'observe') return async () => wished(await target.observe(), host);
        if (off === 'gate' && name === 'health') {
          return async (questions: 'ranges' | 'all') => {
            const health = await target.health(questions);
            return questions === 'ranges'
              ? health
              : { ...health, jobs: [], rangesUnavailable: 0, rangesUnderreplicated: 0 };
          };
        }
        return (target[name] as (...args: unknown[]) => unknown).bind(target);
      },
    });
  }
}

/** The report as one would like it to be: the target everywhere, nothing half done. */
function wished(report: NodeReport, host: Host): NodeReport {
  const { installation } = report;
  if (installation === undefined) return report;
  const up = host.process !== null;
  const versions = { recorded: NEW, package: NEW, binary: NEW, ...(up ? { running: NEW } : {}) };
  return {
    ...report,
    serving: up,
    ready: up,
    installation: { ...installation, versions, condition: 'clean', conditionDetail: '' },
  };
}
