import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  type ActionResult,
  actionFor,
  apply,
  areOfOneMoment,
  type BackupPart,
  type BackupSet,
  type Decision,
  decide,
  deriveClusters,
  hashPlan,
  initialState,
  judgeSet,
  makeWholePlan,
  type NodeFacts,
  type PackageInfo,
  type Plan,
  type PlanDraft,
  type RunState,
  type StepKind,
  stepOf,
  type Topology,
} from '../src/index.ts';
import {
  allAt,
  codesOf,
  draft,
  fleet,
  host,
  idsUpTo,
  installation,
  NEW,
  NOW,
  name,
  OLD,
  OLD_PACKAGE,
  pkg,
  planFor,
  planOf,
  withHealth,
  withInstallation,
  withReport,
} from './builders.ts';
import { Model } from './model.ts';

const TOPOLOGIES: readonly Topology[] = ['standalone', 'multi-replica', 'single-replica'];

function setOf(size: number, change: Partial<BackupSet> = {}): BackupSet {
  return {
    id: 'run-1',
    cluster: 'c1',
    policy: 'copy',
    version: OLD,
    oneMoment: true,
    nodes: size,
    parts: idsUpTo(size).map((kwdbId) => ({
      node: name(kwdbId),
      kwdbId,
      place: `/backups/${name(kwdbId)}/run-1`,
      sizeBytes: 1000,
      files: 3,
      manifestSha256: String(kwdbId).repeat(64).slice(0, 64),
      madeAtMs: NOW - 1000,
    })),
    ...change,
  };
}

type Whole = { kind: 'backup' } | { kind: 'restore' | 'downgrade'; set: BackupSet; replaced?: 'keep' | 'remove' };

function whole(nodes: NodeFacts[], wish: Whole, to = OLD, packages = [pkg(), OLD_PACKAGE]): PlanDraft {
  const [cluster] = deriveClusters(nodes);
  if (cluster === undefined) throw new Error('no cluster');
  const shared = { cluster, to, packages, options: {}, nowMs: NOW };
  if (wish.kind === 'backup') return makeWholePlan({ ...shared, kind: 'backup' });
  return makeWholePlan({ ...shared, kind: wish.kind, source: { set: wish.set, replaced: wish.replaced ?? 'keep' } });
}

/** A cluster that was upgraded. */
const upgraded = (topology: Topology, size: number): NodeFacts[] =>
  fleet(topology, size).map((one) => ({
    ...one,
    report: { ...one.report, installation: installation({ topology, versions: allAt(NEW) }) },
  }));

