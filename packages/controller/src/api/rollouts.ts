/** `/v1/rollouts`: upgrades of many clusters, in waves. */
import {
  FleetError,
  initialRollout,
  nextStart,
  page,
  RolloutApproval,
  RolloutChecks,
  type RolloutEvent,
  RolloutEventView,
  type RolloutFile,
  RolloutSummary,
  RolloutView,
  readRollout,
  rolloutChoices,
  WrittenFile,
} from '@kwfleet/core';
import Type from 'typebox';
import { checkFleet, refuseUnknownNames } from '../rollouts/check-fleet.ts';
import { closeApprovals, comeAgain } from '../rollouts/turn.ts';
import { recordApproval } from '../store/approvals.ts';
import { audit } from '../store/audit.ts';
import type { Sql } from '../store/database.ts';
import { newId } from '../store/ids.ts';
import { databaseNow } from '../store/nodes.ts';
import {
  checksOf,
  commitRollout,
  insertRollout,
  listRollouts,
  needRollout,
  type RolloutRow,
  rolloutEvents,
  subjectOf,
} from '../store/rollouts.ts';
import { insertInput } from '../store/runs.ts';
import { type Api, type ApiParts, IdParams, PageQuery } from './api.ts';
import { BadFile, valueOrRefuse } from './problems.ts';
import { rolloutSummary, rolloutView } from './rollout-view.ts';
import { describeRolloutEvent } from './rollout-words.ts';

const tags = ['rollouts'];
const EVENTS_MAX = 1_000;

export function rolloutRoutes(app: Api, parts: ApiParts): void {
  const { database } = parts;

  app.post(
    '/v1/rollouts',
    {
      schema: {
        tags,
        description:
          'Makes a rollout from a YAML or JSON file (docs/rollouts.md). It begins at once or at its start: its clusters are ' +
          'chosen and checked then, and nothing is touched before the checks, the approvals and the windows allow it.',
        body: WrittenFile,
        response: { 201: RolloutView },
      },
    },
    async ({ body, actor }, reply) => {
      const spec = valueOrRefuse(readRollout(body.file));
      const id = await database.transaction((sql) => createRollout(sql, body.file, spec, actor));
      return reply.code(201).send(await database.transaction((sql) => rolloutView(sql, id), 'REPEATABLE READ'));
    },
  );

  app.post(
    '/v1/rollouts/check',
    {
      schema: {
        tags,
        description:
          'What a rollout of this file would be about now, and what the checks of each cluster say. Touches nothing.',
        body: WrittenFile,
        response: { 200: Type.Object({ items: Type.Array(RolloutChecks) }) },
      },
    },
    async ({ body }) => {
      const spec = valueOrRefuse(readRollout(body.file));
      const { rows } = await database.transaction(async (sql) => {
        await refuseUnknownNames(sql, spec);
        return checkFleet(sql, spec);
      }, 'REPEATABLE READ');
      return { items: rows.map((row) => ({ ...row, checks: [...row.checks] })) };
    },
  );

  app.get(
    '/v1/rollouts',
    { schema: { tags, querystring: PageQuery, response: { 200: page(RolloutSummary) } } },
    async ({ query }) => {
      const { items, ...rest } = await listRollouts(database, query);
      return { items: items.map(rolloutSummary), ...rest };
    },
  );

  app.get(
    '/v1/rollouts/:id',
    { schema: { tags, params: IdParams, response: { 200: RolloutView } } },
    async ({ params }) => database.transaction((sql) => rolloutView(sql, params.id), 'REPEATABLE READ'),
  );

  app.get(
    '/v1/rollouts/:id/checks',
    { schema: { tags, params: IdParams, response: { 200: Type.Object({ items: Type.Array(RolloutChecks) }) } } },
    async ({ params }) => {
      const { id } = await needRollout(database, params.id);
      return { items: (await checksOf(database, id)).map((row) => ({ ...row, checks: [...row.checks] })) };
    },
  );

  app.get(
    '/v1/rollouts/:id/events',
    {
      schema: {
        tags,
        description: `Its history, up to ${EVENTS_MAX} events after the one of this number.`,
        params: IdParams,
        querystring: Type.Object({ after: Type.Optional(Type.Integer({ minimum: 0, default: 0 })) }),
        response: { 200: Type.Object({ items: Type.Array(RolloutEventView) }) },
      },
    },
    async ({ params, query }) => {
      const { id, state } = await needRollout(database, params.id);
      const rows = await rolloutEvents(database, id, query.after ?? 0, EVENTS_MAX);
      return {
        items: rows.map(({ seq, atMs, event }) => ({
          seq,
          atMs,
          type: event.type,
          message: describeRolloutEvent(event, state),
          event,
        })),
      };
    },
  );

  steering(app, parts);
}

