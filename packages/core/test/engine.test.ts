import { beforeAll, describe, expect, it } from 'vitest';
import {
  type ActionResult,
  actionFor,
  actionId,
  apply,
  type Choice,
  decide,
  eventOfRequest,
  eventOfResult,
  GATE_AGAIN_MS,
  GATE_FRESH_MS,
  GATE_PATIENCE_MS,
  HOLD_LOST_AFTER_MS,
  initialState,
  LOST_AFTER_MS,
  legalChoices,
  type Plan,
  type PlanOptions,
  parseActionId,
  type RunEvent,
  type RunState,
  stepOf,
  type Topology,
} from '../src/index.ts';
import { allAt, draft, fleet, NEW, OLD, planFor, planOf, withInstallation } from './builders.ts';
import { HOUR, MINUTE, Model, SECOND } from './model.ts';

const start = (topology: Topology, size: number, options: Partial<PlanOptions> = {}): Model =>
  new Model(planFor(topology, size, options));
const multi = (options?: Partial<PlanOptions>) => start('multi-replica', 3, options);
const single = (options?: Partial<PlanOptions>) => start('single-replica', 3, options);

/** A model up to where these steps have succeeded, with what is due then dispatched. */
function after(model: Model, ...steps: string[]): Model {
  model.until(...steps);
  model.settle();
  return model;
}

const eventsOf = <T extends RunEvent['type']>(model: Model, type: T) =>
  model.events.filter((event): event is Extract<RunEvent, { type: T }> => event.type === type);
const dispatches = (model: Model) => eventsOf(model, 'step-dispatched').map(({ step }) => step);

describe('a run in which nothing goes wrong', () => {
  it('multi-replica: goes node by node, each gate and witness through another', () => {
    const model = multi();
    model.until('witness:n3');
    model.settle();
    expect(model.state.status).toBe('succeeded');
    expect(dispatches(model)).toEqual([
      ...['fetch:n1', 'fetch:n2', 'fetch:n3'],
      ...['gate:n1', 'upgrade:n1', 'witness:n1'],
      ...['gate:n2', 'upgrade:n2', 'witness:n2'],
      ...['gate:n3', 'upgrade:n3', 'witness:n3'],
    ]);
    const viewers = eventsOf(model, 'step-dispatched').filter(({ step }) => /^(gate|witness):/.test(step));
    expect(viewers.map(({ step, executor }) => `${step} by ${executor}`)).toEqual([
      'gate:n1 by n2',
      'witness:n1 by n2',
      'gate:n2 by n1',
      'witness:n2 by n1',
      'gate:n3 by n1',
      'witness:n3 by n1',
    ]);
  });

  it('single-replica: stage by stage', () => {
    const model = single();
    model.until('verify:n1', 'verify:n2', 'verify:n3');
    model.settle();
    expect(model.state.status).toBe('succeeded');
    expect(dispatches(model).map((id) => id.split(':')[0])).toEqual(
      ['fetch', 'gate', 'stop', 'install', 'start', 'verify'].flatMap((kind) => [kind, kind, kind]),
    );
  });

  it('standalone: one node', () => {
    const model = start('standalone', 1);
    model.until('upgrade:n1');
    model.settle();
    expect(model.state.status).toBe('succeeded');
  });

  it('leaves nodes alone that have the target already', () => {
    const nodes = withInstallation(fleet('multi-replica', 3), 1, { versions: allAt(NEW) });
    const model = new Model(planOf(draft(nodes)));
    model.until('witness:n2', 'witness:n3');
    model.settle();
    expect(model.state.status).toBe('succeeded');
    expect(dispatches(model).filter((id) => id.endsWith(':n1'))).toEqual(['fetch:n1']);
  });

  it('says nothing new when asked again at the same moment', () => {
    const model = after(multi(), 'fetch:n1');
    expect(model.decide()).toEqual([]);
    expect(model.decide()).toEqual([]);
  });

  it('does nothing once it has ended, nor before it is released', () => {
    const model = multi();
    for (const status of ['succeeded', 'failed', 'aborted', 'awaiting_approval'] as const) {
      expect(decide(model.plan, { ...model.state, status }, model.facts(), model.nowMs)).toEqual([]);
    }
  });
});

describe('a gate that says no', () => {
  const refused = () => {
    const model = after(multi(), 'fetch:n1', 'fetch:n2', 'fetch:n3');
    model.jobs = [{ id: '7', type: 'IMPORT', description: 'much', status: 'running' }];
    model.end('gate:n1');
    return model;
  };

  it('waits with its reason, touches nothing, and is asked again after a pause', () => {
    const model = refused();
    expect(model.step('gate:n1')).toMatchObject({ status: 'pending', waiting: { code: 'JOBS_RUNNING' } });
    model.wait(GATE_AGAIN_MS - 1);
    model.settle();
    expect(model.running).toEqual([]);
    model.wait(1);
    model.settle();
    expect(model.running).toEqual(['gate:n1']);
    expect(model.step('gate:n1').attempt).toBe(2);
  });

  it('holds when it said no for too long, with what the database said, and goes on after a retry', () => {
    const model = refused();
    for (let asked = 0; model.state.status === 'running'; asked++) {
      expect(asked).toBeLessThan(60);
      model.wait(GATE_AGAIN_MS);
      model.settle();
      if (model.running.length > 0) model.end('gate:n1');
    }
    expect(model.nowMs - (model.step('gate:n1').waiting?.sinceMs ?? 0)).toBeGreaterThan(GATE_PATIENCE_MS);
    expect(model.state.hold).toMatchObject({
      code: 'JOBS_RUNNING',
      node: 'n1',
      step: 'gate:n1',
      choices: ['retry', 'abort'],
      selfClearing: false,
      message: expect.stringContaining('job 7 (IMPORT, running)'),
    });
    model.waitDeciding(10 * MINUTE);
    expect(model.state.status).toBe('held');
    model.jobs = [];
    expect(model.request('retry')).toBe(true);
    expect(model.step('gate:n1').waiting).toBeUndefined();
    expect(after(model, 'upgrade:n1').state.status).toBe('running');
  });

  it('holds with GATE_CLOSED when a host gave a reason that is not known here', () => {
    const model = refused();
    model.apply({ type: 'step-reset', step: 'gate:n1', code: 'NEW_REASON', why: 'who knows', atMs: model.nowMs });
    model.wait(GATE_PATIENCE_MS + MINUTE);
    model.settle();
    expect(model.state.hold?.code).toBe('GATE_CLOSED');
  });

  it('is asked anew, not held over what it said before a pause', () => {
    const model = refused();
    model.request('pause');
    model.settle();
    expect(model.state.status).toBe('paused');
    model.wait(HOUR);
    model.request('resume');
    model.settle();
    expect(model.state.status).toBe('running');
    expect(model.running).toEqual(['gate:n1']);
  });

  it('says no while a node is down', () => {
    const model = after(multi(), 'fetch:n1', 'fetch:n2', 'fetch:n3');
    model.crash('n3');
    model.end('gate:n1');
    expect(model.step('gate:n1')).toMatchObject({ status: 'pending', waiting: { code: 'NODE_NOT_LIVE' } });
    model.waitDeciding(HOUR);
    expect(model.state.status).toBe('held');
    expect(model.step('upgrade:n1').attempt).toBe(0);
    model.mend();
    model.heartbeat();
    model.request('retry');
    expect(after(model, 'upgrade:n1').state.status).toBe('running');
  });

  it('says no when nobody could ask', () => {
    const model = after(multi(), 'fetch:n1', 'fetch:n2', 'fetch:n3');
    model.end('gate:n1', { disposition: 'untouched', code: 'KWBASE_FAILED' });
    expect(model.step('gate:n1')).toMatchObject({ status: 'pending', waiting: { code: 'KWBASE_FAILED' } });
  });
});