describe('the backup before an upgrade', () => {
  const codes = (
    topology: Topology,
    options: Parameters<typeof planFor>[2],
    nodes = fleet(topology, topology === 'standalone' ? 1 : 3),
  ) => {
    const { checks } = draft(nodes, { options: options ?? {} });
    return { block: codesOf(checks, 'block'), warn: codesOf(checks, 'warn') };
  };

  it('expires when it is attested, after a day or as long as was said', () => {
    const attested = (ageMs: number, maxAgeMs?: number) =>
      codes('standalone', {
        backup: { policy: 'attested', where: 'x', atMs: NOW - ageMs, ...(maxAgeMs === undefined ? {} : { maxAgeMs }) },
      }).block;
    expect(attested(86_400_000)).toEqual([]);
    expect(attested(86_400_001)).toEqual(['BACKUP_EXPIRED']);
    expect(attested(7_200_001, 7_200_000)).toEqual(['BACKUP_EXPIRED']);
    expect(attested(2 * 86_400_000, 3 * 86_400_000)).toEqual([]);
  });

  it('cannot be a copy where the database is never stopped', () => {
    const online = codes('multi-replica', { backup: { policy: 'copy' }, route: 'online' });
    expect(online.block).toEqual(['BACKUP_UNSUPPORTED']);
    const offline = codes('multi-replica', { backup: { policy: 'copy' } });
    expect(offline).toMatchObject({ block: [], warn: ['BACKUP_INCONSISTENT'] });
  });

  it('needs a command where that is chosen, and known places for a copy', () => {
    const nodes = withReport(fleet('single-replica', 3), 2, ({ host }) => ({
      host: { ...host, backup: { directory: '/b', freeBytes: 1, command: false } },
    }));
    expect(codes('single-replica', { backup: { policy: 'command' } }, nodes).block).toEqual(['BACKUP_UNSUPPORTED']);
    const { places: _, ...unknown } = installation({ topology: 'single-replica' });
    const other = withReport(fleet('single-replica', 3), 2, () => ({ installation: unknown }));
    expect(codes('single-replica', { backup: { policy: 'copy' } }, other).block).toEqual(['BACKUP_UNSUPPORTED']);
    const nowhere = withReport(fleet('single-replica', 3), 2, ({ host: { backup: __, ...host } }) => ({ host }));
    expect(codes('single-replica', { backup: { policy: 'copy' } }, nowhere).block).toEqual(['BACKUP_UNSUPPORTED']);
    const places = { configuration: [], obstacle: 'the node has 2 stores' };
    const odd = withReport(fleet('single-replica', 3), 2, ({ installation: known }) => ({
      ...(known && { installation: { ...known, places } }),
    }));
    expect(codes('single-replica', { backup: { policy: 'copy' } }, odd).block).toEqual(['BACKUP_UNSUPPORTED']);
    expect(codes('single-replica', { backup: { policy: 'none', reason: 'x' } }, odd).block).toEqual([]);
  });

  it('is made between the stop and the install, and prepared before any stop', () => {
    const standalone = planFor('standalone', 1, { backup: { policy: 'copy' } });
    expect(stepOf(standalone, 'upgrade:n1').phases).toEqual(['stop', 'back-up', 'install', 'start', 'verify']);
    const multi = planFor('multi-replica', 3, { backup: { policy: 'copy' } });
    expect(stepOf(multi, 'upgrade:n2').phases).toEqual([
      'interlock',
      'drain',
      'stop',
      'back-up',
      'install',
      'start',
      'verify',
    ]);
    for (const plan of [standalone, multi])
      expect(stepOf(plan, 'fetch:n1').phases).toEqual(['fetch', 'prepare-backup']);
    const single = planFor('single-replica', 3, { backup: { policy: 'copy' } });
    for (const node of ['n1', 'n2', 'n3']) {
      expect(stepOf(single, `back-up:${node}`).needs).toEqual(['stop:n1', 'stop:n2', 'stop:n3']);
      for (const other of ['n1', 'n2', 'n3'])
        expect(stepOf(single, `install:${other}`).needs).toContain(`back-up:${node}`);
    }
  });

  it('by command is a step of its own, before the gates', () => {
    for (const topology of TOPOLOGIES) {
      const plan = planFor(topology, topology === 'standalone' ? 1 : 3, { backup: { policy: 'command' } });
      expect(stepOf(plan, 'back-up:n1').needs).toContain('fetch:n1');
      expect(stepOf(plan, 'gate:n1').needs).toContain('back-up:n1');
      const action = actionFor(plan, initialState('r', plan), stepOf(plan, 'back-up:n1'), {
        executor: 'n1',
        epoch: 1,
        nowMs: 0,
      });
      expect(action.backup).toBe('command');
    }
  });
});

const ofKind = (plan: Plan, kind: StepKind) => plan.steps.filter((step) => step.kind === kind).map(({ id }) => id);

