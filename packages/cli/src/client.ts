/** The controller's REST API, as the command line uses it. One method a request; every request has a deadline. */
import { randomUUID } from 'node:crypto';
import type {
  ApprovalPolicy,
  ApprovalRequestBody,
  ApprovalView,
  BackupView,
  ChainKind,
  Choice,
  ClientView,
  ClusterSummary,
  DeliveryView,
  HealthEventView,
  ImportRequest,
  NodeView,
  PackageView,
  Page,
  PlanRequest,
  PlanView,
  PrefetchRequest,
  PrefetchView,
  Problem,
  RolloutApproval,
  RolloutChecks,
  RolloutEventView,
  RolloutSummary,
  RolloutView,
  RunRequest,
  RunSummary,
  RunView,
  TargetView,
  TransferRequest,
  TrustView,
  WindowView,
  WrittenFile,
} from '@kwfleet/core';
import { badInput, CliError, EXIT, problemError } from './exit.ts';

export const DEFAULT_SERVER = 'http://127.0.0.1:7080';
export type Role = 'viewer' | 'operator' | 'approver' | 'admin';
export type TokenRequest = { role: Role; name?: string; expiresInMs?: number };
export type TokenView = {
  id: string;
  role: Role;
  name: string;
  createdAtMs: number;
  createdBy: string;
  expiresAtMs?: number;
  revokedAtMs?: number;
};
/** The one time the token itself is shown. */
export type NewToken = TokenView & { token: string };
export type EnrollmentRequest = { node?: string; expiresInMs?: number };
/**
 * `fingerprint`: SHA-256 of the authority's certificate, by which the agent knows its controller; `packageRootSha256`:
 * of the root of trust, by which it knows whose packages it may install.
 */
export type EnrollmentView = {
  id: string;
  token: string;
  node?: string;
  expiresAtMs: number;
  fingerprint?: string;
  packageRootSha256?: string;
};
export type ReportFormat = 'json' | 'markdown' | 'html';

const ANSWER_TIMEOUT_MS = 30_000;
const INVENTORY_TIMEOUT_MS = 150_000;
const IMPORT_MS = 3_600_000;
const PAGE_LIMIT = 200;
/** 200 pages are more than any fleet has; a server whose cursor never ends must not keep us here. */
const MOST_PAGES = 200;
const ACCEPT: Record<ReportFormat, string> = { json: 'application/json', markdown: 'text/markdown', html: 'text/html' };

export type ClientOptions = {
  readonly server: string;
  readonly token?: string | undefined;
  readonly answerTimeoutMs?: number;
};

type Ask = {
  readonly method?: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  readonly json?: unknown;
  readonly body?: ReadableStream<Uint8Array>;
  readonly accept?: string;
  readonly headers?: Record<string, string>;
  readonly signal?: AbortSignal;
  /** For questions that take longer than others. */
  readonly timeoutMs?: number;
};

export class Client {
  readonly server: string;
  readonly #token: string | undefined;
  readonly #answerTimeoutMs: number;
  /** The controller's clock minus this machine's, from the last answer's Date, in whole seconds' precision. */
  #clockSkewMs = 0;

  constructor({ server, token, answerTimeoutMs = ANSWER_TIMEOUT_MS }: ClientOptions) {
    this.server = checkServer(server);
    this.#token = token === '' ? undefined : token;
    this.#answerTimeoutMs = answerTimeoutMs;
  }