describe('an agent that speaks against', () => {
  const PAUSE = GATE_FRESH_MS / 2;
  const passed = () => {
    const model = after(multi(), 'fetch:n1', 'fetch:n2', 'fetch:n3');
    model.request('pause');
    model.end('gate:n1');
    model.settle();
    model.wait(PAUSE);
    return model;
  };

  it.each<[string, (model: Model) => void]>([
    ['its node takes no clients', (model) => model.crash('n3')],
    ['it is silent', (model) => model.disconnect('n3')],
  ])('keeps a node from being touched, though the gate passed: %s', (_case, trouble) => {
    const model = passed();
    trouble(model);
    model.wait(16 * SECOND);
    model.request('resume');
    model.settle();
    expect(model.running).toEqual([]);
    expect(model.step('upgrade:n1').attempt).toBe(0);
    expect(model.step('gate:n1')).toMatchObject({ status: 'pending', waiting: { code: 'GATE_CLOSED' } });
    model.waitDeciding(HOUR);
    expect(model.state.hold).toMatchObject({ step: 'gate:n1', message: expect.stringContaining('n3') });
    model.mend();
    model.reconnect('n3');
    model.request('retry');
    model.settle();
    expect(model.running).toEqual(['gate:n1']);
  });

  it('has the node before seen again, when it was the one that fell: being back once is not enough', () => {
    const model = after(multi(), 'witness:n1');
    expect(model.running).toEqual(['gate:n2']);
    model.request('pause');
    model.end('gate:n2');
    model.settle();
    model.crash('n1');
    model.wait(SECOND);
    model.request('resume');
    model.settle();
    expect(model.step('gate:n2')).toMatchObject({ status: 'pending', waiting: { code: 'GATE_CLOSED' } });
    model.mend();
    model.wait(GATE_AGAIN_MS);
    model.settle();
    expect(model.running).toEqual(['witness:n1']);
    model.end('witness:n1');
    model.wait(GATE_AGAIN_MS);
    model.settle();
    expect(model.running).toEqual(['gate:n2']);
  });

  it('does not keep a node down that this run broke', () => {
    const model = after(multi(), 'gate:n1');
    model.end('upgrade:n1', { disposition: 'broken' });
    model.settle();
    model.disconnect('n3');
    model.wait(MINUTE);
    model.request('retry');
    model.settle();
    expect(model.running).toEqual(['upgrade:n1']);
  });
});

describe('what a gate answered', () => {
  const asked = (change: (result: ActionResult) => ActionResult, options?: Partial<PlanOptions>) => {
    const model = after(multi(options), 'fetch:n1', 'fetch:n2', 'fetch:n3');
    const twin = after(multi(options), 'gate:n1');
    const yes = twin.delivered.find(({ action }) => action.includes('/gate:n1/'));
    if (yes === undefined) throw new Error('no answer');
    return eventOfResult(model.plan, model.state, change(yes), model.nowMs);
  };

  it('counts as a yes when nothing speaks against', () => {
    expect(asked((result) => result)).toMatchObject({ type: 'step-ended' });
  });

  it('counts as a no without an answer of the database, whatever the agent calls it', () => {
    expect(asked(({ health: _, ...result }) => result)).toMatchObject({ type: 'step-reset', code: 'HEALTH_UNKNOWN' });
  });

  it('counts as a no while the node does not tell when it was started: its return could not be told', () => {
    const unstarted = asked((result) => {
      const { health } = result;
      if (health === undefined) throw new Error('no health');
      const nodes = health.view.nodes.map((one) => {
        const { startedAtMs: _, ...unstarted } = one;
        return one.kwdbId === 1 ? unstarted : one;
      });
      return { ...result, health: { ...health, view: { ...health.view, nodes } } };
    });
    expect(unstarted).toMatchObject({ type: 'step-reset', code: 'HEALTH_UNKNOWN' });
  });

  it('counts as a no on the online route when the setting that it changes is not told', () => {
    const mute = (result: ActionResult): ActionResult =>
      result.health === undefined ? result : { ...result, health: { ...result.health, settings: [] } };
    expect(asked(mute, { route: 'online' })).toMatchObject({ type: 'step-reset', code: 'HEALTH_UNKNOWN' });
    expect(asked(mute)).toMatchObject({ type: 'step-ended' });
  });
});