describe('a plan for a whole cluster', () => {
  const kinds = ['backup', 'restore', 'downgrade'] as const;
  const wished = fc.record({
    topology: fc.constantFrom(...TOPOLOGIES),
    size: fc.integer({ min: 1, max: 6 }),
    kind: fc.constantFrom(...kinds),
    replaced: fc.constantFrom('keep', 'remove') as fc.Arbitrary<'keep' | 'remove'>,
  });

  function made({
    topology,
    size: wanted,
    kind,
    replaced,
  }: {
    topology: Topology;
    size: number;
    kind: (typeof kinds)[number];
    replaced: 'keep' | 'remove';
  }) {
    const size = topology === 'standalone' ? 1 : Math.max(3, wanted);
    const nodes = kind === 'downgrade' ? upgraded(topology, size) : fleet(topology, size);
    const result = whole(nodes, kind === 'backup' ? { kind } : { kind, set: setOf(size), replaced });
    return { ...result, plan: planOf(result), size };
  }

  it('goes stage by stage: nothing is stopped before all is checked, nothing started before all is in place', () => {
    fc.assert(
      fc.property(wished, (wish) => {
        const { plan, blocked, size } = made(wish);
        expect(blocked).toBe(false);
        const first = wish.kind === 'backup' ? 'prepare' : 'check-backup';
        const work = wish.kind === 'backup' ? 'back-up' : 'restore';
        const stages: StepKind[] = [
          ...(wish.kind === 'downgrade' ? (['fetch'] as const) : []),
          first,
          ...(wish.kind === 'backup' ? (['gate'] as const) : []),
          'stop',
          ...(wish.kind === 'downgrade' ? (['install'] as const) : []),
          work,
          'start',
          'verify',
          ...(wish.kind !== 'backup' && wish.replaced === 'remove' ? (['discard'] as const) : []),
        ];
        expect([...new Set(plan.steps.map(({ kind }) => kind))]).toEqual(stages);
        stages.slice(1).forEach((kind, at) => {
          const earlier = ofKind(plan, stages[at] as StepKind);
          expect(earlier).toHaveLength(size);
          for (const id of ofKind(plan, kind))
            for (const need of earlier) expect(stepOf(plan, id).needs).toContain(need);
        });
      }),
      { numRuns: 40 },
    );
  });

  it('names each node its own copy, of the version that it will have', () => {
    const { plan } = made({ topology: 'single-replica', size: 3, kind: 'downgrade', replaced: 'keep' });
    const action = actionFor(plan, initialState('r', plan), stepOf(plan, 'restore:n2'), {
      executor: 'n2',
      epoch: 1,
      nowMs: 0,
    });
    expect(action).toMatchObject({
      from: NEW,
      to: OLD,
      restore: { set: 'run-1', version: OLD, manifestSha256: '2'.repeat(64) },
    });
    const install = actionFor(plan, initialState('r', plan), stepOf(plan, 'install:n2'), {
      executor: 'n2',
      epoch: 1,
      nowMs: 0,
    });
    expect(install).toMatchObject({
      bypassVersionCheck: true,
      package: { version: OLD },
      previousPackage: { version: NEW },
    });
    expect(install.restore).toBeUndefined();
  });

  it('of another backup has another hash', () => {
    const plan = (set: BackupSet) => planOf(whole(fleet('standalone', 1), { kind: 'restore', set }));
    expect(hashPlan(plan(setOf(1)))).not.toBe(hashPlan(plan(setOf(1, { id: 'run-2' }))));
  });
});

