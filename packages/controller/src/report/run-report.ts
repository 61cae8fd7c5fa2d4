/** What a report of a run says, gathered in one transaction: every renderer writes the same. */
import {
  type ActionResult,
  type ApprovalView,
  backupWords,
  type CheckResult,
  type ClientView,
  chainedRecord,
  type DeliveryView,
  flawOfHistory,
  type Hold,
  type Installation,
  type NodeState,
  type Phase,
  type Plan,
  type ReportedHistory,
  type RunEvent,
  type RunSummary,
} from '@kwfleet/core';
import { needRun, runSummary } from '../api/runs.ts';
import { tableRows } from '../api/transfer-report.ts';
import { approvalsOfRun } from '../store/approvals.ts';
import { clientViewsOf } from '../store/client-views.ts';
import type { Sql } from '../store/database.ts';
import { healthAt } from '../store/health.ts';
import { databaseNow } from '../store/nodes.ts';
import { deliveriesOfRun } from '../store/notifications.ts';
import { findPlan } from '../store/plans.ts';
import { eventsAfter, type RunEventRow, type RunRow } from '../store/runs.ts';

/** One attempt of one step. Times of the attempt are the controller's; those of its phases the host's own. */
export type Work = {
  readonly step: string;
  readonly title: string;
  readonly kind: string;
  readonly node: string;
  readonly executor: string;
  readonly attempt: number;
  readonly fromMs: number;
  readonly toMs?: number;
  readonly outcome?: 'succeeded' | 'failed' | 'reset';
  readonly detail: string;
  readonly phases: readonly { readonly phase: Phase; readonly startedAtMs: number; readonly endedAtMs: number }[];
};

export type NodeAccount = {
  readonly node: string;
  readonly kwdbId: number;
  readonly address: string;
  readonly before: { readonly version: string; readonly health?: NodeState };
  /** As its own agent reported last within the run; absent when it never did. */
  readonly after?: {
    readonly versions: Partial<Installation['versions']>;
    readonly serving: boolean;
    readonly ready: boolean;
    readonly atMs: number;
  };
  readonly healthAfter?: NodeState;
};

export type HeldSpan = Pick<Hold, 'code' | 'message' | 'node' | 'words'> & {
  readonly fromMs: number;
  readonly toMs?: number;
};

export type RunReport = {
  readonly format: 1;
  readonly kind: 'run';
  readonly madeAtMs: number;
  readonly run: RunSummary;
  readonly plan: Plan;
  readonly checks: readonly CheckResult[];
  readonly people: {
    readonly requestedBy: string;
    readonly approvals: readonly ApprovalView[];
    /** What people told the run to do. */
    readonly asked: readonly { readonly by: string; readonly what: string; readonly atMs: number }[];
  };
  readonly nodes: readonly NodeAccount[];
  readonly work: readonly Work[];
  readonly holds: readonly HeldSpan[];
  /** None: nobody recorded what clients felt. */
  readonly clients: readonly ClientView[];
  /** What was chosen as a backup, and what came of it on each host, in words. */
  readonly backup: readonly string[];
  /** Of a transfer: a row a table, under TABLE_HEAD. */
  readonly tables: readonly (readonly string[])[];
  readonly notifications: readonly DeliveryView[];
  readonly history: ReportedHistory & {
    readonly intact: boolean;
    readonly flaw?: string;
    /** How to follow the chain. */
    readonly rule: string;
  };
};

export const CHAIN_RULE =
  'hash = SHA-256(previous hash + "\\n" + RFC 8785 JSON of {run or rollout: id, seq, atMs, event}), in hexadecimal; the first previous hash is empty';

export async function makeRunReport(sql: Sql, id: string): Promise<RunReport> {
  const row = await needRun(sql, id);
  const events = await eventsAfter(sql, id, 0, Number.MAX_SAFE_INTEGER);
  const nowMs = await databaseNow(sql);
  const { endedAtMs = nowMs } = row.state;
  const [before, after] = [await healthOf(sql, row, row.createdAtMs), await healthOf(sql, row, endedAtMs)];
  const history: ReportedHistory = {
    kind: 'run',
    id,
    head: row.eventHash,
    events: events.map(({ seq, atMs, event, prevHash, hash }) => ({
      ...chainedRecord(id)({ seq, atMs, event }),
      prevHash,
      hash,
    })),
  };
  const flaw = flawOfHistory(history);
  return {
    format: 1,
    kind: 'run',
    madeAtMs: nowMs,
    run: runSummary(row),
    plan: row.plan,
    checks: (await findPlan(sql, row.planId))?.checks ?? [],
    people: { requestedBy: row.createdBy, approvals: await approvalsOfRun(sql, id), asked: askedOf(events) },
    nodes: row.plan.nodes.map(({ node, kwdbId, address, from }) => {
      const [was, is] = [before.get(node), after.get(node)];
      const last = lastReport(events, node);
      return {
        node,
        kwdbId,
        address,
        before: { version: from, ...(was && { health: was }) },
        ...(last && { after: last }),
        ...(is && { healthAfter: is }),
      };
    }),
    work: workOf(events, row.plan),
    holds: holdsOf(events),
    clients: await clientViewsOf(sql, id),
    backup: backupOf(events, row.plan),
    tables: tableRows({ plan: row.plan, steps: row.state.steps }),
    notifications: await deliveriesOfRun(sql, id),
    history: { ...history, intact: flaw === undefined, ...(flaw !== undefined && { flaw }), rule: CHAIN_RULE },
  };
}