describe('a gate that passed', () => {
  it('is asked again when a pause came between it and the stop', () => {
    const model = after(multi(), 'fetch:n1', 'fetch:n2', 'fetch:n3');
    model.request('pause');
    model.end('gate:n1');
    model.settle();
    model.wait(GATE_FRESH_MS + 1);
    model.request('resume');
    model.settle();
    expect(model.running).toEqual(['gate:n1']);
    expect(model.step('upgrade:n1').attempt).toBe(0);
    model.end('gate:n1');
    model.settle();
    expect(model.running).toEqual(['upgrade:n1']);
  });

  it.each([0, HOUR, -HOUR])(
    'is as old as its question, not as its arrival, on a host whose clock is %i ms off',
    (skewMs) => {
      // The controller was away meanwhile: the answer waited in the journal of n2, through which n1 is looked at.
      const late = (awayMs: number) => {
        const model = after(multi(), 'fetch:n1', 'fetch:n2', 'fetch:n3');
        model.host('n2').skewMs = skewMs;
        model.disconnect('n2');
        model.end('gate:n1');
        model.wait(awayMs);
        model.reconnect('n2');
        expect(model.step('gate:n1')).toMatchObject({ status: 'succeeded', endedAtMs: model.nowMs });
        model.settle();
        return model;
      };
      expect(late(GATE_FRESH_MS).running).toEqual(['upgrade:n1']);
      const stale = late(GATE_FRESH_MS + 1);
      expect(stale.running).toEqual(['gate:n1']);
      expect(stale.step('gate:n1').attempt).toBe(2);
      expect(stale.step('upgrade:n1').attempt).toBe(0);
    },
  );

  it('never counts as younger than its arrival, whatever a clock that was set back says', () => {
    const model = after(multi(), 'fetch:n1', 'fetch:n2', 'fetch:n3');
    model.request('pause');
    model.host('n2').skewMs = HOUR;
    model.end('gate:n1');
    model.host('n2').skewMs = 0;
    model.settle();
    model.wait(GATE_FRESH_MS + 1);
    model.request('resume');
    model.settle();
    expect(model.running).toEqual(['gate:n1']);
  });

  it('that waited in a journal is asked again before the first stop of a single-replica cluster too', () => {
    const model = after(single(), 'fetch:n1', 'fetch:n2', 'fetch:n3');
    for (const node of ['n1', 'n2', 'n3']) model.disconnect(node);
    for (const gate of ['gate:n1', 'gate:n2', 'gate:n3']) model.end(gate);
    model.wait(GATE_FRESH_MS + 1);
    for (const node of ['n1', 'n2', 'n3']) model.reconnect(node);
    model.settle();
    expect(model.running.map((step) => step.split(':')[0])).toEqual(['gate']);
  });

  it('is still good within its limit', () => {
    const model = after(multi(), 'fetch:n1', 'fetch:n2', 'fetch:n3');
    model.request('pause');
    model.end('gate:n1');
    model.settle();
    model.wait(GATE_FRESH_MS - SECOND);
    model.request('resume');
    model.settle();
    expect(model.running).toEqual(['upgrade:n1']);
  });

  it('is asked again before the first stop of a single-replica cluster too', () => {
    const model = single();
    model.until('gate:n1', 'gate:n2');
    model.request('pause');
    model.end('gate:n3');
    model.settle();
    model.wait(HOUR);
    model.request('resume');
    model.settle();
    expect(model.running).toEqual(['gate:n3']);
    model.end('gate:n3');
    model.settle();
    expect(model.running).toEqual(['stop:n1', 'stop:n2', 'stop:n3']);
  });

  it('is not asked once a stop was begun: the cluster is down because of the run', () => {
    const model = after(single(), 'gate:n1', 'gate:n2', 'gate:n3');
    model.end('stop:n1');
    model.end('stop:n2');
    model.end('stop:n3', { disposition: 'untouched', code: 'STOP_FAILED' });
    model.settle();
    model.wait(HOUR);
    model.request('retry');
    model.settle();
    expect(model.running).toEqual(['stop:n3']);
  });

  it('is not asked before a retry of a node that this run broke, whatever later attempts say', () => {
    const model = after(multi(), 'gate:n1');
    model.end('upgrade:n1', { disposition: 'broken' });
    for (const disposition of ['untouched', 'untouched'] as const) {
      model.settle();
      model.wait(HOUR);
      expect(model.request('retry')).toBe(true);
      model.settle();
      expect(model.running).toEqual(['upgrade:n1']);
      model.end('upgrade:n1', { disposition, code: 'INTERLOCK_REFUSED' });
      expect(model.step('upgrade:n1').result?.disposition).toBe('broken');
    }
  });

  it.each(['untouched', 'backed-out'] as const)('is asked before a retry of a node that was left %s', (disposition) => {
    const model = after(multi(), 'gate:n1');
    model.end('upgrade:n1', { disposition });
    model.settle();
    model.wait(HOUR);
    model.request('retry');
    model.settle();
    expect(model.running).toEqual(['gate:n1']);
  });

  it('keeps the first start that it saw, so that a restart by an earlier attempt still counts', () => {
    const model = after(multi(), 'gate:n1');
    const { baselineStartedAtMs } = model.step('gate:n1');
    expect(baselineStartedAtMs).toBe(model.host('n1').startedAtMs);
    model.end('upgrade:n1', { disposition: 'backed-out' });
    model.settle();
    model.wait(HOUR);
    model.request('retry');
    after(model, 'upgrade:n1');
    expect(model.step('gate:n1').attempt).toBe(2);
    expect(model.step('gate:n1').baselineStartedAtMs).toBe(baselineStartedAtMs);
    expect(model.orders.find(({ step }) => step === 'witness:n1')?.subject).toEqual({
      kwdbId: 1,
      startedAfterMs: baselineStartedAtMs,
    });
  });
});

