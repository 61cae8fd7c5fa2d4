import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { ApprovalScope, PlanOptions, Topology } from '../src/index.ts';
import { allAt, draft, fleet, installation, NEW, planOf } from './builders.ts';
import { approvalFor, WINDOWS } from './conditions.ts';
import { type Ending, HOUR, MINUTE, Model, SECOND } from './model.ts';

const wish = fc.record({
  topology: fc.constantFrom<Topology>('multi-replica', 'multi-replica', 'single-replica', 'standalone'),
  size: fc.integer({ min: 3, max: 5 }),
  /** How many orders go well before the trouble begins, so that it begins anywhere in a run. */
  calmBefore: fc.nat(24),
  /** Whether the second node of a multi-replica cluster has the target already. */
  done: fc.boolean(),
  /** How many must approve the start, and what cannot be undone. */
  approvers: fc.constantFrom([0, 0], [0, 0], [2, 0], [1, 1], [0, 1]),
  /** Whether it is done in windows, each open for four hours of six. */
  inWindows: fc.boolean(),
  /** Whether each node is copied while it is stopped. */
  copied: fc.boolean(),
  options: fc.record<Partial<PlanOptions>>({
    route: fc.constantFrom('offline', 'online'),
    concurrency: fc.integer({ min: 1, max: 3 }),
  }),
});
type Wish = typeof wish extends fc.Arbitrary<infer T> ? T : never;

const PEOPLE = ['ann', 'bo', 'cai'] as const;

function modelOf({ topology, size, calmBefore, done, approvers, inWindows, copied, options }: Wish): Model {
  const nodes = fleet(topology, topology === 'standalone' ? 1 : size).map((one, index) =>
    topology === 'multi-replica' && done && index === 1
      ? { ...one, report: { ...one.report, installation: installation({ topology, versions: allAt(NEW) }) } }
      : one,
  );
  const backup: PlanOptions['backup'] = { policy: 'copy' };
  const plan = planOf(
    draft(nodes, { options: { ...options, ...(copied && options.route === 'offline' && { backup }) } }),
  );
  const model = new Model(plan, approvalFor(plan, approvers), inWindows ? WINDOWS : undefined);
  for (let finished = 0; finished < calmBefore && !model.ended; finished++) {
    model.settle();
    for (const order of model.orders.slice(0, 1)) model.finish(order);
  }
  return model;
}

/** Codes that hosts send: known ones, unknown ones, and names that every object has. */
const code = fc.constantFrom('INSTALL_FAILED', 'EPOCH_STALE', 'NO_SUCH_CODE', 'toString', '__proto__');
const ending: fc.Arbitrary<Ending> = fc.oneof(
  { weight: 3, arbitrary: fc.constant<Ending>('as it goes') },
  { weight: 1, arbitrary: fc.constant<Ending>('too late') },
  { weight: 1, arbitrary: fc.record({ disposition: fc.constantFrom('untouched', 'backed-out', 'broken'), code }) },
);
const pick = fc.nat(99);
const command = fc.oneof(
  { weight: 6, arbitrary: fc.constant({ do: 'decide' } as const) },
  { weight: 6, arbitrary: fc.record({ do: fc.constant('finish'), pick, ending }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('redeliver'), pick }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('progress'), pick, ago: fc.nat(2) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constantFrom('disconnect', 'reconnect', 'crash', 'meddle'), pick }) },
  { weight: 1, arbitrary: fc.constant({ do: 'mend' } as const) },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('approve'),
      who: fc.constantFrom(...PEOPLE),
      scope: fc.constantFrom<ApprovalScope>('start', 'irreversible'),
      stale: fc.boolean(),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('wait'),
      ms: fc.constantFrom(SECOND, 6 * SECOND, 16 * SECOND, 31 * SECOND, 61 * SECOND, 3 * MINUTE, 16 * MINUTE, 7 * HOUR),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({ do: fc.constant('ask'), what: fc.constantFrom('pause', 'resume', 'retry', 'retry') }),
  },
);
type Command = typeof command extends fc.Arbitrary<infer T> ? T : never;

const at = <T>(list: readonly T[], index: number): T | undefined => list[index % Math.max(1, list.length)];

