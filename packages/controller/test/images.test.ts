/** Before anything is planned with an image, and again as it starts, each host is asked whether it can have it. */
import type { CheckResult, NodeReport, PlanView, Surroundings } from '@kwfleet/core';
import { afterEach, describe, expect, it } from 'vitest';
import type { Agent } from './fake-agent.ts';
import { BACKUP, RestRig } from './rest-rig.ts';
import { freshReport, usePostgres } from './support.ts';

const postgres = usePostgres();
const digest = 'd'.repeat(64);
const reference = `registry.example.net/kwdb/kwdb@sha256:${digest}`;
const to = '3.2.0';
let rig: RestRig;
let agents: readonly Agent[] = [];
/** What the host of each node says of an image. */
let said: Map<number, Omit<Surroundings['images'][number], 'digest'>>;

afterEach(async () => rig?.close());

/** A node that `docker run` made, whose agent tells of the images it was asked about last, as agents do. */
function inContainer(report: NodeReport, kwdbId: number): NodeReport {
  const asked = agents[kwdbId - 1]?.received.findLast((message) => 'reportRequest' in message);
  const images = asked !== undefined && 'reportRequest' in asked ? asked.reportRequest.images : [];
  const answer = said.get(kwdbId);
  const surroundings: Surroundings = {
    takenPorts: [],
    certificates: [{ file: 'node.crt', expiresAtMs: Date.now() + 365 * 86_400_000 }],
    restarters: [],
    unread: [],
    disks: { agent: '1', install: '2', data: '3' },
    images: answer === undefined ? [] : images.map(({ sha256 }) => ({ digest: sha256, ...answer })),
  };
  const { installation, host, ...rest } = report;
  return {
    ...rest,
    host: { ...host, surroundings },
    ...(installation && { installation: { ...installation, method: 'docker-run' as const } }),
  };
}

async function opened(): Promise<void> {
  rig = await RestRig.open(await postgres.settings());
  agents = [];
  said = new Map([1, 2, 3].map((kwdbId) => [kwdbId, { state: 'pullable', detail: 'its registry has it' }]));
  agents = await rig.cluster('c', inContainer);
  const added = await rig.ask('/v1/packages/import', {
    json: { image: reference, version: to, architecture: 'amd64' },
  });
  expect(added.status).toBe(201);
}

const plan = () => rig.get<PlanView>('/v1/plans', { json: { cluster: 'c', to, options: { backup: BACKUP } } });
const about = (checks: readonly CheckResult[]) => checks.filter(({ code }) => code === 'IMAGE_UNAVAILABLE');

describe('an image', () => {
  it('is asked of every host of the cluster, by its package', async () => {
    await opened();
    const made = await plan();
    expect(made.blocked, JSON.stringify(made.checks.filter(({ verdict }) => verdict !== 'pass'))).toBe(false);
    expect(about(made.checks).map(({ verdict }) => verdict)).toEqual(['pass', 'pass', 'pass']);
    for (const agent of agents) {
      const { reportRequest } = await agent.got('reportRequest');
      expect(reportRequest.images).toMatchObject([{ sha256: digest, image: reference, version: to, kind: 'image' }]);
    }
  });

  it('that one host cannot have blocks the plan, which says why', async () => {
    await opened();
    said.set(2, { state: 'unavailable', detail: 'connection refused' });
    const made = await plan();
    expect(made.blocked).toBe(true);
    expect(about(made.checks).filter(({ verdict }) => verdict !== 'pass')).toMatchObject([
      { verdict: 'block', node: 'c-n2', message: expect.stringContaining('connection refused') },
    ]);
  });

  it('is waited for when a report that was under way comes first', async () => {
    await opened();
    const [first] = agents;
    const whole = inContainer(freshReport('c', 1), 1);
    first?.reporting(() => {
      setTimeout(() => first.send({ report: inContainer(freshReport('c', 1), 1) }), 300);
      return { ...whole, observedAtMs: Date.now() };
    });
    expect(about((await plan()).checks).map(({ verdict }) => verdict)).toEqual(['pass', 'pass', 'pass']);
  });

  it('is asked for anew as the run starts', async () => {
    await opened();
    const { id, hash } = await plan();
    const started = await rig.ask('/v1/runs', { json: { plan: id, hash } });
    expect(started.status).toBe(201);
    for (const { received } of agents) {
      const asked = received.flatMap((message) => ('reportRequest' in message ? [message.reportRequest.images] : []));
      expect(asked.map((images) => images.length)).toEqual([1, 1]);
    }
  });

  it('that its registry lost since the plan keeps the run from starting', async () => {
    await opened();
    const { id, hash } = await plan();
    said.set(3, { state: 'unavailable', detail: 'manifest unknown' });
    const refused = await rig.ask('/v1/runs', { json: { plan: id, hash } });
    expect(refused.status).toBe(422);
    expect(await refused.json()).toMatchObject({ code: 'PLAN_BLOCKED' });
    expect(await rig.get('/v1/runs')).toMatchObject({ items: [] });
  });

  it('of another version is nobody to be asked about', async () => {
    await opened();
    await rig.get<PlanView>('/v1/plans', { json: { cluster: 'c', to: '3.1.0', options: { backup: BACKUP } } });
    for (const agent of agents) expect((await agent.got('reportRequest')).reportRequest.images).toEqual([]);
  });
});