describe('a step that does not move', () => {
  it('holds after its idle limit, and goes on by itself when it moves', () => {
    const model = after(multi(), 'gate:n1');
    const { idleMs } = model.plan.options.deadline;
    model.wait(idleMs);
    model.settle();
    expect(model.state.status).toBe('running');
    model.wait(1);
    model.settle();
    expect(model.state.hold).toMatchObject({
      code: 'STEP_STALLED',
      node: 'n1',
      step: 'upgrade:n1',
      choices: ['wait', 'abort'],
      selfClearing: true,
    });
    model.progress('upgrade:n1', 1);
    model.settle();
    expect(model.state.status).toBe('running');
    expect(model.running).toEqual(['upgrade:n1']);
  });

  it('may take long as long as it moves, but not for ever: then only its end helps', () => {
    const model = after(multi(), 'gate:n1');
    const { idleMs, ceilingMs } = model.plan.options.deadline;
    for (let passed = 0; passed <= ceilingMs - idleMs; passed += idleMs) {
      model.wait(idleMs);
      model.progress('upgrade:n1', 1);
      model.settle();
      expect(model.state.status).toBe('running');
    }
    model.wait(idleMs);
    model.progress('upgrade:n1', 1);
    model.settle();
    expect(model.state.hold).toMatchObject({
      code: 'STEP_STALLED',
      message: expect.stringContaining('not done after'),
    });
    expect(model.state.hold?.message).toContain('last seen: moving');
    model.progress('upgrade:n1', 1);
    model.settle();
    expect(model.state.status).toBe('held');
    model.end('upgrade:n1');
    model.settle();
    expect(model.running).toEqual(['witness:n1']);
  });
});

describe('an agent that is gone', () => {
  it('is waited for at first, then holds the run it works for, which goes on by itself', () => {
    const model = after(multi(), 'gate:n1');
    model.disconnect('n1');
    model.wait(HOLD_LOST_AFTER_MS);
    model.settle();
    expect(model.state.status).toBe('running');
    model.wait(1);
    model.settle();
    expect(model.state.hold).toMatchObject({ code: 'AGENT_LOST', node: 'n1', step: 'upgrade:n1', selfClearing: true });
    expect(model.state.hold?.choices).toEqual(['wait', 'abort']);
    model.waitDeciding(MINUTE);
    expect(model.state.status).toBe('held');
    model.reconnect('n1');
    model.settle();
    expect(model.state.status).toBe('running');
    model.end('upgrade:n1');
    model.settle();
    expect(model.running).toEqual(['witness:n1']);
  });

  it('delivers a result it had while it was away', () => {
    const model = after(multi(), 'gate:n1');
    model.disconnect('n1');
    model.wait(MINUTE);
    model.settle();
    model.end('upgrade:n1');
    expect(model.state.status).toBe('held');
    model.reconnect('n1');
    model.settle();
    expect(model.running).toEqual(['witness:n1']);
  });

  it('holds the run when it is due next', () => {
    const model = multi();
    model.until('gate:n1');
    model.disconnect('n1');
    model.wait(16 * SECOND);
    model.settle();
    expect([model.state.status, model.running]).toEqual(['running', []]);
    model.wait(15 * SECOND);
    model.settle();
    expect(model.state.hold).toMatchObject({ code: 'AGENT_LOST', node: 'n1', step: 'upgrade:n1', selfClearing: true });
    model.waitDeciding(MINUTE);
    expect(model.state.status).toBe('held');
    model.reconnect('n1');
    model.settle();
    expect(model.state.status).toBe('running');
    // The gate is too old by now.
    expect(model.running).toEqual(['gate:n1']);
  });

  it('is replaced where another one can look', () => {
    const model = after(multi(), 'upgrade:n1');
    expect(model.step('witness:n1').executor).toBe('n2');
    model.disconnect('n2');
    model.wait(HOLD_LOST_AFTER_MS + 1);
    model.settle();
    expect(model.state.status).toBe('running');
    expect(model.step('witness:n1')).toMatchObject({ status: 'running', executor: 'n3', attempt: 2 });
  });

  it('is not replaced by the node that is looked at, nor by one that takes no clients', () => {
    const model = after(multi(), 'upgrade:n1');
    model.disconnect('n2');
    model.crash('n3');
    model.wait(HOLD_LOST_AFTER_MS + 1);
    model.settle();
    expect(model.step('witness:n1').status).toBe('pending');
    model.waitDeciding(MINUTE);
    expect(model.state.hold).toMatchObject({ code: 'AGENT_LOST', step: 'witness:n1', selfClearing: true });
    model.mend();
    model.heartbeat();
    model.settle();
    expect(model.step('witness:n1')).toMatchObject({ status: 'running', executor: 'n3' });
  });

  it('changes nothing with what its replaced order brings late', () => {
    const model = after(multi(), 'upgrade:n1');
    model.disconnect('n2');
    model.wait(HOLD_LOST_AFTER_MS + 1);
    model.settle();
    const old = model.orders.find(({ attempt, step }) => step === 'witness:n1' && attempt === 1);
    if (old === undefined) throw new Error('no old order');
    const before = model.state;
    model.finish(old, { disposition: 'untouched', code: 'VERIFY_TIMEOUT' });
    model.reconnect('n2');
    expect(model.state).toBe(before);
  });

  it('is named by the hold that it causes, also when another was the cause before', () => {
    const model = multi();
    model.settle();
    for (const node of ['n1', 'n2']) model.disconnect(node);
    model.wait(HOLD_LOST_AFTER_MS + 1);
    model.settle();
    expect(model.state.hold).toMatchObject({ code: 'AGENT_LOST', node: 'n1' });
    model.reconnect('n1');
    model.settle();
    expect(model.state.hold).toMatchObject({ code: 'AGENT_LOST', node: 'n2', step: 'fetch:n2' });
  });

  it('that is back and does not move is held for that', () => {
    const model = after(multi(), 'gate:n1');
    model.disconnect('n1');
    model.wait(HOUR);
    model.settle();
    expect(model.state.hold?.code).toBe('AGENT_LOST');
    model.reconnect('n1');
    model.settle();
    expect(model.state.hold?.code).toBe('STEP_STALLED');
  });
});