function play(model: Model, step: Command): void {
  const node = 'pick' in step ? (at(model.hosts, step.pick)?.node ?? 'n1') : 'n1';
  const order = 'pick' in step ? at(model.orders, step.pick) : undefined;
  const result = 'pick' in step ? at(model.delivered, step.pick) : undefined;
  const id = ('pick' in step && at(Object.keys(model.state.steps), step.pick)) || 'fetch:n1';
  const moves: Record<Command['do'], () => void> = {
    decide: () => model.settle(),
    finish: () => order !== undefined && step.do === 'finish' && model.finish(order, step.ending),
    redeliver: () => result !== undefined && model.deliver(result),
    progress: () => step.do === 'progress' && model.progress(id, Math.max(1, model.step(id).attempt - step.ago)),
    disconnect: () => model.disconnect(node),
    reconnect: () => model.reconnect(node),
    crash: () => model.crash(node),
    meddle: () => model.plan.topology === 'single-replica' && model.meddle(node),
    mend: () => model.mend(),
    approve: () => step.do === 'approve' && model.approve(step.who, step.scope, step.stale ? 'old' : undefined),
    wait: () => step.do === 'wait' && model.wait(step.ms),
    ask: () => step.do === 'ask' && model.request(step.what),
  };
  moves[step.do]();
}

/** From here on nothing goes wrong any more, and a person presses what the run offers. */
function calm(model: Model): number {
  for (let turn = 1; turn <= 150; turn++) {
    model.mend();
    for (const { node } of model.hosts) model.reconnect(node);
    model.settle();
    for (const order of model.orders) model.finish(order);
    model.settle();
    if (model.ended) return turn;
    for (const person of PEOPLE) for (const scope of ['start', 'irreversible'] as const) model.approve(person, scope);
    model.request('retry');
    model.request('resume');
    model.wait(model.state.wait === undefined ? 6 * SECOND : HOUR);
  }
  throw new Error(`not ended: ${JSON.stringify(model.state, undefined, 1)}\n${JSON.stringify(model.events.slice(-8))}`);
}

const TIMED = ['run-scheduled', 'window-opened'];
const chaos = fc.array(command, { maxLength: 80, size: 'max' });

describe('whatever agents, networks, hosts and people do', () => {
  it('the invariants hold at every event, and once the trouble is over the run succeeds', () => {
    const seen = new Set<string>();
    fc.assert(
      fc.property(wish, chaos, (wished, commands) => {
        const model = modelOf(wished);
        for (const one of commands) play(model, one);
        calm(model);
        expect(model.state.status).toBe('succeeded');
        for (const one of model.hosts) expect(one.running).toBe(NEW);
        for (const event of model.events) {
          seen.add(event.type === 'run-held' ? event.hold.code : event.type);
          if (event.type === 'step-reset' && event.late) seen.add('came too late');
        }
      }),
      { numRuns: 250 },
    );
    // Proof that the games reach what they are played for.
    for (const what of [
      'AGENT_LOST',
      'STEP_STALLED',
      'INTERNAL',
      'INSTALL_FAILED',
      'came too late',
      'step-reset',
      'run-paused',
      ...TIMED,
    ]) {
      expect(seen).toContain(what);
    }
  });

  it('an abort ends the run, and brings a single-replica cluster back while that is legal', () => {
    fc.assert(
      fc.property(wish, chaos, (wished, commands) => {
        const model = modelOf(wished);
        for (const one of commands) play(model, one);
        const legal = model.request('abort');
        calm(model);
        expect(model.state.status).toBe(legal ? 'aborted' : 'succeeded');
        if (!legal || wished.topology !== 'single-replica') return;
        const started = model.plan.nodes.some(({ node }) => model.step(`start:${node}`).attempt > 0);
        if (started) return;
        for (const one of model.hosts) expect([one.node, one.running]).toEqual([one.node, one.installed]);
        expect(new Set(model.hosts.map(({ installed }) => installed)).size).toBe(1);
      }),
      { numRuns: 120 },
    );
  });

  it('an abort ends the run though no agent ever reports again, or no step ever ends', () => {
    fc.assert(
      fc.property(wish, chaos, fc.boolean(), (wished, commands, silent) => {
        const model = modelOf(wished);
        for (const one of commands) play(model, one);
        model.journals = [];
        if (silent) for (const { node } of model.hosts) model.disconnect(node);
        for (let turn = 0; turn < 40 && !model.ended; turn++) {
          model.request('abort');
          model.settle();
          model.wait(HOUR);
        }
        expect(model.ended).toBe(true);
      }),
      { numRuns: 120 },
    );
  });
});