  clusters = (): Promise<ClusterSummary[]> => this.#all<ClusterSummary>('/v1/clusters');
  cluster = (idOrName: string): Promise<ClusterSummary> => this.#json(`/v1/clusters/${encodeURIComponent(idOrName)}`);
  describeCluster = (id: string, json: { name?: string; labels?: Record<string, string> }): Promise<ClusterSummary> =>
    this.#json(`/v1/clusters/${encodeURIComponent(id)}`, { method: 'PATCH', json });
  health = async (cluster: string, limit: number): Promise<HealthEventView[]> => {
    const path = `/v1/clusters/${encodeURIComponent(cluster)}/health?limit=${limit}`;
    return (await this.#json<Page<HealthEventView>>(path)).items;
  };
  nodes = (): Promise<NodeView[]> => this.#all<NodeView>('/v1/nodes');
  trust = (): Promise<TrustView> => this.#json('/v1/trust');

  /** Metadata as it was signed, or undefined when there is none. */
  trustMetadata = (name: string): Promise<string | undefined> => this.#text(`/v1/trust/metadata/${name}`);

  /** What waits for more signatures. */
  trustStaged = (role: 'root' | 'targets'): Promise<string | undefined> => this.#text(`/v1/trust/staged/${role}`);

  /** `metadata` is JSON already: it is sent as it was signed. */
  submitTrust = (role: 'root' | 'targets', metadata: string): Promise<TrustView> =>
    this.#json(`/v1/trust/${role}`, { method: 'POST', json: JSON.parse(metadata) });

  package = (id: string): Promise<PackageView> => this.#json(`/v1/packages/${encodeURIComponent(id)}`);
  /** The controller takes a package by itself; that takes as long as its line to the source. */
  async importPackage(json: ImportRequest): Promise<PackageView> {
    const answer = await this.#ask('/v1/packages/import', {
      method: 'POST',
      json,
      signal: AbortSignal.timeout(IMPORT_MS),
    });
    return (await answer.json()) as PackageView;
  }

  prefetch = (id: string, json: PrefetchRequest): Promise<{ nodes: number }> =>
    this.#json(`/v1/packages/${encodeURIComponent(id)}/prefetch`, { method: 'POST', json });
  prefetches = (id: string): Promise<PrefetchView[]> =>
    this.#all<PrefetchView>(`/v1/packages/${encodeURIComponent(id)}/prefetch`);
  packages = (): Promise<PackageView[]> => this.#all<PackageView>('/v1/packages');
  createPlan = (json: PlanRequest): Promise<PlanView> => this.#json('/v1/plans', { method: 'POST', json });
  plan = (id: string): Promise<PlanView> => this.#json(`/v1/plans/${encodeURIComponent(id)}`);
  /** Both clusters are asked everything they hold. */
  createTransferPlan = (json: TransferRequest): Promise<PlanView> =>
    this.#json('/v1/transfers/plans', { method: 'POST', json, timeoutMs: INVENTORY_TIMEOUT_MS });

  /** What a plan was made of is asked again before its run starts. */
  createRun = (json: RunRequest): Promise<RunSummary> =>
    this.#json('/v1/runs', { method: 'POST', json, timeoutMs: INVENTORY_TIMEOUT_MS });

  runs = (): Promise<RunSummary[]> => this.#all<RunSummary>('/v1/runs');
  run = (id: string): Promise<RunView> => this.#json(`/v1/runs/${encodeURIComponent(id)}`);
  approvals = (open: boolean): Promise<ApprovalView[]> => this.#all<ApprovalView>(`/v1/approvals?open=${open}`);
  policies = async (): Promise<ApprovalPolicy[]> =>
    (await this.#json<{ items: ApprovalPolicy[] }>('/v1/approval-policies')).items;
  putPolicy = (name: string, json: Partial<Omit<ApprovalPolicy, 'name'>>): Promise<ApprovalPolicy> =>
    this.#json(`/v1/approval-policies/${encodeURIComponent(name)}`, { method: 'PUT', json });
  async deletePolicy(name: string): Promise<void> {
    await this.#ask(`/v1/approval-policies/${encodeURIComponent(name)}`, { method: 'DELETE' });
  }
  /** Agrees to what a run waits for. */
  approve = (id: string, json: ApprovalRequestBody): Promise<RunSummary> =>
    this.#json(`/v1/runs/${encodeURIComponent(id)}/approve`, { method: 'POST', json });
  windows = async (): Promise<WindowView[]> => (await this.#json<{ items: WindowView[] }>('/v1/windows')).items;
  window = (name: string, days: number): Promise<WindowView> =>
    this.#json(`/v1/windows/${encodeURIComponent(name)}?days=${days}`);
  putWindow = (json: WrittenFile): Promise<WindowView> => this.#json('/v1/windows', { method: 'POST', json });
  async removeNode(id: string): Promise<void> {
    await this.#ask(`/v1/nodes/${encodeURIComponent(id)}`, { method: 'DELETE' });
  }

  async deleteWindow(name: string): Promise<void> {
    await this.#ask(`/v1/windows/${encodeURIComponent(name)}`, { method: 'DELETE' });
  }
  notifications = (status?: 'dead'): Promise<DeliveryView[]> =>
    this.#all<DeliveryView>(`/v1/notifications${status === undefined ? '' : `?status=${status}`}`);
  targets = async (): Promise<TargetView[]> =>
    (await this.#json<{ items: TargetView[] }>('/v1/notification-targets')).items;
  async testTarget(name: string): Promise<void> {
    await this.#json(`/v1/notification-targets/${encodeURIComponent(name)}/test`, { method: 'POST', json: {} });
  }
  async resend(id: string): Promise<void> {
    await this.#json(`/v1/notifications/${encodeURIComponent(id)}/resend`, { method: 'POST', json: {} });
  }
  backups = (cluster?: string): Promise<BackupView[]> =>
    this.#all<BackupView>(cluster === undefined ? '/v1/backups' : `/v1/backups?cluster=${encodeURIComponent(cluster)}`);
  backup = (id: string): Promise<BackupView> => this.#json(`/v1/backups/${encodeURIComponent(id)}`);
  createRollout = (json: WrittenFile): Promise<RolloutView> => this.#json('/v1/rollouts', { method: 'POST', json });
  checkRollout = async (json: WrittenFile): Promise<RolloutChecks[]> =>
    (await this.#json<{ items: RolloutChecks[] }>('/v1/rollouts/check', { method: 'POST', json })).items;
  rollouts = (): Promise<RolloutSummary[]> => this.#all<RolloutSummary>('/v1/rollouts');
  rollout = (id: string): Promise<RolloutView> => this.#json(`/v1/rollouts/${encodeURIComponent(id)}`);
  rolloutChecks = async (id: string): Promise<RolloutChecks[]> =>
    (await this.#json<{ items: RolloutChecks[] }>(`/v1/rollouts/${encodeURIComponent(id)}/checks`)).items;
  rolloutEvents = async (id: string, after: number): Promise<RolloutEventView[]> =>
    (await this.#json<{ items: RolloutEventView[] }>(`/v1/rollouts/${encodeURIComponent(id)}/events?after=${after}`))
      .items;
  steerRollout = (id: string, request: 'pause' | 'resume' | 'abort'): Promise<RolloutSummary> =>
    this.#json(`/v1/rollouts/${encodeURIComponent(id)}/${request}`, { method: 'POST', json: {} });
  approveRollout = (id: string, json: RolloutApproval): Promise<RolloutView> =>
    this.#json(`/v1/rollouts/${encodeURIComponent(id)}/approve`, { method: 'POST', json });
  tokens = (): Promise<TokenView[]> => this.#all<TokenView>('/v1/tokens');
  createToken = (json: TokenRequest): Promise<NewToken> => this.#json('/v1/tokens', { method: 'POST', json });
  revokeToken = async (id: string): Promise<void> => {
    await this.#ask(`/v1/tokens/${encodeURIComponent(id)}`, { method: 'DELETE' });
  };

  createEnrollment = (json: EnrollmentRequest): Promise<EnrollmentView> =>
    this.#json('/v1/enrollments', { method: 'POST', json });

  /** Tells a run what to do now. */
  choose = (id: string, choice: Exclude<Choice, 'wait' | 'approve'>): Promise<RunSummary> =>
    this.#json(`/v1/runs/${encodeURIComponent(id)}/${choice}`, { method: 'POST', json: {} });

  recordClientView = (id: string, json: ClientView): Promise<ClientView> =>
    this.#json(`/v1/runs/${encodeURIComponent(id)}/client-view`, { method: 'POST', json });

  /** The report of a run or a rollout, as the controller writes it. */
  async report(id: string, format: ReportFormat, kind: ChainKind = 'run'): Promise<string> {
    const answer = await this.#ask(`/v1/${kind}s/${encodeURIComponent(id)}/report`, { accept: ACCEPT[format] });
    return answer.text();
  }

  /**
   * Streams a package to the controller. The body's own progress is its deadline: see `uploadBody`. `version`: of an
   * image's file, as a person says it.
   */
  async addPackage(
    fileName: string,
    body: ReadableStream<Uint8Array>,
    signal: AbortSignal,
    version?: string,
  ): Promise<PackageView> {
    const headers = { 'content-type': 'application/octet-stream' };
    const query = new URLSearchParams({ fileName, ...(version !== undefined && { version }) });
    const answer = await this.#ask(`/v1/packages?${query}`, { method: 'POST', body, headers, signal });
    return (await answer.json()) as PackageView;
  }

  /** Opens the stream of a run's events. The caller bounds its silence and ends it. */
  async openEvents(id: string, lastEventId: string | undefined, signal: AbortSignal): Promise<Response> {
    const headers: Record<string, string> = lastEventId === undefined ? {} : { 'last-event-id': lastEventId };
    const path = `/v1/runs/${encodeURIComponent(id)}/events`;
    return this.#ask(path, { accept: 'text/event-stream', headers, signal });
  }

  /** Now, by the controller's clock: its times are compared with this one. */
  nowMs(): number {
    return Date.now() + this.#clockSkewMs;
  }

  /** The body as it came; undefined when there is none. */
  async #text(path: string): Promise<string | undefined> {
    try {
      return await (await this.#ask(path, {})).text();
    } catch (error) {
      if (error instanceof CliError && error.where.code === 'NOT_FOUND') return undefined;
      throw error;
    }
  }

  async #json<T>(path: string, ask: Ask = {}): Promise<T> {
    const answer = await this.#ask(path, ask);
    try {
      return (await answer.json()) as T;
    } catch (error) {
      throw this.#unreachable(error);
    }
  }

  async #all<T>(path: string): Promise<T[]> {
    const items: T[] = [];
    let cursor: string | undefined;
    for (let at = 0; at < MOST_PAGES; at += 1) {
      const query = `limit=${PAGE_LIMIT}${cursor === undefined ? '' : `&cursor=${encodeURIComponent(cursor)}`}`;
      const page = await this.#json<Page<T>>(`${path}${path.includes('?') ? '&' : '?'}${query}`);
      items.push(...page.items);
      cursor = page.cursor;
      if (cursor === undefined) return items;
    }
    throw new CliError(EXIT.error, `The list at ${path} does not end after ${MOST_PAGES} pages.`);
  }

  async #ask(path: string, ask: Ask): Promise<Response> {
    // One key for all attempts of one wish: a write whose answer was lost is not done twice.
    const key = randomUUID();
    try {
      return await this.#attempt(path, ask, key);
    } catch (error) {
      // Only an answer that was lost on the way is asked for again: nothing speaks for asking one who is not there.
      if (!(error instanceof LostAnswer) || ask.body !== undefined || ask.signal !== undefined) throw error;
      return this.#attempt(path, ask, key);
    }
  }

  async #attempt(path: string, ask: Ask, key: string): Promise<Response> {
    const method = ask.method ?? 'GET';
    const headers: Record<string, string> = { accept: ask.accept ?? 'application/json', ...ask.headers };
    if (ask.json !== undefined) headers['content-type'] = 'application/json';
    if (method !== 'GET') headers['idempotency-key'] = key;
    if (this.#token !== undefined) headers.authorization = `Bearer ${this.#token}`;
    const body = ask.json === undefined ? ask.body : JSON.stringify(ask.json);
    const signal = ask.signal ?? AbortSignal.timeout(ask.timeoutMs ?? this.#answerTimeoutMs);
    let answer: Response;
    try {
      const url = `${this.server}${path}`;
      // Node wants `duplex` for a body that streams; the types of fetch do not know it.
      const init = { method, headers, signal, redirect: 'error', body: body ?? null, duplex: 'half' };
      answer = await fetch(url, init as RequestInit);
    } catch (error) {
      throw this.#unreachable(error);
    }
    const date = Date.parse(answer.headers.get('date') ?? '');
    // The header has whole seconds: a smaller difference says nothing.
    if (Number.isFinite(date)) this.#clockSkewMs = Math.abs(date - Date.now()) < 2_000 ? 0 : date - Date.now();
    if (!answer.ok) throw await this.#refusal(answer);
    // 204: there is nothing (more) to tell, so it is of no kind.
    if (answer.status !== 204) this.#checkKind(answer, headers.accept ?? '');
    return answer;
  }

  async #refusal(answer: Response): Promise<CliError> {
    const text = await answer.text().catch(() => '');
    const problem = parseProblem(text);
    if (problem !== undefined) return problemError(problem);
    return new CliError(
      EXIT.error,
      `${this.server} answered ${answer.status} ${answer.statusText}, and not as a kwfleet controller does.`,
      { words: text.slice(0, 300), remedy: 'Check --server (or KWFLEET_SERVER) and any proxy in between.' },
    );
  }

  #checkKind(answer: Response, accept: string): void {
    const kind = answer.headers.get('content-type') ?? '';
    if (kind.startsWith(accept)) return;
    void answer.body?.cancel();
    throw new CliError(
      EXIT.error,
      `${this.server} answers with ${kind || 'no content type'} where ${accept} belongs.`,
      {
        remedy: 'Check that --server (or KWFLEET_SERVER) is the address of a kwfleet controller.',
      },
    );
  }

  #unreachable(error: unknown): Error {
    const { reason, reached, untrusted } = describeFailure(error);
    const message = `The controller at ${this.server} does not answer: ${reason}.`;
    const remedy = untrusted
      ? 'Nobody whom this machine trusts made its certificate: name the file of its authority, NODE_EXTRA_CA_CERTS=FILE.'
      : 'Check that it runs (`systemctl status kwfleet-controller`, or start one with `kwfleet controller`) and that --server or KWFLEET_SERVER names it.';
    return reached ? new LostAnswer(EXIT.error, message, { remedy }) : new CliError(EXIT.error, message, { remedy });
  }
}