describe('a step that failed', () => {
  it('holds with the code, the words and what became of the host', () => {
    const model = after(multi(), 'gate:n1');
    const words = 'dpkg: error';
    const order = model.orders[0];
    if (order === undefined) throw new Error('no order');
    const failure = { code: 'INSTALL_FAILED', message: 'it did not work', words, phase: 'install' } as const;
    const report = model.host('n1').report;
    const result: ActionResult = {
      ...{ action: order.id, outcome: 'failed', failure, newVersionStarted: false, phases: [], report },
      disposition: 'backed-out',
    };
    model.deliver(result);
    model.settle();
    expect(model.state.hold).toMatchObject({
      code: 'INSTALL_FAILED',
      words,
      node: 'n1',
      step: 'upgrade:n1',
      choices: ['retry', 'abort'],
      selfClearing: false,
    });
    expect(model.state.hold?.message).toContain('the old version was put back');
  });

  it.each([
    ['untouched', false, 'nothing was changed'],
    ['broken', true, 'not taken back in place'],
  ] as const)('says so when the node was left %s', (disposition, newVersionStarted, words) => {
    const model = after(multi(), 'gate:n1');
    model.end('upgrade:n1', { disposition, newVersionStarted });
    model.settle();
    expect(model.state.hold?.message).toContain(words);
  });

  it.each(['NO_SUCH_CODE', 'toString', '__proto__'])('holds with INTERNAL for the code %s', (code) => {
    const model = after(multi(), 'gate:n1');
    model.end('upgrade:n1', { disposition: 'untouched', code });
    model.settle();
    expect(model.state.hold?.code).toBe('INTERNAL');
  });

  it('keeps every other node from being touched until it is mended', () => {
    const model = after(multi(), 'gate:n1');
    model.end('upgrade:n1', { disposition: 'broken' });
    model.waitDeciding(HOUR);
    expect(dispatches(model)).not.toContain('gate:n2');
    model.request('retry');
    model.until('witness:n3');
    model.settle();
    expect(model.state.status).toBe('succeeded');
  });

  it('is tried again with a number of its own, the others not', () => {
    const model = single();
    model.settle();
    model.end('fetch:n1');
    model.end('fetch:n2', { disposition: 'untouched', code: 'FETCH_FAILED' });
    model.settle();
    model.end('fetch:n3', { disposition: 'untouched', code: 'FETCH_FAILED' });
    model.settle();
    model.request('retry');
    model.settle();
    expect(model.running).toEqual(['fetch:n2', 'fetch:n3']);
    expect([1, 2, 3].map((n) => model.step(`fetch:n${n}`).attempt)).toEqual([1, 2, 2]);
  });

  it('during a hold that clears itself, holds for the failure', () => {
    const model = multi();
    model.settle();
    model.disconnect('n1');
    model.wait(HOLD_LOST_AFTER_MS + 1);
    model.settle();
    model.end('fetch:n2', { disposition: 'untouched', code: 'FETCH_FAILED' });
    model.settle();
    expect(model.state.hold).toMatchObject({ code: 'FETCH_FAILED', node: 'n2', selfClearing: false });
  });
});

describe('the order between nodes', () => {
  it('is guarded by the engine too: a plan that would take a second node down is refused', () => {
    const whole = planFor('multi-replica', 3);
    const wild: Plan = {
      ...whole,
      steps: whole.steps.map((step) => (step.kind === 'gate' ? { ...step, needs: [] } : step)),
    };
    const model = new Model(wild);
    const due: RunState = { ...model.state, status: 'running', steps: { ...model.state.steps } };
    for (const { id, kind } of wild.steps) {
      if (kind === 'fetch' || kind === 'gate')
        due.steps[id] = { status: 'succeeded', attempt: 1, endedAtMs: model.nowMs };
    }
    for (const status of ['running', 'succeeded'] as const) {
      due.steps['upgrade:n1'] = { status, attempt: 1, executor: 'n1' };
      expect(() => decide(wild, due, model.facts(), model.nowMs)).toThrow(/n1 was touched and is not verified/);
    }
    due.steps['witness:n1'] = { status: 'succeeded', attempt: 1 };
    due.steps['upgrade:n3'] = { status: 'succeeded', attempt: 1 };
    due.steps['witness:n3'] = { status: 'succeeded', attempt: 1 };
    expect(() => decide(wild, due, model.facts(), model.nowMs)).not.toThrow();
  });
});

describe('the barriers of a single-replica cluster', () => {
  it('nothing is installed while a node is seen running; the run holds when it stays so', () => {
    const model = single();
    model.until('stop:n1', 'stop:n2');
    model.end('stop:n3');
    model.meddle('n2');
    model.heartbeat();
    model.settle();
    expect(model.running).toEqual([]);
    model.waitDeciding(MINUTE);
    expect([model.state.status, model.running]).toEqual(['running', []]);
    model.waitDeciding(10 * SECOND);
    expect(model.state.hold).toMatchObject({
      code: 'DEPLOY_STILL_RUNNING',
      node: 'n2',
      choices: ['retry', 'abort'],
      message: expect.stringContaining('n2 runs although'),
    });
    model.mend();
    model.heartbeat();
    model.request('retry');
    model.settle();
    expect(model.running).toEqual(['install:n1', 'install:n2', 'install:n3']);
  });

  it('waits for a report that lags behind the stop', () => {
    const model = single();
    model.until('stop:n1', 'stop:n2');
    const lagging = model.host('n3').report;
    model.end('stop:n3');
    model.host('n3').report = lagging;
    model.settle();
    expect(model.running).toEqual([]);
    model.heartbeat();
    model.settle();
    expect(model.running).toHaveLength(3);
  });

  it('does not take the last words of a silent agent for a stopped node, and goes on when it speaks again', () => {
    const model = single();
    model.until('stop:n1', 'stop:n2');
    model.end('stop:n3');
    model.disconnect('n2');
    model.waitDeciding(LOST_AFTER_MS + SECOND);
    expect([model.state.status, model.running]).toEqual(['running', []]);
    model.waitDeciding(HOLD_LOST_AFTER_MS);
    expect(model.state.hold).toMatchObject({ code: 'AGENT_LOST', node: 'n2', selfClearing: true });
    model.reconnect('n2');
    model.settle();
    expect(model.running).toHaveLength(3);
  });

  it('counts a node that never reported as lost', () => {
    const model = single();
    model.until('stop:n1', 'stop:n2', 'stop:n3');
    const facts = { nodes: new Map([...model.facts().nodes].filter(([node]) => node !== 'n3')) };
    expect(decide(model.plan, model.state, facts, model.nowMs)).toMatchObject([
      { event: { type: 'run-held', hold: { code: 'AGENT_LOST', node: 'n3' } } },
    ]);
  });

  it.each([1, 2, 3])('install on %i at once, if that many are allowed', (concurrency) => {
    const model = after(single({ concurrency }), 'stop:n1', 'stop:n2', 'stop:n3');
    expect(model.running).toHaveLength(concurrency);
    model.end('install:n1');
    model.settle();
    expect(model.running).toHaveLength(Math.min(concurrency, 2));
  });
});

