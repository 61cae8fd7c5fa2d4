/** A small fleet in the API's own shapes, and a controller that serves them. */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import {
  type ClusterSummary,
  DEFAULT_OPTIONS,
  type Hold,
  hashPlan,
  type Plan,
  type PlanNode,
  type PlanView,
  type Problem,
  type RunEventView,
  type RunSummary,
  type RunView,
  type Step,
  type StepState,
} from '@kwfleet/core';
import type { Output } from '../src/terminal.ts';

export const STARTED_MS = Date.UTC(2026, 10, 23, 22, 0, 0);

const node = (at: number): PlanNode => ({
  node: `db-${at}`,
  kwdbId: at,
  address: `10.0.0.${at}:26257`,
  method: 'script-bare',
  from: '3.0.0',
});

type StepShape = Pick<Step, 'kind' | 'phases' | 'executor' | 'title'>;
const SHAPES: readonly StepShape[] = [
  { kind: 'fetch', phases: ['fetch'], executor: 'self', title: 'bring the package' },
  { kind: 'gate', phases: ['check'], executor: 'peer', title: 'ask whether it can be spared' },
  {
    kind: 'upgrade',
    phases: ['interlock', 'drain', 'stop', 'install', 'start', 'verify'],
    executor: 'self',
    title: 'take it to 3.1.0',
  },
  { kind: 'witness', phases: ['witness'], executor: 'peer', title: 'see it from another node' },
];

/** A plan for so many nodes, in the shape of a multi-replica upgrade. */
export function planFor(nodes: number): Plan {
  const planNodes = Array.from({ length: nodes }, (_, at) => node(at + 1));
  const steps = planNodes.flatMap((on) =>
    SHAPES.map((shape): Step => {
      const changes = shape.kind === 'upgrade' ? [`its packages become 3.1.0 on ${on.node}`] : [];
      const title = `${shape.title} (${on.node})`;
      return {
        ...shape,
        id: `${shape.kind}:${on.node}`,
        node: on.node,
        needs: [],
        deadline: DEFAULT_OPTIONS.deadline,
        title,
        changes,
      };
    }),
  );
  return {
    format: 1,
    cluster: '11111111-2222-4333-8444-555555555555',
    topology: 'multi-replica',
    to: '3.1.0',
    package: {
      sha256: 'a'.repeat(64),
      fileName: 'KWDB-3.1.0.tar.gz',
      sizeBytes: 812_345_678,
      unpackedBytes: 2_000_000_000,
      version: '3.1.0',
      kind: 'bare',
      architecture: 'amd64',
      family: 'deb',
    },
    options: { ...DEFAULT_OPTIONS, backup: { policy: 'attested', where: 's3://backups/prod' } },
    nodes: planNodes,
    steps,
    backOut: [],
  };
}

/** A run of `planFor(nodes)` with these steps under way or done. */
export function runView(nodes: number, steps: Record<string, StepState>, more: Partial<RunView> = {}): RunView {
  const plan = planFor(nodes);
  return {
    id: 'run-1',
    kind: 'upgrade',
    cluster: plan.cluster,
    clusterName: 'prod-east',
    planId: 'plan-1',
    planHash: hashPlan(plan),
    topology: plan.topology,
    to: plan.to,
    status: 'running',
    pauseRequested: false,
    abortRequested: false,
    choices: ['pause', 'abort'],
    createdAtMs: STARTED_MS,
    createdBy: 'mei',
    startedAtMs: STARTED_MS,
    done: Object.values(steps).filter(({ status }) => status === 'succeeded').length,
    total: plan.steps.length,
    plan,
    steps,
    ...more,
  };
}

/** A step that took this long. */
export const succeeded = (fromMs: number, tookMs: number): StepState => ({
  status: 'succeeded',
  attempt: 1,
  startedAtMs: STARTED_MS + fromMs,
  endedAtMs: STARTED_MS + fromMs + tookMs,
});

/** Every step of these nodes, done one after the other. */
export function allSteps(...names: readonly string[]): Record<string, StepState> {
  return Object.fromEntries(
    names.flatMap((name) => SHAPES.map(({ kind }, at) => [`${kind}:${name}`, succeeded(at * 60_000, 60_000)])),
  );
}