describe('what may be restored', () => {
  const blocked = (
    set: BackupSet,
    kind: 'restore' | 'downgrade' = 'restore',
    nodes = fleet('single-replica', 3),
    to = OLD,
  ) => codesOf(whole(nodes, { kind, set }, to).checks, 'block');

  it('is a whole set of one moment, of these nodes and this version', () => {
    const parts = setOf(3).parts;
    expect(blocked(setOf(3))).toEqual([]);
    expect(blocked(setOf(3, { oneMoment: false }))).toEqual(['BACKUP_INCONSISTENT']);
    expect(blocked(setOf(3, { policy: 'command', oneMoment: false }))).toContain('BACKUP_UNSUPPORTED');
    expect(blocked(setOf(3, { parts: parts.slice(1) }))).toEqual(['BACKUP_INCOMPLETE']);
    expect(blocked(setOf(3, { parts: parts.map((part) => ({ ...part, removedAtMs: NOW })) }))).toEqual([
      'BACKUP_INCOMPLETE',
    ]);
    expect(blocked(setOf(3, { parts: parts.map((part) => ({ ...part, kwdbId: 9 })) }))).toEqual(['BACKUP_INCOMPLETE']);
    expect(blocked(setOf(4))).toEqual(['BACKUP_INCOMPLETE']);
    expect(blocked(setOf(3, { cluster: 'c2' }))).toEqual(['BACKUP_INCOMPLETE']);
    expect(blocked(setOf(3, { version: NEW }))).toEqual(['BACKUP_WRONG_VERSION']);
  });

  it('is put back under its version alone: by a restore where it is installed, else by a downgrade', () => {
    const newer = upgraded('single-replica', 3);
    expect(blocked(setOf(3), 'restore', newer)).toEqual(['BACKUP_WRONG_VERSION']);
    expect(blocked(setOf(3), 'downgrade', newer)).toEqual([]);
    expect(blocked(setOf(3), 'downgrade')).toEqual(['VERSION_EQUAL']);
    expect(blocked(setOf(3, { version: NEW }), 'downgrade', fleet('single-replica', 3), NEW)).toEqual([
      'BACKUP_WRONG_VERSION',
    ]);
    expect(codesOf(whole(newer, { kind: 'downgrade', set: setOf(3) }, OLD, [pkg()]).checks, 'block')).toEqual([
      'PACKAGE_UNKNOWN',
    ]);
  });

  it('needs, for a downgrade of rpm hosts, the package that an abort would put back', () => {
    const newer = upgraded('single-replica', 3).map((one) => ({
      ...one,
      report: { ...one.report, host: host({ distribution: { id: 'openEuler', versionId: '24.03', family: 'rpm' } }) },
    }));
    const [to, from] = [pkg({ family: 'rpm', version: OLD }), pkg({ family: 'rpm' })];
    const down = (packages: PackageInfo[]) => whole(newer, { kind: 'downgrade', set: setOf(3) }, OLD, packages);
    expect(codesOf(down([to]).checks, 'block')).toEqual(['PREVIOUS_PACKAGE_MISSING']);
    expect(codesOf(down([to, from]).checks, 'block')).toEqual([]);
    expect(planOf(down([to, from])).previousPackage).toEqual(from);
  });

  it('does not ask a broken cluster how it is, but every agent must report', () => {
    const down = fleet('multi-replica', 3).map((one) => {
      const { view: _, health: __, ...rest } = one.report;
      return { ...one, report: { ...rest, serving: false, ready: false } };
    });
    expect(whole(down, { kind: 'restore', set: setOf(3) }).blocked).toBe(false);
    expect(whole(down, { kind: 'backup' }).blocked).toBe(true);
    const [first, ...others] = down;
    const silent = [{ ...(first as NodeFacts), connected: false }, ...others];
    expect(codesOf(whole(silent, { kind: 'restore', set: setOf(3) }).checks, 'block')).toEqual(['NODE_UNREACHABLE']);
  });

  it('a cold backup asks the cluster as an upgrade does', () => {
    const busy = withHealth(fleet('multi-replica', 3), () => ({
      jobs: [{ id: '1', type: 'IMPORT', description: '', status: 'running' }],
    }));
    expect(codesOf(whole(busy, { kind: 'backup' }).checks, 'block')).toEqual(['JOBS_RUNNING']);
    const mixed = withInstallation(fleet('multi-replica', 3), 1, { versions: allAt(NEW) });
    expect(codesOf(whole(mixed, { kind: 'backup' }).checks, 'block')).toContain('BACKUP_WRONG_VERSION');
  });

  it('says all that is wrong with a set', () => {
    expect(judgeSet(setOf(3))).toEqual([]);
    expect(judgeSet(setOf(3, { oneMoment: false, parts: [] })).map(({ code }) => code)).toEqual([
      'BACKUP_INCONSISTENT',
      'BACKUP_INCOMPLETE',
    ]);
    const [first, ...others] = setOf(3).parts;
    const mixed = setOf(3, { parts: [{ ...(first as BackupPart), version: '2.9.0' }, ...others] });
    expect(judgeSet(mixed)).toMatchObject([{ code: 'BACKUP_INCONSISTENT', node: first?.node }]);
  });
});