describe('the end of a run', () => {
  const done = () => {
    const model = multi();
    model.until('witness:n3');
    return model;
  };

  it('waits for reports that lag, and then is a success', () => {
    const model = done();
    const newest = model.host('n2').report;
    model.host('n2').report = { ...newest, serving: false };
    model.settle();
    expect(model.state.status).toBe('running');
    model.wait(SECOND);
    model.settle();
    expect(model.state.status).toBe('succeeded');
    expect(eventsOf(model, 'run-ended')).toMatchObject([{ status: 'succeeded', reason: expect.stringContaining(NEW) }]);
  });

  it('is no success while one node reports the old version: it holds', () => {
    const model = done();
    Object.assign(model.host('n2'), { running: OLD, installed: OLD });
    model.wait(MINUTE);
    model.settle();
    expect(model.state.status).toBe('running');
    model.wait(2 * SECOND);
    model.settle();
    expect(model.state.hold).toMatchObject({ code: 'VERIFY_TIMEOUT', node: 'n2', choices: ['retry', 'abort'] });
    expect(model.state.hold?.message).toContain('n2 is not at 3.1.0');
    model.request('retry');
    model.settle();
    expect(model.state.status).toBe('held');
    Object.assign(model.host('n2'), { running: NEW, installed: NEW });
    model.heartbeat();
    model.request('retry');
    model.settle();
    expect(model.state.status).toBe('succeeded');
  });

  it('is no success while a node tells a version that is none', () => {
    const model = done();
    Object.assign(model.host('n2'), { running: 'dirty' });
    model.wait(SECOND);
    model.settle();
    expect(model.state.status).toBe('running');
  });

  it('is no success on the last words of an agent that is silent', () => {
    const model = done();
    model.disconnect('n2');
    model.settle();
    expect(model.state.status).toBe('running');
    model.waitDeciding(2 * MINUTE);
    expect(model.state.hold).toMatchObject({
      code: 'AGENT_LOST',
      node: 'n2',
      selfClearing: true,
      message: expect.stringContaining('does not report'),
    });
    model.reconnect('n2');
    model.settle();
    expect(model.state.status).toBe('succeeded');
  });
});

describe('what a person may ask', () => {
  const base = initialState('r1', planFor('standalone', 1));
  const state = (change: Partial<RunState>): RunState => ({ ...base, ...change });
  const held = (choices: Choice[]): Partial<RunState> => ({
    status: 'held',
    hold: { code: 'AGENT_LOST', message: 'm', remedy: 'r', choices, selfClearing: false, sinceMs: 0 },
  });

  it.each<[string, Partial<RunState>, Choice[]]>([
    ['planned', { status: 'planned' }, ['abort']],
    ['awaiting approval', { status: 'awaiting_approval' }, ['approve', 'abort']],
    ['scheduled', { status: 'scheduled' }, ['abort']],
    ['running', { status: 'running' }, ['pause', 'abort']],
    ['running towards a pause', { status: 'running', pauseRequested: true }, ['resume', 'abort']],
    ['paused', { status: 'paused', pauseRequested: true }, ['resume', 'abort']],
    ['held for a person', held(['retry', 'abort']), ['retry', 'abort']],
    ['held until something comes true', held(['wait', 'abort']), ['wait', 'abort']],
    ['aborting', { status: 'running', abortRequested: true }, []],
    ['held on the way back', { ...held(['retry', 'abort']), abortRequested: true }, ['retry', 'abort']],
    ['succeeded', { status: 'succeeded' }, []],
    ['failed', { status: 'failed' }, []],
    ['aborted', { status: 'aborted' }, []],
  ])('%s', (_case, change, choices) => {
    const current = state(change);
    expect(legalChoices(current)).toEqual(choices);
    for (const request of ['pause', 'resume', 'retry', 'abort'] as const) {
      const event = eventOfRequest(current, request, 'ann', 7);
      if (!choices.includes(request)) expect(event).toBeUndefined();
      else expect(event).toMatchObject({ by: 'ann', atMs: 7, type: expect.stringContaining(request.slice(0, 4)) });
    }
  });
});

describe('a pause', () => {
  it('lets what is under way end, begins nothing, and goes on after a resume', () => {
    const model = after(multi(), 'gate:n1');
    model.request('pause');
    model.settle();
    expect(model.state.status).toBe('running');
    model.end('upgrade:n1');
    model.settle();
    expect([model.state.status, model.running]).toEqual(['paused', []]);
    model.waitDeciding(10 * MINUTE);
    expect(model.state.status).toBe('paused');
    model.request('resume');
    model.settle();
    expect(model.running).toEqual(['witness:n1']);
  });

  it('can be taken back before it is reached', () => {
    const model = after(multi(), 'gate:n1');
    model.request('pause');
    model.request('resume');
    model.end('upgrade:n1');
    model.settle();
    expect(model.running).toEqual(['witness:n1']);
  });

  it('does not hide a failure', () => {
    const model = after(multi(), 'gate:n1');
    model.request('pause');
    model.end('upgrade:n1', { disposition: 'broken' });
    model.settle();
    expect(model.state.status).toBe('held');
    model.request('retry');
    model.settle();
    expect([model.state.pauseRequested, model.running]).toEqual([false, ['upgrade:n1']]);
  });
});

