/** Approval policies, what waits for approval, and who approved what. What it means is said by core/approval.ts. */
import {
  type Approval,
  type ApprovalPolicy,
  type ApprovalView,
  FleetError,
  objection,
  type Page,
  personOf,
  type Requirement,
  type Standing,
  standing,
} from '@kwfleet/core';
import type { Sql } from './database.ts';
import { databaseNow } from './nodes.ts';
import { CHANNELS } from './notices.ts';
import { type PageRequest, pageOf, positionOf, rowsFor } from './page.ts';

export async function allPolicies(sql: Sql): Promise<ApprovalPolicy[]> {
  const rows = await sql.query<{ policy: ApprovalPolicy }>('SELECT policy FROM approval_policies ORDER BY name');
  return rows.map(({ policy }) => policy);
}

export async function putPolicy(sql: Sql, policy: ApprovalPolicy, by: string): Promise<void> {
  await sql.execute(
    `INSERT INTO approval_policies (name, policy, changed_at_ms, changed_by) VALUES ($1, $2, now_ms(), $3)
     ON CONFLICT (name) DO UPDATE SET policy = excluded.policy, changed_at_ms = now_ms(), changed_by = excluded.changed_by`,
    [policy.name, JSON.stringify(policy), by],
  );
}

/** Whether there was such a policy. */
export async function deletePolicy(sql: Sql, name: string): Promise<boolean> {
  return (await sql.execute('DELETE FROM approval_policies WHERE name = $1', [name])) > 0;
}

export type NewRequest = {
  /** Unique: `run:ID`, `rollout:ID`, `rollout:ID/wave:NAME`, ... */
  readonly subject: string;
  /** Where it is a run that waits: the request ends with it. */
  readonly run?: string | undefined;
  /** What is asked for, in one line. */
  readonly title: string;
  /** SHA-256 of what is to be approved. */
  readonly hash: string;
  readonly requirement: Requirement;
  /** The actor who asked for the thing. */
  readonly by: string;
};

/** Asks for approval. Asked again for the same subject with another hash, what was approved before no longer counts. */
export async function requestApproval(sql: Sql, request: NewRequest): Promise<void> {
  const { subject, run = null, title, hash, requirement, by } = request;
  await sql.execute(
    `INSERT INTO approval_requests (subject, run, title, hash, requirement, requester, requested_at_ms)
     VALUES ($1, $2, $3, $4, $5, $6, now_ms())
     ON CONFLICT (subject) DO UPDATE SET title = excluded.title, hash = excluded.hash,
       requirement = excluded.requirement, requester = excluded.requester, requested_at_ms = excluded.requested_at_ms,
       closed_at_ms = NULL`,
    [subject, run, title, hash, JSON.stringify(requirement), personOf(by)],
  );
}

/** The thing is no longer wanted, or is over: its request is not open any more. */
export async function closeRequest(sql: Sql, subject: string): Promise<void> {
  await sql.execute(
    'UPDATE approval_requests SET closed_at_ms = now_ms() WHERE subject = $1 AND closed_at_ms IS NULL',
    [subject],
  );
}

/** What was granted is valid from its last approval on, for as long as the policy says. */
export type ApprovalStanding = Standing & { readonly request: RequestRow; readonly approvals: readonly ApprovalRow[] };

export type RequestRow = {
  readonly subject: string;
  readonly run: string | null;
  readonly title: string;
  readonly hash: string;
  readonly requirement: Requirement;
  readonly requester: string;
  readonly requestedAtMs: number;
  readonly closedAtMs: number | null;
};
export type ApprovalRow = Approval & { readonly subject: string; readonly comment: string | null };

const REQUEST = `subject, run, title, hash, requirement, requester, requested_at_ms AS "requestedAtMs",
  closed_at_ms AS "closedAtMs"`;

/** How a request stands now; undefined when nothing of this name was asked for. */
export async function standingOf(sql: Sql, subject: string): Promise<ApprovalStanding | undefined> {
  const [request] = await sql.query<RequestRow>(`SELECT ${REQUEST} FROM approval_requests WHERE subject = $1`, [
    subject,
  ]);
  if (request === undefined) return undefined;
  const approvals = await approvalsOf(sql, [subject]);
  return { ...standing(request, approvals, await databaseNow(sql)), request, approvals };
}

const approvalsOf = (sql: Sql, subjects: readonly string[]): Promise<ApprovalRow[]> =>
  sql.query<ApprovalRow>(
    `SELECT subject, person, hash, comment, at_ms AS "atMs" FROM approvals WHERE subject = ANY ($1) ORDER BY at_ms, person`,
    [subjects],
  );

/**
 * Records one person's approval of exactly this, and says how the request stands with it. Call it in a transaction.
 * Throws APPROVAL_REFUSED when it would not count, or nothing of this name waits.
 */