export const HOLD: Hold = {
  code: 'INSTALL_FAILED',
  message: 'deploy.sh ended with 1; 3.0.0 was put back and serves',
  remedy: "See the host's own words.",
  node: 'db-2',
  step: 'upgrade:db-2',
  words: 'dpkg: No space left on device',
  choices: ['retry', 'abort'],
  selfClearing: false,
  sinceMs: STARTED_MS + 300_000,
};

/** A plan as the API answers it. */
export function planView(more: Partial<PlanView> = {}): PlanView {
  const plan = planFor(3);
  const checks: PlanView['checks'] = [{ code: 'NODE_MISSING', verdict: 'pass', message: 'all nodes report' }];
  return {
    id: 'plan-1',
    hash: hashPlan(plan),
    clusterName: 'prod-east',
    createdAtMs: STARTED_MS,
    createdBy: 'mei',
    plan,
    checks,
    blocked: false,
    ...more,
  };
}

export const CLUSTER: ClusterSummary = {
  id: '11111111-2222-4333-8444-555555555555',
  name: 'prod-east',
  labels: {},
  topology: 'multi-replica',
  versions: ['3.0.0'],
  state: 'degraded',
  detail: 'db-2: its agent does not report',
  nodes: [{ id: 'db-1', state: 'healthy', detail: '', connected: true, address: '10.0.0.1:26257', version: '3.0.0' }],
};

export const UNKNOWN_RUN: Problem = {
  type: 'urn:kwfleet:error:RUN_UNKNOWN',
  title: 'Run unknown',
  status: 404,
  detail: 'there is no run nope',
  code: 'RUN_UNKNOWN',
  remedy: 'List the runs with `kwfleet runs`.',
};

/** An event of a run's history. */
export function eventView(seq: number, type: string, message: string, more: Partial<RunEventView> = {}): RunEventView {
  return { seq, atMs: STARTED_MS + seq * 1000, type, message, event: { type }, ...more };
}

/** As the controller writes one on the stream. */
export const eventText = (view: RunEventView): string =>
  `${view.type === 'output' ? '' : `id: ${view.seq}\n`}event: ${view.type}\ndata: ${JSON.stringify(view)}\n\n`;

export const summaryOf = ({ plan: _, steps: __, ...summary }: RunView): RunSummary => summary;

export type Asked = { method: string; path: string; headers: IncomingMessage['headers']; body: string };
export type Answer = (response: ServerResponse, asked: Asked) => void;

/** Answers with JSON, as a problem document where it is one. */
export const json =
  (value: unknown, status = 200): Answer =>
  (response) => {
    const kind = status >= 400 ? 'application/problem+json' : 'application/json';
    response.writeHead(status, { 'content-type': `${kind}; charset=utf-8` }).end(JSON.stringify(value));
  };

/** A controller that answers `METHOD /path` from a table and remembers what it was asked. */
export class FakeController {
  readonly asked: Asked[] = [];
  readonly #answers: Record<string, Answer>;
  readonly #server: Server;
  url = '';

  constructor(answers: Record<string, Answer>) {
    this.#answers = answers;
    this.#server = createServer((request, response) => void this.#answer(request, response));
  }

  async listen(): Promise<this> {
    await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve));
    this.url = `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
    return this;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    let body = '';
    for await (const chunk of request) body += String(chunk);
    const path = (request.url ?? '').split('?')[0] ?? '';
    const asked = { method: request.method ?? '', path: request.url ?? '', headers: request.headers, body };
    this.asked.push(asked);
    const answer = this.#answers[`${request.method} ${path}`] ?? json(UNKNOWN_RUN, 404);
    answer(response, asked);
  }
}

/** Serves these answers for the time of a test: `await using controller = await controllerOf({...})`. */
export const controllerOf = (answers: Record<string, Answer>): Promise<FakeController> =>
  new FakeController(answers).listen();

/** Keeps what is written. */
export class Written implements Output {
  text = '';
  readonly isTTY: boolean;
  readonly columns = 80;
  readonly rows = 24;
  constructor(isTTY = false) {
    this.isTTY = isTTY;
  }
  write(text: string): void {
    this.text += text;
  }
  get lines(): string[] {
    return this.text.split('\n').slice(0, -1);
  }
}