describe('an abort', () => {
  const reason = (model: Model) => eventsOf(model, 'run-ended')[0]?.reason;

  it('before the start ends the run at once', () => {
    const model = multi();
    model.request('abort');
    model.settle();
    expect([model.state.status, dispatches(model)]).toEqual(['aborted', []]);
  });

  it('lets what is under way end, and begins nothing', () => {
    const model = after(multi(), 'gate:n1');
    model.request('abort');
    model.waitDeciding(MINUTE);
    expect(model.state.status).toBe('running');
    model.end('upgrade:n1');
    model.settle();
    expect(model.state.status).toBe('aborted');
    expect(dispatches(model)).not.toContain('witness:n1');
  });

  it('does not wait for ever for an agent that is gone, and says what is left', () => {
    const model = after(multi(), 'gate:n1');
    model.disconnect('n1');
    model.request('abort');
    model.waitDeciding(MINUTE);
    expect(model.state.status).toBe('aborted');
    expect(reason(model)).toContain('AGENT_LOST');
    expect(reason(model)).toContain('left unfinished: take n1 from 3.0.0 to 3.1.0');
  });

  it('does not wait for a look through an agent that is gone', () => {
    const model = after(multi(), 'upgrade:n1');
    for (const { node } of model.hosts) model.disconnect(node);
    model.request('abort');
    model.waitDeciding(MINUTE);
    expect(model.state.status).toBe('aborted');
  });

  it('waits for each that moves, though another is stuck: a second run must not begin under it', () => {
    const model = multi();
    model.settle();
    model.disconnect('n1');
    model.request('abort');
    model.waitDeciding(2 * MINUTE);
    expect(model.state.status).toBe('running');
    model.end('fetch:n2');
    model.settle();
    expect(model.state.status).toBe('running');
    model.end('fetch:n3');
    model.settle();
    expect(model.state.status).toBe('aborted');
  });

  it('ends a run that is held or paused', () => {
    const failed = after(multi(), 'gate:n1');
    failed.end('upgrade:n1', { disposition: 'broken' });
    failed.settle();
    failed.request('abort');
    failed.settle();
    expect([failed.state.status, failed.state.hold]).toEqual(['aborted', undefined]);
    const paused = after(multi(), 'gate:n1');
    paused.request('pause');
    paused.end('upgrade:n1');
    paused.settle();
    paused.request('abort');
    paused.settle();
    expect(paused.state.status).toBe('aborted');
  });

  it('on the online route puts the setting back that was changed, to what the first gate saw', () => {
    const model = after(multi({ route: 'online' }), 'gate:n1');
    model.request('abort');
    model.end('upgrade:n1');
    model.settle();
    expect(model.orders).toMatchObject([
      { step: 'settings:n1', ledger: [{ name: 'server.time_until_store_dead', value: '5m0s' }] },
    ]);
    model.end('settings:n1');
    model.settle();
    expect(model.state.status).toBe('aborted');
  });

  it('brings a single-replica cluster back while the new version was started nowhere', () => {
    const model = after(single(), 'stop:n1', 'stop:n2', 'stop:n3');
    model.end('install:n1');
    model.request('abort');
    model.settle();
    expect(model.running).toEqual(['install:n2', 'install:n3']);
    model.end('install:n2');
    model.end('install:n3', { disposition: 'broken' });
    model.until('return:n1', 'return:n2', 'return:n3');
    model.settle();
    expect(model.state.status).toBe('aborted');
    expect(model.hosts.map(({ running }) => running)).toEqual([OLD, OLD, OLD]);
  });

  it('has no way back once the new version was started', () => {
    const model = after(single(), 'install:n1', 'install:n2', 'install:n3');
    model.request('abort');
    for (const node of ['n1', 'n2', 'n3']) model.end(`start:${node}`);
    model.settle();
    expect(model.state.status).toBe('aborted');
    expect(dispatches(model).some((id) => id.startsWith('put-back'))).toBe(false);
  });

  it.each([['put-back:n1'], ['put-back:n3']])(
    'holds when %s fails on the way back, after the others ended',
    (failing) => {
      const model = after(single(), 'stop:n1', 'stop:n2', 'stop:n3');
      for (const node of ['n1', 'n2', 'n3']) model.end(`install:${node}`);
      model.request('abort');
      model.settle();
      expect(model.running).toEqual(['put-back:n1', 'put-back:n2', 'put-back:n3']);
      const order = ['put-back:n1', 'put-back:n2', 'put-back:n3'].toSorted(
        (a, b) => +(b === failing) - +(a === failing),
      );
      for (const id of order) {
        expect(model.state.status).toBe('running');
        model.end(id, id === failing ? { disposition: 'broken', code: 'ROLLBACK_FAILED' } : 'as it goes');
        model.settle();
      }
      expect(model.state.hold).toMatchObject({ code: 'ROLLBACK_FAILED', step: failing, choices: ['retry', 'abort'] });
      model.request('retry');
      model.until('return:n1', 'return:n2', 'return:n3');
      model.settle();
      expect(model.state.status).toBe('aborted');
    },
  );

  it('holds for an agent lost in the middle of a single-replica upgrade; a second abort gives up', () => {
    const model = after(single(), 'gate:n1', 'gate:n2', 'gate:n3');
    model.end('stop:n1');
    model.end('stop:n3');
    model.disconnect('n2');
    model.request('abort');
    model.waitDeciding(MINUTE);
    // What is put back on the others does not wait for it.
    model.end('put-back:n1');
    model.end('put-back:n3');
    model.settle();
    expect(model.state.hold).toMatchObject({ code: 'AGENT_LOST', node: 'n2', choices: ['wait', 'abort'] });
    model.request('abort');
    model.settle();
    expect(model.state.status).toBe('aborted');
    expect(model.state.abandoned).toBe(true);
  });
});

