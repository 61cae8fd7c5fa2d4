import { describe, expect, it } from 'vitest';
import { type Cluster, deriveClusters, GATE_AGAIN_MS, makeWholePlan, type Topology } from '../src/index.ts';
import { fleet, NOW, OLD, planFor, planOf } from './builders.ts';
import { HOUR, MINUTE, Model } from './model.ts';

const NODES = ['n1', 'n2', 'n3'];
const each = (kind: string): string[] => NODES.map((node) => `${kind}:${node}`);

/** A cold backup of three nodes, up to where these steps succeeded, with what is due then dispatched. */
function backup(...steps: string[]): Model {
  const [cluster] = deriveClusters(fleet('multi-replica', 3)) as [Cluster];
  const wish = { kind: 'backup', cluster, to: OLD, packages: [], options: {}, nowMs: NOW } as const;
  return upTo(new Model(planOf(makeWholePlan(wish))), steps);
}
const upgrade = (topology: Topology, ...steps: string[]) => upTo(new Model(planFor(topology, 3)), steps);

function upTo(model: Model, steps: string[]): Model {
  model.until(...steps);
  model.settle();
  return model;
}

/** Walks, all going well on hosts that can be reached, until nothing goes on by itself. */
function goOn(model: Model, stalled?: string): void {
  for (let turn = 0; turn < 20 && !model.ended; turn++) {
    model.waitDeciding(10_000);
    for (const order of model.orders) {
      const moves = order.step !== stalled && model.host(order.node).connected;
      if (moves && model.running.includes(order.step)) model.finish(order);
    }
  }
}
function abort(model: Model, stalled?: string): void {
  expect(model.request('abort')).toBe(true);
  goOn(model, stalled);
}
const up = (model: Model) => model.hosts.flatMap(({ node, running }) => (running === undefined ? [] : [node]));

describe('a host that is lost while a cluster is stopped as a whole', () => {
  it('keeps no other down on the way back of an abort, which is held for the lost one alone', () => {
    const model = backup(...each('stop'));
    // In the middle of its copy, as its result was not heard.
    model.disconnect('n2');
    model.waitDeciding(MINUTE);
    expect(model.state.hold).toMatchObject({ code: 'AGENT_LOST', step: 'back-up:n2' });
    goOn(model);
    abort(model);
    expect(up(model)).toEqual(['n1', 'n3']);
    expect(model.state.hold).toMatchObject({ code: 'AGENT_LOST', node: 'n2', choices: ['wait', 'abort'] });
    abort(model);
    expect(model.state.status).toBe('aborted');
    expect(model.state.reason).toContain('AGENT_LOST');
    expect(model.state.reason).toMatch(/stopped, and not seen to run since: n2$/);
  });

  it('is started when it reports again, and the run ends', () => {
    const model = backup(...each('stop'));
    for (const step of each('back-up')) model.end(step);
    model.disconnect('n2');
    model.disconnect('n3');
    model.waitDeciding(MINUTE);
    // Nothing is taken back by it: those that can be are started, though the backup is not whole before all serve.
    expect(model.running).toEqual(['start:n1']);
    model.end('start:n1');
    model.settle();
    expect(model.state.hold).toMatchObject({ code: 'AGENT_LOST', node: 'n2' });
    // The one that the hold does not name is brought back just the same.
    model.reconnect('n3');
    model.settle();
    expect(model.running).toEqual(['start:n3']);
    model.end('start:n3');
    model.settle();
    expect(model.state.hold).toMatchObject({ code: 'AGENT_LOST', node: 'n2' });
    model.reconnect('n2');
    goOn(model);
    expect([model.state.status, up(model)]).toEqual(['succeeded', NODES]);
  });

  it('after its start was ordered, keeps none down that could not be started with it', () => {
    const model = backup(...each('stop'));
    for (const step of each('back-up')) model.end(step);
    model.disconnect('n3');
    model.wait(16_000);
    model.settle();
    expect(model.running).toEqual(['start:n1', 'start:n2']);
    model.disconnect('n2');
    model.wait(31_000);
    model.reconnect('n3');
    model.settle();
    expect(model.running).toEqual(['start:n1', 'start:n2', 'start:n3']);
    goOn(model);
    expect([model.state.hold?.code, model.state.hold?.step]).toEqual(['AGENT_LOST', 'start:n2']);
  });

  it('or that does not come to an end, is not ordered to start what it works on', () => {
    const model = backup(...each('stop'));
    model.end('back-up:n1');
    model.end('back-up:n3');
    model.wait(model.plan.options.deadline.idleMs + MINUTE);
    abort(model, 'back-up:n2');
    expect(model.state.hold).toMatchObject({ code: 'STEP_STALLED', step: 'back-up:n2' });
    expect([up(model), model.step('return:n2').attempt]).toEqual([['n1', 'n3'], 0]);
    model.end('back-up:n2');
    goOn(model);
    expect([model.state.status, up(model)]).toEqual(['aborted', NODES]);
  });

  it('before it was stopped, lets an abort begin the way back of those that were, and then waits for it', () => {
    const model = upgrade('single-replica', ...each('fetch'));
    for (const gate of each('gate')) model.end(gate);
    model.disconnect('n2');
    model.wait(16_000);
    model.settle();
    expect(model.running).toEqual(['stop:n1', 'stop:n3']);
    for (const stop of ['stop:n1', 'stop:n3']) model.end(stop);
    model.waitDeciding(MINUTE);
    expect(model.state.hold).toMatchObject({ code: 'AGENT_LOST', step: 'stop:n2' });
    expect(model.request('abort')).toBe(true);
    model.settle();
    expect(model.running).toEqual(['put-back:n1', 'put-back:n3']);
    goOn(model);
    expect(model.state.hold).toMatchObject({ code: 'AGENT_LOST', node: 'n2' });
    model.reconnect('n2');
    goOn(model);
    expect([model.state.status, up(model)]).toEqual(['aborted', NODES]);
  });

  it('while it was being stopped, lets an abort bring back the others, and itself as soon as it can', () => {
    const model = backup(...each('gate'));
    model.end('stop:n1');
    model.end('stop:n3');
    model.disconnect('n2');
    model.waitDeciding(MINUTE);
    abort(model);
    expect(up(model)).toContain('n1');
    expect(up(model)).toContain('n3');
    expect(model.state.status).toBe('held');
    model.end('stop:n2');
    expect(up(model)).not.toContain('n2');
    model.reconnect('n2');
    goOn(model);
    expect([model.state.status, up(model)]).toEqual(['aborted', NODES]);
  });

  it('has the others of a single-replica cluster put back meanwhile, and started with it, not before', () => {
    const model = upgrade('single-replica', ...each('stop'));
    model.end('install:n1');
    model.disconnect('n2');
    model.end('install:n3');
    abort(model);
    expect(model.hosts.map(({ installed }) => installed)).toEqual([OLD, OLD, OLD]);
    expect([model.step('put-back:n1').status, model.step('put-back:n3').status]).toEqual(['succeeded', 'succeeded']);
    expect([model.state.status, up(model)]).toEqual(['held', []]);
    model.end('install:n2');
    model.reconnect('n2');
    goOn(model);
    expect([model.state.status, up(model)]).toEqual(['aborted', NODES]);
    expect(model.hosts.map(({ installed }) => installed)).toEqual([OLD, OLD, OLD]);
  });

  it('has no other stopped for the way back that still serves', () => {
    const model = upgrade('single-replica', ...each('gate'));
    model.end('stop:n1', 'too late');
    model.end('stop:n3', { disposition: 'untouched' });
    model.disconnect('n2');
    model.waitDeciding(MINUTE);
    abort(model);
    expect([model.step('put-back:n1').attempt, model.step('put-back:n3').attempt, up(model)]).toEqual([0, 0, NODES]);
    expect(model.state.hold).toMatchObject({ code: 'AGENT_LOST', node: 'n2' });
  });
});