function steering(app: Api, { database }: ApiParts): void {
  const descriptions = {
    pause: 'Begins no further cluster; those that are under way come to their end.',
    resume: 'Goes on. What has failed so far is not counted against the budget again.',
    abort: 'Begins no further cluster, and ends runs that have touched nothing yet; the others come to their end.',
  };
  for (const request of ['pause', 'resume', 'abort'] as const) {
    app.post(
      `/v1/rollouts/:id/${request}`,
      {
        schema: {
          tags,
          description: descriptions[request],
          params: IdParams,
          body: Type.Optional(Type.Union([Type.Object({}, { additionalProperties: false }), Type.Null()])),
          response: { 200: RolloutSummary },
        },
      },
      async ({ params, actor }) =>
        rolloutSummary(await database.transaction((sql) => askOfRollout(sql, params.id, request, actor))),
    );
  }

  app.post(
    '/v1/rollouts/:id/approve',
    {
      config: { access: 'approver' },
      schema: {
        tags,
        description: 'Agrees to what the rollout waits for. The hash is of the rollout that was looked at.',
        params: IdParams,
        body: RolloutApproval,
        response: { 200: RolloutView },
      },
    },
    async ({ params, body, actor }) => {
      await database.transaction(async (sql) => {
        const { id, state } = await needRollout(sql, params.id);
        const scope = body.scope ?? state.asked.find((asked) => !state.approved.includes(asked));
        if (scope === undefined || !rolloutChoices(state).includes('approve')) {
          throw new FleetError('ROLLOUT_CHOICE_ILLEGAL', `rollout ${id} is ${state.status}: it waits for no approval`);
        }
        const { hash, comment } = body;
        const { missing } = await recordApproval(sql, { subject: subjectOf(id, scope), hash, actor, comment });
        await audit(sql, actor, 'rollout.approve', { rollout: id, scope, hash, missing, ...(comment && { comment }) });
      });
      return database.transaction((sql) => rolloutView(sql, params.id), 'REPEATABLE READ');
    },
  );
}

/** Throws WINDOW_UNKNOWN, APPROVAL_POLICY_UNKNOWN, or FILE_INVALID for a start that is past. */
async function createRollout(sql: Sql, file: string, spec: RolloutFile, actor: string): Promise<string> {
  await refuseUnknownNames(sql, spec);
  const nowMs = await databaseNow(sql);
  const startAtMs = spec.start && nextStart(spec.start, nowMs);
  if (spec.start !== undefined && (startAtMs === undefined || startAtMs < nowMs)) {
    throw new BadFile([{ line: 1, column: 1, path: 'start', message: 'expected a start that is still to come' }]);
  }
  const id = newId('rollout', nowMs);
  await insertRollout(sql, { id, file, spec, state: initialRollout(id, startAtMs), by: actor });
  await audit(sql, actor, 'rollout.create', { rollout: id, name: spec.name, to: spec.to });
  return id;
}

/** Throws ROLLOUT_UNKNOWN, or ROLLOUT_CHOICE_ILLEGAL as it stands. */
async function askOfRollout(
  sql: Sql,
  id: string,
  request: 'pause' | 'resume' | 'abort',
  by: string,
): Promise<RolloutRow> {
  const row = await lockedRollout(sql, id);
  const choices = rolloutChoices(row.state);
  if (!choices.includes(request)) {
    const legal = choices.length === 0 ? 'nothing' : choices.join(', ');
    throw new FleetError(
      'ROLLOUT_CHOICE_ILLEGAL',
      `rollout ${id} is ${row.state.status}: ${legal} can be asked, not ${request}`,
    );
  }
  const atMs = await databaseNow(sql);
  const events: Record<typeof request, RolloutEvent> = {
    pause: { type: 'rollout-paused', code: 'PAUSED_BY_OPERATOR', message: `${by} paused it`, by, atMs },
    resume: { type: 'rollout-resumed', by, atMs },
    abort: { type: 'abort-requested', by, atMs },
  };
  const written = await commitRollout(sql, row, [events[request]]);
  if (written === undefined) throw new FleetError('UNAVAILABLE', `rollout ${id} was changed at this very moment`);
  if (request === 'abort') {
    if (row.state.status === 'scheduled') await comeAgain(sql, row);
    await closeApprovals(sql, row);
    await abortUnbegun(sql, id, by);
  }
  await audit(sql, by, `rollout.${request}`, { rollout: id });
  return written;
}

async function lockedRollout(sql: Sql, id: string): Promise<RolloutRow> {
  await sql.query('SELECT 1 FROM rollouts WHERE id = $1 FOR UPDATE', [id]);
  return needRollout(sql, id);
}

/** Runs that wait for their window or approval have touched nothing: they end. */
async function abortUnbegun(sql: Sql, id: string, by: string): Promise<void> {
  const runs = await sql.query<{ id: string }>(
    `SELECT id FROM runs WHERE rollout = $1 AND status IN ('planned', 'awaiting_approval', 'scheduled')`,
    [id],
  );
  for (const run of runs) await insertInput(sql, run.id, { type: 'request', body: { request: 'abort', by } });
}