/** The request may have arrived; the answer did not. */
class LostAnswer extends CliError {}

/** What Node calls a certificate of an authority that it does not know. */
const UNTRUSTED: ReadonlySet<string> = new Set([
  'DEPTH_ZERO_SELF_SIGNED_CERT',
  'SELF_SIGNED_CERT_IN_CHAIN',
  'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
  'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
]);

function describeFailure(error: unknown): { reason: string; reached: boolean; untrusted?: boolean } {
  if (!(error instanceof Error)) return { reason: String(error), reached: false };
  if (error.name === 'TimeoutError') return { reason: 'no answer in time', reached: true };
  const cause = error.cause instanceof Error ? error.cause : error;
  const code = 'code' in cause ? String(cause.code) : '';
  const known: Record<string, string> = {
    ECONNREFUSED: 'the connection was refused; nothing listens there',
    ENOTFOUND: 'the host name is not known',
    EAI_AGAIN: 'the host name could not be looked up',
    EHOSTUNREACH: 'the host cannot be reached',
    ENETUNREACH: 'the network cannot be reached',
    UND_ERR_CONNECT_TIMEOUT: 'the connection was not made in time',
  };
  const words = known[code];
  if (words !== undefined) return { reason: words, reached: false };
  return {
    reason: cause.message || code || 'the connection broke',
    untrusted: UNTRUSTED.has(code),
    reached: code === 'UND_ERR_SOCKET' || code === 'ECONNRESET',
  };
}

function parseProblem(text: string): Problem | undefined {
  try {
    const value = JSON.parse(text) as Partial<Problem> | null;
    const whole =
      typeof value?.code === 'string' && typeof value.status === 'number' && typeof value.title === 'string';
    return whole ? ({ detail: '', ...value } as Problem) : undefined;
  } catch {
    return undefined;
  }
}

function checkServer(server: string): string {
  const remedy = `Write it like ${DEFAULT_SERVER}.`;
  if (!URL.canParse(server)) throw badInput(`"${server}" is no address of a controller.`, remedy);
  const url = new URL(server);
  if (url.protocol !== 'http:' && url.protocol !== 'https:')
    throw badInput(`"${server}" is neither http nor https.`, remedy);
  if (url.username !== '' || url.password !== '') {
    throw badInput('The address of the controller must not carry a password.', 'Give the token in KWFLEET_TOKEN.');
  }
  return `${url.origin}${url.pathname}`.replace(/\/+$/, '');
}