describe('an abort', () => {
  it('after a start that failed brings every node of a backup back: no version was changed', () => {
    const model = backup(...each('back-up'));
    model.end('start:n1');
    model.end('start:n2', { disposition: 'broken', code: 'START_FAILED' });
    model.end('start:n3');
    model.settle();
    expect(model.state.hold).toMatchObject({ code: 'START_FAILED', node: 'n2' });
    abort(model);
    expect([model.state.status, up(model)]).toEqual(['aborted', NODES]);
    expect(model.state.reason).toBe('aborted by a person; failed: start n2: it did not work');
  });

  it('says what failed while it waited, and that the node was not seen to be back', () => {
    const model = upgrade('multi-replica', 'gate:n1');
    model.request('abort');
    model.end('upgrade:n1', { disposition: 'broken', newVersionStarted: true });
    model.settle();
    expect(model.state.reason).toBe(
      'aborted by a person; failed: take n1 from 3.0.0 to 3.1.0: drain, stop, install, start, verify: it did not work; ' +
        'the new version was started on the data, so it is not taken back in place; ' +
        'begun to be upgraded, and not seen to be back: n1',
    );
  });

  it('says which nodes are down once the new version was started and there is no way back', () => {
    const model = upgrade('single-replica', ...each('install'));
    model.end('start:n1');
    model.end('start:n2', { disposition: 'broken', code: 'START_FAILED', newVersionStarted: true });
    model.end('start:n3', { disposition: 'broken', code: 'START_FAILED' });
    model.settle();
    abort(model);
    expect(model.state).toMatchObject({ status: 'aborted' });
    expect(model.state.reason).toMatch(/failed: start n2.*; start n3.*stopped, and not seen to run since: n2, n3$/);
  });

  it.each<[string, () => Model]>([
    ['before anything was touched', () => upgrade('multi-replica', 'fetch:n1')],
    ['between two nodes', () => upgrade('multi-replica', 'witness:n1')],
    [
      'after a node that was left as it was',
      () => {
        const model = upgrade('multi-replica', 'gate:n1');
        model.end('upgrade:n1', 'too late');
        model.wait(GATE_AGAIN_MS);
        return model;
      },
    ],
  ])('%s has nothing more to say', (_, made) => {
    const model = made();
    model.request('abort');
    for (const id of model.running) model.end(id);
    model.settle();
    expect([model.state.status, model.state.reason]).toEqual(['aborted', 'aborted by a person']);
  });

  it('names a few of many, and how many there are', () => {
    const model = new Model(planFor('single-replica', 9));
    const all = (kind: string) => model.plan.nodes.map(({ node }) => `${kind}:${node}`);
    model.until(...all('install'));
    model.settle();
    for (const step of all('start')) model.end(step, { disposition: 'broken' });
    model.settle();
    abort(model);
    expect(model.state.reason).toContain('stopped, and not seen to run since: n1, n2, n3, n4, n5 and 4 more');
    expect(model.nowMs).toBeLessThan(NOW + HOUR);
  });
});