describe('what comes late, twice or out of order', () => {
  it('changes nothing', () => {
    const model = after(multi(), 'witness:n1');
    const before = model.state;
    for (const result of [...model.delivered, ...model.delivered.toReversed()]) model.deliver(result);
    for (const step of Object.keys(before.steps)) model.progress(step, 9);
    model.progress('upgrade:n1', 1);
    expect(model.state).toBe(before);
  });

  it('does not end a later attempt', () => {
    const model = after(multi(), 'gate:n1');
    model.end('upgrade:n1', { disposition: 'untouched' });
    const [old] = model.delivered.slice(-1);
    model.settle();
    model.request('retry');
    model.settle();
    const before = model.state;
    expect(model.step('upgrade:n1')).toMatchObject({ status: 'running', attempt: 2 });
    if (old === undefined) throw new Error('no result');
    model.deliver(old);
    const direct: RunEvent = { type: 'step-ended', step: 'upgrade:n1', attempt: 1, result: old, atMs: model.nowMs };
    expect(apply(model.plan, before, direct)).toBe(before);
    model.progress('upgrade:n1', 1);
    expect(model.state).toBe(before);
  });

  it('is not of this run: nothing', () => {
    const model = after(multi(), 'gate:n1');
    const [some] = model.delivered;
    if (some === undefined) throw new Error('no result');
    for (const action of [
      '',
      'r2/upgrade:n1/1',
      'r1/upgrade:n9/1',
      'r1/upgrade:n1/0',
      'r1/upgrade:n1',
      'r1/upgrade:n1/2',
    ]) {
      expect(eventOfResult(model.plan, model.state, { ...some, action }, model.nowMs)).toBeUndefined();
    }
  });

  it('is told by the id of the action', () => {
    expect(parseActionId('r1', actionId('r1', 'upgrade:a/b', 12))).toEqual({ step: 'upgrade:a/b', attempt: 12 });
    expect(parseActionId('r1', 'r11/upgrade:n1/1')).toBeUndefined();
  });
});

describe('an order that comes too late', () => {
  it('is given again after its gate was asked again', () => {
    const model = after(multi(), 'gate:n1');
    model.waitDeciding(3 * MINUTE);
    model.end('upgrade:n1', 'too late');
    model.settle();
    expect(eventsOf(model, 'step-reset').map(({ step }) => step)).toEqual(['upgrade:n1', 'gate:n1']);
    expect(model.running).toEqual(['gate:n1']);
    model.until('witness:n3');
    model.settle();
    expect(model.state.status).toBe('succeeded');
    expect(model.step('upgrade:n1')).toMatchObject({ attempt: 2, late: 1 });
  });

  it('is, the third time, a hold; each that a person asks for after that too', () => {
    const model = after(multi(), 'gate:n1');
    for (let count = 1; count <= 3; count++) {
      model.until('gate:n1');
      model.settle();
      model.end('upgrade:n1', 'too late');
      model.settle();
    }
    expect(model.state.hold).toMatchObject({ code: 'ORDER_LATE', node: 'n1', choices: ['retry', 'abort'] });
    model.request('retry');
    model.settle();
    model.end('upgrade:n1', 'too late');
    model.settle();
    expect(model.state.hold).toMatchObject({ code: 'ORDER_LATE' });
    model.request('retry');
    model.until('witness:n3');
    model.settle();
    expect(model.state.status).toBe('succeeded');
  });

  it('leaves the way back needless, as nothing was begun', () => {
    const model = after(single(), 'gate:n1', 'gate:n2', 'gate:n3');
    for (const node of ['n1', 'n2', 'n3']) model.end(`stop:${node}`, 'too late');
    model.request('abort');
    model.settle();
    expect(model.state.status).toBe('aborted');
    expect(dispatches(model).filter((step) => /^(put-back|return):/.test(step))).toEqual([]);
  });

  it('is given again at once where others of its cluster are stopped already', () => {
    const model = after(single(), 'gate:n1', 'gate:n2', 'gate:n3');
    model.end('stop:n1');
    model.end('stop:n2');
    model.end('stop:n3', 'too late');
    model.wait(3 * MINUTE);
    model.settle();
    expect(model.running).toEqual(['stop:n3']);
    expect(model.orders.find(({ step }) => step === 'stop:n3')).not.toHaveProperty('beginByMs');
  });
});

describe('the order for an agent', () => {
  let model: Model;
  beforeAll(() => {
    model = after(multi({ route: 'online' }), 'upgrade:n1');
  });
  const order = (step: string, executor: string) =>
    actionFor(model.plan, model.state, stepOf(model.plan, step), { executor, epoch: 4, nowMs: 1000 });

  it('names the node, its versions, who else must be there, and the lease', () => {
    expect(order('upgrade:n2', 'n2')).toMatchObject({
      id: 'r1/upgrade:n2/1',
      epoch: 4,
      node: 'n2',
      kwdbId: 2,
      others: [1, 3],
      from: OLD,
      to: NEW,
      phases: ['interlock', 'install-online', 'verify', 'restore-settings'],
      ledger: [{ name: 'server.time_until_store_dead', value: '5m0s' }],
    });
    expect(order('upgrade:n2', 'n2')).not.toHaveProperty('subject');
  });

  it('that takes down what was not touched yet is to be begun within a minute; no other is', () => {
    expect(order('upgrade:n2', 'n2')).toMatchObject({ beginByMs: 61_000 });
    for (const step of ['fetch:n2', 'gate:n2', 'witness:n2', 'upgrade:n1']) {
      expect(order(step, 'n1')).not.toHaveProperty('beginByMs');
    }
    const cluster = single();
    cluster.until('gate:n1', 'gate:n2', 'gate:n3');
    cluster.settle();
    expect(cluster.orders.map(({ step, beginByMs }) => [step, (beginByMs ?? 0) - cluster.nowMs])).toEqual([
      ['stop:n1', MINUTE],
      ['stop:n2', MINUTE],
      ['stop:n3', MINUTE],
    ]);
  });

  it('to a witness names whom it looks at, and since when it must have been started', () => {
    const startedAfterMs = model.step('gate:n1').baselineStartedAtMs;
    expect(order('witness:n1', 'n3')).toMatchObject({ node: 'n3', kwdbId: 3, subject: { kwdbId: 1, startedAfterMs } });
  });

  it('on the way back swaps the versions', () => {
    const cluster = planFor('single-replica', 3);
    const fresh = initialState('r1', cluster);
    const back = (step: string) =>
      actionFor(cluster, fresh, stepOf(cluster, step), { executor: 'n1', epoch: 1, nowMs: 0 });
    expect(back('return:n1')).toMatchObject({ from: NEW, to: OLD });
    expect(back('put-back:n1')).toMatchObject({ from: OLD, to: NEW, previousPackage: { version: OLD } });
  });

  it('is of a step and a node that the plan has', () => {
    expect(() => stepOf(model.plan, 'upgrade:n9')).toThrow(/no step/);
    expect(() => order('upgrade:n2', 'n9')).toThrow(/lacks/);
  });
});