const healthOf = (sql: Sql, { plan }: RunRow, atMs: number): Promise<Map<string, NodeState>> =>
  healthAt(
    sql,
    plan.nodes.map(({ node }) => node),
    atMs,
  );

type Rows = readonly RunEventRow[];

function askedOf(events: Rows) {
  return events.flatMap(({ event }) => {
    if (event.type === 'approval-given') {
      const what = event.scope === 'start' ? 'approved the start' : 'approved what cannot be undone';
      return [{ by: event.person, what, atMs: event.atMs }];
    }
    if (!('by' in event) || event.by === 'engine') return [];
    return [{ by: event.by, what: WORDS[event.type], atMs: event.atMs }];
  });
}

const WORDS: Record<Extract<RunEvent, { by: string }>['type'], string> = {
  'pause-requested': 'asked to pause',
  'run-paused': 'paused',
  'run-resumed': 'resumed',
  'retry-requested': 'asked to try again',
  'abort-requested': 'asked to abort',
};

function lastReport(events: Rows, node: string): NodeAccount['after'] {
  const ofNode = (event: RunEvent): event is RunEvent & { type: 'step-ended' } =>
    event.type === 'step-ended' && executorOf(events, event) === node;
  const last = events.map(({ event }) => event).findLast(ofNode);
  const { installation, serving, ready } = last?.result.report ?? {};
  if (last === undefined || serving === undefined || ready === undefined) return undefined;
  return { versions: installation?.versions ?? {}, serving, ready, atMs: last.atMs };
}

/** A result is of the node that carried the step out. */
function executorOf(events: Rows, ended: RunEvent & { type: 'step-ended' }): string | undefined {
  const dispatched = events.find(
    ({ event }) => event.type === 'step-dispatched' && event.step === ended.step && event.attempt === ended.attempt,
  )?.event;
  return dispatched?.type === 'step-dispatched' ? dispatched.executor : undefined;
}

function workOf(events: Rows, plan: Plan): Work[] {
  const steps = new Map([...plan.steps, ...plan.backOut].map((step) => [step.id, step]));
  const work = new Map<string, Work>();
  for (const { event } of events) {
    if (event.type === 'step-dispatched') {
      const step = steps.get(event.step);
      const { kind = 'step', node = event.executor, title = event.step } = step ?? {};
      const { executor, attempt, atMs: fromMs } = event;
      work.set(event.step + attempt, {
        step: event.step,
        title,
        kind,
        node,
        executor,
        attempt,
        fromMs,
        detail: '',
        phases: [],
      });
    }
    if (event.type === 'step-ended') {
      end(
        work,
        event.step + event.attempt,
        event.atMs,
        event.result.outcome,
        resultWords(event.result),
        event.result.phases,
      );
    }
    if (event.type === 'step-reset') {
      const open = [...work].findLast(([, one]) => one.step === event.step && one.toMs === undefined);
      if (open !== undefined) end(work, open[0], event.atMs, 'reset', event.why, []);
    }
  }
  return [...work.values()];
}

function end(
  work: Map<string, Work>,
  key: string,
  toMs: number,
  outcome: NonNullable<Work['outcome']>,
  detail: string,
  phases: Work['phases'],
): void {
  const one = work.get(key);
  if (one !== undefined) work.set(key, { ...one, toMs, outcome, detail, phases });
}

function resultWords({ outcome, failure, disposition }: ActionResult): string {
  if (outcome === 'succeeded') return '';
  return `${failure?.code ?? 'no code'}: ${failure?.message ?? 'no reason'}; node ${disposition}`;
}

/** From each hold to whatever ended it: a retry, a change of its own, or the end of the run. */
function holdsOf(events: Rows): HeldSpan[] {
  const spans: HeldSpan[] = [];
  const ENDS: ReadonlySet<string> = new Set([
    'run-held',
    'hold-cleared',
    'run-resumed',
    'retry-requested',
    'abort-requested',
    'run-ended',
  ]);
  for (const { event } of events) {
    const last = spans.at(-1);
    if (last !== undefined && last.toMs === undefined && ENDS.has(event.type)) {
      spans[spans.length - 1] = { ...last, toMs: event.atMs };
    }
    if (event.type === 'run-held') {
      const { code, message, node, words } = event.hold;
      spans.push({ code, message, fromMs: event.atMs, ...(node && { node }), ...(words && { words }) });
    }
  }
  return spans;
}

/** What was chosen, and what came of it on each host. */
function backupOf(events: Rows, { restore, options }: Plan): string[] {
  if (restore !== undefined) return [`${restore.backup} was put back; what it replaced: ${restore.replaced}`];
  const made = events.flatMap(({ event }) => {
    if (event.type !== 'step-ended' || event.result.backup === undefined) return [];
    const { backup, report } = event.result;
    const { place, files, sizeBytes, manifestSha256 } = backup;
    return `${report.host.hostname}: ${place}, ${files} files, ${sizeBytes} bytes, manifest SHA-256 ${manifestSha256}`;
  });
  return [backupWords(options.backup), ...made];
}