describe('the engine', () => {
  /** All steps of these kinds done, long ago. */
  function doneUpTo(plan: Plan, ...kinds: StepKind[]): RunState {
    const state = initialState('r1', plan);
    const endedAtMs = NOW - 600_000;
    const steps = Object.fromEntries(
      Object.entries(state.steps).map(([id, step]) =>
        kinds.includes(id.split(':')[0] as StepKind)
          ? [id, { ...step, status: 'succeeded' as const, attempt: 1, endedAtMs }]
          : [id, step],
      ),
    );
    return { ...state, status: 'running', startedAtMs: NOW - 700_000, steps };
  }

  const stopped = (nodes: NodeFacts[]): NodeFacts[] =>
    nodes.map((one) => ({
      ...one,
      lastSeenMs: NOW,
      report: {
        ...one.report,
        serving: false,
        ready: false,
        installation: {
          ...installation(),
          ...one.report.installation,
          unit: { exists: true, active: 'inactive', enabled: false },
        },
      },
    }));
  const asked = (plan: Plan, state: RunState, nodes: NodeFacts[]): Decision[] =>
    decide(plan, state, { nodes: new Map(nodes.map((one) => [one.node, one])) }, NOW);
  const holdOf = ([decision]: Decision[]) =>
    decision?.do === 'record' && decision.event.type === 'run-held' ? decision.event.hold : undefined;

  const cold = planOf(whole(fleet('single-replica', 3), { kind: 'backup' }));

  it('copies only once every node is seen to be stopped', () => {
    const state = doneUpTo(cold, 'prepare', 'gate', 'stop');
    const nodes = stopped(fleet('single-replica', 3));
    expect(asked(cold, state, nodes).map((decision) => (decision.do === 'dispatch' ? decision.step.id : ''))).toEqual([
      'back-up:n1',
      'back-up:n2',
      'back-up:n3',
    ]);
    const up = [...nodes.slice(0, 2), { ...(fleet('single-replica', 3)[2] as NodeFacts), lastSeenMs: NOW }];
    expect(holdOf(asked(cold, state, up))).toMatchObject({ code: 'DEPLOY_STILL_RUNNING', choices: ['retry', 'abort'] });
  });

  it('does not go on with a set of which a node ran after another was copied: a retry stops all, and copies all anew', () => {
    const state = doneUpTo(cold, 'prepare', 'gate', 'stop');
    const half = {
      ...state,
      steps: { ...state.steps, 'back-up:n1': { status: 'succeeded' as const, attempt: 1, startedAtMs: NOW - 500_000 } },
    };
    const nodes = stopped(fleet('single-replica', 3));
    const up = [...nodes.slice(0, 2), { ...(fleet('single-replica', 3)[2] as NodeFacts), lastSeenMs: NOW }];
    const [held] = asked(cold, half, up);
    expect(holdOf([held as Decision])).toMatchObject({ code: 'DEPLOY_STILL_RUNNING', choices: ['retry', 'abort'] });
    const left = { outcome: 'succeeded', disposition: 'done', newVersionStarted: false, phases: [] } as const;
    const stops = ofKind(cold, 'stop').map((id) => [id, { ...state.steps[id], result: left }]);
    const known = { ...half, steps: { ...half.steps, ...Object.fromEntries(stops) } };
    const again = apply(cold, known, { type: 'retry-requested', by: 'ann', atMs: NOW });
    expect(asked(cold, again, up).map((decision) => (decision.do === 'dispatch' ? decision.step.id : ''))).toEqual([
      'stop:n1',
      'stop:n2',
      'stop:n3',
    ]);
  });

  describe('when a copy failed, and people started the cluster meanwhile', () => {
    const plan = planFor('single-replica', 3, { backup: { policy: 'copy' } });
    const nodes = plan.nodes.map(({ node }) => node);
    /** Two copied, the third not; then all are started, and the third is stopped again by hand. */
    const failed = (): Model => {
      const model = new Model(plan);
      model.until('stop:n1', 'stop:n2', 'stop:n3');
      model.settle();
      for (const step of ['back-up:n1', 'back-up:n2']) model.end(step);
      model.end('back-up:n3', { disposition: 'untouched', code: 'DISK_FULL' });
      model.settle();
      expect(model.state.hold).toMatchObject({ code: 'DISK_FULL', choices: ['retry', 'abort'] });
      for (const node of ['n1', 'n2']) model.meddle(node);
      model.heartbeat();
      return model;
    };

    it('a retry stops all and copies all anew: what was copied before is of another moment', () => {
      const model = failed();
      expect(areOfOneMoment(plan, model.state, ['n1', 'n2'])).toBe(true);
      model.request('retry');
      model.settle();
      expect(model.running).toEqual(['stop:n1', 'stop:n2', 'stop:n3']);
      model.until('stop:n1', 'stop:n2', 'stop:n3');
      model.settle();
      expect(model.running).toEqual(['back-up:n1', 'back-up:n2', 'back-up:n3']);
      expect(areOfOneMoment(plan, model.state, nodes)).toBe(false);
      for (const node of nodes) model.end(`back-up:${node}`);
      expect(areOfOneMoment(plan, model.state, nodes)).toBe(true);
      model.until(...plan.steps.map(({ id }) => id));
    });

    it('and when the retry is given up half way, what is left is no set, though every node has a copy', () => {
      const model = failed();
      model.request('retry');
      model.until('stop:n1', 'stop:n2', 'stop:n3');
      model.settle();
      for (const step of ['back-up:n1', 'back-up:n3']) model.end(step);
      model.end('back-up:n2', { disposition: 'untouched', code: 'DISK_FULL' });
      model.request('abort');
      model.settle();
      expect(areOfOneMoment(plan, model.state, nodes)).toBe(false);
    });

    it('nodes that could not be stopped again stay those that this run stopped: an abort brings them back', () => {
      const model = failed();
      model.mend();
      model.heartbeat();
      model.request('retry');
      model.settle();
      for (const node of nodes) model.end(`stop:${node}`, { disposition: 'untouched', code: 'EPOCH_STALE' });
      model.settle();
      model.request('abort');
      model.settle();
      expect(model.running).toEqual(['put-back:n1', 'put-back:n2', 'put-back:n3']);
    });

    it('a copy that was under way at the retry is awaited, and made again', () => {
      const model = new Model(plan);
      model.until('stop:n1', 'stop:n2', 'stop:n3');
      model.settle();
      model.end('back-up:n3', { disposition: 'untouched', code: 'DISK_FULL' });
      model.settle();
      model.request('retry');
      model.settle();
      expect(model.running.toSorted()).toEqual(['back-up:n1', 'back-up:n2', 'stop:n3']);
      model.end('back-up:n1');
      model.settle();
      expect(model.running.toSorted()).toEqual(['back-up:n2', 'stop:n1', 'stop:n3']);
      model.until(...plan.steps.map(({ id }) => id));
      for (const node of nodes) expect(model.step(`back-up:${node}`).attempt).toBe(2);
    });

    it('a copy by command, or of one node after the other, is retried alone', () => {
      const commands = planFor('single-replica', 3, { backup: { policy: 'command' } });
      const rolling = planFor('multi-replica', 3, { backup: { policy: 'copy' } });
      for (const other of [commands, rolling]) {
        const model = new Model(other);
        model.until('fetch:n1', 'fetch:n2', 'fetch:n3');
        model.settle();
        const first = model.running[0] ?? '';
        model.end(first, { disposition: 'untouched', code: 'BACKUP_FAILED' });
        model.settle();
        model.request('retry');
        expect(Object.keys(model.state.steps).filter((id) => model.step(id).status === 'pending')).toContain(first);
        model.until(...other.steps.map(({ id }) => id));
      }
      expect(areOfOneMoment(commands, initialState('r', commands), [])).toBe(false);
      expect(areOfOneMoment(rolling, initialState('r', rolling), [])).toBe(false);
      const alone = planFor('standalone', 1, { backup: { policy: 'copy' } });
      expect(areOfOneMoment(alone, initialState('r', alone), ['n1'])).toBe(true);
    });
  });

  it('restores only once every node is seen to be stopped, and starts only once all are restored', () => {
    const plan = planOf(whole(fleet('multi-replica', 3), { kind: 'restore', set: setOf(3) }));
    const nodes = stopped(fleet('multi-replica', 3));
    const state = doneUpTo(plan, 'check-backup', 'stop');
    const up = [...nodes.slice(0, 2), { ...(fleet('multi-replica', 3)[2] as NodeFacts), lastSeenMs: NOW }];
    expect(holdOf(asked(plan, state, up))).toMatchObject({ code: 'DEPLOY_STILL_RUNNING' });
    expect(asked(plan, state, nodes)).toHaveLength(3);
    const one = { ...state, steps: { ...state.steps, 'restore:n1': { status: 'succeeded' as const, attempt: 1 } } };
    expect(asked(plan, one, nodes).map((decision) => (decision.do === 'dispatch' ? decision.step.kind : ''))).toEqual([
      'restore',
      'restore',
    ]);
  });

  it('goes back as long as nothing was started on the restored data, and not after', () => {
    const plan = planOf(whole(upgraded('single-replica', 3), { kind: 'downgrade', set: setOf(3) }));
    const nodes = stopped(upgraded('single-replica', 3));
    const state = { ...doneUpTo(plan, 'fetch', 'check-backup', 'stop', 'install', 'restore'), abortRequested: true };
    expect(
      asked(plan, state, nodes).map((decision) => (decision.do === 'dispatch' ? decision.step.phases : [])),
    ).toEqual(Array.from({ length: 3 }, () => ['stop', 'put-data-back', 'put-back']));
    const begun = { ...state, steps: { ...state.steps, 'start:n1': { status: 'succeeded' as const, attempt: 1 } } };
    const [end] = asked(plan, begun, nodes);
    expect(end).toMatchObject({ do: 'record', event: { type: 'run-ended', status: 'aborted' } });
  });

  it('keeps the receipt of a backup, also of a step that failed after it was made', () => {
    const plan = planFor('standalone', 1, { backup: { policy: 'copy' } });
    const state = initialState('r1', plan);
    const running = apply(plan, state, {
      type: 'step-dispatched',
      step: 'upgrade:n1',
      attempt: 1,
      executor: 'n1',
      atMs: 1,
    });
    const receipt = { ...setOf(1).parts[0], policy: 'copy', version: OLD, removed: [] };
    const result = {
      action: 'r1/upgrade:n1/1',
      outcome: 'failed',
      disposition: 'backed-out',
      newVersionStarted: false,
      phases: [],
      backup: receipt,
    };
    const ended = apply(plan, running, {
      type: 'step-ended',
      step: 'upgrade:n1',
      attempt: 1,
      result: result as unknown as ActionResult,
      atMs: 2,
    });
    expect(ended.steps['upgrade:n1']?.result?.backup).toEqual(receipt);
  });
});