export async function recordApproval(
  sql: Sql,
  given: { subject: string; hash: string; actor: string; comment?: string | undefined },
): Promise<ApprovalStanding> {
  const { subject, hash, actor, comment = null } = given;
  // Two at once are counted one after the other.
  await sql.execute('SELECT 1 FROM approval_requests WHERE subject = $1 FOR UPDATE', [subject]);
  const before = await standingOf(sql, subject);
  if (before === undefined || before.request.closedAtMs !== null) {
    throw new FleetError('APPROVAL_REFUSED', `${subject} does not wait for an approval`);
  }
  const candidate: Approval = { person: personOf(actor), hash, atMs: await databaseNow(sql) };
  const why = objection(before.request, before.approvals, candidate);
  if (why !== undefined) throw new FleetError('APPROVAL_REFUSED', `this approval would not count: ${why}`);
  await sql.execute(
    'INSERT INTO approvals (subject, person, hash, actor, comment, at_ms) VALUES ($1, $2, $3, $4, $5, $6)',
    [subject, candidate.person, hash, actor, comment, candidate.atMs],
  );
  // Whoever waits for it looks again.
  await sql.execute('SELECT pg_notify($1, $2)', [CHANNELS.run, before.request.run ?? '']);
  const approvals = [...before.approvals, { ...candidate, subject, comment }];
  return { ...standing(before.request, approvals, candidate.atMs), request: before.request, approvals };
}

/** Newest first; with `open`, only those that wait: not closed, not of an ended run, not granted. */
export async function listApprovals(sql: Sql, request: PageRequest & { open: boolean }): Promise<Page<ApprovalView>> {
  const rows = await sql.query<RequestRow>(
    `SELECT ${REQUEST} FROM approval_requests
     WHERE (requested_at_ms, subject) < ($1, $2) AND (NOT $4 OR (closed_at_ms IS NULL AND NOT EXISTS (
       SELECT 1 FROM runs WHERE runs.id = run AND status IN ('succeeded', 'failed', 'aborted'))))
     ORDER BY requested_at_ms DESC, subject DESC LIMIT $3`,
    [...positionOf(request.cursor), rowsFor(request), request.open],
  );
  const approvals = Map.groupBy(
    await approvalsOf(
      sql,
      rows.map(({ subject }) => subject),
    ),
    ({ subject }) => subject,
  );
  const nowMs = await databaseNow(sql);
  const page = pageOf(
    rows,
    request,
    (row) => [row.requestedAtMs, row.subject],
    (row) => viewOf(row, approvals.get(row.subject) ?? [], nowMs),
  );
  return request.open ? { ...page, items: page.items.filter(({ missing }) => missing > 0) } : page;
}

/** What a run had to be approved for, and by whom it was. */
export async function approvalsOfRun(sql: Sql, run: string): Promise<ApprovalView[]> {
  const rows = await sql.query<RequestRow>(`SELECT ${REQUEST} FROM approval_requests WHERE run = $1 ORDER BY subject`, [
    run,
  ]);
  const subjects = rows.map(({ subject }) => subject);
  const approvals = await approvalsOf(sql, subjects);
  const nowMs = await databaseNow(sql);
  return rows.map((row) =>
    viewOf(
      row,
      approvals.filter(({ subject }) => subject === row.subject),
      nowMs,
    ),
  );
}

/** What was to be approved of a thing: of itself, and of its parts (`rollout:ID`, `rollout:ID/wave:NAME`). */
export async function approvalsUnder(sql: Sql, subject: string): Promise<ApprovalView[]> {
  const rows = await sql.query<RequestRow>(
    `SELECT ${REQUEST} FROM approval_requests WHERE subject = $1 OR starts_with(subject, $1 || '/') ORDER BY subject LIMIT 200`,
    [subject],
  );
  const approvals = await approvalsOf(
    sql,
    rows.map((row) => row.subject),
  );
  const nowMs = await databaseNow(sql);
  return rows.map((row) =>
    viewOf(
      row,
      approvals.filter((one) => one.subject === row.subject),
      nowMs,
    ),
  );
}

function viewOf(row: RequestRow, approvals: readonly ApprovalRow[], nowMs: number): ApprovalView {
  const { subject, run, title, hash, requirement, requester, requestedAtMs } = row;
  const { missing, counted } = standing(row, approvals, nowMs);
  return {
    subject,
    ...(run !== null && { run }),
    title,
    hash,
    requirement,
    requester,
    requestedAtMs,
    approvals: approvals.map(({ person, atMs, comment, hash: of }) => ({
      person,
      atMs,
      counts: counted.some((one) => one.person === person && one.atMs === atMs && of === hash),
      ...(comment !== null && { comment }),
    })),
    missing,
  };
}
